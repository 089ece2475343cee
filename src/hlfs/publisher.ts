/**
 * The publisher of a volume: one loop that takes frozen batches in order, publishes them, writes roots, and in between lets
 * the reclaimer give space back. Both are the only callers of the log writer, one at a time.
 *
 * Invariants:
 * - batches are published in journal order, one at a time (S3); a batch leaves the list of layers only after the map has it;
 * - the journal is told that records are covered only when a durable segment or root says so and the store confirmed enough
 *   replicas (S5);
 * - a failure that may pass (store away, full) is tried again with growing pauses while the volume is open, and the batch
 *   stays readable; any other failure is final and makes the volume read-only.
 */
import { DvceError, limits, sleep, toDvceError } from '../base/index.ts';
import { type Batch, buildBatch, releaseBatch } from './batch.ts';
import { directCompressor, packBatch } from './compression.ts';
import type { HlfsContext } from './context.ts';
import type { Foreground } from './foreground.ts';
import type { Journal } from './journal.ts';
import type { LogWriter } from './log-writer.ts';
import type { Overlay } from './overlay.ts';
import { mayPass, Reclaimer } from './reclaimer.ts';
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
  readonly foreground: Foreground;
  readonly rootFacts: () => RootFacts;
  /** Positions of snapshots and forks of this log, read now, ascending. */
  readonly positions: () => Promise<readonly number[] | null>;
  readonly readBlock: (block: number, target: Buffer) => Promise<void>;
  /** A batch is in the map and is no layer any more. */
  readonly onLeft: () => void;
  /** Journal space was freed. */
  readonly onSpace: () => void;
  readonly onFailed: (error: DvceError) => void;
}

interface Turn {
  run(): Promise<void>;
  refuse(error: DvceError): void;
}

export class Publisher {
  /** Frozen batches, oldest first; layers of every read until they are in the map. */
  readonly frozen: FrozenBatch[] = [];
  readonly #options: PublisherOptions;
  readonly #stopped = new AbortController();
  #running = false;
  #reclaimWanted = false;
  #waiting: DvceError | null = null;
  #failed: DvceError | null = null;
  #idleWaiters: (() => void)[] = [];
  #unconfirmed = false;
  readonly #reclaimer: Reclaimer;
  /** The last thing that was published is a move: waiting batches are next. */
  #hasMoved = false;
  #isLast = false;
  /** A batch is on its way to the store. */
  #isSending = false;
  /** Settles when the oldest frozen batch is in the map. */
  #sent = Promise.withResolvers<void>();
  #ahead: { readonly overlay: Overlay; readonly built: Promise<Batch> } | null = null;
  /** Work that waits for a moment between batches. */
  #turns: Turn[] = [];

