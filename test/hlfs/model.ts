/**
 * What a volume is supposed to be: bytes that are zero until somebody writes them, as a map of 4 KiB blocks. A block is
 * replaced, never changed, so that a snapshot is a copy of the map and costs nothing.
 */
import type { Extent } from '../../src/hlfs/index.ts';

const blockBytes = 4096;
const zeroBlock = Buffer.alloc(blockBytes);

export class ModelDevice {
  sizeBytes: number;
  readonly #blocks: Map<number, Buffer>;

  constructor(sizeBytes: number, blocks = new Map<number, Buffer>()) {
    this.sizeBytes = sizeBytes;
    this.#blocks = blocks;
  }

  copy(): ModelDevice {
    return new ModelDevice(this.sizeBytes, new Map(this.#blocks));
  }

  block(number: number): Buffer {
    return this.#blocks.get(number) ?? zeroBlock;
  }

  write(offset: number, bytes: Buffer): void {
    for (let at = 0; at < bytes.byteLength; ) {
      const number = Math.floor((offset + at) / blockBytes);
      const within = (offset + at) % blockBytes;
      const length = Math.min(blockBytes - within, bytes.byteLength - at);
      const next = Buffer.from(this.block(number));
      bytes.copy(next, within, at, at + length);
      this.#blocks.set(number, next);
      at += length;
    }
  }

  /** WRITE_ZEROES: exactly these bytes. */
  zero(offset: number, length: number): void {
    const end = offset + length;
    for (const number of [...this.#blocks.keys()]) {
      const start = number * blockBytes;
      if (start >= end || start + blockBytes <= offset) continue;
      const from = Math.max(0, offset - start);
      const to = Math.min(blockBytes, end - start);
      if (from === 0 && to === blockBytes) this.#blocks.delete(number);
      else this.#blocks.set(number, Buffer.from(this.block(number)).fill(0, from, to));
    }
  }

  /** TRIM: whole blocks in the range; the block at the end of the volume counts as whole (J9). */
  trim(offset: number, length: number): void {
    const start = Math.ceil(offset / blockBytes) * blockBytes;
    const isAtEnd = offset + length === this.sizeBytes;
    const end = isAtEnd ? offset + length : Math.floor((offset + length) / blockBytes) * blockBytes;
    if (end > start) this.zero(start, end - start);
  }

  resize(sizeBytes: number): void {
    // G6: what is cut off is gone, also when the volume grows again.
    if (sizeBytes < this.sizeBytes) this.zero(sizeBytes, this.sizeBytes - sizeBytes);
    this.sizeBytes = sizeBytes;
  }

  read(offset: number, length: number): Buffer {
    const out = Buffer.alloc(length);
    for (let at = 0; at < length; ) {
      const number = Math.floor((offset + at) / blockBytes);
      const within = (offset + at) % blockBytes;
      const take = Math.min(blockBytes - within, length - at);
      this.#blocks.get(number)?.copy(out, at, within, within + take);
      at += take;
    }
    return out;
  }

  /** Runs of blocks that were written, as byte ranges inside of the volume. */
  written(): { offset: number; length: number }[] {
    const ranges: { offset: number; length: number }[] = [];
    for (const number of [...this.#blocks.keys()].sort((a, b) => a - b)) {
      const offset = number * blockBytes;
      const length = Math.min(blockBytes, this.sizeBytes - offset);
      const last = ranges.at(-1);
      if (length <= 0) continue;
      if (last !== undefined && last.offset + last.length === offset && last.length < 1 << 20)
        last.length += length;
      else ranges.push({ offset, length });
    }
    return ranges;
  }

  isZero(offset: number, length: number): boolean {
    const end = offset + length;
    for (const [number, bytes] of this.#blocks) {
      const start = number * blockBytes;
      if (start >= end || start + blockBytes <= offset) continue;
      const part = bytes.subarray(Math.max(0, offset - start), Math.min(blockBytes, end - start));
      if (!part.equals(zeroBlock.subarray(0, part.byteLength))) return false;
    }
    return true;
  }

  /** Blocks whose content differs, the size of both left aside. */
  differing(other: ModelDevice): number[] {
    const numbers = new Set([...this.#blocks.keys(), ...other.#blocks.keys()]);
    return [...numbers].filter((number) => {
      const [a, b] = [this.block(number), other.block(number)];
      return a !== b && !a.equals(b);
    });
  }
}

/** @returns what is wrong with block status of this range, or null */
export function extentsFault(
  model: ModelDevice,
  offset: number,
  length: number,
  extents: readonly Extent[],
): string | null {
  let at = offset;
  for (const { lengthBytes, hole, zero } of extents) {
    if (hole && !zero) return `the hole at ${at} does not say that it reads as zeros`;
    if (zero && !model.isZero(at, Math.min(lengthBytes, offset + length - at)))
      return `${lengthBytes} bytes at ${at} are called zeros and are not`;
    at += lengthBytes;
  }
  return at === offset + length ? null : `the extents end at ${at}, not at ${offset + length}`;
}
