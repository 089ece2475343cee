/** `dvce volume ...` */
import type { Volume } from '../../api/index.ts';
import { formatDuration, parseDuration } from '../../base/units.ts';
import { compressionGiven } from '../compression.ts';
import { confirm, dryRun, type Step, unlessExists, unlessMissing } from '../confirm.ts';
import type { Context } from '../context.ts';
import { labels, orDash, size, time, yesNo } from '../format.ts';
import { usageError } from '../output.ts';
import { limitsGiven, limitsText } from '../rate-limits.ts';
import type { Run } from '../spec.ts';
import { heldFacts } from './volume-tree.ts';

function facts(volume: Volume): readonly (readonly [string, string])[] {
  const { open, origin, image } = volume;
  return [
    ['path', volume.path],
    ['id', volume.id],
    ['kind', volume.kind],
    ['state', volume.state],
    ['size', `${size(volume.sizeBytes)} (${volume.sizeBytes} bytes)`],
    ['block size', `${volume.blockBytes}`],
    ['protected', yesNo(volume.protected)],
    ['labels', labels(volume.labels)],
    ['limits', limitsText(volume.limits)],
    ['created', time(volume.createdAt)],
    ['cloned from', origin === null ? '-' : `${origin.path}@${origin.snapshot}`],
    ...heldFacts(volume),
    ...(image === null ? [] : [['image of', `${image.source} (${image.digest})`] as const]),
    ['snapshots', `${volume.snapshots}`],
    ...(volume.scrub === undefined ? [] : [['scrubbed', scrubbed(volume.scrub)] as const]),
    ...pointFacts(volume),
    ['compression', compressionText(volume)],
    ['epoch', volume.epoch],
    ...space(volume),
    ['open', yesNo(open !== null)],
    ...(open === null ? [] : activity(open)),
  ];
}

/** What it is set to, and what came of it. */
function compressionText({ compression = 'none', space: taken }: Volume): string {
  const { mappedBytes = 0, mappedStoredBytes = mappedBytes } = taken ?? {};
  if (mappedStoredBytes >= mappedBytes) return compression;
  const ratio = (mappedBytes / mappedStoredBytes).toFixed(2);
  return `${compression}: ${size(mappedBytes)} in ${size(mappedStoredBytes)}, ${ratio} to 1`;
}

function space({ space: taken }: Volume): readonly (readonly [string, string])[] {
  if (taken === undefined || taken === null) return [];
  const borrowed =
    taken.borrowedBytes === 0 ? '' : ` (${size(taken.borrowedBytes)} of it stored by others)`;
  return [
    ['mapped', size(taken.mappedBytes)],
    ['stored', size(taken.storedBytes)],
    ['unique', size(taken.uniqueBytes)],
    ['shared', `${size(taken.sharedBytes)}${borrowed}`],
    ['pinned', size(taken.pinnedBytes)],
    ['garbage', size(taken.garbageBytes)],
  ];
}

function scrubbed({ finishedAt, running, findings }: NonNullable<Volume['scrub']>): string {
  const codes = [...new Set(findings.map(({ code }) => code))].join(', ');
  const result =
    finishedAt === null ? 'not yet' : `${time(finishedAt)}: ${codes || 'nothing found'}`;
  return running ? `${result}; being read now` : result;
}

function pointFacts({
  retainMs = null,
  points = null,
}: Volume): readonly (readonly [string, string])[] {
  if (retainMs === null) return [['points in time', 'none']];
  const text = (one: { flush: number; time: string } | null | undefined): string =>
    one == null ? '-' : `flush ${one.flush}, ${time(one.time)}`;
  return [
    ['points in time', `every flush of the last ${formatDuration(retainMs)}`],
    ['oldest point', text(points?.oldest)],
    ['newest point', text(points?.newest)],
    ['held by points', points === null ? '-' : size(points.heldBytes)],
  ];
}

/** `off` is null. */
function retainOf(given: Parameters<Run>[1]): number | null | undefined {
  const text = given.text('retain');
  if (text === undefined) return undefined;
  return text === 'off' ? null : parseDuration(text);
}

function activity(open: NonNullable<Volume['open']>): readonly (readonly [string, string])[] {
  return [
    ['attached to', orDash(open.attachId)],
    ['connections', `${open.connections}`],
    ['read-only', orDash(open.readOnlyReason)],
    ['segments', `${open.segments}`],
    ['journal', `${size(open.journalBytes)} of ${size(open.journalQuotaBytes)}`],
    ['flush lag', formatDuration(open.flushLagMs)],
    ['read', `${size(open.readBytes)} in ${open.reads} requests`],
    ['written', `${size(open.writtenBytes)} in ${open.writes} requests, ${open.flushes} flushes`],
    [
      'throttled',
      `${formatDuration(open.throttledMs ?? 0)}, ${open.throttledRequests ?? 0} requests waited`,
    ],
    ...(open.readBlocks === undefined
      ? []
      : [['reads found in', sources(open.readBlocks)] as const]),
    ...(open.latencies ?? []).map(
      ({ operation, requests, medianUs, p99Us }): readonly [string, string] => [
        `${operation} takes`,
        `${micro(medianUs)}, 99 % ${micro(p99Us)} (${requests} of late)`,
      ],
    ),
  ];
}

