/**
 * Compression off the thread that serves volumes: one thread beside it, started when the first block is to be compressed and
 * ended when there was nothing to do for a while.
 *
 * Invariants:
 * - blocks are copied into memory that both threads share, frames out of it: no buffer of a request leaves its thread (N5);
 * - one piece at a time; who comes meanwhile waits for its turn, and there are no more of them than open volumes;
 * - a packer that fails, or does not answer in time, costs space and nothing else: blocks stay as they are, and another one is
 *   not started before `limits.packerRestMs`. What it answers is not believed further than memory reaches; what a frame decodes
 *   to was compared with the checksum of its block by the packer, and is again by every reader.
 */
import { Worker } from 'node:worker_threads';
import { type Clock, type Logger, limits, type Timer, type Timers } from '../base/index.ts';
import {
  type BlockCompressor,
  compressBlocksMax,
  newPackerMemory,
  type PackedBlocks,
  type PackerMemory,
  packerEntry,
} from '../hlfs/index.ts';

export interface PackerOptions {
  readonly timers: Timers;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Of the thread; another one in tests. */
  readonly entry?: URL;
}

interface Running {
  readonly worker: Worker;
  readonly memory: PackerMemory;
  /** Told of the answer, or of the failure. */
  onEnd: ((failure: Error | null) => void) | null;
}

const nothing: PackedBlocks = { lengths: [], bytes: Buffer.alloc(0) };

export class Packer implements BlockCompressor {
  readonly #options: PackerOptions;
  #running: Running | null = null;
  /** Settles when the piece before is done. */
  #turn: Promise<unknown> = Promise.resolve();
  #idle: Timer | null = null;
  #restUntilMs = 0;

  constructor(options: PackerOptions) {
    this.#options = options;
  }

  pack(blocks: readonly Buffer[], sums: readonly number[]): Promise<PackedBlocks> {
    const packed = this.#turn.then(() => this.#pack(blocks, sums));
    this.#turn = packed;
    return packed;
  }

  async #pack(blocks: readonly Buffer[], sums: readonly number[]): Promise<PackedBlocks> {
    const { clock, logger } = this.#options;
    if (clock.monotonicMs() < this.#restUntilMs) return nothing;
    this.#idle?.cancel();
    this.#running ??= this.#start();
    const running = this.#running;
    const { memory } = running;
    let at = 0;
    for (const block of blocks) {
      memory.blocks.set(block, at);
      at += block.byteLength;
    }
    memory.sums.set(sums);
    const failure = await this.#answer(running, blocks.length);
    if (failure === null) {
      this.#idle = this.#options.timers.after(limits.packerIdleMs, () => this.close());
      return taken(memory, blocks.length);
    }
    logger.warn({ reason: failure.message }, 'blocks are stored uncompressed for a while');
    this.#restUntilMs = clock.monotonicMs() + limits.packerRestMs;
    this.close();
    return nothing;
  }

  #answer(running: Running, count: number): Promise<Error | null> {
    return new Promise((resolve) => {
      const late = this.#options.timers.after(limits.packerMs, () =>
        running.onEnd?.(new Error(`no answer within ${limits.packerMs} ms`)),
      );
      running.onEnd = (failure) => {
        late.cancel();
        running.onEnd = null;
        resolve(failure);
      };
      running.worker.postMessage({ count });
    });
  }

  #start(): Running {
    const memory = newPackerMemory();
    const worker = new Worker(this.#options.entry ?? packerEntry, {
      workerData: memory,
      name: 'packer',
    });
    const running: Running = { worker, memory, onEnd: null };
    const ended = (failure: Error): void => {
      if (this.#running === running) this.#running = null;
      running.onEnd?.(failure);
    };
    worker.unref();
    worker.on('message', () => running.onEnd?.(null));
    worker.on('error', (error) => ended(error instanceof Error ? error : new Error(String(error))));
    worker.on('exit', (code) => ended(new Error(`its thread ended with ${code}`)));
    return running;
  }

  /** Give the thread back; the next piece starts another one. */
  close(): void {
    this.#idle?.cancel();
    this.#idle = null;
    const running = this.#running;
    this.#running = null;
    // A thread has no more to say: what it was asked for is answered already, or was given up.
    running?.worker.terminate().catch(() => {});
  }
}

/** What the packer left in the memory, as far as it can be. */
function taken({ lengths, frames }: PackerMemory, count: number): PackedBlocks {
  const own = Array.from(lengths.subarray(0, count));
  const bytes = own.reduce((sum, length) => sum + length, 0);
  // As many frames as blocks fit, none longer than its share.
  if (own.some((length) => length * compressBlocksMax > frames.byteLength)) return nothing;
  return { lengths: own, bytes: Buffer.from(frames.slice(0, bytes).buffer) };
}
