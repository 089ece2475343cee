/** Changes of a running VM: the guest is made so, and what it refuses is taken back. */
import t from 'tap';
import { until } from '../support/blockd-process.ts';
import { vmHost } from '../support/vm-host.ts';

const alive = setInterval(() => {}, 1000);
t.teardown(() => clearInterval(alive));

const MiB = 1024 ** 2;

t.test('a running guest gets its new size at once', async (t) => {
  const { vms, driver, ended } = await vmHost(t);
  await vms.create({ name: 'web1', memoryBytes: 256 * MiB });
  await ended(vms.start('web1', false));
  await ended(vms.changes.resize('web1', { cpus: 2, memoryBytes: 128 * MiB }));
  t.strictSame(driver.size, { cpus: 2, memoryBytes: 128 * MiB });
  t.match(await vms.get('web1'), { cpus: 2, memoryBytes: 128 * MiB });
  const refused = await ended(vms.changes.resize('web1', { cpus: 9 }));
  t.match(refused, { status: 'failed', error: { code: 'VM_STATE' } });
  t.match(await vms.get('web1'), { cpus: 2 }, 'what it refused is not wanted any more');
});

t.test('a size that was written when the agent ended is given by the next', async (t) => {
  const { vms, driver, ended, change, again } = await vmHost(t);
  await vms.create({ name: 'web1' });
  await ended(vms.start('web1', false));
  await change('web1', { cpus: 4 });
  const next = again();
  t.teardown(() => next.close());
  await next.reconcile();
  await until('the guest has them', async () => driver.size.cpus === 4);
});

t.test('a card that the guest neither takes nor lets go stays, leaving', async (t) => {
  const { vms, driver, ended, blockd } = await vmHost(t);
  await vms.create({ name: 'web1', nics: [] });
  await ended(vms.start('web1', false));
  driver.stuck.add('card0');
  t.equal((await ended(vms.changes.attachNic('web1', { kind: 'user' }))).status, 'failed');
  t.match(blockd.documents.get('vms/web1')?.value, {
    nics: [{ name: 'card0', transit: 'leaving' }],
  });
  driver.stuck.clear();
  await ended(vms.changes.detachNic('web1', 'card0'));
  t.strictSame((await vms.get('web1')).nics, []);
});

t.test('what was on its way has arrived with the next start, or is gone', async (t) => {
  const { vms, blockd, ended, change } = await vmHost(t);
  const own = { path: '/vms/web1/data', sizeBytes: MiB };
  await vms.create({ name: 'web1', disks: [own], nics: [{ kind: 'user' }] });
  const [first] = await vms.disksOf('web1');
  if (first === undefined) throw new Error('no disk');
  const { id: volumeId } = blockd.add('/joins');
  const more = { ...first, owned: false, bootOrder: null };
  await change('web1', {
    disks: [
      first,
      { ...more, name: 'disk1', path: '/joins', volumeId, transit: 'joining' },
      { ...more, name: 'disk2', path: '/never', volumeId: '', transit: 'joining' },
      { ...more, name: 'disk3', path: '/joins', transit: 'leaving' },
    ],
  });
  t.equal((await ended(vms.start('web1', false))).status, 'succeeded');
  t.match((await vms.get('web1')).disks, [
    { name: 'disk0', state: 'attached' },
    { name: 'disk1', state: 'attached' },
  ]);
  t.equal((await vms.get('web1')).disks.length, 2);
});
