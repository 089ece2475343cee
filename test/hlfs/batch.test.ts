/** Building a segment from an overlay: from payloads in memory, from the journal, and from both. */
import t from 'tap';
import {
  crc32c,
  crc32cJoined,
  DvceError,
  limits,
  seededRandom,
  systemTimers,
} from '../../src/base/index.ts';
import { type Batch, buildBatch, releaseBatch } from '../../src/hlfs/batch.ts';
import { BuildBudget } from '../../src/hlfs/build-budget.ts';
import type { Appended } from '../../src/hlfs/journal.ts';
import { pieceChecksums } from '../../src/hlfs/journal-format.ts';
import { Overlay } from '../../src/hlfs/overlay.ts';
import { blockBytes } from '../../src/hlfs/pointer.ts';
import { encodeSegment } from '../../src/hlfs/segment-format.ts';
import { encodeIndex } from '../../src/hlfs/segment-index.ts';

type Assertions = Pick<typeof t, 'ok' | 'equal' | 'strictSame' | 'fail'>;

const random = seededRandom(0xba7c4);
const noise = random.bytes(5 << 18);
/** Different each time, and cheaper than drawing every byte. */
function someBytes(length: number): Buffer {
  const from = random.below(noise.byteLength - length);
  const bytes = Buffer.from(noise.subarray(from, from + length));
  bytes.writeUInt32LE(random.below(2 ** 32), 0);
  return bytes;
}
const MiB = 1024 * 1024;
const volumeBlocks = 2048;

/** A journal as a piece of memory, and the overlay of what was written to it. */
class Written {
  readonly budget: BuildBudget;
  readonly overlay: Overlay;
  readonly journal = Buffer.alloc(24 * MiB);
  readonly content = Buffer.alloc(volumeBlocks * blockBytes);
  readonly records: Appended[] = [];
  reads = 0;
  #used = 96;

  constructor(keptBytesMax: number) {
    this.budget = new BuildBudget(keptBytesMax);
    const now = (address: number, target: Buffer): void => {
      this.reads += 1;
      this.journal.copy(target, 0, address, address + target.byteLength);
    };
    const later = async (address: number, target: Buffer): Promise<void> => {
      await new Promise((resolve) => setImmediate(resolve));
      now(address, target);
    };
    this.overlay = new Overlay(1, { now, later }, this.budget);
  }

  write(offset: number, bytes: Buffer): void {
    this.#used += 80 + random.below(3) * 4;
    const address = this.#used;
    bytes.copy(this.journal, address);
    bytes.copy(this.content, offset);
    this.#used += bytes.byteLength;
    const { byteLength: length } = bytes;
    const entry = { kind: 'write' as const, offset, length, payload: bytes, wallMs: 1 };
    const checksums = pieceChecksums(offset, bytes);
    const record = { entry, seq: this.records.length + 1, address, checksums };
    this.records.push(record);
    this.overlay.apply(record);
  }

  hole(offset: number, length: number): void {
    this.content.fill(0, offset, offset + length);
    const entry = { kind: 'hole' as const, offset, length, payload: null, wallMs: 1 };
    this.records.push({ entry, seq: this.records.length + 1, address: -1, checksums: [] });
    this.overlay.apply(this.records.at(-1) as Appended);
  }

  build(readBelow = async (_: number, target: Buffer) => void target.fill(0)): Promise<Batch> {
    return buildBatch(this.overlay, systemTimers, readBelow);
  }

  /** What the batch says of each block, put together as a reader would. */
  check(t: Assertions, { data, sums = [], runs }: Batch): void {
    const bytes = Buffer.concat(data);
    const read = Buffer.alloc(this.content.byteLength);
    let blocks = 0;
    for (const run of runs)
      if (run.kind === 'data')
        run.checksums.forEach((checksum, i) => {
          const at = run.offset - blockBytes + i * blockBytes;
          const block = bytes.subarray(at, at + blockBytes);
          if (crc32c(block) !== checksum) t.fail(`checksum of block ${run.block + i}`);
          block.copy(read, (run.block + i) * blockBytes);
          blocks += 1;
        });
    t.ok(read.equals(this.content), 'every block as it was written last');
    t.equal(bytes.byteLength, blocks * blockBytes);
    const real = sums.map((_, i) => crc32c(bytes.subarray(i * blockBytes, (i + 1) * blockBytes)));
    t.strictSame(sums, real, 'sums are those of the data');
    t.ok(chunksOf(data, sums).equals(chunksOf(data)), 'joined sums are the sums of the chunks');
  }
}

/** The end of a segment with this data: chunk table and footer. */
function chunksOf(data: readonly Buffer[], sums?: readonly number[]): Buffer {
  const header = {
    log: '018f0000-0000-7000-8000-000000000001' as never, // a log id
    ...{ number: 9, previous: 1, nonce: '00112233445566778899aabbccddeeff', epoch: 1 },
    ...{ incarnation: 1, firstSeq: 1, lastSeq: 2, flags: 0, rootSegment: 0, wallMs: 1, keyId: 0 },
    features: 0,
  };
  const index = encodeIndex([{ kind: 'hole', block: 3, count: 77 }]);
  const { body } = encodeSegment({ header, data, sums, index, root: random.bytes(0) });
  return Buffer.concat(body.slice(-2));
}

const flip = (bytes: Buffer, at: number): number => bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);