  constructor(options: PublisherOptions) {
    this.#options = options;
    options.writer.rootFacts = options.rootFacts;
    const { context, writer, foreground, positions, rootFacts } = options;
    this.#reclaimer = new Reclaimer({
      context,
      writer,
      foreground,
      positions,
      writeRoot: () => writer.publishRoot(rootFacts()),
      signal: this.#stopped.signal,
      onReady: () => this.#start(),
    });
  }

  /** Positions of snapshots and forks as they were read last; null while they were not needed. */
  get held(): readonly number[] | null {
    return this.#reclaimer.held;
  }

  /** Bytes that cleaning put into the store. */
  get movedBytes(): number {
    return this.#reclaimer.movedBytes;
  }

  /** Why publishing does not get on right now, or null. */
  get waiting(): DvceError | null {
    return this.#waiting;
  }

  push(batch: FrozenBatch): void {
    if ((batch.flags & segmentFlags.clean) !== 0) this.#isLast = true;
    // Also when nothing is published any more: what is in it was acknowledged, and reads go on.
    this.frozen.push(batch);
    if (this.#failed) {
      batch.onRoot?.(this.#failed);
      return;
    }
    this.#buildAhead();
    this.#start();
  }

  /** Give space back when there is nothing else to do. */
  reclaim(): void {
    if (this.#isLast) return; // nothing follows the root of a clean close
    this.#reclaimWanted = true;
    this.#start();
  }

  /**
   * Run `work` between batches, which have their turn first: what it publishes counts as a move. Its failure is the caller's
   * alone. Space for what it publishes is made before, or it fails with NO_SPACE (S9).
   */
  inTurn<T>(publishedBytes: number, work: () => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const refuse = reject;
      if (this.#failed) return refuse(this.#failed);
      if (this.#stopped.signal.aborted) return refuse(isStopped());
      const { writer, foreground } = this.#options;
      const run = async (): Promise<void> => {
        try {
          await this.#reclaimer.guardReserve(publishedBytes);
          await writer.finish();
          resolve(await foreground.step(work));
        } catch (error) {
          reject(toDvceError(error));
        }
      };
      this.#turns.push({ run, refuse });
      this.#start();
    });
  }

  /** A root of what is published now, and what it lets go. Only from within a turn. */
  async writeRoot(): Promise<void> {
    await this.#options.writer.publishRoot(this.#options.rootFacts());
    await this.#reclaimer.rooted();
  }

  #refuseTurns(error: DvceError): void {
    const turns = this.#turns;
    this.#turns = [];
    for (const turn of turns) turn.refuse(error);
  }

  /** Resolves when everything pushed so far is published, or the publisher has failed or stopped. */
  async idle(): Promise<void> {
    if (!this.#running) return;
    await new Promise<void>((resolve) => this.#idleWaiters.push(resolve));
  }

  /** Stop without publishing more; resolves when the step under way is over. */
  async stop(): Promise<void> {
    this.#stopped.abort();
    this.#refuseTurns(isStopped());
    await this.idle();
    await this.#reclaimer.settled();
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
        // What came in the turn in which the loop ended.
        if (this.#hasWork) this.#start();
      });
  }

  get #hasWork(): boolean {
    if (this.frozen.length > 0) return true;
    return !this.#isLast && (this.#hasMove || this.#reclaimWanted);
  }

  async #loop(): Promise<void> {
    while (!this.#stopped.signal.aborted && !this.#failed) {
      const batch = this.frozen[0];
      if (this.#isTimeToMove(batch)) {
        await this.#move();
        this.#hasMoved = true;
        if (batch === undefined) this.reclaim();
        else this.#reclaimer.consider();
      } else if (batch !== undefined) {
        await this.#patiently(() => this.#publish(batch));
        this.#hasMoved = false;
        if (!this.#isLast) this.#reclaimer.consider();
      } else if (this.#reclaimWanted && !this.#isLast) {
        this.#reclaimWanted = false;
        await this.#patiently(() => this.#reclaim());
      } else return;
    }
  }

  async #move(): Promise<void> {
    const turn = this.#turns.shift();
    if (turn === undefined) await this.#patiently(() => this.#reclaimer.publishMove());
    else await turn.run();
  }

  get #hasMove(): boolean {
    return this.#turns.length > 0 || this.#reclaimer.hasMove;
  }

  /** Batches and moves take turns; a journal that fills up comes first, as long as space is not pressing. */
  #isTimeToMove(batch: FrozenBatch | undefined): boolean {
    if (!this.#hasMove || this.#isLast) return false;
    if (batch === undefined) return true;
    if (this.#hasMoved) return false;
    const { usedBytes, quotaBytes } = this.#options.journal;
    const isFilling = usedBytes * 100 >= quotaBytes * limits.journalSlowPercent;
    return this.#reclaimer.isPressing || !isFilling;
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
    const isRootDue = writer.rootIsDue || this.#reclaimer.rootIsWorthIt;
    if (batch.onRoot !== null || isRootDue || isMarkOnly) {
      // A batch of marks alone has no segment; the root says how far it reaches.
      writer.reach(overlay.lastSeq);
      const root = await writer.publishRoot(
        this.#options.rootFacts(),
        batch.flags | segmentFlags.root,
      );
      this.#leave(batch);
      batch.onRoot?.(root);
      await this.#reclaimer.rooted();
      return;
    }
    this.#leave(batch);
    if (writer.state.newestRoot !== rootBefore) await this.#reclaimer.rooted();
  }

  async #build(overlay: Overlay): Promise<Batch> {
    const ahead = this.#ahead;
    this.#ahead = null;
    if (ahead?.overlay === overlay) return await ahead.built;
    return await this.#built(overlay, this.#options.readBlock);
  }

  async #built(overlay: Overlay, readBlock: PublisherOptions['readBlock']): Promise<Batch> {
    const { context, writer } = this.#options;
    const batch = await buildBatch(overlay, context.timers, readBlock);
    if (writer.compression === 'none') return batch;
    return await packBatch(batch, context.compressor ?? directCompressor);
  }

  /**
   * Build the next batch while this one travels to the store. What it has to complete from below waits until this one is in
   * the map.
   */
  #buildAhead(): void {
    const next = this.frozen[1];
    if (!this.#isSending || this.#ahead !== null || next === undefined) return;
    const { overlay } = next;
    const isSent = this.#sent.promise;
    const built = this.#built(overlay, async (block, target) => {
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
      const bytes = built.data.reduce((sum, part) => sum + part.byteLength, 0);
      await this.#reclaimer.guardReserve(bytes);
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
    batch.overlay.letGo(true);
    this.#sent.resolve();
    this.#sent = Promise.withResolvers<void>();
    // Before the journal's space is freed: no read may look there for what the map has now.
    onLeft();
    if (!this.#unconfirmed) journal.cover(writer.state.coveredSeq);
    onSpace();
  }

  async #reclaim(): Promise<void> {
    const isMore = await this.#reclaimer.reclaim(() => this.frozen.length === 0);
    if (isMore) this.reclaim();
  }

  #fail(error: DvceError): void {
    if (this.#failed || this.#stopped.signal.aborted) return;
    this.#failed = error;
    this.#refuseTurns(error);
    for (const batch of this.frozen) batch.onRoot?.(error);
    this.#options.onFailed(error);
  }
}

const isStopped = (): DvceError =>
  new DvceError('CANCELLED', { what: 'work on a volume that is being closed' });

function assertFirst(frozen: readonly FrozenBatch[], batch: FrozenBatch): void {
  if (frozen[0] !== batch)
    throw new DvceError('INTERNAL', { reason: 'batches leave in the order in which they came' });
}
