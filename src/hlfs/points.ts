/**
 * The points in time of a log, as the store has them: every flush behind the floor (DD-0013). Reading only.
 *
 * A point is a flush mark in the index of a segment. Marks rise with the segments, so a number is found by halving; times need
 * not rise (clocks are set), so a time is looked for from the newest point back, past stretches in which every point is
 * later. A segment may repeat what an adopted one has (S3): a mark counts where it comes first.
 */
import { DvceError, type LogId } from '../base/index.ts';
import type { HlfsContext } from './context.ts';
import type { Mark } from './history.ts';
import { newestRoot } from './log-recovery.ts';
import { retainedPositions } from './reaper.ts';
import { type Base, basesOf } from './retention.ts';
import type { SegmentHeader } from './segment-format.ts';
import { SegmentTable } from './segment-table.ts';
import { listSegments, type Root, readHeader, readIndex } from './segments.ts';
import type { PointSummary } from './volume-api.ts';

/** Which point: the newest at or before a time, the newest before a flush, or a flush itself. */
export type PointChoice =
  | { readonly timeMs: number }
  | { readonly beforeFlush: number }
  | { readonly flush: number };

/** A point, and the segment in which it is; `segment` null: it is the floor's root itself. */
export interface FoundPoint extends Mark {
  readonly segment: SegmentHeader | null;
}

export interface PointFilter {
  readonly sinceMs?: number;
  readonly untilMs?: number;
  /** Only points before this one: where the page before ended. */
  readonly before?: number;
  readonly limit: number;
}

export class LogPoints {
  readonly log: LogId;
  readonly root: Root;
  readonly #context: HlfsContext;
  readonly #bases: readonly Base[];
  /** The last segment that continues the log. */
  readonly #end: number;
  readonly #headers = new Map<number, SegmentHeader>();

  constructor(context: HlfsContext, log: LogId, root: Root, bases: readonly Base[], end: number) {
    this.#context = context;
    this.log = log;
    this.root = root;
    this.#bases = bases;
    this.#end = end;
  }

  /** The root that the oldest point is rebuilt from. */
  get floor(): number {
    return this.#bases[0]?.root ?? this.root.header.number;
  }

  async header(number: number): Promise<SegmentHeader> {
    const known = this.#headers.get(number);
    if (known !== undefined) return known;
    const header = await readHeader(this.#context.store, this.log, number);
    if (header === undefined) throw this.#gone();
    this.#headers.set(number, header);
    return header;
  }

  /** The window moves on while it is read. */
  #gone(): DvceError {
    return new DvceError('CONFLICT', {
      kind: 'point',
      name: `of log ${this.log}`,
      reason: 'its window has just ended',
    });
  }

  /** Points of the segments `last` down to `first`, newest first. */
  async *#down(first: number, last: number): AsyncGenerator<FoundPoint> {
    for (let number = last; number >= first; number -= 1) {
      const segment = await this.header(number);
      const covered = await this.#coveredBefore(number);
      if (segment.lastSeq <= covered) continue;
      const runs = await readIndex(this.#context.store, segment);
      for (const run of runs.toReversed())
        if (run.kind === 'flushMark' && run.seq > covered) {
          const { seq, wallMs, sizeBytes } = run;
          yield { seq, wallMs, sizeBytes, segment };
        }
    }
  }

