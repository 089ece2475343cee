/**
 * Clone and rollback: one mechanism, a new log whose base is (log, cut) (design section 5).
 *
 * G3, the order that makes it safe: a pin in *every* log of the range table, then a second look at the snapshot, then the head
 * that makes the fork exist. Whoever deletes the snapshot sets its state first and lists the pins then; so one of the two
 * sees the other, whatever the interleaving.
 */
import {
  asLogId,
  asVolumeId,
  changedRates,
  DvceError,
  type LogId,
  type RateLimitsChange,
  randomUuid,
} from '../base/index.ts';
import { makeVolume, type VolumeTarget } from './catalog.ts';
import { logKey, readSnapshot } from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import {
  type InUse,
  raiseEpoch,
  refuseImage,
  refuseInUse,
  refusePromoting,
  requireHead,
  updateHead,
} from './heads.ts';
import { underIntent, writeIntent } from './intents.ts';
import type { VolumeRecord } from './names.ts';
import { cutsOf, readerName, releasePins, writePins } from './pins.ts';
import type { HeadDocument, LogDocument, LogRange, SnapshotDocument } from './schema.ts';
import { pointsFeature, segmentKey, storeFormatVersion } from './schema.ts';
import { findSnapshot } from './snapshots.ts';

/** What a root says about where its content comes from. */
export interface RootRanges {
  /** Covers 1..root without gaps, oldest first. */
  readonly ranges: readonly LogRange[];
  /** Footer checksum of the root's segment. */
  readonly checksum: number;
  readonly sizeBytes: number;
}

/** Reads the root at a position out of its segment; the engine provides it. */
export type ReadRanges = (
  context: HlfsContext,
  log: LogId,
  rootSegment: number,
) => Promise<RootRanges>;

/** @throws NOT_FOUND, CONFLICT unless the snapshot still is there and is not being deleted */
async function requireLive(context: HlfsContext, snapshot: SnapshotDocument): Promise<void> {
  const now = (await readSnapshot(context, snapshot.log, snapshot.name))?.value;
  if (now?.id !== snapshot.id)
    throw new DvceError('NOT_FOUND', { kind: 'snapshot', name: snapshot.name });
  if (now.state === 'live') return;
  const reason = 'it is being deleted';
  throw new DvceError('CONFLICT', { kind: 'snapshot', name: snapshot.name, reason });
}

async function newFork(
  context: HlfsContext,
  snapshot: SnapshotDocument,
  volume: LogDocument['volume'],
  readRanges: ReadRanges,
): Promise<LogDocument> {
  await requireLive(context, snapshot);
  const root = await readRoot(context, snapshot, readRanges);
  return {
    format: storeFormatVersion,
    log: asLogId(randomUuid(context.random)),
    volume,
    base: {
      ranges: root.ranges,
      rootSegment: snapshot.rootSegment,
      checksum: root.checksum,
      snapshot: {
        volume: snapshot.volume,
        log: snapshot.log,
        id: snapshot.id,
        name: snapshot.name,
      },
    },
    createdAtMs: context.clock.wallMs(),
  };
}

async function readRoot(
  context: HlfsContext,
  snapshot: SnapshotDocument,
  readRanges: ReadRanges,
): Promise<RootRanges> {
  let root: RootRanges;
  try {
    root = await readRanges(context, snapshot.log, snapshot.rootSegment);
  } catch (error) {
    // Nothing is pinned yet: the segment may have gone with its snapshot. Then that is the reason to give.
    await requireLive(context, snapshot);
    throw error;
  }
  if (root.checksum !== snapshot.checksum)
    throw new DvceError('SEGMENT_DAMAGED', {
      name: segmentKey(snapshot.log, snapshot.rootSegment),
      reason: `it is not the segment that snapshot ${snapshot.name} was taken at`,
    });
  return root;
}

export interface CloneOptions {
  /** At least the snapshot's size, which is the default. */
  readonly sizeBytes?: number;
  readonly labels?: Readonly<Record<string, string>>;
  readonly protected?: boolean;
  readonly journalBytes?: number;
  /** On top of those of the source, which go with the clone. */
  readonly limits?: RateLimitsChange;
}

/**
 * A new volume that starts with the content of a snapshot and shares its segments. Exists whole or not at all (B-27).
 * @throws NOT_FOUND, CONFLICT when the snapshot goes away meanwhile; ALREADY_EXISTS; INVALID_SIZE
 */
