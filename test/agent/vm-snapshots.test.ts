// limit: 120 s
/**
 * Snapshots of VMs over a real blockd. Only the hypervisor is a fake, because what is looked at is what becomes of documents and
 * disks when the agent ends between any two of its steps.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import t, { type Test } from 'tap';
import { addressPools } from '../../src/agent/address-pools.ts';
import { Events } from '../../src/agent/events.ts';
import { Images } from '../../src/agent/images.ts';
import type { DataProcess } from '../../src/agent/index.ts';
import { OperationLog } from '../../src/agent/operation-log.ts';
import { Operations } from '../../src/agent/operations.ts';
import { VmDocuments } from '../../src/agent/vm-documents.ts';
import { Vms } from '../../src/agent/vms.ts';
import {
  DvceError,
  MiB,
  nodeFileSystem,
  silentLogger,
  systemClock,
  systemRandom,
  systemTimers,
} from '../../src/base/index.ts';
import { type TestNode, testNode } from '../support/blockd-process.ts';
import { FakeHypervisor } from '../support/fake-host.ts';
import { RawNbd } from '../support/nbd-raw.ts';
import { blockBytes, readStamp, stamp } from '../support/stamped-load.ts';

t.setTimeout(120_000);
const never = new AbortController().signal;
const paths = ['/vms/web1/a', '/vms/web1/b'] as const;

/** Passes so many calls on; then the agent is as good as dead. */
class Mortal implements DataProcess {
  readonly #node: TestNode;
  left = Number.POSITIVE_INFINITY;

  constructor(node: TestNode) {
    this.#node = node;
  }

  call: DataProcess['call'] = async (method, params, options) => {
    this.left -= 1;
    if (this.left < 0)
      throw new DvceError('BLOCKD_UNAVAILABLE', { where: 'here', reason: 'the agent has ended' });
    return this.#node.client.call(method, params, options);
  };
}

async function host(t: Test) {
  const directory = mkdtempSync('/tmp/dvce-vm-');
  const node = testNode(t, ['--workers', '1', '--journal-bytes', '64MiB']);
  await node.ensure();
  const files = nodeFileSystem;
  const world = {
    clock: systemClock,
    timers: systemTimers,
    random: systemRandom,
    logger: silentLogger,
  };
  const log = await OperationLog.open(`${directory}/operations`, files, silentLogger, 1);
  const events = new Events({ clock: systemClock, logger: silentLogger });
  const { operations } = await Operations.open({ log, events, ...world });
  const driver = new FakeHypervisor();
  const all: Vms[] = [];
  /** As another agent finds the host. */
  const agent = (): { vms: Vms; blockd: Mortal } => {
    const blockd = new Mortal(node);
    const oldDirectory = `${directory}/vms`;
    const documents = new VmDocuments({ blockd, files, logger: silentLogger, oldDirectory });
    const images = new Images({ blockd, operations, ...world, temporaryDirectory: directory });
    const { nics } = addressPools({ documents, blockd, clock: systemClock });
    const vms = new Vms({ driver, blockd, operations, images, nics, ...world, documents });
    all.push(vms);
    return { vms, blockd };
  };
  t.teardown(async () => {
    for (const vms of all) await vms.close();
    await operations.close();
    rmSync(directory, { recursive: true, force: true });
  });
  const ended = async (begun: Promise<{ id: string }>) =>
    operations.wait((await begun).id, 20_000, never);
  const open = (path: string) => RawNbd.connect({ path: node.directory.nbdSocket }, path);
  const write = async (number: number): Promise<void> => {
    for (const path of paths) {
      const nbd = await open(path);
      await nbd.write(0, stamp(0, number));
      await nbd.flush();
      await nbd.disconnect();
    }
  };
  const numbers = async (suffix = ''): Promise<number[]> => {
    const found: number[] = [];
    for (const path of paths) {
      const nbd = await open(`${path}${suffix}`);
      found.push(readStamp(await nbd.read(0, blockBytes), 0));
      await nbd.disconnect();
    }
    return found;
  };
  const names = async (path: string): Promise<string[]> =>
    (await node.client.call('snapshot.list', { path })).snapshots.map(({ name }) => name);
  return { node, driver, agent, ended, write, numbers, names };
}

const disks = paths.map((path) => ({ path, sizeBytes: 4 * MiB }));

