/**
 * A batch becomes the data and index of one segment: the newest content of every block that the overlay holds, in block
 * order. Nothing is decided here about numbers or names, so a build can be thrown away and repeated.
 *
 *   payload still in memory   goes into the segment from where it lies, nothing is copied
 *   payload in the journal    read through the thread pool into a slab, in few large reads
 *   a part of a block         completed in a slab
 *
 * Every block is checked against its journal checksum on the way: what memory or the journal's file gives back is not trusted
 * more than a segment (invariant 7). Neighbours that lie side by side are summed at once and compared with the joined
 * checksums of their blocks; the same checksums, joined further, become those of the segment's chunks.
 */
import {
  allocatePayload,
  crc32c,
  crc32cJoined,
  DvceError,
  KiB,
  letGoOfPayload,
  type Timers,
} from '../base/index.ts';
import type { Interval } from './history.ts';
import { journalFileHeaderBytes } from './journal-format.ts';
import { type Entry, type KeptPayload, Overlay, type Tombstone } from './overlay.ts';
import { blockBytes } from './pointer.ts';
import { segmentDataOffset } from './segment-format.ts';
import type { IndexRun } from './segment-index.ts';

export interface Batch {
  /** Blocks one behind the other, in pieces of any number of blocks. */
  readonly data: readonly Buffer[];
  /** CRC-32C of each block of `data`, as it is. */
  readonly sums?: readonly number[] | undefined;
  readonly runs: readonly IndexRun[];
  /** Memory of the pool that `data` lies in: it goes back with `releaseBatch`. */
  readonly slabs?: readonly Buffer[];
}

type ReadBelow = (block: number, target: Buffer) => Promise<void>;

/** Blocks checked or copied before other work gets a turn: some tenths of a millisecond. */
const blocksPerTurn = 256;
/** One read of the journal. */
const windowBytes = 1024 * 1024;
/** Less than the header of a journal file, so that no window reaches from one file into the next. */
const gapBytesMax = journalFileHeaderBytes;
/** As long as those that small payloads lie in: what these let go of serves builds, and the other way round. */
const slabBytes = 64 * KiB;

/** The batch is published, or given up: its slabs may be used again. */
export function releaseBatch({ slabs = [] }: Batch): void {
  for (const slab of slabs) letGoOfPayload(slab);
}

/** A whole block that lies in the journal, and where it goes. */
interface Wanted {
  readonly block: number;
  readonly address: number;
  readonly checksum: number;
  readonly target: Buffer;
}

/** Blocks side by side in one buffer. */
interface Piece {
  readonly buffer: Buffer;
  readonly start: number;
  end: number;
  isChecked: boolean;
  /** Of a kept payload: its first block, and where the journal has it. Null for a slab, of which blocks are checked one by one. */
  readonly kept: { readonly block: number; readonly address: number } | null;
}

/** @param readBelow content of a block below this overlay, for blocks of which only a part was written */
export async function buildBatch(
  overlay: Overlay,
  timers: Timers,
  readBelow: ReadBelow,
): Promise<Batch> {
  const breath = new Breath(timers);
  if (overlay.history !== null)
    return buildHistory(overlay, overlay.history.intervals(), breath, readBelow);
  const layout = new Layout(overlay.tombstones);
  for (const block of overlay.blocks()) {
    const entry = overlay.find(block);
    if (entry === undefined) continue;
    if (entry.kind === 'hole' || entry.kind === 'zero') layout.addEmpty(block, entry.kind);
    else if (entry.kind === 'journal') layout.addJournaled(block, entry);
    else await copyInto(layout, overlay, block, entry, readBelow);
    await breath.after(1);
  }
  layout.checkLast();
  await fetchWanted(overlay, layout.wanted, breath, readBelow);
  return layout.batch();
}

/** DD-0013: every block as it was at each flush mark, in journal order, with the marks between. */
async function buildHistory(
  overlay: Overlay,
  intervals: readonly Interval[],
  breath: Breath,
  readBelow: ReadBelow,
): Promise<Batch> {
  const layout = new Layout([]);
  for (const { tombstones, versions, mark } of intervals) {
    layout.begin(tombstones);
    for (const { block, entry } of versions) {
      if (entry.kind === 'hole' || entry.kind === 'zero') layout.addEmpty(block, entry.kind);
      else await copyInto(layout, overlay, block, entry, readBelow);
      await breath.after(1);
    }
    if (mark !== null)
      layout.runs.push({
        kind: 'flushMark',
        ...mark,
        wallMs: Math.max(0, Math.round(mark.wallMs)),
      });
  }
  return layout.batch();
}

