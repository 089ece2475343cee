/** Control methods on points in time (DD-0013). */
import { asSnapshotName, asVolumePath, DvceError, limits } from '../base/index.ts';
import { getVolume, type PointChoice, snapshotRecord, type VolumeRecord } from '../hlfs/index.ts';
import type { ControlHandlers } from './control-server.ts';
import type { NodeContext } from './node-context.ts';
import type { ControlParams, ControlResult } from './protocol.ts';
import { describePoint, describeSnapshot } from './volume-info.ts';
import { exists, infoOf, inTurn, withWarnings } from './volume-methods.ts';

export function pointMethods(
  node: NodeContext,
): Pick<ControlHandlers, 'volume.points' | 'volume.at'> {
  return {
    'volume.points': async ({ path, limit = limits.pointsListed, ...filter }, { signal }) => {
      const { id } = await published(node, path);
      const most = Math.min(limit, limits.pointsListMax);
      const call = { volume: id, filter: { ...filter, limit: most } };
      const found = await node.pool.leastLoaded().call('points.list', call, { signal });
      const points = found.points.map((point) => ({
        ...describePoint(point),
        sizeBytes: point.sizeBytes,
      }));
      return { points, next: found.more ? (points.at(-1)?.flush ?? null) : null };
    },

    'volume.at': (params) => openPoint(node, params),
  };
}

/** What the journal holds are points too: it goes to the store first. */
function published(node: NodeContext, path: string): Promise<VolumeRecord> {
  return inTurn(node, path, async (record) => {
    const { id, head } = record;
    if ((head.retainMs ?? null) === null) throw keepsNone(record.path);
    await node.volumes.withOpen(id, record.path, async ({ thread, key }) => {
      await thread.call('export.publish-new', { key });
    });
    return record;
  });
}

const keepsNone = (name: string): DvceError =>
  new DvceError('POINT_NOT_KEPT', {
    name,
    what: 'at any time',
    reason: `it keeps none; from now on with: dvce volume update ${name} --retain 24h`,
  });

type AtParams = ControlParams<'volume.at'>;

function choiceOf({ timeMs, beforeFlush, flush }: AtParams): PointChoice {
  const choices: PointChoice[] = [];
  if (timeMs !== undefined) choices.push({ timeMs });
  if (beforeFlush !== undefined) choices.push({ beforeFlush });
  if (flush !== undefined) choices.push({ flush });
  const [choice] = choices;
  if (choice !== undefined && choices.length === 1) return choice;
  throw new DvceError('INVALID_ARGUMENT', {
    what: 'the point in time',
    reason: 'exactly one of a time, a flush, and a flush before which it is has to be given',
    advice: 'See which flushes are kept with: dvce volume points PATH',
  });
}

async function openPoint(node: NodeContext, params: AtParams): Promise<ControlResult<'volume.at'>> {
  const choice = choiceOf(params);
  const { clone, snapshot, labels } = params;
  if (clone !== undefined && snapshot !== undefined)
    throw new DvceError('INVALID_ARGUMENT', {
      what: 'a name of the snapshot',
      reason: 'with a clone there is no snapshot',
      advice: 'Leave one of them out.',
    });
  const name = snapshot === undefined ? undefined : asSnapshotName(snapshot);
  const record = await published(node, params.path);
  const kept = labels === undefined ? {} : { labels };
  if (clone !== undefined) return clonePoint(node, record, choice, { to: clone, ...kept });
  const options = { ...kept, ...(name === undefined ? {} : { name }) };
  const { id, path } = record;
  return inTurn(node, path, async () => {
    const call = { id, path, choice, options };
    const made = await node.pool.leastLoaded().call('points.snapshot', call);
    const found = describeSnapshot(path, await snapshotRecord(node.hlfs, id, made.name));
    return { ...describePoint(made.point), snapshot: found, volume: null };
  });
}

async function clonePoint(
  node: NodeContext,
  { id, path, head }: VolumeRecord,
  choice: PointChoice,
  { to, ...given }: { readonly to: string; readonly labels?: Readonly<Record<string, string>> },
): Promise<ControlResult<'volume.at'>> {
  const target = asVolumePath(to);
  if (await exists(node, target))
    throw new DvceError('ALREADY_EXISTS', { kind: 'volume', name: target });
  const options = { ...given, journalBytes: node.journalBytes };
  // As large as the volume is now; at the point it may have been smaller.
  const coming = { sizeBytes: Number(head.sizeBytes) };
  const { point } = await node.quotas.guarded(target, coming, () =>
    node.pool.leastLoaded().call('points.clone', { id, path, choice, to: target, options }),
  );
  const made = await infoOf(node, await getVolume(node.hlfs, target));
  return { ...describePoint(point), snapshot: null, volume: await withWarnings(node, made) };
}
