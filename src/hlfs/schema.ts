/**
 * The documents of HLFS in the store, as types. Byte tables of the binary formats are in docs/format/.
 *
 * A document is a JSON object at `<key>/<version>` (version as 12 decimal digits); it is changed only by put-if-absent of the
 * next version, which is compare-and-swap with nothing but the store (design section 5). Fields that this program does not
 * know survive a rewrite, 64-bit numbers are strings (S10).
 *
 *   volumes/<volume>/head        HeadDocument       who may write, where the log is, name, size
 *   logs/<log>/log               LogDocument        where the log starts (its base), whose it is; changed by flatten and promote alone
 *   logs/<log>/snap/<name>@      SnapshotDocument
 *   logs/<log>/pins/<who>        PinDocument        a fork or reader that needs this log's segments
 *   names/<directory>/<name>@    NameDocument       entry of the hierarchical namespace
 *   intents/<log>                IntentDocument     a log being made, for a new volume or a rollback, or losing its base (N2, G4)
 *   sets/<id>                    SetDocument        snapshots of several volumes at one instant exist from it on (G5)
 *   state/<kind>/<name>@         what the agent wants, opaque here
 *
 * Segments are not documents: `logs/<log>/seg/<number / 1024, 8 digits>/<number, 10 digits>`.
 * Scopes of writers: `logs/<log>/w/<epoch>-<32 hex>`; of processes: `scopes/<node>-<32 hex>`.
 */
import type {
  DirectoryId,
  LogId,
  NodeId,
  RateLimits,
  SnapshotName,
  VolumeId,
} from '../base/index.ts';

/** Version of every JSON document and of the store directory. */
export const storeFormatVersion = 1;

export interface FeatureSets {
  /** Unknown ones may be ignored. */
  readonly compat: readonly string[];
  /** Unknown ones forbid writing. */
  readonly roCompat: readonly string[];
  /** Unknown ones forbid opening. */
  readonly incompat: readonly string[];
}

/**
 * Read-only compatible, of a volume that keeps points in time or ever did: a release that does not know it would merge writes
 * across flushes, delete segments that points need, and find records of flushes in the journal that it cannot read.
 */
export const pointsFeature = 'points';

/** What becomes of blocks when they are written to segments. */
export const compressions = ['none', 'zstd'] as const;
export type Compression = (typeof compressions)[number];

/**
 * Incompatible, of a volume that was promoted or whose clone was: its logs hold snapshots of other volumes, or its snapshots lie in
 * theirs, and a release that does not know it would show and delete those of others.
 */
export const promotedFeature = 'promoted';

export interface Origin {
  readonly volume: VolumeId;
  readonly path: string;
  readonly snapshot: SnapshotName;
}

export interface ImageFacts {
  /** `sha256:<64 hex>` of the source file as it was imported. */
  readonly digest: string;
  readonly source: string;
  readonly format: 'raw' | 'qcow2' | 'vmdk' | 'ova';
  readonly sourceBytes: string;
  /** `sha256:<64 hex>` of the disk as guests see it; absent in images of older releases. */
  readonly contentDigest?: string;
}

export interface TrashFacts {
  /** Where it was. */
  readonly path: string;
  readonly atMs: number;
  /** Kept until then, unless space runs short. */
  readonly untilMs: number;
}

