/**
 * Schedules: snapshots at times, by operations of kind `schedule.run`.
 *
 *   waiting --due--> running --all volumes seen to--> waiting      `lastDue` is moved to the due time by compare-and-swap
 *
 * Invariants
 * - a run is named by its due time, and so are its snapshots (schedule-plan.ts). A run that was cut short, by kill -9 too, has not
 *   moved `lastDue`: the next agent runs it again, finds what is there already, and takes the rest. So none is lost and none
 *   doubled;
 * - what was missed while nothing ran is made up for once: of several due times the last one;
 * - one run of a schedule at a time; a volume that fails does not keep the others from their snapshots, and loses none;
 * - N7: a schedule whose document cannot be read does not run and is told; when the volumes cannot be listed nothing is
 *   deleted, and the run is tried again.
 *
 * The wall clock is what schedules are about. One that is put back runs nothing twice (`lastDue` is later).
 */
import Type, { type Static } from 'typebox';
import type { Operation, Schedule, ScheduleCreate, SchedulePreview } from '../api/index.ts';
import {
  asSnapshotName,
  type Clock,
  checkName,
  DvceError,
  type Logger,
  limits,
  type Timer,
  type Timers,
  toDvceError,
} from '../base/index.ts';
import type { SnapshotInfo } from '../blockd/index.ts';
import type { DataProcess } from './data-process.ts';
import type { OperationHandle, Operations } from './operations.ts';
import { checkChosen, chosen, outlived, scheduleLabel, snapshotName } from './schedule-plan.ts';
import { snapshotsThat } from './snapshot-pages.ts';
import { type Stored, StoredDocuments } from './stored-documents.ts';
import { latestDue, parseTimetable, type Timetable, upcoming } from './timetable.ts';

const nullable = <S extends Parameters<typeof Type.Optional>[0]>(schema: S) =>
  Type.Union([schema, Type.Null()]);
const number = Type.Optional(Type.Integer({ minimum: 0 }));

const ScheduleDocumentSchema = Type.Object({
  format: Type.Literal(1),
  volumes: nullable(Type.String()),
  label: nullable(Type.Record(Type.String(), Type.String())),
  every: Type.String(),
  timeZone: nullable(Type.String()),
  keep: Type.Object({
    last: number,
    hourly: number,
    daily: number,
    weekly: number,
    monthly: number,
    yearly: number,
    expireMs: number,
  }),
  paused: Type.Boolean(),
  createdAt: Type.String(),
  lastDue: nullable(Type.String()),
  lastRun: nullable(
    Type.Object({
      startedAt: Type.String(),
      endedAt: Type.String(),
      taken: Type.Integer(),
      deleted: Type.Integer(),
      failed: Type.Integer(),
      error: nullable(Type.String()),
    }),
  ),
});
type ScheduleDocument = Static<typeof ScheduleDocumentSchema>;
type StoredSchedule = Stored<ScheduleDocument>;

export interface SchedulesOptions {
  readonly blockd: DataProcess;
  readonly operations: Operations;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly logger: Logger;
}

const long = { timeoutMs: limits.blockdLongCallMs } as const;
const urlOf = (name: string): string => `/v1/schedules/${encodeURIComponent(name)}`;
const text = (ms: number): string => new Date(ms).toISOString();

interface Outcome {
  taken: number;
  deleted: number;
  failed: number;
  error: string | null;
}

export class Schedules {
  readonly #options: SchedulesOptions;
  readonly #documents: StoredDocuments<typeof ScheduleDocumentSchema>;
  readonly #running = new Set<string>();
  /** Parsed once per expression. */
  readonly #tables = new Map<string, Timetable>();
  /** Not before this moment, after a failure. */
  #retryMs = 0;
  #timer: Timer | undefined;
  #stopped = false;

