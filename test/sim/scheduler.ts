/**
 * One queue for everything that happens later in a simulation: timers, deferred work, completions of disk and store. Time is
 * a number that jumps to the next event; which event that is depends only on the seed.
 *
 * Invariants:
 * - between two events every microtask of the code under test has run
 * - time never goes back
 * - an event of a dead process is dropped: a crash is silence, not an error
 * - the same seed and the same code give the same order of events
 */
import type { Clock, Random, Timers } from '../../src/base/index.ts';
import { seededRandom } from '../../src/base/index.ts';

/** A process of the simulated host. Dead ones get no events and reach no disk. */
export class SimProcess {
  readonly name: string;
  isAlive = true;

  constructor(name: string) {
    this.name = name;
  }
}

/** Who waits for something to become true while events run. */
interface Waiter {
  readonly until: () => boolean;
  eventsLeft: number;
  readonly resolve: (isTrue: boolean) => void;
  readonly reject: (error: unknown) => void;
}

interface SimEvent {
  readonly atMs: number;
  readonly order: number;
  readonly owner: SimProcess | undefined;
  readonly task: () => void;
  isCancelled: boolean;
}

/** The wall clock of a simulation starts here; no decision may depend on it. */
const wallStartMs = 1_750_000_000_000;

export class Scheduler {
  readonly seed: number;
  readonly random: Random;
  nowMs = 0;
  /** Events run so far; a bound for runs that never end. */
  ran = 0;
  /** How far the wall clock is set off; nothing about data may depend on it. */
  wallOffsetMs = 0;
  readonly #heap: SimEvent[] = [];
  #order = 0;
  #waiters: Waiter[] = [];
  #isDriving = false;

  constructor(seed: number) {
    this.seed = seed;
    this.random = seededRandom(seed);
  }

  /** Run `task` after `delayMs`; equal times keep the order in which they were asked for. */
  after(delayMs: number, task: () => void, owner?: SimProcess): { cancel(): void } {
    this.#order += 1;
    const event: SimEvent = {
      atMs: this.nowMs + Math.max(0, delayMs),
      order: this.#order,
      owner,
      task,
      isCancelled: false,
    };
    this.#push(event);
    return {
      cancel: () => {
        event.isCancelled = true;
      },
    };
  }

  /** A random time up to `delayMs`; what makes completions overtake each other. */
  soon(delayMs: number, task: () => void, owner?: SimProcess): void {
    this.after((this.random.below(1000) / 1000) * delayMs, task, owner);
  }

  /** Of one boot: a monotonic clock begins anew with each. */
  clock(): Clock {
    const bootMs = this.nowMs;
    return {
      wallMs: () => wallStartMs + Math.floor(this.nowMs + this.wallOffsetMs),
      monotonicMs: () => this.nowMs - bootMs,
    };
  }

  timers(owner: SimProcess): Timers {
    return {
      after: (delayMs, task) => this.after(delayMs, task, owner),
      defer: (task) => {
        this.after(0, task, owner);
      },
    };
  }

  /** Run events until `until` holds. @returns false when there is nothing left to run, or after `eventsMax` events */
  run(until: () => boolean, eventsMax = 1_000_000): Promise<boolean> {
    return new Promise((resolve, reject) => {
      this.#waiters.push({ until, eventsLeft: eventsMax, resolve, reject });
      if (this.#isDriving) return;
      this.#isDriving = true;
      setImmediate(() => this.#drive());
    });
  }

  /** One synchronous loop for as long as anybody waits: a hop of the event loop for each event would cost more than the event. */
  #drive(): void {
    try {
      for (;;) {
        drainMicrotasks();
        if (this.#waiters.length === 0) return;
        if (this.#answer((waiter) => waiter.until(), true)) continue;
        if (this.#answer((waiter) => waiter.eventsLeft === 0, false)) continue;
        const event = this.#pop();
        if (event === undefined) this.#answer(() => true, false);
        else this.#runEvent(event);
      }
    } finally {
      this.#isDriving = false;
    }
  }

  #runEvent(event: SimEvent): void {
    // After a stall of the event loop its timers are late, and time does not go back.
    this.nowMs = Math.max(this.nowMs, event.atMs);
    this.ran += 1;
    for (const waiter of this.#waiters) waiter.eventsLeft -= 1;
    try {
      event.task();
    } catch (error) {
      const waiters = this.#waiters;
      this.#waiters = [];
      for (const { reject } of waiters) reject(error);
    }
  }

  /** @returns whether somebody was answered, who goes on when the microtasks run */
  #answer(isDue: (waiter: Waiter) => boolean, answer: boolean): boolean {
    const due = this.#waiters.filter(isDue);
    if (due.length === 0) return false;
    this.#waiters = this.#waiters.filter((waiter) => !due.includes(waiter));
    for (const { resolve } of due) resolve(answer);
    return true;
  }

  runUntilIdle(): Promise<boolean> {
    return this.run(() => false);
  }

  /** Run until `promise` is settled. @throws its error, or that it never settles */
  async complete<T>(promise: Promise<T>): Promise<T> {
    let isSettled = false;
    const settled = promise.then(
      (value) => {
        isSettled = true;
        return () => value;
      },
      (error: unknown) => {
        isSettled = true;
        return () => {
          throw error;
        };
      },
    );
    if (!(await this.run(() => isSettled)))
      throw new Error(`seed ${this.seed}: a promise is not settled and nothing is left to run`);
    return (await settled)();
  }

  #push(event: SimEvent): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const parentAt = (at - 1) >> 1;
      const parent = heap[parentAt];
      if (parent === undefined || !isBefore(event, parent)) break;
      heap[at] = parent;
      at = parentAt;
    }
    heap[at] = event;
  }

  /** The next event of a living process. */
  #pop(): SimEvent | undefined {
    for (;;) {
      const event = this.#popAny();
      if (event === undefined) return undefined;
      if (!event.isCancelled && event.owner?.isAlive !== false) return event;
    }
  }

  #popAny(): SimEvent | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let childAt = 2 * at + 1;
      const left = heap[childAt];
      const right = heap[childAt + 1];
      if (left === undefined) break;
      let child = left;
      if (right !== undefined && isBefore(right, left)) {
        child = right;
        childAt += 1;
      }
      if (!isBefore(child, last)) break;
      heap[at] = child;
      at = childAt;
    }
    heap[at] = last;
    return first;
  }
}

const isBefore = (a: SimEvent, b: SimEvent): boolean =>
  a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);

/** Node itself calls it between two callbacks: runs every microtask that is ready, and those that they make ready. */
const { _tickCallback: drainMicrotasks } = process as unknown as { _tickCallback(): void };
