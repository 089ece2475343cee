/**
 * One running blockd, wired: store, scope of the process, open table, workers, control socket, NBD front, reaper.
 *
 *   main thread     control socket . catalog . front sockets (unix, TCP, TLS) -- relayed by an NBD client --+
 *                        | message ports                                                                   |
 *   worker threads  volumes, each with its own unix socket  <--- guests, and the front's relay ------------+
 *
 * Start, in this order: the store; a new process scope, the earlier ones of this node fenced (nothing of a predecessor can
 * land any more); the open table; workers; then attached volumes are opened again (R) while the control socket answers already.
 * Stop: front first (in-flight requests finish, no client sees an error), then volumes, workers, store, control socket.
 */
import { rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import {
  type Clock,
  exitCodes,
  type FileSystem,
  type Logger,
  limits,
  type Random,
  type Timers,
  toDvceError,
  type VolumeId,
} from '../base/index.ts';
import {
  type HlfsContext,
  openDocuments,
  openProcessScope,
  reap,
  reclaimLog,
  requireHead,
} from '../hlfs/index.ts';
import { openLocalStore } from '../stores/index.ts';
import { ControlServer } from './control-server.ts';
import { type DataDirectory, loadNodeId, removeStaleSockets } from './data-directory.ts';
import { writeDurably } from './durable-file.ts';
import { Front } from './front.ts';
import type { NodeContext } from './node-context.ts';
import { OpenTable } from './open-table.ts';
import type { BlockdOptions } from './options.ts';
import { rotateLog } from './process-log.ts';
import { type BlockdStatus, controlVersion } from './protocol.ts';
import { ReaperTask } from './reaper-task.ts';
import { snapshotMethods } from './snapshot-methods.ts';
import { volumeMethods } from './volume-methods.ts';
import { Volumes } from './volumes.ts';
import { WorkerPool } from './worker-pool.ts';

/** The real world, and what only the process can do. */
export interface BlockdWorld {
  readonly directory: DataDirectory;
  readonly files: FileSystem;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly logger: Logger;
  readonly release: string;
  /** Record the crash and end the process (N4). */
  readonly fatal: (error: unknown, volume: VolumeId | null) => void;
}

export interface Blockd {
  /** The exit code of the process, once everything is closed. */
  readonly ended: Promise<number>;
  /** Not graceful: as if killed, volumes are left open to be resumed. */
  shutdown(graceful: boolean): void;
}

/** How often the size of the log is looked at. */
const logCheckMs = 60_000;

export async function startBlockd(options: BlockdOptions, world: BlockdWorld): Promise<Blockd> {
  const { directory, files, clock, timers, random, logger, release, fatal } = world;
  await removeStaleSockets(files, directory);
  const node = await loadNodeId(files, directory, random);
  const store = await openLocalStore({ root: directory.store, files, random, create: true });
  const documents = openDocuments(store);
  const scope = await openProcessScope(store, documents, node, random);
  const journalDirectory = directory.journal;
  const hlfs: HlfsContext = {
    store,
    documents,
    files,
    clock,
    timers,
    random,
    logger,
    node,
    scope,
    journalDirectory,
  };
  const { openTableFile: path, crashFile: crashPath } = directory;
  const table = await OpenTable.load({ files, path, crashPath, clock, logger });
  // Says that the blockd of its pid ended as told; this one has not.
  rmSync(directory.exitFile, { force: true });
  const pool = new WorkerPool({
    count: options.workers ?? Math.min(availableParallelism(), 4),
    setup: {
      node,
      scope,
      storeDirectory: directory.store,
      journalDirectory,
      logFile: directory.logFile,
      logLevel: options.logLevel,
      foreground: options.foreground,
    },
    timers,
    onFatal: (thread, error) => fatal(error, thread.onlyVolume),
  });
  const volumes = new Volumes({
    directory,
    pool,
    table,
    timers,
    random,
    logger,
    exportIdleMs: options.exportIdleMs,
    epochOf: async (volume) => (await requireHead(hlfs, volume)).value.epoch,
  });
  const reaper = new ReaperTask(() => reap(hlfs, reclaimLog), timers, logger);
  const startedAt = new Date(clock.wallMs()).toISOString();
  const front = new Front({ hlfs, volumes, options, directory, timers, logger });

  const status = async (): Promise<BlockdStatus> => {
    const { freeBytes, totalBytes } = await store.space();
    return {
      pid: process.pid,
      version: release,
      controlVersion,
      startedAt,
      node,
      store: store.location,
      storeFreeBytes: freeBytes,
      storeTotalBytes: totalBytes,
      nbdSocket: directory.nbdSocket,
      nbdTcp: front.tcpAddress,
      openVolumes: volumes.openCount,
      workers: pool.threads.length,
    };
  };

  const closeAll = async (): Promise<void> => {
    await front.close();
    await Promise.all([volumes.stop(), reaper.stop()]);
    await pool.stop(limits.shutdownMs);
    await store.close();
    const exit = JSON.stringify({ pid: process.pid });
    await writeDurably(files, directory.exitFile, `${exit}\n`);
  };

  const ending = Promise.withResolvers<number>();
  let closing: Promise<void> | undefined;
  const shutdown = async (graceful: boolean): Promise<void> => {
    closing ??= graceful ? withDeadline(closeAll(), timers) : Promise.resolve();
    let code: number = graceful ? exitCodes.ok : exitCodes.failed;
    try {
      await closing;
    } catch (error) {
      // What was not closed is resumed by the next blockd; nothing acknowledged is lost.
      logger.error({ err: error }, 'not everything could be closed');
      code = exitCodes.failed;
    }
    // After the answer of the request that led here is on its way.
    timers.defer(() => {
      void control.close().then(() => {
        logger.info({ code }, 'blockd ended');
        ending.resolve(code);
      });
    });
  };

  const context: NodeContext = {
    hlfs,
    volumes,
    pool,
    reaper,
    clock,
    logger,
    journalBytes: options.journalBytes,
    status,
    shutdown,
  };
  const control = new ControlServer({
    socketPath: directory.controlSocket,
    handlers: {
      ...volumeMethods(context),
      ...snapshotMethods(context),
      status,
      shutdown: async ({ graceful }) => {
        await shutdown(graceful);
        return {};
      },
    },
    logger,
    timers,
    release,
  });
  await front.listen();
  volumes.resumeAll();
  await control.listen();
  reaper.kick();
  keepLogSmall(directory.logFile, timers, logger);
  const attached = table.attached.length;
  logger.info({ release, node, store: store.location, attached }, 'blockd started');
  return { ended: ending.promise, shutdown: (graceful) => void shutdown(graceful) };
}

async function withDeadline(work: Promise<void>, timers: Timers): Promise<void> {
  const late = Promise.withResolvers<never>();
  const timer = timers.after(limits.shutdownMs, () =>
    late.reject(toDvceError(new Error(`closing took longer than ${limits.shutdownMs} ms`))),
  );
  try {
    await Promise.race([work, late.promise]);
  } finally {
    timer.cancel();
  }
}

function keepLogSmall(path: string, timers: Timers, logger: Logger): void {
  timers.after(logCheckMs, () => {
    try {
      rotateLog(path);
    } catch (error) {
      logger.warn({ err: error }, 'the log could not be rotated');
    }
    keepLogSmall(path, timers, logger);
  });
}
