/** Imports that fail half way: the real import process, a blockd that refuses at the wrong moment. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { Events } from '../../src/agent/events.ts';
import { Images } from '../../src/agent/images.ts';
import { OperationLog } from '../../src/agent/operation-log.ts';
import { Operations } from '../../src/agent/operations.ts';
import type { Operation } from '../../src/api/index.ts';
import {
  DvceError,
  nodeFileSystem,
  silentLogger,
  systemClock,
  systemRandom,
  systemTimers,
} from '../../src/base/index.ts';
import { until } from '../support/blockd-process.ts';
import { FakeBlockd } from '../support/fake-host.ts';

const alive = setInterval(() => {}, 1000);
t.teardown(() => clearInterval(alive));

async function host(t: Test) {
  const directory = mkdtempSync('/tmp/dvce-img-');
  const world = {
    clock: systemClock,
    timers: systemTimers,
    random: systemRandom,
    logger: silentLogger,
  };
  const log = await OperationLog.open(`${directory}/ops`, nodeFileSystem, silentLogger, 1);
  const { operations } = await Operations.open({
    log,
    events: new Events({ clock: systemClock, logger: silentLogger }),
    ...world,
  });
  const blockd = new FakeBlockd();
  const images = new Images({
    blockd,
    operations,
    ...world,
    temporaryDirectory: `${directory}/tmp`,
    catalogueFile: `${directory}/images.yaml`,
  });
  const source = `${directory}/disk.raw`;
  writeFileSync(source, Buffer.alloc(2 * 1024 ** 2, 7));
  t.teardown(async () => {
    await operations.close();
    rmSync(directory, { recursive: true, force: true });
  });
  const ended = async (begun: Promise<Operation>): Promise<Operation> =>
    operations.wait((await begun).id, 25_000, new AbortController().signal);
  return { blockd, images, operations, source, ended };
}

t.test('an import that fails after its volume was made deletes the volume', async (t) => {
  const { blockd, images, source, ended } = await host(t);
  const broken = new DvceError('IO_FAILED', { what: 'opening', where: '/a', reason: 'no' });
  blockd.failures.set('volume.attach', broken);
  const operation = await ended(images.import({ name: 'debian', source }));
  t.match(operation, { status: 'failed', error: { code: 'IO_FAILED' } });
  t.ok(blockd.calls.includes('volume.create /images/debian'), 'it came that far');
  t.strictSame([...blockd.volumes.keys()], []);
  await t.rejects(images.get('debian'), { code: 'NOT_FOUND' });
});

t.test('an import that is cancelled while it copies deletes the volume', async (t) => {
  const { blockd, images, operations, source, ended } = await host(t);
  const begun = images.import({ name: 'debian', source });
  // This blockd exports nothing: the copy waits for the socket.
  await until('the copy', () => blockd.attached.size > 0);
  operations.cancel((await begun).id);
  t.match(await ended(begun), { status: 'cancelled', error: { code: 'CANCELLED' } });
  t.strictSame([[...blockd.volumes.keys()], blockd.attached.size], [[], 0]);
});

t.test('a failure of tidying up does not hide why the import failed', async (t) => {
  const { blockd, images, source, ended } = await host(t);
  const first = new DvceError('NO_SPACE', { where: 'the store', reason: 'full' });
  blockd.failures.set('volume.attach', first);
  blockd.failures.set('volume.delete', new DvceError('INTERNAL', { reason: 'second' }));
  const operation = await ended(images.import({ name: 'debian', source }));
  t.match(operation, { status: 'failed', error: { code: 'NO_SPACE' } });
  t.match(await images.list(), [{ name: 'debian', state: 'incomplete' }], 'and it can be seen');
  await t.rejects(images.published('debian'), { code: 'BAD_IMAGE', advice: /image delete debian/ });
  await images.delete('debian');
  t.strictSame(await images.list(), []);
});

t.test('after a restart of the agent only what its import made is deleted', async (t) => {
  const { blockd, images } = await host(t);
  const interrupted = (id: string, name: string): Operation => ({
    id,
    kind: 'image.import',
    status: 'failed',
    progress: null,
    resources: [`/v1/images/${name}`],
    mayCancel: false,
    requestedBy: 'local',
    node: 'host',
    startedAt: '',
    endedAt: '',
    result: null,
    error: null,
  });
  blockd.add('/images/half', { 'dvce.import': 'op1' });
  blockd.add('/images/later', { 'dvce.import': 'op9' });
  blockd.add('/images/own');
  blockd.add(
    '/images/done',
    { 'dvce.import': 'op4' },
    {
      kind: 'image',
      image: { digest: 'sha256:0', source: '/x', format: 'raw', sourceBytes: 1 },
    },
  );
  await images.tidy([
    interrupted('op1', 'half'),
    interrupted('op2', 'later'),
    interrupted('op3', 'own'),
    interrupted('op4', 'done'),
    interrupted('op5', 'never'),
  ]);
  t.strictSame([...blockd.volumes.keys()], ['/images/later', '/images/own', '/images/done']);
});

t.test('a name is taken by any volume, and by an import that is under way', async (t) => {
  const { blockd, images, operations, source, ended } = await host(t);
  blockd.add('/images/own');
  await t.rejects(images.import({ name: 'own', source }), { code: 'ALREADY_EXISTS' });
  const first = images.import({ name: 'debian', source });
  const { id } = await first;
  await t.rejects(images.import({ name: 'debian', source }), { code: 'ALREADY_EXISTS' });
  operations.cancel(id);
  await ended(first);
});