async function copyInto(
  layout: Layout,
  overlay: Overlay,
  block: number,
  entry: Entry & { kind: 'journal' | 'partial' },
  readBelow: ReadBelow,
): Promise<void> {
  const { sum, isWhole } = await copyBlock(overlay, entry, block, layout.place(), readBelow);
  // The old rest of the block is lost: a checksum that cannot fit keeps it an error until it is overwritten whole.
  layout.add(block, sum, isWhole ? sum : (sum ^ 0xffff_ffff) >>> 0);
}

/** What goes where. */
class Layout {
  readonly runs: IndexRun[];
  readonly pieces: Piece[] = [];
  readonly sums: number[] = [];
  readonly slabs: Buffer[] = [];
  readonly wanted: Wanted[] = [];
  #slabUsed = slabBytes;
  #run: { readonly block: number; readonly checksums: number[] } | null = null;

  constructor(tombstones: readonly Tombstone[]) {
    this.runs = tombstones.map(({ block, count, kind }) => ({ kind, block, count }));
  }

  batch(): Batch {
    const { pieces, sums, runs, slabs } = this;
    const data = pieces.map(({ buffer, start, end }) => buffer.subarray(start, end));
    return { data, sums, runs, slabs };
  }

  /** What follows is applied after all before it. */
  begin(tombstones: readonly Tombstone[]): void {
    this.#run = null;
    for (const { block, count, kind } of tombstones) this.runs.push({ kind, block, count });
  }

  addEmpty(block: number, kind: 'hole' | 'zero'): void {
    this.#run = null;
    const last = this.runs.at(-1);
    if (last?.kind === kind && last.block + last.count === block)
      this.runs[this.runs.length - 1] = { ...last, count: last.count + 1 };
    else this.runs.push({ kind, block, count: 1 });
  }

  addJournaled(block: number, { address, checksum, kept }: Entry & { kind: 'journal' }): void {
    if (kept === null) this.#want(block, address, checksum);
    else this.#lay(block, address, kept);
    this.add(block, checksum, checksum);
  }

