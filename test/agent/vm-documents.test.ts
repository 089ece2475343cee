/** Documents of VMs in the store: changed as they are now, never when they cannot be read. */
import t from 'tap';
import { type VmDocument, VmDocuments } from '../../src/agent/vm-documents.ts';
import { nodeFileSystem, silentLogger } from '../../src/base/index.ts';
import { FakeBlockd } from '../support/fake-host.ts';

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

function open(blockd = new FakeBlockd()): { documents: VmDocuments; blockd: FakeBlockd } {
  const documents = new VmDocuments({
    blockd,
    files: nodeFileSystem,
    logger: silentLogger,
    oldDirectory: '/nowhere',
  });
  return { documents, blockd };
}

t.test('a document is made, changed, listed, and removed', async (t) => {
  const { documents } = open();
  await documents.create(document);
  await t.rejects(documents.create(document), { code: 'ALREADY_EXISTS' });
  await documents.update(document, (now) => ({ ...now, desired: 'running' }));
  const expected = { name: 'web1', document: { ...document, desired: 'running' }, revision: 2 };
  t.strictSame(await documents.read('web1'), expected);
  t.strictSame(await documents.list(), [expected]);
  await documents.remove(document);
  t.equal(await documents.read('web1'), undefined);
  await t.rejects(
    documents.update(document, (now) => now),
    { code: 'NOT_FOUND' },
  );
});

t.test(
  'a change is made to the newest document, and another VM of the name is another',
  async (t) => {
    const { documents, blockd } = open();
    await documents.create(document);
    const other = open(blockd).documents;
    await other.update(document, (now) => ({ ...now, cpus: 2 }));
    await documents.update(document, (now) => ({ ...now, memoryBytes: 1024 ** 3 }));
    t.match(await documents.read('web1'), { document: { cpus: 2, memoryBytes: 1024 ** 3 } });
    await t.rejects(
      documents.update({ ...document, id: 'another' }, (now) => now),
      { code: 'NOT_FOUND' },
    );
  },
);

t.test('S10 fields that this program does not know survive a change', async (t) => {
  const { documents, blockd } = open();
  const value = { ...document, color: 'blue' };
  blockd.documents.set('vms/web1', { kind: 'vms', name: 'web1', version: 1, value });
  await documents.update(document, (now) => ({ ...now, desired: 'running' }));
  t.match(blockd.documents.get('vms/web1')?.value, { color: 'blue', desired: 'running' });
});

t.test(
  'N7 a document that cannot be read is an entry with its reason, never an absence',
  async (t) => {
    const cases: [string, object, string, RegExp][] = [
      ['of a newer format', { ...document, format: 2 }, 'FORMAT_TOO_NEW', /2.*1/],
      ['of another name', { ...document, name: 'web2' }, 'DOCUMENT_DAMAGED', /names web2/],
      ['without a field', { ...document, cpus: undefined }, 'DOCUMENT_DAMAGED', /cpus/],
    ];
    for (const [what, value, code, message] of cases) {
      const { documents, blockd } = open();
      const stored = {
        kind: 'vms',
        name: 'web1',
        version: 1,
        value: JSON.parse(JSON.stringify(value)),
      };
      blockd.documents.set('vms/web1', stored);
      t.match(await documents.read('web1'), { name: 'web1', error: { code, message } }, what);
      await t.rejects(
        documents.update(document, (now) => ({ ...now, cpus: 4 })),
        { code },
      );
      await documents.remove(document);
      t.equal(blockd.documents.get('vms/web1'), stored, 'it is as it was');
    }
  },
);
