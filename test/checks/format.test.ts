/** The byte tables of docs/format have no gap, no overlap and the lengths that the code has. */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import t from 'tap';
import {
  encodeFileHeader,
  encodeRecordHeader,
  fileHeaderUsedBytes,
  recordHeaderBytes,
} from '../../src/hlfs/journal-format.ts';
import { segmentHeaderBytes } from '../../src/hlfs/segment-format.ts';

interface Row {
  readonly offset: number;
  readonly bytes: number;
  readonly field: string;
}

/** Tables whose header is `offset | bytes | field`, by the heading above them. */
function tables(name: string): Map<string, Row[]> {
  const found = new Map<string, Row[]>();
  const page = readFileSync(resolve(import.meta.dirname, '../../docs/format', name), 'utf8');
  let heading = '';
  let rows: Row[] | undefined;
  for (const line of page.split('\n')) {
    if (line.startsWith('## ')) heading = line.slice(3);
    if (line === '| offset | bytes | field |') {
      rows = [];
      found.set(found.has(heading) ? `${heading} rows` : heading, rows);
    }
    const row = /^\| (\d+) \| (\d+) \| (.+) \|$/.exec(line);
    if (row !== null)
      rows?.push({ offset: Number(row[1]), bytes: Number(row[2]), field: row[3] ?? '' });
  }
  return found;
}

const lengths: readonly (readonly [page: string, heading: string, bytes: number])[] = [
  ['journal.md', 'File header', fileHeaderUsedBytes],
  ['journal.md', 'Record', recordHeaderBytes],
  ['segment.md', 'Header', segmentHeaderBytes],
  ['segment.md', 'Index', 32],
  ['segment.md', 'Root record', 16],
  ['segment.md', 'Root record rows', 20],
];
for (const [page, heading, bytes] of lengths)
  t.test(`${page}, ${heading}: ${bytes} bytes without a gap`, async (t) => {
    let end = 0;
    for (const row of tables(page).get(heading) ?? []) {
      t.equal(row.offset, end, row.field);
      end = row.offset + row.bytes;
    }
    t.equal(end, bytes);
  });

const at = (page: string, heading: string, field: RegExp): number =>
  tables(page)
    .get(heading)
    ?.find((row) => field.test(row.field))?.offset ?? -1;

t.test('journal.md says where the fields of a file header and of a record are', async (t) => {
  const header = encodeFileHeader({
    volume: '11111111-1111-4111-8111-111111111111',
    log: '22222222-2222-4222-8222-222222222222',
    epoch: 3,
    incarnation: 4,
    serial: 5,
    firstSeq: 6,
    salt: Buffer.alloc(16, 7),
  });
  const fileHeader = (field: RegExp): number => at('journal.md', 'File header', field);
  t.equal(header.toString('latin1', 0, 4), 'HLJF');
  t.equal(header[fileHeader(/^volume/)], 0x11);
  t.equal(header[fileHeader(/^log/)], 0x22);
  t.equal(header.readUInt32LE(fileHeader(/^epoch/)), 3);
  t.equal(header.readUInt32LE(fileHeader(/^incarnation/)), 4);
  t.equal(header.readUInt32LE(fileHeader(/^serial/)), 5);
  t.equal(header.readUInt32LE(fileHeader(/first record/)), 6);
  t.equal(header[fileHeader(/^salt/)], 7);

  const record = Buffer.alloc(recordHeaderBytes + 16);
  const facts = {
    kind: 'write' as const,
    seq: 11,
    offset: 12,
    length: 13,
    flushedSeq: 14,
    wallMs: 15,
  };
  const checksum = encodeRecordHeader(record, facts, [16], 0);
  const field = (name: RegExp): number => at('journal.md', 'Record', name);
  t.equal(record.toString('latin1', 0, 4), 'HLJR');
  t.equal(record.readUInt32LE(field(/^checksum/)), checksum);
  t.equal(record[field(/^kind/)], 1);
  t.equal(record.readUInt32LE(field(/^n:/)), 1);
  t.equal(record.readUInt32LE(field(/^sequence/)), 11);
  t.equal(record.readUInt32LE(field(/^offset in/)), 12);
  t.equal(record.readUInt32LE(field(/^length/)), 13);
  t.equal(record.readUInt32LE(field(/^newest sequence/)), 14);
  t.equal(record.readUInt32LE(field(/^wall/)), 15);
  t.equal(record.readUInt32LE(recordHeaderBytes), 16);
});
