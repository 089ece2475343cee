/** What the handlers of control methods work with. */
import type { Clock, Logger } from '../base/index.ts';
import type { HlfsContext } from '../hlfs/index.ts';
import type { CatalogView } from './catalog-view.ts';
import type { DataDirectory } from './data-directory.ts';
import type { OpenTable } from './open-table.ts';
import type { Quotas } from './quotas.ts';
import type { ReaperTask } from './reaper-task.ts';
import type { Scrubber } from './scrub.ts';
import type { Trash } from './trash.ts';
import type { Volumes } from './volumes.ts';
import type { WorkerPool } from './worker-pool.ts';

export interface NodeContext {
  readonly hlfs: HlfsContext;
  readonly volumes: Volumes;
  readonly pool: WorkerPool;
  readonly reaper: ReaperTask;
  readonly view: CatalogView;
  readonly trash: Trash;
  readonly scrubber: Scrubber;
  readonly quotas: Quotas;
  readonly table: OpenTable;
  readonly directory: DataDirectory;
  /** Where clients connect. */
  readonly listening: () => { readonly nbdSocket: string; readonly nbdTcp: string | null };
  readonly clock: Clock;
  readonly logger: Logger;
  /** Journal quota of volumes created without one of their own. */
  readonly journalBytes: number;
}
