/**
 * The agent as a process: lock, directories, blockd, the API on its socket, signals; and the way back.
 *
 * Order of the start: the lock first (N3: a second agent changes nothing), then blockd, then what is kept, the socket last,
 * so that whoever gets an answer gets a whole agent; one that has to wait for blockd says so (http/waiting.ts). Ending leaves
 * blockd and the guests as they are unless a shutdown request said otherwise.
 */
import { join } from 'node:path';
import type { Shutdown } from '../api/index.ts';
import {
  type Clock,
  type DataDirectoryLock,
  type FileSystem,
  type Logger,
  limits,
  lockDataDirectory,
  type Random,
  sleep,
  type Timers,
} from '../base/index.ts';
import { BlockdClient, dataDirectory, ensureBlockd } from '../blockd/index.ts';
import { createQemuDriver } from '../vm/index.ts';
import { Agent } from './agent.ts';
import type { ImageFiles } from './images.ts';
import { type AgentLayout, agentLayout } from './layout.ts';
import { answersItself } from './liveness.ts';
import { type ApiOptions, serveApi } from './serve-api.ts';
import type { Settings } from './settings.ts';
import { startBlockd } from './start-blockd.ts';
import { isHeld } from './stop-blockd.ts';
import { isAway } from './store-away.ts';

export interface AgentProcessOptions {
  readonly dataDirectory: string;
  /** Of the API, when it is not the usual one. */
  readonly socket?: string | undefined;
  readonly settings?: Settings | undefined;
  /** For blockd, when it has to be started. */
  readonly blockdOptions: readonly string[];
  /** Something else (systemd) runs blockd. */
  readonly isBlockdExternal?: boolean;
  /** Descriptor of a socket for the API that listens already. */
  readonly apiDescriptor?: number | undefined;
  /** Called when the API answers; `isWell` asks it whether it still does. */
  readonly onReady?: (isWell: () => Promise<boolean>) => void;
  readonly release: string;
  readonly api?: ApiOptions;
  readonly imageFiles?: ImageFiles;
  readonly files: FileSystem;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly logger: Logger;
  /** The hypervisor's program when it is not in the usual place. */
  readonly qemu?: string | undefined;
  /** The group of cgroup v2 in which guests with a share get theirs, when it is not the usual one. */
  readonly cgroupParent?: string | undefined;
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
  const layout = agentLayout(options.dataDirectory, options.socket);
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

/** Runs until the signal aborts. */
export async function runAgent(options: AgentProcessOptions): Promise<void> {
  const layout = agentLayout(options.dataDirectory, options.socket);
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
  const { clock, timers, random, logger, files, qemu, cgroupParent } = options;
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
    cgroupParent,
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
    certificates: shownCertificates(options.api, layout),
    imageFiles: options.imageFiles ?? {},
    settings: options.settings,
    onStop: options.stop,
  });
  return { agent, client };
}

/** What the HTTPS door shows, when there is one. */
const shownCertificates = (api: AgentProcessOptions['api'], { tls }: AgentLayout): string[] =>
  api?.listen === undefined ? [] : [api.certFile ?? join(tls, 'api.crt')];

async function serve(options: AgentProcessOptions, layout: AgentLayout): Promise<void> {
  const { logger, signal } = options;
  const { agent, client } = await openAgent(options, layout);
  try {
    await begin(options, layout, agent, client);
  } catch (error) {
    await agent.close();
    client.close();
    throw error;
  }
  const served = await serveApi(agent, {
    ...options,
    layout,
    api: options.api ?? {},
  });
  logger.info({ socket: layout.socket, pid: process.pid }, 'the agent answers');
  options.onReady?.(() => answersItself(layout.socket, options.timers));
  const watch = watchBlockd(options, agent, layout);
  const looking = agent.health.watch(signal);
  try {
    await aborted(signal);
  } finally {
    await served.close();
    await agent.close();
    client.close();
    await watch;
    await looking;
  }
}

/**
 * blockd, then what is kept. A blockd that ran before, that somebody else runs or that guests wait for is waited for only a moment:
 * then the agent serves without it, because who looks after the host needs it most then. Any other that does not start is
 * an error of the start.
 */
async function begin(
  options: AgentProcessOptions,
  { root }: AgentLayout,
  agent: Agent,
  blockd: BlockdClient,
): Promise<void> {
  const { blockdOptions, clock, timers, signal, logger, isBlockdExternal: isExternal } = options;
  const isExpected =
    isExternal === true || isHeld(root, 'launcher.lock') || (await agent.hasGuests());
  try {
    await startBlockd({
      ...{ dataDirectory: root, blockdOptions, blockd, clock, timers, signal, isExternal },
      ...(isExpected ? { timeoutMs: limits.blockdPatienceMs } : {}),
    });
    await agent.reconcile();
  } catch (error) {
    if (signal.aborted || !isExpected || !isAway(error)) throw error;
    logger.error({ err: error }, 'blockd is away: the agent serves what goes without it');
    agent.waitForBlockd();
  }
}

const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) return resolve();
    signal.addEventListener('abort', () => resolve(), { once: true });
  });

/** blockd is kept running by its launcher; here it is seen to that the launcher runs. */
async function watchBlockd(
  { blockdOptions, clock, timers, signal, logger, isBlockdExternal }: AgentProcessOptions,
  agent: Agent,
  layout: AgentLayout,
): Promise<void> {
  while (!signal.aborted) {
    try {
      await sleep(timers, agent.isWaiting ? limits.blockdPatienceMs : limits.agentWatchMs, signal);
      if (agent.stopping) continue;
      // What runs it elsewhere also starts it again; the health of the host says when it is away.
      if (isBlockdExternal !== true)
        await ensureBlockd({
          dataDirectory: layout.root,
          argv: blockdOptions,
          clock,
          timers,
          signal,
        });
      if (!agent.isWaiting) continue;
      await agent.reconcile();
      logger.info({}, 'blockd answers: VMs are looked after again');
    } catch (error) {
      if (signal.aborted) return;
      logger.error({ err: error }, 'blockd does not answer');
    }
  }
}
