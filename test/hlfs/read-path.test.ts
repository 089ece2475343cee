/** Blocks on their way from the store to a guest: shared reads, damage, the cache, what is read ahead, lent memory. */
import t, { type Test } from 'tap';
import {
  asLogId,
  asSnapshotName,
  crc32c,
  DvceError,
  limits,
  seededRandom,
} from '../../src/base/index.ts';
import { BlockSource, SharedReads } from '../../src/hlfs/block-source.ts';
import { SharedCacheBudget } from '../../src/hlfs/cache-budget.ts';
import {
  cloneVolume,
  deleteVolume,
  findSnapshot,
  readRanges,
  rollbackVolume,
  type SegmentStore,
} from '../../src/hlfs/index.ts';
import { ReadAhead } from '../../src/hlfs/read-ahead.ts';
import { readBuffers } from '../../src/hlfs/read-buffers.ts';
import { ReadCache } from '../../src/hlfs/read-cache.ts';
import { joinChecksums, SegmentReader } from '../../src/hlfs/segments.ts';
import { openMemoryStore } from '../../src/stores/index.ts';
import { Rig } from '../support/engine-rig.ts';

const blockBytes = 4096;
const log = asLogId('0f1e2d3c-4b5a-4987-8655-443322110011');

/** No two blocks alike. */
function contentFrom(seed: number, blocks: number): Buffer {
  const random = seededRandom(seed);
  return Buffer.concat(
    Array.from({ length: blocks }, () => Buffer.alloc(blockBytes, random.bytes(64))),
  );
}

function newCache(slabs: number): ReadCache {
  const budget = new SharedCacheBudget(1);
  budget.limit(slabs << 20);
  return new ReadCache(budget.of(0));
}

/** A store of one object whose reads wait until they are let go. */
class HeldStore {
  readonly content: Buffer;
  reads = 0;
  readonly #held: (() => void)[] = [];
  failure: DvceError | null = null;

  constructor(content: Buffer) {
    this.content = content;
  }
  get store(): SegmentStore {
    return {
      ...openMemoryStore(),
      location: 'held',
      read: (_key, offset, target, done) => {
        this.reads += 1;
        this.#held.push(() => {
          if (this.failure === null) this.content.copy(target, 0, offset);
          done(this.failure);
        });
      },
    };
  }
  letGo(): void {
    for (const each of this.#held.splice(0)) each();
  }
}

function heldWorld(blocks: number) {
  const held = new HeldStore(contentFrom(3, blocks));
  const checksums = Array.from({ length: blocks }, (_, i) =>
    crc32c(held.content.subarray(i * blockBytes, (i + 1) * blockBytes)),
  );
  const shared = new SharedReads(newCache(1));
  const reader = (): SegmentReader =>
    new SegmentReader(held.store, [{ first: 1, last: 99, log, store: 'main' }]);
  return { held, checksums, shared, source: () => new BlockSource(reader(), shared) };
}

/** Outcomes in the order in which they came. */
function ask(source: BlockSource, checksums: readonly number[]) {
  const target = Buffer.alloc(checksums.length * blockBytes);
  const outcome: { error?: DvceError | null; target: Buffer } = { target };
  source.read({ segment: 7, offset: 0, checksums }, target, (error) => {
    outcome.error = error;
  });
  return outcome;
}

t.test('N that miss the same blocks at the same time are one read of the store', async (t) => {
  const { held, checksums, shared, source } = heldWorld(4);
  // Of two volumes: a clone reads the segments of its origin.
  const sources = [source(), source()];
  const asked = Array.from({ length: 10 }, (_, i) => ask(sources[i % 2] ?? source(), checksums));
  const other = ask(source(), checksums.slice(0, 2));
  t.equal(held.reads, 2, 'one for the ten, one for another range');
  held.letGo();
  for (const { error, target } of asked) {
    t.equal(error, null);
    t.ok(target.equals(held.content), 'each has the content, in its own memory');
  }
  t.ok(other.target.equals(held.content.subarray(0, 2 * blockBytes)));
  t.equal(
    sources.reduce((sum, { counts }) => sum + counts.joined, 0),
    9 * 4,
  );
  t.equal(shared.flights.size, 0);
  for (const each of asked) each.target.fill(0);
  const block = Buffer.alloc(blockBytes);
  t.ok(sources[1]?.cached(7, blockBytes, checksums[1] ?? 0, block));
  t.ok(block.equals(held.content.subarray(blockBytes, 2 * blockBytes)), 'the cache has a copy');
});

