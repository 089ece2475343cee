/** Which worker thread gets the next volume. */

/** What is known of a thread. */
export interface ThreadLoad {
  /** Share of the time in which its event loop was busy. */
  readonly busyShare: number;
  /** Volumes and snapshots on it, also those that are being opened or closed. */
  readonly exports: number;
}

/** Differences of less than a quarter are chance. */
const level = ({ busyShare }: ThreadLoad): number => Math.floor(busyShare * 4);

/**
 * One of the least busy, of those the one with the fewest exports, of those the first, so that a run can be repeated. What a volume
 * will do is not known; what the others of a thread do lately is the best there is to go by.
 */
export function leastLoaded(loads: readonly ThreadLoad[]): number {
  let best = 0;
  for (const [index, load] of loads.entries()) {
    const chosen = loads[best] ?? load;
    const byLevel = level(load) - level(chosen);
    if (byLevel < 0 || (byLevel === 0 && load.exports < chosen.exports)) best = index;
  }
  return best;
}
