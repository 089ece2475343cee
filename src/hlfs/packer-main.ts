/**
 * The thread that compresses blocks for one that serves volumes (DD-0017). It has the memory that both share, and nothing else:
 * no store, no file, no log. An exception ends it; its owner goes on without compression then.
 */
import { setPriority } from 'node:os';
import { parentPort, workerData } from 'node:worker_threads';
import { assert, limits } from '../base/index.ts';
import { packChecked } from './compression.ts';
import type { PackerMemory, PackerMessage } from './packer-memory.ts';
import { blockBytes } from './pointer.ts';

const port = parentPort;
assert(port !== null, 'this module runs in a worker thread');
const { blocks, sums, lengths, frames } = workerData as PackerMemory;
const input = Buffer.from(blocks.buffer);
const scratch = Buffer.alloc(blockBytes);

// Of this thread alone: those that serve guests come first.
setPriority(limits.packerNice);

port.on('message', ({ count }: PackerMessage) => {
  let at = 0;
  for (let i = 0; i < count; i += 1) {
    const block = input.subarray(i * blockBytes, (i + 1) * blockBytes);
    const frame = packChecked(block, sums[i] ?? 0, scratch);
    lengths[i] = frame?.byteLength ?? 0;
    if (frame === null) continue;
    frames.set(frame, at);
    at += frame.byteLength;
  }
  port.postMessage({ count });
});