  async #coveredBefore(number: number): Promise<number> {
    const base = this.#bases[0];
    if (base === undefined || number - 1 <= base.root) return base?.seq ?? 0;
    return (await this.header(number - 1)).lastSeq;
  }

  /** Lowest segment that covers this record, or the one behind the last. */
  async #segmentOf(seq: number): Promise<number> {
    let low = this.floor + 1;
    let high = this.#end + 1;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if ((await this.header(middle)).lastSeq >= seq) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** All points, newest first. @param mayHold false: no point between these times is wanted */
  async *down(
    before: number,
    mayHold: (earliestMs: number, latestMs: number) => boolean,
  ): AsyncGenerator<FoundPoint> {
    let last = Math.min(this.#end, await this.#segmentOf(before));
    for (const base of this.#bases.toReversed()) {
      if (last <= base.root) continue;
      if (this.#mayHold(base, last, mayHold)) yield* this.#below(before, base.root + 1, last);
      last = base.root;
    }
    const { first = null, seq = 0 } = this.#bases[0] ?? {};
    if (first?.seq === seq && seq < before)
      yield { seq, wallMs: first.wallMs, sizeBytes: first.sizeBytes, segment: null };
  }

  /** Behind the newest root its base knows nothing yet. */
  #mayHold(base: Base, last: number, wanted: (from: number, to: number) => boolean): boolean {
    if (last > this.root.header.number) return true;
    return base.times !== null && wanted(...base.times);
  }

  async *#below(before: number, first: number, last: number): AsyncGenerator<FoundPoint> {
    for await (const point of this.#down(first, last)) if (point.seq < before) yield point;
  }

  async find(choice: PointChoice): Promise<FoundPoint | undefined> {
    const { before, isWanted, mayHold } = searchFor(choice);
    for await (const point of this.down(before, mayHold)) {
      if (isWanted(point)) return point;
      if (!('timeMs' in choice)) return undefined; // the first one decides
    }
    return undefined;
  }

  async list(filter: PointFilter, signal: AbortSignal): Promise<{ points: Mark[]; more: boolean }> {
    const { sinceMs = -Infinity, untilMs = Infinity, before = Infinity, limit } = filter;
    const points: Mark[] = [];
    const mayHold = (earliest: number, latest: number): boolean =>
      earliest <= untilMs && latest >= sinceMs;
    for await (const { seq, wallMs, sizeBytes } of this.down(before, mayHold)) {
      signal.throwIfAborted();
      if (wallMs < sinceMs || wallMs > untilMs) continue;
      if (points.length === limit) return { points, more: true };
      points.push({ seq, wallMs, sizeBytes });
    }
    return { points, more: false };
  }

  /** The oldest and the newest point, null when there is none. */
  async ends(): Promise<{ oldest: Mark | null; newest: Mark | null }> {
    const oldest = this.#bases[0]?.first ?? null;
    for await (const newest of this.down(Infinity, () => true))
      return { oldest: oldest ?? newest, newest };
    return { oldest: null, newest: null };
  }
}

function searchFor(choice: PointChoice): {
  readonly before: number;
  readonly isWanted: (point: Mark) => boolean;
  readonly mayHold: (earliestMs: number) => boolean;
} {
  if ('timeMs' in choice) {
    const { timeMs } = choice;
    return {
      before: Infinity,
      isWanted: ({ wallMs }) => wallMs <= timeMs,
      mayHold: (earliestMs) => earliestMs <= timeMs,
    };
  }
  const isWanted = ({ seq }: Mark): boolean => !('flush' in choice) || seq === choice.flush;
  const before = 'flush' in choice ? choice.flush + 1 : choice.beforeFlush;
  return { before, isWanted, mayHold: () => true };
}

/** The points of a log; undefined when its newest root keeps none. */
export async function openPoints(context: HlfsContext, log: LogId): Promise<LogPoints | undefined> {
  const numbers = await listSegments(context.store, log);
  const root = await newestRoot(context.store, log, numbers);
  const facts = root?.facts.points;
  if (root === null || facts === undefined) return undefined;
  const present = new Set(numbers);
  let end = root.header.number;
  while (present.has(end + 1)) end += 1;
  return new LogPoints(context, log, root, basesOf(facts), end);
}

/** Of a volume that is not open: what its newest root says. */
export async function summarizePoints(context: HlfsContext, log: LogId): Promise<PointSummary> {
  const points = await openPoints(context, log);
  if (points === undefined) return { oldest: null, newest: null, heldBytes: 0 };
  const table = new SegmentTable(points.root.table);
  table.floor = points.floor;
  const heldBytes = table.pointBytes(await retainedPositions(context, log));
  return { ...(await points.ends()), heldBytes };
}
