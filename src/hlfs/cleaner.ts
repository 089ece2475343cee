/**
 * Cleaning: copying the live blocks of segments that are mostly dead to the end of the log, so that the segments die whole.
 *
 * A moved block is an index entry (block, old pointer, new pointer) that is applied, live and in recovery, only where the
 * map still holds the old pointer (G1): a write that came between is never undone. Segments that a snapshot or fork needs
 * are left alone, because moving their blocks would free nothing.
 *
 * The threshold is one number: a segment is a candidate when its live share is below `cleanLivePercent`, the emptiest first.
 */
import { DvceError, limits } from '../base/index.ts';
import type { HlfsContext } from './context.ts';
import type { LogWriter } from './log-writer.ts';
import { blockBytes } from './pointer.ts';
import { segmentDataOffset } from './segment-format.ts';
import type { IndexRun } from './segment-index.ts';
import { isHeld } from './segment-table.ts';
import { readHeader, readIndex } from './segments.ts';

interface Moved {
  readonly block: number;
  readonly segment: number;
  readonly offset: number;
  readonly checksum: number;
}

/** Segments worth cleaning, the emptiest first. Exported for the property test of the threshold (B-13). */
export function cleaningCandidates(writer: LogWriter, positions: readonly number[]): number[] {
  const { state, table } = writer;
  return [...table.rows]
    .filter(([number, row]) => {
      const liveBytes = row.live * blockBytes;
      return (
        row.death === 0 &&
        row.bytes >= limits.cleanSegmentBytesMin &&
        number < state.olderRoot &&
        liveBytes * 100 < row.bytes * limits.cleanLivePercent &&
        !isHeld(number, 0, positions)
      );
    })
    .sort(([, a], [, b]) => a.live / a.bytes - b.live / b.bytes)
    .map(([number]) => number);
}

/** One pass: at most a segment's worth of live blocks. @returns whether something was moved */
export async function cleanOnce(
  context: HlfsContext,
  writer: LogWriter,
  positions: readonly number[],
  damaged: Set<number>,
): Promise<boolean> {
  const moved: (Moved & { readonly bytes: Buffer })[] = [];
  let pages = 0;
  for (const number of cleaningCandidates(writer, positions)) {
    if (damaged.has(number)) continue;
    const row = writer.table.rows.get(number);
    if (row === undefined || moved.length + row.live > limits.cleanBlocksPerPass) break;
    try {
      const found = await liveBlocks(context, writer, number);
      moved.push(...(await readMoved(writer, found.blocks)));
      await writer.map.rewritePagesOf(number, found.pages);
      pages += found.pages.length;
    } catch (error) {
      if (!isDamage(error)) throw error;
      context.logger.error(
        { segment: number, reason: error.message },
        'cleaning leaves a damaged segment',
      );
      damaged.add(number);
    }
  }
  if (moved.length === 0) return pages > 0;
  moved.sort((a, b) => a.block - b.block);
  const data = moved.map(({ bytes }) => bytes);
  const covered = writer.state.coveredSeq;
  await writer.publishBatch({ data, runs: relocationRuns(moved) }, covered + 1, covered);
  return true;
}

async function liveBlocks(
  context: HlfsContext,
  writer: LogWriter,
  number: number,
): Promise<{ blocks: Moved[]; pages: number[] }> {
  const blocks: Moved[] = [];
  const pages: number[] = [];
  const header = await readHeader(context.store, writer.state.log, number);
  if (header === undefined) return { blocks, pages };
  for (const run of await readIndex(context.store, header)) {
    if (run.kind === 'pages') pages.push(...run.keys);
    if (run.kind === 'data' || run.kind === 'relocation')
      for (let i = 0; i < run.checksums.length; i += 1) {
        const place = { segment: number, offset: run.offset + i * blockBytes };
        const live = await liveBlock(writer, run.block + i, place);
        if (live !== undefined) blocks.push(live);
      }
  }
  return { blocks, pages };
}

/** The block, when the map still says that it lies there. */
async function liveBlock(
  writer: LogWriter,
  block: number,
  place: { readonly segment: number; readonly offset: number },
): Promise<Moved | undefined> {
  if (writer.map.find(block) === undefined) await writer.map.load(block);
  const now = writer.map.find(block);
  const isThere =
    now?.kind === 'block' && now.segment === place.segment && now.offset === place.offset;
  return isThere ? { block, ...place, checksum: now.checksum } : undefined;
}

const isDamage = (error: unknown): error is DvceError =>
  error instanceof DvceError &&
  (error.code === 'SEGMENT_DAMAGED' || error.code === 'SEGMENT_MISSING');

async function readMoved(
  writer: LogWriter,
  moved: readonly Moved[],
): Promise<(Moved & { readonly bytes: Buffer })[]> {
  const data: (Moved & { readonly bytes: Buffer })[] = [];
  for (const each of moved) {
    const { segment, offset, checksum } = each;
    const target = Buffer.allocUnsafe(blockBytes);
    await new Promise<void>((resolve, reject) => {
      writer.reader.readBlocks(segment, offset, [checksum], target, (error) =>
        error ? reject(error) : resolve(),
      );
    });
    data.push({ ...each, bytes: target });
  }
  return data;
}

function relocationRuns(moved: readonly Moved[]): IndexRun[] {
  const runs: {
    kind: 'relocation';
    block: number;
    offset: number;
    checksums: number[];
    oldSegments: number[];
    oldOffsets: number[];
  }[] = [];
  moved.forEach(({ block, segment, offset, checksum }, i) => {
    let run = runs.at(-1);
    if (run === undefined || run.block + run.checksums.length !== block) {
      const start = segmentDataOffset + i * blockBytes;
      run = {
        kind: 'relocation',
        block,
        offset: start,
        checksums: [],
        oldSegments: [],
        oldOffsets: [],
      };
      runs.push(run);
    }
    run.checksums.push(checksum);
    run.oldSegments.push(segment);
    run.oldOffsets.push(offset);
  });
  return runs;
}
