/**
 * One compressed block: a whole zstd frame of 4096 bytes.
 *
 * Invariants:
 * - what is decoded has exactly 4096 bytes, or it is an error; a frame that says more is refused before memory is taken for it
 *   (`windowLog`, `maxOutputLength`), so lying lengths cost nothing (B-12);
 * - a frame is used only when it saves an eighth of the block: below that the time to decode it is worth more than the space.
 */
import { constants, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { blockBytes } from './pointer.ts';

/** A frame longer than this is not used. */
export const packedBytesMax = blockBytes - blockBytes / 8;

/** Of 4 KiB: nothing in a block is further away. */
const windowLog = 12;

const packing = {
  // One piece, whatever comes out: an expanding block has a few bytes more than it had.
  chunkSize: blockBytes + 1024,
  pledgedSrcSize: blockBytes,
  params: {
    [constants.ZSTD_c_compressionLevel]: 1,
    [constants.ZSTD_c_windowLog]: windowLog,
    // The pointer has a checksum of the frame.
    [constants.ZSTD_c_checksumFlag]: 0,
  },
};
const unpacking = {
  // Room for one byte more than a block has, so that it is done in one piece.
  chunkSize: blockBytes + 64,
  maxOutputLength: blockBytes,
  params: { [constants.ZSTD_d_windowLogMax]: windowLog },
};

/** @returns null when it saves too little */
export function packBlock(block: Buffer): Buffer | null {
  const frame = zstdCompressSync(block, packing);
  return frame.byteLength <= packedBytesMax ? frame : null;
}

/**
 * Decode what is stored of a block, compressed or as it is, into `target`.
 * @returns what is wrong with it, or null
 */
export function unpackBlock(stored: Buffer, target: Buffer): string | null {
  if (stored.byteLength === blockBytes) {
    stored.copy(target);
    return null;
  }
  try {
    const content = zstdDecompressSync(stored, unpacking);
    if (content.byteLength !== blockBytes)
      return `is compressed and has ${content.byteLength} bytes instead of ${blockBytes}`;
    content.copy(target);
    return null;
  } catch (error) {
    return `cannot be decompressed: ${error instanceof Error ? error.message : String(error)}`;
  }
}
