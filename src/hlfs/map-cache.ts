/**
 * The map pages that are in memory, under a budget of bytes.
 *
 *   clean pages   a cache: two chains in order of last use, one of leaves, one of inner pages
 *   dirty pages   a chain, too; they stay until a root is written, how many there are is for the caller to bound
 *   spare pages   filled by a load, or free
 *
 * A page is its object and 4 KiB cut from a slab. Both are used again: what is evicted is free at once, not when the garbage
 * collector comes by, and loading a page leaves it no work. Pages are found by a table of chains that go through them.
 *
 * Invariants:
 * - a page object stands for one page of the map, or belongs to one load under way, or is free. **A page that is clean may be
 *   evicted, and its object become another page, whenever somebody else runs: nobody keeps one across an `await`; it is
 *   looked up again.** A dirty page stays what it is;
 * - each operation is a few steps, however many pages there are;
 * - `cleanPagesMin` clean pages have room whatever is dirty, so that the leaves of one large read fit.
 */
import { assert } from '../base/index.ts';
import { keyOf, pageBytes } from './map-page.ts';

/**
 * Memory that a page costs as the kernel counts it, measured with the default budget: itself, its object, its share of what a
 * root and a batch over so many leaves need for a while, and of the room that the garbage collector leaves between two runs.
 */
export const pageCostBytes = (pageBytes * 8) / 5;
const slabPages = 64;
/** A read of the largest length touches 34 leaves. */
const cleanPagesMin = 48;
/** Leaves that are loaded together before they are changed (log-apply.ts) must not push each other out. */
const cleanLeavesMin = 128;
const pagesMin = 64;

export class Page {
  readonly bytes: Buffer;
  /** The same bytes as 32-bit words. */
  readonly words: Uint32Array;
  /** Taken beyond the budget: it is not used again. */
  readonly isExtra: boolean;
  level = 0;
  index = 0;
  dirty = false;
  /** Segment of the page's newest stored copy, 0 when it has none. */
  storedIn = 0;
  /** In its chain. */
  older: Page | null = null;
  newer: Page | null = null;
  /** The next one at its place of the table. */
  next: Page | null = null;

  constructor(slab: ArrayBuffer, offset: number, isExtra: boolean) {
    this.bytes = Buffer.from(slab, offset, pageBytes);
    this.words = new Uint32Array(slab, offset, pageBytes / 4);
    this.isExtra = isExtra;
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

/** Pages by level and index. A `Map` would be made anew, as large as all of it, each time that as many came and went. */
class PageTable {
  #places: (Page | null)[] = new Array<Page | null>(pagesMin).fill(null);
  size = 0;

  get(level: number, index: number): Page | undefined {
    let page = this.#places[this.#placeOf(level, index)] ?? null;
    while (page !== null && (page.index !== index || page.level !== level)) page = page.next;
    return page ?? undefined;
  }

  add(page: Page): void {
    if (this.size === this.#places.length) this.#grow();
    this.#put(page);
    this.size += 1;
  }

  remove(page: Page): void {
    const place = this.#placeOf(page.level, page.index);
    let before = this.#places[place] ?? null;
    if (before === page) this.#places[place] = page.next;
    else {
      while (before !== null && before.next !== page) before = before.next;
      assert(before !== null, 'a map page in memory is in the table');
      before.next = page.next;
    }
    page.next = null;
    this.size -= 1;
  }

  /** The number of places is a power of two. */
  #placeOf(level: number, index: number): number {
    const mixed = Math.imul(keyOf(level, index), 0x9e37_79b1);
    return (mixed ^ (mixed >>> 15)) & (this.#places.length - 1);
  }

  #put(page: Page): void {
    const place = this.#placeOf(page.level, page.index);
    page.next = this.#places[place] ?? null;
    this.#places[place] = page;
  }

  #grow(): void {
    const before = this.#places;
    this.#places = new Array<Page | null>(before.length * 2).fill(null);
    for (const first of before)
      for (let page = first; page !== null; ) {
        const { next } = page;
        this.#put(page);
        page = next;
      }
  }
}

export class PageCache {
  /** Pages that the budget pays for. */
  readonly pagesMax: number;
  readonly #pages = new PageTable();
  readonly #leaves = new Chain();
  readonly #inner = new Chain();
  readonly #dirty = new Chain();
  readonly #free: Page[] = [];
  /** Pages in slabs. */
  #made = 0;

