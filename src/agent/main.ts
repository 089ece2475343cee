/**
 * The agent's process: `node src/agent/main.ts --data-dir DIR [--log FILE] [--blockd own|external] [-- options of blockd]`.
 * Wires the real clock, disk and log in; ends on SIGTERM and SIGINT. With `--stop REQUEST` it only stops what an agent that
 * was killed left behind. Its log (JSON lines) goes to the file or to standard error, a reason not to start as one line
 * `error: ...`. systemd may hand in the socket of the API, be told when it answers, and wait for signs of life.
 */
import { readFileSync } from 'node:fs';
import { MessageChannel } from 'node:worker_threads';
import {
  comeBeforeGuests,
  exitCodes,
  giveBackWhenQuiet,
  inheritedSockets,
  nodeFileSystem,
  Supervisor,
  supervisorVariables,
  systemClock,
  systemRandom,
  systemTimers,
  toDvceError,
} from '../base/index.ts';
import { readCommandLine } from './command-line.ts';
import { openAgentLog } from './log-file.ts';
import { runAgent, stopWithoutAgent } from './process.ts';
import { Settings } from './settings.ts';

const { version } = JSON.parse(
  readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
) as { version: string };
const stop = new AbortController();
for (const name of ['SIGTERM', 'SIGINT'] as const)
  process.on(name, () => {
    // The second one means: at once. Nothing is lost by that.
    if (stop.signal.aborted) process.exit(exitCodes.interrupted);
    stop.abort();
  });

// Injected timers do not keep a process alive; until the socket listens, this port does.
const alive = new MessageChannel().port1.on('message', () => {});
try {
  const { stopRequest, logPath, configuration, sources, ...given } = await readCommandLine(
    process.argv.slice(2),
    process.env,
  );
  const logger = openAgentLog(logPath);
  const settings = new Settings(configuration, sources, logger);
  const setLevel = (): void => {
    logger.level = settings.text('log.level') ?? 'info';
  };
  setLevel();
  settings.onChange(setLevel);
  process.on('SIGHUP', () => {
    settings
      .reload()
      .catch((error: unknown) => logger.error({ err: error }, 'the configuration stays as it was'));
  });
  const sockets = inheritedSockets(process.env, process.pid);
  const { env: environment, pid } = process;
  const supervisor = new Supervisor({
    environment: { ...environment },
    pid,
    timers: systemTimers,
    logger,
  });
  for (const name of supervisorVariables) delete process.env[name];
  stop.signal.addEventListener('abort', () => void supervisor.stopping());
  const options = {
    ...given,
    release: version,
    files: nodeFileSystem,
    clock: systemClock,
    timers: systemTimers,
    random: systemRandom,
    logger,
    settings,
    signal: stop.signal,
    stop: () => stop.abort(),
    apiDescriptor: sockets.get('agent'),
    onReady: (isWell: () => Promise<boolean>) => void supervisor.ready('the API answers', isWell),
  };
  comeBeforeGuests(logger, pid);
  giveBackWhenQuiet(systemTimers);
  if (stopRequest === undefined) await runAgent(options);
  else await stopWithoutAgent(options, stopRequest);
} catch (error) {
  const known = toDvceError(error);
  process.stderr.write(`error: ${known.message}\n  ${known.advice}\n`);
  process.exitCode = known.exitCode;
}
alive.close();
// Timers of libraries may be pending; nothing that matters is.
process.exit();
