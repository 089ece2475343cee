/** What the control protocol says about volumes and snapshots, made of the documents. */
import {
  type BaseUse,
  baseUse,
  type HlfsContext,
  type ListPlace,
  type PointMark,
  type PointSummary,
  type SnapshotRecord,
  type TrashedVolume,
  type VolumeRecord,
} from '../hlfs/index.ts';
import type {
  BaseHolders,
  PointInfo,
  PointsInfo,
  SnapshotInfo,
  SnapshotPlace,
  TrashInfo,
  VolumeActivity,
  VolumeInfo,
} from './protocol.ts';

const timeText = (ms: number): string => new Date(ms).toISOString();

export function describeVolume(
  { id, path, head }: VolumeRecord,
  snapshots: number,
  open: VolumeActivity | null,
): VolumeInfo {
  const { image, origin } = head;
  return {
    id,
    path,
    kind: head.kind,
    state: stateOf(head.state),
    sizeBytes: Number(head.sizeBytes),
    blockBytes: head.blockBytes,
    labels: head.labels,
    protected: head.protected,
    limits: head.limits ?? {},
    createdAt: timeText(head.createdAtMs),
    epoch: head.epoch,
    log: head.log,
    origin: origin === null ? null : { path: origin.path, snapshot: origin.snapshot },
    image:
      image === null
        ? null
        : {
            digest: image.digest,
            source: image.source,
            format: image.format,
            sourceBytes: Number(image.sourceBytes),
            contentDigest: image.contentDigest ?? null,
          },
    snapshots,
    retainMs: head.retainMs ?? null,
    compression: head.compression ?? 'none',
    open,
  };
}

export const describeHolders = (held: BaseUse | null): BaseHolders | null =>
  held === null ? null : { snapshots: held.snapshots, more: held.areMore, points: held.points };

/** What keeps a flattened volume from letting go of its origin. */
export const originHolders = async (
  hlfs: HlfsContext,
  { head }: VolumeRecord,
): Promise<BaseHolders | null> =>
  head.flattened === head.log ? describeHolders(await baseUse(hlfs, head.log)) : null;

export const describePoint = ({ seq, wallMs }: PointMark): PointInfo => ({
  flush: seq,
  time: timeText(Math.min(wallMs, lastTimeMs)),
});

export const describePoints = ({ oldest, newest, heldBytes }: PointSummary): PointsInfo => ({
  oldest: oldest === null ? null : describePoint(oldest),
  newest: newest === null ? null : describePoint(newest),
  heldBytes,
});

/** The catalog names no volume that is still being created, nor one in the trash. */
const stateOf = (state: VolumeRecord['head']['state']): VolumeInfo['state'] =>
  state === 'creating' || state === 'trashed' ? 'active' : state;

export const describeTrashed = ({ id, head, trash }: TrashedVolume): TrashInfo => ({
  id,
  path: trash.path,
  kind: head.kind,
  sizeBytes: Number(head.sizeBytes),
  labels: head.labels,
  createdAt: timeText(head.createdAtMs),
  deletedAt: timeText(trash.atMs),
  expiresAt: timeText(Math.min(trash.untilMs, lastTimeMs)),
});

/** The last time that has a text. */
const lastTimeMs = 8_640_000_000_000_000;

/** Where the next page of a list begins. */
export const describePlace = ({ createdAtMs, name }: ListPlace): SnapshotPlace => ({
  createdAt: timeText(createdAtMs),
  name,
});

export const describeSnapshot = (
  path: string,
  { document, parentName, current, clones }: SnapshotRecord,
): SnapshotInfo => ({
  id: document.id,
  name: document.name,
  volume: path,
  parent: parentName,
  createdAt: timeText(document.createdAtMs),
  sizeBytes: Number(document.sizeBytes),
  protected: document.protected,
  labels: document.labels,
  current,
  clones: clones.length,
  ...(document.set === undefined ? {} : { set: document.set.id }),
});
