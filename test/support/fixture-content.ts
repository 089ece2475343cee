/** What is in a fixture: one of everything that a store and a journal can hold. */
import { createHash } from 'node:crypto';
import { limits, type Random, type VolumeId } from '../../src/base/index.ts';
import {
  type Compression,
  cloneVolume,
  getVolume,
  openSnapshot,
  readRanges,
  requireHead,
  rollbackVolume,
  type SnapshotDocument,
} from '../../src/hlfs/index.ts';
import { segmentFlags } from '../../src/hlfs/segment-format.ts';
import { type IndexRun, isPackedRun } from '../../src/hlfs/segment-index.ts';
import { listSegments, readHeader, readIndex } from '../../src/hlfs/segments.ts';
import { bytesFrom, type Disk, Rig } from './engine-rig.ts';
import { type Content, contentOf, type Expected, pack } from './fixture.ts';

const mebibyte = 1 << 20;

/** Blocks that compress, and one of eight that does not. */
function compressible(random: Random, bytes: number): Buffer {
  const out = bytesFrom(random, bytes);
  for (let at = 0; at < bytes; at += 4096)
    if (random.below(8) === 0) random.bytes(Math.min(4096, bytes - at)).copy(out, at);
  return out;
}

/** Publish what is there as a batch of its own, without a root. */
async function age(rig: Rig): Promise<void> {
  rig.process.timers.fire(limits.batchAgeMs);
  await rig.process.quiet();
}

async function fill(rig: Rig, disk: Disk, content: typeof compressible): Promise<SnapshotDocument> {
  await disk.write(0, content(rig.random, 2 * mebibyte));
  await age(rig);
  for (let block = 0; block < 512; block += 3)
    await disk.write(block * 4096, content(rig.random, 8192));
  await disk.volume.publishAll();
  await disk.volume.publishAll();
  // The first segment is a third alive now: it is cleaned.
  rig.process.timers.fire(limits.reclaimDelayMs);
  await rig.process.quiet();
  await disk.write(5 * mebibyte + 300, bytesFrom(rig.random, 10_001));
  return disk.snapshot('first');
}

async function change(rig: Rig, disk: Disk): Promise<SnapshotDocument> {
  await disk.write(mebibyte, bytesFrom(rig.random, mebibyte));
  await disk.trim(mebibyte / 2, 300 * 4096);
  await disk.zero(3 * mebibyte, mebibyte + 5000, true);
  await age(rig);
  await disk.zero(4096 * 3 + 5, 100, false);
  return disk.snapshot('second');
}

const kindOf = (run: IndexRun): string => (isPackedRun(run) ? `packed ${run.kind}` : run.kind);

/** Kinds of segments and of what they say, in all logs of a volume. */
async function kindsOf(rig: Rig, id: VolumeId, kinds: Set<string>): Promise<void> {
  for (const log of (await requireHead(rig.context, id)).value.logs)
    for (const number of await listSegments(rig.store, log)) {
      const header = await readHeader(rig.store, log, number);
      if (header === undefined) continue;
      kinds.add((header.flags & segmentFlags.root) === 0 ? 'batch' : 'root');
      for (const run of await readIndex(rig.store, header)) kinds.add(kindOf(run));
    }
}

/** Fails when the fixture lacks something that it is there to keep. */
async function requireEverything(
  rig: Rig,
  ids: readonly VolumeId[],
  more: readonly string[],
): Promise<void> {
  const kinds = new Set<string>();
  for (const id of ids) await kindsOf(rig, id, kinds);
  for (const kind of ['batch', 'root', 'hole', 'zero', 'pages', ...more])
    if (!kinds.has(kind)) throw new Error(`the fixture has no ${kind}`);
}

/** @param compression of all volumes; a fixture of its own, with content that compresses in part */
export async function makeFixture(
  compression: Compression,
): Promise<{ archive: Buffer; expected: Expected }> {
  let ms = 1_790_000_000_000;
  const clock = { wallMs: () => (ms += 7), monotonicMs: () => performance.now() };
  const rig = await Rig.make({ seed: 2026, clock });
  // What is compressed leaves less behind than would be worth cleaning; of this process alone.
  if (compression !== 'none') Object.assign(limits, { cleanFreedBytesMin: 65_536 });
  try {
    const contents: Record<string, Content> = {};
    const options = { sizeBytes: 16 * mebibyte, journalBytes: 16 * mebibyte, compression };
    const id = await rig.create('/prod/shop/db', options);
    let disk = await rig.open(id);
    const first = await fill(rig, disk, compression === 'none' ? bytesFrom : compressible);
    const second = await change(rig, disk);
    await disk.write(0, bytesFrom(rig.random, 5000));
    await disk.close();
    const source = await getVolume(rig.context, '/prod/shop/db');
    const clone = await cloneVolume(
      rig.context,
      source,
      second,
      '/prod/copy',
      { ...options, sizeBytes: 20 * mebibyte },
      readRanges,
    );
    const copy = await rig.open(clone.id);
    await copy.write(19 * mebibyte, bytesFrom(rig.random, 70_000));
    await copy.close();
    await rollbackVolume(rig.context, source, 'first', readRanges, () => undefined);
    disk = await rig.open(id);
    await disk.write(8 * mebibyte, bytesFrom(rig.random, 40_000));
    await disk.volume.publishAll();
    const runs = ['data', 'relocation'].map((kind) =>
      compression === 'none' ? kind : `packed ${kind}`,
    );
    await requireEverything(rig, [id, clone.id], runs);
    const small = await rig.create('/odd', {
      ...options,
      sizeBytes: mebibyte + 512,
      blockBytes: 512,
    });
    const odd = await rig.open(small);
    // The tail: in the journal alone, every kind of record, flushed; then the process dies.
    await disk.write(100, bytesFrom(rig.random, 9000));
    await disk.trim(0, 2 * 4096);
    await disk.zero(mebibyte, 4096 * 300, true);
    await disk.write(15 * mebibyte, bytesFrom(rig.random, mebibyte));
    await disk.flush();
    await odd.write(mebibyte, bytesFrom(rig.random, 512));
    await odd.flush();
    contents['/prod/shop/db'] = await contentOf(disk.volume);
    contents['/odd'] = await contentOf(odd.volume);
    await rig.process.kill();
    const archive = pack(rig.directory);
    await rig.start();
    contents['/prod/shop/db@first'] = await contentOf(await openSnapshot(rig.context, first, 4096));
    contents['/prod/shop/db@second'] = await contentOf(
      await openSnapshot(rig.context, second, 4096),
    );
    const again = await rig.open(clone.id);
    contents['/prod/copy'] = await contentOf(again.volume);
    return { archive, expected: { nodes: rig.nodes, contents } };
  } finally {
    await rig.end();
  }
}

/** Of the archive, so that nobody replaces it by accident. */
export const digestOf = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
