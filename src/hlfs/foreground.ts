/**
 * How guests fare beside background work, and how much of the time that work may take therefore.
 *
 * Every eighth request is timed. A request that was under way during a step of background work counts as *beside* it, any
 * other as *alone*; the two means of a kind of request say what the work costs, whatever the disk and the load are. While it
 * costs too much the share of time that is worked shrinks, else it grows again; there are always pauses, so both means
 * stay up to date. Without requests there is nothing to give way to, and nothing is waited for.
 *
 * Invariants: a pause is bounded, and ends with the signal; nothing here fails a request.
 */
import { type Clock, limits, sleep, type Timers } from '../base/index.ts';

type Kind = 'read' | 'write' | 'flush';

/** Requests between two that are timed. */
const timedEvery = 8;
/** Weight of a new value in a mean. */
const weight = 1 / 16;
/** Values that a mean needs before it says anything. */
const valuesMin = 8;
/** A mean may be so much higher beside the work. */
const costMost = 1.2;
/** Smaller differences are those of the clock and the event loop. */
const differenceMinMs = 0.02;
const shareMin = 0.05;
/** Never all of the time: without pauses nobody would know how requests fare alone. */
const shareMax = 0.9;

class Mean {
  value = 0;
  count = 0;

  add(value: number): void {
    this.count += 1;
    this.value += (value - this.value) * Math.max(weight, 1 / this.count);
  }
}

interface Means {
  readonly alone: Mean;
  readonly beside: Mean;
}
const means = (): Means => ({ alone: new Mean(), beside: new Mean() });

export class Foreground {
  readonly #clock: Clock;
  readonly #timers: Timers;
  readonly #means: Readonly<Record<Kind, Means>> = {
    read: means(),
    write: means(),
    flush: means(),
  };
  #requests = 0;
  #requestsBefore = 0;
  /** Since the share was decided last. */
  #timed = 0;
  #stepsUnderWay = 0;
  /** End of the last step. */
  #steppedMs = Number.NEGATIVE_INFINITY;
  #share = shareMax;
  #owedMs = 0;

  constructor(clock: Clock, timers: Timers) {
    this.#clock = clock;
    this.#timers = timers;
  }

  /** Share of the time that background work may take. */
  get share(): number {
    return this.#share;
  }

  /** `done`, or for one in a few requests a `done` that is timed. */
  timed<T extends unknown[]>(kind: Kind, done: (...result: T) => void): (...result: T) => void {
    this.#requests += 1;
    if (this.#requests % timedEvery !== 0) return done;
    const startMs = this.#clock.monotonicMs();
    return (...result) => {
      const { alone, beside } = this.#means[kind];
      const isBeside = this.#stepsUnderWay > 0 || this.#steppedMs >= startMs;
      (isBeside ? beside : alone).add(this.#clock.monotonicMs() - startMs);
      this.#timed += 1;
      done(...result);
    };
  }

  /** Nobody was there for a while: only requests from now on are given way to. */
  forget(): void {
    this.#owedMs = 0;
    this.#requestsBefore = this.#requests;
  }

  /** One step of background work. */
  async step<T>(work: () => Promise<T>): Promise<T> {
    const startMs = this.#clock.monotonicMs();
    this.#stepsUnderWay += 1;
    try {
      return await work();
    } finally {
      this.#stepsUnderWay -= 1;
      this.#steppedMs = this.#clock.monotonicMs();
      this.#account(this.#steppedMs - startMs);
    }
  }

  #account(stepMs: number): void {
    if (this.#requests === this.#requestsBefore) {
      this.#owedMs = 0;
      return;
    }
    this.#requestsBefore = this.#requests;
    if (this.#timed >= valuesMin) {
      this.#timed = 0;
      this.#share = this.#isCostly()
        ? Math.max(shareMin, this.#share * 0.8)
        : Math.min(shareMax, this.#share * 1.1);
    }
    const pauseMs = stepMs * (1 / this.#share - 1);
    this.#owedMs = Math.min(limits.cleanPauseMaxMs, this.#owedMs + pauseMs);
  }

  #isCostly(): boolean {
    return Object.values(this.#means).some(({ alone, beside }) => {
      if (alone.count < valuesMin || beside.count < valuesMin) return false;
      const difference = beside.value - alone.value;
      return difference > differenceMinMs && beside.value > alone.value * costMost;
    });
  }

  /** Give way for as long as the steps so far ask for. */
  async pause(signal: AbortSignal): Promise<void> {
    const owedMs = Math.floor(this.#owedMs);
    if (owedMs < 1) {
      await new Promise<void>((resolve) => this.#timers.defer(resolve));
      return;
    }
    this.#owedMs -= owedMs;
    await sleep(this.#timers, owedMs, signal).catch(() => {});
  }
}
