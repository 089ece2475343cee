/**
 * The formats: what is encoded is decoded again; one wrong bit in any kind of record is seen (B-25); what is cut short or made
 * up never does worse than an error of the table; newer versions and kinds are refused by name.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import fc from 'fast-check';
import t from 'tap';
import { asLogId, crc32c, DvceError, nodeFileSystem, seededRandom } from '../../src/base/index.ts';
import { decodeDocument, encodeDocument } from '../../src/hlfs/document-format.ts';
import {
  chainStart,
  decodeFileHeader,
  decodeRecordHeader,
  encodeFileHeader,
  encodeRecordHeader,
  headerBytesFor,
  payloadFits,
  pieceChecksums,
  type RecordKind,
} from '../../src/hlfs/journal-format.ts';
import { checkPointer, rawBlockLength } from '../../src/hlfs/pointer.ts';
import { decodeRoot, encodeRoot, type RootFacts } from '../../src/hlfs/root-format.ts';
import { segmentKey } from '../../src/hlfs/schema.ts';
import {
  decodeSegmentHeader,
  encodeSegment,
  type SegmentHeader,
  segmentDataOffset,
  segmentFlags,
} from '../../src/hlfs/segment-format.ts';
import { decodeIndex, encodeIndex, type IndexRun } from '../../src/hlfs/segment-index.ts';
import {
  chunksFit,
  readHeader,
  readIndex,
  readRoot,
  SegmentReader,
} from '../../src/hlfs/segments.ts';
import { openLocalStore, openMemoryStore } from '../../src/stores/index.ts';
import { Rig } from '../support/engine-rig.ts';

t.setTimeout(120_000);
const log = asLogId('0f1e2d3c-4b5a-4987-8655-443322110011');
const random = seededRandom(5);

/** Each wrong bit of `bytes`, one at a time. */
function* flips(
  bytes: Buffer,
  from = 0,
  to = bytes.length,
): Generator<{ bit: number; changed: Buffer }> {
  const changed = Buffer.from(bytes);
  for (let bit = from * 8; bit < to * 8; bit += 1) {
    const at = bit >>> 3;
    changed[at] = (changed[at] ?? 0) ^ (1 << (bit & 7));
    yield { bit, changed };
    changed[at] = (changed[at] ?? 0) ^ (1 << (bit & 7));
  }
}

/** Code of the error, or undefined; anything but an error of the table is thrown on. */
function codeOf(run: () => unknown): string | undefined {
  try {
    run();
    return undefined;
  } catch (error) {
    if (error instanceof DvceError) return error.code;
    throw error;
  }
}

const runs: IndexRun[] = [
  { kind: 'data', block: 77, offset: 4096, checksums: [1, 2 ** 32 - 1] },
  { kind: 'hole', block: 2 ** 31, count: 2 ** 31 },
  { kind: 'zero', block: 0, count: 300 },
  {
    kind: 'relocation',
    block: 5,
    offset: 12_288,
    checksums: [9, 8],
    oldSegments: [3, 4],
    oldOffsets: [4096, 8192],
  },
  { kind: 'data', block: 9, offset: 4096, checksums: [5, 6, 7], lengths: [4096, 1, 3584] },
  {
    kind: 'relocation',
    block: 12,
    offset: 11_777,
    checksums: [1, 2],
    lengths: [17, 4096],
    oldSegments: [7, 8],
    oldOffsets: [4097, 4096],
  },
  { kind: 'flushMark', seq: 2 ** 40 + 1, wallMs: 1_790_000_000_000, sizeBytes: 2 ** 44 },
  { kind: 'pages', offset: 4096, keys: [0, 3 * 2 ** 28] },
];

const facts: RootFacts = {
  sizeBytes: String(2 ** 44),
  top: [1, 4096, rawBlockLength, 7],
  mappedBlocks: '12',
  ranges: [{ first: 1, last: 9, log, store: 'main' }],
  covered: { epoch: '1', incarnation: '2', seq: '9007199254740991' },
  nextSegment: 10,
  previousRoot: 4,
  flushMark: { seq: '5', wallMs: '6' },
  leaseGranters: [],
};
const table = new Map([
  [1, { bytes: 4096, live: 3, liveBytes: 3 * 4096, death: 0 }],
  [8, { bytes: 0, live: 0, liveBytes: 0, death: 9 }],
]);
/** With compressed blocks in it. */
const packedTable = new Map([...table, [9, { bytes: 9000, live: 2, liveBytes: 4113, death: 0 }]]);

