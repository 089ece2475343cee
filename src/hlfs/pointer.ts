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
 * Version 1 writes raw groups of one block; a reader refuses a codec that it does not know.
 */
import { DvceError } from '../base/index.ts';

export const blockBytes = 4096;
export const codecRaw = 0;

/** Word 1 of a pointer without a segment. */
export const specialHole = 0;
export const specialZero = 1;

export interface Pointer {
  readonly segment: number;
  readonly offset: number;
  readonly checksum: number;
}

/** Word 2 of a raw group of one block. */
export const rawBlockLength = blockBytes;

export const pointerOffset = (word1: number): number => word1 & 0x03ff_ffff;

/** Check what a reader of version 1 relies on; SEGMENT_DAMAGED otherwise. */
export function checkRawPointer(segment: number, word1: number, word2: number): void {
  const codec = word1 >>> 30;
  const length = word2 & 0x1ffff;
  const blockInGroup = (word1 >>> 26) & 0xf;
  if (codec !== codecRaw || length !== blockBytes || blockInGroup !== 0 || word2 >>> 17 !== 0)
    throw new DvceError('SEGMENT_DAMAGED', {
      name: String(segment),
      reason: `a pointer names codec ${codec}, ${length} bytes, block ${blockInGroup}; only raw blocks are known`,
    });
}
