/**
 * Requests on their way into the journal.
 *
 *   push -> queue -> end of the turn: as many as fit become journal records, in one write -> applied -> acknowledged
 *                    what does not fit stays, in order, until space is freed
 *
 * Invariants:
 * - requests are journaled, applied and acknowledged in the order in which they came (J1); nothing overtakes what waits;
 * - a request that waits is looked at again in the turn in which it is journaled: if its connection has died it is dropped
 *   (N6);
 * - above the first threshold each turn waits a little, above the second writes wait for space; the rest of the journal is
 *   for marks and trims (J8);
 * - a write held too long by a full store fails with ENOSPC (S9);
 * - between `hold` and `release` nothing but marks of cuts and flushes is journaled (G5);
 * - on a volume that keeps points in time a flush is acknowledged only when its record, behind all that it covers, is synced
 *   too (DD-0013).
 */
import {
  type Clock,
  DvceError,
  holdPayload,
  limits,
  type Timers,
  toDvceError,
} from '../base/index.ts';
import type { Appended, Entry, Journal } from './journal.ts';
import { recordBytes } from './journal-format.ts';
import { blockBytes } from './pointer.ts';
import type { Done, RequestOrigin } from './volume-api.ts';

export interface Request {
  readonly kind: 'write' | 'hole' | 'zero' | 'mark' | 'flush';
  readonly offset: number;
  readonly length: number;
  readonly payload: Buffer | null;
  readonly fua: boolean;
  readonly origin: RequestOrigin;
  readonly done: Done;
}

interface Queued extends Request {
  /** Bytes of it that are journaled already: a long write becomes several records. */
  journaled: number;
  /** When it began to wait for space, 0 while it does not. */
  heldSinceMs: number;
}

/** What one turn takes from the queue, and the journal bytes that are left for it. */
interface Admission {
  readonly entries: Entry[];
  readonly ended: Queued[];
  readonly syncs: Queued[];
  readonly held: Queued[];
  room: number;
  writeRoom: number;
  /** A request did not fit: those behind it wait too. */
  isFull: boolean;
  readonly wallMs: number;
}

export interface QueueOptions {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly journal: Journal;
  /** A tail of an earlier incarnation is not published yet: nothing may be journaled (J4). */
  readonly isCarrying: () => boolean;
  /** Why publishing does not get on, or null. */
  readonly publishingWaits: () => DvceError | null;
  /** Records were appended: apply them, in order. */
  readonly onAppended: (records: readonly Appended[]) => void;
  /** Requests wait for space: what was journaled last has to go to the store too. */
  readonly onHeld: () => void;
  readonly onFlushed: (seq: number, wallMs: number) => void;
  /** Each flush gets a record of its own in the journal. */
  readonly keepsPoints: () => boolean;
  readonly sizeBytes: () => number;
  readonly onFailed: (error: DvceError) => void;
}

export class RequestQueue {
  readonly #options: QueueOptions;
  #queue: Queued[] = [];
  #isScheduled = false;
  #isHeld = false;
  #failure: DvceError | null = null;
  /** Sequence number of the newest record of a flush: what follows it needs another one. */
  #pointSeq = 0;

  constructor(options: QueueOptions) {
    this.#options = options;
  }

  get isEmpty(): boolean {
    return this.#queue.length === 0;
  }

