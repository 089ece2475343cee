/** A read cache of one slab for one process of a test: its volumes have more blocks, so that some have to leave. */
import { ReadCache, SharedCacheBudget, SharedReads } from '../../src/hlfs/index.ts';

export function smallReads(): SharedReads {
  const budget = new SharedCacheBudget(1);
  budget.limit(1 << 20);
  return new SharedReads(new ReadCache(budget.of(0)));
}
