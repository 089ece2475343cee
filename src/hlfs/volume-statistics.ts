/** What an open volume says about itself, put together from its parts. */
import type { DvceError } from '../base/index.ts';
import type { ReadSources } from './block-source.ts';
import type { Journal } from './journal.ts';
import type { LogWriter } from './log-writer.ts';
import type { Overlay } from './overlay.ts';
import { blockBytes } from './pointer.ts';
import type { Publisher } from './publisher.ts';
import type { PointMark, PointSummary, VolumeStatistics } from './volume-api.ts';

/** Requests since the volume was opened. */
export type RequestCounts = Pick<
  VolumeStatistics,
  'reads' | 'writes' | 'flushes' | 'trims' | 'readBytes' | 'writtenBytes'
>;

export interface StatisticsParts {
  readonly writer: LogWriter;
  readonly journal: Journal;
  readonly publisher: Publisher;
  readonly overlays: readonly Overlay[];
  readonly failure: DvceError | null;
  /** The newest acknowledged flush. */
  readonly flushMark: PointMark | null;
  readonly flushLagMs: number;
  readonly counts: RequestCounts;
  readonly readBlocks: ReadSources;
}

function pointsOf({ writer, publisher, flushMark }: StatisticsParts): PointSummary | null {
  const { retention, table } = writer;
  if (retention === null) return null;
  const { newest } = retention;
  const last = (flushMark?.seq ?? 0) > (newest?.seq ?? 0) ? flushMark : newest;
  const oldest = retention.oldest ?? last;
  return {
    oldest: oldest === null ? null : { seq: oldest.seq, wallMs: oldest.wallMs },
    newest: last === null ? null : { seq: last.seq, wallMs: last.wallMs },
    heldBytes: table.pointBytes(publisher.held ?? []),
  };
}

export function statisticsOf(parts: StatisticsParts): VolumeStatistics {
  const { writer, journal, publisher, failure, flushLagMs, counts } = parts;
  const dirtyBytes = parts.overlays.reduce(
    (sum, overlay) => sum + overlay.dataBlocks * blockBytes,
    0,
  );
  return {
    readOnlyReason: failure === null ? null : failure.message,
    mappedBytes: writer.map.mappedBlocks * blockBytes + dirtyBytes,
    storedBytes: writer.table.storedBytes,
    journalBytes: journal.lastSeq > writer.state.coveredSeq ? journal.usedBytes : 0,
    journalQuotaBytes: journal.quotaBytes,
    journalWrittenBytes: journal.writtenBytes,
    journalSyncs: journal.syncs,
    journalFailedFiles: journal.failedFiles,
    flushLagMs: Math.round(flushLagMs),
    dirtyBytes,
    publishedBytes: writer.publishedBytes,
    publishingWaits: publisher.waiting?.code ?? null,
    gcDebtBytes: debtBytes(writer, publisher),
    movedBytes: publisher.movedBytes,
    segments: writer.table.rows.size,
    points: pointsOf(parts),
    ...counts,
    readBlocks: { ...parts.readBlocks },
  };
}

/** What cleaning can give back: bytes of segments that no position holds and that the newest map does not refer to. */
function debtBytes({ table }: LogWriter, { held }: Publisher): number {
  if (held === null) return 0;
  const { storedBytes, liveBytes } = table.usage(held);
  return storedBytes - liveBytes;
}
