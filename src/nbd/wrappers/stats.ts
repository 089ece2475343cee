/** Counts requests, bytes, failures and time per operation. */
import type { Clock, DvceError } from '../../base/index.ts';
import type {
  BlockBackend,
  Done,
  ExtentsDone,
  ReadDone,
  WriteOptions,
  ZeroOptions,
} from '../backend.ts';
import { type Operation, PassThrough } from './pass-through.ts';

export interface OperationStats {
  requests: number;
  bytes: number;
  failures: number;
  /** Sum over requests, milliseconds. */
  timeMs: number;
  timeMsMax: number;
}

const empty = (): OperationStats => ({
  requests: 0,
  bytes: 0,
  failures: 0,
  timeMs: 0,
  timeMsMax: 0,
});

export class StatsBackend extends PassThrough {
  readonly stats: Readonly<Record<Operation, OperationStats>> = {
    read: empty(),
    write: empty(),
    flush: empty(),
    trim: empty(),
    writeZeroes: empty(),
    extents: empty(),
    cache: empty(),
  };
  readonly #clock: Clock;

  constructor(inner: BlockBackend, clock: Clock) {
    super(inner);
    this.#clock = clock;
  }

  override read(offset: number, length: number, done: ReadDone): void {
    const end = this.#begin('read', length);
    this.inner.read(offset, length, (error, parts) => {
      end(error);
      done(error, parts);
    });
  }
  override write(offset: number, data: Buffer, options: WriteOptions, done: Done): void {
    this.inner.write(offset, data, options, this.#timed('write', data.length, done));
  }
  override flush(done: Done): void {
    this.inner.flush(this.#timed('flush', 0, done));
  }
  override trim(offset: number, length: number, options: WriteOptions, done: Done): void {
    this.inner.trim(offset, length, options, this.#timed('trim', length, done));
  }
  override writeZeroes(offset: number, length: number, options: ZeroOptions, done: Done): void {
    this.inner.writeZeroes(offset, length, options, this.#timed('writeZeroes', length, done));
  }
  override extents(offset: number, length: number, done: ExtentsDone): void {
    const end = this.#begin('extents', length);
    this.inner.extents(offset, length, (error, extents) => {
      end(error);
      done(error, extents);
    });
  }
  override cache(offset: number, length: number, done: Done): void {
    this.inner.cache(offset, length, this.#timed('cache', length, done));
  }

  #timed(operation: Operation, bytes: number, done: Done): Done {
    const end = this.#begin(operation, bytes);
    return (error) => {
      end(error);
      done(error);
    };
  }

  #begin(operation: Operation, bytes: number): (error: DvceError | null) => void {
    const startMs = this.#clock.monotonicMs();
    return (error) => {
      const stats = this.stats[operation];
      const timeMs = this.#clock.monotonicMs() - startMs;
      stats.requests += 1;
      stats.bytes += bytes;
      stats.failures += error === null ? 0 : 1;
      stats.timeMs += timeMs;
      stats.timeMsMax = Math.max(stats.timeMsMax, timeMs);
    };
  }
}
