/**
 * Block pointers: where a 4 KiB block (or a map page) lies, and the checksum of what lies there (S7).
 *
 * Four 32-bit words, little-endian, 16 bytes:
 *
 *   word 0   segment number; 0: no block, see word 1
 *   word 1   bits 0-25 byte offset of the group in the segment, 26-29 block within the group, 30-31 codec (0 raw, 1 zstd)
 *            with segment 0: 0 hole, 1 zeros that stay allocated (NO_HOLE)
 *   word 2   bits 0-16 stored bytes of the group (at most 65536), bits 17-20 blocks in the group less one, rest 0
 *   word 3   CRC-32C of the group as stored
 *
 * Groups have one block: raw with 4096 bytes, or compressed with fewer. So the stored length alone says which of them it is, and
 * a pointer in which length and codec say different things is damage.
 */
import { DvceError } from '../base/index.ts';

export const blockBytes = 4096;
const codecRaw = 0;
const codecZstd = 1;

/** Word 1 of a pointer without a segment. */
export const specialHole = 0;
export const specialZero = 1;

/** Word 2 of a raw group of one block. */
export const rawBlockLength = blockBytes;

export const pointerOffset = (word1: number): number => word1 & 0x03ff_ffff;
/** Stored bytes of the group. */
export const pointerLength = (word2: number): number => word2 & 0x1ffff;

/** Word 1 of a block that is stored in `length` bytes from `offset` on. */
export const pointerWord1 = (offset: number, length: number): number =>
  length === blockBytes ? offset : offset + codecZstd * 2 ** 30;

/** Check what a reader relies on; SEGMENT_DAMAGED otherwise. */
export function checkPointer(segment: number, word1: number, word2: number): void {
  const codec = word1 >>> 30;
  const length = pointerLength(word2);
  const blockInGroup = (word1 >>> 26) & 0xf;
  const isOfOne = blockInGroup === 0 && word2 >>> 17 === 0;
  const isRaw = codec === codecRaw && length === blockBytes;
  const isPacked = codec === codecZstd && length > 0 && length < blockBytes;
  if (isOfOne && (isRaw || isPacked)) return;
  throw new DvceError('SEGMENT_DAMAGED', {
    name: String(segment),
    reason: `a pointer names codec ${codec}, ${length} bytes, block ${blockInGroup} of ${(word2 >>> 17) + 1}: only raw and zstd blocks in groups of one are known`,
  });
}

/** Blocks that lie one behind the other in a segment. */
export interface StoredBlocks {
  /** Of the first, in bytes. */
  readonly offset: number;
  /** Of each as it is stored. */
  readonly checksums: readonly number[];
  /** Bytes that each takes; not there when none is compressed. */
  readonly lengths?: readonly number[] | undefined;
}

export interface StoredRun extends StoredBlocks {
  readonly segment: number;
}

/** Bytes that the blocks take together. */
export const storedBytes = ({ checksums, lengths }: StoredBlocks): number =>
  lengths === undefined
    ? checksums.length * blockBytes
    : lengths.reduce((sum, length) => sum + length, 0);
