/** Compressed blocks (DD-0017): what they cost, what becomes of them when they are moved, and what a frame may not do. */
import { randomBytes } from 'node:crypto';
import { zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import { crc32c, seededRandom, type VolumeId } from '../../src/base/index.ts';
import { packBlock, packedBytesMax, unpackBlock } from '../../src/hlfs/codec.ts';
import {
  directCompressor,
  looksLikeNoise,
  packBatch,
  packChecked,
} from '../../src/hlfs/compression.ts';
import {
  type BlockCompressor,
  checkVolume,
  cloneVolume,
  closedVolumeSpace,
  findSnapshot,
  getVolume,
  openSnapshot,
  readRanges,
  requireHead,
  updateVolume,
} from '../../src/hlfs/index.ts';
import { newestRoot } from '../../src/hlfs/log-recovery.ts';
import { segmentFeatures } from '../../src/hlfs/segment-format.ts';
import { isPackedRun } from '../../src/hlfs/segment-index.ts';
import { listSegments, readHeader, readIndex } from '../../src/hlfs/segments.ts';
import { type Disk, Reader, Rig } from '../support/engine-rig.ts';

t.setTimeout(120_000);
const blockBytes = 4096;
const mebibyte = 1 << 20;
const sizeBytes = 8 * mebibyte;
const random = seededRandom(17);
const quiet = { signal: new AbortController().signal, onProgress: () => {} };

/** Words of a small vocabulary, as texts and configuration files have them. */
const words = Array.from({ length: 200 }, () => randomBytes(2 + random.below(3)).toString('hex'));
const pool = Buffer.from(
  Array.from({ length: mebibyte / 8 }, () => words[random.below(words.length)]).join(' '),
);

function text(bytes: number): Buffer {
  const at = random.below(pool.byteLength - bytes);
  return pool.subarray(at, at + bytes);
}

const noise = (bytes: number): Buffer => randomBytes(bytes);
/** Compresses to half of it. */
const half = (): Buffer => Buffer.concat([noise(blockBytes / 2), text(blockBytes / 2)]);

t.test(
  'B-12 random, zero, incompressible and expanding blocks come back as they were',
  async (t) => {
    const least = Buffer.concat([Buffer.alloc(blockBytes / 16), noise((blockBytes / 16) * 15)]);
    const frames = { zeros: Buffer.alloc(blockBytes), text: text(blockBytes), half: half() };
    const target = Buffer.alloc(blockBytes);
    for (const [name, block] of Object.entries(frames)) {
      const frame = packBlock(block);
      t.ok(frame !== null && frame.byteLength <= packedBytesMax, `${name}: ${frame?.byteLength}`);
      t.equal(frame && unpackBlock(frame, target.fill(0xee)), null, name);
      t.ok(target.equals(block), name);
    }
    for (const [name, block] of Object.entries({ noise: noise(blockBytes), least }))
      t.equal(packBlock(block), null, `${name}: it saves less than an eighth`);
    const raw = noise(blockBytes);
    t.equal(unpackBlock(raw, target), null);
    t.ok(target.equals(raw), 'what is not compressed is copied');
  },
);

/** A frame by hand that decodes to a whole block, and asks for memory for a window. */
function frameOfWindow(log: number): Buffer {
  const frame = Buffer.alloc(10, 7);
  frame.writeUInt32LE(0xfd2f_b528, 0);
  frame.writeUInt8(0, 4); // no size of the content, so there is a window
  frame.writeUInt8((log - 10) << 3, 5);
  frame.writeUIntLE((blockBytes << 3) | (1 << 1) | 1, 6, 3); // the last block: one byte, repeated
  return frame;
}

t.test('B-12 truncated and lying frames are errors, and take no memory', async (t) => {
  const target = Buffer.alloc(blockBytes);
  const frame = packBlock(text(blockBytes));
  if (frame === null) throw new Error('a text does not compress');
  for (let length = 0; length < frame.byteLength; length += 1)
    if (unpackBlock(frame.subarray(0, length), target) === null) t.fail(`cut to ${length}`);
  const sizes = { shorter: blockBytes - 1, longer: blockBytes + 1, much: 64 * mebibyte };
  const lies = Object.entries(sizes).map(
    ([name, bytes]) => [name, zstdCompressSync(Buffer.alloc(bytes, 7))] as const,
  );
  const before = process.memoryUsage().arrayBuffers;
  for (const [name, lie] of lies) {
    t.ok(lie.byteLength < blockBytes, `${name} would fit`);
    t.not(unpackBlock(lie, target), null, name);
  }
  t.equal(unpackBlock(frameOfWindow(12), target), null, 'a window as large as a block');
  t.not(unpackBlock(frameOfWindow(27), target), null, 'a window of 128 MiB');
  t.ok(process.memoryUsage().arrayBuffers - before < 8 * mebibyte, 'no memory was taken');
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 1, maxLength: blockBytes - 1 }), (bytes) => {
      unpackBlock(Buffer.from(bytes), target);
    }),
    { numRuns: 300 },
  );
  fc.assert(
    fc.property(fc.nat(frame.byteLength * 8 - 1), (bit) => {
      const changed = Buffer.from(frame);
      changed.writeUInt8(changed.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
      unpackBlock(changed, target);
    }),
    { numRuns: 300 },
  );
});

