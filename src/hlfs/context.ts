/** What the engine is given by the process that runs it. */
import type { Clock, FileSystem, Logger, NodeId, Random, Timers } from '../base/index.ts';
import type { SharedReads } from './block-source.ts';
import type { BuildBudget } from './build-budget.ts';
import type { BlockCompressor } from './compression.ts';
import type { Documents } from './documents.ts';
import type { RememberedSnapshots } from './snapshot-tree.ts';
import type { SegmentStore } from './store.ts';

export interface HlfsContext {
  readonly store: SegmentStore;
  readonly documents: Documents;
  readonly files: FileSystem;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly logger: Logger;
  readonly node: NodeId;
  /** Publishing scope of this process, for documents that belong to no writer's log. */
  readonly scope: string;
  /** Local directory for journals; one sub-directory a volume. */
  readonly journalDirectory: string;
  /** What the volumes of a thread share in reading; without it each keeps nothing and reads for itself. */
  readonly reads?: SharedReads;
  /** What is remembered of snapshots; only the process that has the store may (see there). */
  readonly snapshots?: RememberedSnapshots;
  /** Shared by the volumes of a thread; without it every segment is built from the journal's files. */
  readonly builds?: BuildBudget;
  /** Compresses the blocks of volumes that are set to it; without one it is done in the turn of the publisher. */
  readonly compressor?: BlockCompressor;
}
