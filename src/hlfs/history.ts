/**
 * What a batch of a volume that keeps points in time holds besides its newest content: each block as it was at every flush
 * mark (DD-0013). Beside the overlay, which serves reads; the segment is made from here.
 *
 *   interval   records between two flush marks: long ranges of holes or zeros first, then each block that they touched, once
 *   mark       the record of a flush: the content up to here is a point that can be had back
 *
 * Invariants:
 * - nothing is merged across a mark: applying the intervals in order up to a mark gives exactly the volume at that flush;
 * - a block's content is an address in the journal, or bytes taken at the mark. A part of a block whose rest is not in this
 *   batch is completed when the segment is made, like in the overlay, from below the whole batch;
 * - records that come again because the journal moved them (J5) change addresses and nothing else.
 */
import type { Appended } from './journal.ts';
import { type Entry, type PartialBlock, type Tombstone, tombstoneOf } from './overlay-entry.ts';
import { blockBytes } from './pointer.ts';

/** The overlay beside. */
export interface Newest {
  find(block: number): Entry | undefined;
  fill(entry: Entry, target: Buffer): boolean;
}

/** A flush: its record in the journal, when it was, and the size of the volume then. */
export interface Mark {
  readonly seq: number;
  readonly wallMs: number;
  readonly sizeBytes: number;
}

/** A block as it was at the end of its interval. */
export interface Version {
  readonly block: number;
  entry: Entry;
}

export interface Interval {
  readonly tombstones: readonly Tombstone[];
  /** By block. */
  readonly versions: readonly Version[];
  /** null: after the last mark of the batch. */
  readonly mark: Mark | null;
}

export class History {
  readonly #overlay: Newest;
  readonly #intervals: Interval[] = [];
  /** Of the open interval. */
  readonly #touched = new Set<number>();
  #tombstones: Tombstone[] = [];
  #isClosed = false;
  #marks = 0;
  #entries = 0;
  #dataBlocks = 0;
  #partialBlocks = 0;

  constructor(overlay: Newest) {
    this.#overlay = overlay;
  }

  get marks(): number {
    return this.#marks;
  }
  /** Blocks that the segment would hold, at most. */
  get dataBlocks(): number {
    return this.#dataBlocks + this.#touched.size;
  }
  /** Blocks named, each once for every interval. */
  get entries(): number {
    return this.#entries + this.#touched.size;
  }
  /** Blocks of which bytes are in memory. */
  get partialBlocks(): number {
    return this.#partialBlocks;
  }

  /** The overlay has applied this record just now, for the first time. */
  apply({ entry, seq }: Appended): void {
    if (entry.kind === 'flush') this.#mark({ seq, wallMs: entry.wallMs, sizeBytes: entry.offset });
    else if (entry.length > 0) this.#touch(entry);
  }

  #touch(entry: Appended['entry']): void {
    const end = entry.offset + entry.length;
    const first = Math.floor(entry.offset / blockBytes);
    const last = Math.floor((end - 1) / blockBytes);
    const { kind } = entry;
    const isEmpty = kind === 'hole' || kind === 'zero';
    const tombstone = isEmpty ? tombstoneOf(kind, entry) : null;
    if (tombstone === null)
      for (let block = first; block <= last; block += 1) this.#touched.add(block);
    else {
      this.#tombstones.push(tombstone);
      // Only the blocks at its ends can hold anything else.
      this.#touched.add(first);
      this.#touched.add(last);
    }
  }

  #mark(mark: Mark): void {
    const interval = this.#open(mark);
    this.#marks += 1;
    for (const { entry } of interval.versions) {
      if (entry.kind === 'journal' || entry.kind === 'partial') this.#dataBlocks += 1;
      if (entry.kind === 'partial') this.#partialBlocks += 1;
    }
    this.#entries += interval.versions.length;
    this.#intervals.push(interval);
    this.#touched.clear();
    this.#tombstones = [];
  }

  #open(mark: Interval['mark']): Interval {
    const versions: Version[] = [];
    for (const block of Float64Array.from(this.#touched).sort()) {
      const entry = this.#overlay.find(block);
      if (entry !== undefined) versions.push({ block, entry: this.#kept(entry) });
    }
    return { tombstones: this.#tombstones, versions, mark };
  }

  /** The overlay goes on changing its partial blocks: this one stays as it is now. */
  #kept(entry: Entry): Entry {
    if (entry.kind !== 'partial') return entry;
    const bytes = Buffer.alloc(blockBytes);
    if (this.#overlay.fill(entry, bytes)) return { kind: 'partial', partial: whole(bytes) };
    const { partial } = entry;
    partial.bytes.copy(bytes);
    const under = { kind: 'below' } as const;
    return { kind: 'partial', partial: { bytes, ranges: [...partial.ranges], under } };
  }

  /** All of the batch, in journal order; nothing more is applied to it from now on. */
  intervals(): readonly Interval[] {
    if (!this.#isClosed) this.#intervals.push(this.#open(null));
    this.#isClosed = true;
    return this.#intervals;
  }

  /** J5: a record lies elsewhere now. The last one that wrote a block in an interval comes last here too. */
  move({ entry, seq, address, checksums }: Appended): void {
    if (entry.kind !== 'write') return;
    const interval = this.#intervals.find(({ mark }) => mark === null || seq < mark.seq);
    if (interval === undefined) return; // still open: it will ask the overlay
    const end = entry.offset + entry.length;
    for (const version of interval.versions) {
      const start = version.block * blockBytes;
      if (start < entry.offset || start + blockBytes > end || version.entry.kind !== 'journal')
        continue;
      const piece = version.block - Math.floor(entry.offset / blockBytes);
      const checksum = checksums[piece] ?? 0;
      const moved = address + start - entry.offset;
      version.entry = { kind: 'journal', address: moved, checksum, kept: null };
    }
  }
}

const whole = (bytes: Buffer): PartialBlock => ({
  bytes,
  ranges: [0, blockBytes],
  under: { kind: 'zero' },
});
