/**
 * A wrapper that sees each request once before it starts and may let it start later, or never. Delay, rate and error
 * differ only in what `before` does.
 */
import type { DvceError } from '../../base/index.ts';
import type { Done, ExtentsDone, ReadDone, WriteOptions, ZeroOptions } from '../backend.ts';
import { type Operation, PassThrough } from './pass-through.ts';

export interface OperationFacts {
  readonly operation: Operation;
  readonly offset: number;
  readonly length: number;
}

export abstract class Intercept extends PassThrough {
  /** Call `start(null)` now or later to run the request, or with an error to fail it. */
  protected abstract before(facts: OperationFacts, start: (error: DvceError | null) => void): void;

  override read(offset: number, length: number, done: ReadDone): void {
    this.before({ operation: 'read', offset, length }, (error) => {
      if (error !== null) done(error, []);
      else this.inner.read(offset, length, done);
    });
  }
  override write(offset: number, data: Buffer, options: WriteOptions, done: Done): void {
    this.before({ operation: 'write', offset, length: data.length }, (error) => {
      if (error !== null) done(error);
      else this.inner.write(offset, data, options, done);
    });
  }
  override flush(done: Done): void {
    this.before({ operation: 'flush', offset: 0, length: 0 }, (error) => {
      if (error !== null) done(error);
      else this.inner.flush(done);
    });
  }
  override trim(offset: number, length: number, options: WriteOptions, done: Done): void {
    this.before({ operation: 'trim', offset, length }, (error) => {
      if (error !== null) done(error);
      else this.inner.trim(offset, length, options, done);
    });
  }
  override writeZeroes(offset: number, length: number, options: ZeroOptions, done: Done): void {
    this.before({ operation: 'writeZeroes', offset, length }, (error) => {
      if (error !== null) done(error);
      else this.inner.writeZeroes(offset, length, options, done);
    });
  }
  override extents(offset: number, length: number, done: ExtentsDone): void {
    this.before({ operation: 'extents', offset, length }, (error) => {
      if (error !== null) done(error, []);
      else this.inner.extents(offset, length, done);
    });
  }
  override cache(offset: number, length: number, done: Done): void {
    this.before({ operation: 'cache', offset, length }, (error) => {
      if (error !== null) done(error);
      else this.inner.cache(offset, length, done);
    });
  }
}
