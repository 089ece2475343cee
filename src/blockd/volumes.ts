/**
 * Which volumes and snapshots this blockd has open, where, for whom. Everything that opens, closes or counts users of a volume
 * passes here, one at a time per volume (`exclusive`).
 *
 *   closed --attach--> attached (in the open table; clients name PATH?attach=ID at the volume's own socket)
 *     |  <--detach--
 *     +--acquire--> on demand (users > 0) --last user leaves--> idle --exportIdleMs--> closed, cleanly
 *
 * Invariants:
 * - at most one of attached and on demand per volume: one writable opener's name is valid at a time; snapshots are exports of
 *   their own and hinder nobody, but their volume is not deleted while they have users;
 * - an attachment survives every restart of blockd until it is detached (N3); what could not be opened again is tried again;
 * - a volume that crashed this process repeatedly is opened read-only (N4).
 */
import {
  DvceError,
  type Logger,
  limits,
  type Random,
  type SnapshotName,
  type Timer,
  type Timers,
  toDvceError,
  type VolumeId,
} from '../base/index.ts';
import type { DataDirectory } from './data-directory.ts';
import { ExportOpener, type Hosted, type OpenRequest } from './export-opener.ts';
import { Leaving } from './leaving.ts';
import type { Attachment, OpenTable } from './open-table.ts';
import type { BlockdMetrics, VolumeActivity } from './protocol.ts';
import { Turns } from './turns.ts';
import type { WorkerPool } from './worker-pool.ts';
import { type ExportKey, exportKey } from './worker-protocol.ts';

export interface VolumesOptions {
  readonly directory: DataDirectory;
  readonly pool: WorkerPool;
  readonly table: OpenTable;
  readonly timers: Timers;
  readonly random: Random;
  readonly logger: Logger;
  readonly exportIdleMs: number;
  /** The volume's writer generation now, for the open table. */
  readonly epochOf: (volume: VolumeId) => Promise<string>;
}

export class Volumes {
  readonly #options: VolumesOptions;
  readonly #hosted = new Map<ExportKey, Hosted>();
  readonly #turns = new Turns();
  readonly #opener: ExportOpener;
  /** Attached volumes that could not be opened yet. */
  readonly #retries = new Map<VolumeId, Timer>();
  /** The same, with what went wrong the last time. */
  readonly #unopened = new Map<VolumeId, BlockdMetrics['unopened'][number]>();
  readonly #leaving: Leaving;
  #stopping = false;

  constructor(options: VolumesOptions) {
    this.#options = options;
    this.#opener = new ExportOpener(options);
    this.#leaving = new Leaving(options.timers);
  }

  get openCount(): number {
    return this.#hosted.size;
  }

  /** Run `task` when nothing else changes the volume's being open. */
  exclusive<T>(volume: VolumeId, task: () => Promise<T>): Promise<T> {
    return this.#turns.run(volume, task);
  }

  /** The writable export of the volume, if open. */
  find(volume: VolumeId): Hosted | undefined {
    return this.#hosted.get(exportKey(volume));
  }

  /** Why the volume may not be changed underneath its user, or undefined. Snapshots count only for `withSnapshots`. */
  inUse(volume: VolumeId, withSnapshots = false): string | undefined {
    const attachment = this.#options.table.find(volume);
    if (attachment !== undefined) return `it is attached to ${attachment.vm}`;
    for (const hosted of this.#hosted.values()) {
      if (hosted.volume !== volume || hosted.users === 0) continue;
      if (hosted.snapshot === null) return `${hosted.users} NBD clients are connected to it`;
      if (withSnapshots)
        return `${hosted.users} NBD clients are connected to its snapshot ${hosted.snapshot}`;
    }
    const held = this.#options.table.held.find((one) => one.volume === volume);
    if (held !== undefined && withSnapshots)
      return `its snapshot ${held.snapshot} is exported as ${held.id}`;
    return undefined;
  }

  /** Refuse with IN_USE, or close what is open but unused. In the volume's turn. */
  async closeUnused(volume: VolumeId, path: string, withSnapshots = false): Promise<void> {
    await this.#settled(volume);
    const reason = this.inUse(volume, withSnapshots);
    if (reason !== undefined) throw inUse(path, reason);
    for (const hosted of [...this.#hosted.values()])
      if (hosted.volume === volume && (hosted.snapshot === null || withSnapshots))
        await this.#close(hosted);
  }

  /** A tool that ended a moment ago is still leaving; wait for that, within a bound. In the volume's turn. */
  async #settled(volume: VolumeId): Promise<void> {
    const { table } = this.#options;
    const used = (): boolean =>
      [...this.#hosted.values()].some((hosted) => hosted.volume === volume && hosted.users > 0);
    if (table.find(volume) === undefined) await this.#leaving.until(used);
  }

  /** Refuse with IN_USE while a snapshot has users, or close it. In the volume's turn. */
  async closeSnapshot(volume: VolumeId, snapshot: SnapshotName, path: string): Promise<void> {
    const held = this.#options.table.held.find(
      (one) => one.volume === volume && one.snapshot === snapshot,
    );
    if (held !== undefined)
      throw inUse(`${path}@${snapshot}`, `it is exported as ${held.id}`, 'snapshot');
    const hosted = this.#hosted.get(exportKey(volume, snapshot));
    if (hosted === undefined) return;
    if (hosted.users > 0)
      throw inUse(`${path}@${snapshot}`, 'NBD clients are connected to it', 'snapshot');
    await this.#close(hosted);
  }

  /** Run `task` with the writable export open; close it again when nobody had it open. In the volume's turn. */
  async withOpen<T>(
    volume: VolumeId,
    path: string,
    task: (hosted: Hosted) => Promise<T>,
  ): Promise<T> {
    const open = this.find(volume);
    if (open !== undefined) return task(open);
    const hosted = await this.#open({ volume, snapshot: null, path, attachment: null });
    try {
      return await task(hosted);
    } finally {
      await this.#close(hosted);
    }
  }

  /** The attachment with this id that was made under this path. */
  attachedAs(path: string, attachId: string): Attachment | undefined {
    return this.#options.table.attached.find(
      (attached) => attached.path === path && attached.attachId === attachId,
    );
  }

