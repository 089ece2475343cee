/**
 * A writable view of a backend that is never written: changes stay in memory and are lost with the wrapper.
 *
 * One entry per 4 KiB block in `#blocks`: absent = read through, a buffer = this content, null = zeros. The first partial
 * write of a block reads it from below; requests run one at a time, so a block is completed by one request only.
 * Memory is bounded by limits.copyOnWriteBytesMax; beyond it a write fails with NO_SPACE.
 */
import { DvceError, limits } from '../../base/index.ts';
import type {
  BackendCaps,
  Done,
  Extent,
  ExtentsDone,
  ReadDone,
  WriteOptions,
  ZeroOptions,
} from '../backend.ts';
import { PassThrough } from './pass-through.ts';

const blockBytes = 4096;

export class CopyOnWriteBackend extends PassThrough {
  readonly #blocks = new Map<number, Buffer | null>();
  #heldBytes = 0;
  #queue: (() => void)[] = [];
  #busy = false;

  override get caps(): BackendCaps {
    return { ...this.inner.caps, readOnly: false, multiConn: true };
  }

  override read(offset: number, length: number, done: ReadDone): void {
    this.#inTurn((end) => {
      this.inner.read(offset, length, (error, parts) => {
        if (error !== null) done(error, []);
        else done(null, [this.#overlaid(offset, length, parts)]);
        end();
      });
    });
  }

  override write(offset: number, data: Buffer, options: WriteOptions, done: Done): void {
    this.#change(offset, data.length, options, done, (at, count) =>
      data.subarray(at - offset, at - offset + count),
    );
  }

  override flush(done: Done): void {
    this.#inTurn((end) => {
      done(null);
      end();
    });
  }

  override trim(offset: number, length: number, options: WriteOptions, done: Done): void {
    const from = Math.ceil(offset / blockBytes) * blockBytes;
    const to = Math.floor((offset + length) / blockBytes) * blockBytes;
    if (to <= from) done(null);
    else this.#change(from, to - from, options, done, () => null);
  }

  override writeZeroes(offset: number, length: number, options: ZeroOptions, done: Done): void {
    this.#change(offset, length, options, done, () => null);
  }

  override extents(offset: number, length: number, done: ExtentsDone): void {
    this.#inTurn((end) => {
      this.inner.extents(offset, length, (error, below) => {
        done(error, error === null ? this.#extents(offset, length, below) : []);
        end();
      });
    });
  }

  #inTurn(task: (end: () => void) => void): void {
    this.#queue.push(() => task(() => this.#next()));
    if (!this.#busy) this.#next();
  }

  #next(): void {
    const task = this.#queue.shift();
    this.#busy = task !== undefined;
    task?.();
  }

  /** `content` gives the bytes for a range inside of one block; null = zeros. */
  #change(
    offset: number,
    length: number,
    options: WriteOptions,
    done: Done,
    content: (at: number, count: number) => Buffer | null,
  ): void {
    this.#inTurn((end) => {
      const finish = (error: DvceError | null): void => {
        done(error);
        end();
      };
      if (this.#heldBytes + length > limits.copyOnWriteBytesMax)
        return finish(
          new DvceError('NO_SPACE', { where: 'the copy-on-write wrapper', reason: 'it is full' }),
        );
      return this.#complete(offset, length, (error) => {
        if (error === null && options.origin.alive) this.#store(offset, length, content);
        finish(error);
      });
    });
  }

  /** Read the blocks at both ends of a range that are only partly covered by it. */
  #complete(offset: number, length: number, done: Done): void {
    const first = Math.floor(offset / blockBytes);
    const last = Math.floor((offset + length - 1) / blockBytes);
    const partial = new Set<number>();
    if (offset % blockBytes !== 0) partial.add(first);
    if ((offset + length) % blockBytes !== 0) partial.add(last);
    const missing = [...partial].filter((block) => !this.#blocks.has(block));
    const readNext = (error: DvceError | null): void => {
      const block = missing.shift();
      if (error !== null || block === undefined) done(error);
      else this.#fetch(block, readNext);
    };
    readNext(null);
  }

  #fetch(block: number, done: Done): void {
    const at = block * blockBytes;
    this.inner.read(at, Math.min(blockBytes, this.sizeBytes - at), (error, parts) => {
      if (error === null) {
        const bytes = Buffer.alloc(blockBytes);
        joined(parts).copy(bytes);
        this.#set(block, bytes);
      }
      done(error);
    });
  }

  #store(
    offset: number,
    length: number,
    content: (at: number, count: number) => Buffer | null,
  ): void {
    for (let at = offset; at < offset + length; ) {
      const block = Math.floor(at / blockBytes);
      const within = at % blockBytes;
      const count = Math.min(blockBytes - within, offset + length - at);
      const bytes = content(at, count);
      if (count === blockBytes) this.#set(block, bytes === null ? null : Buffer.from(bytes));
      else {
        const target = this.#blocks.get(block) ?? Buffer.alloc(blockBytes);
        if (bytes === null) target.fill(0, within, within + count);
        else bytes.copy(target, within);
        this.#set(block, target);
      }
      at += count;
    }
  }

  #set(block: number, bytes: Buffer | null): void {
    this.#heldBytes -= this.#blocks.get(block)?.length ?? 0;
    this.#heldBytes += bytes?.length ?? 0;
    this.#blocks.set(block, bytes);
  }

  #overlaid(offset: number, length: number, parts: readonly (Buffer | number)[]): Buffer {
    const out = joined(parts);
    for (let at = offset; at < offset + length; ) {
      const within = at % blockBytes;
      const count = Math.min(blockBytes - within, offset + length - at);
      const held = this.#blocks.get(Math.floor(at / blockBytes));
      if (held === null) out.fill(0, at - offset, at - offset + count);
      else held?.copy(out, at - offset, within, within + count);
      at += count;
    }
    return out;
  }

  #extents(offset: number, length: number, below: readonly Extent[]): Extent[] {
    const extents: Extent[] = [];
    const end = Math.min(offset + length, this.sizeBytes);
    let at = offset;
    for (const extent of below) {
      const until = Math.min(at + extent.lengthBytes, end);
      while (at < until) {
        const lengthBytes = Math.min(blockBytes - (at % blockBytes), until - at);
        const held = this.#blocks.get(Math.floor(at / blockBytes));
        const zero = held === undefined ? extent.zero : held === null;
        const hole = held === undefined ? extent.hole : held === null;
        extents.push({ lengthBytes, hole, zero });
        at += lengthBytes;
      }
    }
    return extents;
  }
}

function joined(parts: readonly (Buffer | number)[]): Buffer {
  return Buffer.concat(parts.map((part) => (typeof part === 'number' ? Buffer.alloc(part) : part)));
}
