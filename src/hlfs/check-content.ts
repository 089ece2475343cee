/**
 * Reading the content of roots for a check: every map page and every block that a root refers to, against the checksum in
 * the pointer that leads to it (S7).
 *
 * Invariants:
 * - what two roots share is read once: a page whose subtree was found good is not walked again, a unit that was found good is
 *   not read again. What is damaged is walked again for every root, so that each content that is concerned is named;
 * - bounded memory: what is remembered of pages and units has limits, beyond which it is read again;
 * - nothing is a finding here: failures are given to the caller, who knows whether the root still counts.
 */
import { assert, DvceError, limits } from '../base/index.ts';
import type { CheckCode } from './check-findings.ts';
import type { HlfsContext } from './context.ts';
import { GrowingRun } from './growing-run.ts';
import type { BlockMap } from './map.ts';
import { fanout, readEntry, type TopPointer } from './map-page.ts';
import { blockBytes, pointerOffset, type StoredRun } from './pointer.ts';
import { openRoot, type RootPosition } from './roots.ts';
import { segmentKey } from './schema.ts';
import type { SegmentReader } from './segments.ts';
import { UnitCounts } from './unit-counts.ts';

/** Bytes of the content that cannot be read, and why. */
export interface Failure {
  readonly code: CheckCode;
  readonly object: string;
  readonly detail: string;
  readonly offset: number;
  readonly length: number;
}

export interface Bytes {
  readonly offset: number;
  readonly length: number;
}

export interface WalkOptions {
  readonly signal: AbortSignal;
  /** Bytes that were read and compared. */
  readonly onBytes: (bytes: number) => void | Promise<void>;
}

export interface RootWalk {
  /** Look only at these ranges; null: at everything. Sorted. */
  readonly within: readonly Bytes[] | null;
  /** Read only blocks in these segments; null: in all. Pages are always read. */
  readonly suspects: ReadonlySet<string> | null;
}

export const everything: RootWalk = { within: null, suspects: null };

/** Blocks of a page's subtree. */
const blocksBelow = (level: number): number => fanout ** (level + 1);

export class ContentReader {
  readonly #context: HlfsContext;
  readonly #options: WalkOptions;
  /** Several roots will be read: it is worth remembering what was good. */
  readonly #isShared: boolean;
  /** Pages with nothing bad below, by segment key and offset. */
  readonly #goodPages = new Map<string, Set<number>>();
  #goodPageCount = 0;
  /** Raw blocks found good, a bit for each 4 KiB of a segment. Those that do not lie so are kept with the pages. */
  readonly #goodUnits = new Map<string, Uint8Array>();

  constructor(context: HlfsContext, options: WalkOptions, isShared: boolean) {
    this.#context = context;
    this.#options = options;
    this.#isShared = isShared;
  }

