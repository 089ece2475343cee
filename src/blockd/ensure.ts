/** Make sure that a blockd runs for a data directory; for the agent on a host without systemd. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import {
  type Clock,
  DvceError,
  exitCodes,
  limits,
  sleep,
  type Timers,
  toDvceError,
} from '../base/index.ts';
import { BlockdClient } from './client.ts';
import { checkSocketPaths, dataDirectory } from './data-directory.ts';
import { keepAlive } from './keep-alive.ts';
import type { ControlResult } from './protocol.ts';

/** The program of the data process: run it with Node and the options of `dvce blockd`. */
export const blockdEntry: string = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? './main.ts' : './main.js', import.meta.url),
);

export interface EnsureBlockdOptions {
  readonly dataDirectory: string;
  /** More options of `dvce blockd`, for example `['--store', '/srv/store']`; used only when it has to be started. */
  readonly argv?: readonly string[];
  readonly clock: Clock;
  readonly timers: Timers;
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
}

/**
 * Resolves when blockd answers `hello`. Starts the launcher when nobody does; the launcher and its blockd outlive this process.
 * Throws BLOCKD_UNAVAILABLE after the deadline, saying where the log is.
 */
export async function ensureBlockd(options: EnsureBlockdOptions): Promise<ControlResult<'hello'>> {
  const { clock, timers, signal, timeoutMs = limits.blockdStartMs } = options;
  const directory = dataDirectory(options.dataDirectory);
  checkSocketPaths(directory);
  const client = new BlockdClient({ socketPath: directory.controlSocket, timers });
  const deadlineMs = clock.monotonicMs() + timeoutMs;
  let launcher: ChildProcess | undefined;
  const letGo = keepAlive();
  try {
    for (;;) {
      try {
        return await client.hello();
      } catch (error) {
        const known = toDvceError(error);
        if (known.code !== 'BLOCKD_UNAVAILABLE') throw known;
        if (clock.monotonicMs() >= deadlineMs)
          throw unavailable(
            directory.controlSocket,
            `it did not start within ${timeoutMs} ms; see ${directory.launcherLogFile} and ${directory.logFile}`,
            known,
          );
      }
      launcher ??= startLauncher(options, directory.log, directory.launcherLogFile);
      checkLauncher(launcher, directory.controlSocket, directory.launcherLogFile);
      await sleep(timers, limits.blockdPollMs, signal);
    }
  } finally {
    letGo();
    client.close();
  }
}

function startLauncher(
  options: EnsureBlockdOptions,
  logDirectory: string,
  logFile: string,
): ChildProcess {
  mkdirSync(logDirectory, { recursive: true, mode: 0o750 });
  const output = openSync(logFile, 'a', 0o640);
  try {
    const argv = [
      '--disable-warning=ExperimentalWarning',
      blockdEntry,
      '--supervise',
      '--data-dir',
      options.dataDirectory,
      ...(options.argv ?? []),
    ];
    const child = spawn(process.execPath, argv, {
      detached: true,
      stdio: ['ignore', output, output],
    });
    child.unref();
    child.on('error', () => {});
    return child;
  } finally {
    closeSync(output);
  }
}

/** A launcher that found another one at work (conflict) is no failure: that one's blockd will answer. */
function checkLauncher(launcher: ChildProcess, where: string, logFile: string): void {
  const { exitCode } = launcher;
  if (exitCode === null || exitCode === exitCodes.conflict) return;
  throw unavailable(where, `its launcher ended with code ${exitCode}; see ${logFile}`);
}

function unavailable(where: string, reason: string, cause?: unknown): DvceError {
  return new DvceError('BLOCKD_UNAVAILABLE', { where, reason }, cause);
}
