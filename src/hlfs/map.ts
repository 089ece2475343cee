/**
 * The map of a volume: block number -> block pointer, as a tree of 4 KiB pages that are loaded on demand.
 *
 *   level 3   one page, 256 children of level 2        2^32 blocks = 16 TiB
 *   level 2, 1   256 children each
 *   level 0   leaf: pointers of 256 blocks, 1 MiB of the volume
 *
 * A child entry has the form of a block pointer to a stored page; without a segment it says that the whole subtree is a
 * hole or allocated zeros, and no page exists.
 *
 * Invariants:
 * - a dirty page's ancestors are in memory and dirty, so that writing a root goes strictly from leaves to the top;
 * - only the publisher changes the map, and only dirty pages; readers look up synchronously and load what is missing;
 * - clean pages are a cache with a byte budget (map-cache.ts). Dirty ones are bounded by writing a root before a batch is
 *   applied that would make more pages dirty than there are (`hasRoomFor`), and by the batch itself (`batchPagesMax`);
 * - each time a pointer or stored page is replaced its segment is told (`onRelease`), each time one is set, `onRetain` (G2).
 */
import { DvceError, limits } from '../base/index.ts';
import type { Page } from './map-cache.ts';
import {
  fanout,
  hasPage,
  holds,
  holeLookup,
  type Lookup,
  levelStep,
  type MapVisitor,
  readEntry,
  type TopPointer,
  topLevel,
  writeEntry,
} from './map-page.ts';
import { MapPages } from './map-pages.ts';
import { layOut, type StoredPages } from './map-store.ts';
import { blockBytes, pointerLength, type StoredRun, specialHole, specialZero } from './pointer.ts';
import type { SegmentReader } from './segments.ts';

export interface MapHooks {
  /** A unit of `segment` is not referred to any more, because of what segment `at` said; a block takes `bytes` there. */
  readonly onRelease: (segment: number, at: number, bytes?: number) => void;
  readonly onRetain: (segment: number, bytes?: number) => void;
}

/** A page is looked up and loaded again at most this often when others push it out in between. */
const triesMax = 64;

export class BlockMap {
  mappedBlocks: number;
  /** Bytes that the mapped blocks take in segments. */
  storedBytes: number;
  readonly #hooks: MapHooks;
  readonly #pages: MapPages;

  constructor(
    reader: SegmentReader,
    top: TopPointer | null,
    mappedBlocks: number,
    hooks: MapHooks,
    cacheBytes: number = limits.mapCacheBytes,
  ) {
    this.#pages = new MapPages(reader, top, cacheBytes);
    this.mappedBlocks = mappedBlocks;
    this.storedBytes = mappedBlocks * blockBytes;
    this.#hooks = hooks;
  }

  /** Is any mapped block compressed? Each of those takes less than it has. */
  get holdsPacked(): boolean {
    return this.storedBytes !== this.mappedBlocks * blockBytes;
  }
  get cachedPages(): number {
    return this.#pages.cache.size;
  }
  get dirtyPages(): number {
    return this.#pages.cache.dirtyPages;
  }

