/**
 * Stop blockd for good. The usual way is its own `shutdown`; its launcher then ends, too. A blockd that does not answer
 * (it is being started again and again, or hangs) is stopped through its launcher, which is known by its lock.
 */
import {
  type Clock,
  DvceError,
  limits,
  lockDataDirectory,
  sleep,
  systemCode,
  type Timers,
  toDvceError,
} from '../base/index.ts';
import type { DataProcess } from './data-process.ts';

/** blockd's names in the data directory. */
const locks = ['launcher.lock', 'lock'] as const;
const pollMs = 50;

export interface StopBlockdOptions {
  readonly root: string;
  readonly blockd: DataProcess;
  readonly clock: Clock;
  readonly timers: Timers;
}

/** Resolves when neither blockd nor its launcher runs. */
export async function stopBlockd({
  root,
  blockd,
  clock,
  timers,
}: StopBlockdOptions): Promise<void> {
  const end = clock.monotonicMs() + limits.agentStopMs;
  try {
    await blockd.call('shutdown', { graceful: true }, { timeoutMs: limits.agentStopMs });
  } catch (error) {
    if (toDvceError(error).code !== 'BLOCKD_UNAVAILABLE') throw error;
    for (const name of locks) terminate(holderOf(root, name));
  }
  while (locks.some((name) => isHeld(root, name))) {
    if (clock.monotonicMs() >= end)
      throw new DvceError('TIMED_OUT', { what: 'the end of blockd', ms: limits.agentStopMs });
    await sleep(timers, pollMs);
  }
}

/** Whether somebody holds a lock of the data directory. */
export const isHeld = (root: string, name: string): boolean => holderOf(root, name) !== undefined;

/** Who holds a lock; undefined when nobody does. */
function holderOf(root: string, name: string): number | undefined {
  try {
    lockDataDirectory(root, name).release();
    return undefined;
  } catch (error) {
    if (!(error instanceof DvceError && error.code === 'LOCKED')) throw error;
    return Number(error.context['pid']) || 0;
  }
}

function terminate(pid: number | undefined): void {
  // 0: the holder has not written its pid yet; it is asked again when the lock is still held later.
  if (pid === undefined || pid === 0) return;
  try {
    process.kill(pid, 'SIGTERM');
  } catch (error) {
    if (systemCode(error) !== 'ESRCH') throw error;
  }
}
