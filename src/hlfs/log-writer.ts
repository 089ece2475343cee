/**
 * The end of a log: gives numbers to segments, publishes them, applies them to the map, writes roots, deletes dead segments.
 *
 * Invariants:
 * - names are given one at a time, in order; a number is given only when all below it are durable (S3);
 * - the map in memory is the state after the newest published segment, never ahead of it;
 * - nothing is deleted but what the segment table allows, after two durable roots (L3, G2), and never a number at or above
 *   the older of the two newest roots (S2).
 *
 * One publisher calls it; no two calls run at once.
 */
import { assert, DvceError, limits } from '../base/index.ts';
import type { Batch } from './batch.ts';
import { applyRuns, ascendingBlocks, touchedBlocks } from './log-apply.ts';
import type { LiveFacts, LogState, WriterOptions } from './log-state.ts';
import { BlockMap } from './map.ts';
import type { TopPointer } from './map-page.ts';
import type { StoredPages } from './map-store.ts';
import { Retention } from './retention.ts';
import { encodeRoot, type PointFacts } from './root-format.ts';
import { type Compression, rangesUpTo, segmentKey } from './schema.ts';
import {
  encodeSegment,
  type SegmentHeader,
  segmentDataOffset,
  segmentFeatures,
  segmentFlags,
} from './segment-format.ts';
import { encodeIndex, type IndexRun, isPackedRun } from './segment-index.ts';
import { SegmentTable } from './segment-table.ts';
import { openEnd, readHeader, readIndex, SegmentReader } from './segments.ts';

/** What goes into a segment besides its data. */
interface SegmentContent {
  readonly data: readonly Uint8Array[];
  /** Checksums of the blocks of `data`, when they are known. */
  readonly sums?: readonly number[] | undefined;
  readonly runs: readonly IndexRun[];
  readonly root: Buffer;
  readonly flags: number;
  readonly firstSeq: number;
  readonly lastSeq: number;
}

/** Another segment stands at the next number; it was adopted, and the caller has to lay out anew. */
class NumberTaken extends Error {}

export class LogWriter {
  readonly state: LogState;
  readonly table: SegmentTable;
  readonly reader: SegmentReader;
  readonly map: BlockMap;
  /** Of segments that this writer put into the store. */
  publishedBytes = 0;
  /** What a root says that is written because a batch needs clean map pages. */
  rootFacts: (() => LiveFacts) | null = null;
  retention: Retention | null = null; // while no points in time are kept
  /** What batches are built with from now on. */
  compression: Compression;
  readonly #options: WriterOptions;
  #unapplied: { readonly header: SegmentHeader; readonly runs: readonly IndexRun[] } | null = null;

  constructor(state: LogState, options: WriterOptions) {
    this.state = state;
    this.#options = options;
    this.compression = options.compression ?? 'none';
    this.table = new SegmentTable(state.rows);
    this.retain(options.retainMs, state.points);
    // Durable: it is what the newest root says.
    this.table.floor = state.points?.bases[0]?.root ?? null;
    const { context } = options;
    this.reader = new SegmentReader(context.store, rangesUpTo(state, openEnd), context.timers);
    this.map = new BlockMap(
      this.reader,
      state.top,
      state.mappedBlocks,
      {
        onRelease: (segment, at, bytes) => this.table.release(segment, at, bytes),
        onRetain: (segment, bytes) => this.table.retain(segment, bytes),
      },
      options.mapCacheBytes,
    );
    this.map.storedBytes = state.storedBytes ?? this.map.storedBytes;
  }

