/**
 * The agent's process: `node src/agent/main.ts --data-dir DIR [--log FILE] [-- options of blockd]`. Wires the real clock,
 * disk and log in; ends on SIGTERM and SIGINT. With `--stop REQUEST` it only stops what an agent that was killed left
 * behind. Its log (JSON lines) goes to the file or to standard error, a reason not to start as one line `error: ...`.
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { MessageChannel } from 'node:worker_threads';
import type { Shutdown } from '../api/index.ts';
import {
  DvceError,
  exitCodes,
  nodeFileSystem,
  systemClock,
  systemRandom,
  systemTimers,
  toDvceError,
} from '../base/index.ts';
import { openAgentLog } from './log-file.ts';
import { runAgent, stopWithoutAgent } from './process.ts';

function parse(): {
  dataDirectory: string;
  stopRequest: Shutdown | undefined;
  blockdOptions: readonly string[];
  logPath: string | undefined;
} {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      'data-dir': { type: 'string' },
      log: { type: 'string' },
      stop: { type: 'string' },
    },
  });
  const dataDirectory = values['data-dir'];
  if (dataDirectory === undefined || dataDirectory === '')
    throw new DvceError('INVALID_ARGUMENT', {
      what: 'the command line of the agent',
      reason: '--data-dir is missing',
      advice: 'Start it with: dvce agent --data-dir DIR',
    });
  const stopRequest = values.stop === undefined ? undefined : (JSON.parse(values.stop) as Shutdown);
  return { dataDirectory, stopRequest, blockdOptions: positionals, logPath: values.log };
}

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
  const { dataDirectory, stopRequest, blockdOptions, logPath } = parse();
  const options = {
    dataDirectory,
    blockdOptions,
    release: version,
    files: nodeFileSystem,
    clock: systemClock,
    timers: systemTimers,
    random: systemRandom,
    logger: openAgentLog(logPath),
    qemu: process.env['DVCE_QEMU'],
    signal: stop.signal,
    stop: () => stop.abort(),
  };
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
