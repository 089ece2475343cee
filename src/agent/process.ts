/**
 * The agent as a process: lock, directories, blockd, the API on its socket, signals; and the way back.
 *
 * Order of the start: the lock first (N3: a second agent changes nothing), then blockd, then what is kept, the socket last,
 * so that whoever gets an answer gets a whole agent. Ending leaves blockd and the guests as they are unless a shutdown
 * request said otherwise.
 */
import { chmod, rm } from 'node:fs/promises';
import type { Shutdown } from '../api/index.ts';
import {
  type Clock,
  type DataDirectoryLock,
  DvceError,
  type FileSystem,
  type Logger,
  limits,
  lockDataDirectory,
  type Random,
  sleep,
  systemCode,
  type Timers,
} from '../base/index.ts';
import { BlockdClient, dataDirectory, ensureBlockd } from '../blockd/index.ts';
import { createQemuDriver } from '../vm/index.ts';
import { Agent } from './agent.ts';
import { serveConsoles } from './console-upgrade.ts';
import { type AgentLayout, agentLayout } from './layout.ts';
import type { Server } from './routes/types.ts';
import { buildServer } from './server.ts';
import { startBlockd } from './start-blockd.ts';

export interface AgentProcessOptions {
  readonly dataDirectory: string;
  /** For blockd, when it has to be started. */
  readonly blockdOptions: readonly string[];
  readonly release: string;
  readonly files: FileSystem;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly logger: Logger;
  /** The hypervisor's program when it is not in the usual place. */
  readonly qemu?: string | undefined;
  /** Aborts when the agent shall end. */
  readonly signal: AbortSignal;
  /** Ask for the end from inside. */
  readonly stop: () => void;
}

/** Stop what a killed agent left: VMs as the request says, then blockd. */
export async function stopWithoutAgent(
  options: AgentProcessOptions,
  request: Shutdown,
): Promise<void> {
  const layout = agentLayout(options.dataDirectory);
  const lock = lockDataDirectory(layout.root, lockName);
  const { agent, client } = await openAgent(options, layout);
  try {
    await agent.prepareShutdown(request);
  } finally {
    await agent.close();
    client.close();
    release(lock, options.logger);
  }
}

const lockName = 'agent.lock';
const socketMode = 0o660;

/** Runs until the signal aborts. */
export async function runAgent(options: AgentProcessOptions): Promise<void> {
  const layout = agentLayout(options.dataDirectory);
  const { files, logger } = options;
  for (const path of [layout.root, layout.run, layout.state]) await files.makeDirectory(path);
  const lock = lockDataDirectory(layout.root, lockName);
  try {
    await serve(options, layout);
  } finally {
    release(lock, logger);
  }
}

function release(lock: DataDirectoryLock, logger: Logger): void {
  lock.release();
  logger.info({}, 'the agent has ended');
}

async function openAgent(
  options: AgentProcessOptions,
  layout: AgentLayout,
): Promise<{ agent: Agent; client: BlockdClient }> {
  const { clock, timers, random, logger, files, qemu } = options;
  const { controlSocket } = dataDirectory(layout.root);
  const client = new BlockdClient({ socketPath: controlSocket, timers });
  const driver = createQemuDriver({
    clock,
    timers,
    random,
    logger,
    runDirectory: layout.vmRun,
    logDirectory: layout.vmLog,
    ...(qemu === undefined ? {} : { binary: qemu }),
  });
  const agent = await Agent.open({
    layout,
    release: options.release,
    blockd: client,
    driver,
    files,
    clock,
    timers,
    random,
    logger,
    hypervisorProgram: qemu,
    onStop: options.stop,
  });
  return { agent, client };
}

async function serve(options: AgentProcessOptions, layout: AgentLayout): Promise<void> {
  const { logger, signal } = options;
  const { agent, client } = await openAgent(options, layout);
  try {
    await startBlockd({
      dataDirectory: layout.root,
      blockdOptions: options.blockdOptions,
      blockd: client,
      clock: options.clock,
      timers: options.timers,
      signal,
    });
    await agent.reconcile();
  } catch (error) {
    await agent.close();
    client.close();
    throw error;
  }
  const server = await buildServer(agent, logger, options.release);
  serveConsoles(server, agent, logger);
  await listen(server, layout.socket);
  logger.info({ socket: layout.socket, pid: process.pid }, 'the agent answers');
  const watch = watchBlockd(options, agent, layout);
  const looking = agent.health.watch(signal);
  try {
    await aborted(signal);
  } finally {
    // Consoles are no HTTP connections any more: the server would wait for them.
    agent.consoles.close();
    await server.close();
    await agent.close();
    client.close();
    await watch;
    await looking;
    // A socket that was handed in belongs to who did, and goes on queueing clients for the next agent.
    if (options.apiDescriptor === undefined) await rm(layout.socket, { force: true });
  }
}

/** We hold the lock, so a socket that is there is that of an agent that was killed. */
async function listen(server: Server, socket: string): Promise<void> {
  await rm(socket, { force: true });
  try {
    await server.listen({ path: socket });
  } catch (error) {
    if (systemCode(error) !== 'EADDRINUSE') throw error;
    throw new DvceError('ADDRESS_IN_USE', { where: socket }, error);
  }
  await chmod(socket, socketMode);
}

const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) return resolve();
    signal.addEventListener('abort', () => resolve(), { once: true });
  });

/** blockd is kept running by its launcher; here it is seen to that the launcher runs. */
async function watchBlockd(
  { blockdOptions, clock, timers, signal, logger }: AgentProcessOptions,
  agent: Agent,
  layout: AgentLayout,
): Promise<void> {
  while (!signal.aborted) {
    try {
      await sleep(timers, limits.agentWatchMs, signal);
      if (agent.stopping) continue;
      await ensureBlockd({
        dataDirectory: layout.root,
        argv: blockdOptions,
        clock,
        timers,
        signal,
      });
    } catch (error) {
      if (signal.aborted) return;
      logger.error({ err: error }, 'blockd does not answer');
    }
  }
}
