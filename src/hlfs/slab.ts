/**
 * Short-lived buffers cut from larger ones: a `Buffer` of a few KiB of its own costs more to allocate and collect than the
 * read or write that it is for. A piece is never handed out twice; a slab lives as long as one of its pieces.
 */
const slabBytes = 1 << 20;

export class Slab {
  readonly #zeroed: boolean;
  #bytes: Buffer = Buffer.alloc(0);
  #used = 0;

  constructor(options: { readonly zeroed: boolean }) {
    this.#zeroed = options.zeroed;
  }

  /** A piece of `length` bytes; a long one gets a buffer of its own. */
  take(length: number): Buffer {
    if (length > slabBytes / 16) return this.#make(length);
    if (this.#used + length > this.#bytes.byteLength) {
      this.#bytes = this.#make(slabBytes);
      this.#used = 0;
    }
    const piece = this.#bytes.subarray(this.#used, this.#used + length);
    this.#used += length;
    return piece;
  }

  #make(length: number): Buffer {
    return this.#zeroed ? Buffer.alloc(length) : Buffer.allocUnsafeSlow(length);
  }
}
