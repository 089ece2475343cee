/** The read cache by itself: what it keeps, what it gives back, and that it never answers with something else. */
import fc from 'fast-check';
import t from 'tap';
import { seededRandom } from '../../src/base/index.ts';
import { cacheSlabBytes, SharedCacheBudget } from '../../src/hlfs/cache-budget.ts';
import { ReadCache } from '../../src/hlfs/read-cache.ts';

const blockBytes = 4096;
const slabBlocks = cacheSlabBytes / blockBytes;

function cacheOf(slabs: number): ReadCache {
  const budget = new SharedCacheBudget(1);
  budget.limit(slabs * cacheSlabBytes);
  return new ReadCache(budget.of(0));
}

const keyOf = (segment: number): string =>
  `logs/6f9619ff-8b86-4d01-b42d-00cf4fc964ff/seg/000000/${String(segment).padStart(12, '0')}`;

/** Content that says whose it is. */
function contentOf(segment: number, place: number, version = 0): Buffer {
  return Buffer.alloc(blockBytes, Buffer.from(Uint32Array.of(segment, place, version, 7).buffer));
}

const target = Buffer.alloc(blockBytes);
/** A read of block `index` as the engine does it. @returns whether it was a hit */
function readBlock(cache: ReadCache, index: number, cheap = false): boolean {
  const segment = 1 + Math.floor(index / 8192);
  const place = 4096 + (index % 8192) * blockBytes;
  if (cache.get(keyOf(segment), place, index, target)) return true;
  cache.put(keyOf(segment), place, index, contentOf(segment, place), cheap);
  return false;
}

t.test('a scan of everything leaves what is used often where it is', async (t) => {
  const cache = cacheOf(2);
  const random = seededRandom(7);
  const hot = Array.from({ length: 300 }, (_, i) => i * 131);
  const readHot = (times: number): number => {
    let hits = 0;
    for (let i = 0; i < times; i += 1)
      if (readBlock(cache, hot[random.below(hot.length)] ?? 0)) hits += 1;
    return hits / times;
  };
  readHot(3000);
  t.ok(readHot(3000) > 0.95, 'the hot blocks fit');
  // A disk ten times as large as the cache is read from its beginning to its end, three times, while work goes on.
  for (let scan = 0; scan < 3; scan += 1)
    for (let block = 0; block < 10 * 2 * slabBlocks; block += 1) {
      readBlock(cache, 1_000_000 + block);
      if (block % 8 === 0) readHot(1);
    }
  const after = readHot(2000);
  t.ok(after > 0.9, `${after} of the hot reads are hits after the scans`);
});

t.test('blocks of a group that are asked for once each do not count as used often', async (t) => {
  const cache = cacheOf(2);
  const hot = Array.from({ length: 200 }, (_, i) => i);
  for (let round = 0; round < 5; round += 1) for (const block of hot) readBlock(cache, block);
  // A group comes in whole, then each of its blocks is asked for.
  for (let group = 0; group < 150; group += 1) {
    for (let i = 0; i < 16; i += 1) readBlock(cache, 500_000 + group * 16 + i);
    for (let i = 0; i < 16; i += 1) readBlock(cache, 500_000 + group * 16 + i);
  }
  const hits = hot.filter((block) => readBlock(cache, block)).length;
  t.ok(hits > 180, `${hits} of 200 are still there`);
});

t.test('the budget holds at every step, also over threads', async (t) => {
  const budget = new SharedCacheBudget(3);
  budget.limit(8.5 * cacheSlabBytes);
  // As in other threads: objects of their own on the same memory.
  const caches = [0, 1, 2].map(
    (thread) => new ReadCache(new SharedCacheBudget(3, budget.memory).of(thread)),
  );
  const [first, second, third] = caches as [ReadCache, ReadCache, ReadCache];
  const held = (): number => caches.reduce((sum, cache) => sum + cache.bytes, 0);
  let next = 0;
  const fill = (cache: ReadCache, blocks: number): void => {
    for (let i = 0; i < blocks; i += 1) {
      readBlock(cache, next);
      next += 1;
      if (held() > 8 * cacheSlabBytes) throw new Error(`${held()} bytes are held`);
      if (cache.blocks * blockBytes > cache.bytes) throw new Error('more blocks than memory');
    }
  };
  fill(first, 10 * slabBlocks);
  t.equal(first.bytes, 8 * cacheSlabBytes, 'who is alone gets all');
  for (let round = 0; round < 12; round += 1)
    for (const cache of [first, second]) {
      fill(cache, slabBlocks);
      cache.look();
    }
  t.equal(first.bytes, 4 * cacheSlabBytes, 'two that work get the same');
  t.equal(second.bytes, 4 * cacheSlabBytes);
  for (let round = 0; round < 12; round += 1)
    for (const cache of caches) {
      fill(cache, slabBlocks);
      cache.look();
    }
  for (const cache of caches)
    t.ok(cache.bytes >= 2 * cacheSlabBytes, `one of three: ${cache.bytes}`);
  t.equal(budget.heldBytes, held());

  third.look();
  third.look();
  t.equal(third.bytes, 0, 'who does nothing gives everything back');
  fill(first, 4 * slabBlocks);
  fill(second, 4 * slabBlocks);
  budget.limit(2 * cacheSlabBytes);
  for (const cache of caches) cache.look();
  t.ok(held() <= 2 * cacheSlabBytes, 'a lowered budget is kept after one look of each');
  budget.limit(0);
  for (const cache of caches) {
    readBlock(cache, 1);
    cache.look();
  }
  t.equal(held(), 0);
  fill(first, 2 * slabBlocks);
  t.equal(first.blocks, 0, 'without a budget nothing is kept');
  t.equal(budget.heldBytes, 0);
});

