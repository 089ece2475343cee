/**
 * Life and death of a log's segments.
 *
 * A unit is a block of 4 KiB (which takes fewer bytes where it is compressed), a map page, or a root record. A segment is born
 * with its number, lives while the newest map refers to one of its units, and dies at the number of the segment whose
 * application released the last one. It may be deleted when
 *   - two durable roots postdate its death (L3: a bad newest root must not cost data), and
 *   - no snapshot or fork of this log has its position between birth and death (G2), and
 *   - it died at or before the *floor*, when points in time are kept: what died later some point needs (DD-0013).
 * Only the log that wrote a segment deletes it: numbers of the base are not in the table.
 */
import { blockBytes } from './pointer.ts';
import type { SegmentRow } from './root-format.ts';

/** What the segments that no position holds take, and what of them is needed. */
export interface Usage {
  readonly storedBytes: number;
  readonly liveBytes: number;
  /** Of segments in which nothing lives any more; further roots let them go. */
  readonly deadBytes: number;
}

export class SegmentTable {
  readonly rows: Map<number, SegmentRow>;
  storedBytes = 0;
  /** Units that the map refers to, in all segments. */
  liveUnits = 0;
  /** Bytes that those units take. */
  liveBytes = 0;
  /** Root from which every later point can be rebuilt, as the newest durable root says; null: no points are kept. */
  floor: number | null = null;

  constructor(rows: Map<number, SegmentRow>) {
    this.rows = rows;
    this.sum();
  }

  /** The sums of the rows, after these were set from outside. */
  sum(): void {
    this.storedBytes = 0;
    this.liveUnits = 0;
    this.liveBytes = 0;
    for (const row of this.rows.values()) {
      this.storedBytes += row.bytes;
      this.liveUnits += row.live;
      this.liveBytes += row.liveBytes;
    }
  }

  /** Adding one that is there changes nothing: a segment may be applied again after a failure. */
  add(number: number, bytes: number): void {
    if (this.rows.has(number)) return;
    this.rows.set(number, { bytes, live: 0, liveBytes: 0, death: 0 });
    this.storedBytes += bytes;
  }

  /** @param bytes that the unit takes in the segment */
  retain(number: number, bytes: number = blockBytes): void {
    const row = this.rows.get(number);
    if (row === undefined) return;
    row.live += 1;
    row.liveBytes += bytes;
    row.death = 0;
    this.liveUnits += 1;
    this.liveBytes += bytes;
  }

  /** A unit of `number` is released because of segment `at`. */
  release(number: number, at: number, bytes: number = blockBytes): void {
    const row = this.rows.get(number);
    if (row === undefined) return;
    row.live -= 1;
    row.liveBytes -= bytes;
    this.liveUnits -= 1;
    this.liveBytes -= bytes;
    if (row.live === 0) row.death = at;
  }

  /** After a segment was applied: one that nothing refers to was dead at birth. */
  settle(number: number): void {
    const row = this.rows.get(number);
    if (row !== undefined && row.live === 0 && row.death === 0) row.death = number;
  }

  /** Is anything dead that a further root would let go? */
  get hasDead(): boolean {
    for (const row of this.rows.values()) if (row.death !== 0) return true;
    return false;
  }

  /**
   * Segments that may go.
   * @param olderRoot the older of the two newest durable roots, 0 when there is none
   * @param positions of snapshots and forks of this log, ascending
   */
  deletable(olderRoot: number, positions: readonly number[]): number[] {
    const out: number[] = [];
    for (const [number, row] of this.rows)
      if (row.death !== 0 && row.death <= olderRoot && !this.isNeeded(number, positions))
        out.push(number);
    return out;
  }

  /** @param positions ascending */
  usage(positions: readonly number[]): Usage {
    const usage = { storedBytes: 0, liveBytes: 0, deadBytes: 0 };
    for (const [number, row] of this.rows) {
      if (this.isNeeded(number, positions)) continue;
      usage.storedBytes += row.bytes;
      usage.liveBytes += liveBytes(row);
      if (row.death !== 0) usage.deadBytes += row.bytes;
    }
    return usage;
  }

  /** Bytes that only the points in time need. */
  pointBytes(positions: readonly number[]): number {
    let sum = 0;
    for (const [number, row] of this.rows)
      if (this.isOfPoints(number, row.death) && !isHeld(number, row.death, positions))
        sum += row.bytes - liveBytes(row);
    return sum;
  }

  /** Does a snapshot, a fork or a point in time need what is dead in this segment? */
  isNeeded(number: number, positions: readonly number[]): boolean {
    const death = this.rows.get(number)?.death ?? 0;
    return this.isOfPoints(number, death) || isHeld(number, death, positions);
  }

  /** What was alive at the floor, or came after it; of a segment below the floor what died before it is needed by none. */
  isOfPoints(number: number, death: number): boolean {
    return this.floor !== null && (death === 0 ? number : death) > this.floor;
  }

  remove(number: number): void {
    const row = this.rows.get(number);
    if (row === undefined) return;
    this.storedBytes -= row.bytes;
    this.liveUnits -= row.live;
    this.liveBytes -= row.liveBytes;
    this.rows.delete(number);
  }
}

/** What of a segment is needed, without what frames it. */
export const liveBytes = (row: Readonly<SegmentRow>): number => Math.min(row.bytes, row.liveBytes);

/**
 * G2: does a position lie between birth and death? A death of 0 is none.
 * @param positions ascending: a volume may have 100,000 snapshots, and each segment is asked about
 */
export function isHeld(birth: number, death: number, positions: readonly number[]): boolean {
  let low = 0;
  let high = positions.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((positions[middle] ?? 0) < birth) low = middle + 1;
    else high = middle;
  }
  const first = positions[low];
  return first !== undefined && (death === 0 || first < death);
}
