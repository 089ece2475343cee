/** The control method `metrics`: the figures of all threads, put together when somebody asks for them. */
import { type Clock, limits, loopFigures, processFigures, type Timers } from '../base/index.ts';
import { requestBoundsSeconds, sumOfFigures } from '../nbd/index.ts';
import type { BlockdMetrics } from './protocol.ts';
import type { Scrubber } from './scrub.ts';
import type { Volumes } from './volumes.ts';
import type { WorkerPool } from './worker-pool.ts';

export interface MetricsOptions {
  readonly pool: WorkerPool;
  readonly volumes: Volumes;
  readonly scrubber: Pick<Scrubber, 'figures'>;
  readonly space: () => Promise<{ readonly freeBytes: number; readonly totalBytes: number }>;
  readonly clock: Clock;
  readonly timers: Timers;
}

export async function readMetrics(options: MetricsOptions): Promise<BlockdMetrics> {
  const { pool, volumes, scrubber, space, clock, timers } = options;
  const timeoutMs = limits.metricsReadMs;
  const [store, loop, ...workers] = await Promise.all([
    space(),
    loopFigures('main', clock, timers),
    ...pool.threads.map((thread) => thread.call('figures', {}, { timeoutMs })),
  ]);
  return {
    format: 1,
    process: processFigures(),
    loops: [loop, ...workers.map((worker) => worker.loop)],
    store,
    nbd: {
      boundsSeconds: requestBoundsSeconds,
      connections: workers.reduce((sum, worker) => sum + worker.connections, 0),
      operations: sumOfFigures(workers.map((worker) => worker.operations)),
    },
    volumes: workers.flatMap((worker) =>
      worker.volumes.flatMap(({ key, activity }) => {
        const open = volumes.openPath(key);
        return open === undefined ? [] : [{ ...open, ...activity }];
      }),
    ),
    unopened: volumes.unopened,
    scrub: scrubber.figures(),
  };
}