  /** Pages that one batch may touch, so that it and its root stay within the budget. */
  get batchPagesMax(): number {
    return Math.floor((this.#pages.cache.pagesMax * limits.mapBatchPercent) / 100);
  }

  /** May these blocks (in ascending order) be set without writing a root first? */
  hasRoomFor(blocks: Iterable<number>): boolean {
    const { cache } = this.#pages;
    if (cache.dirtyPages === 0) return true;
    let room = this.batchPagesMax - cache.dirtyPages;
    const last = [-1, -1, -1, -1];
    for (const block of blocks) {
      let index = Math.floor(block / fanout);
      for (let level = 0; level <= topLevel && index !== last[level]; level += 1) {
        last[level] = index;
        if (cache.get(level, index)?.dirty !== true) room -= 1;
        index = Math.floor(index / fanout);
      }
      if (room < 0) return false;
    }
    return true;
  }

  /** Look a block up without I/O; undefined when a page has to be loaded first (`load`). */
  find(block: number): Lookup | undefined {
    const { cache } = this.#pages;
    const leaf = cache.get(0, Math.floor(block / fanout));
    if (leaf !== undefined) {
      cache.touch(leaf);
      return readEntry(leaf.words, block % fanout);
    }
    return this.#findAbove(block);
  }

  #findAbove(block: number): Lookup | undefined {
    const { cache } = this.#pages;
    for (let level = 1; level <= topLevel; level += 1) {
      const page = cache.get(level, Math.floor(block / fanout ** (level + 1)));
      if (page === undefined) continue;
      const entry = readEntry(page.words, Math.floor(block / fanout ** level) % fanout);
      if (entry.kind !== 'block') return entry;
      cache.touch(page);
      return undefined;
    }
    return this.#pages.top === null ? holeLookup : undefined;
  }

  /** A page above the leaf says that the block and those behind it are all the same; undefined when no loaded page does. */
  uniformSpan(
    block: number,
  ): { readonly kind: 'hole' | 'zero'; readonly blocks: number } | undefined {
    const { cache, top } = this.#pages;
    if (top === null && !cache.has(topLevel, 0))
      return { kind: 'hole', blocks: fanout ** (topLevel + 1) - block };
    for (let level = topLevel; level >= 1; level -= 1) {
      const page = cache.get(level, Math.floor(block / fanout ** (level + 1)));
      if (page === undefined) continue;
      const child = Math.floor(block / fanout ** level);
      const entry = readEntry(page.words, child % fanout);
      if (entry.kind === 'block' || cache.has(level - 1, child)) continue;
      return { kind: entry.kind, blocks: (child + 1) * fanout ** level - block };
    }
    return undefined;
  }

  /** Load the leaf that covers `block` (and what leads to it). */
  load(block: number): Promise<void> {
    return this.#pages.load(0, Math.floor(block / fanout));
  }

  /** Load the leaves of these blocks, several at a time: what is about to be set. No more than certainly fit. */
  async prepare(blocks: readonly number[]): Promise<void> {
    const missing: number[] = [];
    for (const block of blocks) {
      if (missing.length * 8 > this.#pages.cache.pagesMax) break;
      const index = Math.floor(block / fanout);
      if (missing.at(-1) !== index && this.#pages.peek(0, index) === undefined) missing.push(index);
    }
    if (missing.length > 0) await this.#pages.loadLeaves(missing);
  }

  /**
   * A page that is dirty from now on, and so stays in memory; with all that leads to it, which may become dirty also when the page
   * itself is not here. null: no page exists. undefined: one has to be loaded.
   */
  #tryDirty(level: number, index: number, make: boolean): Page | null | undefined {
    const { cache } = this.#pages;
    const ready = cache.get(level, index);
    if (ready?.dirty) return ready; // so are its ancestors
    if (level < topLevel) {
      const parent = this.#tryDirty(level + 1, Math.floor(index / fanout), make);
      if (parent === undefined || parent === null) return parent;
    }
    const page = this.#pages.peek(level, index);
    if (page === null && make) return this.#make(level, index);
    if (page) cache.makeDirty(page);
    return page;
  }

  #make(level: number, index: number): Page {
    const { cache } = this.#pages;
    const uniform = this.#pages.pointerTo(level, index);
    const made = cache.take();
    cache.add(made, level, index, 0);
    made.words.fill(0);
    if (uniform?.[1] === specialZero)
      for (let i = 0; i < fanout; i += 1) made.words[i * 4 + 1] = specialZero;
    cache.makeDirty(made);
    return made;
  }

  async #dirtyPage(level: number, index: number): Promise<Page | null> {
    for (let tries = 0; tries < triesMax; tries += 1) {
      const page = this.#tryDirty(level, index, false);
      if (page !== undefined) return page;
      await this.#pages.loadWay(level, index);
    }
    throw pushedOut();
  }