export interface HeadDocument {
  readonly format: number;
  readonly features: FeatureSets;
  readonly volume: VolumeId;
  readonly parent: DirectoryId;
  readonly name: string;
  readonly kind: 'volume' | 'image';
  /**
   * creating: not yet named. active: usable. recovering: a takeover is under way (T2). trashed: deleted, nothing of it is
   * gone but its name, and it can be had back. deleting: on its way out, its name is gone; its logs stay until their last
   * pin is released (N2).
   */
  readonly state: 'creating' | 'active' | 'recovering' | 'trashed' | 'deleting';
  /** Of a volume in the trash; absent or null otherwise. */
  readonly trash?: TrashFacts | null;
  /** Writer generation, decimal; raised by takeover, rollback and shrink. */
  readonly epoch: string;
  /** The node whose blockd may write, or null when nobody ever opened the volume. */
  readonly writer: NodeId | null;
  /** Publishing scope of the writer in the current log, or null before the first open. */
  readonly scope: string | null;
  /** Scopes of earlier epochs that the taker has to fence before it publishes (T2, T3). */
  readonly pending: readonly {
    readonly epoch: string;
    readonly scope: string | null;
    readonly log: LogId;
    readonly wasActive: boolean;
  }[];
  readonly attachment: {
    readonly attachId: string;
    readonly vm: string;
    readonly runEpoch: string;
  } | null;
  readonly sizeBytes: string;
  readonly blockBytes: 512 | 4096;
  /** A shrink whose cut-off range may still hold old data; finished at the next open (G6). */
  readonly trimFrom: string | null;
  readonly log: LogId;
  /** Every log of this volume, the current one first; the others are kept by snapshots and pins. */
  readonly logs: readonly LogId[];
  /** Logs of other volumes that have snapshots of this one (DD-0018): each snapshot's document says whose it is. */
  readonly snapshotLogs?: readonly LogId[];
  /** Id of the intent of a promotion that this volume takes part in (G4). */
  readonly promoting?: LogId;
  readonly journal: { readonly mode: 'local'; readonly quotaBytes: string };
  /** Journal mirrors; always empty in mode local. */
  readonly ensemble: readonly [];
  readonly labels: Readonly<Record<string, string>>;
  readonly protected: boolean;
  /** Absent: none. A release that does not know it serves the volume without limits, and keeps it. */
  readonly limits?: RateLimits;
  /** Every flush of so many milliseconds can be had back (DD-0013); absent: none is kept. */
  readonly retainMs?: number | null;
  /** Of segments that are written from now on (DD-0017); absent: none. What is in the store may be either. */
  readonly compression?: Compression;
  readonly createdAtMs: number;
  readonly origin: Origin | null;
  /** This log, while it is the current one, needs no base for its content; what else needs it (DD-0018) is looked at again. */
  readonly flattened?: LogId;
  readonly image: ImageFacts | null;
}

/** Where snapshots of the volume are; its own logs come first, the current one before all. */
export const snapshotLogsOf = ({ logs, snapshotLogs = [] }: HeadDocument): readonly LogId[] => [
  ...logs,
  ...snapshotLogs.filter((log) => !logs.includes(log)),
];

/** Segment numbers `first..last` live in `log` of store `store`. */
export interface LogRange {
  readonly first: number;
  readonly last: number;
  readonly log: LogId;
  /** Id of the store that holds the log; `main` is the only one of a single host. */
  readonly store: string;
}

/** The ranges of a log up to `last`. Without a base all numbers are its own, used or not. */
export const rangesUpTo = (
  log: {
    readonly log: LogId;
    readonly baseRanges: readonly LogRange[];
    /** Right behind the base that it was made with. */
    readonly firstNumber: number;
  },
  last: number,
): LogRange[] => {
  const first = log.baseRanges.length === 0 ? 1 : log.firstNumber;
  return [...log.baseRanges, { first, last, log: log.log, store: 'main' }];
};

export interface LogDocument {
  readonly format: number;
  readonly log: LogId;
  readonly volume: VolumeId;
  /** Null for a log that starts empty. The segment after the base is `rootSegment + 1`. */
  readonly base: {
    /** Covers 1..rootSegment without gaps, oldest first. */
    readonly ranges: readonly LogRange[];
    /** The root segment (the cut) that this log continues from. */
    readonly rootSegment: number;
    /** Footer checksum of that segment, for the chain. */
    readonly checksum: number;
    /** Snapshot it was forked from. */
    readonly snapshot: {
      readonly volume: VolumeId;
      readonly log: LogId;
      readonly id: string;
      readonly name: SnapshotName;
    };
  } | null;
  readonly createdAtMs: number;
}

