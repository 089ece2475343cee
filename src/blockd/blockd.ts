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
  SnapshotIndex,
} from '../hlfs/index.ts';
import { openLocalStore } from '../stores/index.ts';
import { CatalogView } from './catalog-view.ts';
import { contentMethods } from './content-methods.ts';
import { ControlServer } from './control-server.ts';
import { type DataDirectory, loadNodeId, removeStaleSockets } from './data-directory.ts';
import { documentMethods } from './document-methods.ts';
import { writeDurably } from './durable-file.ts';
import { exportMethods } from './export-methods.ts';
import { Front } from './front.ts';
import { readMetrics } from './metrics-method.ts';
import { observed } from './observed-documents.ts';
import { OpenTable } from './open-table.ts';
import type { BlockdOptions } from './options.ts';
import { pointMethods } from './point-methods.ts';
import { rotateLog } from './process-log.ts';
import { type BlockdStatus, controlVersion } from './protocol.ts';
import { quotaMethods } from './quota-methods.ts';
import { Quotas } from './quotas.ts';
import { shareReadCaches } from './read-caches.ts';
import { ReaperTask } from './reaper-task.ts';
import { Scrubber } from './scrub.ts';
import { scrubMethods } from './scrub-methods.ts';
import { snapshotMethods } from './snapshot-methods.ts';
import { snapshotUpdates } from './snapshot-update.ts';
import { Trash } from './trash.ts';
import { trashMethods } from './trash-methods.ts';
import { treeMethods } from './tree-methods.ts';
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
  /** Every thread answers; resolves late, or never, when one is stuck. */
  isWell(): Promise<boolean>;
}

/** How often the size of the log is looked at. */
const logCheckMs = 60_000;

/** What of the data directory is in use by this process alone. */
interface Opened {
  readonly hlfs: HlfsContext;
  readonly view: CatalogView;
  /** A document was written, or may have been. */
  readonly changed: (key: string) => void;
  readonly table: OpenTable;
}

async function openDirectory(world: BlockdWorld): Promise<Opened> {
  const { directory, files, clock, timers, random, logger } = world;
  await removeStaleSockets(files, directory);
  const node = await loadNodeId(files, directory, random);
  const store = await openLocalStore({ root: directory.store, files, random, create: true });
  const documents = openDocuments(store);
  const scope = await openProcessScope(store, documents, node, random);
  const journalDirectory = directory.journal;
  const base = { files, clock, timers, random, logger };
  const plain: HlfsContext = { ...base, store, documents, node, scope, journalDirectory };
  const snapshots = new SnapshotIndex(plain);
  const view = new CatalogView({ ...plain, snapshots });
  const changed = (key: string): void => {
    snapshots.changed(key);
    view.changed(key);
  };
  const hlfs = { ...plain, documents: observed(documents, changed), snapshots };
  const { openTableFile: path, crashFile: crashPath } = directory;
  const table = await OpenTable.load({ files, path, crashPath, clock, logger });
  // Says that the blockd of its pid ended as told; this one has not.
  rmSync(directory.exitFile, { force: true });
  return { hlfs, view, changed, table };
}

function startWorkers(
  options: BlockdOptions,
  world: BlockdWorld,
  { hlfs, changed }: Opened,
): WorkerPool {
  const { directory, clock, timers, fatal } = world;
  const count = options.workers ?? Math.min(availableParallelism(), 4);
  return new WorkerPool({
    count,
    setup: {
      node: hlfs.node,
      scope: hlfs.scope,
      storeDirectory: directory.store,
      journalDirectory: directory.journal,
      logFile: directory.logFile,
      logLevel: options.logLevel,
      foreground: options.foreground,
      readCache: shareReadCaches(options.readCacheBytes, count, timers),
    },
    clock,
    timers,
    onFatal: (thread, error) => fatal(error, thread.onlyVolume),
    onChanged: changed,
  });
}

