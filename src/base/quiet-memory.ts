/**
 * A thread that has become quiet gives memory back.
 *
 * V8 keeps the room that starting, or a burst of work, needed until the system is short of it: a third of what an idle agent or
 * blockd holds; the C library does the same with what was freed. Once a thread has done next to nothing for a while,
 * everything is collected and the room goes back.
 *
 * Invariants: never while there is work, because it stops the thread for some tens of milliseconds; not again before
 * `limits.quietPauseMs` have passed and the heap has grown by `limits.quietGrowthBytes`, so light work pays for it rarely.
 */
import { getHeapStatistics, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { Timers } from './clock.ts';
import { fromLibc } from './libc.ts';
import { limits } from './limits.ts';
import { dropFreePayloads } from './payloads.ts';

/** The thread as it is seen here. */
export interface ThreadMemory {
  /** Share of the time since the last call in which the event loop was busy, 0 to 1. */
  utilization(): number;
  /** What the heap holds of the system's memory. */
  heapBytes(): number;
  collect(): void;
}

export function giveBackWhenQuiet(timers: Timers, memory: ThreadMemory = thisThread()): void {
  let leftBytes = 0;
  let waitMs = 0;
  const look = (): void => {
    const isQuiet = memory.utilization() * 100 < limits.quietUtilizationPercent;
    waitMs = Math.max(0, waitMs - limits.quietCheckMs);
    if (isQuiet) dropFreePayloads();
    if (isQuiet && waitMs === 0 && memory.heapBytes() >= leftBytes + limits.quietGrowthBytes) {
      memory.collect();
      leftBytes = memory.heapBytes();
      waitMs = limits.quietPauseMs;
      memory.utilization(); // what collecting took is no work
    }
    timers.after(limits.quietCheckMs, look);
  };
  timers.after(limits.quietCheckMs, look);
}

type Collect = (how: { type: 'major'; execution: 'sync'; flavor: 'last-resort' }) => void;

export function thisThread(): ThreadMemory {
  let last = performance.eventLoopUtilization();
  let collect: Collect | undefined;
  let trim: ((kept: number) => number) | null | undefined;
  return {
    utilization() {
      const now = performance.eventLoopUtilization();
      const { utilization } = performance.eventLoopUtilization(now, last);
      last = now;
      return utilization;
    },
    heapBytes: () => getHeapStatistics().total_physical_size,
    collect() {
      if (collect === undefined) {
        // New contexts, and only they, have the function from here on.
        setFlagsFromString('--expose-gc');
        collect = runInNewContext('gc') as Collect;
      }
      // Only this kind also makes the room for new objects small.
      collect({ type: 'major', execution: 'sync', flavor: 'last-resort' });
      // What that freed outside of V8's heap, the C library keeps, for each thread apart (malloc_trim(3) reaches all).
      trim ??= fromLibc((func) => func('int malloc_trim(size_t pad)'));
      trim?.(0);
    },
  };
}
