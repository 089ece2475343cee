/**
 * Recycled journal files: what an earlier use left behind must not be taken for records of the present one, even when
 * numbers, sizes and places fit (J3).
 */
import t from 'tap';
import { dataSync, type OpenFile, writeFully } from '../../src/base/index.ts';
import { BuildBudget } from '../../src/hlfs/build-budget.ts';
import type { HlfsContext } from '../../src/hlfs/context.ts';
import {
  chainStart,
  encodeFileHeader,
  encodeRecordHeader,
  headerBytesFor,
  journalFileHeaderBytes,
  pieceChecksums,
} from '../../src/hlfs/journal-format.ts';
import { readTail } from '../../src/hlfs/journal-tail.ts';
import { readFileHeader, walkJournal } from '../../src/hlfs/journal-walk.ts';
import { Overlay } from '../../src/hlfs/overlay.ts';
import type { HeadDocument } from '../../src/hlfs/schema.ts';
import { SimHost } from '../sim/world.ts';

const identity = {
  volume: '11111111-1111-4111-8111-111111111111',
  log: '22222222-2222-4222-8222-222222222222',
  epoch: 1,
  incarnation: 1,
};

const fileBytes = 64 * 1024;
const recordBytes = headerBytesFor(1) + 4096;

/** Lay records `firstSeq..lastSeq` with this content into `bytes`, as one use of the file. */
function use(
  bytes: Buffer,
  serial: number,
  salt: number,
  records: readonly [number, number],
  content: number,
): void {
  const [firstSeq, lastSeq] = records;
  const header = { ...identity, serial, firstSeq, salt: Buffer.alloc(16, salt) };
  encodeFileHeader(header).copy(bytes);
  let chain = chainStart(header.salt);
  let at = journalFileHeaderBytes;
  for (let seq = firstSeq; seq <= lastSeq; seq += 1) {
    const payload = Buffer.alloc(4096, content);
    const sums = pieceChecksums(0, payload);
    const head = Buffer.alloc(headerBytesFor(sums.length));
    const facts = {
      kind: 'write' as const,
      seq,
      offset: 0,
      length: 4096,
      flushedSeq: 0,
      wallMs: 0,
    };
    chain = encodeRecordHeader(head, facts, sums, chain);
    head.copy(bytes, at);
    payload.copy(bytes, at + head.length);
    at += head.length + payload.length;
  }
}

const fileOf = (bytes: Buffer): OpenFile => ({
  path: 'slot',
  readSync: (target, position) =>
    Buffer.from(target.buffer, target.byteOffset, target.byteLength).set(
      bytes.subarray(position, position + target.byteLength),
    ) ?? Math.max(0, Math.min(target.byteLength, bytes.length - position)),
  read: () => {},
  writev: () => Promise.reject(new Error('read only')),
  writevSync: () => 0,
  dataSync: (done) => done(null),
  sizeSync: () => bytes.length,
  closeSync: () => {},
});

function walk(bytes: Buffer): readonly number[] {
  const file = fileOf(bytes);
  const header = readFileHeader(file);
  if (header === undefined) return [];
  const { tail } = walkJournal([{ slot: 0, file, header, isRepaired: header.isRepaired }], 2);
  return tail.map((record) => record.header.seq);
}

t.test('J3 records of an earlier use of a file do not continue a later one', async (t) => {
  const bytes = Buffer.alloc(64 * 1024);
  use(bytes, 1, 0xaa, [3, 8], 1);
  t.same(walk(bytes), [3, 4, 5, 6, 7, 8], 'the first use by itself');
  // The file is used again, numbers start at the same place, and only two new records reached the disk.
  use(bytes, 2, 0xbb, [3, 4], 2);
  t.same(walk(bytes), [3, 4], 'the old records 5 to 8 still lie behind, and are not taken');
});

t.test('J3 a record whose predecessor is another one is not taken', async (t) => {
  const one = Buffer.alloc(64 * 1024);
  const two = Buffer.alloc(64 * 1024);
  use(one, 1, 0xaa, [3, 6], 1);
  use(two, 1, 0xaa, [3, 6], 2);
  // Same salt, same numbers, another content before: only the chain tells them apart.
  two.copy(one, journalFileHeaderBytes + 2 * recordBytes, journalFileHeaderBytes + 2 * recordBytes);
  t.same(walk(one), [3, 4]);
});

