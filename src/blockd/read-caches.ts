/**
 * The read caches of a process: the main thread says how much memory they may take all together, each worker has its own
 * cache and looks regularly whether it has to give something back (hlfs/cache-budget.ts).
 */
import { limits, type Timers } from '../base/index.ts';
import { ReadCache, SharedCacheBudget, SharedReads } from '../hlfs/index.ts';

/** What a worker needs to take part. */
export interface ReadCacheSetup {
  readonly memory: SharedArrayBuffer;
  readonly threads: number;
}

/**
 * The budget for the workers. Where the host runs short of memory it is nothing until twice as much is free again.
 * @param availableBytes what this process could still get
 */
export function shareReadCaches(
  bytes: number,
  threads: number,
  timers: Timers,
  availableBytes: () => number = () => process.availableMemory(),
): ReadCacheSetup {
  const budget = new SharedCacheBudget(threads);
  let isShort = false;
  const look = (): void => {
    isShort = availableBytes() < limits.readCacheFreeBytes * (isShort ? 2 : 1);
    budget.limit(isShort ? 0 : bytes);
    timers.after(limits.readCacheLookMs, look);
  };
  look();
  return { memory: budget.memory, threads };
}

/** In a worker. */
export function openReads(setup: ReadCacheSetup, thread: number, timers: Timers): SharedReads {
  const cache = new ReadCache(new SharedCacheBudget(setup.threads, setup.memory).of(thread));
  const look = (): void => {
    cache.look();
    timers.after(limits.readCacheLookMs, look);
  };
  timers.after(limits.readCacheLookMs, look);
  return new SharedReads(cache);
}