  push(request: Request): void {
    if (this.#failure) {
      request.done(this.#failure);
      return;
    }
    const queued = { ...request, journaled: 0, heldSinceMs: 0 };
    // Everything acknowledged is journaled already, so a lone flush need not wait for the end of the turn.
    if (request.kind === 'flush' && this.#queue.length === 0 && !this.#options.isCarrying()) {
      if (this.#sync([queued])) return;
      this.#queue.push(queued);
      this.#watchHeld();
      return;
    }
    this.#queue.push(queued);
    this.#schedule();
  }

  /** Space was freed, or something else changed that requests wait for. */
  wake(): void {
    if (this.#queue.length > 0) this.#schedule();
  }

  /** Journal nothing until `release`: requests wait in their order. What was acknowledged so far is journaled already. */
  hold(): void {
    this.#isHeld = true;
  }

  release(): void {
    this.#isHeld = false;
    this.wake();
  }

  /**
   * Journal a mark while held, before everything that waits.
   * @throws CONFLICT when the journal cannot take it now, or why nothing is journaled any more
   */
  markHeld(): void {
    const { journal, clock, isCarrying } = this.#options;
    if (this.#failure) throw this.#failure;
    if (isCarrying() || journal.roomBytes < recordBytes('mark', 0, 0))
      throw new DvceError('CONFLICT', {
        kind: 'volume',
        name: '',
        reason: 'its journal takes nothing right now',
        advice: 'Wait until it is published, then repeat.',
      });
    const wallMs = clock.wallMs();
    const mark: Entry = { kind: 'mark', offset: 0, length: 0, payload: null, wallMs };
    if (!this.#append([mark])) throw this.#failure;
  }

  /** Refuse what waits and everything from now on. */
  fail(error: DvceError): void {
    this.#failure ??= error;
    const queue = this.#queue;
    this.#queue = [];
    for (const request of queue) request.done(this.#failure);
  }

  #schedule(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    const pauseMs = this.#slowdownMs();
    if (pauseMs === 0) this.#options.timers.defer(() => this.#turn());
    else this.#options.timers.after(pauseMs, () => this.#turn());
  }

  /** J8: publishing keeps up better when each turn waits a little before writes must be held. */
  #slowdownMs(): number {
    const { usedBytes, quotaBytes } = this.#options.journal;
    const percent = (usedBytes * 100) / quotaBytes;
    if (percent < limits.journalSlowPercent) return 0;
    const range = limits.journalHoldPercent - limits.journalSlowPercent;
    const share = Math.min(1, (percent - limits.journalSlowPercent) / range);
    return Math.ceil(limits.journalSlowMs * share);
  }

  /** End of a turn of the event loop: journal everything that came in, in one write. */
  #turn(): void {
    this.#isScheduled = false;
    if (this.#failure) return;
    const { entries, ended, syncs, held } = this.#admit();
    this.#queue = held;
    if (!this.#append(entries)) {
      for (const request of [...ended, ...syncs]) request.done(this.#failure);
      return;
    }
    for (const request of ended) request.done(null);
    if (syncs.length > 0 && !this.#sync(syncs)) this.#queue = [...syncs, ...this.#queue];
    if (this.#queue.length > 0 && !this.#isHeld) this.#watchHeld();
  }

  /** @returns false when the journal can take nothing any more */
  #append(entries: readonly Entry[]): boolean {
    if (entries.length === 0) return true;
    try {
      this.#options.onAppended(this.#options.journal.append(entries));
      return true;
    } catch (error) {
      this.fail(toDvceError(error));
      this.#options.onFailed(toDvceError(error));
      return false;
    }
  }

  #admit(): Admission {
    const { journal, clock, isCarrying } = this.#options;
    const carrying = isCarrying();
    const isClosed = carrying || this.#isHeld;
    const admission: Admission = {
      entries: [],
      ended: [],
      syncs: [],
      held: [],
      isFull: false,
      room: isClosed ? 0 : journal.roomBytes,
      writeRoom: isClosed ? 0 : this.#writeRoom(),
      wallMs: clock.wallMs(),
    };
    for (const request of this.#queue)
      if (request.kind === 'flush') {
        // What was acknowledged before it is journaled; with a tail still being carried over it waits for that.
        const list = carrying ? admission.held : admission.syncs;
        list.push(request);
      } else if (request.origin.alive) this.#admitOne(request, admission);
      else request.done(new DvceError('CANCELLED', { what: 'a request of a lost connection' }));
    return admission;
  }

  #writeRoom(): number {
    const { quotaBytes, usedBytes } = this.#options.journal;
    return Math.floor((quotaBytes * limits.journalHoldPercent) / 100) - usedBytes;
  }

  #admitOne(request: Queued, admission: Admission): void {
    const { held, ended, syncs } = admission;
    if (!admission.isFull) {
      const { room, writeRoom, entries, wallMs } = admission;
      const limit = request.kind === 'write' ? Math.min(room, writeRoom) : room;
      const taken = take(request, entries, limit, wallMs);
      admission.room -= taken;
      admission.writeRoom -= taken;
      admission.isFull = request.journaled < Math.max(1, request.length);
    }
    if (admission.isFull) held.push(request);
    else if (request.fua) syncs.push(request);
    else ended.push(request);
  }

  /** @returns false when the journal has no room for the record of the flush: it waits like a write then */
  #sync(requests: readonly Queued[]): boolean {
    const { journal, clock, onFlushed } = this.#options;
    const wallMs = clock.wallMs();
    if (!this.#recordFlush(wallMs)) return false;
    if (this.#failure) {
      for (const request of requests) request.done(this.#failure);
      return true;
    }
    const seq = journal.lastSeq;
    journal.sync((error) => {
      if (!error) onFlushed(seq, wallMs);
      for (const request of requests) request.done(error);
    });
    return true;
  }

  #recordFlush(wallMs: number): boolean {
    const { journal, keepsPoints, sizeBytes } = this.#options;
    if (!keepsPoints() || journal.lastSeq === this.#pointSeq) return true;
    if (journal.roomBytes < recordBytes('flush', 0, 0)) return false;
    const offset = sizeBytes();
    if (this.#append([{ kind: 'flush', offset, length: 0, payload: null, wallMs }]))
      this.#pointSeq = journal.lastSeq;
    return true;
  }

  /** S9: a write that a full store has held for long fails, so that the hypervisor can stop the guest; reads go on. */
  #watchHeld(): void {
    const { clock, timers, publishingWaits, onHeld } = this.#options;
    const nowMs = clock.monotonicMs();
    const reason = publishingWaits();
    this.#queue = this.#queue.filter((request) => {
      if (request.heldSinceMs === 0) request.heldSinceMs = nowMs;
      const isTooLong = nowMs - request.heldSinceMs > limits.holdBeforeNoSpaceMs;
      if (!isTooLong || reason?.code !== 'NO_SPACE' || request.kind === 'flush') return true;
      request.done(reason);
      return false;
    });
    onHeld();
    if (this.#queue.length === 0 || this.#isScheduled) return;
    // Freed space schedules a turn at once; this one only looks after the time limit and dead connections.
    timers.after(limits.heldCheckMs, () => this.wake());
  }
}

/** Make records of as much of a request as fits into `room`. @returns bytes of journal used */
function take(request: Queued, entries: Entry[], room: number, wallMs: number): number {
  const { kind, offset, payload } = request;
  if (kind === 'flush') return 0;
  if (kind !== 'write' || payload === null) {
    const bytes = recordBytes(kind, offset, request.length);
    if (bytes > room) return 0;
    entries.push({ kind, offset, length: request.length, payload: null, wallMs });
    request.journaled = Math.max(1, request.length);
    return bytes;
  }
  let used = 0;
  while (request.journaled < request.length) {
    const at = offset + request.journaled;
    // Records end at block boundaries, so that no block is split without need.
    const end = Math.floor((at + limits.recordPayloadBytes) / blockBytes) * blockBytes;
    const length = Math.min(end - at, request.length - request.journaled);
    const bytes = recordBytes('write', at, length);
    if (used + bytes > room) break;
    const piece = payload.subarray(request.journaled, request.journaled + length);
    // What holds it passes from the request to its last record; those before it are holders of their own.
    if (request.journaled + length < request.length) holdPayload(piece);
    entries.push({ kind: 'write', offset: at, length, payload: piece, wallMs });
    request.journaled += length;
    used += bytes;
  }
  return used;
}
