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
 * - only the publisher changes the map; readers look up synchronously and load what is missing;
 * - clean pages are a cache with a byte budget, dirty ones are bounded by writing a root (limits.mapDirtyPercent);
 * - each time a pointer or stored page is replaced its segment is told (`onRelease`), each time one is set, `onRetain` (G2).
 */
import { assert, crc32c, limits } from '../base/index.ts';
import {
  fanout,
  hasPage,
  holds,
  holeLookup,
  keyOf,
  type Lookup,
  levelStep,
  type Page,
  pageBytes,
  readEntry,
  type TopPointer,
  topLevel,
} from './map-page.ts';
import {
  blockBytes,
  checkRawPointer,
  pointerOffset,
  rawBlockLength,
  specialHole,
  specialZero,
} from './pointer.ts';
import type { SegmentReader } from './segments.ts';

export interface MapHooks {
  /** A unit of `segment` is not referred to any more, because of what segment `at` said. */
  readonly onRelease: (segment: number, at: number) => void;
  readonly onRetain: (segment: number) => void;
}

export interface StoredPages {
  /** For each segment from the first on: page images and their keys (level << 28 | index). */
  readonly segments: readonly {
    readonly images: readonly Buffer[];
    readonly keys: readonly number[];
  }[];
  readonly top: TopPointer | null;
  /** Make the pages clean; only after their segment is durable. */
  commit(): void;
}

export class BlockMap {
  mappedBlocks: number;
  readonly #reader: SegmentReader;
  readonly #hooks: MapHooks;
  readonly #pages = new Map<number, Page>();
  readonly #loading = new Map<number, Promise<Page | null>>();
  #top: TopPointer | null;
  #dirtyPages = 0;
  readonly #pagesMax: number;

  constructor(
    reader: SegmentReader,
    top: TopPointer | null,
    mappedBlocks: number,
    hooks: MapHooks,
    cacheBytes: number = limits.mapCacheBytes,
  ) {
    this.#reader = reader;
    this.#top = top;
    this.mappedBlocks = mappedBlocks;
    this.#hooks = hooks;
    this.#pagesMax = Math.max(64, Math.floor(cacheBytes / pageBytes));
  }

  get cachedPages(): number {
    return this.#pages.size;
  }
  get dirtyPages(): number {
    return this.#dirtyPages;
  }
  /** True when so much is dirty that a root has to be written before more is applied. */
  get wantsRoot(): boolean {
    return this.#dirtyPages * 100 > this.#pagesMax * limits.mapDirtyPercent;
  }

  /** Look a block up without I/O; undefined when a page has to be loaded first (`load`). */
  find(block: number): Lookup | undefined {
    const leaf = this.#pages.get(keyOf(0, Math.floor(block / fanout)));
    if (leaf !== undefined) {
      this.#touch(leaf);
      return readEntry(leaf.words, block % fanout);
    }
    return this.#findAbove(block);
  }

