/**
 * What the open volumes of one thread share while they build segments.
 *
 * Invariants: payloads kept in memory never exceed the budget, whoever keeps some gives exactly those back once; no more than
 * `limits.journalReadsInFlight` reads of journals are in the thread pool at a time (N5).
 */
import { limits } from '../base/index.ts';

export class BuildBudget {
  readonly #keptBytesMax: number;
  #keptBytes = 0;
  #reads = 0;
  #waiting: (() => void)[] = [];

  /** @param keptBytesMax 0: every segment is built from the journal's files */
  constructor(keptBytesMax: number) {
    this.#keptBytesMax = keptBytesMax;
  }

  get keptBytes(): number {
    return this.#keptBytes;
  }

  /** @returns whether so much may be kept */
  keep(bytes: number): boolean {
    if (this.#keptBytes + bytes > this.#keptBytesMax) return false;
    this.#keptBytes += bytes;
    return true;
  }

  letGo(bytes: number): void {
    this.#keptBytes -= bytes;
  }

  /** Run a read when it is its turn. */
  async inTurn(read: () => Promise<void>): Promise<void> {
    if (this.#reads >= limits.journalReadsInFlight)
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    else this.#reads += 1;
    try {
      await read();
    } finally {
      // The turn is handed on, so that nobody comes in between.
      const next = this.#waiting.shift();
      if (next === undefined) this.#reads -= 1;
      else next();
    }
  }
}
