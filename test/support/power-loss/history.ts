/**
 * What the machine writes, and what may be found after its power failed. The writer in the guest and the judge on the host
 * know the same history: write number n follows from the seed alone.
 *
 * Every block that write n covers carries the stamp n. Numbers never repeat: those of boot b are b * numbersPerBoot + 1, 2, ..
 * So the newest stamp found says how far the history got (a later write would show its own), and the whole content follows:
 * if one block differs, what survived is no prefix of the history.
 */
import { seededRandom } from '../../../src/base/index.ts';

export const historyBlocks = 1024;
export const numbersPerBoot = 1_000_000;
const writeBlocksMax = 8;

export interface HistoryWrite {
  readonly first: number;
  readonly count: number;
}

export function writeOf(seed: number, number: number): HistoryWrite {
  const random = seededRandom((Math.imul(seed, 0x9e3779b1) ^ number) >>> 0);
  const count = random.below(2) === 0 ? 1 : 1 + random.below(writeBlocksMax);
  return { first: random.below(historyBlocks - count + 1), count };
}

/** What the machine said before its power failed, in write numbers; 0 for nothing. */
export interface Said {
  readonly flushed: number;
  readonly acknowledged: number;
}

export class Judge {
  readonly #seed: number;
  /** The stamp of every block after the last power failure. */
  #content: readonly number[] = Array<number>(historyBlocks).fill(0);

  constructor(seed: number) {
    this.#seed = seed;
  }

  /** Compare what was found after boot `boot` lost its power. @returns what is wrong, and how many of its writes survived */
  compare(boot: number, said: Said, found: readonly number[]): { wrong: string[]; cut: number } {
    const base = boot * numbersPerBoot;
    const newest = Math.max(base, ...found);
    const wrong: string[] = [];
    if (newest < said.flushed)
      wrong.push(`write ${said.flushed} was flushed, the newest one found is ${newest}`);
    const expected = [...this.#content];
    for (let number = base + 1; number <= newest; number += 1) {
      const { first, count } = writeOf(this.#seed, number);
      expected.fill(number, first, first + count);
    }
    let differing = 0;
    expected.forEach((stamp, block) => {
      if (found[block] === stamp) return;
      differing += 1;
      if (differing <= 5)
        wrong.push(`block ${block} has write ${found[block]}; after ${newest} it had ${stamp}`);
    });
    if (differing > 5) wrong.push(`${differing} blocks are not as after write ${newest}`);
    this.#content = found;
    return { wrong, cut: newest - base };
  }
}
