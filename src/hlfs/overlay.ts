/**
 * What was journaled and is not in the map yet, block by block: the newest content of each block that a batch touched.
 *
 * Invariants:
 * - applying is in journal order; a later record replaces an earlier one (J1);
 * - an entry for a block is newer than every tombstone that covers the block (a tombstone removes the entries below it);
 * - a block of which only a part was written is held in memory and completed when the batch is built, never before the
 *   acknowledgement (design section 5);
 * - payloads are kept in memory for the build as far as the budget goes; what is not kept is read from the journal.
 *
 *   entry   full block in the journal at an address, with its checksum
 *           hole, or zeros that stay allocated
 *           partial: 4 KiB buffer + the byte ranges that are valid in it + what lies under it
 *   tombstone   a long range of holes or zeros (J9)
 */
import { crc32c, DvceError, holdPayload, letGoOfPayload } from '../base/index.ts';
import type { BuildBudget } from './build-budget.ts';
import { History } from './history.ts';
import type { Appended } from './journal.ts';
import type { JournalReads } from './journal-reader.ts';
import { fanout } from './map-page.ts';
import {
  type Entry,
  type KeptPayload,
  type PartialBlock,
  type Tombstone,
  tombstoneOf,
} from './overlay-entry.ts';
import { blockBytes } from './pointer.ts';

export type { Entry, KeptPayload, PartialBlock, Tombstone } from './overlay-entry.ts';

/** Values of `#addresses` below zero. */
const holeMark = -1;
const zeroMark = -2;
const partialMark = -3;

export class Overlay {
  /** Records up to this one are in here (or below). */
  lastSeq: number;
  readonly firstSeq: number;
  /** Bytes of blocks held, what a segment of this batch would take. */
  dataBlocks = 0;
  firstWallMs = 0;
  readonly tombstones: Tombstone[] = [];
  readonly #index = new Map<number, number>();
  #addresses = new Float64Array(1024);
  #checksums = new Uint32Array(1024);
  #used = 0;
  /** Leaves of the map that the blocks lie in, and the pages above the leaves. */
  readonly #leaves = new Set<number>();
  readonly #regions = new Set<number>();
  #lastLeaf = -1;
  readonly #partials = new Map<number, PartialBlock>();
  /** Of a volume that keeps points in time: what the segment is made of. */
  readonly history: History | null;
  readonly #reads: JournalReads;
  readonly #budget: BuildBudget;
  /** As `#addresses`, for blocks whose payload is in memory. */
  #kept: (KeptPayload | undefined)[] = [];
  #keptBytes = 0;
  /** Each payload that is kept, once. */
  #held: Buffer[] = [];

  constructor(
    firstSeq: number,
    reads: JournalReads,
    budget: BuildBudget,
    { keepsPoints = false } = {},
  ) {
    this.history = keepsPoints ? new History(this) : null;
    this.firstSeq = firstSeq;
    this.lastSeq = firstSeq - 1;
    this.#reads = reads;
    this.#budget = budget;
  }

