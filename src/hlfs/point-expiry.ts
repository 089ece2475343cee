/** Space of points whose time is over is given back also while nobody writes: the timer for it (DD-0013). */
import { limits, type Timer, type Timers } from '../base/index.ts';
import type { LogWriter } from './log-writer.ts';

/** A longer one would run at once. */
const longestTimerMs = 2 ** 31 - 1;

export class PointExpiry {
  readonly #timers: Timers;
  readonly #writer: LogWriter;
  readonly #expire: () => void;
  #timer: Timer | null = null;

  constructor(timers: Timers, writer: LogWriter, expire: () => void) {
    this.#timers = timers;
    this.#writer = writer;
    this.#expire = expire;
  }

  watch(): void {
    this.stop();
    const dueInMs = this.#writer.retention?.dueInMs ?? null;
    if (dueInMs === null) return;
    const delayMs = Math.max(limits.reclaimDelayMs, dueInMs);
    this.#timer = this.#timers.after(Math.min(delayMs, longestTimerMs), this.#expire);
  }

  stop(): void {
    this.#timer?.cancel();
    this.#timer = null;
  }
}
