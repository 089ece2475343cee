/**
 * The publisher of a volume: one loop that takes frozen batches in order, publishes them, writes roots, deletes what is dead
 * and cleans. It is the only caller of the log writer.
 *
 * Invariants:
 * - batches are published in journal order, one at a time (S3); a batch leaves the list of layers only after the map has it;
 * - the journal is told that records are covered only when a durable segment or root says so and the store confirmed enough
 *   replicas (S5);
 * - a failure that may pass (store away, full) is tried again with growing pauses while the volume is open, and the batch
 *   stays readable; any other failure is final and makes the volume read-only;
 * - guest data does not go into the last `storeReserveBytes` of the store: those are for roots, trims and cleaning (S9).
 */
import { DvceError, limits, sleep, toDvceError } from '../base/index.ts';
import { type Batch, buildBatch, releaseBatch } from './batch.ts';
import { cleanOnce } from './cleaner.ts';
import type { HlfsContext } from './context.ts';
import type { Journal } from './journal.ts';
import type { LogWriter } from './log-writer.ts';
import type { Overlay } from './overlay.ts';
import { segmentFlags } from './segment-format.ts';

export interface RootFacts {
  readonly sizeBytes: number;
  readonly flushMark: { readonly seq: number; readonly wallMs: number } | null;
}

export interface FrozenBatch {
  readonly overlay: Overlay;
  /** Wants a root of exactly this position (snapshot, close). */
  readonly onRoot: ((root: { number: number; checksum: number } | DvceError) => void) | null;
  /** Root flags when a root is wanted. */
  readonly flags: number;
}

export interface PublisherOptions {
  readonly context: HlfsContext;
  readonly writer: LogWriter;
  readonly journal: Journal;
  readonly replicasMin: number;
  readonly rootFacts: () => RootFacts;
  /** Positions of snapshots and forks of this log, read now. */
  readonly positions: () => Promise<readonly number[]>;
  readonly readBlock: (block: number, target: Buffer) => Promise<void>;
  /** A batch is in the map and is no layer any more. */
  readonly onLeft: () => void;
  /** Journal space was freed. */
  readonly onSpace: () => void;
  readonly onFailed: (error: DvceError) => void;
}

export class Publisher {
  /** Frozen batches, oldest first; layers of every read until they are in the map. */
  readonly frozen: FrozenBatch[] = [];
  readonly #options: PublisherOptions;
  readonly #stopped = new AbortController();
  #running = false;
  #reclaimWanted = false;
  #waiting: DvceError | null = null;
  /** Positions of snapshots and forks as they were read last; null while they were not needed. */
  held: readonly number[] | null = null;
  #failed: DvceError | null = null;
  #idleWaiters: (() => void)[] = [];
  #unconfirmed = false;
  /** Segments in which cleaning met damage: they stay as they are, for `volume check` to name. */
  readonly #damaged = new Set<number>();
  #isLast = false;
  /** A batch is on its way to the store. */
  #isSending = false;
  /** Settles when the oldest frozen batch is in the map. */
  #sent = Promise.withResolvers<void>();
  #ahead: { readonly overlay: Overlay; readonly built: Promise<Batch> } | null = null;

  constructor(options: PublisherOptions) {
    this.#options = options;
    options.writer.rootFacts = options.rootFacts;
  }

  /** Why publishing does not get on right now, or null. */
  get waiting(): DvceError | null {
    return this.#waiting;
  }