  get isEmpty(): boolean {
    const hasMarks = this.history !== null && this.history.marks > 0;
    return this.#index.size === 0 && this.tombstones.length === 0 && !hasMarks;
  }
  /** Blocks named. */
  get entries(): number {
    return this.#index.size;
  }
  /** At most so many map pages change when this is applied; tombstones, of which there are few, are not counted. */
  get mapPages(): number {
    const regions = this.#regions.size;
    return this.#leaves.size + regions + Math.min(regions, fanout) + 1;
  }
  /** Does anything in here concern one of these blocks? */
  touches(block: number, count: number): boolean {
    const end = block + count;
    if (this.tombstones.some((each) => each.block < end && block < each.block + each.count))
      return true;
    for (const each of this.#index.keys()) if (each >= block && each < end) return true;
    return false;
  }
  get partialBlocks(): number {
    return this.#partials.size;
  }
  /** The journal as it lies, from an address on. */
  readJournal(address: number, target: Buffer): Promise<void> {
    return this.#budget.inTurn(() => this.#reads.later(address, target));
  }
  /** Blocks with an entry, ascending. */
  blocks(): Float64Array {
    return Float64Array.from(this.#index.keys()).sort();
  }

  /**
   * Apply one journaled record. `known` records may come again after a move; the outcome is the same.
   * @param mayKeep the payload stays as it is as long as somebody refers to it
   */
  apply(record: Appended, { mayKeep = true } = {}): void {
    const { kind, offset, length, payload } = record.entry;
    if (kind === 'write' && payload !== null)
      this.#applyWrite(record, payload, mayKeep ? this.#keep(record, payload) : undefined);
    else if (kind === 'hole' || kind === 'zero') this.#applyZero(kind, offset, length);
    if (record.seq <= this.lastSeq) this.history?.move(record);
    else {
      this.lastSeq = record.seq;
      this.history?.apply(record);
    }
    if (this.firstWallMs === 0) this.firstWallMs = record.entry.wallMs;
  }

  #keep(record: Appended, bytes: Buffer): KeptPayload | undefined {
    // A volume that keeps points in time is built from what it keeps of each.
    const isNotUsed = record.seq <= this.lastSeq || this.history !== null;
    if (isNotUsed || bytes.byteLength < blockBytes || !this.#budget.keep(bytes.byteLength))
      return undefined;
    this.#keptBytes += bytes.byteLength;
    holdPayload(bytes);
    this.#held.push(bytes);
    return { bytes, address: record.address };
  }

  /**
   * Payloads are not needed in memory any more: the batch is in the map, or will never be built.
   * @param isInMap nobody writes them to the store any more, so their memory may be used again
   */
  letGo(isInMap: boolean): void {
    if (isInMap) for (const payload of this.#held) letGoOfPayload(payload);
    this.#held = [];
    this.#budget.letGo(this.#keptBytes);
    this.#keptBytes = 0;
    this.#kept = [];
  }

  #applyWrite(record: Appended, payload: Buffer, kept: KeptPayload | undefined): void {
    const { offset } = record.entry;
    let at = 0;
    for (let piece = 0; at < payload.byteLength; piece += 1) {
      const position = offset + at;
      const block = Math.floor(position / blockBytes);
      const within = position % blockBytes;
      const bytes = Math.min(blockBytes - within, payload.byteLength - at);
      if (bytes === blockBytes)
        this.#set(block, record.address + at, record.checksums[piece] ?? 0, kept);
      else this.#patch(block, within, payload.subarray(at, at + bytes));
      at += bytes;
    }
  }

  /** A range becomes holes or zeros; its ends may lie within blocks. */
  #applyZero(kind: 'hole' | 'zero', offset: number, length: number): void {
    const end = offset + length;
    const firstWhole = Math.ceil(offset / blockBytes);
    const lastWhole = Math.floor(end / blockBytes);
    if (firstWhole > lastWhole) {
      this.#patchZeros(firstWhole - 1, offset % blockBytes, end % blockBytes);
      return;
    }
    if (offset % blockBytes !== 0)
      this.#patchZeros(firstWhole - 1, offset % blockBytes, blockBytes);
    if (end % blockBytes !== 0) this.#patchZeros(lastWhole, 0, end % blockBytes);
    const tombstone = tombstoneOf(kind, { offset, length });
    if (tombstone !== null) this.#bury(tombstone);
    else
      for (let block = firstWhole; block < lastWhole; block += 1)
        this.#set(block, kind === 'hole' ? holeMark : zeroMark, 0);
  }

  #patchZeros(block: number, from: number, to: number): void {
    if (to > from) this.#patch(block, from, zeroBlock.subarray(0, to - from));
  }

