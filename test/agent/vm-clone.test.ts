/** A VM like another one: what it takes over, and what is left of one that could not be made. */
import t, { type Test } from 'tap';
import { DvceError } from '../../src/base/index.ts';
import { until } from '../support/blockd-process.ts';
import { vmHost } from '../support/vm-host.ts';

const alive = setInterval(() => {}, 1000);
t.teardown(() => clearInterval(alive));

const MiB = 1024 ** 2;
const disks = [
  { path: '/vms/web1/a', sizeBytes: MiB },
  { path: '/vms/web1/b', sizeBytes: MiB },
];

async function withSource(t: Test) {
  const host = await vmHost(t);
  await host.vms.create({ name: 'web1', memoryBytes: 256 * MiB, disks, nics: [{ kind: 'user' }] });
  return host;
}

t.test('what waits for the next start of its source is what a clone starts with', async (t) => {
  const { vms, ended } = await withSource(t);
  await ended(vms.start('web1', false));
  const size = { cpus: 4, memoryBytes: 512 * MiB, atNextStart: true };
  await ended(vms.changes.resize('web1', size));
  t.equal((await ended(vms.clones.clone('web1', { name: 'web2' }))).status, 'succeeded');
  t.match(await vms.get('web2'), { cpus: 4, memoryBytes: 512 * MiB, pending: null });
  t.match(await vms.get('web1'), { cpus: 1, memoryBytes: 256 * MiB, pending: { cpus: 4 } });
});

t.test('what is leaving the source is not in the clone', async (t) => {
  const { vms, ended, driver } = await withSource(t);
  await ended(vms.start('web1', false));
  driver.stuck.add('card0').add('disk1');
  await ended(vms.changes.detachNic('web1', 'card0'));
  await ended(vms.changes.detachDisk('web1', 'disk1'));
  await ended(vms.clones.clone('web1', { name: 'web2' }));
  t.match(await vms.get('web1'), { nics: [{}], disks: [{}, { state: 'leaving' }] });
  const clone = await vms.get('web2');
  t.strictSame([clone.nics.length, clone.disks.length], [0, 1]);
});

t.test('a clone that fails half way leaves no volume and no snapshot', async (t) => {
  const { vms, blockd, ended } = await withSource(t);
  blockd.snapshots.add('/vms/web1/a@mine');
  blockd.add('/vms/web2/disk1', {}, { protected: true });
  const failed = await ended(vms.clones.clone('web1', { name: 'web2' }));
  t.match(failed, { status: 'failed', error: { code: 'ALREADY_EXISTS' } });
  t.strictSame([...blockd.snapshots], ['/vms/web1/a@mine']);
  t.strictSame([...blockd.volumes.keys()], ['/vms/web1/a', '/vms/web1/b', '/vms/web2/disk1']);
  t.strictSame(
    (await vms.list()).map(({ name }) => name),
    ['web1'],
  );
});

t.test('one that succeeds keeps its snapshots; its document says nothing of them', async (t) => {
  const { vms, blockd, ended } = await withSource(t);
  await ended(vms.clones.clone('web1', { name: 'web2' }));
  t.equal(blockd.snapshots.size, 2);
  t.notMatch(JSON.stringify(blockd.documents.get('vms/web2')), /cutFrom|half/);
  await vms.delete('web2', false);
  t.equal(blockd.snapshots.size, 2, 'the volumes in the trash need them');
});

t.test('the agent ends while it clones: the next one removes volumes and snapshots', async (t) => {
  const { vms, blockd, again } = await withSource(t);
  blockd.failures.set('volume.clone', new DvceError('CANCELLED', { what: 'this is the end' }));
  // Nothing that is undone after the failure is done.
  const undo = new DvceError('BLOCKD_UNAVAILABLE', { where: 'here', reason: 'the agent is dead' });
  const replace = 'document.replace' as const;
  blockd.failures.set(replace, undo);
  await vms.clones.clone('web1', { name: 'web2' });
  await until('the clone has failed', async () => !blockd.failures.has(replace));
  t.equal(blockd.snapshots.size, 2);
  const next = again();
  t.teardown(() => next.close());
  await next.reconcile();
  t.equal(blockd.snapshots.size, 0);
  t.strictSame([...blockd.volumes.keys()], ['/vms/web1/a', '/vms/web1/b']);
});
