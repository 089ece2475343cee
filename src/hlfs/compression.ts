/**
 * A batch with its blocks compressed where that pays (DD-0017).
 *
 *   block -> gate: does a sample of its bytes look like noise? -> compressor, many blocks at a time -> frame, or as it was
 *
 * Invariants:
 * - a frame takes the place of a block only after it was decoded again and the result fitted the checksum that the block has had
 *   since it was journaled: compression is the one step that changes bytes, so it is checked on the spot (invariant 7);
 * - a block whose checksum in the index does not fit on purpose (the rest of it is lost) stays as it is;
 * - order, and what is applied to the map, stay the same: only places and lengths change. A batch of which nothing is worth
 *   compressing is given back untouched, byte for byte what it would be without compression;
 * - whatever the compressor cannot do costs space and nothing else.
 */
import { crc32c } from '../base/index.ts';
import type { Batch } from './batch.ts';
import { packBlock, unpackBlock } from './codec.ts';
import { blockBytes } from './pointer.ts';
import { segmentDataOffset } from './segment-format.ts';
import type { IndexRun } from './segment-index.ts';

/** What a compressor made of blocks. */
export interface PackedBlocks {
  /** Of each block the bytes of its frame; 0: it stays as it is. */
  readonly lengths: ArrayLike<number>;
  /** The frames one behind the other, in memory of their own. */
  readonly bytes: Buffer;
}

export interface BlockCompressor {
  /**
   * @param blocks at most `compressBlocksMax`
   * @param sums CRC-32C of each: a frame that does not decode to that is none
   */
  pack(blocks: readonly Buffer[], sums: readonly number[]): Promise<PackedBlocks>;
}

/** Blocks that are given to the compressor at a time: 1 MiB. */
export const compressBlocksMax = 256;

/** A block packed and checked; null when it stays as it is. */
export function packChecked(block: Buffer, sum: number, scratch: Buffer): Buffer | null {
  const frame = packBlock(block);
  if (frame === null) return null;
  return unpackBlock(frame, scratch) === null && crc32c(scratch) === sum ? frame : null;
}

/** Compresses in the turn in which it is asked: for processes that serve nobody, and for simulations. */
export const directCompressor: BlockCompressor = {
  pack(blocks, sums) {
    const scratch = Buffer.allocUnsafe(blockBytes);
    const frames = blocks.map((block, i) => packChecked(block, sums[i] ?? 0, scratch));
    const bytes = Buffer.concat(frames.filter((frame) => frame !== null));
    return Promise.resolve({ lengths: frames.map((frame) => frame?.byteLength ?? 0), bytes });
  },
};

/** Bytes that are looked at: so many groups of so many neighbours, because fields of a record differ in how much they vary. */
const sampleGroups = 16;
const sampleNeighbours = 8;
/**
 * Different values among them. Random bytes have 101 on average with a deviation of 5, and so has what is compressed or
 * encrypted already; programs and texts have 30 to 70 (DD-0017 has the figures).
 */
const noiseValuesMin = 88;

/** So many blocks of noise one after the other, and from then on only one of so many is looked at. */
const noiseLookedAt = 16;
const noiseStep = 8;

/** Which look saw a value last. */
const seen = new Uint32Array(256);
let look = 0;
const lookMax = 0xffff_fff0;

/** The entropy gate: cheap, and wrong in one direction only, towards leaving a block as it is. */
export function looksLikeNoise(bytes: Buffer, start = 0): boolean {
  look += 1;
  if (look > lookMax) {
    seen.fill(0);
    look = 1;
  }
  let values = 0;
  for (let group = start; group < start + blockBytes; group += blockBytes / sampleGroups)
    for (let at = group; at < group + sampleNeighbours; at += 1) {
      const value = bytes[at] ?? 0;
      if (seen[value] === look) continue;
      seen[value] = look;
      values += 1;
    }
  return values >= noiseValuesMin;
}

/** @param batch with the checksums of its blocks, which lie in the order of its runs */
export async function packBatch(batch: Batch, compressor: BlockCompressor): Promise<Batch> {
  const { data, sums, runs } = batch;
  if (sums === undefined || sums.length === 0) return batch;
  const packing = new Packing(runs);
  let at = 0;
  for (const buffer of data)
    for (let start = 0; start < buffer.byteLength; start += blockBytes) {
      packing.add({ buffer, start, sum: sums[at] ?? 0 });
      at += 1;
      if (packing.isFull) await packing.pack(compressor);
    }
  await packing.pack(compressor);
  return packing.isPacked ? { ...batch, ...packing.laidOut(runs) } : batch;
}

