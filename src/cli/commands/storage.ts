/** `dvce trash ...`, `dvce quota ...`, and what `dvce volume` says about deleted volumes, content and exports. */
import type { Export, Quota } from '../../api/index.ts';
import { DvceError } from '../../base/errors.ts';
import { parseSource } from '../../base/ids.ts';
import { confirm, unlessMissing } from '../confirm.ts';
import { labels, orDash, size, time, yesNo } from '../format.ts';
import { usageError } from '../output.ts';
import type { Run } from '../spec.ts';

export const trashList: Run = async ({ api, output }) => {
  await output.list(await api.trash.list(), ({ id }) => id, [
    { title: 'path', value: ({ path }) => path },
    { title: 'size', value: ({ sizeBytes }) => size(sizeBytes), right: true },
    { title: 'deleted', value: ({ deletedAt }) => time(deletedAt) },
    { title: 'kept until', value: ({ expiresAt }) => time(expiresAt) },
    { title: 'id', value: ({ id }) => id },
    { title: 'labels', value: (volume) => labels(volume.labels) },
  ]);
};

export const trashEmpty: Run = async (context, given) => {
  const { api, output } = context;
  const what = given.optionalArgument('path|id');
  await confirm(context, given, 'deleting for good what is in the trash', what ?? 'trash');
  const { discarded } = await api.trash.empty(what === undefined ? {} : { what });
  output.changed(
    discarded,
    discarded.map(({ path }) => path).join('\n'),
    `${discarded.length} volumes deleted for good.`,
  );
};

export const undelete: Run = async ({ api, output }, given) => {
  const to = given.text('to');
  const what = given.argument('path|id');
  const volume = await api.trash.restore({ what, ...(to === undefined ? {} : { to }) });
  output.changed(volume, volume.path, `Volume ${volume.path} is back.`);
};

const unlimited = (value: number | null, text: (value: number) => string): string =>
  value === null ? '-' : text(value);

export const quotaList: Run = async ({ api, output }) => {
  await output.list(await api.quotas.list(), ({ path }) => path, [
    { title: 'path', value: ({ path }) => path },
    { title: 'used', value: ({ usedBytes }) => size(usedBytes), right: true },
    { title: 'size', value: ({ sizeBytes }) => unlimited(sizeBytes, size), right: true },
    { title: 'volumes', value: ({ usedVolumes }) => `${usedVolumes}`, right: true },
    { title: 'most volumes', value: ({ volumes }) => unlimited(volumes, String), right: true },
  ]);
};

const quotaFacts = (quota: Quota): readonly (readonly [string, string])[] => [
  ['path', quota.path],
  ['size', `${size(quota.usedBytes)} of ${unlimited(quota.sizeBytes, size)}`],
  ['volumes', `${quota.usedVolumes} of ${unlimited(quota.volumes, String)}`],
  [
    'stored',
    `${size(quota.usedStoredBytes)}; a warning above ${unlimited(quota.storedBytes, size)}`,
  ],
];

export const quotaShow: Run = async ({ api, output }, given) => {
  const quota = await api.quotas.get(given.argument('path'));
  output.show(quota, quotaFacts(quota));
};

export const quotaSet: Run = async ({ api, output }, given) => {
  const path = given.argument('path');
  const [sizeBytes, volumes, storedBytes] = ['size', 'volumes', 'storedWarn'].map((name) =>
    given.number(name),
  );
  if (sizeBytes === undefined && volumes === undefined && storedBytes === undefined)
    throw usageError('the command', 'it sets nothing', 'Give --size, --volumes or --stored-warn.');
  const before = (await api.quotas.list()).find((quota) => quota.path === path);
  const quota = await api.quotas.set(path, {
    sizeBytes: sizeBytes ?? before?.sizeBytes ?? null,
    volumes: volumes ?? before?.volumes ?? null,
    storedBytes: storedBytes ?? before?.storedBytes ?? null,
  });
  output.changed(
    quota,
    quota.path,
    `Quota of ${quota.path}: ${size(quota.usedBytes)} of ${unlimited(quota.sizeBytes, size)}, ${quota.usedVolumes} of ${unlimited(quota.volumes, String)} volumes.`,
  );
};

export const quotaDelete: Run = async (context, given) => {
  const path = given.argument('path');
  await unlessMissing(context, given, async () => {
    await context.api.quotas.delete(path);
    context.output.note(`The quota of ${path} is gone.`);
  });
};

