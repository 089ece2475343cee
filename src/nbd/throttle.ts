/**
 * Keeps the requests of one volume within its limits, before they reach the backend (and so before the journal: what is
 * acknowledged is not touched, rule J1). All connections of the volume share it.
 *
 *   request -> passes: there is room, none of its direction waits -> backend
 *           -> hold:   waits in the order of its direction until every limit that applies has room
 *
 * Invariants:
 * - in any time T the requests that were let through count for at most perSecond * T + what may be taken at once (a tenth of a
 *   second, or the burst) + one request; over a long time the rate is exact, whatever the size of requests and the lateness of
 *   timers;
 * - requests of a direction start in the order in which they came; a waiting write does not hold up reads that have room,
 *   and of a read and a write that wait for the same limit the older goes first;
 * - what waits is bounded by what the server lets in flight; what waits for a dead connection is dropped in the turn in which
 *   that is seen (rule N6), and costs nothing of the limits;
 * - one timer for all that wait, none while nothing waits; a volume without limits pays for one look at a field.
 *
 * Reads count for themselves; writes, trims and zeroing are writes, the latter two without bytes, which they do not move: a
 * discard of a whole disk is one request. A flush has no limit: it moves nothing of its own, and holding it would only make
 * what is written already less safe.
 */
import {
  type Clock,
  limits,
  type RateLimit,
  type RateLimits,
  type Timer,
  type Timers,
} from '../base/index.ts';
import type { RequestOrigin } from './backend.ts';
import { commands } from './constants.ts';

/** A rate and what is left of it: `level` is what was let through and not paid off yet. */
class Bucket {
  readonly #perMs: number;
  readonly #level: Level;
  /** With a burst: the highest rate, which holds while the burst lasts. */
  readonly #peak: Level | null;

  constructor({ perSecond, burstPerSecond, burstSeconds = 1 }: RateLimit) {
    const { rateAllowanceMs } = limits;
    this.#perMs = perSecond / 1000;
    if (burstPerSecond === undefined) {
      this.#level = new Level(this.#perMs, this.#perMs * rateAllowanceMs);
      this.#peak = null;
    } else {
      // While it is paid off at the rate, it fills at what the burst is above: so a burst lasts as long as it should.
      this.#level = new Level(this.#perMs, (burstPerSecond - perSecond) * burstSeconds);
      const peakPerMs = burstPerSecond / 1000;
      this.#peak = new Level(peakPerMs, peakPerMs * rateAllowanceMs);
    }
  }

  pass(elapsedMs: number): void {
    this.#level.pass(elapsedMs);
    this.#peak?.pass(elapsedMs);
  }