function segment(): { body: Buffer; header: SegmentHeader; data: Buffer } {
  const data = random.bytes(300 * 4096);
  const index = encodeIndex([
    {
      kind: 'data',
      block: 0,
      offset: segmentDataOffset,
      checksums: [crc32c(data.subarray(0, 4096))],
    },
  ]);
  const encoded = encodeSegment({
    header: {
      log,
      number: 9,
      previous: 0xfeedbeef,
      nonce: '00112233445566778899aabbccddeeff',
      epoch: 3,
      incarnation: 2 ** 33,
      firstSeq: 2 ** 34,
      lastSeq: 2 ** 35,
      flags: segmentFlags.root,
      rootSegment: 9,
      wallMs: 1_790_000_000_000,
      keyId: 0,
      features: 0,
    },
    data: [data.subarray(0, 100 * 4096), data.subarray(100 * 4096)],
    index,
    root: encodeRoot(facts, table),
  });
  return { body: Buffer.concat(encoded.body), header: encoded.header, data };
}

t.test('S6 a segment is decoded as it was encoded', async (t) => {
  const { body, header } = segment();
  t.same(decodeSegmentHeader(body.subarray(0, 256), 'x'), header);
  t.same(decodeSegmentHeader(body.subarray(-256), 'x'), header, 'the second copy');
  t.equal(body.length, header.totalBytes);
  t.same(decodeIndex(encodeIndex(runs), 'x'), runs);
  const root = decodeRoot(encodeRoot(facts, table), 'x');
  t.same(root.facts, facts);
  t.same(root.table, table);
  t.same(decodeRoot(encodeRoot(facts, packedTable), 'x').table, packedTable);
});

t.test('B-25 every wrong bit of a segment header is seen, and every length', async (t) => {
  const bytes = segment().body.subarray(0, 256);
  for (const { bit, changed } of flips(bytes))
    if (codeOf(() => decodeSegmentHeader(changed, 'x')) !== 'SEGMENT_DAMAGED') t.fail(`bit ${bit}`);
  for (let length = 0; length < 256; length += 1)
    if (codeOf(() => decodeSegmentHeader(bytes.subarray(0, length), 'x')) !== 'SEGMENT_DAMAGED')
      t.fail(`length ${length}`);
  t.pass('2048 bits');
});

/** What a reader says of a segment in a store: of its header copies, index, root, chunks and first block. */
async function verdicts(body: Buffer, whole: SegmentHeader): Promise<Record<string, string>> {
  const store = openMemoryStore();
  await store.createScope('s');
  await store.putIfAbsent('s', segmentKey(log, 9), [body]);
  const verdict = async (run: () => Promise<unknown>): Promise<string> => {
    try {
      return (await run()) === false ? 'bad' : 'good';
    } catch (error) {
      if (!(error instanceof DvceError)) throw error;
      return error.code;
    }
  };
  const reader = new SegmentReader(store, [{ first: 1, last: 9, log, store: 'main' }]);
  const block = Buffer.alloc(4096);
  return {
    header: await verdict(() => readHeader(store, log, 9)),
    index: await verdict(() => readIndex(store, whole)),
    root: await verdict(() => readRoot(store, log, 9)),
    chunks: await verdict(() => chunksFit(store, whole)),
    block: await verdict(
      () =>
        new Promise<void>((resolve, reject) => {
          const first = crc32c(segmentBlock);
          const run = { segment: 9, offset: segmentDataOffset, checksums: [first] };
          reader.readBlocks(run, block, (error) => (error ? reject(error) : resolve()));
        }),
    ),
  };
}
let segmentBlock: Buffer = Buffer.alloc(0);