  #want(block: number, address: number, checksum: number): void {
    this.wanted.push({ block, address, checksum, target: this.place() });
  }

  #lay(block: number, address: number, { bytes, address: first }: KeptPayload): void {
    const start = address - first;
    const end = start + blockBytes;
    const last = this.pieces.at(-1);
    if (last?.kept && last.buffer === bytes && last.end === start) last.end = end;
    else {
      this.checkLast();
      this.pieces.push({ buffer: bytes, start, end, isChecked: false, kept: { block, address } });
    }
  }

  /** The next block goes into this part of a slab. */
  place(): Buffer {
    if (this.#slabUsed === slabBytes) {
      this.slabs.push(allocatePayload(slabBytes));
      this.#slabUsed = 0;
    }
    const buffer = this.slabs.at(-1) as Buffer; // there is one: pushed above when the last was used up
    const start = this.#slabUsed;
    const end = start + blockBytes;
    this.#slabUsed = end;
    const last = this.pieces.at(-1);
    if (last?.buffer === buffer && last.end === start) last.end = end;
    else {
      this.checkLast();
      this.pieces.push({ buffer, start, end, isChecked: true, kept: null });
    }
    return buffer.subarray(start, end);
  }

  /** @param checksum what the index says of the block, which lies behind those before it */
  add(block: number, sum: number, checksum: number): void {
    const run = this.#run;
    if (run === null || run.block + run.checksums.length !== block) {
      const offset = segmentDataOffset + this.sums.length * blockBytes;
      this.#run = { block, checksums: [checksum] };
      this.runs.push({ kind: 'data', offset, ...this.#run });
    } else run.checksums.push(checksum);
    this.sums.push(sum);
  }

  /**
   * The newest piece grows no more. When memory does not give back what was journaled the journal is asked; all its blocks have
   * their sums already.
   */
  checkLast(): void {
    const piece = this.pieces.at(-1);
    if (piece === undefined || piece.isChecked || piece.kept === null) return;
    piece.isChecked = true;
    const { buffer, start, end, kept } = piece;
    const count = (end - start) / blockBytes;
    const first = this.sums.length - count;
    let expected = 0;
    for (let i = first; i < this.sums.length; i += 1)
      expected = crc32cJoined(expected, this.sums[i] ?? 0);
    if (crc32c(buffer.subarray(start, end)) === expected) return;
    this.pieces.pop();
    for (let i = 0; i < count; i += 1)
      this.#want(kept.block + i, kept.address + i * blockBytes, this.sums[first + i] ?? 0);
  }
}

/** Other work gets a turn after so many blocks. */
class Breath {
  readonly #timers: Timers;
  #blocks = 0;

  constructor(timers: Timers) {
    this.#timers = timers;
  }

  async after(blocks: number): Promise<void> {
    this.#blocks += blocks;
    if (this.#blocks < blocksPerTurn) return;
    this.#blocks = 0;
    await new Promise<void>((resolve) => this.#timers.defer(resolve));
  }
}

/**
 * What was written together lies together in the journal, however far apart its blocks are: it is read in the journal's order,
 * in few large reads, and each block is checked on its way to its place.
 */
async function fetchWanted(
  overlay: Overlay,
  wanted: Wanted[],
  breath: Breath,
  readBelow: ReadBelow,
): Promise<void> {
  if (wanted.length === 0) return;
  wanted.sort((a, b) => a.address - b.address);
  const window = allocatePayload(windowBytes);
  let first = 0;
  while (first < wanted.length) {
    const next = windowEnd(wanted, first);
    const isGood = await readWindow(overlay, wanted, first, next, window);
    for (let at = first; at < next && !isGood; at += 1) {
      const { block, target } = wanted[at] as Wanted; // at is below its length
      // Moved meanwhile (J5), or damaged: one by one, from where it lies now.
      const entry = overlay.find(block);
      if (entry?.kind !== 'journal') throw changedWhileBuilt(block);
      await copyBlock(overlay, entry, block, target, readBelow);
    }
    await breath.after(next - first);
    first = next;
  }
  letGoOfPayload(window);
}

const changedWhileBuilt = (block: number): DvceError =>
  new DvceError('INTERNAL', { reason: `block ${block} of a frozen overlay has changed` });

/** The first that does not lie close enough behind the one at `first`. */
function windowEnd(wanted: readonly Wanted[], first: number): number {
  const start = wanted[first]?.address ?? 0;
  let end = start + blockBytes;
  let at = first + 1;
  for (; at < wanted.length; at += 1) {
    const { address } = wanted[at] as Wanted; // at is below its length
    if (address - end >= gapBytesMax || address + blockBytes - start > windowBytes) break;
    end = address + blockBytes;
  }
  return at;
}

/** @returns false when not everything in it is as its checksum says; nothing is decided then */
async function readWindow(
  overlay: Overlay,
  wanted: readonly Wanted[],
  first: number,
  next: number,
  window: Buffer,
): Promise<boolean> {
  const start = wanted[first]?.address ?? 0;
  const end = (wanted[next - 1]?.address ?? 0) + blockBytes;
  const bytes = window.subarray(0, end - start);
  try {
    await overlay.readJournal(start, bytes);
  } catch {
    return false; // the single reads say what is wrong
  }
  for (let at = first; at < next; at += 1) {
    const { address, checksum, target } = wanted[at] as Wanted; // at is below its length
    bytes.copy(target, 0, address - start, address - start + blockBytes);
    if (crc32c(target) !== checksum) return false;
  }
  return true;
}

async function copyBlock(
  overlay: Overlay,
  entry: Entry & { kind: 'journal' | 'partial' },
  block: number,
  target: Buffer,
  readBelow: ReadBelow,
): Promise<{ sum: number; isWhole: boolean }> {
  let isWhole = true;
  if (!overlay.fill(entry, target)) {
    isWhole = await readIfWhole(block, target, readBelow);
    if (entry.kind === 'partial') Overlay.overlayPartial(entry.partial, target);
  }
  const sum = crc32c(target);
  if (entry.kind === 'journal' && sum !== entry.checksum)
    throw new DvceError('JOURNAL_DAMAGED', {
      name: 'the volume',
      reason: `block ${block} at address ${entry.address} does not fit its checksum any more`,
    });
  return { sum, isWhole };
}

/** A bit may flip on its way from the disk: what is given up for ever was read wrong so often. */
const readsMax = 3;

/** @returns false when what lies below is damaged; `target` is zeros then */
async function readIfWhole(block: number, target: Buffer, readBelow: ReadBelow): Promise<boolean> {
  for (let reads = 1; reads <= readsMax; reads += 1)
    try {
      await readBelow(block, target);
      return true;
    } catch (error) {
      const isDamage = error instanceof DvceError && damageCodes.has(error.code);
      if (!isDamage) throw error;
    }
  target.fill(0);
  return false;
}
const damageCodes: ReadonlySet<string> = new Set(['SEGMENT_DAMAGED', 'SEGMENT_MISSING']);
