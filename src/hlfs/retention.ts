/**
 * The window of a volume that keeps points in time (DD-0013): which roots its points are rebuilt from, and when the oldest of
 * them may go.
 *
 *   base    a root; each point behind it is rebuilt from it by rolling segments forward, up to the mark
 *   floor   the oldest base. What died at or before it no point needs (segment-table.ts)
 *
 * Invariants:
 * - the floor moves to the next base only when some point at or behind that base is as old as the window: so the state at any
 *   time within the window can be had, the oldest moment included;
 * - age is counted in time in which the log was open, by the monotonic clock; a clock that is set moves nothing, and a volume
 *   that is closed ages not at all;
 * - a floor holds for deletion only once a durable root has it. A fork writes its pins, then reads that root; who deletes
 *   reads the pins after the root: so one of the two sees the other (G3).
 */
import { type Clock, limits } from '../base/index.ts';
import type { Mark } from './history.ts';
import type { PointFacts } from './root-format.ts';
import type { IndexRun } from './segment-index.ts';

interface AgedPoint extends Mark {
  readonly agedMs: number;
}

export interface Base {
  readonly root: number;
  readonly seq: number;
  readonly agedMs: number;
  first: AgedPoint | null;
  times: readonly [number, number] | null;
}

export interface RetentionStart {
  readonly retainMs: number;
  /** What the root says from which recovery goes on; undefined when it kept no points. */
  readonly facts: PointFacts | undefined;
  /** The root itself: the first base where there was none. */
  readonly root: number;
  readonly seq: number;
}

const pointOf = (text: NonNullable<PointFacts['last']>): AgedPoint => ({
  seq: Number(text.seq),
  wallMs: text.wallMs,
  sizeBytes: Number(text.sizeBytes),
  agedMs: text.agedMs,
});

const textOf = ({
  seq,
  wallMs,
  sizeBytes,
  agedMs,
}: AgedPoint): NonNullable<PointFacts['last']> => ({
  seq: String(seq),
  wallMs,
  sizeBytes: String(sizeBytes),
  agedMs: Math.round(agedMs),
});

export const basesOf = (facts: PointFacts): Base[] =>
  facts.bases.map(({ root, seq, agedMs, first, times }) => ({
    root,
    seq: Number(seq),
    agedMs,
    first: first === null ? null : pointOf(first),
    times,
  }));

export class Retention {
  retainMs: number;
  readonly #clock: Clock;
  readonly #openedMs: number;
  readonly #agedBefore: number;
  #bases: Base[];
  #last: AgedPoint | null;

  constructor(clock: Clock, { retainMs, facts, root, seq }: RetentionStart) {
    this.#clock = clock;
    this.#openedMs = clock.monotonicMs();
    this.retainMs = retainMs;
    this.#agedBefore = facts?.agedMs ?? 0;
    const start = { root, seq, agedMs: 0, first: null, times: null };
    this.#bases = facts === undefined ? [start] : basesOf(facts);
    this.#last = facts?.last === undefined || facts.last === null ? null : pointOf(facts.last);
  }

  get #agedMs(): number {
    return this.#agedBefore + Math.max(0, this.#clock.monotonicMs() - this.#openedMs);
  }

  /** Where the floor is once the next root is durable. */
  get floor(): number {
    return this.#bases[this.#expired()]?.root ?? 0;
  }
  /** The oldest and the newest point; null while there is none. */
  get oldest(): Mark | null {
    return this.#bases[this.#expired()]?.first ?? null;
  }
  get newest(): Mark | null {
    return this.#last;
  }
  /** The floor can move: a root is worth writing for that alone. */
  get isDue(): boolean {
    return this.dueInMs === 0;
  }
  /** Until then nothing expires; null while nothing will. */
  get dueInMs(): number | null {
    const next = this.#bases[1]?.first ?? (this.#endsBehindBase ? this.#last : null);
    return next === null ? null : Math.max(0, next.agedMs + this.retainMs - this.#agedMs);
  }

  /** A root written now could be the only base, once the last point is old enough. */
  get #endsBehindBase(): boolean {
    return this.#last !== null && this.#last.seq > (this.#bases.at(-1)?.seq ?? 0);
  }

  /** How many bases from the oldest on are not needed any more. */
  #expired(): number {
    const bound = this.#agedMs - this.retainMs;
    let count = 0;
    for (let next = 1; next < this.#bases.length; next += 1) {
      const first = this.#bases[next]?.first;
      if (first !== undefined && first !== null && first.agedMs <= bound) count = next;
    }
    return count;
  }

  /** A segment was applied to the map. */
  applied(runs: readonly IndexRun[]): void {
    const base = this.#bases.at(-1);
    for (const run of runs) {
      if (run.kind !== 'flushMark') continue;
      // Applied again after a failure.
      if (run.seq <= (this.#last?.seq ?? 0)) continue;
      const { seq, wallMs, sizeBytes } = run;
      const point = { seq, wallMs, sizeBytes, agedMs: this.#agedMs };
      this.#last = point;
      if (base === undefined || run.seq <= base.seq) continue;
      base.first ??= point;
      const [earliest, latest] = base.times ?? [point.wallMs, point.wallMs];
      base.times = [Math.min(earliest, point.wallMs), Math.max(latest, point.wallMs)];
    }
  }

  /** The bases as they are once this root is durable. */
  next(root: number, seq: number): Base[] {
    const kept = this.#bases.slice(this.#expired()).map((base) => ({ ...base }));
    const agedMs = this.#agedMs;
    // A root right at a point is that point.
    const first = this.#last?.seq === seq ? this.#last : null;
    const base = { root, seq, agedMs, first, times: null };
    const newest = kept.at(-1);
    if (newest === undefined || (newest.times === null && newest.first === null))
      return [...kept.slice(0, -1), base];
    if (newest.seq === seq) return kept;
    // So that their number is bounded: the window moves in steps of this size.
    const stepMs = this.retainMs / limits.pointBasesMax;
    return agedMs - newest.agedMs < stepMs ? kept : [...kept, base];
  }

  /** What the root record says of them. */
  factsOf(bases: readonly Base[]): PointFacts {
    return {
      retainMs: this.retainMs,
      agedMs: Math.round(this.#agedMs),
      last: this.#last === null ? null : textOf(this.#last),
      bases: bases.map(({ root, seq, agedMs, first, times }) => ({
        root,
        seq: String(seq),
        agedMs: Math.round(agedMs),
        first: first === null ? null : textOf(first),
        times,
      })),
    };
  }

  /** The root that says so is durable. */
  commit(bases: Base[]): void {
    this.#bases = bases;
  }
}