  constructor(bytes: number) {
    this.pagesMax = Math.max(pagesMin, Math.floor(bytes / pageCostBytes));
  }

  get size(): number {
    return this.#pages.size;
  }
  get dirtyPages(): number {
    return this.#dirty.length;
  }

  get(level: number, index: number): Page | undefined {
    return this.#pages.get(level, index);
  }

  has(level: number, index: number): boolean {
    return this.#pages.get(level, index) !== undefined;
  }

  /** It was used just now. */
  touch(page: Page): void {
    if (page.dirty || page.newer === null) return;
    const chain = this.#chainOf(page);
    chain.remove(page);
    chain.push(page);
  }

  /** A spare page to be filled; clean ones make room for it. Beyond the budget only for dirty pages and a few clean ones. */
  take(): Page {
    while (this.#made >= this.pagesMax && this.#free.length === 0 && this.#evictOne());
    const free = this.#free.pop();
    if (free !== undefined) return free;
    if (this.#made >= this.pagesMax) return new Page(new ArrayBuffer(pageBytes), 0, true);
    const count = Math.min(slabPages, this.pagesMax - this.#made);
    const slab = new ArrayBuffer(count * pageBytes);
    for (let i = count - 1; i > 0; i -= 1) this.#free.push(new Page(slab, i * pageBytes, false));
    this.#made += count;
    return new Page(slab, 0, false);
  }

  /** A spare page that became none of the map, or is none any more. */
  giveBack(page: Page): void {
    if (!page.isExtra) this.#free.push(page);
  }

  /** A spare page becomes a clean one that is not here yet. */
  add(page: Page, level: number, index: number, storedIn: number): void {
    assert(this.#pages.get(level, index) === undefined, 'a map page is in memory once');
    page.level = level;
    page.index = index;
    page.storedIn = storedIn;
    this.#pages.add(page);
    this.#chainOf(page).push(page);
  }

  makeDirty(page: Page): void {
    if (page.dirty) return;
    this.#chainOf(page).remove(page);
    page.dirty = true;
    this.#dirty.push(page);
  }

  makeClean(page: Page): void {
    if (!page.dirty) return;
    this.#dirty.remove(page);
    page.dirty = false;
    this.#chainOf(page).push(page);
  }

  /** Clean pages beyond the budget go. */
  trim(): void {
    while (this.#pages.size > this.pagesMax && this.#evictOne());
  }

  /** A page that does not exist any more. */
  drop(page: Page): void {
    (page.dirty ? this.#dirty : this.#chainOf(page)).remove(page);
    page.dirty = false;
    this.#pages.remove(page);
    this.giveBack(page);
  }

  *dirty(): Generator<Page> {
    for (let page = this.#dirty.oldest; page !== null; page = page.newer) yield page;
  }

  #chainOf(page: Page): Chain {
    return page.level === 0 ? this.#leaves : this.#inner;
  }

  /** Leaves go first, because an inner page leads to 256 others; but inner pages must leave room for leaves. */
  #evictOne(): boolean {
    if (this.#leaves.length + this.#inner.length <= cleanPagesMin) return false;
    const { length: leaves } = this.#leaves;
    const { length: inner } = this.#inner;
    const isInner = inner * 2 > this.pagesMax || (leaves < cleanLeavesMin && inner > leaves);
    const page =
      (isInner ? null : this.#leaves.oldest) ?? this.#inner.oldest ?? this.#leaves.oldest;
    if (page === null) return false;
    this.drop(page);
    return true;
  }
}
