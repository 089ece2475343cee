/**
 * A block device in memory: the reference that the NBD tests serve. 4 KiB pages, so that large devices cost nothing;
 * `hold` keeps calls back until the test lets them go, which is how slow and dying backends are played.
 */

import type { DvceError } from '../../src/base/index.ts';
import type {
  BackendCaps,
  BlockBackend,
  Done,
  Extent,
  ExtentsDone,
  ReadDone,
  RequestOrigin,
  WriteOptions,
  ZeroOptions,
} from '../../src/nbd/index.ts';

const pageBytes = 4096;

interface Page {
  bytes: Buffer;
  zero: boolean;
}

export interface MemoryBackendOptions {
  readonly sizeBytes: number;
  readonly caps?: Partial<BackendCaps>;
}

export class MemoryBackend implements BlockBackend {
  sizeBytes: number;
  readonly caps: BackendCaps;
  readonly calls: string[] = [];
  /** Options of every write, trim and zeroing, in order. */
  readonly options: (WriteOptions | ZeroOptions)[] = [];
  /** The next call of a kind fails with this. */
  readonly failures = new Map<string, DvceError>();
  /** With true, completions wait for `release`. */
  hold = false;
  record = false;
  closed = 0;
  flushes = 0;
  readonly #pages = new Map<number, Page>();
  #held: (() => void)[] = [];

  constructor({ sizeBytes, caps = {} }: MemoryBackendOptions) {
    this.sizeBytes = sizeBytes;
    this.caps = {
      readOnly: false,
      blockBytes: 512,
      multiConn: true,
      cache: false,
      rotational: false,
      ...caps,
    };
  }

  get heldCount(): number {
    return this.#held.length;
  }

  release(count = Number.POSITIVE_INFINITY): void {
    const now = this.#held.splice(0, Math.min(count, this.#held.length));
    for (const complete of now) complete();
  }

  content(offset: number, length: number): Buffer {
    const out = Buffer.alloc(length);
    for (let at = 0; at < length; ) {
      const page = this.#pages.get(Math.floor((offset + at) / pageBytes));
      const within = (offset + at) % pageBytes;
      const count = Math.min(pageBytes - within, length - at);
      page?.bytes.copy(out, at, within, within + count);
      at += count;
    }
    return out;
  }

  put(offset: number, bytes: Buffer): void {
    for (let at = 0; at < bytes.length; ) {
      const within = (offset + at) % pageBytes;
      const count = Math.min(pageBytes - within, bytes.length - at);
      bytes.copy(this.#page(offset + at).bytes, within, at, at + count);
      this.#page(offset + at).zero = false;
      at += count;
    }
  }

  read(offset: number, length: number, done: ReadDone): void {
    this.#run('read', offset, length, (error) => {
      if (error !== null) return done(error, []);
      return done(null, this.#parts(offset, length));
    });
  }

  write(offset: number, data: Buffer, options: WriteOptions, done: Done): void {
    this.options.push(options);
    this.#apply('write', offset, data.length, options.origin, done, () => this.put(offset, data));
  }

  flush(done: Done): void {
    this.#run('flush', 0, 0, (error) => {
      this.flushes += 1;
      done(error);
    });
  }

  trim(offset: number, length: number, options: WriteOptions, done: Done): void {
    this.options.push(options);
    this.#apply('trim', offset, length, options.origin, done, () => {
      const first = Math.ceil(offset / pageBytes);
      const end = Math.floor((offset + length) / pageBytes);
      if (end - first > this.#pages.size)
        for (const key of [...this.#pages.keys()])
          if (key >= first && key < end) this.#pages.delete(key);
          else;
      else for (let key = first; key < end; key += 1) this.#pages.delete(key);
    });
  }

  writeZeroes(offset: number, length: number, options: ZeroOptions, done: Done): void {
    this.options.push(options);
    this.#apply('writeZeroes', offset, length, options.origin, done, () =>
      this.#zero(offset, length, options.noHole),
    );
  }

  extents(offset: number, length: number, done: ExtentsDone): void {
    this.#run('extents', offset, length, (error) => {
      if (error !== null) return done(error, []);
      return done(null, this.#extents(offset, length));
    });
  }

  cache(offset: number, length: number, done: Done): void {
    this.#run('cache', offset, length, done);
  }

  async close(): Promise<void> {
    this.closed += 1;
  }

  #run(
    kind: string,
    offset: number,
    length: number,
    complete: (error: DvceError | null) => void,
  ): void {
    if (this.record) this.calls.push(`${kind} ${offset}+${length}`);
    const failure = this.failures.get(kind) ?? null;
    this.failures.delete(kind);
    if (this.hold) this.#held.push(() => complete(failure));
    else complete(failure);
  }

  /** Rule N6 as the engine keeps it: a held request re-checks its origin in the turn in which it is applied. */
  #apply(
    kind: string,
    offset: number,
    length: number,
    origin: RequestOrigin,
    done: Done,
    act: () => void,
  ): void {
    this.#run(kind, offset, length, (error) => {
      if (error === null && origin.alive) act();
      done(error);
    });
  }

  #page(offset: number): Page {
    const key = Math.floor(offset / pageBytes);
    let page = this.#pages.get(key);
    if (page === undefined) {
      page = { bytes: Buffer.alloc(pageBytes), zero: true };
      this.#pages.set(key, page);
    }
    return page;
  }

  #zero(offset: number, length: number, noHole: boolean): void {
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const within = at % pageBytes;
      const count = Math.min(pageBytes - within, end - at);
      const key = Math.floor(at / pageBytes);
      if (count < pageBytes) this.#pages.get(key)?.bytes.fill(0, within, within + count);
      else if (noHole) this.#pages.set(key, { bytes: Buffer.alloc(pageBytes), zero: true });
      else this.#pages.delete(key);
      at += count;
    }
  }

  #parts(offset: number, length: number): (Buffer | number)[] {
    const parts: (Buffer | number)[] = [];
    for (let at = 0; at < length; ) {
      const within = (offset + at) % pageBytes;
      const count = Math.min(pageBytes - within, length - at);
      const page = this.#pages.get(Math.floor((offset + at) / pageBytes));
      const last = parts.length - 1;
      if (page !== undefined) parts.push(page.bytes.subarray(within, within + count));
      else if (typeof parts[last] === 'number') parts[last] = (parts[last] as number) + count;
      else parts.push(count);
      at += count;
    }
    return parts;
  }

  #extents(offset: number, length: number): Extent[] {
    const extents: Extent[] = [];
    const end = Math.min(offset + length, this.sizeBytes);
    for (let at = offset; at < end; ) {
      const page = this.#pages.get(Math.floor(at / pageBytes));
      const lengthBytes = Math.min(pageBytes - (at % pageBytes), this.sizeBytes - at);
      extents.push({ lengthBytes, hole: page === undefined, zero: page?.zero ?? true });
      at += lengthBytes;
    }
    return extents;
  }
}
