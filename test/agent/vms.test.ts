/** The life of VMs where something fails: what is recorded, what is let go, what is left alone. */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import t from 'tap';
import { DvceError } from '../../src/base/index.ts';
import { until } from '../support/blockd-process.ts';
import { vmHost as host } from '../support/vm-host.ts';

const alive = setInterval(() => {}, 1000);
t.teardown(() => clearInterval(alive));

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
    const { vms: before, driver, blockd, again } = await host(t);
    await before.create({ name: 'web1', disks: [disk] });
    const stored = blockd.documents.get('vms/web1');
    if (stored === undefined) throw new Error('no document');
    const damaged = { ...stored, value: { ...stored.value, desired: 'perhaps' } };
    blockd.documents.set('vms/web1', damaged);
    const vms = again();
    driver.calls.length = 0;
    blockd.calls.length = 0;
    t.match(await vms.list(), [{ name: 'web1', phase: 'unreadable', desired: null }]);
    const refused = { code: 'DOCUMENT_DAMAGED' };
    await t.rejects(vms.start('web1', false), refused);
    await t.rejects(vms.stop('web1', {}), refused);
    await t.rejects(vms.delete('web1', false), refused);
    await t.rejects(vms.create({ name: 'web1' }), { code: 'ALREADY_EXISTS' });
    const changes: (() => Promise<unknown>)[] = [
      () => vms.control.pause('web1'),
      () => vms.changes.update('web1', { protected: true }),
      () => vms.changes.resize('web1', { cpus: 2 }),
      () => vms.changes.detachDisk('web1', 'disk0'),
    ];
    for (const change of changes) await t.rejects(change, refused);
    await vms.reconcile();
    await vms.renamed('x', '/y');
    const asked = blockd.calls.filter((call) => !/^document\.(list|read)/.test(call));
    t.strictSame([driver.calls, asked], [[], []], 'nobody was asked to do anything');
    t.equal(blockd.documents.get('vms/web1'), damaged);
    t.ok(blockd.volumes.has('/vms/web1/data'));
  },
);

t.test('a guest that is found after a restart of the agent keeps its volumes', async (t) => {
  const { vms, blockd, driver, change } = await host(t);
  const { id } = await vms.create({ name: 'web1', disks: [disk] });
  await change('web1', { desired: 'running' });
  driver.running.set(id, { phase: 'running', pid: 7, ready: 'agent', detail: null });
  blockd.attached.set('/vms/web1/data', id);
  await vms.reconcile();
  t.match(await vms.get('web1'), { phase: 'running', pid: 7, ready: 'agent' });
  t.equal(blockd.attached.size, 1);
  t.notOk(driver.calls.includes('start web1'));
});

t.test('a guest that shuts itself down is stopped', async (t) => {
  const { vms, blockd, driver, ended } = await host(t);
  const { id } = await vms.create({ name: 'web1', disks: [disk] });
  vms.keep();
  await ended(vms.start('web1', false));
  driver.end(id, { phase: 'stopped', pid: null, ready: null, detail: 'guest-shutdown' });
  await until('it is stopped', async () => (await vms.get('web1')).desired === 'stopped');
  t.equal(blockd.attached.size, 0);
  t.equal((await vms.get('web1')).phase, 'stopped');
});

const crash = { phase: 'crashed', pid: null, ready: null, detail: 'signal 9' } as const;

t.test('a crash is counted and followed by a restart; after three it is held', async (t) => {
  const { vms, blockd, driver, ended, change } = await host(t);
  const { id } = await vms.create({ name: 'web1', disks: [disk] });
  vms.keep();
  await ended(vms.start('web1', false));
  driver.end(id, crash);
  await until('it runs again', async () => (await vms.get('web1')).phase === 'running');
  t.equal((await vms.get('web1')).crashes.length, 1);
  // Two more; one that is older than a day does not count.
  const now = new Date().toISOString();
  await change('web1', { crashes: ['2020-01-01T00:00:00.000Z', now, now, now] });
  driver.end(id, crash);
  await until('it is held', async () => (await vms.get('web1')).held !== null);
  t.match(await vms.get('web1'), {
    desired: 'running',
    phase: 'crashed',
    held: /4 times.*signal 9/,
  });
  t.equal(blockd.attached.size, 0, 'its volumes are free');
  const starts = driver.calls.filter((call) => call === 'start web1').length;
  t.equal(starts, 2, 'it was not started again');
  await ended(vms.start('web1', false));
  t.match(await vms.get('web1'), { phase: 'running', held: null, crashes: [] });
  await vms.changes.update('web1', { onCrash: 'hold' });
  driver.end(id, crash);
  await until('it is held at once', async () => (await vms.get('web1')).held !== null);
  t.match((await ended(vms.stop('web1', {}))).result, { wasRunning: false });
  t.match(await vms.get('web1'), { desired: 'stopped', phase: 'stopped', held: null });
});