  /** Idempotent per attach id. */
  attach(
    volume: VolumeId,
    path: string,
    attachId: string,
    vm: string,
    held?: Attachment['export'],
  ): Promise<Hosted> {
    return this.exclusive(volume, async () => {
      const { table, epochOf } = this.#options;
      const attached = table.find(volume);
      if (attached !== undefined) {
        if (attached.attachId !== attachId)
          throw inUse(path, `it is attached to ${attached.vm} as ${attached.attachId}`);
        return this.find(volume) ?? this.#resume(attached);
      }
      await this.closeUnused(volume, path);
      const kept = held === undefined ? {} : { export: held };
      const attachment = { volume, path, attachId, vm, epoch: '', ...kept };
      const hosted = await this.#open({ volume, snapshot: null, path, attachment });
      try {
        await table.attach({ ...attachment, epoch: await epochOf(volume) });
      } catch (error) {
        await this.#close(hosted);
        throw error;
      }
      return hosted;
    });
  }

  /** Drops the guest's connections. Detaching what is not attached succeeds. */
  detach(volume: VolumeId, path: string, attachId: string): Promise<void> {
    return this.exclusive(volume, async () => {
      const { table } = this.#options;
      const attached = table.find(volume);
      if (attached === undefined) return;
      if (attached.attachId !== attachId)
        throw inUse(path, `it is attached to ${attached.vm} as ${attached.attachId}`);
      this.#retries.get(volume)?.cancel();
      this.#retries.delete(volume);
      this.#unopened.delete(volume);
      const hosted = this.find(volume);
      if (hosted !== undefined) await this.#close(hosted);
      await table.detach(volume);
    });
  }

