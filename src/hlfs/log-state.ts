/** What the writer of a log is given: where the log stands, in whose name it is written, and how. */
import type { LogId } from '../base/index.ts';
import type { HlfsContext } from './context.ts';
import type { TopPointer } from './map-page.ts';
import type { PointFacts, SegmentRow } from './root-format.ts';
import type { Compression, LogRange } from './schema.ts';

/** Where a log stands: what recovery found, and what the writer goes on from. */
export interface LogState {
  readonly log: LogId;
  /** Ranges below this log's own first number; none once the content needs nothing from there (flatten.ts). */
  baseRanges: readonly LogRange[];
  readonly firstNumber: number;
  next: number;
  /** Checksum of segment `next - 1`. */
  previous: number;
  newestRoot: number;
  olderRoot: number;
  coveredEpoch: number;
  coveredIncarnation: number;
  coveredSeq: number;
  rows: Map<number, SegmentRow>;
  top: TopPointer | null;
  mappedBlocks: number;
  /** Bytes that the mapped blocks take; not there when none is compressed. */
  readonly storedBytes?: number | undefined;
  /** Segments applied since the newest root. */
  sinceRoot: number;
  /** What the newest root says of points in time. */
  readonly points?: PointFacts | undefined;
}

export interface WriterOptions {
  readonly context: HlfsContext;
  readonly scope: string;
  readonly epoch: number;
  readonly incarnation: number;
  readonly mapCacheBytes?: number;
  /** Keep every flush for so long as a point that can be had back (DD-0013); null: none. */
  readonly retainMs: number | null;
  /** Of new segments; none when it is not given. */
  readonly compression?: Compression;
  /** Journal records that the recovery found; a segment found at the own next number may cover no more (S3). */
  readonly recoveredSeq: number;
}

/** What the open volume says of itself in a root. */
export interface LiveFacts {
  readonly sizeBytes: number;
  readonly flushMark: { readonly seq: number; readonly wallMs: number } | null;
}