t.test(
  'a crash while the agent was away is counted once, and a failed restart counts too',
  async (t) => {
    const { vms, driver, change, again } = await host(t);
    const { id } = await vms.create({ name: 'web1' });
    await change('web1', {
      desired: 'running',
      restartDue: true,
      crashes: [new Date().toISOString()],
    });
    driver.ends.set(id, crash);
    const next = again();
    t.teardown(() => next.close());
    driver.startFailure = new DvceError('HYPERVISOR_FAILED', { name: 'web1', reason: 'no memory' });
    await next.reconcile();
    next.keep();
    await until(
      'the failed start is counted',
      async () => (await next.get('web1')).crashes.length === 2,
    );
    t.match(await next.get('web1'), { desired: 'running', phase: 'crashed' });
  },
);

t.test(
  'with the host start those that want to, in their order; a second look starts nothing',
  async (t) => {
    const { vms, driver, change, again, state } = await host(t);
    await vms.create({ name: 'last', autostart: true, startOrder: 20 });
    await vms.create({ name: 'first', autostart: true, startOrder: 10 });
    await vms.create({ name: 'not' });
    await change('not', { desired: 'running' });
    state.hostStarted = true;
    const next = again();
    t.teardown(() => next.close());
    await next.reconcile();
    t.strictSame(
      driver.calls.filter((call) => call.startsWith('start')),
      ['start first', 'start last'],
    );
    t.match(await next.get('not'), { desired: 'stopped', phase: 'stopped', held: /no autostart/ });
    await again().reconcile();
    t.equal(driver.calls.filter((call) => call.startsWith('start')).length, 2, 'they run already');
    driver.calls.length = 0;
    await next.stopAll(1000);
    t.strictSame(
      driver.calls,
      ['powerDown last', 'powerDown first'],
      'stopped in the opposite order',
    );
  },
);

t.test(
  'disks and cards of a running guest: the document first, and back when it fails',
  async (t) => {
    const { vms, blockd, driver, ended } = await host(t);
    await vms.create({ name: 'web1', disks: [disk], nics: [] });
    await ended(vms.start('web1', false));
    const more = { path: '/vms/web1/more', sizeBytes: 1024 ** 2 };
    t.equal((await ended(vms.changes.attachDisk('web1', more))).status, 'succeeded');
    t.match((await vms.get('web1')).disks, [{}, { name: 'disk1', state: 'attached', owned: true }]);
    t.ok(driver.plugged.has('disk1') && blockd.attached.has('/vms/web1/more'));
    await t.rejects(vms.changes.attachDisk('web1', more), { code: 'IN_USE' });
    await t.rejects(
      vms.changes.detachDisk('web1', 'disk0'),
      { code: 'VM_STATE' },
      'it boots from it',
    );
    await t.rejects(vms.changes.detachDisk('web1', 'disk7'), { code: 'INVALID_ARGUMENT' });
    driver.stuck.add('disk1');
    const stuck = await ended(vms.changes.detachDisk('web1', 'disk1'));
    t.match(stuck, { status: 'failed', error: { code: 'TIMED_OUT' } });
    t.match((await vms.get('web1')).disks, [{}, { name: 'disk1', state: 'leaving' }]);
    t.ok(blockd.attached.has('/vms/web1/more'), 'a volume that the guest may use is not let go');
    driver.stuck.clear();
    await ended(vms.changes.detachDisk('web1', '/vms/web1/more'));
    t.equal((await vms.get('web1')).disks.length, 1);
    t.notOk(blockd.attached.has('/vms/web1/more'));
    t.ok(blockd.volumes.has('/vms/web1/more'), 'the volume stays');
    driver.stuck.add('disk1');
    const path = '/vms/web1/third';
    const failed = await ended(vms.changes.attachDisk('web1', { path, sizeBytes: 1024 ** 2 }));
    t.equal(failed.status, 'failed');
    driver.stuck.clear();
    t.match((await ended(vms.changes.attachNic('web1', { kind: 'user' }))).result, {
      nic: 'card0',
    });
    t.match((await vms.get('web1')).nics, [{ name: 'card0', kind: 'user' }]);
    await ended(vms.changes.detachNic('web1', 'card0'));
    t.strictSame((await vms.get('web1')).nics, []);
  },
);

