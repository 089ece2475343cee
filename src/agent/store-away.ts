/** What must be done even while the store does not answer, because it is about processes of this host. */
import { DvceError, limits, sleep, type Timers } from '../base/index.ts';

/**
 * Work on the store, which is waited for only a moment.
 * @returns undefined when the store is away or does not answer; what it refuses is thrown
 */
export async function unlessAway<T>(
  timers: Timers,
  work: Promise<T>,
): Promise<{ readonly value: T } | undefined> {
  const done = new AbortController();
  const patience = sleep(timers, limits.vmStorePatienceMs, done.signal).then(
    () => undefined,
    () => undefined, // the work was faster
  );
  const outcome = work.then((value) => ({ value }));
  outcome.catch(() => {}); // one that fails later is nobody's business any more
  try {
    return await Promise.race([outcome, patience]);
  } catch (error) {
    if (isAway(error)) return undefined;
    throw error;
  } finally {
    done.abort(new DvceError('CANCELLED', { what: 'waiting for the store' }));
  }
}

/** Whether an error says that the store, or the way to it, is away. */
export const isAway = (error: unknown): boolean =>
  error instanceof DvceError && (error.code === 'BLOCKD_UNAVAILABLE' || error.code === 'TIMED_OUT');