interface Block {
  readonly buffer: Buffer;
  readonly start: number;
  readonly sum: number;
}

class Packing {
  isPacked = false;
  readonly #checksums: readonly number[];
  readonly #data: { readonly buffer: Buffer; readonly start: number; end: number }[] = [];
  readonly #lengths: number[] = [];
  /** What the index says of each block as it is stored. */
  readonly #stored: number[] = [];
  /** Not packed yet, in order, and those of them that may be. */
  #window: Block[] = [];
  #chosen: number[] = [];
  /** Blocks since the last one that was no noise. */
  #noise = 0;

  constructor(runs: readonly IndexRun[]) {
    this.#checksums = runs.flatMap((run) => (run.kind === 'data' ? run.checksums : []));
  }

  get isFull(): boolean {
    return this.#window.length === compressBlocksMax;
  }

  add(block: Block): void {
    const isSound = this.#checksums[this.#lengths.length + this.#window.length] === block.sum;
    if (isSound && this.#mayPay(block)) this.#chosen.push(this.#window.length);
    this.#window.push(block);
  }

  /** Where one noise follows the other, only a few of them are looked at: the price is some blocks where it ends. */
  #mayPay({ buffer, start }: Block): boolean {
    this.#noise += 1;
    if (this.#noise > noiseLookedAt && this.#noise % noiseStep !== 0) return false;
    if (looksLikeNoise(buffer, start)) return false;
    this.#noise = 0;
    return true;
  }

  async pack(compressor: BlockCompressor): Promise<void> {
    const [window, chosen] = [this.#window, this.#chosen];
    this.#window = [];
    this.#chosen = [];
    const blocks = chosen.map((i) => blockOf(window[i] as Block)); // chosen from the window
    const sums = chosen.map((i) => window[i]?.sum ?? 0);
    const packed = blocks.length === 0 ? nothing : await compressor.pack(blocks, sums);
    let next = 0;
    let at = 0;
    for (const [i, block] of window.entries()) {
      const length = chosen[next] === i ? (packed.lengths[next] ?? 0) : 0;
      if (chosen[next] === i) next += 1;
      if (length === 0) this.#raw(block);
      else this.#frame(packed.bytes, at, length);
      at += length;
    }
  }

  #raw({ buffer, start }: Block): void {
    this.#stored.push(this.#checksums[this.#lengths.length] ?? 0);
    this.#lay(buffer, start, blockBytes);
  }

  #frame(bytes: Buffer, start: number, length: number): void {
    this.isPacked = true;
    this.#stored.push(crc32c(bytes.subarray(start, start + length)));
    this.#lay(bytes, start, length);
  }

  #lay(buffer: Buffer, start: number, length: number): void {
    this.#lengths.push(length);
    const last = this.#data.at(-1);
    if (last?.buffer === buffer && last.end === start) last.end += length;
    else this.#data.push({ buffer, start, end: start + length });
  }

  /** The same runs, with the places that their blocks have now. */
  laidOut(runs: readonly IndexRun[]): Pick<Batch, 'data' | 'runs' | 'sums'> {
    let next = 0;
    let offset = segmentDataOffset;
    const placed = runs.map((run): IndexRun => {
      if (run.kind !== 'data') return run;
      const end = next + run.checksums.length;
      const lengths = this.#lengths.slice(next, end);
      const stored = { offset, checksums: this.#stored.slice(next, end) };
      next = end;
      for (const length of lengths) offset += length;
      const isRaw = lengths.every((length) => length === blockBytes);
      const { kind, block } = run;
      return { kind, block, ...stored, ...(isRaw ? {} : { lengths }) };
    });
    const data = this.#data.map(({ buffer, start, end }) => buffer.subarray(start, end));
    return { data, runs: placed, sums: undefined };
  }
}

const nothing: PackedBlocks = { lengths: [], bytes: Buffer.alloc(0) };

const blockOf = ({ buffer, start }: Block): Buffer => buffer.subarray(start, start + blockBytes);
