/** The life of VMs where something fails: what is recorded, what is let go, what is left alone. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { Events } from '../../src/agent/events.ts';
import { Images } from '../../src/agent/images.ts';
import { OperationLog } from '../../src/agent/operation-log.ts';
import { Operations } from '../../src/agent/operations.ts';
import { VmDocuments } from '../../src/agent/vm-documents.ts';
import { Vms } from '../../src/agent/vms.ts';
import {
  DvceError,
  nodeFileSystem,
  silentLogger,
  systemClock,
  systemRandom,
  systemTimers,
} from '../../src/base/index.ts';
import { until } from '../support/blockd-process.ts';
import { FakeBlockd, FakeHypervisor } from '../support/fake-host.ts';

const alive = setInterval(() => {}, 1000);
t.teardown(() => clearInterval(alive));
const never = new AbortController().signal;

async function host(t: Test) {
  const directory = mkdtempSync('/tmp/dvce-vm-');
  const files = nodeFileSystem;
  const world = {
    clock: systemClock,
    timers: systemTimers,
    random: systemRandom,
    logger: silentLogger,
  };
  const log = await OperationLog.open(`${directory}/operations`, files, silentLogger, 1);
  const { operations } = await Operations.open({
    log,
    events: new Events({ clock: systemClock, logger: silentLogger }),
    ...world,
  });
  const documents = new VmDocuments(`${directory}/vms`, files);
  await documents.open();
  const blockd = new FakeBlockd();
  const driver = new FakeHypervisor();
  const images = new Images({ blockd, operations, ...world, temporaryDirectory: directory });
  const vms = new Vms({ documents, driver, blockd, operations, images, ...world });
  t.teardown(async () => {
    await operations.close();
    rmSync(directory, { recursive: true, force: true });
  });
  const ended = async (begun: Promise<{ id: string }>) =>
    operations.wait((await begun).id, 10_000, never);
  return { directory, documents, blockd, driver, vms, ended };
}

const disk = { path: '/vms/web1/data', sizeBytes: 1024 ** 2 };

t.test('create, start, stop: volumes are attached exactly while the guest may run', async (t) => {
  const { vms, blockd, driver, ended } = await host(t);
  blockd.add('/own');
  const vm = await vms.create({ name: 'web1', disks: [disk, { path: '/own' }] });
  t.match(vm, { phase: 'stopped', desired: 'stopped', cpus: 1, memoryBytes: 512 * 1024 ** 2 });
  t.strictSame(
    vm.disks.map(({ name, owned, bootOrder }) => [name, owned, bootOrder]),
    [
      ['disk0', true, 1],
      ['disk1', false, 2],
    ],
  );
  t.equal((await ended(vms.start('web1', false))).status, 'succeeded');
  t.strictSame([...blockd.attached.keys()], ['/vms/web1/data', '/own']);
  await t.rejects(vms.start('web1', false), { code: 'VM_STATE' }, 'it runs already');
  await t.rejects(vms.delete('web1', false), { code: 'VM_STATE' }, 'it runs');
  const stop = await ended(vms.stop('web1', {}));
  t.strictSame(stop.result, { hard: false, wasRunning: true });
  t.equal(blockd.attached.size, 0);
  t.notOk(driver.calls.includes('kill web1'));
  await vms.delete('web1', false);
  t.strictSame([...blockd.volumes.keys()], ['/own'], 'what existed before stays');
  await t.rejects(vms.get('web1'), { code: 'NOT_FOUND' });
});

t.test('a guest that does not obey the power button is ended at the deadline', async (t) => {
  const { vms, driver, ended } = await host(t);
  driver.obeysButton = false;
  await vms.create({ name: 'web1' });
  await ended(vms.start('web1', false));
  t.strictSame((await ended(vms.stop('web1', { timeoutMs: 50 }))).result, {
    hard: true,
    wasRunning: true,
  });
  t.strictSame(driver.calls.slice(-2), ['powerDown web1', 'kill web1']);
});

t.test('a start that fails lets the volumes go and is not wanted any more', async (t) => {
  const { vms, blockd, driver, ended } = await host(t);
  await vms.create({ name: 'web1', disks: [disk] });
  driver.startFailure = new DvceError('HYPERVISOR_FAILED', { name: 'web1', reason: 'no' });
  const start = await ended(vms.start('web1', false));
  t.match(start, { status: 'failed', error: { code: 'HYPERVISOR_FAILED' } });
  t.equal(blockd.attached.size, 0);
  t.match(await vms.get('web1'), { desired: 'stopped', phase: 'stopped' });
});

t.test(
  'a VM whose second disk fails leaves nothing, and nothing of others is touched',
  async (t) => {
    const { vms, blockd } = await host(t);
    const other = blockd.add('/taken', {}, { protected: true });
    await t.rejects(
      vms.create({ name: 'web1', disks: [disk, { path: '/taken', sizeBytes: 1024 ** 2 }] }),
      { code: 'ALREADY_EXISTS' },
    );
    t.strictSame([...blockd.volumes.values()], [other]);
    await t.rejects(vms.get('web1'), { code: 'NOT_FOUND' });
    await t.rejects(vms.create({ name: 'web1', disks: [disk, disk] }), {
      code: 'INVALID_ARGUMENT',
    });
    await t.rejects(vms.create({ name: '../x' }), { code: 'INVALID_NAME' });
    await t.rejects(vms.create({ name: 'x', memoryBytes: 1 }), { code: 'INVALID_ARGUMENT' });
    await t.rejects(vms.create({ name: 'x', readyPattern: '(' }), { code: 'INVALID_ARGUMENT' });
    t.equal(blockd.volumes.size, 1);
  },
);

t.test(
  'N7 a VM whose document cannot be read is neither started, stopped, deleted nor overwritten',
  async (t) => {
    const { vms, directory, driver, blockd } = await host(t);
    await vms.create({ name: 'web1', disks: [disk] });
    const file = `${directory}/vms/web1.json`;
    const damaged = readFileSync(file, 'utf8').replace('"desired"', '"desird"');
    writeFileSync(file, damaged);
    driver.calls.length = 0;
    blockd.calls.length = 0;
    t.match(await vms.list(), [{ name: 'web1', phase: 'unreadable', desired: null }]);
    const refused = { code: 'DOCUMENT_DAMAGED' };
    await t.rejects(vms.start('web1', false), refused);
    await t.rejects(vms.stop('web1', {}), refused);
    await t.rejects(vms.delete('web1', false), refused);
    await t.rejects(vms.create({ name: 'web1' }), { code: 'ALREADY_EXISTS' });
    await vms.reconcile();
    await vms.renamed('x', '/y');
    t.strictSame([driver.calls, blockd.calls], [[], []], 'nobody was asked to do anything');
    t.equal(readFileSync(file, 'utf8'), damaged);
    t.ok(blockd.volumes.has('/vms/web1/data'));
  },
);

t.test(
  'a wanted guest that is gone after a restart of the agent: crashed, not started, volumes free',
  async (t) => {
    const { vms, documents, blockd, driver } = await host(t);
    await vms.create({ name: 'web1', disks: [disk] });
    const entry = await documents.read('web1');
    if (entry === undefined || !('document' in entry)) throw new Error('no document');
    await documents.write({ ...entry.document, desired: 'running' });
    blockd.attached.set('/vms/web1/data', entry.document.id);
    await vms.reconcile();
    t.match(await vms.get('web1'), { phase: 'crashed', desired: 'running', pid: null });
    t.equal(blockd.attached.size, 0);
    t.notOk(driver.calls.includes('start web1'));
    driver.running.set(entry.document.id, {
      phase: 'running',
      pid: 7,
      ready: 'agent',
      detail: null,
    });
    blockd.attached.set('/vms/web1/data', entry.document.id);
    await vms.reconcile();
    t.match(await vms.get('web1'), { phase: 'running', pid: 7, ready: 'agent' });
    t.equal(blockd.attached.size, 1, 'a guest that lives keeps its volumes');
  },
);

t.test('a guest that shuts itself down is stopped, one that dies is crashed', async (t) => {
  const { vms, blockd, driver, ended } = await host(t);
  const { id } = await vms.create({ name: 'web1', disks: [disk] });
  await ended(vms.start('web1', false));
  driver.end(id, { phase: 'stopped', pid: null, ready: null, detail: 'guest-shutdown' });
  await until('it is stopped', async () => (await vms.get('web1')).desired === 'stopped');
  t.equal(blockd.attached.size, 0);
  await ended(vms.start('web1', false));
  driver.end(id, { phase: 'crashed', pid: null, ready: null, detail: 'signal 9' });
  await until('its volumes are free', () => blockd.attached.size === 0);
  t.match(await vms.get('web1'), { desired: 'running', phase: 'crashed' });
  t.match((await ended(vms.stop('web1', {}))).result, { wasRunning: false });
  t.match(await vms.get('web1'), { desired: 'stopped', phase: 'stopped', detail: 'signal 9' });
});

t.test('what was half done when the agent ended is undone, by label and id only', async (t) => {
  const { vms, documents, blockd } = await host(t);
  const { id } = await vms.create({ name: 'web1', disks: [disk] });
  const entry = await documents.read('web1');
  if (entry === undefined || !('document' in entry)) throw new Error('no document');
  const [first] = entry.document.disks;
  if (first === undefined) throw new Error('no disk');
  blockd.add('/vms/web1/more', { 'dvce.vm': id });
  blockd.add('/vms/web1/alien', { 'dvce.vm': 'another' });
  await documents.write({
    ...entry.document,
    half: 'creating',
    disks: [
      first,
      { ...first, name: 'disk1', path: '/vms/web1/more', volumeId: '' },
      { ...first, name: 'disk2', path: '/vms/web1/alien', volumeId: '' },
      { ...first, name: 'disk3', path: '/vms/web1/never', volumeId: '' },
    ],
  });
  await vms.reconcile();
  t.strictSame([...blockd.volumes.keys()], ['/vms/web1/alien']);
  t.strictSame(await vms.list(), []);
});

t.test('a protected disk keeps its VM, before anything is deleted', async (t) => {
  const { vms, blockd } = await host(t);
  await vms.create({ name: 'web1', disks: [disk] });
  const volume = await blockd.call('volume.get', { path: disk.path });
  blockd.volumes.set(disk.path, { ...volume, protected: true });
  await t.rejects(vms.delete('web1', false), { code: 'PROTECTED' });
  t.match(await vms.get('web1'), { phase: 'stopped' });
  await vms.delete('web1', true);
  t.ok(blockd.volumes.has(disk.path), '--keep-disks leaves it');
});

t.test('one change at a time: a second one is refused, not queued', async (t) => {
  const { vms, ended, driver } = await host(t);
  driver.obeysButton = false;
  await vms.create({ name: 'web1' });
  await ended(vms.start('web1', false));
  const stop = vms.stop('web1', { timeoutMs: 100 });
  await t.rejects(vms.stop('web1', {}), { code: 'VM_STATE', message: /vm\.stop/ });
  t.equal((await ended(stop)).status, 'succeeded');
});