t.test(
  'B-25 S7 a wrong bit in any part of a segment is seen by its reader; one header copy suffices',
  async (t) => {
    const { body, header, data } = segment();
    segmentBlock = data.subarray(0, 4096);
    const good = { header: 'good', index: 'good', root: 'good', chunks: 'good', block: 'good' };
    t.same(await verdicts(body, header), good);
    const places: [string, number, number, Record<string, string>][] = [
      ['first header', 0, 256, good],
      ['second header', body.length - 256, body.length, good],
      [
        'first block',
        segmentDataOffset,
        segmentDataOffset + 4096,
        { ...good, chunks: 'bad', block: 'SEGMENT_DAMAGED' },
      ],
      ['other data', segmentDataOffset + 4096, header.indexOffset, { ...good, chunks: 'bad' }],
      [
        'index',
        header.indexOffset,
        header.rootOffset,
        { ...good, chunks: 'bad', index: 'SEGMENT_DAMAGED' },
      ],
      [
        'root',
        header.rootOffset,
        header.chunkOffset,
        { ...good, chunks: 'bad', root: 'SEGMENT_DAMAGED' },
      ],
      ['chunk table', header.chunkOffset, body.length - 256, { ...good, chunks: 'bad' }],
    ];
    for (const [what, from, to, expected] of places)
      for (let i = 0; i < 16; i += 1) {
        const changed = Buffer.from(body);
        const at = from + random.below(to - from);
        changed[at] = (changed[at] ?? 0) ^ (1 << random.below(8));
        t.same(await verdicts(changed, header), expected, `${what}, byte ${at}`);
      }
    const both = Buffer.from(body);
    both[30] = (both[30] ?? 0) ^ 1;
    both[body.length - 200] = (both[body.length - 200] ?? 0) ^ 1;
    t.match(await verdicts(both, header), { header: 'SEGMENT_DAMAGED' }, 'both headers');
    for (const length of [0, 1, 255, 256, 511, 512, 4096, header.indexOffset, body.length - 1])
      t.match(
        await verdicts(body.subarray(0, length), header),
        { header: 'SEGMENT_DAMAGED' },
        `cut to ${length}`,
      );
  },
);

t.test('B-12 indexes and roots that are cut or made up are errors of the table', async (t) => {
  const index = encodeIndex(runs);
  const ends = new Set<number>();
  for (let count = 0; count <= runs.length; count += 1)
    ends.add(encodeIndex(runs.slice(0, count)).length);
  for (let length = 0; length < index.length; length += 1) {
    const code = codeOf(() => decodeIndex(index.subarray(0, length), 'x'));
    if (code !== (ends.has(length) ? undefined : 'SEGMENT_DAMAGED'))
      t.fail(`index cut to ${length}: ${code}`);
  }
  const root = encodeRoot(facts, table);
  for (let length = 0; length < root.length; length += 1)
    if (codeOf(() => decodeRoot(root.subarray(0, length), 'x')) !== 'SEGMENT_DAMAGED')
      t.fail(`root cut to ${length}`);
  // Lengths that lie: the count of a run is larger than what is there.
  const lying = Buffer.from(index);
  lying.writeUInt32LE(0xffff_ffff, 16);
  t.equal(
    codeOf(() => decodeIndex(lying, 'x')),
    'SEGMENT_DAMAGED',
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      codeOf(() => decodeIndex(Buffer.from(bytes), 'x'));
      codeOf(() => decodeRoot(Buffer.from(bytes), 'x'));
      codeOf(() => decodeSegmentHeader(Buffer.from(bytes), 'x'));
      codeOf(() => decodeFileHeader(Buffer.from(bytes)));
      codeOf(() => decodeRecordHeader(Buffer.from(bytes), 1));
      codeOf(() => decodeDocument('x', Buffer.from(bytes)));
    }),
    { numRuns: 500 },
  );
});