  constructor(options: SchedulesOptions) {
    this.#options = options;
    this.#documents = new StoredDocuments({
      blockd: options.blockd,
      kind: 'schedules',
      schema: ScheduleDocumentSchema,
    });
  }

  /** Look for due ones from now on. */
  start(): void {
    this.#later(0);
  }

  close(): void {
    this.#stopped = true;
    this.#timer?.cancel();
  }

  #later(delayMs: number): void {
    if (this.#stopped) return;
    this.#timer = this.#options.timers.after(delayMs, () => {
      void this.#tick().finally(() => this.#later(limits.scheduleTickMs));
    });
  }

  async #tick(): Promise<void> {
    const { clock, logger } = this.#options;
    if (clock.monotonicMs() < this.#retryMs) return;
    try {
      for (const entry of await this.#documents.list())
        if (!('error' in entry)) await this.#beginIfDue(entry);
    } catch (error) {
      this.#retryMs = clock.monotonicMs() + limits.scheduleRetryMs;
      logger.warn({ err: toDvceError(error) }, 'schedules cannot be looked at; tried again later');
    }
  }

  async #beginIfDue(schedule: StoredSchedule): Promise<void> {
    const { name, value } = schedule;
    if (value.paused || this.#running.has(name)) return;
    const since = Date.parse(value.lastDue ?? value.createdAt);
    const dueMs = latestDue(this.#table(value), since, this.#options.clock.wallMs());
    if (dueMs !== null) await this.#begin(schedule, dueMs, true);
  }

  /** @throws INVALID_ARGUMENT */
  #table({ every, timeZone }: Pick<ScheduleDocument, 'every' | 'timeZone'>): Timetable {
    const key = JSON.stringify([every, timeZone]);
    const known = this.#tables.get(key);
    if (known !== undefined) return known;
    const table = parseTimetable(every, timeZone);
    if (this.#tables.size >= limits.schedulesMax) this.#tables.clear();
    this.#tables.set(key, table);
    return table;
  }

  async list(): Promise<{
    schedules: Schedule[];
    unreadable: { name: string; reason: string }[];
  }> {
    const schedules: Schedule[] = [];
    const unreadable: { name: string; reason: string }[] = [];
    for (const entry of await this.#documents.list())
      if ('error' in entry) unreadable.push({ name: entry.name, reason: entry.error.message });
      else schedules.push(this.#view(entry));
    return { schedules, unreadable };
  }

  async get(name: string): Promise<Schedule> {
    return this.#view(await this.#find(name));
  }

  /** @throws ALREADY_EXISTS, INVALID_ARGUMENT */
  async create(request: ScheduleCreate): Promise<Schedule> {
    const { name, volumes = null, label = null, every, timeZone = null, keep } = request;
    checkName(name);
    // The longest name that a snapshot of it gets.
    asSnapshotName(snapshotName(name, 0));
    checkChosen({ volumes, label });
    if (Object.values(keep).every((value) => value === undefined))
      throw new DvceError('INVALID_ARGUMENT', {
        what: 'the schedule',
        reason: 'it does not say how long snapshots stay, so they would fill the store',
        advice: 'Give --keep 7, --keep-daily 7 --keep-weekly 4, or --expire 14d.',
      });
    const table = this.#table({ every, timeZone });
    const nowMs = this.#options.clock.wallMs();
    if (table.next(nowMs) === null)
      throw new DvceError('INVALID_ARGUMENT', {
        what: `the expression ${JSON.stringify(every)}`,
        reason: 'it is never due again',
        advice: 'See when it is due with: systemd-analyze calendar',
      });
    if ((await this.#documents.list()).length >= limits.schedulesMax)
      throw new DvceError('TOO_LARGE', {
        what: 'the list of schedules',
        reason: `there are ${limits.schedulesMax} already`,
        advice: 'Delete one that is not needed.',
      });
    const base = { format: 1 as const, volumes, label, every, timeZone, keep };
    const stored = await this.#documents.create(name, {
      ...base,
      paused: false,
      createdAt: text(nowMs),
      lastDue: null,
      lastRun: null,
    });
    return this.#view(stored);
  }

  /** What was due while it was paused is not made up for. */
  async pause(name: string, paused: boolean): Promise<Schedule> {
    const nowMs = this.#options.clock.wallMs();
    const changed = await this.#change(name, (value) => {
      if (value.paused === paused) return value;
      return paused ? { ...value, paused } : { ...value, paused, lastDue: text(nowMs) };
    });
    return this.#view(changed);
  }

  /** Its snapshots stay; from now on nobody deletes them. */
  async delete(name: string): Promise<void> {
    const { version } = await this.#find(name);
    await this.#documents.remove(name, version);
  }

  /** Now, beside its due times. */
  async run(name: string): Promise<Operation> {
    const schedule = await this.#find(name);
    if (this.#running.has(name))
      throw new DvceError('IN_USE', {
        kind: 'schedule',
        name,
        reason: 'it runs already',
        advice: 'See: dvce op list --running',
      });
    const nowMs = Math.floor(this.#options.clock.wallMs() / 1000) * 1000;
    return this.#begin(schedule, nowMs, false);
  }

  async preview(name: string, count: number): Promise<SchedulePreview> {
    const { value } = await this.#find(name);
    const { blockd, clock } = this.#options;
    const table = this.#table(value);
    const volumes = chosen(value, (await blockd.call('volume.list', {})).volumes);
    const known = new Map<string, Awaited<ReturnType<typeof this.snapshotsOf>>>();
    for (const { path } of volumes) known.set(path, await this.snapshotsOf(name, path));
    const runs = upcoming(table, clock.wallMs(), count).map((atMs) => {
      const deletes: string[] = [];
      for (const [path, snapshots] of known) {
        const made = { name: snapshotName(name, atMs), labels: { [scheduleLabel]: name } };
        const after = [...snapshots, { ...made, protected: false }] as typeof snapshots;
        const gone = outlived(name, after, value.keep, table.zone, atMs);
        deletes.push(...gone.map((one) => `${path}@${one}`));
        known.set(
          path,
          after.filter((one) => !gone.includes(one.name)),
        );
      }
      return { at: text(atMs), takes: volumes.length, deletes };
    });
    return { runs, volumes: volumes.map(({ path }) => path) };
  }

  /** Its snapshots of one volume. */
  async snapshotsOf(name: string, path: string): Promise<SnapshotInfo[]> {
    const isOurs = ({ labels }: SnapshotInfo): boolean => labels[scheduleLabel] === name;
    return snapshotsThat(this.#options.blockd, path, isOurs);
  }

  async #begin(schedule: StoredSchedule, dueMs: number, isDue: boolean): Promise<Operation> {
    const { name } = schedule;
    const { operations, logger, clock } = this.#options;
    this.#running.add(name);
    try {
      return await operations.begin({
        kind: 'schedule.run',
        resources: [urlOf(name)],
        mayCancel: true,
        work: async (handle) => {
          try {
            return await this.#work(schedule, dueMs, isDue, handle);
          } catch (error) {
            this.#retryMs = clock.monotonicMs() + limits.scheduleRetryMs;
            // Whoever cancels a run does not want it again in a moment; an agent that stops does.
            if (isDue && handle.signal.aborted && !this.#stopped) await this.#passOver(name, dueMs);
            throw error;
          } finally {
            this.#running.delete(name);
          }
        },
      });
    } catch (error) {
      this.#running.delete(name);
      logger.warn({ err: toDvceError(error), schedule: name }, 'a schedule could not run');
      throw error;
    }
  }

  async #work(
    { name, value }: StoredSchedule,
    dueMs: number,
    isDue: boolean,
    handle: OperationHandle,
  ): Promise<Outcome> {
    const startedAt = text(this.#options.clock.wallMs());
    const { volumes } = await this.#options.blockd.call('volume.list', {}, long);
    const mine = chosen(value, volumes);
    handle.log(`due ${text(dueMs)}: ${mine.length} volumes`);
    const outcome: Outcome = { taken: 0, deleted: 0, failed: 0, error: null };
    for (const [index, { path }] of mine.entries()) {
      handle.signal.throwIfAborted();
      handle.progress(index, mine.length, 'volumes');
      try {
        await this.#onVolume(name, value, path, dueMs, outcome, handle);
      } catch (error) {
        const known = toDvceError(error);
        // blockd ended: nothing that follows can work, and the run is tried again as a whole.
        if (known.code === 'BLOCKD_UNAVAILABLE') throw known;
        outcome.failed += 1;
        outcome.error ??= `${path}: ${known.message}`;
        handle.log(`${path}: failed: ${known.message}`);
      }
    }
    handle.progress(mine.length, mine.length, 'volumes');
    const lastRun = { startedAt, endedAt: text(this.#options.clock.wallMs()), ...outcome };
    await this.#change(name, (now) => ({
      ...now,
      lastRun,
      lastDue: isDue ? text(dueMs) : now.lastDue,
    }));
    if (outcome.error !== null)
      throw new DvceError('IO_FAILED', {
        what: `${outcome.failed} of ${mine.length} snapshots`,
        where: `schedule ${name}`,
        reason: outcome.error,
      });
    return outcome;
  }

  async #passOver(name: string, dueMs: number): Promise<void> {
    await this.#change(name, (now) => ({ ...now, lastDue: text(dueMs) }));
  }

  async #onVolume(
    schedule: string,
    { keep, every, timeZone }: ScheduleDocument,
    path: string,
    dueMs: number,
    outcome: Outcome,
    handle: OperationHandle,
  ): Promise<void> {
    const { blockd } = this.#options;
    const name = snapshotName(schedule, dueMs);
    const labels = { [scheduleLabel]: schedule };
    try {
      await blockd.call('snapshot.create', { path, name, labels }, long);
      outcome.taken += 1;
      handle.log(`${path}@${name}: taken`);
    } catch (error) {
      // Of a run that was cut short after this snapshot.
      if (!(error instanceof DvceError) || error.code !== 'ALREADY_EXISTS') throw error;
      handle.log(`${path}@${name}: there already`);
    }
    const { zone } = this.#table({ every, timeZone });
    const mine = await this.snapshotsOf(schedule, path);
    for (const old of outlived(schedule, mine, keep, zone, dueMs)) {
      handle.signal.throwIfAborted();
      try {
        await blockd.call('snapshot.delete', { path, name: old }, long);
        outcome.deleted += 1;
        handle.log(`${path}@${old}: deleted`);
      } catch (error) {
        const { code, message } = toDvceError(error);
        // A clone or a reader needs it: it stays until the next run that finds it free.
        if (code !== 'IN_USE' && code !== 'PROTECTED' && code !== 'NOT_FOUND') throw error;
        handle.log(`${path}@${old}: stays: ${message}`);
      }
    }
  }

  async #find(name: string): Promise<StoredSchedule> {
    const entry = await this.#documents.read(name);
    if (entry === undefined) throw new DvceError('NOT_FOUND', { kind: 'schedule', name });
    if ('error' in entry) throw entry.error;
    return entry;
  }

  /** @throws NOT_FOUND when it was deleted meanwhile */
  async #change(
    name: string,
    change: (value: ScheduleDocument) => ScheduleDocument,
  ): Promise<StoredSchedule> {
    for (let attempt = 0; ; attempt += 1) {
      const present = await this.#find(name);
      const next = change(present.value);
      if (next === present.value) return present;
      try {
        return await this.#documents.replace(name, present.version, next);
      } catch (error) {
        const { code } = toDvceError(error);
        if (code !== 'CONFLICT' || attempt >= limits.documentTries) throw error;
      }
    }
  }

  #view({ name, value }: StoredSchedule): Schedule {
    const { format: _, lastDue, paused, ...shown } = value;
    const isRunning = this.#running.has(name);
    const since = Math.max(this.#options.clock.wallMs(), Date.parse(lastDue ?? value.createdAt));
    const next = paused ? null : this.#table(value).next(since);
    return {
      name,
      ...shown,
      paused,
      lastDue,
      nextDue: next === null ? null : text(next),
      state: isRunning ? 'running' : paused ? 'paused' : 'waiting',
    };
  }
}