t.test('a frame that does not decode to what was journaled is none', async (t) => {
  const block = text(blockBytes);
  const scratch = Buffer.alloc(blockBytes);
  t.not(packChecked(block, crc32c(block), scratch), null);
  t.equal(packChecked(block, crc32c(block) ^ 1, scratch), null);
});

t.test('the entropy gate lets texts, tables and zeros through, and no noise', async (t) => {
  const table = Buffer.alloc(blockBytes);
  for (let at = 0; at < blockBytes; at += 8) table.writeUInt32LE(random.below(2 ** 32), at);
  t.notOk(looksLikeNoise(Buffer.alloc(blockBytes)), 'zeros');
  t.notOk(looksLikeNoise(text(blockBytes)), 'a text');
  t.notOk(looksLikeNoise(table), 'records of which half varies');
  let passed = 0;
  for (let i = 0; i < 1000; i += 1) if (!looksLikeNoise(noise(blockBytes))) passed += 1;
  t.ok(passed < 30, `${passed} of 1000 blocks of noise`);
});

t.test(
  'a batch of which nothing is worth compressing is what it was, without a copy',
  async (t) => {
    const data = [noise(4 * blockBytes), noise(2 * blockBytes)];
    const sums = data.flatMap((piece) =>
      Array.from({ length: piece.byteLength / blockBytes }, (_, i) =>
        crc32c(piece.subarray(i * blockBytes, (i + 1) * blockBytes)),
      ),
    );
    const batch = {
      data,
      sums,
      runs: [{ kind: 'data' as const, block: 3, offset: 4096, checksums: sums }],
    };
    t.equal(await packBatch(batch, directCompressor), batch);
  },
);

t.test('behind much noise what compresses is found again soon', async (t) => {
  const data = [noise(200 * blockBytes), Buffer.from(text(40 * blockBytes))];
  const sums = data.flatMap((piece) =>
    Array.from({ length: piece.byteLength / blockBytes }, (_, i) =>
      crc32c(piece.subarray(i * blockBytes, (i + 1) * blockBytes)),
    ),
  );
  const runs = [{ kind: 'data' as const, block: 0, offset: 4096, checksums: sums }];
  const [run] = (await packBatch({ data, sums, runs }, directCompressor)).runs;
  const lengths = run?.kind === 'data' ? (run.lengths ?? []) : [];
  t.ok(
    lengths.slice(0, 200).every((length) => length === blockBytes),
    'the noise',
  );
  t.ok(
    lengths.slice(208).every((length) => length < blockBytes),
    'from the ninth block on',
  );
});

t.test('a block whose rest is lost keeps the checksum that cannot fit', async (t) => {
  const block = Buffer.concat([text(blockBytes), text(blockBytes)]);
  const sums = [crc32c(block.subarray(0, blockBytes)), crc32c(block.subarray(blockBytes))];
  const checksums = [(sums[0] ?? 0) ^ 1, sums[1] ?? 0];
  const runs = [{ kind: 'data' as const, block: 0, offset: 4096, checksums }];
  const packed = await packBatch({ data: [block], sums, runs }, directCompressor);
  const [run] = packed.runs;
  t.equal(run?.kind === 'data' && run.checksums[0], checksums[0]);
  t.equal(run?.kind === 'data' && run.lengths?.[0], blockBytes);
  t.ok(run?.kind === 'data' && (run.lengths?.[1] ?? blockBytes) < blockBytes, 'the other one');
});

/** Content of every sort, block by block. */
function mixed(blocks: number): Buffer {
  return Buffer.concat(
    Array.from({ length: blocks }, () => {
      const kind = random.below(4);
      if (kind === 0) return noise(blockBytes);
      return kind === 1 ? Buffer.alloc(blockBytes, random.below(256)) : half();
    }),
  );
}

