/**
 * The control protocol of blockd: requests by name over a unix socket, one JSON object a line.
 *
 *   -> {"id":1,"method":"hello","params":{"version":1}}
 *   <- {"id":1,"result":{...}}   or   {"id":1,"error":{"code":"NOT_FOUND","context":{...}}}
 *   <- {"id":1,"progress":{"done":"1048576","total":"4194304","unit":"bytes"}}      any number, before the result
 *   -> {"cancel":1}                                                                 asks to stop request 1
 *
 * The first request is `hello`; each side speaks its own version and the one before (design section 3). Numbers of bytes
 * are JSON numbers below 2^53. Messages longer than limits.controlMessageBytesMax end the connection.
 */
import type {
  ErrorCode,
  ErrorContext,
  LoopFigures,
  ProcessFigures,
  RateLimits,
  RateLimitsChange,
} from '../base/index.ts';
import type { Compression, ReadSources, VolumeSpace } from '../hlfs/index.ts';
import type { RequestFigures, RequestLatency } from '../nbd/index.ts';

import type { ScrubStatus, VolumeCheckAnswer, VolumeScrub } from './protocol-integrity.ts';
import type { PointMethods, PointsInfo } from './protocol-points.ts';
import type {
  CapacityInfo,
  CapacityWarning,
  HeldExport,
  MapExtent,
  QuotaInfo,
  TrashInfo,
} from './protocol-storage.ts';
import type { BaseHolders, TreeMethods } from './protocol-tree.ts';

export type * from './protocol-integrity.ts';
export type * from './protocol-points.ts';
export type * from './protocol-storage.ts';
export type * from './protocol-tree.ts';

export const controlVersion = 1;

export interface VolumeInfo {
  readonly id: string;
  readonly path: string;
  readonly kind: 'volume' | 'image';
  readonly state: 'active' | 'recovering' | 'deleting';
  readonly sizeBytes: number;
  readonly blockBytes: 512 | 4096;
  readonly labels: Readonly<Record<string, string>>;
  readonly protected: boolean;
  /** Absent in answers of an older blockd, which has none. */
  readonly limits?: RateLimits;
  readonly createdAt: string;
  readonly epoch: string;
  readonly log: string;
  readonly origin: { readonly path: string; readonly snapshot: string } | null;
  readonly image: {
    readonly digest: string;
    readonly source: string;
    readonly format: string;
    readonly sourceBytes: number;
    /** Of the disk as guests see it; null, or absent, when it was imported by an older release. */
    readonly contentDigest?: string | null;
  } | null;
  readonly snapshots: number;
  /** For how long every flush is kept as a point in time; an older blockd keeps none. */
  readonly retainMs?: number | null;
  /** Of what is written from now on; an older blockd knows none. */
  readonly compression?: Compression;
  /** In the answer of volume.get, when points are kept. */
  readonly points?: PointsInfo | null;
  /** In the answer of volume.get, of a flattened volume: what needs the logs of its origin still. */
  readonly originHeldBy?: BaseHolders | null;
  /** Present while open in this blockd. */
  readonly open: VolumeActivity | null;
  /** When asked for; null when it cannot be told, because a part of the volume cannot be read. */
  readonly space?: VolumeSpace | null;
  /** Absent in lists, and in answers of an older blockd. */
  readonly scrub?: VolumeScrub;
  /** In the answers of create, clone and resize: what to look at, e.g. that the store is overcommitted. */
  readonly warnings?: readonly CapacityWarning[];
}

export interface VolumeActivity {
  readonly attachId: string | null;
  readonly connections: number;
  readonly readOnlyReason: string | null;
  /** Bytes in blocks that the map or the journal holds. */
  readonly mappedBytes: number;
  /** Bytes of segments that only this volume's current log wrote. */
  readonly storedBytes: number;
  readonly journalBytes: number;
  readonly journalQuotaBytes: number;
  /** Age of the oldest flushed write that is not in the store yet, milliseconds. */
  readonly flushLagMs: number;
  readonly segments: number;
  /** Up to `trims` added later: an older blockd leaves them out. */
  readonly journalWrittenBytes: number;
  readonly journalSyncs: number;
  readonly journalFailedFiles: number;
  readonly dirtyBytes: number;
  readonly publishedBytes: number;
  readonly publishingWaits: string | null;
  readonly gcDebtBytes: number;
  readonly trims: number;
  readonly reads: number;
  readonly writes: number;
  readonly flushes: number;
  readonly readBytes: number;
  readonly writtenBytes: number;
  /** Requests that waited for a limit, and the time in which any did; an older blockd has no limits. */
  readonly throttledRequests?: number;
  readonly throttledMs?: number;
  /** What of `publishedBytes` cleaning wrote, and where blocks that were read came from; an older blockd does not say. */
  readonly movedBytes?: number;
  readonly readBlocks?: Readonly<ReadSources>;
  /** Of the last one or two minutes; an older blockd leaves it out. */
  readonly latencies?: readonly RequestLatency[];
}

/** Behind the snapshot of this time and name. */
export interface SnapshotPlace {
  readonly createdAt: string;
  readonly name: string;
}

