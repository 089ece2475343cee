import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { type VmDocument, VmDocuments } from '../../src/agent/vm-documents.ts';
import { nodeFileSystem } from '../../src/base/index.ts';

const document: VmDocument = {
  format: 1,
  id: '3f85a25a-f86c-4c85-a9ca-5c6622442d53',
  name: 'web1',
  desired: 'stopped',
  cpus: 1,
  memoryBytes: 128 * 1024 ** 2,
  machine: 'q35',
  firmware: 'bios',
  nics: [],
  readyPattern: null,
  labels: {},
  createdAt: '2026-01-01T00:00:00.000Z',
  startedAt: null,
  disks: [],
};

async function open(t: Test): Promise<{ documents: VmDocuments; directory: string }> {
  const directory = mkdtempSync('/tmp/dvce-vms-');
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const documents = new VmDocuments(directory, nodeFileSystem);
  await documents.open();
  return { documents, directory };
}

t.test('a document is written whole, listed, and removed', async (t) => {
  const { documents, directory } = await open(t);
  await documents.write(document);
  await documents.write({ ...document, desired: 'running' });
  t.strictSame(await documents.read('web1'), {
    name: 'web1',
    document: { ...document, desired: 'running' },
  });
  t.strictSame(readdirSync(directory), ['web1.json'], 'no temporary file stays');
  await documents.remove('web1');
  t.equal(await documents.read('web1'), undefined);
});

t.test('S10 fields that this program does not know survive a rewrite', async (t) => {
  const { documents, directory } = await open(t);
  writeFileSync(`${directory}/web1.json`, JSON.stringify({ ...document, color: 'blue' }));
  const entry = await documents.read('web1');
  if (entry === undefined || !('document' in entry)) {
    t.fail('it is readable');
    return;
  }
  await documents.write({ ...entry.document, desired: 'running' });
  t.match(JSON.parse(readFileSync(`${directory}/web1.json`, 'utf8')), {
    color: 'blue',
    desired: 'running',
  });
});

t.test(
  'N7 a document that cannot be read is an entry with its reason, never an absence',
  async (t) => {
    const { documents, directory } = await open(t);
    const bad: readonly (readonly [string, string, RegExp])[] = [
      ['cut', JSON.stringify(document).slice(0, 40), /DOCUMENT_DAMAGED/],
      ['empty', '', /DOCUMENT_DAMAGED/],
      ['field', JSON.stringify({ ...document, name: 'field', cpus: 'two' }), /DOCUMENT_DAMAGED/],
      ['newer', JSON.stringify({ ...document, name: 'newer', format: 2 }), /FORMAT_TOO_NEW/],
      ['other', JSON.stringify(document), /DOCUMENT_DAMAGED/],
    ];
    for (const [name, text] of bad) writeFileSync(`${directory}/${name}.json`, text);
    const entries = await documents.list();
    t.equal(entries.length, bad.length);
    for (const [name, text, code] of bad) {
      const entry = entries.find((one) => one.name === name);
      if (entry === undefined || !('error' in entry)) {
        t.fail(`${name} is listed as unreadable`);
        return;
      }
      t.match(entry.error.code, code, name);
      t.equal(readFileSync(`${directory}/${name}.json`, 'utf8'), text, 'the file is as it was');
    }
  },
);

t.test('what an interrupted write left is removed, the document stays the old one', async (t) => {
  const { documents, directory } = await open(t);
  await documents.write(document);
  writeFileSync(`${directory}/web1.json.new`, '{"half');
  await documents.open();
  t.strictSame(readdirSync(directory), ['web1.json']);
  t.match(await documents.read('web1'), { document: { desired: 'stopped' } });
});
