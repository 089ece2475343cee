/**
 * Make sure that blockd runs when the agent starts, and say why when it does not.
 *
 * The launcher tries for ever, which is right for a blockd that died and wrong for one that was never going to work (its
 * port is taken, its store has a newer format): who starts an agent wants to know at once. So what blockd says to its
 * standard error, `dvce blockd: REASON`, is read from the launcher's log, and after a few such endings the start fails with
 * the reason. A launcher that was not there before is then stopped again.
 */
import { closeSync, openSync, readSync, statSync } from 'node:fs';
import {
  type Clock,
  DvceError,
  limits,
  sleep,
  systemCode,
  type Timers,
  toDvceError,
} from '../base/index.ts';
import { BlockdClient, dataDirectory, ensureBlockd } from '../blockd/index.ts';
import type { DataProcess } from './data-process.ts';
import { isHeld, stopBlockd } from './stop-blockd.ts';

export interface StartBlockdOptions {
  readonly dataDirectory: string;
  readonly blockdOptions: readonly string[];
  readonly blockd: DataProcess;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly signal: AbortSignal;
  /** Something else (systemd) runs blockd: it is waited for, never started. */
  readonly isExternal?: boolean | undefined;
  readonly timeoutMs?: number;
}

const triesMax = 3;
const pollMs = 200;
const complaint = /^dvce blockd: (.*)$/gm;

/** @throws BLOCKD_UNAVAILABLE with what blockd said */
export async function startBlockd(options: StartBlockdOptions): Promise<void> {
  if (options.isExternal === true) return awaitBlockd(options);
  const { root, launcherLogFile, controlSocket } = dataDirectory(options.dataDirectory);
  const { clock, timers, blockd, blockdOptions, timeoutMs = limits.blockdStartMs } = options;
  const hadLauncher = isHeld(root, 'launcher.lock');
  const said = logReader(launcherLogFile);
  const done = new AbortController();
  const signal = AbortSignal.any([options.signal, done.signal]);
  try {
    await Promise.race([
      ensureBlockd({ dataDirectory: root, argv: blockdOptions, clock, timers, signal, timeoutMs }),
      givesUp(said, controlSocket, timers, signal),
    ]);
  } catch (error) {
    if (!hadLauncher) await stopBlockd({ root, blockd, clock, timers });
    const known = toDvceError(error);
    const reason = said().at(-1);
    if (known.code !== 'BLOCKD_UNAVAILABLE' || reason === undefined) throw known;
    throw new DvceError(
      'BLOCKD_UNAVAILABLE',
      { where: String(known.context['where']), reason: `it does not start: ${reason}` },
      known,
    );
  } finally {
    done.abort(new DvceError('CANCELLED', { what: 'waiting for blockd' }));
  }
}

/** @throws BLOCKD_UNAVAILABLE when it does not answer in time */
export async function awaitBlockd({
  dataDirectory: root,
  clock,
  timers,
  signal,
  timeoutMs = limits.blockdStartMs,
}: StartBlockdOptions): Promise<void> {
  const { controlSocket } = dataDirectory(root);
  const end = clock.monotonicMs() + timeoutMs;
  const client = new BlockdClient({ socketPath: controlSocket, timers });
  try {
    for (;;) {
      try {
        await client.hello({ signal });
        return;
      } catch (error) {
        const known = toDvceError(error);
        if (known.code !== 'BLOCKD_UNAVAILABLE' || clock.monotonicMs() >= end) throw known;
      }
      await sleep(timers, pollMs, signal);
    }
  } finally {
    client.close();
  }
}

/** Rejects after a few endings with a reason; never resolves. */
async function givesUp(
  said: () => readonly string[],
  where: string,
  timers: Timers,
  signal: AbortSignal,
): Promise<never> {
  for (;;) {
    await sleep(timers, pollMs, signal);
    if (said().length >= triesMax)
      throw new DvceError('BLOCKD_UNAVAILABLE', {
        where,
        reason: `it ended ${triesMax} times`,
      });
  }
}

/** What blockd complained about since now. */
function logReader(path: string): () => readonly string[] {
  const start = sizeOf(path);
  return () => {
    const length = Math.min(sizeOf(path) - start, limits.controlMessageBytesMax);
    if (length <= 0) return [];
    const file = openSync(path, 'r');
    try {
      const bytes = Buffer.alloc(length);
      const text = bytes.subarray(0, readSync(file, bytes, 0, length, start)).toString('utf8');
      return [...text.matchAll(complaint)].map((match) => match[1] ?? '');
    } finally {
      closeSync(file);
    }
  };
}

function sizeOf(path: string): number {
  try {
    return statSync(path).size;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return 0;
    throw error;
  }
}
