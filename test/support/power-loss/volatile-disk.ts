/**
 * A disk with a volatile write cache, as a backend of the NBD server: what a machine whose power fails may find of it.
 *
 * Killing an emulator loses the guest's memory but nothing that reached a file of the host: the host's page cache survives.
 * So the loss is made here. Invariants:
 * - a write is stable when a flush came after its answer, or when it asked for FUA itself;
 * - of every other write `powerOff` keeps all, some sectors, or nothing, each chosen by itself; so later writes may survive
 *   earlier ones, and a sector written twice may show either content or the one before both;
 * - until then reads show every write.
 *
 *   current file   what the machine reads                            write -> current, cache
 *   cache          writes in the order of arrival, bounded           flush -> cache goes to stable
 *   stable file    what is left after the power is gone              powerOff -> a part of it does; current = stable
 */
import { closeSync, copyFileSync, openSync, readSync, writeSync } from 'node:fs';
import { MiB, type Random } from '../../../src/base/index.ts';
import type {
  BackendCaps,
  BlockBackend,
  Done,
  ExtentsDone,
  ReadDone,
  WriteOptions,
} from '../../../src/nbd/index.ts';

const sectorBytes = 512;
/** A full cache writes its oldest content out by itself, as a disk does. */
const cacheBytesMax = 64 * MiB;

interface CachedWrite {
  readonly offset: number;
  readonly data: Buffer;
  /** FUA: stable since it was answered, but applied in its turn. */
  readonly stable: boolean;
}

/** Writes that were in the cache when the power went. */
export interface Loss {
  readonly kept: number;
  readonly torn: number;
  readonly dropped: number;
}

export class VolatileDisk implements BlockBackend {
  readonly sizeBytes: number;
  readonly caps: BackendCaps = {
    readOnly: false,
    blockBytes: sectorBytes,
    multiConn: false,
    cache: false,
    rotational: false,
  };
  flushes = 0;
  /** Called when a write has arrived and is in the cache, before it is answered. */
  onWrite: (() => void) | undefined;
  readonly #stable: number;
  readonly #current: number;
  readonly #random: Random;
  #cache: CachedWrite[] = [];
  #cachedBytes = 0;

  /** @param path a raw image of `sizeBytes`; `path.current` is written beside it */
  constructor(path: string, sizeBytes: number, random: Random) {
    this.sizeBytes = sizeBytes;
    this.#random = random;
    copyFileSync(path, `${path}.current`);
    this.#stable = openSync(path, 'r+');
    this.#current = openSync(`${path}.current`, 'r+');
  }

  read(offset: number, length: number, done: ReadDone): void {
    const bytes = Buffer.allocUnsafeSlow(length);
    readWhole(this.#current, bytes, offset);
    done(null, [bytes]);
  }

  write(offset: number, data: Buffer, options: WriteOptions, done: Done): void {
    writeWhole(this.#current, data, offset);
    this.#cache.push({ offset, data, stable: options.fua });
    this.#cachedBytes += data.length;
    while (this.#cachedBytes > cacheBytesMax) this.#destage();
    this.onWrite?.();
    done(null);
  }

  flush(done: Done): void {
    while (this.#cache.length > 0) this.#destage();
    this.flushes += 1;
    done(null);
  }

  /** A disk may ignore it. */
  trim(_offset: number, _length: number, _options: WriteOptions, done: Done): void {
    done(null);
  }

  writeZeroes(offset: number, length: number, options: WriteOptions, done: Done): void {
    const count = Math.min(length, MiB);
    this.write(offset, Buffer.alloc(count), options, (error) => {
      if (error !== null || count === length) done(error);
      else this.writeZeroes(offset + count, length - count, options, done);
    });
  }

  extents(_offset: number, length: number, done: ExtentsDone): void {
    done(null, [{ lengthBytes: length, hole: false, zero: false }]);
  }

  cache(_offset: number, _length: number, done: Done): void {
    done(null);
  }

  async close(): Promise<void> {
    closeSync(this.#stable);
    closeSync(this.#current);
  }

  /** The power is gone: choose what of the cache had reached the medium. Nothing may be connected any more. */
  powerOff(): Loss {
    const loss = { kept: 0, torn: 0, dropped: 0 };
    const lost = this.#cache;
    this.#cache = [];
    this.#cachedBytes = 0;
    for (const write of lost) {
      const fate = write.stable ? 'kept' : (['kept', 'torn', 'dropped'] as const)[this.#below(3)];
      loss[fate ?? 'kept'] += 1;
      if (fate === 'torn') this.#tear(write);
      else if (fate !== 'dropped') writeWhole(this.#stable, write.data, write.offset);
    }
    for (const { offset, data } of lost) {
      readWhole(this.#stable, data, offset);
      writeWhole(this.#current, data, offset);
    }
    return loss;
  }

  #below(limit: number): number {
    return this.#random.below(limit);
  }

  #destage(): void {
    const oldest = this.#cache.shift();
    if (oldest === undefined) return;
    this.#cachedBytes -= oldest.data.length;
    writeWhole(this.#stable, oldest.data, oldest.offset);
  }

  #tear({ offset, data }: CachedWrite): void {
    for (let at = 0; at < data.length; at += sectorBytes)
      if (this.#below(2) === 0)
        writeWhole(this.#stable, data.subarray(at, at + sectorBytes), offset + at);
  }
}

function readWhole(fd: number, bytes: Buffer, offset: number): void {
  const count = readSync(fd, bytes, 0, bytes.length, offset);
  if (count !== bytes.length) throw new Error(`the disk's file has ${count} bytes at ${offset}`);
}

function writeWhole(fd: number, bytes: Buffer, offset: number): void {
  const count = writeSync(fd, bytes, 0, bytes.length, offset);
  if (count !== bytes.length) throw new Error(`the disk's file took ${count} bytes at ${offset}`);
}