  #findAbove(block: number): Lookup | undefined {
    for (let level = 1; level <= topLevel; level += 1) {
      const page = this.#pages.get(keyOf(level, Math.floor(block / fanout ** (level + 1))));
      if (page === undefined) continue;
      const entry = readEntry(page.words, Math.floor(block / fanout ** level) % fanout);
      return entry.kind === 'block' ? undefined : entry;
    }
    return this.#top === null ? holeLookup : undefined;
  }

  /** A page above the leaf says that the block and those behind it are all the same; undefined when no loaded page does. */
  uniformSpan(
    block: number,
  ): { readonly kind: 'hole' | 'zero'; readonly blocks: number } | undefined {
    if (this.#top === null && !this.#pages.has(keyOf(topLevel, 0)))
      return { kind: 'hole', blocks: fanout ** (topLevel + 1) - block };
    for (let level = topLevel; level >= 1; level -= 1) {
      const page = this.#pages.get(keyOf(level, Math.floor(block / fanout ** (level + 1))));
      if (page === undefined) continue;
      const child = Math.floor(block / fanout ** level);
      const entry = readEntry(page.words, child % fanout);
      if (entry.kind === 'block' || this.#pages.has(keyOf(level - 1, child))) continue;
      return { kind: entry.kind, blocks: (child + 1) * fanout ** level - block };
    }
    return undefined;
  }

  /** Load the leaf that covers `block` (and what leads to it). */
  async load(block: number): Promise<void> {
    await this.#page(0, Math.floor(block / fanout));
  }

  /** A page, loaded when needed; null when its subtree is uniform and no page exists. */
  #page(level: number, index: number): Promise<Page | null> {
    const key = keyOf(level, index);
    const cached = this.#pages.get(key);
    if (cached !== undefined) return Promise.resolve(cached);
    const running = this.#loading.get(key);
    if (running !== undefined) return running;
    const promise = this.#loadPage(level, index).finally(() => this.#loading.delete(key));
    this.#loading.set(key, promise);
    return promise;
  }

  async #loadPage(level: number, index: number): Promise<Page | null> {
    const pointer = await this.#pointerTo(level, index);
    if (pointer === null || pointer[0] === 0) return null;
    const bytes = Buffer.from(new ArrayBuffer(pageBytes));
    await new Promise<void>((resolve, reject) => {
      this.#reader.readBlocks(
        pointer[0],
        pointerOffset(pointer[1]),
        [pointer[3]],
        bytes,
        (error) => (error ? reject(error) : resolve()),
      );
    });
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset, pageBytes / 4);
    for (let at = 0; at < words.length; at += 4)
      if (words[at] !== 0) checkRawPointer(words[at] ?? 0, words[at + 1] ?? 0, words[at + 2] ?? 0);
    const page: Page = { level, index, words, dirty: false, storedIn: pointer[0] };
    // The publisher may have made or changed the page meanwhile: its copy is the newer one.
    const present = this.#pages.get(keyOf(level, index));
    if (present !== undefined) return present;
    this.#insert(page);
    return page;
  }

  async #pointerTo(level: number, index: number): Promise<TopPointer | null> {
    if (level === topLevel) return this.#top;
    const parent = await this.#page(level + 1, Math.floor(index / fanout));
    if (parent === null) return null;
    const at = (index % fanout) * 4;
    const { words } = parent;
    return [words[at] ?? 0, words[at + 1] ?? 0, words[at + 2] ?? 0, words[at + 3] ?? 0];
  }

  #insert(page: Page): void {
    this.#pages.set(keyOf(page.level, page.index), page);
    if (this.#pages.size > this.#pagesMax) this.#evict();
  }

  /** Recently used pages move to the end of the insertion order; only every so often, a Map update is not free. */
  #touch(page: Page): void {
    if (page.dirty || this.#pages.size < this.#pagesMax * 0.9) return;
    const key = keyOf(page.level, page.index);
    this.#pages.delete(key);
    this.#pages.set(key, page);
  }

  #evict(): void {
    let looked = 0;
    for (const [key, page] of this.#pages) {
      looked += 1;
      if (looked > 64 || this.#pages.size <= this.#pagesMax) return;
      // A page on its way in may need its parents; inner pages go last of all, because each leads to 256 others.
      if (page.dirty || page.level > 0) {
        this.#pages.delete(key);
        this.#pages.set(key, page);
      } else this.#pages.delete(key);
    }
  }

  /** The page to be changed, with all that leads to it: in memory and dirty. */
  async #pageForChange(level: number, index: number): Promise<Page> {
    const ready = this.#pages.get(keyOf(level, index));
    if (ready?.dirty) return ready; // so are its ancestors
    if (level < topLevel) await this.#pageForChange(level + 1, Math.floor(index / fanout));
    let page = await this.#page(level, index);
    if (page === null) {
      page = { level, index, words: new Uint32Array(pageBytes / 4), dirty: false, storedIn: 0 };
      const uniform = await this.#pointerTo(level, index);
      if (uniform !== null && uniform[1] === specialZero)
        for (let i = 0; i < fanout; i += 1) page.words[i * 4 + 1] = specialZero;
      this.#markDirty(page);
      this.#insert(page);
    }
    this.#markDirty(page);
    return page;
  }

  #markDirty(page: Page): void {
    if (page.dirty) return;
    page.dirty = true;
    this.#dirtyPages += 1;
    // A page evicted between load and change is put back: the caller holds the only valid copy.
    this.#pages.set(keyOf(page.level, page.index), page);
  }

  /**
   * Set blocks `block..` to consecutive raw blocks of `segment` from `offset`.
   * @param condition G1: when given, only where the map still holds exactly these old pointers
   */
  async setBlocks(
    block: number,
    segment: number,
    offset: number,
    checksums: readonly number[],
    condition?: { readonly segments: readonly number[]; readonly offsets: readonly number[] },
  ): Promise<void> {
    let i = 0;
    while (i < checksums.length) {
      const leafIndex = Math.floor((block + i) / fanout);
      const ready = this.#pages.get(keyOf(0, leafIndex));
      const leaf = ready?.dirty ? ready : await this.#pageForChange(0, leafIndex);
      const end = Math.min(checksums.length, (leafIndex + 1) * fanout - block);
      for (; i < end; i += 1) {
        const at = ((block + i) % fanout) * 4;
        if (condition && !holds(leaf.words, at, condition, i)) continue;
        this.#replace(leaf.words, at, segment, segment);
        leaf.words[at] = segment;
        leaf.words[at + 1] = offset + i * blockBytes;
        leaf.words[at + 2] = rawBlockLength;
        leaf.words[at + 3] = checksums[i] ?? 0;
      }
    }
  }

  /** Account for the entry at `at` giving way to a block of `next` (0: to nothing). */
  #replace(words: Uint32Array, at: number, next: number, because: number): void {
    const old = words[at] ?? 0;
    if (old !== 0) {
      this.#hooks.onRelease(old, because);
      this.mappedBlocks -= 1;
    }
    if (next !== 0) {
      this.#hooks.onRetain(next);
      this.mappedBlocks += 1;
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
    const present = await this.#page(level, index);
    if (present === null && kind === 'hole' && (await this.#isHole(level, index))) return;
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

  async #isHole(level: number, index: number): Promise<boolean> {
    const pointer = await this.#pointerTo(level, index);
    if (pointer !== null) return pointer[0] === 0 && pointer[1] === specialHole;
    return level === topLevel || this.#isHole(level + 1, Math.floor(index / fanout));
  }

  #clearEntry(words: Uint32Array, child: number, kind: 'hole' | 'zero', because: number): void {
    const at = child * 4;
    this.#replace(words, at, 0, because);
    words.fill(0, at, at + 4);
    if (kind === 'zero') words[at + 1] = specialZero;
  }

  /** A whole subtree goes: every block below is released, its pages too (slice by slice: each page is a turn). */
  async #clearChild(
    page: Page,
    child: number,
    kind: 'hole' | 'zero',
    because: number,
  ): Promise<void> {
    const level = page.level - 1;
    const index = page.index * fanout + child;
    const present = await this.#page(level, index);
    if (present !== null) {
      for (let i = 0; i < fanout; i += 1)
        if (level === 0) this.#replace(present.words, i * 4, 0, because);
        else if (hasPage(present.words, i) || this.#pages.has(keyOf(level - 1, index * fanout + i)))
          await this.#clearChild(present, i, 'hole', because);
      if (present.storedIn !== 0) this.#hooks.onRelease(present.storedIn, because);
      if (present.dirty) this.#dirtyPages -= 1;
      this.#pages.delete(keyOf(level, index));
    }
    const at = child * 4;
    page.words.fill(0, at, at + 4);
    if (kind === 'zero') page.words[at + 1] = specialZero;
  }

  /**
   * Lay out every dirty page for segments `first..`, from leaves to the top.
   * Parents take the new pointers now; nothing counts as stored before `commit`, and a second call lays all out again.
   */
  store(first: number, firstOffset: number): StoredPages {
    const dirty = [...this.#pages.values()]
      .filter((page) => page.dirty)
      .sort((a, b) => a.level - b.level || a.index - b.index);
    let top = this.#top;
    let current = { images: [] as Buffer[], keys: [] as number[] };
    const segments = [current];
    const homes: number[] = [];
    for (const page of dirty) {
      if (current.images.length >= limits.pagesPerSegment) {
        current = { images: [], keys: [] };
        segments.push(current);
      }
      const segment = first + segments.length - 1;
      const offset = firstOffset + current.images.length * pageBytes;
      // A copy: the page may be changed again while its segment is being written.
      const image = Buffer.from(Buffer.from(page.words.buffer, page.words.byteOffset, pageBytes));
      const pointer: TopPointer = [segment, offset, rawBlockLength, crc32c(image)];
      homes.push(segment);
      if (page.level === topLevel) top = pointer;
      else {
        const parent = this.#pages.get(keyOf(page.level + 1, Math.floor(page.index / fanout)));
        assert(parent?.dirty, 'the parent of a dirty map page is dirty');
        parent.words.set(pointer, (page.index % fanout) * 4);
      }
      current.images.push(image);
      current.keys.push(keyOf(page.level, page.index));
    }
    const last = first + segments.length - 1;
    const commit = (): void => {
      this.#top = top;
      dirty.forEach((page, i) => {
        const segment = homes[i] ?? last;
        if (page.storedIn !== 0) this.#hooks.onRelease(page.storedIn, last);
        this.#hooks.onRetain(segment);
        page.storedIn = segment;
        page.dirty = false;
      });
      this.#dirtyPages = 0;
    };
    return { segments, top, commit };
  }

  /** For each dirty page the segment of its stored copy (0: none), which the next root releases. */
  *storedHomes(): Generator<{ from: number }> {
    for (const page of this.#pages.values()) if (page.dirty) yield { from: page.storedIn };
  }

  /** Make the pages that lie in `segment` dirty, so that the next root moves them out of it (cleaning). */
  async rewritePagesOf(segment: number, keys: readonly number[]): Promise<void> {
    for (const key of keys) {
      const level = Math.floor(key / levelStep);
      const index = key % levelStep;
      const page = await this.#page(level, index);
      if (page !== null && page.storedIn === segment) await this.#pageForChange(level, index);
    }
  }

  /** The pointers of a page, or null when its subtree is uniform. For comparing two maps. */
  async words(level: number, index: number): Promise<Uint32Array | null> {
    return (await this.#page(level, index))?.words ?? null;
  }

  /** Visit every stored page's pointer and every block pointer, in order of blocks. For check, diff, cleaning. */
  async walk(visit: MapVisitor): Promise<void> {
    await this.#walkIn(topLevel, 0, visit);
  }

  async #walkIn(level: number, index: number, visit: MapVisitor): Promise<void> {
    const pointer = await this.#pointerTo(level, index);
    if (pointer === null || (pointer[0] === 0 && !this.#pages.has(keyOf(level, index)))) return;
    if ((await visit.page?.(level, index, pointer)) === 'skip') return;
    const page = await this.#page(level, index);
    if (page === null) return;
    if (level === 0) return visit.leaf?.(index * fanout, page.words);
    for (let child = 0; child < fanout; child += 1)
      await this.#walkIn(level - 1, index * fanout + child, visit);
  }
}

export interface MapVisitor {
  /** A stored page; answer 'skip' to leave its subtree out. */
  page?(
    level: number,
    index: number,
    pointer: TopPointer,
  ): Promise<'skip' | undefined> | 'skip' | undefined;
  /** The 256 pointers of a leaf, first block first. */
  leaf?(firstBlock: number, words: Uint32Array): Promise<void> | void;
}
