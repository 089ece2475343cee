/**
 * A worker thread: hosts open volumes and snapshots, each with its own unix socket (an accepted socket cannot be moved to
 * another thread, so the volume's clients come straight here). Builds its own store and documents; shares the process's
 * publishing scope, and nothing else, with the other threads.
 *
 * An exception that nobody caught ends the thread, and with it the process (rule N4): the main thread sees to that.
 */
import { parentPort, workerData } from 'node:worker_threads';
import {
  assert,
  giveBackWhenQuiet,
  limits,
  nodeFileSystem,
  systemClock,
  systemRandom,
  systemTimers,
} from '../base/index.ts';
import { BuildBudget, type HlfsContext, openDocuments } from '../hlfs/index.ts';
import { openLocalStore } from '../stores/index.ts';
import { type CallContext, Dispatcher } from './calls.ts';
import { isRecord } from './lines.ts';
import { observed } from './observed-documents.ts';
import { Packer } from './packer.ts';
import { openProcessLog } from './process-log.ts';
import { openReads } from './read-caches.ts';
import { workerHandlers } from './worker-handlers.ts';
import type { WorkerMethod, WorkerParams, WorkerSetup } from './worker-protocol.ts';

async function openContext(setup: WorkerSetup): Promise<HlfsContext> {
  const store = await openLocalStore({
    root: setup.storeDirectory,
    files: nodeFileSystem,
    random: systemRandom,
    create: false,
    threads: setup.workers,
  });
  const logger = openProcessLog({
    path: setup.logFile,
    level: setup.logLevel,
    foreground: setup.foreground,
    thread: `worker-${setup.index}`,
  });
  return {
    store,
    // The main thread hears of a change before it hears that the request which made it is done.
    documents: observed(openDocuments(store), (changed) => parentPort?.postMessage({ changed })),
    files: nodeFileSystem,
    clock: systemClock,
    timers: systemTimers,
    random: systemRandom,
    logger,
    node: setup.node,
    scope: setup.scope,
    journalDirectory: setup.journalDirectory,
    reads: openReads(setup.readCache, setup.index, systemTimers),
    builds: new BuildBudget(limits.keptPayloadBytes),
    compressor: new Packer({ timers: systemTimers, clock: systemClock, logger }),
  };
}

const port = parentPort;
assert(port !== null, 'this module runs in a worker thread');
const setup = workerData as WorkerSetup;
const handlers = openContext(setup).then((context) =>
  workerHandlers(context, `worker-${setup.index}`),
);
const dispatcher = new Dispatcher({
  handler: async (method, params, call) => run(method as WorkerMethod, params as never, call),
  post: (message) => port.postMessage(message),
});

async function run<M extends WorkerMethod>(
  method: M,
  params: WorkerParams<M>,
  call: CallContext,
): Promise<unknown> {
  return (await handlers)[method](params, call);
}

giveBackWhenQuiet(systemTimers);

port.on('message', (message: unknown) => {
  if (isRecord(message)) dispatcher.receive(message);
});
