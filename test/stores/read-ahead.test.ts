/** Reading ahead on a real disk: what was asked for ahead is in the page cache afterwards, and bounded while it comes. */
import { mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import {
  asNodeId,
  limits,
  nodeFileSystem,
  silentLogger,
  systemClock,
  systemRandom,
  systemTimers,
} from '../../src/base/index.ts';
import { fromLibc } from '../../src/base/libc.ts';
import {
  createVolume,
  type HlfsContext,
  openDocuments,
  openProcessScope,
  openVolume,
  type SegmentStore,
  segmentKey,
} from '../../src/hlfs/index.ts';
import { listSegments } from '../../src/hlfs/segments.ts';
import type { FileCache } from '../../src/stores/file-cache.ts';
import { type LocalStore, openLocalStore } from '../../src/stores/index.ts';
import { FileReadAhead } from '../../src/stores/read-ahead.ts';
import { Disk, Process } from '../support/engine-rig.ts';

const key = 'logs/a/seg/0/1';
const root = mkdtempSync(join(tmpdir(), 'dvce-read-ahead-'));
t.teardown(() => rmSync(root, { recursive: true, force: true }));

/** The local store can do both. */
type Store = LocalStore & Required<Pick<SegmentStore, 'readNow' | 'readAhead'>>;
const openStore = (name: string): Promise<Store> =>
  openLocalStore({
    root: `${root}/${name}`,
    files: nodeFileSystem,
    random: systemRandom,
    create: true,
  }) as Promise<Store>;

/** posix_fadvise(DONTNEED): the kernel lets go of what is clean. */
const fadvise = fromLibc((func) =>
  func('int posix_fadvise(int fd, int64_t offset, int64_t length, int advice)'),
);
function dropFromMemory(path: string): void {
  const dontNeed = 4;
  const fd = openSync(path, 'r');
  fadvise?.(fd, 0, 0, dontNeed);
}

/** A system that keeps it all the same has nothing to show here. */
async function isDropped(t: Test, store: Store, at: number): Promise<boolean> {
  if (fadvise !== null && !store.readNow(key, at, Buffer.alloc(4096))) return true;
  t.comment('this system does not let go of what is in memory');
  return false;
}

t.test('what was read ahead is at hand', async (t) => {
  const store = await openStore('plain');
  await store.createScope('scopes/a');
  const content = systemRandom.bytes(8 << 20);
  await store.putIfAbsent('scopes/a', key, [content]);
  dropFromMemory(`${root}/plain/${key}`);
  if (await isDropped(t, store, 7 << 20)) {
    const target = Buffer.alloc(4096);
    await store.readAhead(key, 6 << 20, limits.readAheadPieceBytes);
    for (let at = 6 << 20; at < 7 << 20; at += 65_536) {
      t.ok(store.readNow(key, at, target), `${at} is at hand`);
      t.ok(target.equals(content.subarray(at, at + 4096)));
    }
  }
  await store.close();
  await store.readAhead(key, 0, 4096); // of a closed store: nobody's error
});

t.test('N5 hints beyond the bound are dropped, and taken again when there is room', async (t) => {
  const held: (() => void)[] = [];
  const read: FileCache['read'] = (_key, _offset, _target, done) => held.push(() => done(null));
  const ahead = new FileReadAhead({ read } as FileCache); // all that it uses
  const ask = (): Promise<void> | undefined => ahead.read(key, 0, 4096);
  const taken = Array.from({ length: 20 }, ask).filter((each) => each !== undefined);
  t.equal(taken.length, limits.readAheadsPerStore);
  held.shift()?.();
  await taken[0];
  t.ok(ask() !== undefined);
  t.equal(ask(), undefined);
  t.equal(ahead.read(key, 0, limits.readAheadPieceBytes + 1), undefined, 'too long a piece');
});

t.test('a guest that reads a cold volume from its beginning is read ahead of', async (t) => {
  const store = await openStore('volume');
  const documents = openDocuments(store);
  const node = asNodeId('11111111-1111-4111-8111-111111111111');
  const context: HlfsContext = {
    ...{ store, documents, node, files: nodeFileSystem, logger: silentLogger },
    ...{ clock: systemClock, timers: systemTimers, random: systemRandom },
    scope: await openProcessScope(store, documents, node, systemRandom),
    journalDirectory: root,
  };
  const { id } = await createVolume(context, '/a', { sizeBytes: 16 << 20, journalBytes: 64 << 20 });
  let disk = new Disk(await openVolume(context, id), new Process());
  const content = systemRandom.bytes(16 << 20);
  for (let at = 0; at < content.byteLength; at += 1 << 20)
    await disk.write(at, content.subarray(at, at + (1 << 20)));
  const { log } = disk.volume;
  await disk.close();
  const keys = (await listSegments(store, log)).map((number) => segmentKey(log, number));
  for (const each of keys) dropFromMemory(`${root}/volume/${each}`);
  const isCold = !keys.some((each) => store.readNow(each, 4 << 20, Buffer.alloc(4096)));
  disk = new Disk(await openVolume(context, id), new Process());
  const step = 65_536;
  for (let at = 0; at < content.byteLength; at += step)
    t.ok((await disk.read(at, step)).equals(content.subarray(at, at + step)));
  const { ahead, pageCache, store: waited } = disk.volume.statistics().readBlocks;
  t.equal(pageCache + waited, content.byteLength / 4096, 'each block was read once');
  if (isCold) t.ok(ahead > 0, 'some of it before it was asked for');
  t.comment(`${ahead} blocks ahead, ${pageCache} at hand, ${waited} waited for`);
  await disk.close();
  await store.close();
});