t.test('S10 what is newer is refused by name', async (t) => {
  const renewed = (bytes: Buffer, at: number, sumAt: number): Buffer => {
    const changed = Buffer.from(bytes);
    changed.writeUInt16LE(99, at);
    changed.writeUInt32LE(crc32c(changed.subarray(0, sumAt)), sumAt);
    return changed;
  };
  const header = segment().body.subarray(0, 256);
  t.equal(
    codeOf(() => decodeSegmentHeader(renewed(header, 4, 252), 'x')),
    'FORMAT_TOO_NEW',
  );
  t.equal(
    codeOf(() => decodeSegmentHeader(renewed(header, 136, 252), 'x')),
    'FORMAT_TOO_NEW',
    'a feature',
  );
  const file = encodeFileHeader({
    volume: log,
    log,
    epoch: 1,
    incarnation: 1,
    serial: 1,
    firstSeq: 1,
    salt: Buffer.alloc(16, 3),
  });
  t.equal(
    codeOf(() => decodeFileHeader(renewed(file, 4, 252))),
    'FORMAT_TOO_NEW',
  );
  t.equal(
    codeOf(() => decodeFileHeader(renewed(file, 88, 252))),
    'FORMAT_TOO_NEW',
    'a feature',
  );
  const root = encodeRoot(facts, table);
  root.writeUInt16LE(2, 4);
  t.equal(
    codeOf(() => decodeRoot(root, 'x')),
    'FORMAT_TOO_NEW',
  );
  const { header: record } = encodedRecord('mark', 0, Buffer.alloc(0));
  record[8] = 77;
  record.writeUInt32LE(crc32c(record.subarray(8), 5), 4);
  t.equal(
    codeOf(() => decodeRecordHeader(record, 5)),
    'FORMAT_TOO_NEW',
    'a kind of record',
  );
  const index = encodeIndex(runs);
  index[0] = 200;
  t.equal(
    codeOf(() => decodeIndex(index, 'x')),
    'SEGMENT_DAMAGED',
    'a kind of run',
  );
  const { body } = encodeDocument('x', { format: 2 }, 'a', []);
  t.equal(
    codeOf(() => decodeDocument('x', body)),
    'FORMAT_TOO_NEW',
    'a document',
  );
});

t.test('B-11 B-12 S7 a pointer with a codec or group that is not known is refused', async (t) => {
  t.equal(
    codeOf(() => checkPointer(1, 4096, rawBlockLength)),
    undefined,
  );
  for (const length of [1, 17, 4095])
    t.equal(
      codeOf(() => checkPointer(1, 4099 + 2 ** 30, length)),
      undefined,
      `compressed to ${length}`,
    );
  for (const [word1, word2] of [
    [4096 + 2 ** 30, rawBlockLength],
    [4096 + 2 ** 30, 0],
    [4096 + 2 ** 30, 8192],
    [4096 + 2 ** 30 + 2 ** 26, 100],
    [4096 + 2 ** 30, 100 + 2 ** 17],
    [4096 + 3 * 2 ** 30, 100],
    [4096 + 2 ** 31, rawBlockLength],
    [4096 + 2 ** 26, rawBlockLength],
    [4096, rawBlockLength + 2 ** 17],
    [4096, 100],
    [4096, 0],
  ] as const)
    t.equal(
      codeOf(() => checkPointer(1, word1, word2)),
      'SEGMENT_DAMAGED',
      `${word1} ${word2}`,
    );
});

// ---- journal ----------------------------------------------------------------------------------------------------------

function encodedRecord(
  kind: RecordKind,
  offset: number,
  payload: Buffer,
  chain = 5,
): { header: Buffer; checksum: number } {
  const checksums = kind === 'write' ? pieceChecksums(offset, payload) : [];
  const header = Buffer.alloc(headerBytesFor(checksums.length));
  const length = kind === 'write' ? payload.length : 4096;
  const checksum = encodeRecordHeader(
    header,
    { kind, seq: 9, offset, length, flushedSeq: 7, wallMs: 123 },
    checksums,
    chain,
  );
  return { header, checksum };
}

t.test('J3 B-25 headers of journal files: round trip, every wrong bit, every length', async (t) => {
  const facts = {
    volume: log,
    log,
    epoch: 2 ** 40,
    incarnation: 6,
    serial: 7,
    firstSeq: 2 ** 50,
    salt: random.bytes(16),
  };
  const file = encodeFileHeader(facts);
  t.same(decodeFileHeader(file), facts);
  for (const { bit, changed } of flips(file, 0, 256))
    if (decodeFileHeader(changed) !== undefined) t.fail(`file header bit ${bit}`);
  for (let length = 0; length < 256; length += 1)
    if (decodeFileHeader(file.subarray(0, length)) !== undefined)
      t.fail(`file header cut to ${length}`);
  t.not(chainStart(facts.salt), chainStart(Buffer.alloc(16)), 'the salt starts the chain');
});