  push(batch: FrozenBatch): void {
    if ((batch.flags & segmentFlags.clean) !== 0) this.#isLast = true;
    if (this.#failed) {
      batch.onRoot?.(this.#failed);
      return;
    }
    this.frozen.push(batch);
    this.#buildAhead();
    this.#start();
  }

  /** Give space back when there is nothing else to do. */
  reclaim(): void {
    if (this.#isLast) return; // nothing follows the root of a clean close
    this.#reclaimWanted = true;
    this.#start();
  }

  /** Resolves when everything pushed so far is published, or the publisher has failed or stopped. */
  async idle(): Promise<void> {
    if (!this.#running) return;
    await new Promise<void>((resolve) => this.#idleWaiters.push(resolve));
  }

  /** Stop without publishing more; resolves when the step under way is over. */
  async stop(): Promise<void> {
    this.#stopped.abort();
    await this.idle();
  }

  #start(): void {
    if (this.#running || this.#failed || this.#stopped.signal.aborted) return;
    this.#running = true;
    // Not in the turn of the request that filled the batch: its reply goes out first.
    new Promise<void>((resolve) => this.#options.context.timers.defer(resolve))
      .then(() => this.#loop())
      .catch((error: unknown) => this.#fail(toDvceError(error)))
      .finally(() => {
        this.#running = false;
        const waiters = this.#idleWaiters;
        this.#idleWaiters = [];
        for (const resolve of waiters) resolve();
      });
  }

  async #loop(): Promise<void> {
    while (!this.#stopped.signal.aborted && !this.#failed) {
      const batch = this.frozen[0];
      if (batch !== undefined) await this.#patiently(() => this.#publish(batch));
      else if (this.#reclaimWanted && !this.#isLast) {
        this.#reclaimWanted = false;
        await this.#patiently(() => this.#reclaim());
      } else return;
    }
  }

  /** Repeat `step` while its failure may pass. */
  async #patiently(step: () => Promise<void>): Promise<void> {
    const { timers, logger } = this.#options.context;
    let pauseMs = limits.retryPauseMinMs;
    while (!this.#stopped.signal.aborted) {
      try {
        await step();
        this.#waiting = null;
        return;
      } catch (error) {
        const failure = toDvceError(error, this.#options.context.store.location);
        if (!mayPass(failure)) throw failure;
        logger.warn({ code: failure.code, reason: failure.message }, 'publishing waits');
        this.#waiting = failure;
        await sleep(timers, pauseMs, this.#stopped.signal).catch(() => {});
        pauseMs = Math.min(pauseMs * 2, limits.retryPauseMaxMs);
      }
    }
  }

  async #publish(batch: FrozenBatch): Promise<void> {
    const { writer } = this.#options;
    const { overlay } = batch;
    const rootBefore = writer.state.newestRoot;
    await writer.finish();
    if (!overlay.isEmpty && overlay.lastSeq > writer.state.coveredSeq) {
      const built = await this.#build(overlay);
      const replicas = await this.#publishBuilt(built, overlay);
      this.#unconfirmed ||= replicas < this.#options.replicasMin;
    }
    const isMarkOnly = overlay.lastSeq > writer.state.coveredSeq;
    if (batch.onRoot !== null || writer.rootIsDue || isMarkOnly) {
      // A batch of marks alone has no segment; the root says how far it reaches.
      writer.reach(overlay.lastSeq);
      const root = await writer.publishRoot(
        this.#options.rootFacts(),
        batch.flags | segmentFlags.root,
      );
      this.#leave(batch);
      batch.onRoot?.(root);
      await this.#deleteDead();
      return;
    }
    this.#leave(batch);
    if (writer.state.newestRoot !== rootBefore) await this.#deleteDead();
  }

  async #build(overlay: Overlay): Promise<Batch> {
    const ahead = this.#ahead;
    this.#ahead = null;
    if (ahead?.overlay === overlay) return await ahead.built;
    return await buildBatch(overlay, this.#options.context.timers, this.#options.readBlock);
  }

  /**
   * Build the next batch while this one travels to the store. What it has to complete from below waits until this one is in
   * the map.
   */
  #buildAhead(): void {
    const next = this.frozen[1];
    if (!this.#isSending || this.#ahead !== null || next === undefined) return;
    const { timers } = this.#options.context;
    const { overlay } = next;
    const isSent = this.#sent.promise;
    const built = buildBatch(overlay, timers, async (block, target) => {
      await isSent;
      await this.#options.readBlock(block, target);
    });
    built.catch(() => {}); // whoever takes it sees the error
    this.#ahead = { overlay, built };
  }

  async #publishBuilt(built: Batch, { firstSeq, lastSeq }: Overlay): Promise<number> {
    this.#isSending = true;
    this.#buildAhead();
    try {
      await this.#guardReserve(built);
      return await this.#options.writer.publishBatch(built, firstSeq, lastSeq);
    } finally {
      this.#isSending = false;
      releaseBatch(built);
    }
  }

  /** The map has it: the layer goes, the journal's space too. */
  #leave(batch: FrozenBatch): void {
    const { journal, writer, onLeft, onSpace } = this.#options;
    assertFirst(this.frozen, batch);
    this.frozen.shift();
    this.#sent.resolve();
    this.#sent = Promise.withResolvers<void>();
    // Before the journal's space is freed: no read may look there for what the map has now.
    onLeft();
    if (!this.#unconfirmed) journal.cover(writer.state.coveredSeq);
    onSpace();
  }

  /** S9: guest data stops before the reserve; space is made first. */
  async #guardReserve(batch: Batch): Promise<void> {
    const { store } = this.#options.context;
    const needed = batch.data.reduce((sum, part) => sum + part.byteLength, 0);
    const reserve = async (): Promise<boolean> => {
      const { freeBytes, totalBytes } = await store.space();
      return freeBytes - needed >= Math.min(limits.storeReserveBytes, totalBytes / 20);
    };
    if (needed === 0 || (await reserve())) return;
    await this.#makeSpace();
    if (await reserve()) return;
    throw new DvceError('NO_SPACE', {
      where: store.location,
      reason: 'only the reserve for roots, trims and cleaning is left',
    });
  }

  async #makeSpace(): Promise<void> {
    const { writer, rootFacts } = this.#options;
    // Two roots let go of what is dead; cleaning needs space itself and comes last.
    for (let round = 0; round < 2 && writer.table.hasDead; round += 1) {
      await writer.publishRoot(rootFacts());
      await this.#deleteDead();
    }
  }

  /** What cannot be deleted now is deleted after a later root. */
  async #deleteDead(): Promise<void> {
    const { writer, positions, context } = this.#options;
    if (!writer.table.hasDead) return;
    try {
      this.held = await positions();
      await writer.deleteDead(this.held, this.#stopped.signal);
    } catch (error) {
      const failure = toDvceError(error);
      if (!mayPass(failure)) throw failure;
      context.logger.warn({ code: failure.code, reason: failure.message }, 'dead segments stay');
    }
  }

  /** Idle: write the roots that dead segments wait for, and clean what is mostly dead. */
  async #reclaim(): Promise<void> {
    const { writer, rootFacts, positions, context } = this.#options;
    await writer.finish();
    if (this.frozen.length > 0) return this.reclaim(); // guests come first
    const held = await positions();
    this.held = held;
    const cleaned = await cleanOnce(context, writer, held, this.#damaged);
    for (let round = 0; round < 3; round += 1) {
      if (this.frozen.length > 0) return this.reclaim();
      if (!cleaned && writer.table.reclaimableBytes(held) < limits.reclaimBytesMin) return;
      await writer.publishRoot(rootFacts());
      await writer.deleteDead(held, this.#stopped.signal);
    }
    if (cleaned) this.reclaim();
  }

  #fail(error: DvceError): void {
    if (this.#failed || this.#stopped.signal.aborted) return;
    this.#failed = error;
    for (const batch of this.frozen) batch.onRoot?.(error);
    this.#options.onFailed(error);
  }
}

const mayPass = (error: DvceError): boolean =>
  error.code === 'NO_SPACE' || error.code === 'STORE_UNAVAILABLE' || error.code === 'TIMED_OUT';

function assertFirst(frozen: readonly FrozenBatch[], batch: FrozenBatch): void {
  if (frozen[0] !== batch)
    throw new DvceError('INTERNAL', { reason: 'batches leave in the order in which they came' });
}
