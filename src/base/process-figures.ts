/** What a process says about itself for metrics. Read when somebody asks; costs nothing in between. */
import { readdirSync } from 'node:fs';
import { performance } from 'node:perf_hooks';
import type { Clock, Timers } from './clock.ts';

export interface ProcessFigures {
  readonly pid: number;
  readonly startedAtSeconds: number;
  readonly cpuSeconds: number;
  readonly residentBytes: number;
  readonly heapUsedBytes: number;
  readonly openFiles: number;
}

export interface LoopFigures {
  /** Which event loop of the process: `main`, `worker-0`. */
  readonly thread: string;
  /** How long a task had to wait for its turn just now. */
  readonly lagSeconds: number;
  /** Time in which it was not idle, since its start. */
  readonly busySeconds: number;
}

export function processFigures(): ProcessFigures {
  const { user, system } = process.cpuUsage();
  return {
    pid: process.pid,
    startedAtSeconds: Math.round(performance.timeOrigin) / 1000,
    cpuSeconds: (user + system) / 1e6,
    residentBytes: process.memoryUsage.rss(),
    heapUsedBytes: process.memoryUsage().heapUsed,
    openFiles: openFiles(),
  };
}

/** 0 where /proc is not there. */
function openFiles(): number {
  try {
    return readdirSync('/proc/self/fd').length;
  } catch {
    return 0;
  }
}

/** Of the thread that calls it. */
export function loopFigures(thread: string, clock: Clock, timers: Timers): Promise<LoopFigures> {
  const askedMs = clock.monotonicMs();
  return new Promise((resolve) => {
    timers.defer(() =>
      resolve({
        thread,
        lagSeconds: (clock.monotonicMs() - askedMs) / 1000,
        busySeconds: performance.eventLoopUtilization().active / 1000,
      }),
    );
  });
}
