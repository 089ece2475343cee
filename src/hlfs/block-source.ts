/**
 * Blocks of segments for guests: from the cache of this thread, from what the host has in memory, or from the store.
 *
 *   cache        copied in this turn (read-cache.ts), decoded already
 *   at once      the store has it in memory (`SegmentStore.readNow`): read and checked in this turn
 *   store        waits. Whoever asks for the same blocks meanwhile waits for the same read
 *
 * Invariants:
 * - every byte was checked against the checksum of the pointer that led to it (invariant 7), here or before it came into the
 *   cache; a read that is shared is shared only among those who hold the same checksums, and is checked before anybody gets it;
 * - a failed read is told to all who waited for it, leaves nothing in the cache, and the next one asks the store again;
 * - what waits is bounded by the requests that wait (nbd), because each waiter is the read of one request.
 */
import type { DvceError } from '../base/index.ts';
import { blockBytes, type StoredRun, storedBytes } from './pointer.ts';
import type { ReadCache } from './read-cache.ts';
import { joinChecksums, type SegmentReader } from './segments.ts';

type Done = (error: DvceError | null) => void;

interface Waiter {
  readonly target: Buffer;
  readonly done: Done;
}

/** What the volumes of one thread share. */
export class SharedReads {
  readonly cache: ReadCache | null;
  /** Reads of the store under way, with those who joined them. */
  readonly flights = new Map<string, Waiter[]>();

  constructor(cache: ReadCache | null) {
    this.cache = cache;
  }
}

/** Where the blocks that guests asked for were found, since the volume was opened. */
export interface ReadSources {
  /** In the cache of the process. */
  cache: number;
  /** In the memory of the host: no wait, no thread. */
  pageCache: number;
  /** Read from the store. */
  store: number;
  /** Waited for a read of the same blocks that somebody else had begun. */
  joined: number;
  /** Holes and zeros: nothing was read. */
  zero: number;
  /** In the journal, not in the store yet. */
  journal: number;
  /** Asked of the store before anybody wanted them. */
  ahead: number;
}

export class BlockSource {
  readonly reader: SegmentReader;
  readonly counts: ReadSources = {
    cache: 0,
    pageCache: 0,
    store: 0,
    joined: 0,
    zero: 0,
    journal: 0,
    ahead: 0,
  };
  readonly #shared: SharedReads;
  /** What the store's host keeps in memory anyhow is worth a second copy only when it is asked for often. */
  readonly #isCheap: boolean;

  constructor(reader: SegmentReader, shared: SharedReads = new SharedReads(null)) {
    this.reader = reader;
    this.#shared = shared;
    this.#isCheap = reader.store.readNow !== undefined;
  }

  /** Whether a read of so many blocks should look into the cache: what the host has in memory is had faster in one piece. */
  looksInCache(blocks: number): boolean {
    const { cache } = this.#shared;
    return cache !== null && cache.blocks > 0 && (!this.#isCheap || blocks <= cheapBlocksMax);
  }

  /** Fill `target` (4 KiB) from the cache. */
  cached(segment: number, offset: number, checksum: number, target: Buffer): boolean {
    const { cache } = this.#shared;
    if (cache === null || cache.blocks === 0) return false;
    const key = this.reader.keyIfAny(segment);
    if (key === undefined || !cache.get(key, offset, checksum, target)) return false;
    this.counts.cache += 1;
    return true;
  }

  /** Fill `target` with whole blocks if nothing has to be waited for. False also when they are damaged: `read` says how. */
  readNow(run: StoredRun, target: Buffer): boolean {
    if (!this.reader.readNow(run, target)) return false;
    this.counts.pageCache += run.checksums.length;
    this.#keep(run, target);
    return true;
  }

  /** Fill `target` with whole blocks that lie one behind the other in a segment. */
  read(run: StoredRun, target: Buffer, done: Done): void {
    if (this.readNow(run, target)) done(null);
    else this.#join(run, target, done);
  }

  #join(run: StoredRun, target: Buffer, done: Done): void {
    const { segment, offset, checksums } = run;
    const { flights } = this.#shared;
    const what = `${this.reader.keyIfAny(segment) ?? segment} ${offset} ${checksums.length} ${joinChecksums(checksums)}`;
    const flight = flights.get(what);
    if (flight !== undefined) {
      this.counts.joined += checksums.length;
      flight.push({ target, done });
      return;
    }
    const waiters: Waiter[] = [];
    flights.set(what, waiters);
    this.reader.readBlocks(run, target, (error) => {
      flights.delete(what);
      if (error === null) {
        this.counts.store += checksums.length;
        this.#keep(run, target);
        // Before the first one is told: from then on `target` is not ours.
        for (const waiter of waiters) target.copy(waiter.target);
      }
      done(error);
      for (const waiter of waiters) waiter.done(error);
    });
  }

  #keep({ segment, offset, checksums, lengths }: StoredRun, target: Buffer): void {
    const { cache } = this.#shared;
    if (cache === null) return;
    // A long read of what the host has in memory is no sign of anything. A compressed block costs more than a copy.
    const isStream = this.#isCheap && checksums.length > cheapBlocksMax;
    if (isStream && lengths === undefined) return;
    const key = this.reader.key(segment);
    let at = offset;
    for (let i = 0; i < checksums.length; i += 1) {
      const length = lengths?.[i] ?? blockBytes;
      const isCheap = this.#isCheap && length === blockBytes;
      const content = target.subarray(i * blockBytes, (i + 1) * blockBytes);
      if (!isStream || !isCheap) cache.put(key, at, checksums[i] ?? 0, content, isCheap);
      at += length;
    }
  }

  /** Whether a block of so many bytes could be read without waiting. */
  isAtHand(segment: number, offset: number, length: number): boolean {
    const key = this.reader.keyIfAny(segment);
    const target = probe.subarray(0, length);
    return key !== undefined && this.reader.store.readNow?.(key, offset, target) === true;
  }

  /** A hint that these blocks will be read soon. @returns undefined when there is nothing to wait for */
  ahead(run: StoredRun): Promise<void> | undefined {
    const key = this.reader.keyIfAny(run.segment);
    if (key === undefined) return undefined;
    const waiting = this.reader.store.readAhead?.(key, run.offset, storedBytes(run));
    if (waiting !== undefined) this.counts.ahead += run.checksums.length;
    return waiting;
  }
}

/** Longer reads are streams. */
const cheapBlocksMax = 4;

/** Where looks end up; nobody reads it. */
const probe = Buffer.alloc(blockBytes);