  /**
   * Another user of an export: open on demand. With `attachId` the attached volume itself, without it a volume that is not
   * attached. Every `acquire` needs one `release`.
   */
  acquire(
    volume: VolumeId,
    path: string,
    snapshot: SnapshotName | null,
    attachId: string | null,
  ): Promise<Hosted> {
    return this.exclusive(volume, async () => {
      const attached = snapshot === null ? this.#options.table.find(volume) : undefined;
      if (attached !== undefined && attached.attachId !== attachId)
        throw inUse(path, `it is attached to ${attached.vm}`);
      if (attached === undefined && attachId !== null)
        throw new DvceError('NOT_FOUND', { kind: 'attachment', name: attachId });
      const hosted =
        this.#hosted.get(exportKey(volume, snapshot ?? undefined)) ??
        (await this.#open({ volume, snapshot, path, attachment: attached ?? null }));
      hosted.users += 1;
      hosted.idle?.cancel();
      hosted.idle = undefined;
      return hosted;
    });
  }

  release(hosted: Hosted): void {
    hosted.users -= 1;
    this.#leaving.tell();
    this.#idleLater(hosted);
  }

  /** The writable export, opened when it is not, and not closed for being idle until `unkeep`. In the volume's turn. */
  async keep(volume: VolumeId, path: string): Promise<Hosted> {
    const attachment = this.#options.table.find(volume) ?? null;
    const hosted =
      this.find(volume) ?? (await this.#open({ volume, snapshot: null, path, attachment }));
    hosted.kept += 1;
    return hosted;
  }

  unkeep(hosted: Hosted): void {
    hosted.kept -= 1;
    this.#idleLater(hosted);
  }

  #idleLater(hosted: Hosted): void {
    if (hosted.users + hosted.kept > 0 || hosted.attachment !== null) return;
    if (this.#hosted.get(hosted.key) !== hosted) return;
    hosted.idle?.cancel();
    hosted.idle = this.#options.timers.after(
      this.#options.exportIdleMs,
      () => void this.#closeIdle(hosted),
    );
  }

  async #closeIdle(hosted: Hosted): Promise<void> {
    const { volume, key } = hosted;
    try {
      await this.exclusive(volume, async () => {
        const idle = hosted.users + hosted.kept === 0 && this.#hosted.get(key) === hosted;
        if (idle && !this.#stopping) await this.#close(hosted);
      });
    } catch (err) {
      this.#options.logger.error({ err, volume }, 'an idle volume did not close');
    }
  }

  /** Under which name and for whom an export is open. */
  openPath(
    key: ExportKey,
  ): { readonly path: string; readonly attachId: string | null } | undefined {
    const hosted = this.#hosted.get(key);
    if (hosted === undefined) return undefined;
    return { path: hosted.path, attachId: hosted.attachment?.attachId ?? null };
  }

  get unopened(): BlockdMetrics['unopened'] {
    return [...this.#unopened.values()];
  }

  /** It is called so from now on. */
  renamed(volume: VolumeId, path: string): void {
    for (const hosted of this.#hosted.values()) if (hosted.volume === volume) hosted.path = path;
  }

  async activity(volume: VolumeId): Promise<VolumeActivity | null> {
    const hosted = this.find(volume);
    if (hosted === undefined) return null;
    try {
      const activity = await hosted.thread.call('export.activity', { key: hosted.key });
      return { ...activity, attachId: hosted.attachment?.attachId ?? null };
    } catch (error) {
      // Closed in between: that is an answer too.
      if (error instanceof DvceError && error.code === 'VOLUME_CLOSED') return null;
      throw error;
    }
  }

  /** The head has the new size already (G6). In the volume's turn. */
  async grow(volume: VolumeId, sizeBytes: number): Promise<void> {
    const hosted = this.find(volume);
    if (hosted === undefined) return;
    await hosted.thread.call('export.grow', { key: hosted.key, sizeBytes });
    hosted.facts = { ...hosted.facts, sizeBytes };
  }

  /** After a start: open every attached volume again (R), each on its own; what fails is tried again later. */
  resumeAll(): void {
    for (const attachment of this.#options.table.attached)
      this.#resumeLater(attachment, 0, limits.resumeRetryMsMin);
  }

  #resumeLater(attachment: Attachment, delayMs: number, nextMs: number): void {
    const { timers, table, logger } = this.#options;
    const { volume } = attachment;
    const attempt = async (): Promise<void> => {
      this.#retries.delete(volume);
      if (this.#stopping || table.find(volume)?.attachId !== attachment.attachId) return;
      try {
        await this.exclusive(volume, async () => {
          if (this.find(volume) === undefined) await this.#resume(attachment);
        });
      } catch (error) {
        const known = toDvceError(error);
        const { path, vm } = attachment;
        this.#unopened.set(volume, { path, vm, code: known.code, reason: known.message });
        const fields = {
          volume,
          path: attachment.path,
          vm: attachment.vm,
          code: known.code,
          err: error,
        };
        // The head belongs to another writer: only the agent's next attach may try again (R3).
        if (known.code === 'FENCED')
          logger.error(fields, 'an attached volume was taken over by another writer');
        else {
          logger.error(
            { ...fields, retryMs: nextMs },
            'an attached volume could not be opened again',
          );
          this.#resumeLater(attachment, nextMs, Math.min(nextMs * 2, limits.resumeRetryMsMax));
        }
      }
    };
    this.#retries.set(
      volume,
      timers.after(delayMs, () => void attempt()),
    );
  }

  async #resume(attachment: Attachment): Promise<Hosted> {
    return this.#open({ ...attachment, snapshot: null, attachment });
  }

  async #open(request: OpenRequest): Promise<Hosted> {
    const { directory, logger } = this.#options;
    const { volume, snapshot, path, attachment } = request;
    if (this.#stopping)
      throw new DvceError('BLOCKD_UNAVAILABLE', {
        where: directory.controlSocket,
        reason: 'it is ending',
      });
    if (this.#hosted.size >= limits.openVolumesMax)
      throw inUse(path, `${limits.openVolumesMax} volumes are open already`);
    const hosted = await this.#opener.open(request);
    if (snapshot === null) this.#unopened.delete(volume);
    this.#hosted.set(hosted.key, hosted);
    const worker = hosted.thread.index;
    logger.info({ volume, path, snapshot, worker, attached: attachment?.vm }, 'opened');
    return hosted;
  }

  async #close(hosted: Hosted): Promise<void> {
    hosted.idle?.cancel();
    // Gone from here first: nobody may be handed an export that is closing. The turn keeps openers out.
    this.#hosted.delete(hosted.key);
    try {
      await hosted.thread.call('export.close', { key: hosted.key });
      const { volume, snapshot } = hosted;
      this.#options.logger.info({ volume, snapshot }, 'closed');
    } finally {
      hosted.thread.exports.delete(hosted.key);
    }
  }

  /** Open and close nothing more; resolves when what was under way has ended. The workers close what is open. */
  async stop(): Promise<void> {
    this.#stopping = true;
    for (const timer of this.#retries.values()) timer.cancel();
    for (const { idle } of this.#hosted.values()) idle?.cancel();
    await this.#turns.idle();
  }
}

function inUse(name: string, reason: string, kind = 'volume'): DvceError {
  return new DvceError('IN_USE', {
    kind,
    name,
    reason,
    advice: 'Stop what uses it, then repeat the command.',
  });
}
