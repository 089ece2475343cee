/** The map under readers and one publisher, with hardly any cache: no change of the publisher is ever lost. */
import t from 'tap';
import { crc32c, type Random, seededRandom } from '../../src/base/index.ts';
import { BlockMap } from '../../src/hlfs/map.ts';
import type { StoredRun } from '../../src/hlfs/pointer.ts';
import type { SegmentReader } from '../../src/hlfs/segments.ts';

const leaves = 300;
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Pages of published roots. Some reads are answered at once, as a cached file does it, others later and several in one turn. */
class Pages {
  readonly stored = new Map<string, Buffer>();
  readonly #waiting: (() => void)[] = [];
  readonly #random: Random;
  isOpen = true;

  constructor(random: Random) {
    this.#random = random;
  }

  readBlocks(
    { segment, offset, checksums }: StoredRun,
    target: Buffer,
    done: (error: Error | null) => void,
  ): void {
    const answer = (): void => {
      this.stored.get(`${segment}/${offset}`)?.copy(target);
      done(crc32c(target) === checksums[0] ? null : new Error(`no page ${segment}/${offset}`));
    };
    if (this.#random.below(3) === 0) answer();
    else this.#waiting.push(answer);
  }

  async pump(): Promise<void> {
    while (this.isOpen) {
      for (let i = this.#random.below(6); i >= 0; i -= 1) this.#waiting.shift()?.();
      await turn();
    }
  }
}

async function lookUp(map: BlockMap, block: number): Promise<number | undefined> {
  for (let tries = 0; tries < 50; tries += 1) {
    const found = map.find(block);
    if (found !== undefined) return found.kind === 'block' ? found.segment : 0;
    await map.load(block);
  }
  return undefined;
}

for (const seed of [1, 2])
  t.test(`L1 readers and a publisher in a cache of 64 pages, seed ${seed}`, async (t) => {
    const random = seededRandom(seed);
    const pages = new Pages(random);
    const hooks = { onRelease: () => {}, onRetain: () => {} };
    const reader = pages as unknown as SegmentReader;
    const map = new BlockMap(reader, null, 0, hooks, 64 * 4096);
    const model = new Map<number, number>();
    /** Segments that a block was ever set to. */
    const everSet = new Map<number, Set<number>>();
    let foreign = 0;
    const anyBlock = (): number => random.below(leaves) * 256 + random.below(256);
    let segment = 1;
    let isPublishing = true;

    const writeRoot = async (): Promise<void> => {
      const first = segment + 1;
      const { segments, commit } = await map.store(first, 4096, turn);
      segments.forEach(({ images }, i) => {
        images.forEach((image, at) => {
          pages.stored.set(`${first + i}/${4096 + at * 4096}`, Buffer.from(image));
        });
      });
      segment += segments.length;
      await turn();
      commit();
    };
    const clear = async (block: number, count: number): Promise<void> => {
      await map.clear(block, count, 'hole', segment);
      for (let each = block; each < block + count; each += 1)
        if (model.has(each)) model.set(each, 0);
    };
    const publish = async (): Promise<void> => {
      for (let round = 0; round < 1500; round += 1) {
        const block = anyBlock();
        segment += 1;
        if (random.below(12) === 0) await clear(block, 1 + random.below(1500));
        else {
          everSet.set(block, (everSet.get(block) ?? new Set()).add(segment));
          await map.setBlocks(block, { segment, offset: 4096, checksums: [segment] });
          model.set(block, segment);
        }
        if (map.dirtyPages > 20) await writeRoot();
      }
      await writeRoot();
      isPublishing = false;
    };
    const look = async (): Promise<void> => {
      while (isPublishing) {
        await lookUp(map, anyBlock());
        await turn();
      }
    };
    /** What is read of a leaf was said of its blocks, whatever becomes of its page in memory. */
    const compare = async (): Promise<void> => {
      while (isPublishing) {
        const leaf = random.below(leaves);
        const reading = map.words(0, leaf);
        // They push the leaf out before it is handed over.
        const others = Array.from({ length: 16 }, () => map.load(anyBlock()));
        const words = await reading;
        await Promise.all(others);
        for (let i = 0; words !== null && i < 256; i += 1) {
          const found = words[i * 4] ?? 0;
          if (found !== 0 && everSet.get(leaf * 256 + i)?.has(found) !== true) foreign += 1;
        }
        await turn();
      }
    };
    const pumping = pages.pump();
    const readers = Array.from({ length: 24 }, (_, i) => (i < 20 ? look() : compare()));
    await Promise.all([publish(), ...readers]);
    t.equal(foreign, 0, 'no reader was given another page');
    let lost = 0;
    for (const [block, wanted] of model) if ((await lookUp(map, block)) !== wanted) lost += 1;
    pages.isOpen = false;
    await pumping;
    t.equal(lost, 0, 'no change was lost');
    t.equal(
      map.mappedBlocks,
      [...model.values()].filter((each) => each !== 0).length,
      'what is mapped is counted',
    );
  });

t.test(
  'L1 a leaf that is used stays when its parent goes, and is changed all the same',
  async (t) => {
    const random = seededRandom(3);
    const pages = new Pages(random);
    const hooks = { onRelease: () => {}, onRetain: () => {} };
    const map = new BlockMap(pages as unknown as SegmentReader, null, 0, hooks, 1);
    const pumping = pages.pump();
    // Each in a leaf with a parent of its own.
    const blocks = Array.from({ length: 40 }, (_, i) => i * 65_536);
    let segment = 1;
    for (const [i, block] of blocks.entries()) {
      await map.setBlocks(block, { segment: 1, offset: 4096, checksums: [block] });
      if (i % 10 !== 9) continue;
      const { segments, commit } = await map.store(segment + 1, 4096, turn);
      segments.forEach(({ images }, at) => {
        images.forEach((image, page) => {
          pages.stored.set(`${segment + 1 + at}/${4096 + page * 4096}`, Buffer.from(image));
        });
      });
      segment += segments.length;
      commit();
    }
    const [used = 0, ...others] = blocks;
    for (let round = 0; round < 3; round += 1)
      for (const block of others) {
        t.equal(await lookUp(map, used), 1);
        await lookUp(map, block);
      }
    await map.setBlocks(used, { segment: 2, offset: 4096, checksums: [used] });
    pages.isOpen = false;
    await pumping;
    t.equal(await lookUp(map, used), 2, 'it was changed');
  },
);
