/**
 * What an open volume offers to blockd: the block operations (the shape of nbd's BlockBackend, which HLFS does not know),
 * snapshots, growth, activity. `Volume` (volume.ts) implements it.
 */
import type { DvceError, LogId, SnapshotName, VolumeId } from '../base/index.ts';
import type { ReadSources } from './block-source.ts';
import type { Compression, SetReference, SnapshotDocument } from './schema.ts';
import type { SnapshotFollowed } from './snapshots.ts';
import type { VolumeSpace } from './space.ts';

export interface RequestOrigin {
  readonly alive: boolean;
}
export interface WriteOptions {
  readonly fua: boolean;
  readonly origin: RequestOrigin;
}
export interface ZeroOptions extends WriteOptions {
  readonly noHole: boolean;
}
export interface Extent {
  readonly lengthBytes: number;
  readonly hole: boolean;
  readonly zero: boolean;
}
export type Done = (error: DvceError | null) => void;
/** `giveBack` may be called, once, when nothing refers to the bytes any more; the memory is then used for other reads. */
export type ReadDone = (
  error: DvceError | null,
  parts: readonly (Buffer | number)[],
  giveBack?: () => void,
) => void;
export type ExtentsDone = (error: DvceError | null, extents: readonly Extent[]) => void;

export interface BlockReader {
  readonly sizeBytes: number;
  readonly caps: {
    readonly readOnly: boolean;
    readonly blockBytes: 512 | 4096;
    readonly multiConn: boolean;
    readonly cache: boolean;
    readonly rotational: boolean;
  };
  read(offset: number, length: number, done: ReadDone): void;
  write(offset: number, data: Buffer, options: WriteOptions, done: Done): void;
  flush(done: Done): void;
  trim(offset: number, length: number, options: WriteOptions, done: Done): void;
  writeZeroes(offset: number, length: number, options: ZeroOptions, done: Done): void;
  extents(offset: number, length: number, done: ExtentsDone): void;
  cache(offset: number, length: number, done: Done): void;
  close(): Promise<void>;
}

export interface SnapshotOptions {
  readonly labels: Readonly<Record<string, string>>;
  readonly protected: boolean;
  /** Member of a set that is not decided yet (G5): nobody sees the snapshot before the set's document exists. */
  readonly set?: SetReference;
  /** The snapshot before it, as far as whoever asks knows; null: there is none. Without it the engine looks. */
  readonly follows?: SnapshotFollowed | null;
}

/** A point in time: a flush, by its record in the journal. */
export interface PointMark {
  readonly seq: number;
  readonly wallMs: number;
}

export interface PointSummary {
  readonly oldest: PointMark | null;
  /** In the journal only, perhaps. */
  readonly newest: PointMark | null;
  /** Bytes that are there for points alone. */
  readonly heldBytes: number;
}

export interface VolumeStatistics {
  readonly readOnlyReason: string | null;
  readonly mappedBytes: number;
  readonly storedBytes: number;
  readonly journalBytes: number;
  readonly journalQuotaBytes: number;
  /** Appended to the journal since the volume was opened. */
  readonly journalWrittenBytes: number;
  readonly journalSyncs: number;
  /** Journal files that were given up after an I/O error (J5). */
  readonly journalFailedFiles: number;
  readonly flushLagMs: number;
  /** Blocks that are in the journal and not in the store yet. */
  readonly dirtyBytes: number;
  /** Bytes of segments put into the store since the volume was opened. */
  readonly publishedBytes: number;
  /** What of them cleaning wrote. */
  readonly movedBytes: number;
  /** Code of what keeps batches from being published right now, or null. */
  readonly publishingWaits: string | null;
  /** Bytes in the store that nothing needs any more and cleaning has not given back. */
  readonly gcDebtBytes: number;
  readonly segments: number;
  /** Points in time, null when none are kept. */
  readonly points: PointSummary | null;
  readonly reads: number;
  readonly writes: number;
  readonly flushes: number;
  readonly trims: number;
  readonly readBytes: number;
  readonly writtenBytes: number;
  /** Where the blocks that were read came from. */
  readonly readBlocks: Readonly<ReadSources>;
}

/** The part of one volume in a snapshot set (G5); `token` names the set. */
export interface SetCuts {
  hold(token: string): void;
  mark(token: string): void;
  /** @returns whether it was held without a break, with the mark in it */
  release(token: string): boolean;
  documentOfCut(
    token: string,
    name: SnapshotName,
    options: SnapshotOptions,
  ): Promise<SnapshotDocument>;
  drop(token: string): void;
}

/** What needs the base of a log still. */
export interface BaseUse {
  /** The content itself, or the root before the newest. */
  readonly roots: boolean;
  /** Oldest first; at most `limits.holdersListed` of them. */
  readonly snapshots: readonly SnapshotName[];
  readonly areMore: boolean;
  /** Points in time from before. */
  readonly points: boolean;
}

export interface FlattenOptions {
  readonly signal: AbortSignal;
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
}

export interface Flattened {
  readonly movedBytes: number;
  /** What needs the base still; null when it was let go of. */
  readonly held: BaseUse | null;
}

/** What a flatten would do now. */
export interface FlattenPlan {
  /** Blocks that lie in the base. */
  readonly copyBytes: number;
  /** What would need the base afterwards. */
  readonly held: BaseUse | null;
}

/** Makes a volume need nothing of the logs that it was forked from (flatten.ts). */
export interface FlattenControl {
  /** After a failure it goes on where it ended. */
  run(options: FlattenOptions): Promise<Flattened>;
  plan(): Promise<FlattenPlan>;
}

export interface OpenVolume extends BlockReader {
  readonly id: VolumeId;
  readonly log: LogId;
  /** Cut at this instant: contains every write acknowledged before the call, none that was sent after it resolved. */
  snapshot(name: SnapshotName, options: SnapshotOptions): Promise<SnapshotDocument>;
  /** Cuts of several volumes at one instant (cuts.ts). */
  readonly cuts: SetCuts;
  readonly flattener: FlattenControl;
  /** The head already has the new size (G6). */
  grow(sizeBytes: number): void;
  statistics(): VolumeStatistics;
  /** What it takes in the store; documents and the list of segments are read. */
  space(): Promise<VolumeSpace>;
  /** Publish everything and write a root, without closing. */
  publishAll(): Promise<void>;
  /** Publish what is not in the store yet; nothing when all of it is. */
  publishNew(): Promise<void>;
  /** Keep every flush of so many milliseconds as a point that can be had back, or none (DD-0013). The head says so already. */
  retain(retainMs: number | null): void;
  /** Of segments that are built from now on (DD-0017). The head says so already. */
  compress(compression: Compression): void;
}
