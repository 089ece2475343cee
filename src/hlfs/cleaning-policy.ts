/** Which segments are worth cleaning, and when: pure functions of the segment table. */
import { limits } from '../base/index.ts';
import { liveBytes, type SegmentTable } from './segment-table.ts';

/**
 * How hard space is wanted.
 *
 *   idle     nothing else to do: segments below the threshold
 *   usual    guests are at work, and less of all that is stored is live than the threshold says
 *   forced   far less of it is: guests do not come first any more
 *   urgent   the store is nearly full (S9): whatever gives space back
 */
export type Need = 'idle' | 'usual' | 'forced' | 'urgent';

export interface CandidateLimits {
  /** Of snapshots and forks, ascending: moving what they hold would free nothing. */
  readonly positions: readonly number[];
  readonly livePercentMax: number;
}

/** Segments worth cleaning, the emptiest first (B-13). Greedy: DD-0014 has the figures. */
export function cleaningCandidates(
  table: SegmentTable,
  { positions, livePercentMax }: CandidateLimits,
): number[] {
  const found: { readonly number: number; readonly share: number }[] = [];
  for (const [number, row] of table.rows) {
    if (row.death !== 0 || row.bytes === 0) continue;
    const share = liveBytes(row) / row.bytes;
    if (share * 100 < livePercentMax && !table.isNeeded(number, positions))
      found.push({ number, share });
  }
  return found.sort((a, b) => a.share - b.share).map(({ number }) => number);
}

/**
 * As many of the candidates as one pass takes; none when they give back too little together.
 * @param unitsMax live units in all of them; one segment more, when without it too little would be given back
 */
export function passOf(
  table: SegmentTable,
  candidates: readonly number[],
  unitsMax: number,
): number[] {
  const chosen: number[] = [];
  let units = 0;
  let freedBytes = 0;
  for (const number of candidates) {
    const row = table.rows.get(number);
    if (row === undefined || chosen.length >= limits.cleanSegmentsPerPass) break;
    // Small segments in front must not keep a large one out that gives back enough.
    if (freedBytes >= limits.cleanFreedBytesMin && units + row.live > unitsMax) break;
    chosen.push(number);
    units += row.live;
    freedBytes += row.bytes - liveBytes(row);
  }
  return freedBytes < limits.cleanFreedBytesMin ? [] : chosen;
}

/** What the share of live bytes asks for while guests are at work; null: nothing. */
export function needUnderLoad(storedBytes: number, live: number): 'usual' | 'forced' | null {
  // A small log has a few segments that are all young; it is left to the idle time.
  if (storedBytes < limits.cleanStoredBytesMin) return null;
  if (live * 100 < storedBytes * limits.cleanForcedPercent) return 'forced';
  return live * 100 < storedBytes * limits.cleanLivePercent ? 'usual' : null;
}
