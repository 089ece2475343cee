/**
 * What a thread that serves volumes and its packer (packer-main.ts) share: blocks go in, frames come out, both in memory of
 * both. One of the two uses it at a time, and the messages say which.
 */
import { packedBytesMax } from './codec.ts';
import { compressBlocksMax } from './compression.ts';
import { blockBytes } from './pointer.ts';

export interface PackerMemory {
  readonly blocks: Uint8Array;
  /** CRC-32C of each block. */
  readonly sums: Uint32Array;
  /** Bytes of each frame; 0: none. */
  readonly lengths: Uint32Array;
  /** One behind the other. */
  readonly frames: Uint8Array;
}

/** To the packer: so many blocks are there. From it: their frames are. */
export interface PackerMessage {
  readonly count: number;
}

export const newPackerMemory = (): PackerMemory => ({
  blocks: new Uint8Array(new SharedArrayBuffer(compressBlocksMax * blockBytes)),
  sums: new Uint32Array(new SharedArrayBuffer(compressBlocksMax * 4)),
  lengths: new Uint32Array(new SharedArrayBuffer(compressBlocksMax * 4)),
  frames: new Uint8Array(new SharedArrayBuffer(compressBlocksMax * packedBytesMax)),
});

/** The module that the thread runs. */
export const packerEntry = new URL(
  import.meta.url.endsWith('.ts') ? './packer-main.ts' : './packer-main.js',
  import.meta.url,
);