t.test('an error reaches all who wait for the read, and the next one asks again', async (t) => {
  const { held, checksums, source } = heldWorld(2);
  held.failure = new DvceError('IO_FAILED', { what: 'a read', where: 'x', reason: 'EIO' });
  const asked = [ask(source(), checksums), ask(source(), checksums)];
  held.letGo();
  for (const { error } of asked) t.equal(error?.code, 'IO_FAILED');
  held.failure = null;
  const again = ask(source(), checksums);
  held.letGo();
  t.equal(again.error, null);
  t.equal(held.reads, 2);
  t.ok(again.target.equals(held.content));
});

t.test('S7 a damaged block is told by its place, and never kept', async (t) => {
  const { held, checksums, shared, source } = heldWorld(8);
  held.content[5 * blockBytes + 77] = (held.content[5 * blockBytes + 77] ?? 0) ^ 1;
  for (let round = 1; round <= 2; round += 1) {
    const asked = ask(source(), checksums);
    held.letGo();
    t.equal(asked.error?.code, 'SEGMENT_DAMAGED');
    t.match(asked.error?.message, `offset ${5 * blockBytes}`);
    t.equal(held.reads, round, 'it is looked for again');
    t.equal(shared.cache?.blocks, 0, 'nothing of that read is kept, not even what is good');
  }
  held.content[5 * blockBytes + 77] = (held.content[5 * blockBytes + 77] ?? 0) ^ 1;
  const asked = ask(source(), checksums);
  held.letGo();
  t.equal(asked.error, null, 'a good copy is served when there is one');
});

t.test('readers that hold different checksums do not share a read', async (t) => {
  const { held, checksums, source } = heldWorld(2);
  const good = ask(source(), checksums);
  const bad = ask(source(), [checksums[0] ?? 0, 1]);
  held.letGo();
  t.equal(good.error, null);
  t.equal(bad.error?.code, 'SEGMENT_DAMAGED');
});

t.test('checksums of blocks join to the checksum of all of them', async (t) => {
  const bytes = contentFrom(9, 256);
  const sums = Array.from({ length: 256 }, (_, i) =>
    crc32c(bytes.subarray(i * blockBytes, (i + 1) * blockBytes)),
  );
  for (const count of [1, 2, 3, 17, 256])
    t.equal(joinChecksums(sums.slice(0, count)), crc32c(bytes.subarray(0, count * blockBytes)));
  [sums[3], sums[200]] = [sums[200] ?? 0, sums[3] ?? 0];
  t.not(joinChecksums(sums), crc32c(bytes), 'their order counts');
});

t.test('a reader who goes on is read ahead of, in windows that grow, up to the end', async (t) => {
  const ahead = new ReadAhead();
  const end = 4096;
  const asked: [number, number][] = [];
  for (let block = 0; block < end; block += 8) {
    const next = ahead.note(block, 8, end);
    if (next === undefined) continue;
    t.ok(next.isWanted());
    asked.push([next.range.block, next.range.count]);
    t.ok(next.range.block >= block + 8, 'never what is being read');
  }
  const windowMin = limits.readAheadBytesMin / blockBytes;
  const windowMax = limits.readAheadBytes / blockBytes;
  t.same(asked[0], [16, windowMin], 'from the second read on');
  t.equal(Math.max(...asked.map(([, count]) => count)), windowMax);
  let at = 16;
  for (const [block, count] of asked) {
    t.equal(block, at, 'without gaps, nothing twice');
    at += count;
  }
  t.equal(at, end, 'to the end and not beyond');
});

t.test('several readers are followed at a time', async (t) => {
  const ahead = new ReadAhead();
  const starts = Array.from({ length: limits.readStreams }, (_, i) => i * 100_000);
  let hints = 0;
  for (let step = 0; step < 20; step += 1)
    for (const start of starts)
      if (ahead.note(start + step * 16, 16, 10_000_000) !== undefined) hints += 1;
  t.ok(hints >= limits.readStreams * 4, `${hints} hints`);
});