  /** The page to be changed. Made when no page existed. */
  async #pageForChange(level: number, index: number): Promise<Page> {
    for (let tries = 0; tries < triesMax; tries += 1) {
      const page = this.#tryDirty(level, index, true);
      if (page) return page;
      await this.#pages.loadWay(level, index);
    }
    throw pushedOut();
  }

  /**
   * Set blocks `block..` to what lies one behind the other in a segment.
   * @param condition G1: when given, only where the map still holds exactly these old pointers
   */
  async setBlocks(
    block: number,
    { segment, offset, checksums, lengths }: StoredRun,
    condition?: { readonly segments: readonly number[]; readonly offsets: readonly number[] },
  ): Promise<void> {
    let i = 0;
    let next = offset;
    while (i < checksums.length) {
      const leafIndex = Math.floor((block + i) / fanout);
      const leaf = this.#tryDirty(0, leafIndex, true) ?? (await this.#pageForChange(0, leafIndex));
      const end = Math.min(checksums.length, (leafIndex + 1) * fanout - block);
      for (; i < end; i += 1) {
        const at = ((block + i) % fanout) * 4;
        const length = lengths?.[i] ?? blockBytes;
        const place = { segment, offset: next, length, checksum: checksums[i] ?? 0 };
        next += length;
        if (condition && !holds(leaf.words, at, condition, i)) continue;
        this.#replace(leaf.words, at, segment, segment, length);
        writeEntry(leaf.words, at, place);
      }
    }
  }

  /** Account for the entry at `at` giving way to a block of `next` with so many bytes (0: to nothing). */
  #replace(words: Uint32Array, at: number, next: number, because: number, bytes = 0): void {
    const old = words[at] ?? 0;
    if (old !== 0) {
      const oldBytes = pointerLength(words[at + 2] ?? 0);
      this.#hooks.onRelease(old, because, oldBytes);
      this.mappedBlocks -= 1;
      this.storedBytes -= oldBytes;
    }
    if (next !== 0) {
      this.#hooks.onRetain(next, bytes);
      this.mappedBlocks += 1;
      this.storedBytes += bytes;
    }
  }

  /** Make `count` blocks from `block` holes or allocated zeros; `because` is the segment that says so. */
  async clear(block: number, count: number, kind: 'hole' | 'zero', because: number): Promise<void> {
    await this.#clearIn(topLevel, 0, block, block + count, kind, because);
  }

  async #clearIn(
    level: number,
    index: number,
    from: number,
    to: number,
    kind: 'hole' | 'zero',
    because: number,
  ): Promise<void> {
    if (kind === 'hole' && (await this.#isHole(level, index))) return;
    const page = await this.#pageForChange(level, index);
    const span = fanout ** level;
    const base = index * fanout * span;
    const first = Math.max(0, Math.floor((from - base) / span));
    const last = Math.min(fanout - 1, Math.floor((to - 1 - base) / span));
    for (let child = first; child <= last; child += 1) {
      const start = base + child * span;
      const whole = from <= start && start + span <= to;
      if (level === 0) this.#clearEntry(page.words, child, kind, because);
      else if (whole) await this.#clearChild(page, child, kind, because);
      else await this.#clearIn(level - 1, index * fanout + child, from, to, kind, because);
    }
  }

  /** Is there no page, and reads all below as a hole? */
  async #isHole(level: number, index: number): Promise<boolean> {
    for (let tries = 0; tries < triesMax; tries += 1) {
      const page = this.#pages.peek(level, index);
      if (page !== undefined)
        return page === null && this.#uniformKind(level, index) === specialHole;
      await this.#pages.load(level, index);
    }
    throw pushedOut();
  }

  /** What an absent page stands for: the nearest page above says so. */
  #uniformKind(level: number, index: number): number {
    const pointer = this.#pages.pointerTo(level, index);
    if (pointer !== null && pointer !== undefined) return pointer[1];
    return level === topLevel
      ? specialHole
      : this.#uniformKind(level + 1, Math.floor(index / fanout));
  }

  #clearEntry(words: Uint32Array, child: number, kind: 'hole' | 'zero', because: number): void {
    const at = child * 4;
    this.#replace(words, at, 0, because);
    words.fill(0, at, at + 4);
    if (kind === 'zero') words[at + 1] = specialZero;
  }

  /**
   * A whole subtree goes: every block below is released, its pages too (slice by slice: each page is a turn). A page is made
   * dirty before it is taken apart, so that no reader finds a part of it gone and another back from the store.
   */
  async #clearChild(
    page: Page,
    child: number,
    kind: 'hole' | 'zero',
    because: number,
  ): Promise<void> {
    const level = page.level - 1;
    const index = page.index * fanout + child;
    const { cache } = this.#pages;
    const present = await this.#dirtyPage(level, index);
    if (present !== null) {
      for (let i = 0; i < fanout; i += 1)
        if (level === 0) this.#replace(present.words, i * 4, 0, because);
        else if (hasPage(present.words, i) || cache.has(level - 1, index * fanout + i))
          await this.#clearChild(present, i, 'hole', because);
      if (present.storedIn !== 0) this.#hooks.onRelease(present.storedIn, because);
      cache.drop(present);
    }
    const at = child * 4;
    page.words.fill(0, at, at + 4);
    if (kind === 'zero') page.words[at + 1] = specialZero;
  }

  /** Lay out every dirty page for segments `first..` (map-store.ts). The map must not change until `commit`. */
  store(first: number, firstOffset: number, breathe: () => Promise<void>): Promise<StoredPages> {
    return layOut(this.#pages, first, firstOffset, this.#hooks, breathe);
  }

  /** For each dirty page the segment of its stored copy (0: none), which the next root releases. */
  *storedHomes(): Generator<number> {
    for (const page of this.#pages.cache.dirty()) yield page.storedIn;
  }

  /** Make the pages that lie in `segment` dirty, so that the next root moves them out of it (cleaning). */
  async rewritePagesOf(segment: number, keys: readonly number[]): Promise<void> {
    for (const key of keys) {
      const level = Math.floor(key / levelStep);
      const index = key % levelStep;
      const isThere = await this.#look(level, index, (page) => page?.storedIn === segment);
      if (isThere) await this.#dirtyPage(level, index);
    }
  }

  /** The pointers of a page as they are now, or null when its subtree is uniform. For comparing two maps. */
  words(level: number, index: number): Promise<Uint32Array | null> {
    return this.#look(level, index, (page) => page?.words.slice() ?? null);
  }

  /** Look at a page, loaded when needed, in the turn in which it is there: after an `await` it may be another one. */
  async #look<T>(level: number, index: number, use: (page: Page | null) => T): Promise<T> {
    for (let tries = 0; tries < triesMax; tries += 1) {
      const page = this.#pages.peek(level, index);
      if (page !== undefined) return use(page);
      await this.#pages.load(level, index);
    }
    throw pushedOut();
  }

  /** Visit every stored page's pointer and every block pointer, in order of blocks. For check, diff, cleaning. */
  async walk(visit: MapVisitor): Promise<void> {
    await this.#walkIn(topLevel, 0, this.#pages.top, visit);
  }

  async #walkIn(
    level: number,
    index: number,
    pointer: TopPointer | null,
    visit: MapVisitor,
  ): Promise<void> {
    const isStored = pointer !== null && pointer[0] !== 0;
    if (!isStored && !this.#pages.cache.has(level, index)) return;
    if (pointer !== null && (await visit.page?.(level, index, pointer)) === 'skip') return;
    const words = await this.words(level, index);
    if (words === null) return;
    if (level === 0) return visit.leaf?.(index * fanout, words);
    for (let child = 0; child < fanout; child += 1) {
      const at = child * 4;
      const to = [
        words[at] ?? 0,
        words[at + 1] ?? 0,
        words[at + 2] ?? 0,
        words[at + 3] ?? 0,
      ] as const;
      await this.#walkIn(level - 1, index * fanout + child, to, visit);
    }
  }
}

const pushedOut = (): DvceError =>
  new DvceError('INTERNAL', { reason: 'map pages were evicted as fast as they were loaded' });
