/**
 * How long requests take, by command, as counts in fixed buckets.
 *
 * The data path pays for it with one reading of the clock and three additions per request: everything is allocated when the
 * meter is made, and times are whole microseconds modulo 2^32, which fit into a field of a request without an object of their
 * own. Whoever wants the figures reads them out; nothing is computed before.
 */
import type { Clock } from '../base/index.ts';
import { commands } from './constants.ts';

/** Upper bounds of the buckets, seconds; one more bucket takes what is slower. */
export const requestBoundsSeconds: readonly number[] = [
  0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
  2.5, 5, 10,
];

const boundsUs = Float64Array.from(requestBoundsSeconds, (seconds) => seconds * 1e6);
const width = boundsUs.length + 1;

/** Commands that reach a backend, by the name that figures carry. */
const measured = {
  read: commands.read,
  write: commands.write,
  flush: commands.flush,
  trim: commands.trim,
  write_zeroes: commands.writeZeroes,
  cache: commands.cache,
  block_status: commands.blockStatus,
} as const;
const commandCount = Math.max(...Object.values(measured)) + 1;

export interface RequestFigures {
  readonly operation: string;
  /** Requests in each bucket (not summed up), the last one being those above every bound. */
  readonly counts: readonly number[];
  readonly sumSeconds: number;
  /** Of these requests, those that were answered with an error. */
  readonly errors: number;
}

export class RequestMeter {
  readonly #clock: Clock;
  readonly #counts = new Float64Array(commandCount * width);
  readonly #sumsUs = new Float64Array(commandCount);
  readonly #errors = new Float64Array(commandCount);

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** A moment for `ended`; means nothing else. */
  now(): number {
    return (this.#clock.monotonicMs() * 1000) | 0;
  }

  /** A request of this command was answered by the backend. */
  ended(command: number, startedAt: number, isError: boolean): void {
    const elapsed = (this.now() - startedAt) | 0;
    // Negative after 36 minutes, which is slower than every bound.
    const us = elapsed < 0 ? 0x7fff_ffff : elapsed;
    let bucket = 0;
    while (bucket < boundsUs.length && us > (boundsUs[bucket] ?? 0)) bucket += 1;
    const at = command * width + bucket;
    this.#counts[at] = (this.#counts[at] ?? 0) + 1;
    this.#sumsUs[command] = (this.#sumsUs[command] ?? 0) + us;
    if (isError) this.#errors[command] = (this.#errors[command] ?? 0) + 1;
  }

  read(): RequestFigures[] {
    return Object.entries(measured).map(([operation, command]) => ({
      operation,
      counts: [...this.#counts.subarray(command * width, (command + 1) * width)],
      sumSeconds: (this.#sumsUs[command] ?? 0) / 1e6,
      errors: this.#errors[command] ?? 0,
    }));
  }
}