/** `cache 12 %, page cache 80 %, ...`: where the blocks were that were read. */
function sources({ ahead: _, ...found }: NonNullable<NonNullable<Volume['open']>['readBlocks']>) {
  const words = {
    cache: 'cache',
    pageCache: 'page cache',
    store: 'store',
    joined: 'reads of others',
  };
  const all = Object.values(found).reduce((sum, blocks) => sum + blocks, 0);
  const shares = Object.entries({ ...words, journal: 'journal', zero: 'holes' }).flatMap(
    ([key, word]) => {
      const blocks = found[key as keyof typeof found]; // the words are by its keys
      return blocks === 0 ? [] : [`${word} ${Math.round((blocks * 100) / all)} %`];
    },
  );
  return shares.length === 0 ? '-' : shares.join(', ');
}

const micro = (us: number): string => (us < 1000 ? `${us}us` : `${(us / 1000).toPrecision(3)}ms`);

export const create: Run = async ({ api, output, ...context }, given) => {
  const path = given.argument('path');
  const sizeBytes = given.number('size') ?? 0;
  const block = given.text('block');
  const journalBytes = given.number('journal');
  const given_labels = given.labels('label');
  const limits = limitsGiven(given);
  const retainMs = retainOf(given);
  const volume = await unlessExists(
    { api, output, ...context },
    given,
    () =>
      api.volumes.create({
        path,
        sizeBytes,
        ...(block === undefined ? {} : { blockBytes: block === '4096' ? 4096 : 512 }),
        ...(journalBytes === undefined ? {} : { journalBytes }),
        ...(retainMs == null ? {} : { retainMs }),
        ...compressionGiven(given),
        ...(given_labels === undefined ? {} : { labels: given_labels }),
        ...(limits === undefined ? {} : { limits }),
        ...(given.flag('protect') ? { protected: true } : {}),
      }),
    () => api.volumes.get(path),
  );
  output.changed(volume, volume.path, `Volume ${volume.path} (${size(volume.sizeBytes)}).`);
  warn(output, volume);
};

/** What blockd has to say about space. */
function warn(output: Context['output'], { warnings = [] }: Volume): void {
  for (const { object, detail, advice } of warnings)
    output.note(`Warning: ${object}: ${detail}. ${advice}`);
}

export const list: Run = async ({ api, output }, given) => {
  const prefix = given.optionalArgument('prefix');
  const volumes = await api.volumes.list({
    prefix,
    ...(given.flag('all') ? {} : { kind: 'volume' }),
  });
  await output.list(volumes, ({ path }) => path, [
    { title: 'path', value: ({ path }) => path },
    { title: 'size', value: ({ sizeBytes }) => size(sizeBytes), right: true },
    { title: 'mapped', value: ({ open }) => size(open?.mappedBytes ?? null), right: true },
    { title: 'snapshots', value: ({ snapshots }) => `${snapshots}`, right: true },
    { title: 'state', value: (volume) => stateOf(volume) },
    {
      title: 'origin',
      value: ({ origin }) => (origin === null ? '-' : `${origin.path}@${origin.snapshot}`),
    },
    { title: 'labels', value: (volume) => labels(volume.labels) },
  ]);
};

function stateOf({ state, open, protected: kept }: Volume): string {
  const words = [
    state,
    ...(open === null ? [] : [open.attachId === null ? 'open' : 'attached']),
    ...(open?.readOnlyReason == null ? [] : ['read-only']),
    ...(kept ? ['protected'] : []),
  ];
  return words.join(',');
}

export const show: Run = async ({ api, output }, given) => {
  const volume = await api.volumes.get(given.argument('path'), { space: true });
  output.show(volume, facts(volume));
};

export const resize: Run = async (context, given) => {
  const { api, output } = context;
  const path = given.argument('path');
  const sizeBytes = given.number('size') ?? 0;
  const shrink = given.flag('shrink');
  const before = await api.volumes.get(path);
  const plan = async (): Promise<Step[]> => [
    {
      action: sizeBytes < before.sizeBytes ? 'shrink' : 'grow',
      object: before.path,
      note: `${size(before.sizeBytes)} -> ${size(sizeBytes)}`,
    },
  ];
  const change = () => api.volumes.resize(path, { sizeBytes, ...(shrink ? { shrink } : {}) });
  if (await dryRun(context, given, plan, change)) return;
  if (shrink && sizeBytes < before.sizeBytes)
    await confirm(context, given, `giving up what lies beyond ${size(sizeBytes)} of ${path}`, path);
  const volume = await change();
  output.changed(
    volume,
    volume.path,
    `Volume ${volume.path}: ${size(before.sizeBytes)} -> ${size(volume.sizeBytes)}.`,
  );
  warn(output, volume);
};