  /** Keep points of this window from now on, or none. What the newest root promises is kept until the next one is durable. */
  retain(retainMs: number | null, facts?: PointFacts): void {
    const { newestRoot: root, coveredSeq: seq } = this.state;
    if (retainMs === null) this.retention = null;
    else if (this.retention !== null) this.retention.retainMs = retainMs;
    else
      this.retention = new Retention(this.#options.context.clock, { retainMs, facts, root, seq });
  }

  get rootIsDue(): boolean {
    return this.state.sinceRoot >= limits.rootEverySegments;
  }

  /** Publish a batch and apply it, after a root when it would make too many map pages dirty. @returns confirmed replicas (S5) */
  async publishBatch(batch: Batch, firstSeq: number, lastSeq: number): Promise<number> {
    const blocks =
      this.retention === null ? touchedBlocks(batch.runs) : ascendingBlocks(batch.runs);
    if (this.rootFacts !== null && !this.map.hasRoomFor(blocks))
      await this.publishRoot(this.rootFacts());
    const content: SegmentContent = {
      data: batch.data,
      sums: batch.sums,
      runs: batch.runs,
      root: Buffer.alloc(0),
      flags: 0,
      firstSeq,
      lastSeq,
    };
    for (let attempt = 0; attempt < limits.adoptionsMax; attempt += 1)
      try {
        const { header, replicas } = await this.#publish(content);
        this.#unapplied = { header, runs: batch.runs };
        await this.finish();
        return replicas;
      } catch (error) {
        if (!(error instanceof NumberTaken)) throw error;
      }
    throw this.#taken('too many segments of earlier incarnations');
  }

  /** Apply what was published and could not be applied, because map pages could not be read. Idempotent (L4). */
  async finish(): Promise<void> {
    if (this.#unapplied === null) return;
    const { header, runs } = this.#unapplied;
    await this.apply(header, runs);
    this.#unapplied = null;
  }

  /** Write a root of the current map; dirty pages go with it. @returns its segment number and checksum */
  async publishRoot(facts: LiveFacts, flags = 0): Promise<{ number: number; checksum: number }> {
    for (let attempt = 0; attempt < limits.adoptionsMax; attempt += 1)
      try {
        return await this.#tryRoot(facts, flags);
      } catch (error) {
        if (!(error instanceof NumberTaken)) throw error;
      }
    throw this.#taken('too many segments of earlier incarnations');
  }

  async #tryRoot(facts: LiveFacts, flags: number): Promise<{ number: number; checksum: number }> {
    const { state } = this;
    const first = state.next;
    const stored = await this.map.store(
      first,
      segmentDataOffset,
      () => new Promise((resolve) => this.#options.context.timers.defer(resolve)),
    );
    const rootNumber = first + stored.segments.length - 1;
    const bases = this.retention?.next(rootNumber, state.coveredSeq);
    const points = bases === undefined ? undefined : this.retention?.factsOf(bases);
    for (const [i, pages] of stored.segments.entries()) {
      const isRoot = i === stored.segments.length - 1;
      // What the table says must be true with this root: the pages' old homes are released, the new ones retained.
      const root = isRoot
        ? this.#rootRecord(stored.top, { ...facts, points }, rootNumber, stored.segments)
        : Buffer.alloc(0);
      const content = {
        data: pages.images,
        sums: pages.sums,
        runs: [{ kind: 'pages' as const, offset: segmentDataOffset, keys: pages.keys }],
        root,
        flags: isRoot ? flags | segmentFlags.root : 0,
        firstSeq: state.coveredSeq + 1,
        lastSeq: state.coveredSeq,
      };
      const { header } = await this.#publish(content);
      // Dead until `commit` retains it: a page segment of an attempt that never came to its root stays dead.
      this.table.add(header.number, header.totalBytes);
      this.table.settle(header.number);
      state.sinceRoot += 1;
    }
    stored.commit();
    if (bases !== undefined) this.retention?.commit(bases);
    this.table.floor = points?.bases[0]?.root ?? null;
    this.#rootSettled(rootNumber);
    return { number: rootNumber, checksum: state.previous };
  }

  /** Account for a root that became durable. */
  #rootSettled(number: number): void {
    const { state } = this;
    this.table.retain(number); // the root record itself
    if (state.newestRoot >= state.firstNumber) this.table.release(state.newestRoot, number);
    state.olderRoot = state.newestRoot;
    state.newestRoot = number;
    state.sinceRoot = 0;
  }

  /**
   * The root record, with the segment table as it will be once this root is durable. Recovery starts from it, so it is
   * computed on a copy of the table to which the same steps are applied that `commit` applies to the real one.
   */
  #rootRecord(
    top: TopPointer | null,
    facts: LiveFacts & { readonly points: PointFacts | undefined },
    number: number,
    segments: StoredPages['segments'],
  ): Buffer {
    const { state } = this;
    const future = new SegmentTable(
      new Map([...this.table.rows].map(([key, row]) => [key, { ...row }])),
    );
    const firstPages = number - segments.length + 1;
    // The sizes of the segments that are being written are not known yet; recovery takes them from the objects.
    segments.forEach((_, i) => {
      if (!future.rows.has(firstPages + i)) future.add(firstPages + i, 0);
    });
    for (const home of this.map.storedHomes()) if (home !== 0) future.release(home, number);
    segments.forEach((pages, i) => {
      for (let each = 0; each < pages.keys.length; each += 1) future.retain(firstPages + i);
    });
    future.retain(number);
    if (state.newestRoot >= state.firstNumber) future.release(state.newestRoot, number);
    return encodeRoot(
      {
        sizeBytes: String(facts.sizeBytes),
        top,
        mappedBlocks: String(this.map.mappedBlocks),
        ...(this.map.holdsPacked ? { storedBytes: String(this.map.storedBytes) } : {}),
        ranges: rangesUpTo(state, number),
        covered: {
          epoch: String(state.coveredEpoch),
          incarnation: String(state.coveredIncarnation),
          seq: String(state.coveredSeq),
        },
        nextSegment: number + 1,
        previousRoot: state.newestRoot,
        flushMark:
          facts.flushMark === null
            ? null
            : {
                seq: String(facts.flushMark.seq),
                wallMs: String(Math.round(facts.flushMark.wallMs)),
              },
        leaseGranters: [],
        ...(facts.points === undefined ? {} : { points: facts.points }),
      },
      future.rows,
    );
  }