/** The sorts of runs that cleaning has written, of segments that are there now. */
async function relocations({ rig, id }: World): Promise<Set<string>> {
  const { log } = (await requireHead(rig.context, id)).value;
  const found = new Set<string>();
  for (const number of await listSegments(rig.store, log)) {
    const header = await readHeader(rig.store, log, number);
    for (const run of header === undefined ? [] : await readIndex(rig.store, header))
      if (run.kind === 'relocation') found.add(isPackedRun(run) ? 'packed' : 'raw');
  }
  return found;
}

interface World {
  readonly rig: Rig;
  readonly id: VolumeId;
  disk: Disk;
  readonly expected: Buffer;
}

async function world(test: Test, seed: number): Promise<World> {
  const rig = await Rig.make({ seed });
  test.teardown(() => rig.end());
  const id = await rig.create('/v', { sizeBytes, compression: 'zstd' });
  return { rig, id, disk: await rig.open(id), expected: Buffer.alloc(sizeBytes) };
}

async function write({ disk, expected }: World, block: number, bytes: Buffer): Promise<void> {
  bytes.copy(expected, block * blockBytes);
  await disk.write(block * blockBytes, bytes);
}

async function setTo(world: World, compression: 'none' | 'zstd'): Promise<void> {
  await updateVolume(world.rig.context, '/v', { compression });
  world.disk.volume.compress(compression);
}

/** Let the cleaner work until it finds nothing more. */
async function clean({ rig, disk }: World): Promise<void> {
  for (let round = 0; round < 40; round += 1) {
    const before = disk.volume.statistics();
    await disk.volume.publishAll();
    rig.process.timers.fire(2000);
    await rig.process.quiet();
    const after = disk.volume.statistics();
    if (
      round > 4 &&
      after.storedBytes >= before.storedBytes &&
      after.movedBytes === before.movedBytes
    )
      return;
  }
}

async function holds(test: Test, { disk, expected }: World, what: string): Promise<void> {
  test.ok((await disk.read(0, sizeBytes)).equals(expected), what);
}

async function checked(test: Test, { rig, id }: World, what: string): Promise<void> {
  test.same((await checkVolume(rig.context, id, quiet)).findings, [], `${what}, checked`);
}

t.test(
  'B-11 cleaning under every setting, and with the setting changed between segments',
  async (t) => {
    const it = await world(t, 3);
    const blocks = sizeBytes / blockBytes;
    const settings = ['zstd', 'none', 'zstd'] as const;
    const moves = new Set<string>();
    for (const setting of settings) {
      await setTo(it, setting);
      await write(it, 0, mixed(blocks / 2));
      await it.disk.volume.publishAll();
      await write(it, blocks / 2, mixed(blocks / 2));
      await it.disk.volume.publishAll();
      await holds(t, it, `written with ${setting}`);
      await clean(it);
      // Two thirds anew, so that each segment has holes and the next setting moves what this one left.
      for (let block = 0; block < blocks; block += 12) await write(it, block, mixed(8));
      await clean(it);
      await holds(t, it, `cleaned under ${setting}`);
      await checked(t, it, `cleaned under ${setting}`);
      for (const run of await relocations(it)) moves.add(run);
    }
    t.same(moves, new Set(['raw', 'packed']), 'blocks of both sorts were moved');
    await it.disk.snapshot('s');
    const kept = Buffer.from(it.expected);
    for (let block = 0; block < blocks; block += 3) await write(it, block, text(blockBytes));
    await it.rig.restart();
    it.disk = await it.rig.open(it.id);
    await holds(t, it, 'after a kill');
    await clean(it);
    await holds(t, it, 'cleaned beside a snapshot');
    const { value } = await findSnapshot(it.rig.context, it.id, 's');
    const snapshot = new Reader(await openSnapshot(it.rig.context, value, 4096));
    t.ok((await snapshot.read(0, sizeBytes)).equals(kept), 'the snapshot');
    await it.disk.close();
    await checked(t, it, 'closed');
    const space = await closedVolumeSpace(it.rig.context, it.id);
    t.ok(
      space !== null && space.mappedStoredBytes < space.mappedBytes * 0.9,
      'it has become smaller',
    );
  },
);