  take(amount: number): void {
    this.#level.value += amount;
    if (this.#peak !== null) this.#peak.value += amount;
  }

  /** Until a request may start, 0: now. */
  waitMs(): number {
    return Math.max(this.#level.waitMs(), this.#peak?.waitMs() ?? 0);
  }

  /** What was used of another limit is used of this one, but no more than it has: a lowered limit holds up nobody for long. */
  inherit(before: Bucket): void {
    this.#level.value = Math.min(before.#level.value, this.#level.size);
    if (this.#peak !== null)
      this.#peak.value = Math.min(before.#peak?.value ?? before.#level.value, this.#peak.size);
  }
}

class Level {
  value = 0;
  readonly size: number;
  readonly #perMs: number;

  constructor(perMs: number, size: number) {
    this.#perMs = perMs;
    this.size = size;
  }

  pass(elapsedMs: number): void {
    this.value = Math.max(0, this.value - elapsedMs * this.#perMs);
  }

  waitMs(): number {
    return this.value <= this.size ? 0 : (this.value - this.size) / this.#perMs;
  }
}

/** What applies to reads or to writes: the own limits and those of everything. */
interface Direction {
  readonly requests: readonly Bucket[];
  readonly bytes: readonly Bucket[];
  /** The first `done` have been started. */
  waiting: Held[];
  done: number;
}

interface Held {
  readonly order: number;
  readonly bytes: number;
  readonly origin: RequestOrigin;
  readonly start: () => void;
}

type BucketOf = { readonly [Name in keyof RateLimits]: Bucket };

export interface ThrottleFigures {
  /** Requests that had to wait. */
  readonly throttledRequests: number;
  /** Time in which at least one waited. */
  readonly throttledMs: number;
}

export class Throttle {
  readonly #clock: Clock;
  readonly #timers: Timers;
  #isLimited = false;
  #buckets: BucketOf = {};
  #all: readonly Bucket[] = [];
  #reads: Direction = { requests: [], bytes: [], waiting: [], done: 0 };
  #writes: Direction = { requests: [], bytes: [], waiting: [], done: 0 };
  #paidUntilMs = 0;
  #order = 0;
  #timer: Timer | null = null;
  #isStarting = false;
  #throttledRequests = 0;
  #throttledMs = 0;
  #waitsSinceMs: number | null = null;

  constructor(clock: Clock, timers: Timers) {
    this.#clock = clock;
    this.#timers = timers;
  }

  /** Other limits from now on, also for what waits; `{}` lets everything through. */
  set(rates: RateLimits): void {
    this.#pass();
    const buckets: { -readonly [Name in keyof RateLimits]: Bucket } = {};
    for (const [key, rate] of Object.entries(rates)) {
      const name = key as keyof RateLimits; // what the type of `rates` says of its keys
      const bucket = new Bucket(rate);
      const before = this.#buckets[name];
      if (before !== undefined) bucket.inherit(before);
      buckets[name] = bucket;
    }
    const those = (...names: (keyof RateLimits)[]): Bucket[] =>
      names.flatMap((name) => buckets[name] ?? []);
    this.#buckets = buckets;
    this.#all = Object.values(buckets);
    this.#reads = {
      ...this.#reads,
      requests: those('iops', 'readIops'),
      bytes: those('bandwidth', 'readBandwidth'),
    };
    this.#writes = {
      ...this.#writes,
      requests: those('iops', 'writeIops'),
      bytes: those('bandwidth', 'writeBandwidth'),
    };
    this.#isLimited = this.#all.length > 0 || this.#isWaiting;
    this.#startWaiting();
  }

  /** May this request start now? Then it is counted; otherwise `hold` it. */
  passes(command: number, length: number): boolean {
    if (!this.#isLimited) return true;
    const direction = this.#directionOf(command);
    if (direction === null) return true;
    if (direction.waiting.length > direction.done) return false;
    this.#pass();
    if (waitMs(direction) > 0) return false;
    take(direction, bytesOf(command, length));
    return true;
  }

  /** Start it when there is room, unless its connection dies first. Only for what did not pass. */
  hold(command: number, length: number, origin: RequestOrigin, start: () => void): void {
    const direction = this.#directionOf(command) ?? this.#writes;
    this.#order += 1;
    direction.waiting.push({
      order: this.#order,
      bytes: bytesOf(command, length),
      origin,
      start,
    });
    this.#throttledRequests += 1;
    this.#waitsSinceMs ??= this.#clock.monotonicMs();
    if (this.#timer === null && !this.#isStarting) this.#startWaiting();
  }

  /** The connection is gone: nothing of it starts any more. */
  forget(origin: RequestOrigin): void {
    if (!this.#isWaiting) return;
    for (const direction of [this.#reads, this.#writes]) {
      direction.waiting = direction.waiting.slice(direction.done);
      direction.done = 0;
      direction.waiting = direction.waiting.filter((held) => held.origin !== origin);
    }
    if (!this.#isStarting) this.#startWaiting();
  }

  figures(): ThrottleFigures {
    const since = this.#waitsSinceMs;
    const nowMs = since === null ? 0 : Math.max(0, this.#clock.monotonicMs() - since);
    return {
      throttledRequests: this.#throttledRequests,
      throttledMs: Math.round(this.#throttledMs + nowMs),
    };
  }

  get #isWaiting(): boolean {
    return head(this.#reads) !== undefined || head(this.#writes) !== undefined;
  }

  #directionOf(command: number): Direction | null {
    switch (command) {
      case commands.read:
        return this.#reads;
      case commands.write:
      case commands.trim:
      case commands.writeZeroes:
        return this.#writes;
      default:
        return null;
    }
  }

  /** Time has gone by: pay off. A clock that was set back, which a monotonic one is not, pays nothing. */
  #pass(): void {
    const nowMs = this.#clock.monotonicMs();
    const elapsedMs = nowMs - this.#paidUntilMs;
    this.#paidUntilMs = nowMs;
    if (elapsedMs > 0) for (const bucket of this.#all) bucket.pass(elapsedMs);
  }

  /** Start what has room, oldest first; then set the timer for the next. */
  #startWaiting(): void {
    this.#timer?.cancel();
    this.#timer = null;
    this.#isStarting = true;
    this.#pass();
    for (let next = this.#next(); next !== undefined; next = this.#next()) {
      const held = next.waiting[next.done] as Held; // #next looked at it
      advance(next);
      if (!held.origin.alive) continue;
      take(next, held.bytes);
      held.start();
    }
    this.#isStarting = false;
    this.#settle();
  }

  #settle(): void {
    if (!this.#isWaiting) {
      if (this.#waitsSinceMs !== null)
        this.#throttledMs += Math.max(0, this.#clock.monotonicMs() - this.#waitsSinceMs);
      this.#waitsSinceMs = null;
      this.#isLimited = this.#all.length > 0;
      return;
    }
    const waits = [this.#reads, this.#writes].flatMap((one) =>
      head(one) === undefined ? [] : [waitMs(one)],
    );
    // A timer counts whole milliseconds, and one that comes early would come again.
    const delayMs = Math.max(1, Math.ceil(Math.min(...waits)));
    this.#timer = this.#timers.after(delayMs, () => this.#startWaiting());
  }

  /** The direction whose first request may start: the older one of both. */
  #next(): Direction | undefined {
    const [read, write] = [head(this.#reads), head(this.#writes)];
    const mayRead = read !== undefined && waitMs(this.#reads) === 0;
    const mayWrite = write !== undefined && waitMs(this.#writes) === 0;
    if (mayRead && mayWrite) return read.order < write.order ? this.#reads : this.#writes;
    if (mayRead) return this.#reads;
    return mayWrite ? this.#writes : undefined;
  }
}

const head = ({ waiting, done }: Direction): Held | undefined => waiting[done];

const bytesOf = (command: number, length: number): number =>
  command === commands.read || command === commands.write ? length : 0;

function waitMs({ requests, bytes }: Direction): number {
  let longest = 0;
  for (const bucket of requests) longest = Math.max(longest, bucket.waitMs());
  for (const bucket of bytes) longest = Math.max(longest, bucket.waitMs());
  return longest;
}

function take({ requests, bytes }: Direction, amount: number): void {
  for (const bucket of requests) bucket.take(1);
  for (const bucket of bytes) bucket.take(amount);
}

/** The first of those that wait is gone; what was started is let go now and then, not each time. */
function advance(direction: Direction): void {
  direction.done += 1;
  if (direction.done < 64 && direction.done < direction.waiting.length) return;
  direction.waiting = direction.waiting.slice(direction.done);
  direction.done = 0;
}
