/** Control methods on volumes and images. */
import {
  asSnapshotName,
  asVolumeId,
  asVolumePath,
  DvceError,
  limits,
  parseSource,
  type RateLimitsChange,
  type SnapshotName,
  type VolumeId,
} from '../base/index.ts';
import {
  cloneVolume,
  countSnapshots,
  createVolume,
  deleteSnapshot,
  findSnapshot,
  getVolume,
  growHead,
  isNameTaken,
  newestSnapshot,
  publishImage,
  readRanges,
  renameVolume,
  shrinkHead,
  updateVolume,
  type VolumeChange,
  type VolumeRecord,
} from '../hlfs/index.ts';
import { warningsFor } from './capacity.ts';
import type { ControlHandlers } from './control-server.ts';
import type { NodeContext } from './node-context.ts';
import type { PointsInfo, VolumeCheckAnswer, VolumeInfo } from './protocol.ts';
import { describePoints, describeVolume, originHolders } from './volume-info.ts';
import { spaceOf } from './volume-space.ts';

/** The snapshot that holds the content of an image. */
export const imageSnapshot: SnapshotName = asSnapshotName('image');

export async function infoOf(node: NodeContext, record: VolumeRecord): Promise<VolumeInfo> {
  // Read afresh: the right moment to see whether what lists remember is right.
  node.view.compare(record);
  const snapshots = await countSnapshots(node.hlfs, record.head);
  const open = await node.volumes.activity(record.id);
  const info = describeVolume(record, snapshots, open);
  return { ...info, scrub: node.scrubber.resultOf(record.id) };
}

/** After a volume was made or enlarged: what the operator should know. */
export async function withWarnings(node: NodeContext, info: VolumeInfo): Promise<VolumeInfo> {
  const warnings = await warningsFor(node, info.path);
  return warnings.length === 0 ? info : { ...info, warnings };
}

/** Make sure that the path still means the volume whose turn it is: it may have been renamed while we waited. */
export async function inTurn<T>(
  node: NodeContext,
  path: string,
  task: (record: VolumeRecord) => Promise<T>,
): Promise<T> {
  const { id } = await getVolume(node.hlfs, path);
  return node.volumes.exclusive(id, async () => {
    const record = await getVolume(node.hlfs, path);
    if (record.id !== id)
      throw new DvceError('CONFLICT', {
        kind: 'volume',
        name: path,
        reason: 'the name was given to another one meanwhile',
      });
    return task(record);
  });
}

type VolumeMethods = Pick<
  ControlHandlers,
  | 'volume.create'
  | 'volume.list'
  | 'volume.get'
  | 'volume.rename'
  | 'volume.update'
  | 'volume.resize'
  | 'volume.clone'
  | 'volume.check'
  | 'volume.recover'
  | 'volume.attach'
  | 'volume.detach'
  | 'image.publish'
>;

export function volumeMethods(node: NodeContext): VolumeMethods {
  const { hlfs, volumes, pool, quotas, journalBytes } = node;
  return {
    'volume.create': async ({ path, ...options }) => {
      const create = () => createVolume(hlfs, path, { journalBytes, ...options });
      const made = await quotas.guarded(asVolumePath(path), options, create);
      return withWarnings(node, await infoOf(node, made));
    },

    'volume.list': ({ prefix = '/', kind }) => list(node, prefix, kind),

    'volume.get': async ({ path, space }) => {
      const record = await getVolume(hlfs, path);
      const points = await pointsOf(node, record);
      const originHeldBy = await originHolders(node.hlfs, record);
      const info = { ...(await infoOf(node, record)), points, originHeldBy };
      return space === true ? { ...info, space: await spaceOf(node, record) } : info;
    },

    // An attachment keeps the export's name of its time, so a volume in use may be renamed.
    'volume.rename': async ({ path, to }) => infoOf(node, await rename(node, path, to)),

    'volume.update': ({ path, ...change }) => update(node, path, change),

    'volume.resize': (params) => resize(node, params),

    'volume.clone': (params) => clone(node, params),

    'volume.check': async ({ path, repair = false }, { signal, progress }) => {
      const options = { signal, onProgress: progress };
      const check = ({ id }: VolumeRecord): Promise<VolumeCheckAnswer> =>
        pool.leastLoaded().call('check', { volume: id, repair }, options);
      if (!repair) return check(await getVolume(hlfs, path));
      return inTurn(node, path, async (record) => {
        await volumes.closeUnused(record.id, path);
        return check(record);
      });
    },

    'volume.recover': ({ path, acceptLoss }) =>
      inTurn(node, path, async ({ id }) => {
        await volumes.closeUnused(id, path);
        return pool.leastLoaded().call('recover', { volume: id, acceptLoss });
      }),

    'volume.attach': async ({ path, attachId, vm }) => {
      const { id, path: full } = await attachTarget(node, path, attachId);
      const hosted = await volumes.attach(id, full, attachId, vm);
      const { sizeBytes, blockBytes } = hosted.facts;
      return {
        socketPath: hosted.socketPath,
        exportName: hosted.exportName,
        sizeBytes,
        blockBytes,
      };
    },

    'volume.detach': async ({ path, attachId }) => {
      const { id, path: full } = await attachTarget(node, path, attachId);
      await volumes.detach(id, full, attachId);
      return {};
    },

    'image.publish': ({ path, sourceBytes, ...facts }) =>
      inTurn(node, path, async (record) => {
        const image = { ...facts, sourceBytes: String(sourceBytes) };
        // The answer of an earlier call may have been lost.
        if (record.head.image?.digest === image.digest) return infoOf(node, record);
        await volumes.closeUnused(record.id, path);
        await retakeSnapshot(node, record, imageSnapshot);
        return infoOf(node, await publishImage(hlfs, record, image));
      }),
  };
}

