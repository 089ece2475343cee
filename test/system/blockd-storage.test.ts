// limit: 120 s
/**
 * Trash, quotas, held exports, maps and capacity against a real blockd that is killed in the middle. What the methods answer
 * is seen once more after the kill.
 */
import t from 'tap';
import { GiB, MiB, TiB } from '../../src/base/index.ts';
import type { ControlMethod, ControlParams } from '../../src/blockd/index.ts';
import { testNode, until } from '../support/blockd-process.ts';
import { RawNbd } from '../support/nbd-raw.ts';
import { blockBytes, readStamp, stamp } from '../support/stamped-load.ts';

const paths = (found: { volumes: readonly { path: string }[] }): string[] =>
  found.volumes.map(({ path }) => path);

t.test('a deleted volume can be had back, whatever happens to blockd', async (t) => {
  const node = testNode(t, [
    '--workers',
    '1',
    '--journal-bytes',
    '64MiB',
    '--export-idle',
    '200ms',
  ]);
  const pid = await node.ensure();
  const call = <M extends ControlMethod>(method: M, params: ControlParams<M>) =>
    node.client.call(method, params);
  const front = { path: node.directory.nbdSocket };
  const killed = async (): Promise<void> => {
    const before = await node.answers();
    process.kill(before ?? 0, 'SIGKILL');
    await until('another blockd', async () => {
      const now = await node.answers();
      return now !== undefined && now !== before;
    });
  };

  await call('volume.create', { path: '/p/a', sizeBytes: 16 * MiB });
  await call('volume.create', { path: '/p/b', sizeBytes: 16 * MiB });
  const writer = await RawNbd.connect(front, '/p/a');
  await writer.write(blockBytes, stamp(1, 11));
  // Acknowledged and in the journal only, with nobody to close the volume: the case in which a trash could lose data.
  await killed();
  t.not(await node.answers(), pid);
  await call('snapshot.create', { path: '/p/b', name: 's', protected: true });
  await t.rejects(call('volume.delete', { path: '/p/b' }), { code: 'PROTECTED' });
  t.match(await call('snapshot.update', { path: '/p/b', name: 's', protected: false }), {
    protected: false,
  });
  await call('volume.update', { path: '/p/b', protected: true });
  await t.rejects(call('volume.delete', { path: '/p/b' }), { code: 'PROTECTED' });
  await t.rejects(call('volume.delete', { path: '/p/b', now: true }), { code: 'PROTECTED' });
  await call('volume.update', { path: '/p/b', protected: false });

  const { trash } = await call('volume.delete', { path: '/p/a' });
  t.match(trash, { path: '/p/a', sizeBytes: 16 * MiB });
  t.strictSame(paths(await call('volume.list', {})), ['/p/b']);
  await t.rejects(call('volume.get', { path: '/p/a' }), { code: 'NOT_FOUND' });
  await killed();
  t.strictSame(paths(await call('trash.list', {})), ['/p/a'], 'it stays in the trash');
  // The name is free: another volume takes it.
  await call('volume.create', { path: '/p/a', sizeBytes: 8 * MiB });
  await t.rejects(call('trash.restore', { what: '/p/a' }), { code: 'ALREADY_EXISTS' });
  await t.rejects(call('trash.restore', { what: '/p/none' }), { code: 'NOT_FOUND' });
  t.match(await call('trash.restore', { what: trash?.id ?? '', to: '/back/a' }), {
    id: trash?.id,
    path: '/back/a',
  });
  const reader = await RawNbd.connect(front, '/back/a');
  t.equal(readStamp(await reader.read(blockBytes, blockBytes), 1), 11, 'not a byte is lost');
  await t.rejects(call('volume.delete', { path: '/back/a' }), { code: 'IN_USE' }, 'in use');
  await reader.disconnect();
  t.strictSame(paths(await call('volume.list', {})), ['/back/a', '/p/a', '/p/b']);
  t.strictSame((await call('trash.list', {})).volumes, []);

  // A clone lives on; a snapshot that a clone in the trash needs is not deleted, and says why.
  await call('volume.clone', { source: '/p/b@s', path: '/c' });
  await call('volume.delete', { path: '/c' });
  await t.rejects(call('snapshot.delete', { path: '/p/b', name: 's' }), {
    code: 'IN_USE',
    message: /its clone \/c in the trash/,
  });
  await call('trash.empty', { what: '/c' });
  await call('snapshot.delete', { path: '/p/b', name: 's' });
  await call('volume.delete', { path: '/p/b', now: true });
  t.strictSame((await call('trash.list', {})).volumes, [], 'now means now');
  await call('volume.delete', { path: '/p/a' });
  t.equal((await call('trash.empty', {})).discarded.length, 1);
  t.strictSame(paths(await call('volume.list', {})), ['/back/a']);

  // held exports
  await call('snapshot.create', { path: '/back/a', name: 'held' });
  const held = await call('export.create', { path: '/back/a', readOnly: true });
  const snapshot = await call('export.create', { path: '/back/a', snapshot: 'held' });
  await t.rejects(call('volume.delete', { path: '/back/a' }), {
    code: 'IN_USE',
    message: /export/,
  });
  await t.rejects(call('snapshot.delete', { path: '/back/a', name: 'held' }), { code: 'IN_USE' });
  await t.rejects(call('snapshot.rollback', { path: '/back/a', name: 'held' }), { code: 'IN_USE' });
  await t.rejects(call('volume.attach', { path: '/back/a', attachId: 'x', vm: 'x' }), {
    code: 'IN_USE',
  });
  await killed();
  t.strictSame(
    (await call('export.list', {})).exports.map(({ id }) => id),
    [held.id, snapshot.id],
  );
  await until('the export to be open again', async () => {
    return (await call('volume.get', { path: '/back/a' })).open;
  });
  const guest = await RawNbd.connect({ path: held.socketPath }, held.exportName);
  t.equal(readStamp(await guest.read(blockBytes, blockBytes), 1), 11);
  await t.rejects(guest.write(0, stamp(0, 1)), { message: 'NBD error 1' }, 'read-only');
  await guest.disconnect();
  const past = await RawNbd.connect({ path: snapshot.socketPath }, snapshot.exportName);
  t.equal(readStamp(await past.read(blockBytes, blockBytes), 1), 11);
  await past.disconnect();
  await t.rejects(call('snapshot.delete', { path: '/back/a', name: 'held' }), { code: 'IN_USE' });
  await call('export.delete', { id: held.id });
  await call('export.delete', { id: snapshot.id });
  await t.rejects(call('export.delete', { id: held.id }), { code: 'NOT_FOUND' });

  // map
  const map = await call('volume.map', { path: '/back/a', snapshot: 'held' });
  t.match(map.extents, [
    { offset: 0, length: blockBytes, kind: 'hole' },
    { offset: blockBytes, length: blockBytes, kind: 'data', segment: Number },
    { offset: 2 * blockBytes, length: 14 * MiB + 2 * MiB - 2 * blockBytes, kind: 'hole' },
  ]);
  t.equal(map.next, null);
  const first = await call('volume.map', { path: '/back/a', limit: 1 });
  t.equal(first.next, blockBytes);
  const second = await call('volume.map', { path: '/back/a', limit: 1, offset: blockBytes });
  t.match(second, { extents: [{ kind: 'data', length: blockBytes }], next: 2 * blockBytes });
  await call('volume.create', { path: '/empty', sizeBytes: 8 * MiB });
  t.strictSame((await call('volume.map', { path: '/empty' })).extents, [
    { offset: 0, length: 8 * MiB, kind: 'hole' },
  ]);
  await t.rejects(call('volume.map', { path: '/empty', offset: 9 * MiB }), {
    code: 'OUT_OF_RANGE',
  });
  await t.rejects(call('volume.map', { path: '/empty', snapshot: 'x' }), { code: 'NOT_FOUND' });
});