export interface SnapshotInfo {
  readonly id: string;
  readonly name: string;
  readonly volume: string;
  readonly parent: string | null;
  readonly createdAt: string;
  readonly sizeBytes: number;
  readonly protected: boolean;
  readonly labels: Readonly<Record<string, string>>;
  /** True when the volume's current content descends from it. */
  readonly current: boolean;
  /** Volumes cloned from it. */
  readonly clones: number;
  /** Id of the set in which it was made with snapshots of other volumes at one instant; absent for one on its own. */
  readonly set?: string;
}

export interface DiffRange {
  readonly offset: number;
  readonly length: number;
  readonly kind: 'data' | 'zero';
}

export interface BlockdStatus {
  readonly pid: number;
  readonly version: string;
  readonly controlVersion: number;
  readonly startedAt: string;
  readonly node: string;
  readonly store: string;
  readonly storeFreeBytes: number;
  readonly storeTotalBytes: number;
  readonly nbdSocket: string;
  readonly nbdTcp: string | null;
  readonly openVolumes: number;
  readonly workers: number;
}

type JsonObject = Readonly<Record<string, unknown>>;

/** A document of the wanted state, or why it cannot be read. */
export type StateDocument =
  | { readonly name: string; readonly version: number; readonly value: JsonObject }
  | {
      readonly name: string;
      readonly error: { readonly code: ErrorCode; readonly context: ErrorContext };
    };

/** What blockd counts. Later releases only add members; a change of meaning gets another `format`. */
export interface BlockdMetrics {
  readonly format: 1;
  readonly process: ProcessFigures;
  readonly loops: readonly LoopFigures[];
  readonly store: { readonly freeBytes: number; readonly totalBytes: number };
  readonly nbd: {
    /** Upper bounds of the buckets of every operation, which have one more for what is slower. */
    readonly boundsSeconds: readonly number[];
    readonly connections: number;
    readonly operations: readonly RequestFigures[];
  };
  /** Absent in answers of an older blockd. */
  readonly scrub?: { readonly readBytes: number; readonly damagedVolumes: number };
  /** The open volumes. */
  readonly volumes: readonly (VolumeActivity & { readonly path: string })[];
  /** Attached volumes that could not be opened again yet. */
  readonly unopened: readonly {
    readonly path: string;
    readonly vm: string;
    readonly code: string;
    readonly reason: string;
  }[];
}

type Labels = Readonly<Record<string, string>>;

