/**
 * What the main thread asks of its workers. Both are of one build and one process, so nothing here is versioned and nothing
 * is validated; it is bounded (limits.workerInFlightMax) and cancellable like every request.
 *
 * An **export** is one open volume or snapshot with its own unix socket. Its `key` is the volume's id, or `id@snapshot`.
 * Only a client that names `exportName` gets in: it carries the attach id, or a token that only the main thread knows.
 */
import {
  asVolumeId,
  type LoopFigures,
  type NodeId,
  type RateLimits,
  type SnapshotName,
  type VolumeId,
} from '../base/index.ts';
import type {
  CloneOptions,
  Compression,
  Flattened,
  FlattenPlan,
  PointChoice,
  PointFilter,
  PointMark,
  PointSummary,
  ScrubNote,
  ScrubPosition,
  ScrubSlice,
  SnapshotDocument,
  SnapshotFollowed,
  SnapshotOptions,
  VolumeSpace,
} from '../hlfs/index.ts';
import type { RequestFigures } from '../nbd/index.ts';
import type { LogLevel } from './options.ts';
import type { DiffRange, MapExtent, VolumeActivity, VolumeCheckAnswer } from './protocol.ts';
import type { ReadCacheSetup } from './read-caches.ts';

export type ExportKey = string;

export const exportKey = (volume: VolumeId, snapshot?: SnapshotName): ExportKey =>
  snapshot === undefined ? volume : `${volume}@${snapshot}`;

export const volumeOfKey = (key: ExportKey): VolumeId => asVolumeId(key.slice(0, 36));

/** Given to a worker when it starts (workerData). */
export interface WorkerSetup {
  readonly index: number;
  /** How many there are. */
  readonly workers: number;
  readonly node: NodeId;
  readonly storeDirectory: string;
  readonly journalDirectory: string;
  /** Publishing scope of the process, made by the main thread. */
  readonly scope: string;
  readonly logFile: string;
  readonly logLevel: LogLevel;
  readonly foreground: boolean;
  readonly readCache: ReadCacheSetup;
}

export interface ExportSpec {
  readonly key: ExportKey;
  readonly volume: VolumeId;
  readonly snapshot: SnapshotName | null;
  readonly socketPath: string;
  readonly exportName: string;
  /** Shown to clients. */
  readonly description: string;
  /** Rule N4: why nothing may be written, or null. */
  readonly readOnlyReason: string | null;
}

export interface OpenedFacts {
  readonly sizeBytes: number;
  readonly blockBytes: 512 | 4096;
}

export type ExportActivity = Omit<VolumeActivity, 'attachId'>;

/** A volume by its id, and by the path for messages. */
export type PointParams = { readonly id: VolumeId; readonly path: string };

export interface WorkerFigures {
  readonly loop: LoopFigures;
  readonly connections: number;
  readonly operations: readonly RequestFigures[];
  readonly volumes: readonly { readonly key: ExportKey; readonly activity: ExportActivity }[];
}

type Nothing = Record<string, never>;
type CutParams = { readonly key: ExportKey; readonly token: string };

export interface WorkerMethods {
  'export.open': { params: ExportSpec; result: OpenedFacts };
  /** Drop the connections (their requests in flight finish first), close cleanly. */
  'export.close': { params: { key: ExportKey }; result: Nothing };
  'export.activity': { params: { key: ExportKey }; result: ExportActivity };
  'export.space': { params: { key: ExportKey }; result: VolumeSpace };
  /** Of a volume that is not open; null: there is none. */
  space: { params: { volume: VolumeId }; result: VolumeSpace | null };
  /** Counts of this worker and of its open volumes. */
  figures: { params: Nothing; result: WorkerFigures };
  'export.grow': { params: { key: ExportKey; sizeBytes: number }; result: Nothing };
  /** The head has these limits now. */
  'export.limits': { params: { key: ExportKey; limits: RateLimits }; result: Nothing };
  /** Everything acknowledged so far is in the newest root afterwards. */
  'export.publish': { params: { key: ExportKey }; result: Nothing };
  /** As `export.publish`, and nothing when all of it is in the store. */
  'export.publish-new': { params: { key: ExportKey }; result: Nothing };
  /** The head says so already. */
  'export.retain': { params: { key: ExportKey; retainMs: number | null }; result: Nothing };
  'export.compress': { params: { key: ExportKey; compression: Compression }; result: Nothing };
  'export.points': { params: { key: ExportKey }; result: { points: PointSummary | null } };
  /** Of a volume that is not open. */
  'points.summary': { params: { volume: VolumeId }; result: PointSummary };
  'points.list': {
    params: { volume: VolumeId; filter: PointFilter };
    result: { points: (PointMark & { sizeBytes: number })[]; more: boolean };
  };
  'points.snapshot': {
    params: PointParams & {
      choice: PointChoice;
      options: { name?: string; labels?: Readonly<Record<string, string>> };
    };
    result: { name: SnapshotName; point: PointMark };
  };
  'points.clone': {
    params: PointParams & { choice: PointChoice; to: string; options: CloneOptions };
    result: { point: PointMark };
  };
  'export.snapshot': {
    params: {
      key: ExportKey;
      name: SnapshotName;
      labels: Readonly<Record<string, string>>;
      protected: boolean;
      /** The main thread knows the snapshots of all volumes. */
      follows: SnapshotFollowed | null;
    };
    result: Nothing;
  };
  /** The part of one volume in a snapshot set (G5, hlfs/cuts.ts). */
  'cut.hold': { params: CutParams; result: Nothing };
  'cut.mark': { params: CutParams; result: Nothing };
  'cut.release': { params: CutParams; result: { unbroken: boolean } };
  'cut.document': {
    params: CutParams & { name: SnapshotName; options: SnapshotOptions };
    result: { document: SnapshotDocument };
  };
  'cut.drop': { params: CutParams; result: Nothing };
  /** Ends with VOLUME_CLOSED when the export is closed meanwhile. */
  'export.flatten': { params: { key: ExportKey }; result: Flattened };
  'export.flatten-plan': { params: { key: ExportKey }; result: FlattenPlan };
  /** Of a volume that is not open. */
  'flatten.plan': { params: { volume: VolumeId }; result: FlattenPlan };
  check: {
    params: { volume: VolumeId; repair: boolean };
    result: VolumeCheckAnswer;
  };
  'scrub.slice': {
    params: { volume: VolumeId; from: ScrubPosition | null; bytesPerSecond: number };
    result: ScrubSlice;
  };
  'scrub.trace': {
    params: { volume: VolumeId; notes: readonly ScrubNote[] };
    result: VolumeCheckAnswer;
  };
  recover: {
    params: { volume: VolumeId; acceptLoss: boolean };
    result: { lostFromSeq: string | null; recoveredBytes: number };
  };
  'content.map': {
    params: { volume: VolumeId; snapshot: SnapshotName | null; offset: number; limit: number };
    result: { sizeBytes: number; extents: MapExtent[]; next: number | null };
  };
  diff: {
    params: { volume: VolumeId; from: SnapshotName; to: SnapshotName | null; limit: number };
    result: { ranges: DiffRange[]; changedBytes: number; truncated: boolean };
  };
  /** Close every export and the store; the worker ends after it. */
  stop: { params: Nothing; result: Nothing };
}

export type WorkerMethod = keyof WorkerMethods;
export type WorkerParams<M extends WorkerMethod> = WorkerMethods[M]['params'];
export type WorkerResult<M extends WorkerMethod> = WorkerMethods[M]['result'];
