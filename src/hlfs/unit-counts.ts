/** Counting the units of each segment that a map refers to: what a segment table is the sum of. */
import type { MapVisitor, TopPointer } from './map-page.ts';
import { blockBytes, pointerLength } from './pointer.ts';

export interface UnitCount {
  readonly live: number;
  /** Bytes that they take. */
  readonly liveBytes: number;
}

/** A visitor of one map. */
export class UnitCounts implements MapVisitor {
  readonly #counts = new Map<number, { live: number; liveBytes: number }>();

  page(_level: number, _index: number, pointer: TopPointer): undefined {
    this.#add(pointer[0], blockBytes);
  }

  leaf(_firstBlock: number, words: Uint32Array): void {
    for (let at = 0; at < words.length; at += 4)
      this.#add(words[at] ?? 0, pointerLength(words[at + 2] ?? 0));
  }

  /** The root record in this segment. */
  addRoot(segment: number): void {
    this.#add(segment, blockBytes);
  }

  of(segment: number): UnitCount {
    return this.#counts.get(segment) ?? { live: 0, liveBytes: 0 };
  }

  #add(segment: number, bytes: number): void {
    if (segment === 0) return;
    const count = this.#counts.get(segment);
    if (count === undefined) this.#counts.set(segment, { live: 1, liveBytes: bytes });
    else {
      count.live += 1;
      count.liveBytes += bytes;
    }
  }
}