  /** Apply the runs of a published segment to the map, and move on. */
  async apply(header: SegmentHeader, runs: readonly IndexRun[]): Promise<void> {
    this.table.add(header.number, header.totalBytes);
    await applyRuns(this.map, header.number, runs, this.#options.context.timers);
    this.table.settle(header.number);
    this.retention?.applied(runs);
    const { state } = this;
    state.sinceRoot += 1;
    if (header.lastSeq > state.coveredSeq) {
      state.coveredSeq = header.lastSeq;
      state.coveredEpoch = header.epoch;
      state.coveredIncarnation = header.incarnation;
    }
  }

  /** Records up to `seq` need no segment (marks); the next root says so. */
  reach(seq: number): void {
    if (seq <= this.state.coveredSeq) return;
    this.state.coveredSeq = seq;
    this.state.coveredEpoch = this.#options.epoch;
    this.state.coveredIncarnation = this.#options.incarnation;
  }

  /** Give the next number to `content` and publish it (S1, S3, S4). */
  async #publish(content: SegmentContent): Promise<{ header: SegmentHeader; replicas: number }> {
    const { context, scope, epoch, incarnation } = this.#options;
    const { state } = this;
    const isRoot = (content.flags & segmentFlags.root) !== 0;
    // Exactly where a reader that knows no compressed blocks would meet one.
    const isPacked = content.runs.some(isPackedRun) || (isRoot && this.map.holdsPacked);
    const facts = {
      log: state.log,
      number: state.next,
      previous: state.previous,
      nonce: context.random.bytes(16).toString('hex'),
      epoch,
      incarnation,
      firstSeq: content.firstSeq,
      lastSeq: content.lastSeq,
      flags: content.flags,
      rootSegment: isRoot ? state.next : state.newestRoot,
      wallMs: Math.round(context.clock.wallMs()),
      keyId: 0,
      features: isPacked ? segmentFeatures.packed : 0,
    };
    const encoded = encodeSegment({
      header: facts,
      data: content.data,
      sums: content.sums,
      index: encodeIndex(content.runs),
      root: content.root,
    });
    assert(encoded.header.totalBytes <= limits.segmentBytesMax, 'a segment fits its limit');
    const key = segmentKey(state.log, state.next);
    const result = await context.store.putIfAbsent(scope, key, encoded.body);
    if (result.outcome === 'fenced')
      throw new DvceError('FENCED', { name: state.log, reason: 'its publishing scope is gone' });
    if (result.outcome === 'created') this.publishedBytes += encoded.header.totalBytes;
    const header =
      result.outcome === 'created' ? encoded.header : await this.#foundAt(encoded.header);
    state.next += 1;
    state.previous = header.checksum;
    return { header, replicas: result.outcome === 'created' ? result.replicas : 1 };
  }

  /** `exists` at the own next number: the own put whose reply was lost, an own late rename, or a rival (S3, S4). */
  async #foundAt(mine: SegmentHeader): Promise<SegmentHeader> {
    const { context, epoch, incarnation } = this.#options;
    const found = await readHeader(context.store, this.state.log, mine.number);
    if (found === undefined) throw this.#taken('it vanished');
    if (found.nonce === mine.nonce) return found;
    const isOwnLate =
      found.epoch === epoch &&
      found.incarnation < incarnation &&
      found.previous === this.state.previous &&
      found.lastSeq <= this.#options.recoveredSeq;
    if (!isOwnLate)
      throw this.#taken(`epoch ${found.epoch}, incarnation ${found.incarnation} wrote it`);
    context.logger.warn({ segment: mine.number }, 'adopted a segment of an earlier incarnation');
    await this.roll(found, await readIndex(context.store, found));
    throw new NumberTaken();
  }

  /** Take a segment that stands in the store at the next number (recovery, adoption). */
  async roll(header: SegmentHeader, runs: readonly IndexRun[]): Promise<void> {
    this.state.next = header.number + 1;
    this.state.previous = header.checksum;
    await this.apply(header, runs);
  }

  #taken(reason: string): DvceError {
    return new DvceError('FENCED', {
      name: this.state.log,
      reason: `segment ${this.state.next} exists already: ${reason}`,
    });
  }

  /** Delete what nothing needs. `positions` was read from the documents just now. @returns how many went */
  async deleteDead(positions: readonly number[], signal?: AbortSignal): Promise<number> {
    const { context } = this.#options;
    const { state } = this;
    let deleted = 0;
    for (const number of this.table.deletable(state.olderRoot, positions)) {
      if (signal?.aborted) break;
      assert(number < state.olderRoot, 'only numbers below the older root are deleted');
      await context.store.delete(segmentKey(state.log, number));
      this.table.remove(number);
      deleted += 1;
    }
    return deleted;
  }
}