export const map: Run = async ({ api, output }, given) => {
  const { path, snapshot } = parseSource(given.argument('path'));
  const found = await api.volumes.map(path, {
    snapshot,
    offset: given.number('offset'),
    limit: given.number('limit') ?? 1000,
  });
  if (output.json) return output.object(found);
  await output.list(found.extents, ({ offset }) => `${offset}`, [
    { title: 'offset', value: ({ offset }) => `${offset}`, right: true },
    { title: 'length', value: ({ length }) => `${length}`, right: true },
    { title: 'kind', value: ({ kind }) => kind },
    { title: 'log', value: ({ log }) => log ?? '-' },
    { title: 'segment', value: ({ segment }) => orDash(segment?.toString() ?? null), right: true },
    { title: 'at', value: (one) => orDash(one.segmentOffset?.toString() ?? null), right: true },
  ]);
  if (found.next !== null) output.note(`More from ${found.next} on: --offset ${found.next}`);
};

export const unixUri = ({ exportName, socketPath }: Export): string =>
  `nbd+unix:///${encodeURIComponent(exportName)}?socket=${encodeURIComponent(socketPath)}`;

function tcpUri({ exportName, tcp }: Export): string | null {
  return tcp === null ? null : `nbd://${tcp}/${encodeURIComponent(exportName)}`;
}

export const exportVolume: Run = async ({ api, output }, given) => {
  const { path, snapshot } = parseSource(given.argument('path'));
  const wantsTcp = given.flag('tcp');
  if (wantsTcp && (await api.status()).blockd?.nbdTcp == null)
    throw new DvceError('UNSUPPORTED', {
      what: 'an export over TCP',
      reason: 'blockd does not listen on TCP',
      advice: 'Start it with --nbd-tcp HOST:PORT and --nbd-tls-dir DIR; see: dvce blockd --help',
    });
  const made = await api.exports.create({
    path,
    ...(snapshot === undefined ? {} : { snapshot }),
    ...(given.flag('readOnly') ? { readOnly: true } : {}),
  });
  const tcp = tcpUri(made);
  if (output.json) return output.object({ ...made, uri: unixUri(made), tcpUri: tcp });
  if (given.flag('socket')) return output.raw(`${unixUri(made)}\n`);
  if (wantsTcp && tcp !== null) return output.raw(`${tcp}\n`);
  output.changed(
    made,
    made.id,
    [
      `${made.path}${made.snapshot === null ? '' : `@${made.snapshot}`} is exported${made.readOnly ? ' read-only' : ''} as ${made.id}.`,
      `  ${unixUri(made)}`,
      ...(tcp === null ? [] : [`  ${tcp}`]),
      `Look at it with: nbdinfo '${unixUri(made)}'`,
      `Give it up with: dvce volume unexport ${made.id}`,
    ].join('\n'),
  );
};

export const exportList: Run = async ({ api, output }) => {
  await output.list(await api.exports.list(), ({ id }) => id, [
    { title: 'id', value: ({ id }) => id },
    {
      title: 'of',
      value: (one) => `${one.path}${one.snapshot === null ? '' : `@${one.snapshot}`}`,
    },
    { title: 'read-only', value: ({ readOnly }) => yesNo(readOnly) },
    { title: 'since', value: ({ since }) => time(since) },
    { title: 'address', value: (one) => unixUri(one) },
  ]);
};

export const unexport: Run = async (context, given) => {
  const id = given.argument('id');
  await unlessMissing(context, given, async () => {
    await context.api.exports.delete(id);
    context.output.note(`${id} is given up.`);
  });
};

export const snapshotUpdate: Run = async ({ api, output }, given) => {
  const text = given.argument('path@name');
  const { path, snapshot: name } = parseSource(text);
  if (name === undefined)
    throw usageError(JSON.stringify(text), 'it names no snapshot', 'Write PATH@SNAPSHOT.');
  const added = given.labels('label');
  const kept = given.choice('protect');
  if (added === undefined && kept === undefined)
    throw usageError(
      'the command',
      'it changes nothing',
      'Give --label, --protect or --no-protect.',
    );
  const before = (await api.snapshots.list(path)).find((one) => one.name === name);
  const snapshot = await api.snapshots.update(path, name, {
    ...(added === undefined ? {} : { labels: { ...before?.labels, ...added } }),
    ...(kept === undefined ? {} : { protected: kept }),
  });
  output.changed(
    snapshot,
    `${path}@${name}`,
    `Snapshot ${path}@${name}: labels ${labels(snapshot.labels)}, ${snapshot.protected ? 'protected' : 'not protected'}.`,
  );
};
