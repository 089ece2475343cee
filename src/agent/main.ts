/**
 * The agent's process: `node src/agent/main.ts --data-dir DIR [--log FILE] [--blockd own|external] [-- options of blockd]`.
 * Wires the real clock, disk and log in; ends on SIGTERM and SIGINT. With `--stop REQUEST` it only stops what an agent that
 * was killed left behind. Its log (JSON lines) goes to the file or to standard error, a reason not to start as one line
 * `error: ...`. systemd may hand in the socket of the API, be told when it answers, and wait for signs of life.
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { MessageChannel } from 'node:worker_threads';
import type { Shutdown } from '../api/index.ts';
import {
  DvceError,
  exitCodes,
  inheritedSockets,
  nodeFileSystem,
  Supervisor,
  supervisorVariables,
  systemClock,
  systemRandom,
  systemTimers,
  toDvceError,
} from '../base/index.ts';
import { openAgentLog } from './log-file.ts';
import { runAgent, stopWithoutAgent } from './process.ts';
import type { ApiOptions } from './serve-api.ts';

function parse(): {
  dataDirectory: string;
  stopRequest: Shutdown | undefined;
  blockdOptions: readonly string[];
  logPath: string | undefined;
  imageCatalogue: string | undefined;
  isBlockdExternal: boolean;
  api: ApiOptions;
} {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      'data-dir': { type: 'string' },
      log: { type: 'string' },
      stop: { type: 'string' },
      'image-catalogue': { type: 'string' },
      blockd: { type: 'string', default: 'own' },
      'api-listen': { type: 'string' },
      'api-cert-file': { type: 'string' },
      'api-key-file': { type: 'string' },
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
  if (values.blockd !== 'own' && values.blockd !== 'external')
    throw new DvceError('INVALID_ARGUMENT', {
      what: '--blockd',
      reason: `${JSON.stringify(values.blockd)} is neither own nor external`,
      advice: 'external: systemd runs it; own: the agent starts it.',
    });
  const isBlockdExternal = values.blockd === 'external';
  return {
    dataDirectory,
    stopRequest,
    blockdOptions: positionals,
    logPath: values.log,
    api: {
      listen: values['api-listen'] ?? process.env['DVCE_API_LISTEN'],
      certFile: values['api-cert-file'] ?? process.env['DVCE_API_CERT_FILE'],
      keyFile: values['api-key-file'] ?? process.env['DVCE_API_KEY_FILE'],
      accessLog: process.env['DVCE_ACCESS_LOG'],
    },
    imageCatalogue: values['image-catalogue'],
    isBlockdExternal,
  };
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
  const { stopRequest, logPath, imageCatalogue, ...given } = parse();
  const logger = openAgentLog(logPath);
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
    qemu: process.env['DVCE_QEMU'],
    imageFiles: {
      catalogueFile: imageCatalogue ?? process.env['DVCE_IMAGES_CATALOGUE'],
      authoritiesFile: process.env['DVCE_IMAGES_AUTHORITIES'],
    },
    signal: stop.signal,
    stop: () => stop.abort(),
    apiDescriptor: sockets.get('agent'),
    onReady: (isWell: () => Promise<boolean>) => void supervisor.ready('the API answers', isWell),
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