t.test('a snapshot and the way back: configuration, disks, and what came later', async (t) => {
  const { node, agent, ended, write, numbers, names } = await host(t);
  const { vms } = agent();
  await node.client.call('volume.create', { path: '/shared', sizeBytes: 4 * MiB });
  await vms.create({
    name: 'web1',
    disks: [...disks, { path: '/shared', readOnly: true }],
    labels: { team: 'shop' },
    nics: [{ kind: 'user' }],
  });
  await write(1);
  const made = await ended(vms.snapshots.create('web1', { name: 'one', labels: { why: 'x' } }));
  t.match(made, { status: 'succeeded', kind: 'vm.snapshot' }, JSON.stringify(made.error));
  t.match(await vms.snapshots.list('web1'), [
    {
      name: 'one',
      vm: 'web1',
      quiesced: false,
      labels: { why: 'x' },
      disks: [
        { name: 'disk0', snapshot: '/vms/web1/a@one' },
        { name: 'disk1', snapshot: '/vms/web1/b@one' },
        { name: 'disk2', path: '/shared', snapshot: null },
      ],
    },
  ]);
  await t.rejects(vms.snapshots.create('web1', { name: 'one' }), { code: 'ALREADY_EXISTS' });
  await t.rejects(vms.snapshots.create('web1', { name: '../x' }), { code: 'INVALID_NAME' });
  t.strictSame(await names('/shared'), []);

  await write(2);
  await node.client.call('volume.create', { path: '/later', sizeBytes: 4 * MiB });
  await ended(vms.changes.attachDisk('web1', { path: '/later' }));
  await ended(vms.changes.resize('web1', { cpus: 2, memoryBytes: 64 * MiB }));
  await vms.changes.update('web1', { labels: { team: 'other' }, protected: true });
  const before = await vms.get('web1');
  t.equal(before.cpus, 2);

  const back = await ended(vms.snapshots.rollback('web1', 'one'));
  t.match(back, { status: 'succeeded', result: { detached: ['/later'] } });
  t.strictSame(await numbers(), [1, 1]);
  const after = await vms.get('web1');
  t.match(after, { id: before.id, cpus: 1, labels: { team: 'shop' }, protected: true });
  t.equal(after.memoryBytes, 512 * MiB);
  t.strictSame(after.nics, before.nics, 'the same card with the same address');
  t.strictSame(
    after.disks.map(({ path }) => path),
    [...paths, '/shared'],
  );
  t.ok(await node.client.call('volume.get', { path: '/later' }), 'the volume stays');

  const { snapshots } = await node.client.call('snapshot.list', { path: paths[0] });
  for (const part of snapshots)
    await t.rejects(vms.snapshots.refusePart(part), { code: 'IN_USE', message: /web1@one/ });
  const part = { path: paths[1], name: 'one' };
  await node.client.call('snapshot.update', { ...part, protected: true });
  await t.rejects(vms.snapshots.delete('web1', 'one'), { code: 'PROTECTED', message: /b@one/ });
  t.strictSame(await names(paths[0]), ['one'], 'nothing is deleted by halves');
  t.equal((await vms.snapshots.list('web1')).length, 1);
  await node.client.call('snapshot.update', { ...part, protected: false });
  await vms.snapshots.delete('web1', 'one');
  t.strictSame([await names(paths[0]), await names(paths[1])], [[], []]);
  await t.rejects(vms.snapshots.delete('web1', 'one'), { code: 'NOT_FOUND' });
});

t.test('what a rollback needs is looked at before anything is changed', async (t) => {
  const { node, agent, driver, ended, write, numbers, names } = await host(t);
  const { vms } = agent();
  await vms.create({ name: 'web1', disks });
  await write(1);
  await ended(vms.snapshots.create('web1', { name: 'one' }));
  await write(2);
  await t.rejects(vms.snapshots.rollback('web1', 'none'), {
    code: 'NOT_FOUND',
    advice: 'List what exists with: dvce vm snapshots web1',
  });

  await ended(vms.start('web1', false));
  await t.rejects(vms.snapshots.rollback('web1', 'one'), { code: 'VM_STATE', message: /runs/ });
  await t.rejects(vms.snapshots.create('web1', { name: 'two', quiesce: true }), {
    code: 'VM_STATE',
    message: /agent does not answer/,
  });
  driver.agentAnswers = true;
  const quiet = await ended(vms.snapshots.create('web1', { name: 'two', quiesce: true }));
  t.equal(quiet.status, 'succeeded');
  t.strictSame(
    driver.calls.filter((call) => /freeze|thaw/.test(call)),
    ['freeze web1', 'thaw web1'],
  );
  await ended(vms.stop('web1', { force: true }));
  await t.rejects(vms.snapshots.create('web1', { name: 'three', quiesce: true }), {
    code: 'VM_STATE',
  });

  const reader = await RawNbd.connect({ path: node.directory.nbdSocket }, paths[1]);
  await t.rejects(vms.snapshots.rollback('web1', 'one'), { code: 'IN_USE' });
  await reader.disconnect();
  await vms.create({ name: 'web2', disks: [{ path: paths[1] }] });
  await t.rejects(vms.snapshots.rollback('web1', 'one'), { code: 'NOT_ALLOWED', message: /web2/ });
  await vms.delete('web2', true);
  await node.client.call('snapshot.delete', { path: paths[1], name: 'one' });
  await t.rejects(vms.snapshots.rollback('web1', 'one'), { code: 'NOT_ALLOWED', message: /@one/ });
  t.strictSame(await numbers(), [2, 2], 'nothing was set back');

  await vms.delete('web1', true);
  t.strictSame(await names(paths[0]), ['one', 'two'], 'volumes that stay keep their snapshots');
  await vms.create({ name: 'web1' });
  t.strictSame(await vms.snapshots.list('web1'), [], 'another VM of that name has none');
});

