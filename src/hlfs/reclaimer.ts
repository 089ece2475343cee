/**
 * Giving space back: which segments are cleaned when, the roots that dead segments wait for, and what is done before a store is
 * full. The publisher calls it between batches, in its turn.
 *
 *   after a batch    too little of what is stored is live: a move is gathered beside the guests, giving way to them (Foreground)
 *   its turn         the gathered move is published, never two in a row while batches wait
 *   idle             segments below the threshold, and the roots that dead ones wait for
 *   store nearly full   cleaning without giving way, before guests are held (S9)
 *
 * Invariants:
 * - dead segments go by positions that were asked for just then, after two roots (G2, L3); *which* segments are cleaned may be
 *   decided by an older answer, because moving too much or too little costs space and no data;
 * - at most one move is gathered or waits; `settled` resolves when none is under way;
 * - a move that the store does not take is dropped, and guests' data gets its turn; cleaning begins anew later;
 * - guest data does not go into the last `storeReserveBytes` of the store: those are for roots, trims and cleaning (S9).
 */
import { DvceError, limits, toDvceError } from '../base/index.ts';
import { finishMove, gatherMove, type Move } from './cleaner.ts';
import { cleaningCandidates, type Need, needUnderLoad, passOf } from './cleaning-policy.ts';
import type { HlfsContext } from './context.ts';
import type { Foreground } from './foreground.ts';
import type { LogWriter } from './log-writer.ts';
import { blockBytes } from './pointer.ts';

export interface ReclaimerOptions {
  readonly context: HlfsContext;
  readonly writer: LogWriter;
  readonly foreground: Foreground;
  /** Positions of snapshots and forks of this log, read now, ascending. The one place where holds are asked for. */
  /** null while they are not known: nothing goes then. */
  readonly positions: () => Promise<readonly number[] | null>;
  /** Write a root of the state that is published. */
  readonly writeRoot: () => Promise<unknown>;
  /** Nothing is gathered any more. */
  readonly signal: AbortSignal;
  /** A move waits for its turn. */
  readonly onReady: () => void;
}

/** Steps in one turn when space is pressing: a few milliseconds. */
const pressingSteps = 4;

export class Reclaimer {
  /** Positions as they were read last; null while they were not needed. */
  held: readonly number[] | null = null;
  /** Bytes that cleaning published since the volume was opened. */
  movedBytes = 0;
  readonly #options: ReclaimerOptions;
  #heldMs = Number.NEGATIVE_INFINITY;
  /** Segments in which cleaning met damage: they stay as they are. */
  readonly #damaged = new Set<number>();
  /** How often what lies in a segment survived cleaning; known since the volume was opened, a hint only. */
  readonly #generations = new Map<number, number>();
  #gathering: Promise<void> | null = null;
  #move: Move | null = null;
  #need: Need | null = null;
  /** The store has little more than its reserve. */
  #isNearlyFull = false;
  #freeBytes = Number.POSITIVE_INFINITY;
  /** With less stored than this nothing would be found worth cleaning. */
  #calmBytes = 0;
  /** Moved out of since the last root: they die with the next ones, which also move their pages. */
  readonly #emptied = new Set<number>();

  constructor(options: ReclaimerOptions) {
    this.#options = options;
  }

  get hasMove(): boolean {
    return this.#move !== null;
  }

  /** Cleaning comes before what is held back for the sake of guests. */
  get isPressing(): boolean {
    return this.#need === 'urgent' || this.#need === 'forced';
  }

  /** Resolves when nothing is being gathered. */
  async settled(): Promise<void> {
    await this.#gathering;
  }

