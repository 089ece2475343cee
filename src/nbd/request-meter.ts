/**
 * How long the requests of one export take, by command.
 *
 * Counts in log-linear buckets: eight for each doubling of the time, so that a percentile is right within an eighth.
 *
 *   current    the minute that runs     -> latencies of the last one or two minutes, for whoever looks
 *   previous   the minute before it
 *   totals     everything before `current`, in the coarser buckets that are exported: each bound is a power of two of
 *              microseconds, and so an edge of the fine buckets
 *
 * The data path pays for it with one reading of the clock and three additions per request: everything is allocated when the
 * meter is made, and times are whole microseconds modulo 2^32, which fit into a field of a request without an object of their
 * own. Once a minute the fine buckets are added to the totals.
 */
import type { Clock } from '../base/index.ts';
import { commands } from './constants.ts';

const [firstExponent, lastExponent] = [6, 24];
/** Upper bounds of the exported buckets, seconds, from 64 us to 16.8 s; one more bucket takes what is slower. */
export const requestBoundsSeconds: readonly number[] = Array.from(
  { length: lastExponent - firstExponent + 1 },
  (_, at) => 2 ** (firstExponent + at) / 1e6,
);
const width = requestBoundsSeconds.length + 1;

const perDoubling = 8;
/** Of whole microseconds below 2^31. */
const fineWidth = (31 - 2) * perDoubling;

/** Below 8 us each microsecond has a bucket of its own. */
function fineBucket(us: number): number {
  if (us < perDoubling) return us;
  const exponent = 31 - Math.clz32(us);
  return (exponent - 2) * perDoubling + ((us >>> (exponent - 3)) & (perDoubling - 1));
}

/** The first microsecond that lies above a bucket. */
function fineEnd(bucket: number): number {
  if (bucket < perDoubling) return bucket + 1;
  const shift = Math.floor(bucket / perDoubling) - 1;
  return (perDoubling + (bucket % perDoubling) + 1) * 2 ** shift;
}

/** Which exported bucket a fine one belongs to. */
const coarse = Uint8Array.from({ length: fineWidth }, (_, bucket) => {
  const at = requestBoundsSeconds.findIndex((bound) => fineEnd(bucket) <= bound * 1e6);
  return at < 0 ? width - 1 : at;
});

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

const minuteUs = 60_000_000;

export interface RequestFigures {
  readonly operation: string;
  /** Requests in each bucket (not summed up), the last one being those above every bound. */
  readonly counts: readonly number[];
  readonly sumSeconds: number;
  /** Of these requests, those that were answered with an error. */
  readonly errors: number;
}

/** Of the last one or two minutes. */
export interface RequestLatency {
  readonly operation: string;
  readonly requests: number;
  readonly medianUs: number;
  readonly p99Us: number;
}

export class RequestMeter {
  readonly #clock: Clock;
  #current = new Uint32Array(commandCount * fineWidth);
  #previous = new Uint32Array(commandCount * fineWidth);
  #minuteFrom: number;
  readonly #totals = new Float64Array(commandCount * width);
  readonly #sumsUs = new Float64Array(commandCount);
  readonly #errors = new Float64Array(commandCount);

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#minuteFrom = this.now();
  }

  /** A moment for `ended`; means nothing else. */
  now(): number {
    return (this.#clock.monotonicMs() * 1000) | 0;
  }

  /** A request of this command was answered by the backend. */
  ended(command: number, startedAt: number, isError: boolean): void {
    const now = this.now();
    const elapsed = (now - startedAt) | 0;
    // Negative after 36 minutes, which is slower than every bound.
    const us = elapsed < 0 ? 0x7fff_ffff : elapsed;
    this.#turn(now);
    const at = command * fineWidth + fineBucket(us);
    this.#current[at] = (this.#current[at] ?? 0) + 1;
    this.#sumsUs[command] = (this.#sumsUs[command] ?? 0) + us;
    if (isError) this.#errors[command] = (this.#errors[command] ?? 0) + 1;
  }

  read(): RequestFigures[] {
    const totals = Float64Array.from(this.#totals);
    addTo(totals, this.#current);
    return Object.entries(measured).map(([operation, command]) => ({
      operation,
      counts: [...totals.subarray(command * width, (command + 1) * width)],
      sumSeconds: (this.#sumsUs[command] ?? 0) / 1e6,
      errors: this.#errors[command] ?? 0,
    }));
  }

  /** Of the commands that were used of late. */
  latencies(): RequestLatency[] {
    this.#turn(this.now());
    return Object.entries(measured).flatMap(([operation, command]) => {
      const from = command * fineWidth;
      const counts = this.#current
        .slice(from, from + fineWidth)
        .map((count, at) => count + (this.#previous[from + at] ?? 0));
      const requests = counts.reduce((sum, count) => sum + count, 0);
      if (requests === 0) return [];
      const [medianUs, p99Us] = [
        percentile(counts, requests, 50),
        percentile(counts, requests, 99),
      ];
      return [{ operation, requests, medianUs, p99Us }];
    });
  }

  /** A minute is over. A volume that did nothing for longer has nothing of late. */
  #turn(now: number): void {
    const elapsed = (now - this.#minuteFrom) | 0;
    if (elapsed >= 0 && elapsed < minuteUs) return;
    addTo(this.#totals, this.#current);
    const isLongAgo = elapsed < 0 || elapsed >= 2 * minuteUs;
    [this.#previous, this.#current] = [this.#current, this.#previous];
    this.#current.fill(0);
    if (isLongAgo) this.#previous.fill(0);
    this.#minuteFrom = now;
  }
}

function addTo(totals: Float64Array, fine: Uint32Array): void {
  for (let command = 0; command < commandCount; command += 1)
    for (let bucket = 0; bucket < fineWidth; bucket += 1) {
      const count = fine[command * fineWidth + bucket] ?? 0;
      if (count === 0) continue;
      const at = command * width + (coarse[bucket] ?? 0);
      totals[at] = (totals[at] ?? 0) + count;
    }
}

/** The end of the bucket below which so many of a hundred lie. */
function percentile(counts: Uint32Array, requests: number, percent: number): number {
  const wanted = Math.ceil((requests * percent) / 100);
  let below = 0;
  const bucket = counts.findIndex((count) => {
    below += count;
    return below >= wanted;
  });
  return fineEnd(bucket);
}

/** Figures of several meters in one. */
export function sumOfFigures(lists: readonly (readonly RequestFigures[])[]): RequestFigures[] {
  const [first = [], ...others] = lists;
  return first.map((figures, at) =>
    others.reduce((sum, list) => {
      const other = list[at] ?? figures;
      return {
        operation: sum.operation,
        counts: sum.counts.map((count, bucket) => count + (other.counts[bucket] ?? 0)),
        sumSeconds: sum.sumSeconds + other.sumSeconds,
        errors: sum.errors + other.errors,
      };
    }, figures),
  );
}
