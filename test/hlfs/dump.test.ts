/** Dumps of the committed fixture of version 1, and of what damage makes of it: reported, never a crash. */
import { readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { seededRandom } from '../../src/base/index.ts';
import { dumpJournalFile, dumpSegment } from '../../src/hlfs/index.ts';
import { unpack } from '../support/fixture.ts';

const fixture = unpack(join(import.meta.dirname, '../fixtures/v1/store.json.gz'));
t.teardown(() => rmSync(fixture, { recursive: true, force: true }));

function filesBelow(directory: string): string[] {
  return readdirSync(directory).flatMap((name) => {
    const path = join(directory, name);
    return statSync(path).isDirectory() ? filesBelow(path) : [path];
  });
}

const all = filesBelow(fixture);
const segments = all
  .filter((path) => /\/seg\/\d{8}\/\d{10}$/.test(path))
  .map((path) => readFileSync(path));
const isJournal = (bytes: Buffer): boolean =>
  bytes.length >= 4096 && bytes.toString('latin1', 0, 4) === 'HLJF';
const journals = all.map((path) => readFileSync(path)).filter(isJournal);
const reader =
  (bytes: Buffer) =>
  (offset: number, length: number): Buffer =>
    bytes.subarray(offset, Math.min(bytes.length, offset + length));

t.test('whole files have no findings', async (t) => {
  t.ok(segments.length > 0 && journals.length > 0, `${segments.length} and ${journals.length}`);
  for (const bytes of segments) {
    const dump = dumpSegment(bytes, 'x', 10_000);
    t.strictSame(dump.findings, []);
    t.ok(dump.header !== null && dump.runCount > 0);
    t.equal(dumpSegment(bytes, 'x', 1).runs.length, 1, 'bounded');
  }
  for (const bytes of journals) {
    const dump = dumpJournalFile(reader(bytes), bytes.length, 10_000);
    t.strictSame(dump.findings, []);
    t.ok(dump.header !== null);
  }
  t.ok(journals.some((bytes) => dumpJournalFile(reader(bytes), bytes.length, 9).recordCount > 0));
});

t.test('every kind of damage is a finding or an earlier end', async (t) => {
  const random = seededRandom(11);
  let found = 0;
  for (let run = 0; run < 1500; run += 1) {
    const original = segments[run % segments.length] as Buffer;
    const bytes = Buffer.from(original);
    const isCut = run % 5 === 0;
    // Mostly where the structure is: the header page, and all behind the blocks.
    const at = run % 2 === 0 ? random.below(256) : random.below(bytes.length);
    bytes[at] = (bytes[at] ?? 0) ^ (1 + random.below(255));
    const given = isCut ? bytes.subarray(0, random.below(bytes.length)) : bytes;
    const dump = dumpSegment(given, 'x', 100);
    if (dump.findings.length > 0) found += 1;
  }
  t.ok(found > 1200, `${found} of 1500 seen; the rest lie in padding or in the second header`);
  for (let run = 0; run < 1500; run += 1) {
    const original = journals[run % journals.length] as Buffer;
    const bytes = Buffer.from(original.subarray(0, Math.min(original.length, 256 * 1024)));
    for (let change = 0; change <= run % 3; change += 1) {
      const at = random.below(run % 2 === 0 ? Math.min(bytes.length, 8192) : bytes.length);
      bytes[at] = random.below(256);
    }
    dumpJournalFile(reader(bytes), bytes.length, 100);
  }
  const noise = random.bytes(100_000);
  t.ok(dumpSegment(noise, 'x', 10).findings.length > 0);
  t.ok(dumpJournalFile(reader(noise), noise.length, 10).findings.length > 0);
  const empty = Buffer.alloc(0);
  t.ok(dumpSegment(empty, 'x', 10).findings.length > 0);
  t.equal(dumpJournalFile(reader(empty), 0, 10).header, null);
});