  /** After a batch or a move: gather the next move when it is time for one. Cheap when it is not. */
  consider(): void {
    if (this.#options.writer.table.storedBytes < this.#calmBytes) return;
    const need = this.#needNow();
    if (need === null) return;
    // What is gathered already hurries up when space got scarce meanwhile.
    if (this.#gathering === null) this.#gather(need);
    else if (need !== 'usual') this.#need = need;
  }

  #needNow(): Need | null {
    const { table } = this.#options.writer;
    if (this.#isNearlyFull) return 'urgent';
    const rough = needUnderLoad(table.storedBytes, table.liveBytes);
    if (rough === null || this.held === null) return rough;
    // Positions hold some of it, and what is dead already only waits for roots.
    const { storedBytes, liveBytes, deadBytes } = table.usage(this.held);
    return needUnderLoad(storedBytes - deadBytes, liveBytes);
  }

  /** Dead bytes that are worth a root before it is due. */
  get rootIsWorthIt(): boolean {
    const { table, map } = this.#options.writer;
    const pageBytes = map.dirtyPages * blockBytes;
    const factor = this.#isNearlyFull ? 1 : limits.deadRootFactor;
    const least = Math.max(limits.deadRootBytes, factor * pageBytes);
    if (table.storedBytes - table.liveBytes < least) return false;
    return table.usage(this.held ?? []).deadBytes >= least;
  }

  /** @returns false when nothing is to be done now */
  #gather(need: Need): boolean {
    const { signal, onReady, context } = this.#options;
    if (this.#gathering !== null || this.#move !== null || signal.aborted) return false;
    this.#need = need;
    const gathering = this.#gatherMove(need)
      .catch((error: unknown) => {
        const { code, message } = toDvceError(error);
        context.logger.warn({ code, reason: message }, 'cleaning is put off');
        return null;
      })
      .then((move) => {
        this.#gathering = null;
        this.#move = move;
        if (move === null) this.#need = null;
        else onReady();
      });
    this.#gathering = gathering;
    return true;
  }

  async #gatherMove(need: Need): Promise<Move | null> {
    const { context, writer, foreground, signal } = this.#options;
    if (need === 'idle') foreground.forget();
    // What is owed to guests for publishing the move before.
    if (!this.isPressing) await foreground.pause(signal);
    const positions = await this.#recentPositions();
    // By positions that were not known before.
    if (need !== 'idle' && need !== 'urgent') this.#need = this.#needNow();
    if (positions === null) return null;
    const chosen = signal.aborted || this.#need === null ? [] : this.#choose(this.#need, positions);
    if (chosen.length === 0) {
      // Until something more is stored there is nothing to be found.
      this.#calmBytes = writer.table.storedBytes + limits.segmentDataBytes;
      return null;
    }
    let steps = 0;
    const step = async <T>(work: () => Promise<T>): Promise<T> => {
      steps += 1;
      if (!this.isPressing) await foreground.pause(signal);
      else if (steps % pressingSteps === 0)
        await new Promise<void>((resolve) => context.timers.defer(resolve));
      if (signal.aborted) throw new DvceError('CANCELLED', { what: 'cleaning' });
      return foreground.step(work);
    };
    const generation = 1 + Math.max(...chosen.map((number) => this.#generationOf(number)));
    const damaged = this.#damaged;
    const options = { context, writer, numbers: chosen, generation, positions, damaged, step };
    return gatherMove(options);
  }

  async #recentPositions(): Promise<readonly number[] | null> {
    const nowMs = this.#options.context.clock.monotonicMs();
    if (this.held !== null && nowMs - this.#heldMs < limits.positionsAgeMs) return this.held;
    return this.#readPositions();
  }

  async #readPositions(): Promise<readonly number[] | null> {
    const held = await this.#options.positions();
    if (held === null) return null;
    this.held = held;
    this.#heldMs = this.#options.context.clock.monotonicMs();
    return held;
  }

  /**
   * null when they cannot be read: a damaged document of a snapshot is a reason to keep everything, not to stop the volume (N7).
   * A store that is away is for the caller, who tries again.
   */
  async #readablePositions(): Promise<readonly number[] | null> {
    try {
      return await this.#readPositions();
    } catch (error) {
      const failure = toDvceError(error);
      if (mayPass(failure)) throw failure;
      const facts = { code: failure.code, reason: failure.message };
      this.#options.context.logger.error(facts, 'nothing is given back: what is held is not known');
      return null;
    }
  }

  /** The segments of one pass: those that give most, of one generation. */
  #choose(need: Need, positions: readonly number[]): number[] {
    const { table } = this.#options.writer;
    const candidates = cleaningCandidates(table, {
      positions,
      livePercentMax: need === 'urgent' ? limits.cleanUrgentPercent : limits.cleanLivePercent,
    }).filter((number) => !this.#damaged.has(number) && !this.#emptied.has(number));
    const generation = this.#generationOf(candidates[0] ?? 0);
    const alike = candidates.filter((number) => this.#generationOf(number) === generation);
    // What is moved is stored twice for a while: a store that is nearly full has little room for that.
    const room =
      need === 'urgent' ? Math.floor(this.#freeBytes / 2 / blockBytes) : Number.POSITIVE_INFINITY;
    const unitsMax = Math.min(limits.cleanBlocksPerPass, room);
    const chosen = [passOf(table, alike, unitsMax), passOf(table, candidates, unitsMax)].find(
      ({ length }) => length > 0,
    );
    return chosen ?? [];
  }

  #generationOf(number: number): number {
    return Math.min(limits.cleanGenerations, this.#generations.get(number) ?? 0);
  }

  /** Publish the move that waits. One that the store does not take is dropped. */
  async publishMove(): Promise<void> {
    const { writer, foreground, context } = this.#options;
    const move = this.#move;
    if (move === null) return;
    this.#move = null;
    this.#need = null;
    this.#calmBytes = 0;
    try {
      await writer.finish();
      await foreground.step(() => this.#finish(move));
    } catch (error) {
      const failure = toDvceError(error);
      if (!mayPass(failure)) throw failure;
      context.logger.warn({ code: failure.code, reason: failure.message }, 'a move is dropped');
    }
  }

  async #finish(move: Move): Promise<void> {
    const { writer } = this.#options;
    const before = writer.publishedBytes;
    for (const segment of move.emptied) this.#emptied.add(segment);
    for (const number of await finishMove(writer, move))
      this.#generations.set(number, move.generation);
    this.movedBytes += writer.publishedBytes - before;
  }

  /** S9: guest data stops before the reserve; space is made first. */
  async guardReserve(neededBytes: number): Promise<void> {
    const { store } = this.#options.context;
    if (neededBytes === 0) return;
    for (let round = 0; await this.#isReserveNeeded(neededBytes); round += 1) {
      if (round < limits.cleanRoundsMax && (await this.#makeSpace())) continue;
      throw new DvceError('NO_SPACE', {
        where: store.location,
        reason: 'only the reserve for roots, trims and cleaning is left',
      });
    }
  }

  async #isReserveNeeded(neededBytes: number): Promise<boolean> {
    const { freeBytes, totalBytes } = await this.#options.context.store.space();
    const reserve = Math.min(limits.storeReserveBytes, totalBytes / 20);
    const margin = Math.min(limits.cleanUrgentBytes, totalBytes / 20);
    this.#freeBytes = freeBytes;
    this.#isNearlyFull = freeBytes - neededBytes < reserve + margin;
    return freeBytes - neededBytes < reserve;
  }

  /** Two roots let go of what is dead; cleaning needs space itself and comes when nothing is. @returns whether it did something */
  async #makeSpace(): Promise<boolean> {
    const positions = await this.#readablePositions();
    if (positions === null) return false;
    const { deadBytes } = this.#options.writer.table.usage(positions);
    // Each root leaves the one before it dead, which alone is no space.
    const isRootWanted = this.#emptied.size > 0 || deadBytes >= limits.reclaimBytesMin;
    if (!isRootWanted && !(await this.#cleanNow())) return false;
    await this.#letGo(() => true);
    return true;
  }

  /** Roots until what is dead now may go; the first one moves the pages of segments that were emptied (L3). */
  async #letGo(isWanted: () => boolean): Promise<void> {
    const rounds = this.#emptied.size > 0 ? 3 : 2;
    for (let round = 0; round < rounds && isWanted(); round += 1) {
      await this.#options.writeRoot();
      await this.rooted();
    }
  }

  /** A whole pass in the publisher's turn. */
  async #cleanNow(): Promise<boolean> {
    if (this.#gathering !== null) this.#need = 'urgent';
    await this.settled();
    if (this.#move === null) {
      this.#gather('urgent');
      await this.settled();
    }
    if (this.#move === null) return false;
    await this.publishMove();
    return true;
  }

  /** After a root: delete what nothing needs. What cannot be deleted now is deleted after a later one. */
  async rooted(): Promise<void> {
    const { writer, context, signal } = this.#options;
    this.#emptied.clear();
    this.#calmBytes = 0;
    if (!writer.table.hasDead) return;
    try {
      const positions = await this.#readablePositions();
      if (positions === null) return;
      await writer.deleteDead(positions, signal);
      for (const number of this.#generations.keys())
        if (!writer.table.rows.has(number)) this.#generations.delete(number);
    } catch (error) {
      const failure = toDvceError(error);
      if (!mayPass(failure)) throw failure;
      context.logger.warn({ code: failure.code, reason: failure.message }, 'dead segments stay');
    }
  }

  /**
   * Idle: write the roots that dead segments wait for, and clean what is mostly dead.
   * @param isWanted false as soon as guests have something to publish
   * @returns whether there may be more to do
   */
  async reclaim(isWanted: () => boolean): Promise<boolean> {
    const { writer } = this.#options;
    await writer.finish();
    if (!isWanted()) return true;
    const positions = await this.#readablePositions();
    if (positions === null) return false;
    const { deadBytes } = writer.table.usage(positions);
    this.#calmBytes = 0;
    // Points in time whose window is over are let go by a root (DD-0013).
    const isDue = writer.retention?.isDue === true;
    const isRootWanted = isDue || this.#emptied.size > 0 || deadBytes >= limits.reclaimBytesMin;
    if (!isRootWanted) {
      this.#gather('idle');
      return false;
    }
    await this.#letGo(isWanted);
    return true;
  }
}

export const mayPass = (error: DvceError): boolean =>
  error.code === 'NO_SPACE' || error.code === 'STORE_UNAVAILABLE' || error.code === 'TIMED_OUT';