t.test('what the end of the agent left half way with a disk is brought to its end', async (t) => {
  const { vms, blockd, driver, ended, change, again } = await host(t);
  const { id } = await vms.create({ name: 'web1', disks: [disk] });
  await ended(vms.start('web1', false));
  const { id: volumeId } = blockd.add('/joins');
  blockd.add('/leaves');
  blockd.attached.set('/leaves', id);
  blockd.add('/vms/web1/half', { 'dvce.vm': id });
  driver.plugged.add('disk2');
  const [first] = await vms.disksOf('web1');
  if (first === undefined) throw new Error('no disk');
  const more = { ...first, owned: false, bootOrder: null };
  await change('web1', {
    disks: [
      first,
      { ...more, name: 'disk1', path: '/joins', volumeId, transit: 'joining' },
      { ...more, name: 'disk2', path: '/leaves', transit: 'leaving' },
      {
        ...more,
        name: 'disk3',
        path: '/vms/web1/half',
        volumeId: '',
        owned: true,
        transit: 'joining',
      },
    ],
  });
  const next = again();
  t.teardown(() => next.close());
  await next.reconcile();
  await until('it is done', async () => (await next.get('web1')).disks.length === 2);
  await until('it has settled', async () => !next.table.isBusy('web1'));
  t.match((await next.get('web1')).disks, [
    { name: 'disk0' },
    { name: 'disk1', state: 'attached' },
  ]);
  t.strictSame([...driver.plugged], ['disk1']);
  t.strictSame([...blockd.attached.keys()].sort(), ['/joins', '/vms/web1/data']);
  t.notOk(blockd.volumes.has('/vms/web1/half'), 'what was made for it is gone');
});

t.test('a size waits for the next start, or is set now', async (t) => {
  const { vms, ended, driver } = await host(t);
  await vms.create({ name: 'web1', memoryBytes: 256 * 1024 ** 2 });
  await ended(vms.changes.resize('web1', { cpus: 2 }));
  t.match(await vms.get('web1'), { cpus: 2, pending: null, machine: 'pc-q35-7.2' });
  await ended(vms.start('web1', false));
  await ended(
    vms.changes.resize('web1', { cpus: 4, memoryBytes: 512 * 1024 ** 2, atNextStart: true }),
  );
  t.match(await vms.get('web1'), { cpus: 2, pending: { cpus: 4, memoryBytes: 512 * 1024 ** 2 } });
  await ended(vms.stop('web1', {}));
  await ended(vms.start('web1', false));
  t.match(await vms.get('web1'), { cpus: 4, memoryBytes: 512 * 1024 ** 2, pending: null });
  t.ok(driver.calls.includes('start web1'));
  await t.rejects(async () => vms.changes.resize('web1', {}), { code: 'INVALID_ARGUMENT' });
  await t.rejects(async () => vms.changes.resize('web1', { memoryBytes: 5 }), {
    code: 'INVALID_ARGUMENT',
  });
});

t.test('a protected VM is not deleted', async (t) => {
  const { vms } = await host(t);
  await vms.create({ name: 'web1', protected: true });
  await t.rejects(vms.delete('web1', false), { code: 'PROTECTED' });
  await vms.changes.update('web1', { protected: false, labels: { a: 'b' }, autostart: true });
  t.match(await vms.get('web1'), { labels: { a: 'b' }, autostart: true, protected: false });
  await vms.delete('web1', false);
});

t.test(
  'documents of release 0.1.0 are taken over once; an unreadable one stays, unreadable',
  async (t) => {
    const { vms, directory, blockd, again } = await host(t);
    await vms.create({ name: 'old1' });
    const stored = blockd.documents.get('vms/old1');
    blockd.documents.clear();
    mkdirSync(`${directory}/vms`);
    writeFileSync(`${directory}/vms/old1.json`, JSON.stringify(stored?.value));
    writeFileSync(`${directory}/vms/old2.json`, '{"format": 1');
    const next = again();
    t.teardown(() => next.close());
    await next.reconcile();
    t.match(await next.list(), [
      { name: 'old1', phase: 'stopped' },
      { name: 'old2', phase: 'unreadable' },
    ]);
    t.notOk(existsSync(`${directory}/vms/old1.json`));
    t.ok(existsSync(`${directory}/vms/old2.json`));
    await t.rejects(next.create({ name: 'old2' }), { code: 'ALREADY_EXISTS' });
    await t.rejects(next.delete('old2', false), { code: 'DOCUMENT_DAMAGED' });
    const last = again();
    await last.reconcile();
    t.equal((await last.list()).length, 2);
  },
);

t.test('what was half done when the agent ended is undone, by label and id only', async (t) => {
  const { vms, blockd, change } = await host(t);
  const { id } = await vms.create({ name: 'web1', disks: [disk] });
  const [first] = await vms.disksOf('web1');
  if (first === undefined) throw new Error('no disk');
  blockd.add('/vms/web1/more', { 'dvce.vm': id });
  blockd.add('/vms/web1/alien', { 'dvce.vm': 'another' });
  await change('web1', {
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
