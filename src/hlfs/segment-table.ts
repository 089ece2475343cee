/**
 * Life and death of a log's segments.
 *
 * A unit is a 4 KiB block, a map page, or a root record. A segment is born with its number, lives while the newest map
 * refers to one of its units, and dies at the number of the segment whose application released the last one. It may be
 * deleted when
 *   - two durable roots postdate its death (L3: a bad newest root must not cost data), and
 *   - no snapshot or fork of this log has its position between birth and death (G2).
 * Only the log that wrote a segment deletes it: numbers of the base are not in the table.
 */
import type { SegmentRow } from './root-format.ts';

export class SegmentTable {
  readonly rows: Map<number, SegmentRow>;
  storedBytes = 0;

  constructor(rows: Map<number, SegmentRow>) {
    this.rows = rows;
    for (const row of rows.values()) this.storedBytes += row.bytes;
  }

  /** Adding one that is there changes nothing: a segment may be applied again after a failure. */
  add(number: number, bytes: number): void {
    if (this.rows.has(number)) return;
    this.rows.set(number, { bytes, live: 0, death: 0 });
    this.storedBytes += bytes;
  }

  retain(number: number): void {
    const row = this.rows.get(number);
    if (row === undefined) return;
    row.live += 1;
    row.death = 0;
  }

  /** A unit of `number` is released because of segment `at`. */
  release(number: number, at: number): void {
    const row = this.rows.get(number);
    if (row === undefined) return;
    row.live -= 1;
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
   * @param positions of snapshots and forks of this log
   */
  deletable(olderRoot: number, positions: readonly number[]): number[] {
    const out: number[] = [];
    for (const [number, row] of this.rows)
      if (row.death !== 0 && row.death <= olderRoot && !isHeld(number, row.death, positions))
        out.push(number);
    return out;
  }

  /** Bytes of dead segments that no position holds: what further roots would let go. */
  reclaimableBytes(positions: readonly number[]): number {
    let sum = 0;
    for (const [number, row] of this.rows)
      if (row.death !== 0 && !isHeld(number, row.death, positions)) sum += row.bytes;
    return sum;
  }

  /** Bytes in segments that no position holds and that the newest map does not refer to: what cleaning can give back. */
  debtBytes(positions: readonly number[], unitBytes: number): number {
    let sum = 0;
    for (const [number, row] of this.rows)
      if (!isHeld(number, row.death, positions))
        sum += Math.max(0, row.bytes - row.live * unitBytes);
    return sum;
  }

  remove(number: number): void {
    const row = this.rows.get(number);
    if (row === undefined) return;
    this.storedBytes -= row.bytes;
    this.rows.delete(number);
  }
}

/** G2: does a position lie between birth and death? A death of 0 is none. */
export const isHeld = (birth: number, death: number, positions: readonly number[]): boolean =>
  positions.some((position) => birth <= position && (death === 0 || position < death));