async function list(
  node: NodeContext,
  prefix: string,
  kind: VolumeInfo['kind'] | undefined,
): Promise<{ volumes: VolumeInfo[] }> {
  const all = await node.view.list(prefix === '' || prefix === '/' ? '/' : asVolumePath(prefix));
  const chosen = kind === undefined ? all : all.filter(({ info }) => info.kind === kind);
  if (chosen.length > limits.controlListMax)
    throw new DvceError('TOO_LARGE', {
      what: 'the list of volumes',
      reason: `it has ${chosen.length} entries, an answer at most ${limits.controlListMax}`,
      advice: 'Ask for a part of the namespace by its prefix.',
    });
  const volumes = chosen.map(({ info }): VolumeInfo | Promise<VolumeInfo> => {
    const id = asVolumeId(info.id);
    if (node.volumes.find(id) === undefined) return info; // most are closed: nothing to wait for
    return node.volumes.activity(id).then((open) => ({ ...info, open }));
  });
  return { volumes: await Promise.all(volumes) };
}

/**
 * Kept in the head first, so that it holds after a crash in between; then the open volume is told. In the volume's turn: an open
 * that is under way may have read the head before.
 */
async function update(node: NodeContext, path: string, change: VolumeChange): Promise<VolumeInfo> {
  const { limits: rates, retainMs, compression } = change;
  if (rates === undefined && retainMs === undefined && compression === undefined)
    return infoOf(node, await updateVolume(node.hlfs, path, change));
  return inTurn(node, path, async ({ id }) => {
    const { head } = await updateVolume(node.hlfs, path, change);
    const hosted = node.volumes.find(id);
    if (hosted !== undefined) {
      const { key, thread } = hosted;
      if (rates !== undefined)
        await thread.call('export.limits', { key, limits: head.limits ?? {} });
      if (retainMs !== undefined) await thread.call('export.retain', { key, retainMs });
      if (compression !== undefined) await thread.call('export.compress', { key, compression });
    }
    return infoOf(node, await getVolume(node.hlfs, path));
  });
}

async function pointsOf(node: NodeContext, { id, head }: VolumeRecord): Promise<PointsInfo | null> {
  if ((head.retainMs ?? null) === null) return null;
  const hosted = node.volumes.find(id);
  if (hosted === undefined)
    return describePoints(await node.pool.leastLoaded().call('points.summary', { volume: id }));
  const { points } = await hosted.thread.call('export.points', { key: hosted.key });
  return points === null ? null : describePoints(points);
}

async function rename(node: NodeContext, path: string, to: string): Promise<VolumeRecord> {
  const task = (): Promise<VolumeRecord> =>
    inTurn(node, path, async () => {
      const renamed = await renameVolume(node.hlfs, path, to);
      node.volumes.renamed(renamed.id, renamed.path);
      return renamed;
    });
  const target = asVolumePath(to);
  const found = (await node.view.list(asVolumePath(path))).find(({ info }) => info.path === path);
  if (found === undefined) return task();
  // The size may grow while it waits for its turn; a quota then learns of it at the next look.
  const { record, info } = found;
  return node.quotas.guarded(target, { sizeBytes: info.sizeBytes, volume: record.id }, task);
}

/**
 * The volume that an attachment is about. Whoever attached it may know it by the path of that time, although it was renamed
 * since; the open table does too.
 */
async function attachTarget(
  node: NodeContext,
  path: string,
  attachId: string,
): Promise<{ readonly id: VolumeId; readonly path: string }> {
  const attached = node.volumes.attachedAs(asVolumePath(path), attachId);
  if (attached !== undefined) return { id: attached.volume, path: attached.path };
  const { id, head, path: full } = await getVolume(node.hlfs, path);
  if (head.kind === 'image')
    throw new DvceError('NOT_ALLOWED', {
      what: `attaching the image ${full}`,
      reason: 'images are read-only',
      advice: `Clone it, then attach the clone: dvce volume clone ${full} NEW`,
    });
  return { id, path: full };
}

interface ResizeParams {
  readonly path: string;
  readonly sizeBytes: number;
  readonly shrink?: boolean;
}