export async function cloneVolume(
  context: HlfsContext,
  source: VolumeTarget,
  snapshot: SnapshotDocument,
  path: string,
  options: CloneOptions,
  readRanges: ReadRanges,
): Promise<VolumeRecord> {
  const { value: head } = await requireHead(context, source.id);
  const sizeBytes = options.sizeBytes ?? Number(snapshot.sizeBytes);
  if (sizeBytes < Number(snapshot.sizeBytes))
    throw new DvceError('INVALID_SIZE', {
      size: sizeBytes,
      reason: `the snapshot has ${snapshot.sizeBytes} bytes, and a clone is no smaller`,
    });
  const volume = asVolumeId(randomUuid(context.random));
  const document = await newFork(context, snapshot, volume, readRanges);
  return makeVolume(
    context,
    path,
    {
      ...options,
      sizeBytes,
      blockBytes: head.blockBytes,
      limits: changedRates(head.limits ?? {}, options.limits ?? {}),
      compression: head.compression ?? 'none',
    },
    {
      document,
      // A clone keeps points of its own or none.
      features: {
        ...head.features,
        roCompat: head.features.roCompat.filter((feature) => feature !== pointsFeature),
      },
      origin: { volume: source.id, path: source.path, snapshot: snapshot.name },
      recheck: () => requireLive(context, snapshot),
    },
  );
}

/**
 * Put a volume back to one of its snapshots: a new log that starts there, and one compare-and-swap of the head that names it.
 * That swap is all there is to remember, so nothing needs to be written afterwards for the rollback to last (B-08). The old
 * log stays as long as snapshots or pins need it.
 * @throws IN_USE while the volume is open or attached
 */
export async function rollbackVolume(
  context: HlfsContext,
  target: VolumeTarget,
  name: string,
  readRanges: ReadRanges,
  inUse: InUse,
): Promise<HeadDocument> {
  const { id, path } = target;
  const { value: before } = await requireHead(context, id);
  refuseImage(before, path);
  refuseInUse(before, inUse, path);
  const { value: snapshot } = await findSnapshot(context, id, name);
  const document = await newFork(context, snapshot, id, readRanges);
  const { log } = document;
  const ranges = document.base?.ranges ?? [];
  const pinned = [...cutsOf(ranges).keys()];
  const intent = await writeIntent(context, {
    kind: 'rollback',
    volume: id,
    log,
    pinned,
    path: null,
  });
  await underIntent(context, intent, async () => {
    await context.documents.create(context.scope, logKey(log), document);
    await writePins(context, ranges, { who: log, kind: 'fork', volume: id, snapshot: snapshot.id });
    await requireLive(context, snapshot);
    await updateHead(context, id, (head) => {
      refuseImage(head, path);
      refuseInUse(head, inUse, path);
      refusePromoting(head);
      if (head.logs.includes(log)) return head;
      const sizeBytes = snapshot.sizeBytes;
      // What a shrink still had to cut off belongs to the content that is left behind.
      return { ...raiseEpoch(head), log, logs: [log, ...head.logs], sizeBytes, trimFrom: null };
    });
  });
  return (await requireHead(context, id)).value;
}

/** A snapshot that is held for reading: its segments stay until `release`, or until this process is gone. */
export interface ReaderPin {
  readonly snapshot: SnapshotDocument;
  readonly root: RootRanges;
  release(): Promise<void>;
}

/** Hold a snapshot for an export, a diff or a backup (G3). */
export async function pinSnapshot(
  context: HlfsContext,
  target: VolumeTarget,
  name: string,
  readRanges: ReadRanges,
): Promise<ReaderPin> {
  const { value: snapshot } = await findSnapshot(context, target.id, name);
  const root = await readRoot(context, snapshot, readRanges);
  const who = readerName(context, randomUuid(context.random));
  const release = (): Promise<void> => releasePins(context, cutsOf(root.ranges).keys(), who);
  try {
    await writePins(context, root.ranges, {
      who,
      kind: 'reader',
      volume: target.id,
      snapshot: snapshot.id,
    });
    await requireLive(context, snapshot);
  } catch (error) {
    await release();
    throw error;
  }
  return { snapshot, root, release };
}