  /** A tombstone: entries below it go away, so that an entry is always newer than a tombstone. */
  #bury({ block, count, kind }: Tombstone): void {
    if (count < this.#index.size)
      for (let each = block; each < block + count; each += 1) this.#drop(each);
    else
      for (const each of [...this.#index.keys()])
        if (each >= block && each < block + count) this.#drop(each);
    this.tombstones.push({ block, count, kind });
  }

  #drop(block: number): void {
    const i = this.#index.get(block);
    if (i === undefined) return;
    if (isData(this.#addresses[i] ?? 0)) this.dataBlocks -= 1;
    this.#index.delete(block);
    this.#partials.delete(block);
  }

  #set(block: number, address: number, checksum: number, kept?: KeptPayload): void {
    let i = this.#index.get(block);
    if (i === undefined) {
      i = this.#used;
      this.#used += 1;
      if (i === this.#addresses.length) this.#grow();
      this.#index.set(block, i);
      this.#addresses[i] = holeMark;
      this.#countLeaf(Math.floor(block / fanout));
    }
    const before = isData(this.#addresses[i] ?? 0) ? 1 : 0;
    if (this.#addresses[i] === partialMark && address !== partialMark) this.#partials.delete(block);
    this.#addresses[i] = address;
    this.#checksums[i] = checksum;
    this.#kept[i] = kept;
    this.dataBlocks += (isData(address) ? 1 : 0) - before;
  }

  #countLeaf(leaf: number): void {
    if (leaf === this.#lastLeaf) return;
    this.#lastLeaf = leaf;
    this.#leaves.add(leaf);
    this.#regions.add(Math.floor(leaf / fanout));
  }

  #grow(): void {
    const addresses = new Float64Array(this.#addresses.length * 2);
    addresses.set(this.#addresses);
    this.#addresses = addresses;
    const checksums = new Uint32Array(this.#checksums.length * 2);
    checksums.set(this.#checksums);
    this.#checksums = checksums;
  }

  #patch(block: number, within: number, bytes: Buffer): void {
    let partial = this.#partials.get(block);
    if (partial === undefined) {
      partial = { bytes: Buffer.alloc(blockBytes), ranges: [], under: this.#underOf(block) };
      this.#set(block, partialMark, 0);
      this.#partials.set(block, partial);
    }
    bytes.copy(partial.bytes, within);
    partial.ranges = addRange(partial.ranges, within, within + bytes.byteLength);
  }

  #underOf(block: number): PartialBlock['under'] {
    const entry = this.find(block);
    if (entry === undefined) return { kind: 'below' };
    if (entry.kind !== 'journal') return { kind: 'zero' };
    return { kind: 'journal', address: entry.address, checksum: entry.checksum };
  }

  /** What this overlay says of a block; undefined: nothing, look below. */
  find(block: number): Entry | undefined {
    const i = this.#index.get(block);
    if (i === undefined) return this.#buried(block);
    const address = this.#addresses[i] ?? holeMark;
    if (address >= 0) {
      const kept = this.#kept[i] ?? null;
      return { kind: 'journal', address, checksum: this.#checksums[i] ?? 0, kept };
    }
    if (address === holeMark) return { kind: 'hole' };
    if (address === zeroMark) return { kind: 'zero' };
    const partial = this.#partials.get(block);
    return partial === undefined ? undefined : { kind: 'partial', partial };
  }

  /** As `find`, without an object: the address of a full block in the journal, or -1. */
  journalAddress(block: number): number {
    const i = this.#index.get(block);
    if (i === undefined) return -1;
    const address = this.#addresses[i] ?? -1;
    return address >= 0 ? address : -1;
  }

  #buried(block: number): Entry | undefined {
    for (let i = this.tombstones.length - 1; i >= 0; i -= 1) {
      const tombstone = this.tombstones[i];
      if (tombstone && block >= tombstone.block && block < tombstone.block + tombstone.count)
        return { kind: tombstone.kind };
    }
    return undefined;
  }

  /** Lay the valid bytes of a partial block over `target`, which holds what is under it. */
  static overlayPartial(partial: PartialBlock, target: Buffer): void {
    for (let i = 0; i < partial.ranges.length; i += 2)
      partial.bytes.copy(target, partial.ranges[i], partial.ranges[i], partial.ranges[i + 1]);
  }

  /**
   * What lies in the journal may have been on a disk and back. It is checked before it is handed out (B-25), and before it is
   * sealed together with new bytes under a new checksum (invariant 7).
   */
  #readChecked(
    under: { readonly address: number; readonly checksum: number },
    target: Buffer,
  ): void {
    this.#reads.now(under.address, target);
    if (crc32c(target) === under.checksum) return;
    throw new DvceError('JOURNAL_DAMAGED', {
      name: 'the volume',
      reason: `the block at address ${under.address} does not fit its checksum any more`,
    });
  }

  /** Fill `target` (4 KiB) when the block can be had without looking below; false when it cannot. */
  fill(entry: Entry, target: Buffer): boolean {
    switch (entry.kind) {
      case 'journal':
        this.#readChecked(entry, target);
        return true;
      case 'hole':
      case 'zero':
        target.fill(0);
        return true;
      case 'partial':
        if (entry.partial.under.kind === 'below' && !isWhole(entry.partial)) return false;
        if (entry.partial.under.kind === 'journal') this.#readChecked(entry.partial.under, target);
        else target.fill(0);
        Overlay.overlayPartial(entry.partial, target);
        return true;
    }
  }
}

const zeroBlock = Buffer.alloc(blockBytes);
const isData = (address: number): boolean => address >= 0 || address === partialMark;
const isWhole = (partial: PartialBlock): boolean =>
  partial.ranges.length === 2 && partial.ranges[0] === 0 && partial.ranges[1] === blockBytes;

/** Add [start, end) to sorted disjoint ranges, merging what touches. */
function addRange(ranges: readonly number[], start: number, end: number): number[] {
  const out: number[] = [];
  let from = start;
  let to = end;
  let placed = false;
  for (let i = 0; i < ranges.length; i += 2) {
    const a = ranges[i] ?? 0;
    const b = ranges[i + 1] ?? 0;
    if (b < from) out.push(a, b);
    else if (a > to) {
      if (!placed) out.push(from, to);
      placed = true;
      out.push(a, b);
    } else {
      from = Math.min(from, a);
      to = Math.max(to, b);
    }
  }
  if (!placed) out.push(from, to);
  return out;
}