/** G6: growing is online, the head first; shrinking needs the volume closed. */
async function resize(node: NodeContext, params: ResizeParams): Promise<VolumeInfo> {
  const { id, path, head } = await getVolume(node.hlfs, params.path);
  const task = (): Promise<VolumeInfo> => resizeNow(node, params);
  if (params.sizeBytes <= Number(head.sizeBytes)) return task();
  const coming = { sizeBytes: params.sizeBytes, volume: id };
  return withWarnings(node, await node.quotas.guarded(path, coming, task));
}

function resizeNow(
  node: NodeContext,
  { path, sizeBytes, shrink }: ResizeParams,
): Promise<VolumeInfo> {
  const { hlfs, volumes } = node;
  return inTurn(node, path, async (record) => {
    if (sizeBytes < Number(record.head.sizeBytes) && shrink === true) {
      await volumes.closeUnused(record.id, path);
      await shrinkHead(hlfs, record, sizeBytes, (id) => volumes.inUse(id));
    } else {
      await growHead(hlfs, record, sizeBytes);
      await volumes.grow(record.id, sizeBytes);
    }
    return infoOf(node, await getVolume(hlfs, path));
  });
}

/** Take a snapshot of this name now; one that a crash left behind goes first. In the volume's turn. */
async function retakeSnapshot(
  node: NodeContext,
  { id, path, head }: VolumeRecord,
  name: SnapshotName,
): Promise<void> {
  const { hlfs, volumes } = node;
  try {
    await deleteSnapshot(hlfs, id, name);
  } catch (error) {
    if (!(error instanceof DvceError) || error.code !== 'NOT_FOUND') throw error;
  }
  await volumes.withOpen(id, path, async ({ thread, key }) => {
    const follows = await newestSnapshot(hlfs, head);
    await thread.call('export.snapshot', { key, name, labels: {}, protected: false, follows });
  });
}

interface CloneParams {
  readonly source: string;
  readonly path: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly sizeBytes?: number;
  readonly protected?: boolean;
  readonly limits?: RateLimitsChange;
}

/** From a named snapshot; of an image its content; else of the volume's content now, by a snapshot that is taken first. */
async function clone(node: NodeContext, params: CloneParams): Promise<VolumeInfo> {
  const { hlfs } = node;
  const { source, path, ...options } = params;
  const parsed = parseSource(source);
  const record = await getVolume(hlfs, parsed.path);
  // Before anything is made: a snapshot for a clone that cannot exist would only be litter.
  if (await exists(node, path))
    throw new DvceError('ALREADY_EXISTS', { kind: 'volume', name: path });
  const named = parsed.snapshot ?? (record.head.kind === 'image' ? imageSnapshot : undefined);
  const from =
    named === undefined ? record.head : (await findSnapshot(hlfs, record.id, named)).value;
  const sizeBytes = options.sizeBytes ?? Number(from.sizeBytes);
  const made = await node.quotas.guarded(asVolumePath(path), { sizeBytes }, () =>
    cloneNow(node, record, named, { ...options, path }),
  );
  return withWarnings(node, made);
}

async function cloneNow(
  node: NodeContext,
  record: VolumeRecord,
  named: SnapshotName | undefined,
  { path, ...options }: Omit<CloneParams, 'source'>,
): Promise<VolumeInfo> {
  const { hlfs } = node;
  const name = named ?? (await snapshotForClone(node, record.path));
  try {
    const { value } = await findSnapshot(hlfs, record.id, name);
    const made = await cloneVolume(
      hlfs,
      record,
      value,
      path,
      { journalBytes: node.journalBytes, ...options },
      readRanges,
    );
    return await infoOf(node, made);
  } catch (error) {
    if (named === undefined) await dropSnapshot(node, record, name, error);
    throw error;
  }
}

export async function exists(node: NodeContext, path: string): Promise<boolean> {
  try {
    await getVolume(node.hlfs, asVolumePath(path));
    return true;
  } catch (error) {
    if (error instanceof DvceError && error.code === 'NOT_FOUND') return false;
    throw error;
  }
}

/** `clone-<yyyymmddThhmmssZ>`, with a number behind it when several are taken within one second. */
function snapshotForClone(node: NodeContext, path: string): Promise<SnapshotName> {
  return inTurn(node, path, async ({ id, head }) => {
    const time = new Date(node.clock.wallMs()).toISOString().replace(/[-:]|\.\d+/g, '');
    let name = asSnapshotName(`clone-${time}`);
    for (let count = 2; await isNameTaken(node.hlfs, head, name); count += 1)
      name = asSnapshotName(`clone-${time}-${count}`);
    await node.volumes.withOpen(id, path, async ({ thread, key }) => {
      const follows = await newestSnapshot(node.hlfs, head);
      await thread.call('export.snapshot', { key, name, labels: {}, protected: false, follows });
    });
    return name;
  });
}

async function dropSnapshot(
  node: NodeContext,
  record: VolumeRecord,
  name: SnapshotName,
  cause: unknown,
): Promise<void> {
  try {
    await deleteSnapshot(node.hlfs, record.id, name);
  } catch (error) {
    node.logger.warn(
      { err: error, cause, volume: record.id, name },
      'the snapshot of a failed clone stays',
    );
  }
}
