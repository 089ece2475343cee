/**
 * The map pages that are in memory, under a budget of bytes.
 *
 *   clean pages   a cache: two chains in order of last use, one of leaves, one of inner pages
 *   dirty pages   stay until a root is written; how many there are is for the caller to bound
 *   frames        4 KiB each, cut from slabs and used again: what is evicted is free at once, not when the garbage collector
 *                 comes by, so that the process never holds more than the budget
 *
 * Invariants:
 * - a frame belongs to one page, or to one load under way, or is free. **A page that is clean may be evicted, and its frame
 *   filled with another page, whenever somebody else runs: nobody keeps one across an `await`; it is looked up again.** A dirty
 *   page stays where it is;
 * - each operation is a few steps, however many pages there are;
 * - `cleanPagesMin` clean pages have room whatever is dirty, so that the leaves of one large read fit.
 */
import { assert } from '../base/index.ts';
import { keyOf, pageBytes } from './map-page.ts';

/** Memory of a page: its frame, and what the program needs to find and to keep it. */
export const pageCostBytes = pageBytes + 512;
const slabFrames = 64;
/** A read of the largest length touches 34 leaves. */
const cleanPagesMin = 48;
const pagesMin = 64;

export interface Frame {
  readonly bytes: Buffer;
  /** The same bytes as 32-bit words. */
  readonly words: Uint32Array;
  /** Taken beyond the budget: it is not used again. */
  readonly isExtra: boolean;
}

export class Page {
  readonly level: number;
  readonly index: number;
  readonly bytes: Buffer;
  readonly words: Uint32Array;
  readonly frame: Frame;
  dirty = false;
  /** Segment of the page's newest stored copy, 0 when it has none. */
  storedIn: number;
  older: Page | null = null;
  newer: Page | null = null;

  constructor(level: number, index: number, frame: Frame, storedIn: number) {
    this.level = level;
    this.index = index;
    this.frame = frame;
    this.bytes = frame.bytes;
    this.words = frame.words;
    this.storedIn = storedIn;
  }
}

/** Pages in order of last use. */
class Chain {
  oldest: Page | null = null;
  newest: Page | null = null;
  length = 0;

  push(page: Page): void {
    page.older = this.newest;
    page.newer = null;
    if (this.newest === null) this.oldest = page;
    else this.newest.newer = page;
    this.newest = page;
    this.length += 1;
  }

  remove(page: Page): void {
    if (page.older === null) this.oldest = page.newer;
    else page.older.newer = page.newer;
    if (page.newer === null) this.newest = page.older;
    else page.newer.older = page.older;
    page.older = null;
    page.newer = null;
    this.length -= 1;
  }
}

export class PageCache {
  /** Pages that the budget pays for. */
  readonly pagesMax: number;
  readonly #pages = new Map<number, Page>();
  readonly #leaves = new Chain();
  readonly #inner = new Chain();
  readonly #dirty = new Set<Page>();
  readonly #free: Frame[] = [];
  /** Frames in slabs. */
  #frames = 0;

  constructor(bytes: number) {
    this.pagesMax = Math.max(pagesMin, Math.floor(bytes / pageCostBytes));
  }

  get size(): number {
    return this.#pages.size;
  }
  get dirtyPages(): number {
    return this.#dirty.size;
  }

  get(level: number, index: number): Page | undefined {
    return this.#pages.get(keyOf(level, index));
  }

  has(level: number, index: number): boolean {
    return this.#pages.has(keyOf(level, index));
  }

  /** It was used just now. */
  touch(page: Page): void {
    if (page.dirty || page.newer === null) return;
    const chain = this.#chainOf(page);
    chain.remove(page);
    chain.push(page);
  }

  /** A frame to be filled; clean pages make room for it. Beyond the budget only for dirty pages and a few clean ones. */
  takeFrame(): Frame {
    while (this.#frames >= this.pagesMax && this.#free.length === 0 && this.#evictOne());
    const free = this.#free.pop();
    if (free !== undefined) return free;
    if (this.#frames >= this.pagesMax) return frameOf(new ArrayBuffer(pageBytes), 0, true);
    const count = Math.min(slabFrames, this.pagesMax - this.#frames);
    const slab = new ArrayBuffer(count * pageBytes);
    for (let i = count - 1; i > 0; i -= 1) this.#free.push(frameOf(slab, i * pageBytes, false));
    this.#frames += count;
    return frameOf(slab, 0, false);
  }

  /** A frame that became no page, or is none any more. */
  returnFrame(frame: Frame): void {
    if (!frame.isExtra) this.#free.push(frame);
  }

  /** A clean page that is not here yet. */
  add(level: number, index: number, frame: Frame, storedIn: number): Page {
    const key = keyOf(level, index);
    assert(!this.#pages.has(key), 'a map page is in memory once');
    const page = new Page(level, index, frame, storedIn);
    this.#pages.set(key, page);
    this.#chainOf(page).push(page);
    return page;
  }

  makeDirty(page: Page): void {
    if (page.dirty) return;
    this.#chainOf(page).remove(page);
    page.dirty = true;
    this.#dirty.add(page);
  }

  makeClean(page: Page): void {
    if (!page.dirty) return;
    page.dirty = false;
    this.#dirty.delete(page);
    this.#chainOf(page).push(page);
  }

  /** Clean pages beyond the budget go. */
  trim(): void {
    while (this.#pages.size > this.pagesMax && this.#evictOne());
  }

  /** A page that does not exist any more. */
  drop(page: Page): void {
    if (page.dirty) this.#dirty.delete(page);
    else this.#chainOf(page).remove(page);
    this.#pages.delete(keyOf(page.level, page.index));
    this.returnFrame(page.frame);
  }

  dirty(): Iterable<Page> {
    return this.#dirty;
  }

  #chainOf(page: Page): Chain {
    return page.level === 0 ? this.#leaves : this.#inner;
  }

  /** Leaves go first, because an inner page leads to 256 others; but inner pages must leave room for leaves. */
  #evictOne(): boolean {
    if (this.#leaves.length + this.#inner.length <= cleanPagesMin) return false;
    const isInner = this.#inner.length * 8 > this.pagesMax * 3;
    const page =
      (isInner ? null : this.#leaves.oldest) ?? this.#inner.oldest ?? this.#leaves.oldest;
    if (page === null) return false;
    this.drop(page);
    return true;
  }
}

function frameOf(slab: ArrayBuffer, offset: number, isExtra: boolean): Frame {
  return {
    bytes: Buffer.from(slab, offset, pageBytes),
    words: new Uint32Array(slab, offset, pageBytes / 4),
    isExtra,
  };
}