/** Files of a journal on a simulated disk, opened one time after the other. @param tailAfter answers the tail behind what is covered */
async function opened(
  contents: readonly Buffer[],
  story: (tailAfter: (coveredSeq: number) => Promise<number[]>) => Promise<void>,
): Promise<void> {
  const { files, scheduler, random } = new SimHost(1);
  const directory = `/journals/${identity.volume}`;
  const tailAfter = async (coveredSeq: number): Promise<number[]> => {
    const { walk, slots } = await readTail(
      // All that it looks at.
      { files, random, journalDirectory: '/journals' } as unknown as HlfsContext,
      {
        head: {
          ...identity,
          epoch: '1',
          trimFrom: null,
          journal: { quotaBytes: String(4 * fileBytes) },
        } as unknown as HeadDocument,
        coveredSeq,
        coveredEpoch: 1,
        flushedSeq: 0,
        isClean: false,
        fileBytes,
        acceptLoss: false,
      },
    );
    for (const { file } of slots) file.closeSync();
    return walk.tail.map((record) => record.header.seq);
  };
  const run = async (): Promise<void> => {
    await files.makeDirectory(directory);
    for (const [i, content] of contents.entries()) {
      const file = files.openSync(`${directory}/slot-0${i}`, 'create');
      await writeFully(file, [content], 0);
      await dataSync(file);
      file.closeSync();
    }
    await story(tailAfter);
  };
  await scheduler.complete(run());
}

const emptyFile = (): Buffer => Buffer.alloc(fileBytes);

t.test(
  'J2 what lay beyond a gap is not taken later, when the numbers of the gap were given out again',
  async (t) => {
    // Records 1 to 3 in one file, of which the power failure left the first; 4 and 5 in the next one were kept.
    const first = emptyFile();
    use(first, 1, 0xaa, [1, 1], 1);
    const next = emptyFile();
    use(next, 2, 0xbb, [4, 5], 2);
    await opened([first, next, emptyFile(), emptyFile()], async (tailAfter) => {
      t.same(await tailAfter(0), [1]);
      // The next incarnation journals 2 and 3 and publishes them; its journal is lost with the power before any sync.
      t.same(await tailAfter(3), [], 'records 4 and 5 are of before and do not follow');
    });
  },
);

t.test(
  'B-25 damage in a record that segments cover does not hide the records behind it',
  async (t) => {
    const bytes = emptyFile();
    use(bytes, 1, 0xaa, [1, 5], 1);
    const payloadAt = journalFileHeaderBytes + headerBytesFor(1);
    bytes[payloadAt + 100] = 3; // one bit of record 1
    bytes.fill(7, payloadAt + recordBytes, payloadAt + recordBytes + 512); // many of record 2
    const changed = journalFileHeaderBytes + 2 * recordBytes + 20;
    bytes[changed] = (bytes[changed] ?? 0) ^ 0x10; // one of the header of record 3
    await opened([bytes, emptyFile(), emptyFile(), emptyFile()], async (tailAfter) => {
      t.same(await tailAfter(3), [4, 5]);
      await t.rejects(tailAfter(0), { code: 'JOURNAL_DAMAGED' });
    });
  },
);

t.test(
  'J2 what lay behind a record that was given up is not taken when its number is covered',
  async (t) => {
    const bytes = emptyFile();
    use(bytes, 1, 0xaa, [1, 5], 1);
    // The power failure lost the payload of record 2 and kept what was written behind it.
    const lostAt = journalFileHeaderBytes + recordBytes + headerBytesFor(1);
    bytes.fill(0, lostAt, lostAt + 4096);
    await opened([bytes, emptyFile(), emptyFile(), emptyFile()], async (tailAfter) => {
      t.same(await tailAfter(0), [1]);
      // Numbers 2 and 3 are given out again and published; the file in which they were is lost with the power.
      t.same(await tailAfter(3), [], 'records 4 and 5 are of before');
    });
  },
);

t.test(
  'B-25 a block in the journal that does not fit its checksum is not handed out',
  async (t) => {
    const written = Buffer.alloc(4096, 1);
    const read = (_address: number, target: Buffer): void => {
      written.copy(target);
    };
    const overlay = new Overlay(1, { now: read, later: async () => {} }, new BuildBudget(0));
    const entry = { kind: 'write' as const, offset: 0, length: 4096, payload: written, wallMs: 0 };
    overlay.apply({ entry, seq: 1, address: 0, checksums: pieceChecksums(0, written) });
    const found = overlay.find(0);
    if (found === undefined) throw new Error('nothing was applied');
    const target = Buffer.alloc(4096);
    t.ok(overlay.fill(found, target));
    t.same(target, written);
    written[77] = 3;
    t.throws(() => overlay.fill(found, target), { code: 'JOURNAL_DAMAGED' });
  },
);