t.test('quotas hold against many at once, and what is promised is told', async (t) => {
  const node = testNode(t, ['--workers', '1', '--trash-free-min', '1000TiB']);
  await node.ensure();
  const call = <M extends ControlMethod>(method: M, params: ControlParams<M>) =>
    node.client.call(method, params);
  const none = { sizeBytes: null, volumes: null, storedBytes: null };
  await call('volume.create', { path: '/prod/x', sizeBytes: 2 * GiB });
  await t.rejects(call('quota.set', { path: '/prod', ...none }), { code: 'INVALID_ARGUMENT' });
  t.match(await call('quota.set', { path: '/prod', ...none, sizeBytes: 5 * GiB, volumes: 4 }), {
    path: '/prod',
    usedBytes: 2 * GiB,
    usedVolumes: 1,
    usedStoredBytes: 0,
  });
  const outcomes = await Promise.allSettled(
    Array.from({ length: 12 }, (_, index) =>
      call('volume.create', { path: `/prod/v${index}`, sizeBytes: GiB }),
    ),
  );
  t.equal(outcomes.filter(({ status }) => status === 'fulfilled').length, 3, 'and not one more');
  for (const outcome of outcomes)
    if (outcome.status === 'rejected') t.match(outcome.reason, { code: 'QUOTA_EXCEEDED' });
  await call('volume.create', { path: '/production', sizeBytes: GiB });
  await t.rejects(call('volume.rename', { path: '/production', to: '/prod/y' }), {
    code: 'QUOTA_EXCEEDED',
  });
  await t.rejects(call('volume.resize', { path: '/prod/x', sizeBytes: 3 * GiB }), {
    code: 'QUOTA_EXCEEDED',
  });
  await t.rejects(call('volume.clone', { source: '/production', path: '/prod/y' }), {
    code: 'QUOTA_EXCEEDED',
  });
  await call('volume.rename', { path: '/prod/x', to: '/prod/deep/x' });
  await call('volume.delete', { path: '/prod/deep/x' });
  const before = await node.answers();
  process.kill(before ?? 0, 'SIGKILL');
  await until('another blockd', async () => {
    const now = await node.answers();
    return now !== undefined && now !== before;
  });
  t.match(await call('quota.list', {}), {
    quotas: [{ path: '/prod', sizeBytes: 5 * GiB, volumes: 4, usedBytes: 3 * GiB, usedVolumes: 3 }],
  });
  await call('volume.resize', { path: `${(await names(call)).at(0)}`, sizeBytes: 3 * GiB });

  const promised = await call('volume.create', { path: '/huge', sizeBytes: 16 * TiB });
  t.match(promised.warnings, [{ code: 'OVERCOMMIT' }]);
  t.match(
    (await call('capacity', {})).warnings.map(({ code }) => code),
    ['OVERCOMMIT', 'QUOTA_NEARLY_USED'],
  );
  await call('quota.delete', { path: '/prod' });
  await t.rejects(call('quota.get', { path: '/prod' }), { code: 'NOT_FOUND' });

  // "Space is short" (as the option says): the trash is emptied, oldest first.
  await until('space to be made', async () => (await call('trash.list', {})).volumes.length === 0);
});

async function names(
  call: (
    method: 'volume.list',
    params: { prefix: string },
  ) => Promise<{ volumes: { path: string }[] }>,
): Promise<string[]> {
  return paths(await call('volume.list', { prefix: '/prod' }));
}
