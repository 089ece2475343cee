/**
 * A batch becomes the data and index of one segment: the newest content of every block that the overlay holds, in block
 * order. Nothing is decided here about numbers or names, so a build can be thrown away and repeated.
 *
 * Every block is checked against its journal checksum while it is copied: what the journal's file gives back is not trusted
 * more than a segment (invariant 7).
 */
import { crc32c, DvceError, limits, type Timers } from '../base/index.ts';
import { journalFileHeaderBytes } from './journal-format.ts';
import { type Entry, Overlay } from './overlay.ts';
import { blockBytes } from './pointer.ts';
import { segmentDataOffset } from './segment-format.ts';
import type { IndexRun } from './segment-index.ts';

export interface Batch {
  /** Slabs of the pool: they go back with `releaseBatch`. */
  readonly data: readonly Buffer[];
  readonly runs: readonly IndexRun[];
}

/** Blocks copied before other work gets a turn: about half a millisecond. */
const blocksPerTurn = 256;
/** One read of the journal. */
const windowBytes = 1024 * 1024;
/** Less than the header of a journal file, so that no window reaches from one file into the next. */
const gapBytesMax = journalFileHeaderBytes;
/** Filled and emptied within one turn. */
let window: Buffer | undefined;
const slabBlocks = 256;

/** Slabs of this thread that are not in use: 32 MiB of fresh memory for each batch would keep the garbage collector busy. */
const freeSlabs: Buffer[] = [];

/** The batch is published, or given up: its slabs may be used again. */
export function releaseBatch(batch: Batch): void {
  for (const { buffer } of batch.data)
    if (freeSlabs.length < limits.batchSlabsKept) freeSlabs.push(Buffer.from(buffer));
}

/** A whole block that lies in the journal, and where it goes. */
interface Wanted {
  readonly block: number;
  readonly address: number;
  readonly checksum: number;
  readonly target: Buffer;
}

/** @param readBelow content of a block below this overlay, for blocks of which only a part was written */
export async function buildBatch(
  overlay: Overlay,
  timers: Timers,
  readBelow: (block: number, target: Buffer) => Promise<void>,
): Promise<Batch> {
  const runs: IndexRun[] = overlay.tombstones.map(({ block, count, kind }) => ({
    kind,
    block,
    count,
  }));
  const data: Buffer[] = [];
  const wanted: Wanted[] = [];
  let slab: Buffer = Buffer.alloc(0);
  let slabUsed = 0;
  let placed = 0;
  let open: { block: number; offset: number; checksums: number[] } | null = null;
  const breath = new Breath(timers);

  const place = (): Buffer => {
    if (slabUsed === slab.byteLength) {
      slab = freeSlabs.pop() ?? Buffer.allocUnsafeSlow(slabBlocks * blockBytes);
      slabUsed = 0;
      data.push(slab);
    }
    const target = slab.subarray(slabUsed, slabUsed + blockBytes);
    slabUsed += blockBytes;
    return target;
  };

  for (const block of overlay.blocks()) {
    const entry = overlay.find(block);
    if (entry === undefined) continue;
    if (entry.kind === 'hole' || entry.kind === 'zero') {
      open = null;
      addEmpty(runs, entry.kind, block);
      continue;
    }
    const target = place();
    let checksum: number;
    if (entry.kind === 'journal') {
      wanted.push({ block, address: entry.address, checksum: entry.checksum, target });
      checksum = entry.checksum;
    } else {
      checksum = await copyBlock(overlay, entry, block, target, readBelow);
      await breath.after(1);
    }
    if (open === null || open.block + open.checksums.length !== block) {
      open = { block, offset: segmentDataOffset + placed * blockBytes, checksums: [] };
      runs.push({ kind: 'data', ...open });
    }
    open.checksums.push(checksum);
    placed += 1;
  }
  await fetchWanted(overlay, wanted, breath, readBelow);
  const last = data.pop();
  if (last !== undefined) data.push(last.subarray(0, slabUsed));
  return { data, runs };
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
  readBelow: (block: number, target: Buffer) => Promise<void>,
): Promise<void> {
  wanted.sort((a, b) => a.address - b.address);
  let first = 0;
  while (first < wanted.length) {
    const next = windowEnd(wanted, first);
    const isGood = readWindow(overlay, wanted, first, next);
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
function readWindow(
  overlay: Overlay,
  wanted: readonly Wanted[],
  first: number,
  next: number,
): boolean {
  const start = wanted[first]?.address ?? 0;
  const end = (wanted[next - 1]?.address ?? 0) + blockBytes;
  window ??= Buffer.allocUnsafeSlow(windowBytes);
  const bytes = window.subarray(0, end - start);
  try {
    overlay.readJournal(start, bytes);
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

function addEmpty(runs: IndexRun[], kind: 'hole' | 'zero', block: number): void {
  const last = runs.at(-1);
  if (last?.kind === kind && last.block + last.count === block)
    runs[runs.length - 1] = { ...last, count: last.count + 1 };
  else runs.push({ kind, block, count: 1 });
}

async function copyBlock(
  overlay: Overlay,
  entry: Entry & { kind: 'journal' | 'partial' },
  block: number,
  target: Buffer,
  readBelow: (block: number, target: Buffer) => Promise<void>,
): Promise<number> {
  if (!overlay.fill(entry, target)) {
    const isWhole = await readIfWhole(block, target, readBelow);
    if (entry.kind === 'partial') Overlay.overlayPartial(entry.partial, target);
    // The old rest of the block is lost: a checksum that cannot fit keeps it an error until it is overwritten whole.
    if (!isWhole) return (crc32c(target) ^ 0xffff_ffff) >>> 0;
  }
  const checksum = crc32c(target);
  if (entry.kind === 'journal' && checksum !== entry.checksum)
    throw new DvceError('JOURNAL_DAMAGED', {
      name: 'the volume',
      reason: `block ${block} at address ${entry.address} does not fit its checksum any more`,
    });
  return checksum;
}

/** A bit may flip on its way from the disk: what is given up for ever was read wrong so often. */
const readsMax = 3;

/** @returns false when what lies below is damaged; `target` is zeros then */
async function readIfWhole(
  block: number,
  target: Buffer,
  readBelow: (block: number, target: Buffer) => Promise<void>,
): Promise<boolean> {
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