export interface SnapshotDocument {
  readonly format: number;
  readonly id: string;
  readonly name: SnapshotName;
  readonly volume: VolumeId;
  readonly log: LogId;
  /**
   * pending: member of a set whose document does not exist (G5); nobody sees it. deleting: set before the pins are looked at
   * (G3); a fork that sees it gives up.
   */
  readonly state: 'pending' | 'live' | 'deleting';
  /** The set that it was made in. */
  readonly set?: SetReference;
  /** The segment whose root is the snapshot's content; also the cut position. */
  readonly rootSegment: number;
  /** Footer checksum of that segment. */
  readonly checksum: number;
  readonly sizeBytes: string;
  readonly createdAtMs: number;
  /** Id of the snapshot before it in the tree, or null. */
  readonly parent: string | null;
  readonly protected: boolean;
  readonly labels: Readonly<Record<string, string>>;
}

export interface SetReference {
  readonly id: string;
  /** Scope of the process that decides the set: once it is fenced, a set without document never gets one. */
  readonly scope: string;
}

/** Put once, when the roots of all members are durable; removed when all of them say `live` themselves. */
export interface SetDocument {
  readonly format: number;
  readonly id: string;
  /** Scope of the process that put it. */
  readonly scope: string;
  readonly members: readonly { readonly log: LogId; readonly name: SnapshotName }[];
  readonly createdAtMs: number;
}

export interface PinDocument {
  readonly format: number;
  /** Log id of the fork, or a reader's id. */
  readonly who: string;
  readonly kind: 'fork' | 'reader';
  readonly volume: VolumeId;
  /** Id of the snapshot that is forked or read; it may be in another log. */
  readonly snapshot: string;
  /** Position (segment number) in this log up to which segments are needed. */
  readonly cut: number;
  readonly createdAtMs: number;
}

export type NameDocument =
  | {
      readonly format: number;
      readonly kind: 'directory';
      readonly directory: DirectoryId;
      /** Set before an empty directory is looked through for the last time; whoever puts a name into it takes it back. */
      readonly removing?: boolean;
    }
  | { readonly format: number; readonly kind: 'volume'; readonly volume: VolumeId };

export interface Promotion {
  readonly parent: VolumeId;
  /** Logs that go from the parent to the clone. */
  readonly moved: readonly LogId[];
  /** What the clone reads, and how far: snapshots of the parent up to there go over. */
  readonly cuts: readonly { readonly log: LogId; readonly cut: number }[];
  /** Scope of the parent's writer in a log that goes over. */
  readonly scope: string | null;
  /** Of the parent, afterwards. */
  readonly origin: Origin;
  /** Of the clone, afterwards: what the parent had. */
  readonly formerOrigin: Origin | null;
  /** Which snapshots these pins keep afterwards. */
  readonly pins: readonly {
    readonly log: LogId;
    readonly who: string;
    readonly snapshot: string;
  }[];
}

export interface IntentDocument {
  readonly format: number;
  readonly kind: 'volume' | 'rollback' | 'flatten' | 'promote';
  readonly volume: VolumeId;
  readonly log: LogId;
  /** Logs in which the maker writes pins, looked through when it is undone; of a flatten: has pins, which go. */
  readonly pinned: readonly LogId[];
  /** Path that a new volume is to get, null for a rollback. */
  readonly path: string | null;
  /** Of a promotion: what is to be done once it is decided. */
  readonly promotion?: Promotion;
  readonly node: NodeId;
  /** Publishing scope of the maker: while it is not fenced the maker may still be at work. */
  readonly scope: string;
  readonly createdAtMs: number;
}

/** A deleted document's last version: the key is not used again while a late writer may exist (S2). */
export interface Tombstone {
  readonly format: number;
  readonly deleted: true;
}

export const segmentKey = (log: LogId, number: number): string =>
  `logs/${log}/seg/${String(Math.floor(number / 1024)).padStart(8, '0')}/${String(number).padStart(10, '0')}`;
