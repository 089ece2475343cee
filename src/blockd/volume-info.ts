/** What the control protocol says about volumes and snapshots, made of the documents. */
import {
  type HlfsContext,
  listSnapshots,
  type SnapshotRecord,
  type VolumeRecord,
} from '../hlfs/index.ts';
import type { SnapshotInfo, VolumeActivity, VolumeInfo } from './protocol.ts';

const timeText = (ms: number): string => new Date(ms).toISOString();

export async function describeVolume(
  context: HlfsContext,
  { id, path, head }: VolumeRecord,
  open: VolumeActivity | null,
): Promise<VolumeInfo> {
  const snapshots = await listSnapshots(context, id);
  const { image, origin } = head;
  return {
    id,
    path,
    kind: head.kind,
    // The catalog names no volume that is still being created.
    state: head.state === 'creating' ? 'active' : head.state,
    sizeBytes: Number(head.sizeBytes),
    blockBytes: head.blockBytes,
    labels: head.labels,
    protected: head.protected,
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
    snapshots: snapshots.length,
    open,
  };
}

export function describeSnapshots(
  path: string,
  records: readonly SnapshotRecord[],
): SnapshotInfo[] {
  const names = new Map(records.map(({ document }) => [document.id, document.name]));
  return records.map(({ document, parent, current, clones }) => ({
    id: document.id,
    name: document.name,
    volume: path,
    parent: parent === null ? null : (names.get(parent) ?? null),
    createdAt: timeText(document.createdAtMs),
    sizeBytes: Number(document.sizeBytes),
    protected: document.protected,
    labels: document.labels,
    current,
    clones: clones.length,
    ...(document.set === undefined ? {} : { set: document.set.id }),
  }));
}
