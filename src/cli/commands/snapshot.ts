/** `dvce snapshot ...` */
import type { Snapshot } from '../../api/index.ts';
import { parseSource } from '../../base/ids.ts';
import { confirm, dryRun, unlessExists, unlessMissing } from '../confirm.ts';
import { labels, size, time, yesNo } from '../format.ts';
import { usageError } from '../output.ts';
import type { Given, Run } from '../spec.ts';

/** Both parts of PATH@NAME. */
function target(given: Given): { path: string; name: string } {
  const text = given.argument('path@name');
  const { path, snapshot } = parseSource(text);
  if (snapshot === undefined)
    throw usageError(
      JSON.stringify(text),
      'it names no snapshot',
      `Write PATH@SNAPSHOT, for example ${path}@before-upgrade.`,
    );
  return { path, name: snapshot };
}

export const create: Run = async (context, given) => {
  const { api, output } = context;
  const { path, name } = target(given);
  const added = given.labels('label');
  const snapshot = await unlessExists(
    context,
    given,
    () =>
      api.snapshots.create(path, {
        name,
        ...(added === undefined ? {} : { labels: added }),
        ...(given.flag('protect') ? { protected: true } : {}),
      }),
    async () => find(await api.snapshots.list(path), name),
  );
  output.changed(snapshot, `${path}@${name}`, `Snapshot ${path}@${name}.`);
};

export const createSet: Run = async ({ api, output }, given) => {
  const name = given.argument('name');
  const added = given.labels('label');
  const snapshots = await api.snapshots.createSet({
    name,
    volumes: [...given.rest()],
    ...(added === undefined ? {} : { labels: added }),
    ...(given.flag('protect') ? { protected: true } : {}),
  });
  const names = snapshots.map(({ volume }) => `${volume}@${name}`);
  output.changed(snapshots, names.join('\n'), `Snapshots ${names.join(', ')}, of one instant.`);
};

/** It was there a moment ago; one that is gone since is shown as what is known of it. */
function find(snapshots: readonly Snapshot[], name: string): Snapshot {
  const found = snapshots.find((snapshot) => snapshot.name === name);
  if (found === undefined)
    throw usageError(
      `the snapshot ${name}`,
      'it was deleted at the same time',
      'Repeat the command.',
    );
  return found;
}

export const list: Run = async ({ api, output }, given) => {
  const path = given.argument('path');
  const limit = given.number('limit');
  const cursor = given.text('cursor');
  const { snapshots, next } =
    limit === undefined && cursor === undefined
      ? { snapshots: await api.snapshots.list(path) }
      : await api.snapshots.page(path, { limit, cursor });
  await output.list(snapshots, ({ volume, name }) => `${volume}@${name}`, [
    { title: 'name', value: ({ name }) => name },
    { title: 'created', value: ({ createdAt }) => time(createdAt) },
    { title: 'size', value: ({ sizeBytes }) => size(sizeBytes), right: true },
    { title: 'parent', value: ({ parent }) => parent ?? '-' },
    { title: 'clones', value: ({ clones }) => `${clones}`, right: true },
    { title: 'protected', value: (snapshot) => yesNo(snapshot.protected) },
    { title: 'labels', value: (snapshot) => labels(snapshot.labels) },
  ]);
  if (next !== undefined) output.note(`More with: --cursor ${next}`);
};

export const tree: Run = async ({ api, output }, given) => {
  const path = given.argument('path');
  const [volume, snapshots] = await Promise.all([api.volumes.get(path), api.snapshots.list(path)]);
  if (output.json) return output.object(snapshots);
  const { drawTree } = await import('../tree-drawing.ts');
  output.raw(drawTree(volume.path, snapshots));
};

export const diff: Run = async ({ api, output }, given) => {
  const { path, name } = target(given);
  const result = await api.snapshots.diff(path, name, {
    to: given.optionalArgument('to'),
    limit: given.number('limit'),
  });
  if (output.json) return output.object(result);
  await output.list(result.ranges, ({ offset }) => `${offset}`, [
    { title: 'offset', value: ({ offset }) => `${offset}`, right: true },
    { title: 'length', value: ({ length }) => size(length), right: true },
    { title: 'kind', value: ({ kind }) => kind },
  ]);
  output.note(
    `${size(result.changedBytes)} changed${result.truncated ? '; more ranges were left out, see --limit' : ''}.`,
  );
};

export const rollback: Run = async (context, given) => {
  const { api, output } = context;
  const { path, name } = target(given);
  const plan = async () => {
    const [volume, difference] = await Promise.all([
      api.volumes.get(path),
      api.snapshots.diff(path, name, { limit: 1 }),
    ]);
    const attached = volume.open?.attachId ?? null;
    return [
      {
        action: 'rollback',
        object: `${volume.path}@${name}`,
        note:
          attached === null
            ? `${size(difference.changedBytes)} written since are given up`
            : `refused: attached to ${attached}`,
      },
    ];
  };
  const change = () => api.snapshots.rollback(path, name);
  if (await dryRun(context, given, plan, change)) return;
  await confirm(context, given, `setting ${path} back to ${name}`, path);
  const volume = await change();
  output.changed(volume, volume.path, `Volume ${volume.path} is at ${name} again.`);
};

export const remove: Run = async (context, given) => {
  const { api, output } = context;
  const { path, name } = target(given);
  await unlessMissing(context, given, async () => {
    const plan = async () => {
      const snapshot = (await api.snapshots.list(path)).find((one) => one.name === name);
      if (snapshot === undefined) return [];
      const notes = [
        ...(snapshot.protected ? ['refused: protected'] : []),
        ...(snapshot.clones > 0 ? [`${snapshot.clones} clones keep what they share`] : []),
      ];
      return [{ action: 'delete snapshot', object: `${path}@${name}`, note: notes.join('; ') }];
    };
    const change = () => api.snapshots.delete(path, name);
    if (await dryRun(context, given, plan, change)) return;
    await confirm(context, given, `deleting snapshot ${path}@${name}`, name);
    await change();
    output.note(`Snapshot ${path}@${name} deleted.`);
  });
};
