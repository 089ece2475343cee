/**
 * A batch becomes the data and index of one segment: the newest content of every block that the overlay holds, in block
 * order. Nothing is decided here about numbers or names, so a build can be thrown away and repeated.
 *
 * Every block is checked against its journal checksum while it is copied: what the journal's file gives back is not trusted
 * more than a segment (invariant 7).
 */
import { crc32c, DvceError, limits, type Timers } from '../base/index.ts';
import { type Entry, Overlay } from './overlay.ts';
import { blockBytes } from './pointer.ts';
import { segmentDataOffset } from './segment-format.ts';
import type { IndexRun } from './segment-index.ts';

export interface Batch {
  /** Slabs of the pool: they go back with `releaseBatch`. */
  readonly data: readonly Buffer[];
  readonly runs: readonly IndexRun[];
}

/** Blocks copied before other work gets a turn: about 1 ms. */
const blocksPerTurn = 512;
const slabBlocks = 256;

/** Slabs of this thread that are not in use: 32 MiB of fresh memory for each batch would keep the garbage collector busy. */
const freeSlabs: Buffer[] = [];

/** The batch is published, or given up: its slabs may be used again. */
export function releaseBatch(batch: Batch): void {
  for (const { buffer } of batch.data)
    if (freeSlabs.length < limits.batchSlabsKept) freeSlabs.push(Buffer.from(buffer));
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
  let slab: Buffer = Buffer.alloc(0);
  let slabUsed = 0;
  let placed = 0;
  let open: { block: number; offset: number; checksums: number[] } | null = null;
  let turn = 0;

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
    const checksum = await copyBlock(overlay, entry, block, target, readBelow);
    if (open === null || open.block + open.checksums.length !== block) {
      open = { block, offset: segmentDataOffset + placed * blockBytes, checksums: [] };
      runs.push({ kind: 'data', ...open });
    }
    open.checksums.push(checksum);
    placed += 1;
    turn += 1;
    if (turn === blocksPerTurn) {
      turn = 0;
      await new Promise<void>((resolve) => timers.defer(resolve));
    }
  }
  const last = data.pop();
  if (last !== undefined) data.push(last.subarray(0, slabUsed));
  return { data, runs };
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

/** @returns false when what lies below is damaged; `target` is zeros then */
async function readIfWhole(
  block: number,
  target: Buffer,
  readBelow: (block: number, target: Buffer) => Promise<void>,
): Promise<boolean> {
  try {
    await readBelow(block, target);
    return true;
  } catch (error) {
    const isDamage = error instanceof DvceError && damageCodes.has(error.code);
    if (!isDamage) throw error;
    target.fill(0);
    return false;
  }
}

const damageCodes: ReadonlySet<string> = new Set(['SEGMENT_DAMAGED', 'SEGMENT_MISSING']);
