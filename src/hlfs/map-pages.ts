/**
 * The tree of map pages, as far as it is in memory, and loading the rest of it.
 *
 * Looking (`peek`) never waits and loading (`load`) answers nothing: after a load the page is looked up again. A page that is
 * loaded too late, because the pointer that led to it is not the one of the tree any more, is thrown away.
 */
import { DvceError, limits, toDvceError } from '../base/index.ts';
import { type Page, PageCache } from './map-cache.ts';
import { fanout, hasPage, keyOf, type TopPointer, topLevel } from './map-page.ts';
import { checkPointer, pointerOffset } from './pointer.ts';
import type { SegmentReader } from './segments.ts';

/** A page is looked up, loaded and evicted again at most this often. */
const triesMax = 64;

export class MapPages {
  readonly cache: PageCache;
  /** Pointer of the stored top page; null: nothing is stored. */
  top: TopPointer | null;
  readonly #reader: SegmentReader;
  readonly #loading = new Map<number, Promise<void>>();

  constructor(reader: SegmentReader, top: TopPointer | null, cacheBytes: number) {
    this.#reader = reader;
    this.top = top;
    this.cache = new PageCache(cacheBytes);
  }

  /** The page; null when there is none, because everything below it is the same; undefined when it has to be loaded. */
  peek(level: number, index: number): Page | null | undefined {
    const page = this.cache.get(level, index);
    if (page !== undefined) return page;
    if (level === topLevel) return this.top === null ? null : undefined;
    const parent = this.peek(level + 1, Math.floor(index / fanout));
    if (parent === undefined || parent === null) return parent;
    return hasPage(parent.words, index % fanout) ? undefined : null;
  }

  /** What leads to a page; null: nothing does; undefined: a page on the way has to be loaded. */
  pointerTo(level: number, index: number): TopPointer | null | undefined {
    if (level === topLevel) return this.top;
    const parent = this.peek(level + 1, Math.floor(index / fanout));
    if (parent === undefined || parent === null) return parent;
    const { words } = parent;
    const at = (index % fanout) * 4;
    return [words[at] ?? 0, words[at + 1] ?? 0, words[at + 2] ?? 0, words[at + 3] ?? 0];
  }

  /** Bring a page, and what leads to it, into memory. Others may have pushed it out again when this resolves. */
  async load(level: number, index: number): Promise<void> {
    for (let tries = 0; tries < triesMax; tries += 1) {
      if (this.peek(level, index) !== undefined) return;
      await this.#step(level, index);
    }
    throw new DvceError('INTERNAL', {
      reason: 'map pages were evicted as fast as they were loaded',
    });
  }

  /** As `load`, and what leads to the page also when the page itself is here: a parent that was not used of late may be gone. */
  async loadWay(level: number, index: number): Promise<void> {
    for (let each = topLevel; each >= level; each -= 1)
      await this.load(each, Math.floor(index / fanout ** (each - level)));
  }

  /** Bring many leaves into memory, several loads at a time. `indexes` should not be many more than fit. */
  async loadLeaves(indexes: readonly number[]): Promise<void> {
    let waiting: Promise<void>[] = [];
    for (const index of indexes) {
      // What the page cache of the system has is here at once; only the others wait.
      for (let level = topLevel; level >= 0; level -= 1) {
        if (this.peek(0, index) !== undefined) break;
        const step = this.#step(0, index);
        if (step === undefined) continue;
        waiting.push(step.then(() => this.load(0, index)));
        break;
      }
      if (waiting.length < limits.mapLoadsMax) continue;
      await Promise.all(waiting);
      waiting = [];
    }
    await Promise.all(waiting);
  }

  /** Load the highest page that is missing on the way. @returns undefined when that was done at once */
  #step(level: number, index: number): Promise<void> | undefined {
    let at = index;
    for (let each = level; each <= topLevel; each += 1) {
      const pointer = this.pointerTo(each, at);
      if (pointer !== undefined && pointer !== null) return this.#fetch(each, at, pointer);
      at = Math.floor(at / fanout);
    }
    return undefined;
  }

  #fetch(level: number, index: number, pointer: TopPointer): Promise<void> | undefined {
    const key = keyOf(level, index);
    const running = this.#loading.get(key);
    if (running !== undefined) return running;
    const page = this.cache.take();
    let outcome: DvceError | null | undefined;
    let settle: ((error: DvceError | null) => void) | undefined;
    const [segment, word1, , checksum] = pointer;
    const { bytes } = page;
    const place = { segment, offset: pointerOffset(word1), checksums: [checksum] };
    this.#reader.readBlocks(place, bytes, (failure) => {
      outcome = this.#arrived(level, index, pointer, page, failure);
      settle?.(outcome);
    });
    if (outcome === null) return undefined;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    settle = (error) => {
      this.#loading.delete(key);
      if (error) reject(error);
      else resolve();
    };
    this.#loading.set(key, promise);
    if (outcome !== undefined) settle(outcome);
    return promise;
  }

  /** @returns why the page is not good; null as well when nobody wants it any more */
  #arrived(
    level: number,
    index: number,
    pointer: TopPointer,
    page: Page,
    failure: DvceError | null,
  ): DvceError | null {
    // The publisher may have made or changed the page meanwhile, or moved it: then this copy is an old one.
    const now = this.cache.has(level, index) ? null : this.pointerTo(level, index);
    const isCurrent = now?.every((word, i) => word === pointer[i]) === true;
    const error = isCurrent ? (failure ?? pageFault(page.words)) : null;
    if (isCurrent && error === null) this.cache.add(page, level, index, pointer[0]);
    else this.cache.giveBack(page);
    return error;
  }
}

function pageFault(words: Uint32Array): DvceError | null {
  try {
    for (let at = 0; at < words.length; at += 4) {
      const segment = words[at] ?? 0;
      if (segment !== 0) checkPointer(segment, words[at + 1] ?? 0, words[at + 2] ?? 0);
    }
    return null;
  } catch (error) {
    return toDvceError(error);
  }
}
