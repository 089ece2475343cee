/** What the handlers of control methods work with. */
import type { Clock, Logger } from '../base/index.ts';
import type { HlfsContext } from '../hlfs/index.ts';
import type { ReaperTask } from './reaper-task.ts';
import type { Volumes } from './volumes.ts';
import type { WorkerPool } from './worker-pool.ts';

export interface NodeContext {
  readonly hlfs: HlfsContext;
  readonly volumes: Volumes;
  readonly pool: WorkerPool;
  readonly reaper: ReaperTask;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Journal quota of volumes created without one of their own. */
  readonly journalBytes: number;
}
