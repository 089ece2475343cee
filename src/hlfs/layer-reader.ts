/**
 * Reads of a guest, of a volume or of a snapshot: a buffer for the answer, the layers, and what is read ahead.
 *
 * Invariants: a buffer that was lent goes back only after a read that succeeded and whose bytes have left; reading ahead
 * is a hint that changes nothing but when something is read, and at most `limits.readAheadRanges` of them are under way.
 */
import { limits } from '../base/index.ts';
import { GrowingRun } from './growing-run.ts';
import { type Layers, readLayers } from './layers.ts';
import type { Lookup } from './map-page.ts';
import { blockBytes } from './pointer.ts';
import { type BlockRange, ReadAhead } from './read-ahead.ts';
import { readBuffers } from './read-buffers.ts';
import type { ReadDone } from './volume-api.ts';

export class LayerReader {
  readonly #layers: Layers;
  readonly #readAhead: ReadAhead | null;
  #aheadRanges = 0;
  #closed = false;

  constructor(layers: Layers) {
    this.#layers = layers;
    this.#readAhead = layers.source.reader.store.readAhead === undefined ? null : new ReadAhead();
  }

  /** @param sizeBytes of the device, where reading ahead ends */
  read(offset: number, length: number, sizeBytes: number, done: ReadDone): void {
    const first = Math.floor(offset / blockBytes);
    const count = Math.floor((offset + length - 1) / blockBytes) - first + 1;
    const ahead = this.#readAhead?.note(first, count, Math.ceil(sizeBytes / blockBytes));
    if (ahead !== undefined) this.#startAhead(ahead.range, ahead.isWanted);
    const start = offset - first * blockBytes;
    const bytes = readBuffers.take(count * blockBytes);
    const { giveBack } = readBuffers;
    readLayers(this.#layers, first, count, bytes, (error, dataBlocks) => {
      if (error) done(error, []);
      else if (dataBlocks === 0) {
        giveBack?.();
        done(null, [length]);
      } else {
        const part = length === bytes.length ? bytes : bytes.subarray(start, start + length);
        done(null, [part], giveBack);
      }
    });
  }

  /** Nothing is read ahead from here on. */
  close(): void {
    this.#closed = true;
  }

  #startAhead(range: BlockRange, isWanted: () => boolean): void {
    if (this.#aheadRanges >= limits.readAheadRanges) return;
    this.#aheadRanges += 1;
    // What is wrong with a map page is told to the read that needs it.
    const ended = (): void => {
      this.#aheadRanges -= 1;
    };
    this.#ahead(range, () => !this.#closed && isWanted()).then(ended, ended);
  }

  async #ahead({ block, count }: BlockRange, isWanted: () => boolean): Promise<void> {
    const { map, source } = this.#layers;
    const end = block + count;
    for (let at = block; at < end && isWanted(); ) {
      if (map.find(at) === undefined) await map.load(at);
      const found = map.find(at);
      if (found === undefined) return; // evicted already: there is no room for looking ahead
      if (found.kind === 'block') {
        const run = this.#runFrom(found, at, end);
        // The host has it when it has the end of it: a stream through memory pays for one look at each piece.
        const length = run.lengths?.at(-1) ?? blockBytes;
        if (!source.isAtHand(run.segment, run.end - length, length)) await source.ahead(run);
        at += run.checksums.length;
      } else at += 1;
    }
  }

  /** The blocks from `at` on that lie one behind the other in the segment. */
  #runFrom(found: Lookup & { kind: 'block' }, at: number, end: number): GrowingRun {
    const run = new GrowingRun(found);
    const blocksMax = Math.min(end - at, aheadBlocksMax);
    for (let blocks = 1; blocks < blocksMax; blocks += 1) {
      const next = this.#layers.map.find(at + blocks);
      if (next?.kind !== 'block' || !run.add(next)) break;
    }
    return run;
  }
}

/** In one read of the store. */
const aheadBlocksMax = limits.readAheadPieceBytes / blockBytes;
