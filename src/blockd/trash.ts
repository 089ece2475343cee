/**
 * The trash of this store: what is in it, when it ends, and that it makes room.
 *
 *   delete --> in the trash --undelete--> as it was
 *                  +--window over | space short, oldest first | "trash empty"--> given to the reaper
 *
 * Invariants
 * - what is in the trash is decided by heads alone (hlfs/deletion.ts); the list here is a copy, right because this process is
 *   the only one that writes heads, and read anew at each start;
 * - a volume leaves it in its turn, so that nobody opens or deletes it at the same time;
 * - for space, one volume at a time: the next goes only when the one before is gone and space is still short.
 *
 * The wall clock is right here: the window is a promise to people. A clock that jumps ahead ends it early.
 */
import {
  asVolumeId,
  asVolumePath,
  type Clock,
  DvceError,
  formatSize,
  isUuid,
  type Logger,
  limits,
  type Timer,
  type Timers,
  type VolumeId,
} from '../base/index.ts';
import {
  discardVolume,
  type HlfsContext,
  listTrash,
  restoreVolume,
  type TrashedVolume,
  type VolumeRecord,
} from '../hlfs/index.ts';
import type { ReaperTask } from './reaper-task.ts';

export interface TrashOptions {
  readonly hlfs: HlfsContext;
  readonly reaper: Pick<ReaperTask, 'kick' | 'settle'>;
  /** One at a time per volume. */
  readonly exclusive: <T>(volume: VolumeId, task: () => Promise<T>) => Promise<T>;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly logger: Logger;
  /** How long a volume stays; 0: deleted at once. */
  readonly windowMs: number;
  /** With less free space the oldest go. */
  readonly freeBytesMin: number;
}

export class Trash {
  readonly #options: TrashOptions;
  #known: Promise<Map<VolumeId, TrashedVolume>> | undefined;
  #timer: Timer | undefined;
  #running: Promise<void> | undefined;
  #stopped = false;

  constructor(options: TrashOptions) {
    this.#options = options;
  }

  get windowMs(): number {
    return this.#options.windowMs;
  }

  /** Look after it from now on. */
  start(): void {
    this.#later();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#timer?.cancel();
    await this.#running;
  }

  /** What was deleted last first. */
  async list(): Promise<TrashedVolume[]> {
    const known = await this.#load();
    return [...known.values()].sort((a, b) => b.trash.atMs - a.trash.atMs);
  }

  /** It was put into the trash. */
  async put(volume: TrashedVolume): Promise<void> {
    (await this.#load()).set(volume.id, volume);
  }

  /** @throws NOT_FOUND */
  async find(what: string): Promise<TrashedVolume> {
    const all = await this.list();
    const found = isUuid(what)
      ? all.find(({ id }) => id === asVolumeId(what))
      : all.find(({ trash }) => trash.path === asVolumePath(what));
    if (found === undefined) throw new DvceError('NOT_FOUND', { kind: 'trash', name: what });
    return found;
  }

  /** In the volume's turn. @throws ALREADY_EXISTS when the name is taken */
  async restore({ id }: TrashedVolume, to: string | undefined): Promise<VolumeRecord> {
    const { hlfs, exclusive, logger } = this.#options;
    const record = await exclusive(id, () => restoreVolume(hlfs, id, to));
    (await this.#load()).delete(id);
    logger.info({ volume: id, path: record.path }, 'a volume is back from the trash');
    return record;
  }

  async discard(volume: TrashedVolume, why: string): Promise<void> {
    const { hlfs, exclusive, logger } = this.#options;
    const { id, trash } = volume;
    await exclusive(id, () => discardVolume(hlfs, id));
    (await this.#load()).delete(id);
    logger.info({ volume: id, path: trash.path, why }, 'a volume leaves the trash for good');
  }

  /** Shared by those who ask at the same time; a failed one is tried again. */
  #load(): Promise<Map<VolumeId, TrashedVolume>> {
    this.#known ??= listTrash(this.#options.hlfs).then(
      (all) => new Map(all.map((one) => [one.id, one])),
      (error: unknown) => {
        this.#known = undefined;
        throw error;
      },
    );
    return this.#known;
  }

  #later(): void {
    if (this.#stopped) return;
    this.#timer = this.#options.timers.after(limits.trashCheckMs, () => {
      this.#running = this.#check().then(() => this.#later());
    });
  }

  async #check(): Promise<void> {
    try {
      await this.expire();
      await this.makeRoom();
    } catch (error) {
      this.#options.logger.warn(
        { err: error },
        'looking after the trash failed; it is tried again',
      );
    }
  }

  /** Give what is older than the window to the reaper. */
  async expire(): Promise<void> {
    const nowMs = this.#options.clock.wallMs();
    const over = (await this.list()).filter(({ trash }) => trash.untilMs <= nowMs);
    for (const volume of over) await this.discard(volume, 'its time is over');
    if (over.length > 0) this.#options.reaper.kick();
  }

  /** Oldest first, until there is space again or nothing is left. */
  async makeRoom(): Promise<void> {
    const { hlfs, freeBytesMin, reaper, logger } = this.#options;
    for (const volume of (await this.list()).reverse()) {
      const { freeBytes } = await hlfs.store.space();
      if (this.#stopped || freeBytes >= freeBytesMin) return;
      logger.warn(
        { volume: volume.id, path: volume.trash.path, freeBytes, freeBytesMin },
        `only ${formatSize(freeBytes)} are free: ${volume.trash.path} leaves the trash before its time`,
      );
      await this.discard(volume, 'space is short');
      await reaper.settle();
    }
  }
}
