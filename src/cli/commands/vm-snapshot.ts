/** `dvce vm snapshot|snapshots|rollback|delete-snapshot` */
import { asSnapshotName, checkName } from '../../base/ids.ts';
import { confirm, dryRun, unlessMissing } from '../confirm.ts';
import { follow } from '../follow.ts';
import { labels, size, time, yesNo } from '../format.ts';
import { usageError } from '../output.ts';
import type { Given, Run } from '../spec.ts';

/** Both parts of VM@SNAPSHOT. */
function target(given: Given): { vm: string; name: string } {
  const text = given.argument('vm@name');
  const [vm = '', name, ...more] = text.split('@');
  if (name === undefined || more.length > 0)
    throw usageError(
      JSON.stringify(text),
      'it names no snapshot of a VM',
      `Write VM@SNAPSHOT, for example ${vm === '' ? 'web1' : vm}@before-upgrade.`,
    );
  return { vm: checkName(vm), name: asSnapshotName(name) };
}

export const snapshot: Run = async (context, given) => {
  const { api, output } = context;
  const { vm, name } = target(given);
  const added = given.labels('label');
  const begun = await api.vms.snapshot(vm, {
    name,
    ...(given.flag('quiesce') ? { quiesce: true } : {}),
    ...(added === undefined ? {} : { labels: { ...added } }),
  });
  const ended = await follow(context, given, begun, { cancelOnInterrupt: false });
  if (ended !== undefined) output.changed(ended.result, `${vm}@${name}`, `Snapshot ${vm}@${name}.`);
};

export const list: Run = async ({ api, output }, given) => {
  const snapshots = await api.vms.snapshots(given.argument('name'));
  await output.list(snapshots, ({ vm, name }) => `${vm}@${name}`, [
    { title: 'name', value: ({ name }) => name },
    { title: 'created', value: ({ createdAt }) => time(createdAt) },
    { title: 'quiesced', value: ({ quiesced }) => yesNo(quiesced) },
    { title: 'cpus', value: ({ cpus }) => `${cpus}`, right: true },
    { title: 'memory', value: ({ memoryBytes }) => size(memoryBytes), right: true },
    { title: 'disks', value: ({ disks }) => `${disks.length}`, right: true },
    { title: 'labels', value: (one) => labels(one.labels) },
  ]);
};

export const rollback: Run = async (context, given) => {
  const { api, output } = context;
  const { vm, name } = target(given);
  await confirm(context, given, `setting VM ${vm} back to ${name}`, vm);
  const begun = await api.vms.rollback(vm, name);
  const ended = await follow(context, given, begun, { cancelOnInterrupt: false });
  if (ended === undefined) return;
  const now = await api.vms.get(vm);
  output.changed(now, vm, `VM ${vm} is at ${name} again.`);
  for (const path of detached(ended.result))
    output.note(`It has ${path} no more, which it got later; the volume stays.`);
};

const detached = (result: unknown): readonly string[] => {
  const { detached: paths = [] } = Object(result) as { detached?: readonly string[] };
  return paths;
};

export const remove: Run = async (context, given) => {
  const { api, output } = context;
  const { vm, name } = target(given);
  await unlessMissing(context, given, async () => {
    const plan = async () => {
      const found = (await api.vms.snapshots(vm)).find((one) => one.name === name);
      const disks = (found?.disks ?? []).flatMap((disk) => disk.snapshot ?? []);
      return disks.map((path) => ({ action: 'delete snapshot', object: path, note: '' }));
    };
    const change = () => api.vms.deleteSnapshot(vm, name);
    if (await dryRun(context, given, plan, change)) return;
    await confirm(context, given, `deleting snapshot ${vm}@${name}`, name);
    await change();
    output.note(`Snapshot ${vm}@${name} deleted.`);
  });
};
