/**
 * Laying out the dirty pages of a map for the segments of a root, from the leaves to the top (L1).
 *
 * Nothing is copied: the images are the pages themselves, so **between laying out and `commit` nothing may change the map**. The
 * publisher, who alone changes it, does not while it writes a root. Parents take the new pointers now; nothing counts as
 * stored before `commit`, and laying out again overwrites all of it.
 */
import { assert, crc32c, limits } from '../base/index.ts';
import type { Page } from './map-cache.ts';
import { fanout, keyOf, pageBytes, type TopPointer, topLevel } from './map-page.ts';
import type { MapPages } from './map-pages.ts';
import { rawBlockLength } from './pointer.ts';

export interface StoredPages {
  /** For each segment from the first on: page images and their keys (level << 28 | index). */
  readonly segments: readonly {
    readonly images: readonly Buffer[];
    readonly keys: readonly number[];
    /** Checksum of each image. */
    readonly sums: readonly number[];
  }[];
  readonly top: TopPointer | null;
  /** Make the pages clean; only after their segment is durable. */
  commit(): void;
}

export interface StoreHooks {
  readonly onRelease: (segment: number, at: number) => void;
  readonly onRetain: (segment: number) => void;
}

/** Pages summed before other work gets a turn: a third of a millisecond. */
const pagesPerTurn = 256;

/** @param breathe lets other work have its turn */
export async function layOut(
  pages: MapPages,
  first: number,
  firstOffset: number,
  hooks: StoreHooks,
  breathe: () => Promise<void>,
): Promise<StoredPages> {
  const dirty = [...pages.cache.dirty()].sort((a, b) => a.level - b.level || a.index - b.index);
  let top = pages.top;
  let current = newSegment();
  const segments = [current];
  for (const [i, page] of dirty.entries()) {
    if (current.images.length >= limits.pagesPerSegment) {
      current = newSegment();
      segments.push(current);
    }
    const offset = firstOffset + current.images.length * pageBytes;
    const checksum = crc32c(page.bytes);
    const pointer = [first + segments.length - 1, offset, rawBlockLength, checksum] as const;
    if (page.level === topLevel) top = pointer;
    else pointFromParent(pages, page, pointer);
    current.images.push(page.bytes);
    current.sums.push(checksum);
    current.keys.push(keyOf(page.level, page.index));
    if (i % pagesPerTurn === pagesPerTurn - 1) await breathe();
  }
  const last = first + segments.length - 1;
  const commit = (): void => {
    pages.top = top;
    dirty.forEach((page, i) => {
      const segment = first + Math.floor(i / limits.pagesPerSegment);
      if (page.storedIn !== 0) hooks.onRelease(page.storedIn, last);
      hooks.onRetain(segment);
      page.storedIn = segment;
      pages.cache.makeClean(page);
    });
    pages.cache.trim();
  };
  return { segments, top, commit };
}

const newSegment = (): { images: Buffer[]; keys: number[]; sums: number[] } => ({
  images: [],
  keys: [],
  sums: [],
});

function pointFromParent(pages: MapPages, page: Page, pointer: TopPointer): void {
  const parent = pages.cache.get(page.level + 1, Math.floor(page.index / fanout));
  assert(parent?.dirty, 'the parent of a dirty map page is dirty');
  parent.words.set(pointer, (page.index % fanout) * 4);
}
