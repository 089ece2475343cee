/** G4, DD-0018: a clone takes over what it was cloned from; with real volumes. Crashes and races: catalog-crash, catalog-race-promote. */
// limit: 60 s
import assert from 'node:assert/strict';
import t, { type Test } from 'tap';
import type { VolumeId } from '../../src/base/index.ts';
import {
  checkVolume,
  cloneVolume,
  closedVolumeSpace,
  deleteSnapshot,
  deleteVolume,
  findSnapshot,
  getVolume,
  listSnapshots,
  openSnapshot,
  pinSnapshot,
  planPromotion,
  promoteVolume,
  publishImage,
  readEnd,
  readHead,
  readRanges,
  reap,
  reclaimLog,
  requireHead,
  rollbackVolume,
  segmentKey,
  updateVolume,
  type VolumeSpace,
} from '../../src/hlfs/index.ts';
import { listSegments } from '../../src/hlfs/segments.ts';
import { openMemoryStore } from '../../src/stores/index.ts';
import { bytesFrom, type Disk, Reader, Rig } from '../support/engine-rig.ts';

const block = 4096;
const sizeBytes = 1 << 20;
const journalBytes = 2 << 20;
const quiet = { signal: new AbortController().signal, onProgress: () => {} };
const unused = (): undefined => undefined;

async function rigFor(test: Test): Promise<Rig> {
  const rig = await Rig.make({ store: openMemoryStore() });
  test.teardown(() => rig.end());
  return rig;
}

const promote = async ({ context }: Rig, path: string, inUse = unused) =>
  promoteVolume(context, await getVolume(context, path), { readRanges, readEnd }, inUse);

async function clone({ context }: Rig, from: string, name: string, to: string): Promise<VolumeId> {
  const source = await getVolume(context, from);
  const { value } = await findSnapshot(context, source.id, name);
  return (await cloneVolume(context, source, value, to, { journalBytes }, readRanges)).id;
}

const namesOf = async ({ context }: Rig, id: VolumeId): Promise<string> =>
  (await listSnapshots(context, id)).map(({ document }) => document.name).join();

async function contentOf(rig: Rig, id: VolumeId, name: string): Promise<Buffer> {
  const { value } = await findSnapshot(rig.context, id, name);
  return new Reader(await openSnapshot(rig.context, value, 4096)).read(0, sizeBytes);
}

/** /p with snapshots a, b, c and more behind it; /c cloned from b and written on. */
class Tree {
  readonly rig: Rig;
  readonly seen = new Map<string, Buffer>();
  parent!: VolumeId; // set by `make`, like the other one
  clone!: VolumeId;

  constructor(rig: Rig) {
    this.rig = rig;
  }

  static async make(rig: Rig): Promise<Tree> {
    const tree = new Tree(rig);
    tree.parent = await rig.create('/p', { sizeBytes, journalBytes });
    const disk = await rig.open(tree.parent);
    for (const name of ['a', 'b', 'c']) {
      await disk.write(rig.random.below(100) * block, bytesFrom(rig.random, 40 * block));
      await disk.snapshot(name);
      tree.seen.set(name, await disk.read(0, sizeBytes));
    }
    await disk.write(3 * block + 7, bytesFrom(rig.random, 20 * block));
    tree.seen.set('/p', await disk.read(0, sizeBytes));
    await disk.close();
    tree.clone = await clone(rig, '/p', 'b', '/c');
    await tree.writeClone(await rig.open(tree.clone));
    return tree;
  }

  async writeClone(disk: Disk): Promise<Disk> {
    await disk.write(60 * block, bytesFrom(this.rig.random, 9 * block));
    await disk.flush();
    this.seen.set('/c', await disk.read(0, sizeBytes));
    return disk;
  }

  is(name: string, found: Buffer): void {
    assert(this.seen.get(name)?.equals(found), `the content of ${name}`);
  }

  async snapshots(id: VolumeId, names: readonly string[]): Promise<void> {
    assert.equal(await namesOf(this.rig, id), names.join());
    for (const name of names) this.is(name, await contentOf(this.rig, id, name));
  }

  async check(...ids: readonly VolumeId[]): Promise<void> {
    for (const id of ids)
      assert.deepEqual((await checkVolume(this.rig.context, id, quiet)).findings, []);
  }

  /** Every byte of every segment is counted once. */
  async spaces(...ids: readonly VolumeId[]): Promise<VolumeSpace[]> {
    const { context, store } = this.rig;
    const spaces: VolumeSpace[] = [];
    let stored = 0;
    for (const id of ids) {
      const space = await closedVolumeSpace(context, id);
      assert(space !== null);
      spaces.push(space);
      const { logs } = (await requireHead(context, id)).value;
      for (const log of logs)
        for (const number of await listSegments(store, log))
          stored += (await store.stat(segmentKey(log, number)))?.lengthBytes ?? 0;
    }
    assert.equal(
      spaces.reduce((sum, { storedBytes }) => sum + storedBytes, 0),
      stored,
    );
    return spaces;
  }
}

