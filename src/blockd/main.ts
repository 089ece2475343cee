/**
 * The process `dvce blockd`: reads the command line, prepares the process (thread pool, signals, fatal errors, log) and runs
 * blockd, or with `--supervise` its launcher.
 *
 * Invariants:
 * - an uncaught exception, in any thread, is recorded and ends the process with a failure: it never limps on (N4);
 * - libuv's pool has its size before its first use (N5): where the environment does not say it, the process replaces itself;
 * - SIGTERM and SIGINT are a graceful shutdown, exit 0; a second one ends at once.
 */

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import {
  comeBeforeGuests,
  DvceError,
  exitCodes,
  giveBackWhenQuiet,
  limits,
  lockDataDirectory,
  nodeFileSystem,
  Supervisor,
  systemClock,
  systemRandom,
  systemTimers,
  toDvceError,
} from '../base/index.ts';
import { startBlockd } from './blockd.ts';
import { withConfiguration } from './configured.ts';
import { recordCrashSync } from './crash-record.ts';
import { checkSocketPaths, dataDirectory, prepareDataDirectory } from './data-directory.ts';
import { keepAlive } from './keep-alive.ts';
import { superviseBlockd } from './launcher.ts';
import {
  type BlockdOptions,
  blockdUsage,
  formatBlockdArguments,
  parseBlockdArguments,
} from './options.ts';
import { openProcessLog } from './process-log.ts';

const entry = fileURLToPath(import.meta.url);

function releaseOf(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  const version = /"version"\s*:\s*"([^"]+)"/.exec(text)?.[1];
  return version ?? 'unknown';
}

/** Runs until it is told to stop; ends the process itself when something fails beyond repair. @returns the exit code */
export async function runBlockd(options: BlockdOptions): Promise<number> {
  const directory = dataDirectory(options.dataDirectory, options.storeDirectory);
  checkSocketPaths(directory);
  await prepareDataDirectory(nodeFileSystem, directory);
  // Before anything of the directory is read or written, its log included (N3).
  const lock = lockDataDirectory(directory.root);
  const logger = openProcessLog({
    path: directory.logFile,
    level: options.logLevel,
    foreground: options.foreground,
    thread: 'main',
  });
  let ending = false;
  const fatal = (error: unknown, volume: Parameters<typeof recordCrashSync>[1]['volume']): void => {
    if (ending) return;
    ending = true;
    const reason = error instanceof Error ? error.message : String(error);
    logger.error({ err: error, volume }, 'fatal: blockd ends');
    recordCrashSync(directory.crashFile, { reason, atMs: systemClock.wallMs(), volume });
    process.exit(exitCodes.failed);
  };
  process.on('uncaughtException', (error) => fatal(error, null));
  process.on('unhandledRejection', (error) => fatal(error, null));
  // Before it answers anybody: whoever learnt its process may tell it to stop from then on.
  let blockd: Awaited<ReturnType<typeof startBlockd>> | undefined;
  const onSignal = (signal: string): void => {
    if (ending) process.exit(exitCodes.failed);
    ending = true;
    logger.info({ signal }, 'told to stop');
    void supervisor.stopping();
    blockd?.shutdown(true);
  };
  const { env: environment, pid } = process;
  const supervisor = new Supervisor({ environment, pid, timers: systemTimers, logger });
  process.on('SIGTERM', onSignal);
  process.on('SIGINT', onSignal);
  blockd = await startBlockd(options, {
    directory,
    files: nodeFileSystem,
    clock: systemClock,
    timers: systemTimers,
    random: systemRandom,
    logger,
    release: releaseOf(),
    fatal,
  });
  const started = blockd;
  if (ending) started.shutdown(true);
  // Ready is who serves: threads that still load their code have not answered yet.
  started.isWell().then(
    () => supervisor.ready('serving volumes', () => started.isWell()),
    (error: unknown) => logger.error({ err: error }, 'not ready: a thread does not answer'),
  );
  comeBeforeGuests(logger, pid);
  giveBackWhenQuiet(systemTimers);
  const code = await started.ended;
  lock.release();
  return code;
}

async function runLauncher(options: BlockdOptions): Promise<number> {
  const directory = dataDirectory(options.dataDirectory, options.storeDirectory);
  checkSocketPaths(directory);
  await prepareDataDirectory(nodeFileSystem, directory);
  const lock = lockDataDirectory(directory.root, 'launcher.lock');
  const logger = openProcessLog({
    path: directory.launcherLogFile,
    level: options.logLevel,
    foreground: options.foreground,
    thread: 'launcher',
  });
  const stop = new AbortController();
  process.on('SIGTERM', () => stop.abort());
  process.on('SIGINT', () => stop.abort());
  // Its pauses alone would not keep the process alive.
  const letGo = keepAlive();
  const code = await superviseBlockd({
    directory,
    command: [process.execPath, ...process.execArgv, entry, ...formatBlockdArguments(options)],
    environment: process.env,
    files: nodeFileSystem,
    clock: systemClock,
    timers: systemTimers,
    logger,
    stop: stop.signal,
  });
  letGo();
  lock.release();
  return code;
}

/** The pool's size is read once, at its first use, which may be before this module; so the process starts itself anew. */
function ensureThreadPool(): void {
  if (process.env['UV_THREADPOOL_SIZE'] !== undefined || process.execve === undefined) return;
  const environment = { ...process.env, UV_THREADPOOL_SIZE: String(limits.threadPoolThreads) };
  process.execve(
    process.execPath,
    [process.execPath, ...process.execArgv, ...process.argv.slice(1)],
    environment,
  );
}

async function main(argv: readonly string[]): Promise<number> {
  const command = parseBlockdArguments(await withConfiguration(argv, process.env));
  if (command.kind === 'help') {
    process.stdout.write(blockdUsage);
    return exitCodes.ok;
  }
  if (command.kind === 'supervise') return runLauncher(command.options);
  ensureThreadPool();
  return runBlockd(command.options);
}

function report(error: unknown): number {
  const known = toDvceError(error);
  process.stderr.write(`dvce blockd: ${known.message}\n`);
  if (known.advice !== '') process.stderr.write(`${known.advice}\n`);
  if (known.code === 'INTERNAL' && error instanceof Error && !(error instanceof DvceError))
    process.stderr.write(`${error.stack ?? ''}\n`);
  return known.exitCode;
}

if (import.meta.main) {
  try {
    process.exitCode = await main(process.argv.slice(2));
  } catch (error) {
    process.exitCode = report(error);
  }
  // Everything is closed; whatever still holds the event loop (an idle socket of a client) is not waited for.
  process.exit();
}