export const rename: Run = async ({ api, output }, given) => {
  const volume = await api.volumes.update(given.argument('path'), { path: given.argument('to') });
  output.changed(volume, volume.path, `Volume ${volume.path}.`);
};

export const update: Run = async ({ api, output }, given) => {
  const path = given.argument('path');
  const added = given.labels('label');
  const clear = given.choice('labels') === false;
  const kept = given.choice('protect');
  const limits = limitsGiven(given);
  const retainMs = retainOf(given);
  const compression = compressionGiven(given);
  const changes = [added, kept, limits, retainMs, compression.compression];
  if (!clear && changes.every((change) => change === undefined))
    throw usageError(
      'the command',
      'nothing to change was given',
      'See: dvce volume update --help',
    );
  const before = clear || added === undefined ? {} : (await api.volumes.get(path)).labels;
  const volume = await api.volumes.update(path, {
    ...(added !== undefined || clear ? { labels: { ...before, ...added } } : {}),
    ...(kept === undefined ? {} : { protected: kept }),
    ...(limits === undefined ? {} : { limits }),
    ...(retainMs === undefined ? {} : { retainMs }),
    ...compression,
  });
  output.changed(
    volume,
    volume.path,
    `Volume ${volume.path}: labels ${labels(volume.labels)}, ${volume.protected ? 'protected' : 'not protected'}, limits ${limitsText(volume.limits)}, ${retention(volume)}, compression ${volume.compression ?? 'none'}.`,
  );
};

const retention = ({ retainMs = null }: Volume): string =>
  retainMs === null ? 'no points in time' : `every flush of ${formatDuration(retainMs)} is kept`;

export const clone: Run = async (context, given) => {
  const { api, output } = context;
  const path = given.argument('path');
  const sizeBytes = given.number('size');
  const added = given.labels('label');
  const limits = limitsGiven(given);
  const volume = await unlessExists(
    context,
    given,
    () =>
      api.volumes.clone({
        source: given.argument('source'),
        path,
        ...(sizeBytes === undefined ? {} : { sizeBytes }),
        ...(added === undefined ? {} : { labels: added }),
        ...(limits === undefined ? {} : { limits }),
        ...(given.flag('protect') ? { protected: true } : {}),
      }),
    () => api.volumes.get(path),
  );
  const from =
    volume.origin === null ? '' : ` from ${volume.origin.path}@${volume.origin.snapshot}`;
  output.changed(volume, volume.path, `Volume ${volume.path} (${size(volume.sizeBytes)})${from}.`);
  warn(output, volume);
};

export const recover: Run = async (context, given) => {
  const { api, output } = context;
  const path = given.argument('path');
  if (!given.flag('acceptLoss'))
    throw usageError(
      'the command',
      'what follows the damage would be lost, and nobody accepted that',
      `Look first with: dvce volume show ${path}; then repeat it with --accept-loss.`,
    );
  await confirm(context, given, `giving up writes of ${path}`, path);
  const result = await api.volumes.recover(path);
  output.changed(
    result,
    path,
    result.lostFromSeq === null
      ? `Volume ${path}: nothing was lost.`
      : `Volume ${path}: ${size(result.recoveredBytes)} of the journal kept; lost from record ${result.lostFromSeq} on.`,
  );
};

async function plan({ api }: Context, path: string): Promise<Step[]> {
  const [volume, snapshots] = await Promise.all([api.volumes.get(path), api.snapshots.list(path)]);
  const clones = snapshots.reduce((sum, snapshot) => sum + snapshot.clones, 0);
  const reasons = [
    ...(volume.protected ? ['refused: protected'] : []),
    ...(volume.open?.attachId == null ? [] : [`refused: attached to ${volume.open.attachId}`]),
    ...(clones > 0 ? [`${clones} clones keep the bytes that they share`] : []),
  ];
  return [
    { action: 'delete volume', object: volume.path, note: reasons.join('; ') },
    ...snapshots.map(({ name, protected: kept }) => ({
      action: 'delete snapshot',
      object: `${volume.path}@${name}`,
      note: kept ? 'refused: protected' : '',
    })),
  ];
}

export const remove: Run = async (context, given) => {
  const { api, output } = context;
  const path = given.argument('path');
  await unlessMissing(context, given, async () => {
    const change = () => api.volumes.delete(path, given.flag('now') ? { now: true } : {});
    if (await dryRun(context, given, () => plan(context, path), change)) return;
    // Ask only about what exists: a wrong path is told before anything is typed.
    const volume = await api.volumes.get(path);
    await confirm(context, given, `deleting volume ${volume.path}`, volume.path);
    const kept = await change();
    output.note(
      kept === undefined
        ? `Volume ${volume.path} deleted for good.`
        : `Volume ${volume.path} deleted. Until ${time(kept.expiresAt)} it comes back with: dvce volume undelete ${kept.id}`,
    );
  });
};