t.test('what a compressed volume and its clone take is exactly what is in the store', async (t) => {
  const it = await world(t, 4);
  const { rig, id } = it;
  await write(it, 0, mixed(1000));
  await it.disk.snapshot('s');
  const source = await getVolume(rig.context, '/v');
  const { value } = await findSnapshot(rig.context, id, 's');
  const clone = await cloneVolume(rig.context, source, value, '/c', {}, readRanges);
  t.equal(clone.head.compression, 'zstd', 'a clone inherits the setting');
  const other = await rig.open(clone.id);
  await other.write(100 * blockBytes, mixed(50));
  await other.volume.publishAll();
  const [mine, its] = [await it.disk.volume.space(), await other.volume.space()];
  for (const space of [mine, its]) {
    const { uniqueBytes, sharedBytes, borrowedBytes, pinnedBytes, garbageBytes } = space;
    const sum = uniqueBytes + (sharedBytes - borrowedBytes) + pinnedBytes + garbageBytes;
    t.equal(sum, space.storedBytes, 'the classes');
    t.ok(Object.values(space).every((bytes) => bytes >= 0));
  }
  // The clone has all that the volume has, but for what it wrote itself.
  const lengths = await storedLengths(rig, (await requireHead(rig.context, id)).value.log);
  t.equal(mine.mappedStoredBytes, sumOf(lengths));
  const replaced = sumOf(new Map([...lengths].filter(([block]) => block >= 100 && block < 150)));
  t.equal(its.borrowedBytes, mine.mappedStoredBytes - replaced, 'borrowed');
  await other.close();
  await it.disk.close();
  t.same(
    await closedVolumeSpace(rig.context, clone.id).then((space) => space?.borrowedBytes),
    its.borrowedBytes,
  );
});

const sumOf = (lengths: ReadonlyMap<number, number>): number =>
  [...lengths.values()].reduce((sum, length) => sum + length, 0);

/** Stored bytes of each block, from the indexes of a log that was only written to. */
async function storedLengths(rig: Rig, log: string): Promise<Map<number, number>> {
  const lengths = new Map<number, number>();
  for (const number of await listSegments(rig.store, log as never)) {
    const header = await readHeader(rig.store, log as never, number);
    if (header === undefined) continue;
    for (const run of await readIndex(rig.store, header))
      if (run.kind === 'data')
        for (let i = 0; i < run.checksums.length; i += 1)
          lengths.set(run.block + i, run.lengths?.[i] ?? blockBytes);
  }
  return lengths;
}

t.test('S10 exactly the segments that an older release would misread say so', async (t) => {
  const it = await world(t, 5);
  const { rig, id } = it;
  const { log } = (await requireHead(rig.context, id)).value;
  const featuresOf = async (): Promise<Map<number, number>> => {
    const found = new Map<number, number>();
    for (const number of await listSegments(rig.store, log))
      found.set(number, (await readHeader(rig.store, log, number))?.features ?? -1);
    return found;
  };
  await write(it, 0, noise(8 * blockBytes));
  await it.disk.volume.publishAll();
  t.same(new Set((await featuresOf()).values()), new Set([0]), 'nothing is compressed');
  await write(it, 4, text(blockBytes));
  await it.disk.volume.publishAll();
  const found = await featuresOf();
  const newest = (await newestRoot(rig.store, log, [...found.keys()]))?.header;
  t.equal(newest?.features, segmentFeatures.packed, 'a root that leads to a compressed block');
  await write(it, 4, noise(blockBytes));
  await it.disk.volume.publishAll();
  const again = await newestRoot(rig.store, log, await listSegments(rig.store, log));
  t.equal(again?.header.features, 0, 'a root that leads to none any more');
  t.equal(again?.facts.storedBytes, undefined);
  await it.disk.close();
});

t.test('invariant 7: a frame that is damaged is an error of its block alone', async (t) => {
  const it = await world(t, 6);
  const { rig, id } = it;
  // What it gives back looks like frames and is none.
  const lying: BlockCompressor = {
    pack: (blocks) =>
      Promise.resolve({
        lengths: blocks.map(() => 100),
        bytes: noise(100 * blocks.length),
      }),
  };
  Object.assign(rig.context, { compressor: lying });
  await write(it, 10, text(blockBytes));
  await write(it, 11, noise(blockBytes));
  await it.disk.volume.publishAll();
  await t.rejects(it.disk.read(10 * blockBytes, blockBytes), { code: 'SEGMENT_DAMAGED' });
  t.ok(
    (await it.disk.read(11 * blockBytes, blockBytes)).equals(
      it.expected.subarray(11 * blockBytes, 12 * blockBytes),
    ),
  );
  await t.rejects(it.disk.read(10 * blockBytes, 2 * blockBytes), { code: 'SEGMENT_DAMAGED' });
  const { findings } = await checkVolume(rig.context, id, quiet);
  t.match(findings, [{ code: 'CHECK_BAD_CHECKSUM' }]);
  t.match(findings[0]?.ranges, [{ offset: 10 * blockBytes, length: blockBytes }]);
  await it.disk.close();
});