t.test(
  'random reads get nothing read ahead, and end what was read ahead of a stream',
  async (t) => {
    const ahead = new ReadAhead();
    ahead.note(0, 8, 100_000);
    const stream = ahead.note(8, 8, 100_000);
    t.ok(stream?.isWanted());
    for (let i = 0; i < limits.readStreams; i += 1) {
      t.equal(ahead.note(50_000 + i * 977, 1, 100_000), undefined);
      t.equal(stream?.isWanted(), i < limits.readStreams - 1);
    }
    t.equal(ahead.note(16, 8, 100_000), undefined, 'it would have to begin anew');
  },
);

t.test('memory of a read is lent again only when all of its slab came back', async (t) => {
  const take = (length: number) => {
    const bytes = readBuffers.take(length);
    return { bytes, giveBack: readBuffers.giveBack ?? t.fail };
  };
  const a = take(1 << 20);
  const b = take(512 << 10);
  t.not(a.bytes.buffer, b.bytes.buffer, 'long reads share nothing');
  a.giveBack();
  const c = take(1 << 20);
  const d = take(1 << 20);
  t.equal(c.bytes.buffer, a.bytes.buffer, 'used again');
  t.not(d.bytes.buffer, a.bytes.buffer, 'but not by two');
  t.not(d.bytes.buffer, b.bytes.buffer);
  // Short ones: random lengths, some come back at once, some late. What is out never changes.
  const random = seededRandom(4);
  const out: { bytes: Buffer; giveBack: () => void; mark: number }[] = [];
  let wrong = 0;
  for (let i = 0; i < 4000; i += 1) {
    const piece = { ...take((1 + random.below(16)) * blockBytes), mark: i % 251 };
    piece.bytes.fill(piece.mark);
    out.push(piece);
    while (out.length > random.below(300)) {
      const [back] = out.splice(random.below(out.length), 1);
      if (back === undefined) break;
      if (!back.bytes.equals(Buffer.alloc(back.bytes.length, back.mark))) wrong += 1;
      back.giveBack();
    }
  }
  t.equal(wrong, 0);
});

const unused = (): undefined => undefined;

async function rigFor(test: Test): Promise<Rig> {
  const rig = await Rig.make();
  test.teardown(() => rig.end());
  return rig;
}

t.test(
  'the cache answers with what is there now: overwrite, rollback, clone, deletion',
  async (t) => {
    const rig = await rigFor(t);
    const id = await rig.create('/a');
    let disk = await rig.open(id);
    const old = contentFrom(1, 64);
    const young = contentFrom(2, 64);
    await disk.write(0, old);
    await disk.snapshot('s');
    const readTwice = async (): Promise<Buffer> => {
      await disk.read(0, old.byteLength);
      return disk.read(0, old.byteLength);
    };
    t.ok((await readTwice()).equals(old));
    const { cache } = disk.volume.statistics().readBlocks;
    t.ok(cache >= 64, `${cache} blocks came from the cache`);
    await disk.write(0, young);
    t.ok((await readTwice()).equals(young), 'from the journal');
    await disk.volume.publishAll();
    t.ok((await readTwice()).equals(young), 'from the new segment');
    await disk.close();
    const target = { id, path: '/a' };
    const { value: snapshot } = await findSnapshot(rig.context, id, asSnapshotName('s'));
    const clone = await cloneVolume(rig.context, target, snapshot, '/b', {}, readRanges);
    await rollbackVolume(rig.context, target, 's', readRanges, unused);
    disk = await rig.open(id);
    t.ok((await readTwice()).equals(old), 'after the rollback');
    await disk.write(0, contentFrom(3, 1));
    await disk.volume.publishAll();
    t.ok((await disk.read(0, blockBytes)).equals(contentFrom(3, 1)), 'a number of the new log');
    const copy = await rig.open(clone.id);
    t.ok((await copy.read(0, old.byteLength)).equals(old));
    t.ok(
      copy.volume.statistics().readBlocks.cache >= 64,
      'a clone finds in the cache what its origin has read',
    );
    await copy.close();
    await deleteVolume(rig.context, '/b', unused);
    t.ok(
      (await disk.read(blockBytes, blockBytes)).equals(old.subarray(blockBytes, 2 * blockBytes)),
    );
    await disk.close();
  },
);