export async function startBlockd(options: BlockdOptions, world: BlockdWorld): Promise<Blockd> {
  const { directory, files, clock, timers, random, logger, release } = world;
  const opened = await openDirectory(world);
  const { hlfs, view, table } = opened;
  const { store, node } = hlfs;
  const pool = startWorkers(options, world, opened);
  const { exportIdleMs, journalBytes } = options;
  const epochOf = async (volume: VolumeId): Promise<string> =>
    (await requireHead(hlfs, volume)).value.epoch;
  const base = { directory, timers, logger };
  const volumes = new Volumes({ ...base, pool, table, random, exportIdleMs, epochOf });
  const reaper = new ReaperTask(() => reap(hlfs, reclaimLog), timers, logger);
  const quotas = new Quotas(hlfs, view);
  const trash = new Trash({
    ...{ hlfs, reaper, clock, timers, logger },
    exclusive: (volume, task) => volumes.exclusive(volume, task),
    windowMs: options.trashWindowMs,
    freeBytesMin: options.trashFreeBytesMin,
  });
  const scrubber = new Scrubber({
    ...{ view, pool, files, clock, timers, logger },
    path: directory.scrubFile,
    bytesPerSecond: options.scrubBytesPerSecond,
    periodMs: options.scrubPeriodMs,
  });
  const front = new Front({ ...base, hlfs, volumes, options });
  const startedAt = new Date(clock.wallMs()).toISOString();

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
    await scrubber.stop();
    await Promise.all([volumes.stop(), trash.stop(), reaper.stop()]);
    await pool.stop(limits.shutdownMs);
    await store.close();
    const exit = JSON.stringify({ pid: process.pid });
    await writeDurably(files, directory.exitFile, `${exit}\n`);
  };
  const ending = new Ending(closeAll, () => control.close(), timers, logger);
  const managed = { volumes, pool, reaper, trash, scrubber, quotas };
  const shared = { ...managed, hlfs, view, table, directory };
  const listening = () => ({ nbdSocket: directory.nbdSocket, nbdTcp: front.tcpAddress });
  const context = { ...shared, listening, clock, logger, journalBytes };
  const control = new ControlServer({
    socketPath: directory.controlSocket,
    handlers: {
      ...volumeMethods(context),
      ...pointMethods(context),
      ...treeMethods(context),
      ...trashMethods(context),
      ...quotaMethods(context),
      ...scrubMethods(context),
      ...exportMethods(context),
      ...contentMethods(context),
      ...snapshotUpdates(context),
      ...snapshotMethods(context),
      ...documentMethods(context),
      status,
      metrics: () =>
        readMetrics({ pool, volumes, scrubber, space: () => store.space(), clock, timers }),
      shutdown: async ({ graceful }) => {
        await ending.begin(graceful);
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
  trash.start();
  scrubber.start();
  keepLogSmall(directory.logFile, timers, logger);
  const attached = table.attached.length;
  logger.info({ release, node, store: store.location, attached }, 'blockd started');
  const isWell = async (): Promise<boolean> => {
    await Promise.all(pool.threads.map((thread) => thread.call('figures', {})));
    return true;
  };
  return { ended: ending.code, shutdown: (graceful) => void ending.begin(graceful), isWell };
}

/** The end of a blockd: everything is closed, the answer to whoever asked goes out, then the control socket goes. */
class Ending {
  readonly #closeAll: () => Promise<void>;
  readonly #closeControl: () => Promise<void>;
  readonly #timers: Timers;
  readonly #logger: Logger;
  readonly #ended = Promise.withResolvers<number>();
  #closing: Promise<void> | undefined;

  constructor(
    closeAll: () => Promise<void>,
    closeControl: () => Promise<void>,
    timers: Timers,
    logger: Logger,
  ) {
    this.#closeAll = closeAll;
    this.#closeControl = closeControl;
    this.#timers = timers;
    this.#logger = logger;
  }

  /** Exit code of the process. */
  get code(): Promise<number> {
    return this.#ended.promise;
  }

  /** Not graceful: nothing is closed, the next blockd resumes it. Resolves when the answer may go out. */
  async begin(graceful: boolean): Promise<void> {
    this.#closing ??= graceful ? withDeadline(this.#closeAll(), this.#timers) : Promise.resolve();
    let code: number = graceful ? exitCodes.ok : exitCodes.failed;
    try {
      await this.#closing;
    } catch (error) {
      // What was not closed is resumed by the next blockd; nothing acknowledged is lost.
      this.#logger.error({ err: error }, 'not everything could be closed');
      code = exitCodes.failed;
    }
    this.#timers.defer(() => void this.#end(code));
  }

  async #end(code: number): Promise<void> {
    await this.#closeControl();
    this.#logger.info({ code }, 'blockd ended');
    this.#ended.resolve(code);
  }
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
  try {
    rotateLog(path);
  } catch (error) {
    logger.warn({ err: error }, 'the log could not be rotated');
  }
  timers.after(logCheckMs, () => keepLogSmall(path, timers, logger));
}