t.test('G4 a clone that is open takes over its parent, which then can go', async (t) => {
  const rig = await rigFor(t);
  const tree = await Tree.make(rig);
  const { parent, clone: made } = tree;
  const record = await getVolume(rig.context, '/c');
  t.same(await planPromotion(rig.context, record), {
    parent,
    snapshot: 'b',
    snapshots: ['a', 'b'],
    parentMoves: true,
  });
  const reader = await pinSnapshot(rig.context, { id: parent, path: '/p' }, 'c', readRanges);
  const head = await promote(rig, '/c');
  t.equal(head.origin, null);
  t.match((await requireHead(rig.context, parent)).value.origin, { path: '/c', snapshot: 'b' });
  await tree.snapshots(made, ['a', 'b']);
  await tree.snapshots(parent, ['c']);
  await tree.check(made, parent);
  await reader.release();
  await t.rejects(deleteSnapshot(rig.context, made, 'b'), { code: 'IN_USE', message: /\/p/ });
  const disk = await rig.open(parent);
  tree.is('/p', await disk.read(0, sizeBytes));
  await disk.write(9 * block, bytesFrom(rig.random, 3 * block));
  await disk.snapshot('d');
  tree.seen.set('d', await disk.read(0, sizeBytes));
  tree.seen.set('/p', await disk.read(0, sizeBytes));
  await disk.close();
  t.equal(await namesOf(rig, parent), 'c,d');
  const listed = await listSnapshots(rig.context, parent);
  t.equal(listed[1]?.parent, listed[0]?.document.id, 'the tree of the parent goes on');
  await rig.restart();
  await reap(rig.context, reclaimLog);
  const opened = await rig.open(made);
  tree.is('/c', await opened.read(0, sizeBytes));
  await opened.close();
  const [own, former] = await tree.spaces(made, parent);
  t.ok((former?.borrowedBytes ?? 0) > 0, 'the parent borrows');
  t.ok((own?.sharedBytes ?? 0) > 0, 'and the clone lends');
  await rollbackVolume(rig.context, { id: parent, path: '/p' }, 'c', readRanges, unused);
  const back = await rig.open(parent);
  tree.is('c', await back.read(0, sizeBytes));
  await back.close();
  await tree.check(made, parent);
  await deleteVolume(rig.context, '/p', unused);
  await reap(rig.context, reclaimLog);
  t.equal(await readHead(rig.context, parent), undefined, 'all of it is gone');
  await tree.snapshots(made, ['a', 'b']);
  const last = await rig.open(made);
  tree.is('/c', await last.read(0, sizeBytes));
  await last.snapshot('c');
  await last.close();
  t.equal(await namesOf(rig, made), 'a,b,c');
  await tree.check(made);
  await deleteVolume(rig.context, '/c', unused);
  await reap(rig.context, reclaimLog);
  for (const prefix of ['volumes', 'logs', 'intents'])
    t.same(await rig.context.store.list(prefix, undefined, 10), [], `nothing below ${prefix}`);
});

t.test('G4 the clone goes first, and the former parent is flattened', async (t) => {
  const rig = await rigFor(t);
  const tree = await Tree.make(rig);
  const { parent, clone: made } = tree;
  await rig.restart();
  await promote(rig, '/c');
  await promote(rig, '/p');
  await tree.snapshots(parent, ['a', 'b', 'c']);
  await tree.snapshots(made, []);
  await promote(rig, '/c');
  await tree.snapshots(made, ['a', 'b']);
  await deleteVolume(rig.context, '/c', unused);
  await reap(rig.context, reclaimLog);
  t.not(await readHead(rig.context, made), undefined, 'what the other one reads is kept');
  await tree.snapshots(parent, ['c']);
  const disk = await rig.open(parent);
  tree.is('/p', await disk.read(0, sizeBytes));
  t.equal((await disk.volume.flattener.run(quiet)).held, null, 'c lies in the log of the other');
  await deleteSnapshot(rig.context, parent, 'c');
  await reap(rig.context, reclaimLog);
  t.equal(await readHead(rig.context, made), undefined);
  tree.is('/p', await disk.read(0, sizeBytes));
  await disk.close();
  await tree.check(parent);
  await deleteVolume(rig.context, '/p', unused);
  await reap(rig.context, reclaimLog);
  t.same(await rig.context.store.list('logs', undefined, 10), []);
});

t.test('what cannot be promoted is refused, and stays as it is', async (t) => {
  const rig = await rigFor(t);
  const tree = await Tree.make(rig);
  const { parent, clone: made } = tree;
  await t.rejects(promote(rig, '/p'), { code: 'NOT_ALLOWED', message: /no origin/ });
  const attached = (() => 'it is attached to web1') as unknown as typeof unused;
  await t.rejects(promote(rig, '/c', attached), { code: 'IN_USE', message: /web1/ });
  const disk = await rig.open(parent);
  await t.rejects(promote(rig, '/c'), { code: 'CONFLICT', message: /not closed cleanly/ });
  await disk.close();
  await updateVolume(rig.context, '/p', { retainMs: 3_600_000 });
  await t.rejects(promote(rig, '/c'), { code: 'NOT_ALLOWED', message: /points in time/ });
  await updateVolume(rig.context, '/p', { retainMs: null });
  const clonedDisk = await rig.open(made).catch(() => undefined);
  await clonedDisk?.snapshot('a');
  if (clonedDisk !== undefined)
    await t.rejects(promote(rig, '/c'), { code: 'ALREADY_EXISTS', message: /\/c@a/ });
  await publishImage(
    rig.context,
    { id: parent, path: '/p' },
    {
      digest: `sha256:${'0'.repeat(64)}`,
      source: 'x',
      format: 'raw',
      sourceBytes: '1',
    },
  );
  await t.rejects(promote(rig, '/c'), { code: 'NOT_ALLOWED', message: /image/ });
  const head = (await requireHead(rig.context, made)).value;
  t.equal(head.promoting, undefined);
  t.equal(head.origin?.path, '/p');
  t.same(await rig.context.documents.names('intents'), []);
});
