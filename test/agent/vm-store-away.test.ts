/** A guest is ended while the store is away; what that owes to the store is paid when it is back. */
import t from 'tap';
import { DvceError } from '../../src/base/index.ts';
import { until } from '../support/blockd-process.ts';
import { vmHost } from '../support/vm-host.ts';

const alive = setInterval(() => {}, 1000);
t.teardown(() => clearInterval(alive));

const disk = { path: '/vms/web1/data', sizeBytes: 1024 ** 2 };

for (const state of ['gone', 'hangs'] as const)
  for (const options of [{ force: true }, { timeoutMs: 100 }])
    t.test(`blockd ${state}: stop ${JSON.stringify(options)}`, async (t) => {
      const { vms, blockd, driver, ended } = await vmHost(t);
      driver.obeysButton = false;
      await vms.create({ name: 'web1', disks: [disk] });
      vms.keep();
      await ended(vms.start('web1', false));
      await vms.table.documents();
      blockd.state = state;
      const stop = await ended(vms.stop('web1', options));
      t.match(stop, { status: 'succeeded', result: { hard: true, wasRunning: true } });
      t.equal(driver.calls.at(-1), 'kill web1');
      t.match(await vms.get('web1'), { phase: 'stopped', pid: null }, 'it can be looked at');
      t.ok(blockd.attached.has(disk.path), 'nobody could let it go');
      blockd.restart();
      await until('it is recorded', async () => (await vms.get('web1')).desired === 'stopped');
      await until('its volume is let go', async () => !blockd.attached.has(disk.path));
      t.match(await vms.get('web1'), { phase: 'stopped', crashes: [] });
      t.equal(driver.calls.filter((call) => call === 'start web1').length, 1);
    });

t.test('the volumes could not be let go: they are later', async (t) => {
  const { vms, blockd, ended } = await vmHost(t);
  await vms.create({ name: 'web1', disks: [disk] });
  await ended(vms.start('web1', false));
  blockd.failures.set(
    'volume.detach',
    new DvceError('BLOCKD_UNAVAILABLE', { where: 'here', reason: 'it ended' }),
  );
  t.equal((await ended(vms.stop('web1', {}))).status, 'succeeded');
  t.ok(blockd.attached.has(disk.path));
  vms.keep();
  await until('its volume is let go', async () => !blockd.attached.has(disk.path));
});

t.test('a stop again, and one of a VM that does not run', async (t) => {
  const { vms, blockd, driver, ended } = await vmHost(t);
  await vms.create({ name: 'web1', disks: [disk] });
  await vms.create({ name: 'web2' });
  await ended(vms.start('web1', false));
  await vms.table.documents();
  blockd.state = 'gone';
  await ended(vms.stop('web1', { force: true }));
  t.match(await ended(vms.stop('web2', {})), {
    status: 'failed',
    error: { code: 'BLOCKD_UNAVAILABLE' },
  });
  await t.rejects(vms.stop('nobody', {}), { code: 'BLOCKD_UNAVAILABLE' });
  blockd.restart();
  vms.keep();
  await until('it is recorded', async () => (await vms.get('web1')).desired === 'stopped');
  t.equal(driver.running.size, 0);
});

t.test('it was started again before the store was told: it is left alone', async (t) => {
  const { vms, blockd, ended } = await vmHost(t);
  await vms.create({ name: 'web1', disks: [disk] });
  await ended(vms.start('web1', false));
  await vms.table.documents();
  blockd.state = 'gone';
  await ended(vms.stop('web1', { force: true }));
  blockd.restart();
  await ended(vms.start('web1', false));
  vms.keep();
  await until('the keeper has looked', async () => {
    await vms.table.documents();
    return blockd.calls.filter((call) => call.startsWith('volume.attach')).length === 2;
  });
  t.match(await vms.get('web1'), { phase: 'running', desired: 'running' });
  t.ok(blockd.attached.has(disk.path));
});
