/**
 * The memory of all read caches of a process, in slabs of `cacheSlabBytes`: one budget for every volume and every thread.
 *
 * Each thread has a cache of its own and no lock is ever waited for: what is shared are a few counters in shared memory.
 * A thread that has work takes slabs until the budget is used up. From then on the split follows demand: who has less than an
 * equal share of those with demand says that it wants one, and who has more gives one back at its next look.
 *
 * Invariants:
 * - the sum of what the threads hold never exceeds what the budget was when a slab was taken, and falls to the budget when that
 *   is lowered (`limit`): each thread gives back at its next look;
 * - a thread is never asked to go below its equal share for another one's sake, so two busy threads do not take turns robbing
 *   each other.
 */
export const cacheSlabBytes = 1 << 20;

/** Words of the shared memory: slabs allowed, slabs held, then for each thread: held, wants. */
const allowedWord = 0;
const heldWord = 1;
const firstWord = 2;

/** Slabs for one cache. */
export interface CacheBudget {
  /** One slab more? False: make do with what there is. */
  take(): boolean;
  give(slabs: number): void;
  /** Slabs to be given back now. */
  excess(): number;
}

export class SharedCacheBudget {
  /** To be handed to other threads, which make their own object of it. */
  readonly memory: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #threads: number;

  /** @param memory of an object like this in another thread */
  constructor(threads: number, memory?: SharedArrayBuffer) {
    this.memory = memory ?? new SharedArrayBuffer((firstWord + 2 * threads) * 4);
    this.#words = new Int32Array(this.memory);
    this.#threads = threads;
  }

  /** Allow so many bytes from now on; a part of a slab counts nothing. */
  limit(bytes: number): void {
    Atomics.store(this.#words, allowedWord, Math.floor(bytes / cacheSlabBytes));
  }

  get heldBytes(): number {
    return Atomics.load(this.#words, heldWord) * cacheSlabBytes;
  }

  /** The part of one thread. */
  of(thread: number): CacheBudget {
    const words = this.#words;
    const own = firstWord + 2 * thread;
    const wants = own + 1;
    return {
      take: () => {
        const allowed = Atomics.load(words, allowedWord);
        for (;;) {
          const held = Atomics.load(words, heldWord);
          if (held >= allowed) break;
          if (Atomics.compareExchange(words, heldWord, held, held + 1) !== held) continue;
          Atomics.add(words, own, 1);
          Atomics.store(words, wants, 0);
          return true;
        }
        Atomics.store(words, wants, Atomics.load(words, own) < this.#share(thread) ? 1 : 0);
        return false;
      },
      give: (slabs) => {
        Atomics.sub(words, own, slabs);
        Atomics.sub(words, heldWord, slabs);
        // Who gives back has no use for more.
        Atomics.store(words, wants, 0);
      },
      excess: () => {
        const mine = Atomics.load(words, own);
        const over = Atomics.load(words, heldWord) - Atomics.load(words, allowedWord);
        if (over > 0) return Math.min(mine, over);
        return this.#isWanted(thread) && mine > this.#share(thread) ? 1 : 0;
      },
    };
  }

  /** An equal share of all that hold something or want to. */
  #share(thread: number): number {
    let users = 0;
    for (let each = 0; each < this.#threads; each += 1) {
      const at = firstWord + 2 * each;
      const uses = Atomics.load(this.#words, at) > 0 || Atomics.load(this.#words, at + 1) > 0;
      if (uses || each === thread) users += 1;
    }
    return Math.floor(Atomics.load(this.#words, allowedWord) / users);
  }

  #isWanted(thread: number): boolean {
    for (let each = 0; each < this.#threads; each += 1)
      if (each !== thread && Atomics.load(this.#words, firstWord + 2 * each + 1) > 0) return true;
    return false;
  }
}