t.test('what is cheap to read again is kept when it is asked for twice', async (t) => {
  const cache = cacheOf(1);
  t.notOk(readBlock(cache, 5, true));
  t.equal(cache.blocks, 0, 'the first time it is only remembered');
  t.equal(cache.bytes, 0, 'and takes no memory');
  t.notOk(readBlock(cache, 5, true));
  t.ok(readBlock(cache, 5, true), 'the third time it is a hit');
  for (let block = 100; block < 100 + 3000; block += 1) readBlock(cache, block, true);
  t.equal(cache.blocks, 1, 'a scan brings nothing in');
});

t.test('another checksum at the same place is another content', async (t) => {
  const cache = cacheOf(1);
  cache.put(keyOf(3), 4096, 1111, contentOf(3, 4096, 1), false);
  t.notOk(cache.get(keyOf(3), 4096, 2222, target));
  t.notOk(cache.get(keyOf(4), 4096, 1111, target));
  cache.put(keyOf(3), 4096, 2222, contentOf(3, 4096, 2), false);
  t.ok(cache.get(keyOf(3), 4096, 2222, target));
  t.ok(target.equals(contentOf(3, 4096, 2)));
  t.notOk(cache.get(keyOf(3), 4096, 1111, target));
  t.equal(cache.blocks, 1);
});

const step = fc.oneof(
  { weight: 20, arbitrary: fc.record({ do: fc.constant('read' as const), at: fc.nat(2000) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('scan' as const), at: fc.nat(1500) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('change' as const), at: fc.nat(2000) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('limit' as const), at: fc.nat(2) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('look' as const), at: fc.nat(1) }) },
);

/** The cache with a budget that changes, read through; throws when a hit is not what was put in last. */
class CheckedCache {
  hits = 0;
  readonly #budget = new SharedCacheBudget(1);
  readonly #cache = new ReadCache(this.#budget.of(0));
  readonly #versions = new Map<number, number>();

  constructor() {
    this.#budget.limit(2 * cacheSlabBytes);
  }

  read(block: number): void {
    const version = this.#versions.get(block) ?? 0;
    const [key, checksum] = [keyOf(block % 7), block * 16 + version];
    const content = contentOf(block % 7, block, version);
    if (this.#cache.get(key, block, checksum, target)) {
      this.hits += 1;
      if (!target.equals(content)) throw new Error(`block ${block} answers with something else`);
    } else {
      this.#cache.put(key, block, checksum, content, block % 3 === 0);
      content.fill(0xee); // it was copied
    }
    if (this.#cache.bytes > 2 * cacheSlabBytes) throw new Error('beyond the budget');
  }

  take(step: { readonly do: 'read' | 'scan' | 'change' | 'limit' | 'look'; readonly at: number }) {
    const { at } = step;
    if (step.do === 'read') this.read(at % 400);
    else if (step.do === 'scan') for (let i = 0; i < 300; i += 1) this.read(at + i);
    else if (step.do === 'change') this.#versions.set(at, (this.#versions.get(at) ?? 0) + 1);
    else if (step.do === 'limit') this.#budget.limit(at * cacheSlabBytes);
    else this.#cache.look();
  }
}

t.test('a hit is always what was put in last, whatever leaves in between', async (t) => {
  let hits = 0;
  fc.assert(
    fc.property(fc.array(step, { minLength: 100, maxLength: 200 }), (steps) => {
      const cache = new CheckedCache();
      for (const each of steps) cache.take(each);
      hits += cache.hits;
    }),
    { numRuns: 20, seed: 5, endOnFailure: true },
  );
  t.ok(hits > 1000, `${hits} hits`);
});
