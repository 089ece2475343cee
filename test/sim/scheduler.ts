/**
 * One queue for everything that happens later in a simulation: timers, deferred work, completions of disk and store. Time is
 * a number that jumps to the next event; which event that is depends only on the seed.
 *
 * Invariants:
 * - between two events every microtask of the code under test has run
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
  readonly #heap: SimEvent[] = [];
  #order = 0;

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

  clock(): Clock {
    return { wallMs: () => wallStartMs + Math.floor(this.nowMs), monotonicMs: () => this.nowMs };
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
  async run(until: () => boolean, eventsMax = 1_000_000): Promise<boolean> {
    for (let count = 0; ; count += 1) {
      await drainMicrotasks();
      if (until()) return true;
      const event = count < eventsMax ? this.#pop() : undefined;
      if (event === undefined) return false;
      this.nowMs = event.atMs;
      this.ran += 1;
      event.task();
    }
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

/** setImmediate runs after every microtask that is ready, and after those that they make ready. */
const drainMicrotasks = (): Promise<void> =>
  new Promise((resolve) => {
    setImmediate(resolve);
  });
