/**
 * Applying the index of a segment to the map: the same for a live publish and for recovery, and idempotent (L4).
 *
 * Runs are taken a window at a time: the leaves of a window are loaded together, then changed one after the other.
 */
import type { Timers } from '../base/index.ts';
import type { BlockMap } from './map.ts';
import { fanout } from './map-page.ts';
import type { StoredBlocks } from './pointer.ts';
import type { IndexRun } from './segment-index.ts';

/** Work done before others get a turn, in blocks of a long run; a leaf that has to be loaded costs as much as several. */
const workPerTurn = 512;
const runWork = 4;
const clearWork = 64;

export async function applyRuns(
  map: BlockMap,
  segment: number,
  runs: readonly IndexRun[],
  timers: Timers,
): Promise<void> {
  let next = 0;
  while (next < runs.length) {
    const window: IndexRun[] = [];
    for (let work = 0; next < runs.length && work < workPerTurn; next += 1) {
      const run = runs[next] as IndexRun; // next is below its length
      window.push(run);
      work += workOf(run);
    }
    await map.prepare([...touchedBlocks(window)]);
    for (const run of window) await applyRun(map, segment, run);
    if (next < runs.length) await new Promise<void>((resolve) => timers.defer(resolve));
  }
}

function workOf(run: IndexRun): number {
  if (run.kind === 'data' || run.kind === 'relocation') return runWork + run.checksums.length;
  return run.kind === 'hole' || run.kind === 'zero' ? clearWork : 0;
}

/** One block of each leaf that these runs change; of a long range that becomes empty, its ends. */
export function* touchedBlocks(runs: readonly IndexRun[]): Generator<number> {
  for (const run of runs) {
    if (run.kind === 'flushMark' || run.kind === 'pages') continue;
    const { block } = run;
    yield block;
    if ('checksums' in run) {
      const end = block + run.checksums.length;
      for (let at = (Math.floor(block / fanout) + 1) * fanout; at < end; at += fanout) yield at;
    } else yield block + run.count - 1;
  }
}

async function applyRun(map: BlockMap, segment: number, run: IndexRun): Promise<void> {
  switch (run.kind) {
    case 'data':
      return await map.setBlocks(run.block, { segment, ...placeOf(run) });
    case 'relocation':
      return await map.setBlocks(
        run.block,
        { segment, ...placeOf(run) },
        {
          segments: run.oldSegments,
          offsets: run.oldOffsets,
        },
      );
    case 'hole':
    case 'zero':
      return await map.clear(run.block, run.count, run.kind, segment);
    case 'flushMark':
    case 'pages':
      return;
  }
}

const placeOf = ({ offset, checksums, lengths }: StoredBlocks): StoredBlocks => ({
  offset,
  checksums,
  lengths,
});

/** The same in ascending order, each once: a segment with points in time names blocks again and again. */
export const ascendingBlocks = (runs: readonly IndexRun[]): Float64Array =>
  Float64Array.from(new Set(touchedBlocks(runs))).sort();