t.test('a guest is thawed when its snapshot fails, and nothing is left of that', async (t) => {
  const { node, agent, driver, ended, names } = await host(t);
  const { vms } = agent();
  await vms.create({ name: 'web1', disks });
  await ended(vms.start('web1', false));
  driver.agentAnswers = true;
  await node.client.call('snapshot.create', { path: paths[1], name: 'taken' });
  const failed = await ended(vms.snapshots.create('web1', { name: 'taken', quiesce: true }));
  t.match(failed, { status: 'failed', error: { code: 'ALREADY_EXISTS' } });
  t.strictSame(
    driver.calls.filter((call) => /freeze|thaw/.test(call)),
    ['freeze web1', 'thaw web1'],
  );
  t.strictSame(
    [await names(paths[0]), await names(paths[1])],
    [[], ['taken']],
    'not ours to delete',
  );
  t.strictSame(await vms.snapshots.list('web1'), []);
});

t.test('an agent that ends between any two calls leaves a whole snapshot, or none', async (t) => {
  const { agent, ended, names, write } = await host(t);
  const first = agent();
  await first.vms.create({ name: 'web1', disks });
  await write(1);
  let cut = 0;
  for (let left = 0; ; left += 1) {
    const dying = agent();
    await dying.vms.list();
    await dying.vms.snapshots.list('web1');
    dying.blockd.left = left;
    const outcome = await ended(dying.vms.snapshots.create('web1', { name: 's' })).catch(
      () => undefined,
    );
    const isDone = outcome?.status === 'succeeded';
    const next = agent();
    await next.vms.reconcile();
    const listed = (await next.vms.snapshots.list('web1')).length;
    t.equal(listed, isDone ? 1 : 0, `${left} calls: what was said is so`);
    t.strictSame(
      [await names(paths[0]), await names(paths[1])],
      isDone ? [['s'], ['s']] : [[], []],
      `${left} calls: the disks fit`,
    );
    if (isDone) break;
    cut += 1;
  }
  t.ok(cut >= 3, `${cut} places`);
});

t.test(
  'a rollback that was begun is finished by the next agent; before that nothing starts',
  async (t) => {
    const { agent, ended, write, numbers } = await host(t);
    const first = agent();
    await first.vms.create({ name: 'web1', disks });
    await write(1);
    await ended(first.vms.snapshots.create('web1', { name: 's' }));
    const seen = new Set<string>();
    for (let left = 0; ; left += 1) {
      await write(2);
      const before = agent();
      await ended(before.vms.changes.resize('web1', { cpus: 2 }));
      const dying = agent();
      await dying.vms.list();
      await dying.vms.snapshots.list('web1');
      dying.blockd.left = left;
      const outcome = await ended(dying.vms.snapshots.rollback('web1', 's')).catch(() => undefined);
      dying.blockd.left = Number.POSITIVE_INFINITY;
      const isBegun = (await dying.vms.table.document('web1')).rollback !== undefined;
      if (isBegun) {
        await t.rejects(dying.vms.start('web1', false), {
          message: /rollback of it has not finished/,
        });
        await t.rejects(dying.vms.snapshots.delete('web1', 's'), { code: 'VM_STATE' });
      }
      const next = agent();
      await next.vms.reconcile();
      const { cpus } = await next.vms.get('web1');
      const state = `${cpus} ${(await numbers()).join(' ')}`;
      const isBack = isBegun || outcome?.status === 'succeeded';
      t.equal(state, isBack ? '1 1 1' : '2 2 2', `${left} calls`);
      seen.add(`${isBegun} ${state}`);
      if (outcome?.status === 'succeeded') break;
    }
    t.strictSame([...seen].sort(), ['false 1 1 1', 'false 2 2 2', 'true 1 1 1']);
  },
);
