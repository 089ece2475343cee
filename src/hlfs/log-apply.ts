/** Applying the index of a segment to the map: the same for a live publish and for recovery, and idempotent (L4). */
import type { Timers } from '../base/index.ts';
import type { BlockMap } from './map.ts';
import type { IndexRun } from './segment-index.ts';

/** Blocks applied before other work gets a turn. */
const blocksPerTurn = 512;

export async function applyRuns(
  map: BlockMap,
  segment: number,
  runs: readonly IndexRun[],
  timers: Timers,
): Promise<void> {
  let turn = 0;
  for (const run of runs) {
    turn += await applyRun(map, segment, run);
    if (turn < blocksPerTurn) continue;
    turn = 0;
    await new Promise<void>((resolve) => timers.defer(resolve));
  }
}

/** @returns roughly how much work it was, in blocks */
async function applyRun(map: BlockMap, segment: number, run: IndexRun): Promise<number> {
  switch (run.kind) {
    case 'data':
      await map.setBlocks(run.block, segment, run.offset, run.checksums);
      return run.checksums.length;
    case 'relocation':
      await map.setBlocks(run.block, segment, run.offset, run.checksums, {
        segments: run.oldSegments,
        offsets: run.oldOffsets,
      });
      return run.checksums.length;
    case 'hole':
    case 'zero':
      await map.clear(run.block, run.count, run.kind, segment);
      return 64;
    case 'flushMark':
    case 'pages':
      return 0;
  }
}
