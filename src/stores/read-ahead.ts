/**
 * Bringing parts of segment files into the page cache before they are asked for.
 *
 * Invariants: at most `limits.readAheadsPerStore` reads are under way (N5), more hints are dropped; what comes is thrown away, the
 * kernel keeps it; a failure is nobody's: who reads the same place is told.
 */
import { limits } from '../base/index.ts';
import type { FileCache } from './file-cache.ts';

export class FileReadAhead {
  readonly #files: FileCache;
  #underWay = 0;
  /** Shared by all reads, because nobody looks at it. */
  #bytes: Buffer | null = null;

  constructor(files: FileCache) {
    this.#files = files;
  }

  /** @returns undefined when the hint is dropped */
  read(key: string, offset: number, length: number): Promise<void> | undefined {
    if (this.#underWay >= limits.readAheadsPerStore || length > limits.readAheadPieceBytes)
      return undefined;
    this.#underWay += 1;
    this.#bytes ??= Buffer.allocUnsafeSlow(limits.readAheadPieceBytes);
    const target = this.#bytes.subarray(0, length);
    return new Promise((resolve) => {
      this.#files.read(key, offset, target, () => {
        this.#underWay -= 1;
        if (this.#underWay === 0) this.#bytes = null;
        resolve();
      });
    });
  }
}
