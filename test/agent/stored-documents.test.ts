// limit: 60 s
/** Documents of the wanted state, against a real blockd. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import Type from 'typebox';
import { StoredDocuments } from '../../src/agent/stored-documents.ts';
import { DvceError } from '../../src/base/index.ts';
import { testNode } from '../support/blockd-process.ts';
import { FakeBlockd } from '../support/fake-host.ts';

const schema = Type.Object({ cpus: Type.Integer({ minimum: 1 }) });
type Value = { cpus: number; later?: string };

t.test(
  'documents are kept in the store, changed by compare-and-swap, and survive blockd',
  async (t) => {
    const node = testNode(t, ['--workers', '1']);
    await node.ensure();
    const open = (): StoredDocuments<typeof schema> =>
      new StoredDocuments({ blockd: node.client, kind: 'vms', schema });
    const documents = open();
    t.strictSame(await documents.list(), []);
    t.equal(await documents.read('a'), undefined);
    const first: Value = { cpus: 1, later: 'kept' };
    t.strictSame(await documents.create('a', first), { name: 'a', version: 1, value: first });
    await t.rejects(documents.create('a', first), { code: 'ALREADY_EXISTS' });
    await documents.replace('a', 1, { ...first, cpus: 2 });
    await t.rejects(documents.replace('a', 1, first), { code: 'CONFLICT' });
    t.match(await documents.read('a'), { version: 2 }, 'a lost race reads it anew');
    await documents.create('b', { cpus: 3 });
    await documents.remove('b', 1);
    await documents.create('b', { cpus: 4 });

    await node.kill();
    await node.answers();
    t.match(
      await open().list(),
      [
        { name: 'a', version: 2, value: { cpus: 2, later: 'kept' } },
        { name: 'b', version: 3, value: { cpus: 4 } },
      ],
      'S10: fields that are not known stay',
    );
  },
);

t.test(
  'N7 an unreadable document is an entry with its error, and nothing overwrites it',
  async (t) => {
    const node = testNode(t, ['--workers', '1']);
    await node.ensure();
    const documents = new StoredDocuments({ blockd: node.client, kind: 'vms', schema });
    await documents.create('bad', { cpus: 1 });
    await documents.create('odd', { cpus: 1 });
    await node.client.call('document.replace', {
      kind: 'vms',
      name: 'odd',
      version: 1,
      value: { cpus: 'many' },
    });
    const directory = join(node.directory.store, 'state', 'vms', 'bad@');
    const [file = ''] = readdirSync(directory);
    const path = join(directory, file);
    writeFileSync(path, readFileSync(path, 'utf8').replace('"cpus":1', '"cpus":7'));

    const fresh = new StoredDocuments({ blockd: node.client, kind: 'vms', schema });
    const entries = await fresh.list();
    t.match(entries, [
      { name: 'bad', error: { code: 'DOCUMENT_DAMAGED' } },
      { name: 'odd', error: { code: 'DOCUMENT_DAMAGED', message: /cpus/ } },
    ]);
    t.match(await fresh.read('bad'), { error: { code: 'DOCUMENT_DAMAGED' } });
    await t.rejects(fresh.replace('bad', 1, { cpus: 2 }), { code: 'DOCUMENT_DAMAGED' });
    await t.rejects(fresh.create('bad', { cpus: 2 }), { code: 'DOCUMENT_DAMAGED' });
    t.match(readFileSync(path, 'utf8'), '"cpus":7', 'it is as it was');
  },
);

t.test(
  'N7 a store that does not answer is an error, not an empty list; a lost answer is looked up',
  async (t) => {
    const blockd = new FakeBlockd();
    const documents = new StoredDocuments({ blockd, kind: 'vms', schema });
    const away = new DvceError('BLOCKD_UNAVAILABLE', { where: 'here', reason: 'a test' });
    blockd.failures.set('document.list', away);
    await t.rejects(documents.list(), { code: 'BLOCKD_UNAVAILABLE' });
    t.strictSame(await documents.list(), [], 'a failure is not remembered');
    await documents.create('a', { cpus: 1 });
    // The change happens, its answer is lost.
    await blockd.call('document.replace', {
      kind: 'vms',
      name: 'a',
      version: 1,
      value: { cpus: 9 },
    });
    blockd.failures.set('document.replace', away);
    await t.rejects(documents.replace('a', 1, { cpus: 9 }), { code: 'BLOCKD_UNAVAILABLE' });
    t.match(await documents.read('a'), { version: 2, value: { cpus: 9 } });
  },
);
