/**
 * Which reads continue one another, and what will be asked for next.
 *
 * A guest may read several files at a time, so several streams are followed. A read that begins where one of them ended
 * continues it; from the second such read on, what lies ahead of it is asked for, in windows that double as long as the stream
 * goes on. Any other read begins a stream of its own in the place of the one that was least recently continued: random reads
 * soon push a stream out that nobody follows, and with it ends what would be read ahead.
 *
 * Invariants: at most `limits.readStreams` are followed; nothing is asked for twice, beyond the end of the volume, or further
 * ahead than `limits.readAheadBytes`; a hint that is refused is not repeated.
 */
import { limits } from '../base/index.ts';
import { blockBytes } from './pointer.ts';

interface Stream {
  /** Block that the next read would begin with. */
  next: number;
  /** First block that was not asked for ahead. */
  ahead: number;
  windowBlocks: number;
  usedAt: number;
  /** Raised when the place goes to another stream. */
  generation: number;
}

export interface BlockRange {
  readonly block: number;
  readonly count: number;
}

export interface Ahead {
  readonly range: BlockRange;
  /** False once the stream is not followed any more: leave the rest. */
  readonly isWanted: () => boolean;
}

const windowBlocksMin = limits.readAheadBytesMin / blockBytes;
const windowBlocksMax = limits.readAheadBytes / blockBytes;

export class ReadAhead {
  readonly #streams: Stream[] = [];
  /** Counts reads; the stream with the oldest time makes room. */
  #now = 0;

  /** A read was asked for. @returns what to ask for ahead of it, if anything */
  note(block: number, count: number, endBlock: number): Ahead | undefined {
    this.#now += 1;
    const stream = this.#find(block);
    if (stream === undefined) {
      this.#begin(block + count);
      return undefined;
    }
    stream.usedAt = this.#now;
    const range = advance(stream, block + count, endBlock);
    if (range === undefined) return undefined;
    const { generation } = stream;
    return { range, isWanted: () => stream.generation === generation };
  }

  /** On the way of every read, so without closures. */
  #find(block: number): Stream | undefined {
    for (const stream of this.#streams) if (stream.next === block) return stream;
    return undefined;
  }

  #begin(next: number): void {
    const windowBlocks = windowBlocksMin;
    let oldest = this.#streams[0];
    if (oldest === undefined || this.#streams.length < limits.readStreams) {
      this.#streams.push({ next, ahead: next, windowBlocks, usedAt: this.#now, generation: 0 });
      return;
    }
    for (const stream of this.#streams) if (stream.usedAt < oldest.usedAt) oldest = stream;
    oldest.next = next;
    oldest.ahead = next;
    oldest.windowBlocks = windowBlocks;
    oldest.usedAt = this.#now;
    oldest.generation += 1;
  }
}

function advance(stream: Stream, next: number, endBlock: number): BlockRange | undefined {
  stream.next = next;
  stream.ahead = Math.max(stream.ahead, next);
  // Half a window is left: time for the next one, so that it is there when the reads arrive.
  if (stream.ahead - next > stream.windowBlocks / 2) return undefined;
  const block = stream.ahead;
  const count = Math.min(stream.windowBlocks, endBlock - block);
  if (count <= 0) return undefined;
  stream.ahead = block + count;
  stream.windowBlocks = Math.min(stream.windowBlocks * 2, windowBlocksMax);
  return { block, count };
}
