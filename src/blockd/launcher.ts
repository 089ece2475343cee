/**
 * The launcher: keeps one blockd running on a host without systemd. A process of its own, so small that it has no reason to
 * die; started by `ensureBlockd`, outlived by nothing of the agent.
 *
 *   start --> blockd answers already? --yes--> watch its connection --+
 *                    | no                                            |
 *                    v                                               v
 *              start blockd, wait for its end ------> as told? --yes--> end
 *                    ^                                    | no
 *                    +------ wait 0.2 s ... 10 s ---------+
 *
 * Invariants:
 * - one launcher per data directory (it holds launcher.lock), and blockd's own lock keeps it to one blockd whatever happens here;
 * - blockd runs in a session of its own and holds no pipe of the launcher: the launcher may die and be started again, it then
 *   adopts the blockd that runs;
 * - blockd ended with 0, or was told to stop through the launcher, or does not understand its command line: the launcher ends;
 *   everything else is restarted, with a pause that doubles and starts over after a blockd that lived for a while.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import {
  type Clock,
  exitCodes,
  type FileSystem,
  type Logger,
  limits,
  sleep,
  type Timers,
} from '../base/index.ts';
import { BlockdClient } from './client.ts';
import { isFaultSignal, readCrash, recordCrashSync } from './crash-record.ts';
import type { DataDirectory } from './data-directory.ts';
import { readWhole } from './durable-file.ts';
import { rotateLog } from './process-log.ts';

export interface LauncherOptions {
  readonly directory: DataDirectory;
  /** Program and arguments of blockd. */
  readonly command: readonly [string, ...string[]];
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly files: FileSystem;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly logger: Logger;
  /** Aborts when the launcher was told to stop: blockd is told to stop too. */
  readonly stop: AbortSignal;
}

interface Ending {
  /** Not to be started again: this is the launcher's exit code. */
  readonly final: number | null;
  readonly detail: string;
}

/** Runs until blockd ended as told. @returns the exit code of the launcher */
export async function superviseBlockd(options: LauncherOptions): Promise<number> {
  const { clock, timers, logger, stop } = options;
  let delayMs: number = limits.blockdRestartMsMin;
  for (;;) {
    const startedMs = clock.monotonicMs();
    rotateLog(options.directory.launcherLogFile);
    const ending = (await adopt(options)) ?? (await runOnce(options));
    if (ending.final !== null) {
      logger.info({ code: ending.final }, `blockd ended: ${ending.detail}`);
      return ending.final;
    }
    if (stop.aborted) return exitCodes.failed;
    if (clock.monotonicMs() - startedMs >= limits.blockdRestartResetMs)
      delayMs = limits.blockdRestartMsMin;
    logger.error({ delayMs }, `blockd died: ${ending.detail}; starting it again`);
    try {
      await sleep(timers, delayMs, stop);
    } catch {
      return exitCodes.ok;
    }
    delayMs = Math.min(delayMs * 2, limits.blockdRestartMsMax);
  }
}

/** Watch a blockd that runs already. @returns undefined when there is none */
async function adopt(options: LauncherOptions): Promise<Ending | undefined> {
  const { directory, timers, stop, logger } = options;
  const client = new BlockdClient({ socketPath: directory.controlSocket, timers });
  try {
    const { pid } = await client.hello();
    logger.info({ pid }, 'watching the blockd that runs already');
    const tell = (): void => {
      process.kill(pid, 'SIGTERM');
    };
    stop.addEventListener('abort', tell, { once: true });
    if (stop.aborted) tell();
    await client.ended();
    stop.removeEventListener('abort', tell);
    const asTold = endedAsTold(options, pid);
    return { final: asTold ? exitCodes.ok : null, detail: asTold ? 'as told' : 'it is gone' };
  } catch {
    // Nobody answers: there is nothing to adopt. If one holds the lock without answering, ours ends with LOCKED and we retry.
    return undefined;
  } finally {
    client.close();
  }
}

/** The exit file of `pid` says that it ended as it was told to. */
function endedAsTold({ files, directory }: LauncherOptions, pid: number): boolean {
  const text = readWhole(files, directory.exitFile, 4096);
  return text !== undefined && text.trim() === JSON.stringify({ pid });
}

async function runOnce(options: LauncherOptions): Promise<Ending> {
  const { directory, command, environment, stop, logger } = options;
  const [program, ...argv] = command;
  const output = openSync(directory.launcherLogFile, 'a', 0o640);
  let child: ChildProcess;
  try {
    child = spawn(program, argv, {
      detached: true,
      stdio: ['ignore', output, output],
      env: {
        ...environment,
        UV_THREADPOOL_SIZE: String(limits.threadPoolThreads),
        MALLOC_ARENA_MAX: String(limits.memoryArenas),
      },
    });
  } finally {
    closeSync(output);
  }
  logger.info({ pid: child.pid }, 'blockd started');
  const tell = (): void => {
    child.kill('SIGTERM');
  };
  stop.addEventListener('abort', tell, { once: true });
  if (stop.aborted) tell();
  const ending = await endOf(child, options);
  stop.removeEventListener('abort', tell);
  return ending;
}

function endOf(child: ChildProcess, options: LauncherOptions): Promise<Ending> {
  return new Promise((resolve) => {
    child.on('error', (error) => resolve({ final: null, detail: error.message }));
    child.on('exit', (code, signal) => {
      if (isFaultSignal(signal)) recordFault(options, String(signal));
      const final = code === exitCodes.ok || code === exitCodes.usage || options.stop.aborted;
      resolve({
        final: final ? (code ?? exitCodes.failed) : null,
        detail: signal === null ? `exit code ${code}` : `signal ${signal}`,
      });
    });
  });
}

/** Rule N4: a process that died of its own fault did not always come to write its crash record. */
function recordFault({ files, directory, clock, logger }: LauncherOptions, signal: string): void {
  try {
    if (readCrash(files, directory.crashFile) !== undefined) return;
    const record = { reason: `it died of ${signal}`, atMs: clock.wallMs(), volume: null };
    recordCrashSync(directory.crashFile, record);
  } catch (error) {
    logger.error({ err: error }, 'the crash could not be recorded');
  }
}