function someWrites(written: Written, count: number): void {
  for (let i = 0; i < count; i += 1) {
    const isLarge = random.below(10) === 0;
    const aligned = random.below(4) > 0;
    const step = aligned ? blockBytes : 512;
    const length = step * (1 + random.below((isLarge ? MiB / 2 : 20_000) / step));
    const room = written.content.byteLength - length;
    const offset = Math.floor(random.below(room) / step) * step;
    if (random.below(12) === 0) written.hole(offset, length);
    else written.write(offset, someBytes(length));
  }
}

t.test('the checksum of two parts from the checksums of both', async (t) => {
  for (let i = 0; i < 50; i += 1) {
    const first = random.bytes(random.below(9000));
    const block = random.bytes(blockBytes);
    t.equal(
      crc32cJoined(crc32c(first), crc32c(block)),
      crc32c(Buffer.concat([first, block])),
      `${first.byteLength} bytes before`,
    );
  }
});

t.test('segments are the same from memory, from the journal and from both', async (t) => {
  for (const keptBytes of [0, 300_000, limits.keptPayloadBytes])
    for (let round = 0; round < 4; round += 1) {
      const written = new Written(keptBytes);
      someWrites(written, 120);
      t.ok(written.budget.keptBytes <= keptBytes, 'within the budget');
      const batch = await written.build();
      written.check(t, batch);
      releaseBatch(batch);
      written.overlay.letGo(true);
      t.equal(written.budget.keptBytes, 0, 'everything was given back');
    }
});

t.test('large payloads go into the segment without being read or copied', async (t) => {
  const written = new Written(limits.keptPayloadBytes);
  const payloads = [someBytes(MiB), someBytes(MiB)];
  payloads.forEach((payload, i) => {
    written.write(i * MiB, payload);
  });
  const batch = await written.build();
  written.check(t, batch);
  t.equal(written.reads, 0);
  t.strictSame(batch.slabs, []);
  t.ok(batch.data.every((part) => payloads.some((payload) => payload.buffer === part.buffer)));
});

t.test('a payload that changed in memory is taken from the journal', async (t) => {
  const written = new Written(limits.keptPayloadBytes);
  someWrites(written, 40);
  for (const { entry } of written.records)
    if (entry.payload !== null && random.below(2) === 0)
      flip(entry.payload, random.below(entry.payload.byteLength));
  written.check(t, await written.build());
  t.ok(written.reads > 0);
});

t.test('damage in memory and in the journal is an error, never data', async (t) => {
  for (const keptBytes of [0, limits.keptPayloadBytes]) {
    const written = new Written(keptBytes);
    const payload = random.bytes(64 * 1024);
    written.write(0, payload);
    flip(payload, 5000);
    flip(written.journal, (written.records[0]?.address ?? 0) + 5000);
    await t.rejects(written.build(), { code: 'JOURNAL_DAMAGED' });
  }
});

t.test('records that were moved to another file are read from there (J5)', async (t) => {
  const written = new Written(100_000);
  someWrites(written, 60);
  const moved = 16 * MiB;
  written.journal.copyWithin(moved, 0, 8 * MiB);
  written.journal.fill(0xee, 0, 8 * MiB);
  for (const record of written.records) {
    if (record.address >= 0) record.address += moved;
    written.overlay.apply(record);
  }
  written.check(t, await written.build());
});

t.test('a block whose rest is lost stays an error, and the segment is whole', async (t) => {
  const written = new Written(limits.keptPayloadBytes);
  written.write(blockBytes + 512, random.bytes(512));
  written.write(2 * blockBytes, random.bytes(blockBytes));
  const {
    data,
    sums = [],
    runs,
  } = await written.build(async () => {
    throw new DvceError('SEGMENT_DAMAGED', { name: 'x', reason: 'test' });
  });
  const [run] = runs;
  const bytes = Buffer.concat(data);
  const first = crc32c(bytes.subarray(0, blockBytes));
  t.equal(run?.kind, 'data');
  t.not(run?.kind === 'data' && run.checksums[0], first);
  t.equal(sums[0], first);
  t.ok(chunksOf(data, sums).equals(chunksOf(data)));
});

t.test('no more reads at a time than the thread pool can spare (N5)', async (t) => {
  const budget = new BuildBudget(0);
  let running = 0;
  let most = 0;
  let ended = 0;
  const read = async (): Promise<void> => {
    running += 1;
    most = Math.max(most, running);
    await new Promise((resolve) => setImmediate(resolve));
    running -= 1;
    ended += 1;
    if (ended % 3 === 0) throw new Error('a read that fails gives its turn back');
  };
  await Promise.allSettled(Array.from({ length: 20 }, () => budget.inTurn(read)));
  t.equal(ended, 20);
  t.equal(most, limits.journalReadsInFlight);
});

t.test('a read from below that is damaged once loses nothing', async (t) => {
  const written = new Written(0);
  const old = someBytes(blockBytes);
  old.copy(written.content, 7 * blockBytes);
  written.write(7 * blockBytes + 512, someBytes(1024));
  let reads = 0;
  const batch = await written.build(async (_, target) => {
    reads += 1;
    old.copy(target);
    if (reads === 1) throw new DvceError('SEGMENT_DAMAGED', { name: 'x', reason: 'a bit flipped' });
  });
  written.check(t, batch);
  t.equal(reads, 2);
});