t.test('J3 B-25 journal records: round trip, every wrong bit, every length', async (t) => {
  const payload = random.bytes(9000);
  for (const kind of ['write', 'hole', 'zero', 'mark'] as const) {
    const { header } = encodedRecord(kind, 4000, payload);
    const decoded = decodeRecordHeader(header, 5);
    t.match(decoded, { kind, seq: 9, offset: 4000, flushedSeq: 7, wallMs: 123 });
    t.equal(decodeRecordHeader(header, 6), undefined, 'another chain');
    for (const { bit, changed } of flips(header))
      if (decodeRecordHeader(changed, 5) !== undefined) t.fail(`${kind} bit ${bit}`);
    for (let length = 0; length < header.length; length += 1)
      if (decodeRecordHeader(header.subarray(0, length), 5) !== undefined)
        t.fail(`${kind} cut to ${length}`);
  }
  const record = decodeRecordHeader(encodedRecord('write', 4000, payload).header, 5);
  if (record === undefined) throw new Error('not decoded');
  t.ok(payloadFits(record, payload));
  for (const { bit, changed } of flips(payload, 4090, 4110))
    if (payloadFits(record, changed)) t.fail(`payload bit ${bit}`);
  t.notOk(payloadFits(record, payload.subarray(0, 8999)));
});

t.test('B-25 documents: every wrong bit, every length', async (t) => {
  const { body } = encodeDocument('k', { format: 1, name: 'ä', size: '9007199254740993' }, 'a', [
    '00000000',
  ]);
  t.match(decodeDocument('k', body).value, { name: 'ä', size: '9007199254740993' });
  for (const { bit, changed } of flips(body))
    if (codeOf(() => decodeDocument('k', changed)) !== 'DOCUMENT_DAMAGED') t.fail(`bit ${bit}`);
  for (let length = 0; length < body.length; length += 1)
    if (codeOf(() => decodeDocument('k', body.subarray(0, length))) !== 'DOCUMENT_DAMAGED')
      t.fail(`cut to ${length}`);
});

t.test(
  'B-25 J2 the state file of a journal: a wrong bit or a cut is an error, never an older incarnation',
  async (t) => {
    const rig = await Rig.make();
    t.teardown(() => rig.end());
    const id = await rig.create('/v', { journalBytes: 16 << 20 });
    await (await rig.open(id)).close();
    await rig.restart();
    const path = `${rig.journalOf(id)}/state`;
    const whole = readFileSync(path);
    const line = whole.subarray(0, whole.indexOf(10));
    for (let at = 0; at < line.length; at += 5) {
      const changed = Buffer.from(whole);
      changed[at] = (changed[at] ?? 0) ^ (1 << (at % 8));
      writeFileSync(path, changed);
      await t.rejects(rig.open(id), { code: 'JOURNAL_DAMAGED' }, `byte ${at}`);
    }
    for (const length of [0, 1, line.length, line.length + 1, line.length + 4]) {
      writeFileSync(path, whole.subarray(0, length));
      await t.rejects(rig.open(id), { code: 'JOURNAL_DAMAGED' }, `cut to ${length}`);
    }
    writeFileSync(path, whole);
    await (await rig.open(id)).close();
  },
);

t.test('the marker of a store: a newer format is refused, a damaged one is an error', async (t) => {
  const directory = mkdtempSync('/tmp/dvce-marker-');
  t.teardown(() => rmSync(directory, { recursive: true }));
  const open = (create: boolean): Promise<unknown> =>
    openLocalStore({ root: `${directory}/s`, files: nodeFileSystem, random, create });
  await open(true);
  const path = `${directory}/s/dvce-store.json`;
  const text = readFileSync(path, 'utf8');
  writeFileSync(
    path,
    text.replace('"format":1', '"format":2').replace('"format": 1', '"format": 2'),
  );
  await t.rejects(open(false), { code: 'FORMAT_TOO_NEW' });
  writeFileSync(path, text.slice(0, 10));
  await t.rejects(open(false), { code: 'DOCUMENT_DAMAGED' });
});
