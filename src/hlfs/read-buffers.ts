/**
 * Memory that reads are answered from: pieces of slabs of 1 MiB.
 *
 * The system has to find and clear 256 pages for each MiB that is new, which costs as much as copying it. So a piece comes back when
 * its reply has left (`ReadDone`'s third argument), and a slab of which all came back is used again. Whoever does not give
 * a piece back leaves its slab to the garbage collector; so does a thread that is quiet, because spare slabs are only referred to
 * weakly.
 *
 * Invariant: no byte is lent to two reads at a time. A piece is given back at most once, and only by who knows that nothing
 * refers to it any more.
 */
import { limits, MiB } from '../base/index.ts';

const slabBytes = 1 * MiB;
/** A longer piece has a slab of its own. */
const sharedBytesMax = slabBytes / 16;

class ReadSlab {
  readonly bytes = Buffer.allocUnsafeSlow(slabBytes);
  used = 0;
  isFull = false;
  #out = 0;

  take(length: number): Buffer {
    const from = this.used;
    this.used += length;
    this.#out += 1;
    return this.bytes.subarray(from, this.used);
  }

  /** One function for all pieces: making one for each costs more than the count. */
  readonly giveBack = (): void => {
    this.#out -= 1;
    if (this.#out > 0) return;
    this.used = 0;
    if (!this.isFull) return;
    this.isFull = false;
    if (spare.length < limits.readBuffersSpare) spare.push(new WeakRef(this));
  };
}

const spare: WeakRef<ReadSlab>[] = [];
let current: ReadSlab | undefined;

/** Lends memory; `giveBack` is that of the piece taken last. */
class ReadBuffers {
  giveBack: (() => void) | undefined;

  take(length: number): Buffer {
    if (length > slabBytes) {
      this.giveBack = undefined;
      return Buffer.allocUnsafeSlow(length);
    }
    const slab = length > sharedBytesMax ? nextSlab() : sharedSlab(length);
    if (length > sharedBytesMax) slab.isFull = true;
    this.giveBack = slab.giveBack;
    return slab.take(length);
  }
}

/** Of this thread. */
export const readBuffers = new ReadBuffers();

function sharedSlab(length: number): ReadSlab {
  if (current !== undefined && current.used + length <= slabBytes) return current;
  // What is out of it comes back one day, and with it the slab.
  if (current !== undefined) current.isFull = true;
  current = nextSlab();
  return current;
}

function nextSlab(): ReadSlab {
  for (let next = spare.pop(); next !== undefined; next = spare.pop()) {
    const slab = next.deref();
    if (slab !== undefined) return slab;
  }
  return new ReadSlab();
}
