/**
 * Opening one export in a worker: its name, its socket, its mark in the open table.
 *
 * Rule N4: while a volume opens, the open table says so; a crash of the process is charged to it. After a crash that was
 * charged to anyone volumes are opened one by one, so that the next crash has one culprit; a volume with too many crashes is
 * opened read-only, and not at all when that crashes, too.
 */
import {
  DvceError,
  type Logger,
  type Random,
  type SnapshotName,
  type Timer,
  type VolumeId,
} from '../base/index.ts';
import { type DataDirectory, volumeSocket } from './data-directory.ts';
import type { Attachment, OpenTable } from './open-table.ts';
import { Turns } from './turns.ts';
import type { WorkerPool, WorkerThread } from './worker-pool.ts';
import { type ExportKey, exportKey, type OpenedFacts } from './worker-protocol.ts';

/** An export that is open in a worker. */
export interface Hosted {
  readonly key: ExportKey;
  readonly volume: VolumeId;
  readonly snapshot: SnapshotName | null;
  readonly thread: WorkerThread;
  readonly socketPath: string;
  readonly exportName: string;
  readonly attachment: Attachment | null;
  /** What it is called now. */
  path: string;
  facts: OpenedFacts;
  /** Clients relayed through the front sockets. */
  users: number;
  /** Work of blockd itself that wants it open; whoever has a better use for the volume closes it all the same. */
  kept: number;
  idle: Timer | undefined;
}

export interface OpenRequest {
  readonly volume: VolumeId;
  readonly snapshot: SnapshotName | null;
  readonly path: string;
  readonly attachment: Attachment | null;
}

export interface OpenerOptions {
  readonly directory: DataDirectory;
  readonly pool: WorkerPool;
  readonly table: OpenTable;
  readonly random: Random;
  readonly logger: Logger;
}

export class ExportOpener {
  readonly #options: OpenerOptions;
  readonly #oneByOne = new Turns();

  constructor(options: OpenerOptions) {
    this.#options = options;
  }

  /** Snapshots write nothing and leave no mark. */
  open(request: OpenRequest): Promise<Hosted> {
    const { volume, snapshot } = request;
    if (snapshot !== null) return this.#openIn(request, null);
    if (this.#options.table.openOneByOne)
      return this.#oneByOne.run('all', () => this.#openMarked(volume, request));
    return this.#openMarked(volume, request);
  }

  async #openMarked(volume: VolumeId, request: OpenRequest): Promise<Hosted> {
    const { table, logger } = this.#options;
    const { path } = request;
    const crashLoop = table.crashLoop(volume);
    if (crashLoop?.hopeless === true)
      throw new DvceError('NOT_ALLOWED', {
        what: `opening ${path}`,
        reason: crashLoop.reason,
        advice: 'Run: dvce volume check; opening it is tried again in ten minutes.',
      });
    const isHeldReadOnly = request.attachment?.export?.readOnly === true;
    const readOnlyReason =
      crashLoop?.reason ?? (isHeldReadOnly ? 'it is exported read-only' : null);
    if (crashLoop !== null) logger.error({ volume, path, readOnlyReason }, 'opening read-only');
    await table.opening(volume);
    try {
      return await this.#openIn(request, readOnlyReason);
    } finally {
      await table.opened(volume);
    }
  }

  async #openIn(request: OpenRequest, readOnlyReason: string | null): Promise<Hosted> {
    const { directory, pool, random } = this.#options;
    const { volume, snapshot, path, attachment } = request;
    const key = exportKey(volume, snapshot ?? undefined);
    const thread = pool.leastLoaded();
    const socketPath = volumeSocket(directory, volume, snapshot ?? undefined);
    const exportName =
      attachment === null
        ? `internal-${random.bytes(16).toString('hex')}`
        : `${attachment.path}?attach=${attachment.attachId}`;
    const description = snapshot === null ? path : `${path}@${snapshot}`;
    const place = { key, volume, snapshot, socketPath, exportName };
    thread.exports.add(key);
    try {
      const facts = await thread.call('export.open', { ...place, description, readOnlyReason });
      return { ...place, thread, attachment, path, facts, users: 0, kept: 0, idle: undefined };
    } catch (error) {
      thread.exports.delete(key);
      throw error;
    }
  }
}