/** Every method: params and result. */
export interface ControlMethods
  extends PointMethods<SnapshotInfo, VolumeInfo>,
    TreeMethods<VolumeInfo> {
  hello: { params: { version: number }; result: { version: number; release: string; pid: number } };
  status: { params: Record<string, never>; result: BlockdStatus };
  metrics: { params: Record<string, never>; result: BlockdMetrics };
  'volume.create': {
    params: {
      path: string;
      sizeBytes: number;
      blockBytes?: 512 | 4096;
      labels?: Labels;
      protected?: boolean;
      journalBytes?: number;
      kind?: 'volume' | 'image';
      limits?: RateLimitsChange;
      retainMs?: number;
      compression?: Compression;
    };
    result: VolumeInfo;
  };
  'volume.list': {
    params: { prefix?: string; kind?: 'volume' | 'image' };
    result: { volumes: VolumeInfo[] };
  };
  /** With `space`: what it takes in the store too. */
  'volume.get': { params: { path: string; space?: boolean }; result: VolumeInfo };
  'volume.rename': { params: { path: string; to: string }; result: VolumeInfo };
  'volume.update': {
    /** Of `limits` only what is named changes. `retainMs` null: keep no points in time any more. */
    params: {
      path: string;
      labels?: Labels;
      protected?: boolean;
      limits?: RateLimitsChange;
      retainMs?: number | null;
      /** Of what is written from now on. */
      compression?: Compression;
    };
    result: VolumeInfo;
  };
  'volume.resize': {
    params: { path: string; sizeBytes: number; shrink?: boolean };
    result: VolumeInfo;
  };
  /** Into the trash, or for good: `now`, images, and a window of zero. */
  'volume.delete': {
    params: { path: string; now?: boolean };
    result: { trash: TrashInfo | null };
  };
  'trash.list': { params: Record<string, never>; result: { volumes: TrashInfo[] } };
  /** `what` is an id, or the path of a deleted volume: of several the one that was deleted last. */
  'trash.restore': { params: { what: string; to?: string }; result: VolumeInfo };
  /** Without `what` all of it. */
  'trash.empty': { params: { what?: string }; result: { discarded: TrashInfo[] } };
  capacity: { params: Record<string, never>; result: CapacityInfo };
  'quota.list': { params: Record<string, never>; result: { quotas: QuotaInfo[] } };
  /** With what is stored below it. */
  'quota.get': { params: { path: string }; result: QuotaInfo };
  'quota.set': {
    params: {
      path: string;
      sizeBytes: number | null;
      volumes: number | null;
      storedBytes: number | null;
    };
    result: QuotaInfo;
  };
  'scrub.status': { params: Record<string, never>; result: ScrubStatus };
  /** Without a path: all volumes. */
  'scrub.start': { params: { path?: string }; result: ScrubStatus };
  'scrub.pause': { params: { paused: boolean }; result: ScrubStatus };
  'quota.delete': { params: { path: string }; result: Record<string, never> };
  /** Where the content is, from `offset` on; `next` is where to ask on, null at the end. */
  'volume.map': {
    params: { path: string; snapshot?: string | null; offset?: number; limit?: number };
    result: { sizeBytes: number; extents: MapExtent[]; next: number | null };
  };
  'export.create': {
    params: { path: string; snapshot?: string | null; readOnly?: boolean };
    result: HeldExport;
  };
  'export.list': { params: Record<string, never>; result: { exports: HeldExport[] } };
  'export.delete': { params: { id: string }; result: Record<string, never> };
  /** Without a snapshot in `source` one is taken first, named `clone-<time>`. */
  'volume.clone': {
    params: {
      source: string;
      path: string;
      labels?: Labels;
      sizeBytes?: number;
      protected?: boolean;
      /** On top of those of the source. */
      limits?: RateLimitsChange;
    };
    result: VolumeInfo;
  };
  'volume.check': {
    /** `repair` puts right what can be without losing anything; nobody may have the volume open then. */
    params: { path: string; repair?: boolean };
    result: VolumeCheckAnswer;
  };
  /** Give up what lies beyond a damaged journal record. */
  'volume.recover': {
    params: { path: string; acceptLoss: boolean };
    result: { lostFromSeq: string | null; recoveredBytes: number };
  };
  /** Keep the volume open for `attachId`; the answer says where its NBD server listens. Idempotent for the same id. */
  'volume.attach': {
    params: { path: string; attachId: string; vm: string };
    result: { socketPath: string; exportName: string; sizeBytes: number; blockBytes: 512 | 4096 };
  };
  'volume.detach': { params: { path: string; attachId: string }; result: Record<string, never> };
  /** Turn a freshly filled volume into an image: snapshot `image`, facts kept, writes refused from now on. */
  'image.publish': {
    params: {
      path: string;
      digest: string;
      source: string;
      format: 'raw' | 'qcow2' | 'vmdk' | 'ova';
      sourceBytes: number;
      contentDigest?: string;
    };
    result: VolumeInfo;
  };
  'snapshot.create': {
    params: { path: string; name: string; labels?: Labels; protected?: boolean };
    result: SnapshotInfo;
  };
  /** Snapshots of these volumes at one instant, all with this name: all of them exist, or none (G5). */
  'snapshot.create-set': {
    params: { paths: string[]; name: string; labels?: Labels; protected?: boolean };
    result: { snapshots: SnapshotInfo[] };
  };
  /** In the order of time and name; `next` is the `after` of the next page, null at the end. */
  'snapshot.list': {
    params: { path: string; after?: SnapshotPlace; limit?: number };
    result: { snapshots: SnapshotInfo[]; next: SnapshotPlace | null };
  };
  'snapshot.get': { params: { path: string; name: string }; result: SnapshotInfo };
  'snapshot.update': {
    params: { path: string; name: string; labels?: Labels; protected?: boolean };
    result: SnapshotInfo;
  };
  'snapshot.delete': { params: { path: string; name: string }; result: Record<string, never> };
  'snapshot.rollback': { params: { path: string; name: string }; result: VolumeInfo };
  /** `to` null: the current content. */
  'snapshot.diff': {
    params: { path: string; from: string; to: string | null; limit?: number };
    result: { ranges: DiffRange[]; changedBytes: number; truncated: boolean };
  };
  /** Wanted state of the host, kept for the agent (document-methods.ts). `after` and `next` page through the names. */
  'document.list': {
    params: { kind: string; after?: string };
    result: { documents: StateDocument[]; next: string | null };
  };
  'document.read': {
    params: { kind: string; name: string };
    result: { document: StateDocument | null };
  };
  'document.create': {
    params: { kind: string; name: string; value: JsonObject };
    result: { version: number };
  };
  /** Compare-and-swap from `version`. */
  'document.replace': {
    params: { kind: string; name: string; version: number; value: JsonObject };
    result: { version: number };
  };
  'document.delete': {
    params: { kind: string; name: string; version: number };
    result: Record<string, never>;
  };
  /** Stop: close every volume cleanly, answer, end. `graceful` false skips the clean close (restart for upgrade). */
  shutdown: { params: { graceful: boolean }; result: Record<string, never> };
}

export type ControlMethod = keyof ControlMethods;
export type ControlParams<M extends ControlMethod> = ControlMethods[M]['params'];
export type ControlResult<M extends ControlMethod> = ControlMethods[M]['result'];

export interface ControlProgress {
  readonly done: string;
  readonly total: string | null;
  readonly unit: string;
}

export type ControlRequest =
  | { readonly id: number; readonly method: string; readonly params: unknown }
  | { readonly cancel: number };
export type ControlReply =
  | { readonly id: number; readonly result: unknown }
  | {
      readonly id: number;
      readonly error: { readonly code: ErrorCode; readonly context: ErrorContext };
    }
  | { readonly id: number; readonly progress: ControlProgress };