  /** Live units of each segment, as the map of a root has them. Reads pages only. @throws when one cannot be read */
  async countUnits({ log, rootSegment }: RootPosition): Promise<UnitCounts> {
    const counts = new UnitCounts();
    const { map } = await openRoot(this.#context, log, rootSegment);
    await map.walk({
      page: (level, index, pointer) => {
        this.#options.signal.throwIfAborted();
        return counts.page(level, index, pointer);
      },
      leaf: (firstBlock, words) => counts.leaf(firstBlock, words),
    });
    counts.addRoot(rootSegment);
    return counts;
  }

  /** Read the content of a root. @returns what cannot be read of it */
  async read(position: RootPosition, walk: RootWalk): Promise<Failure[]> {
    const failures: Failure[] = [];
    let root: Awaited<ReturnType<typeof openRoot>>;
    try {
      root = await openRoot(this.#context, position.log, position.rootSegment);
    } catch (error) {
      const object = segmentKey(position.log, position.rootSegment);
      const { detail } = failureOf(error, object);
      return [{ code: 'CHECK_BAD_ROOT', object, detail, offset: 0, length: 0 }];
    }
    const visit = new Visit(root, walk, failures, this);
    await root.map.walk({
      page: (level, index, pointer) => visit.page(level, index, pointer),
      leaf: (firstBlock, words) => visit.leaf(firstBlock, words),
    });
    return failures;
  }

  get signal(): AbortSignal {
    return this.#options.signal;
  }

  isGoodPage(key: string, offset: number): boolean {
    return this.#goodPages.get(key)?.has(offset) === true;
  }

  rememberPage(key: string, offset: number): void {
    if (!this.#isShared || this.#goodPageCount >= limits.checkPagesKnownMax) return;
    let pages = this.#goodPages.get(key);
    if (pages === undefined) {
      pages = new Set();
      this.#goodPages.set(key, pages);
    }
    if (pages.has(offset)) return;
    pages.add(offset);
    this.#goodPageCount += 1;
  }

  forgetPage(key: string, offset: number): void {
    if (this.#goodPages.get(key)?.delete(offset) === true) this.#goodPageCount -= 1;
  }

  isGoodUnit(key: string, word1: number): boolean {
    const unit = unitOf(word1);
    if (unit < 0) return this.isGoodPage(key, pointerOffset(word1));
    return ((this.#goodUnits.get(key)?.[unit >>> 3] ?? 0) & (1 << (unit & 7))) !== 0;
  }

  rememberUnit(key: string, word1: number): void {
    const unit = unitOf(word1);
    if (unit < 0) this.rememberPage(key, pointerOffset(word1));
    if (!this.#isShared || unit < 0) return;
    let bits = this.#goodUnits.get(key);
    if (bits === undefined) {
      if (this.#goodUnits.size >= limits.checkSegmentsKnownMax) return;
      bits = new Uint8Array(limits.segmentBytesMax / blockBytes / 8);
      this.#goodUnits.set(key, bits);
    }
    bits[unit >>> 3] = (bits[unit >>> 3] ?? 0) | (1 << (unit & 7));
  }

  /** Fill `target` through the pointers of consecutive blocks. */
  async readRun(reader: SegmentReader, run: StoredRun): Promise<void> {
    const target = Buffer.allocUnsafe(run.checksums.length * blockBytes);
    await new Promise<void>((resolve, reject) => {
      reader.readBlocks(run, target, (error) => (error ? reject(error) : resolve()));
    });
    await this.#options.onBytes(target.byteLength);
  }
}

/** Number of the 4 KiB of the segment that a pointer names alone; -1 when it lies otherwise. */
function unitOf(word1: number): number {
  const offset = pointerOffset(word1);
  // Without a codec word 1 is the offset.
  return word1 === offset && offset % blockBytes === 0 ? offset / blockBytes : -1;
}

/** A failure that is damage; anything else is thrown on. */
function failureOf(error: unknown, object: string): Pick<Failure, 'code' | 'object' | 'detail'> {
  if (!(error instanceof DvceError)) throw error;
  const codes: Readonly<Partial<Record<DvceError['code'], CheckCode>>> = {
    SEGMENT_MISSING: 'CHECK_MISSING',
    SEGMENT_DAMAGED: 'CHECK_BAD_CHECKSUM',
    IO_FAILED: 'CHECK_UNREADABLE',
  };
  const code = codes[error.code];
  if (code === undefined) throw error;
  return { code, object, detail: error.message };
}

/** One walk over one root. */
class Visit {
  readonly #map: BlockMap;
  readonly #reader: SegmentReader;
  readonly #sizeBytes: number;
  readonly #walk: RootWalk;
  readonly #failures: Failure[];
  readonly #content: ContentReader;
  /** Where the pages lie that lead to what is being looked at, by level. */
  readonly #path: { key: string; offset: number }[] = [];

  constructor(
    root: { map: BlockMap; reader: SegmentReader; sizeBytes: number },
    walk: RootWalk,
    failures: Failure[],
    content: ContentReader,
  ) {
    this.#map = root.map;
    this.#reader = root.reader;
    this.#sizeBytes = root.sizeBytes;
    this.#walk = walk;
    this.#failures = failures;
    this.#content = content;
  }

  async page(level: number, index: number, pointer: TopPointer): Promise<'skip' | undefined> {
    this.#content.signal.throwIfAborted();
    const blocks = blocksBelow(level);
    const place = { offset: index * blocks * blockBytes, length: blocks * blockBytes };
    if (!this.#isWanted(place)) return 'skip';
    const [segment, word1] = pointer;
    if (segment === 0) return undefined;
    try {
      const key = this.#reader.key(segment);
      const offset = pointerOffset(word1);
      if (this.#content.isGoodPage(key, offset)) return 'skip';
      this.#path[level] = { key, offset };
      await this.#map.words(level, index);
      // Only a walk that looks at everything below may call a page good.
      if (this.#walk.within === null && this.#walk.suspects === null)
        this.#content.rememberPage(key, offset);
      return undefined;
    } catch (error) {
      this.#fail(error, segment, place, `map page ${level}/${index}`, level);
      return 'skip';
    }
  }

  #isWanted(place: Bytes): boolean {
    const { within } = this.#walk;
    return (
      within === null ||
      within.some(
        ({ offset, length }) =>
          offset < place.offset + place.length && place.offset < offset + length,
      )
    );
  }

  async leaf(firstBlock: number, words: Uint32Array): Promise<void> {
    let start = 0;
    while (start < fanout) {
      this.#content.signal.throwIfAborted();
      if (!this.#mustRead(words, start)) {
        start += 1;
        continue;
      }
      const run = runAt(words, start);
      let end = start + 1;
      while (end < fanout && this.#mustRead(words, end) && extend(run, words, end)) end += 1;
      await this.#run(firstBlock, words, start, run);
      start = end;
    }
  }

  #mustRead(words: Uint32Array, i: number): boolean {
    const segment = words[i * 4] ?? 0;
    if (segment === 0) return false;
    const { suspects } = this.#walk;
    try {
      const key = this.#reader.key(segment);
      if (suspects !== null && !suspects.has(key)) return false;
      return !this.#content.isGoodUnit(key, words[i * 4 + 1] ?? 0);
    } catch {
      return true; // a pointer out of the log: reading it says so
    }
  }

  async #run(
    firstBlock: number,
    words: Uint32Array,
    start: number,
    run: GrowingRun,
  ): Promise<void> {
    const { segment, checksums } = run;
    const end = start + checksums.length;
    try {
      await this.#content.readRun(this.#reader, run);
      const key = this.#reader.key(segment);
      for (let i = start; i < end; i += 1) this.#content.rememberUnit(key, words[i * 4 + 1] ?? 0);
    } catch (error) {
      const isWhole = error instanceof DvceError && error.code === 'SEGMENT_MISSING';
      if (end - start > 1 && !isWhole) {
        // Which of them it is.
        for (let i = start; i < end; i += 1) await this.#run(firstBlock, words, i, runAt(words, i));
        return;
      }
      const place = {
        offset: (firstBlock + start) * blockBytes,
        length: (end - start) * blockBytes,
      };
      this.#fail(error, segment, place, `block ${firstBlock + start}`, -1);
    }
  }

  #fail(error: unknown, segment: number, place: Bytes, what: string, level: number): void {
    const known = failureOf(error, this.#objectOf(segment));
    // What leads here is not good, whatever was thought of it.
    for (let above = Math.max(level, 0); above < this.#path.length; above += 1) {
      const page = this.#path[above];
      if (page !== undefined) this.#content.forgetPage(page.key, page.offset);
    }
    const length = Math.min(place.length, this.#sizeBytes - place.offset);
    if (length > 0)
      this.#failures.push({ ...known, ...place, length, detail: `${what}: ${known.detail}` });
  }

  #objectOf(segment: number): string {
    try {
      return this.#reader.key(segment);
    } catch {
      return `segment ${segment}`;
    }
  }
}

/** A run that begins with entry `i`, which has a block. */
function runAt(words: Uint32Array, i: number): GrowingRun {
  const found = readEntry(words, i);
  assert(found.kind === 'block', 'only blocks are read');
  return new GrowingRun(found);
}

/** Does entry `i` continue the run in the same segment? */
function extend(run: GrowingRun, words: Uint32Array, i: number): boolean {
  const found = readEntry(words, i);
  return found.kind === 'block' && run.add(found);
}
