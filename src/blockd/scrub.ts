/**
 * The background scrub of this blockd: one volume after the other, so slowly that nobody notices, each once in a period.
 *
 * Invariants
 * - one slice at a time in the whole process, so the rate is that of the process; a slice waits while guests are slow;
 * - where it is and what it found is in one small local file, never in the store (P1): written at most once in
 *   `limits.scrubSaveMs`, and when a volume is done or blockd ends. A crash costs reading again what came after the last write; a
 *   file that is damaged or gone costs a pass;
 * - what was found stays until a later pass of that volume finds it well. The wall clock is right here: a period is a promise
 *   to people. A clock that was set back makes a volume due a period from now, at the latest.
 */
import {
  asVolumeId,
  type Clock,
  DvceError,
  type FileSystem,
  type Logger,
  limits,
  schemaGuard,
  type Timers,
  Type,
  toDvceError,
  type VolumeId,
} from '../base/index.ts';
import type { ScrubNote, ScrubPosition } from '../hlfs/index.ts';
import type { CatalogView } from './catalog-view.ts';
import { readWhole, writeDurably } from './durable-file.ts';
import { isRecord } from './lines.ts';
import type { CheckFinding, ScrubStatus, VolumeScrub } from './protocol.ts';
import type { WorkerPool } from './worker-pool.ts';

export interface ScrubberOptions {
  readonly view: Pick<CatalogView, 'list'>;
  readonly pool: Pick<WorkerPool, 'leastLoaded'>;
  readonly files: FileSystem;
  /** Of the file. */
  readonly path: string;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly logger: Logger;
  /** 0: off. */
  readonly bytesPerSecond: number;
  readonly periodMs: number;
}

/** What is remembered of a volume. */
interface Entry {
  /** End of the last pass; null before the first. */
  finishedAtMs: number | null;
  /** Of the pass under way; null: none is, or it has only begun. */
  position: ScrubPosition | null;
  notes: ScrubNote[];
  bytes: number;
  /** Of the last pass. */
  findings: readonly CheckFinding[];
}

const stateBytesMax = 64 * 1024 * 1024;
const text = Type.String();
const count = Type.Integer({ minimum: 0 });
/** Of a time that a Date can show. */
const timeMsMax = 8.64e15;
const note = { code: text, object: text, detail: text };
const isEntry = schemaGuard<Entry>(
  Type.Object({
    finishedAtMs: Type.Union([Type.Null(), Type.Number({ minimum: 0, maximum: timeMsMax })]),
    position: Type.Union([Type.Null(), Type.Object({ log: text, number: count })]),
    notes: Type.Array(Type.Object(note)),
    bytes: count,
    findings: Type.Array(
      Type.Object({
        ...note,
        severity: Type.Enum(['error', 'warning']),
        advice: text,
        ranges: Type.Array(Type.Object({ of: text, offset: count, length: count })),
        omittedRanges: count,
        concerns: Type.Array(text),
        repair: Type.Enum(['none', 'possible', 'done']),
      }),
    ),
  }),
);

export class Scrubber {
  readonly #options: ScrubberOptions;
  readonly #entries = new Map<VolumeId, Entry>();
  /** Asked for, whatever their time. */
  readonly #wanted = new Set<VolumeId>();
  #due: VolumeId[] = [];
  #current: VolumeId | null = null;
  #isPaused = false;
  #running: Promise<void> | undefined;
  #wake: (() => void) | undefined;
  /** Somebody wanted something since the last sleep began: the next one ends at once. */
  #isWoken = false;
  #stop = new AbortController();
  #savedMs = Number.NEGATIVE_INFINITY;
  #saving: Promise<void> = Promise.resolve();
  #isChanged = false;
  /** Bytes read since the start of this process. */
  #bytes = 0;

  constructor(options: ScrubberOptions) {
    this.#options = options;
  }

  start(): void {
    this.#load();
    this.#running = this.#loop();
  }

  /** Resolves when nothing runs any more and it is written down where it was. */
  async stop(): Promise<void> {
    this.#stop.abort(new DvceError('CANCELLED', { what: 'the scrub' }));
    this.#wakeUp();
    await this.#running;
    await this.#save(true);
  }

  async setPaused(isPaused: boolean): Promise<void> {
    this.#isPaused = isPaused;
    this.#isChanged = true;
    await this.#save(true);
    this.#wakeUp();
  }

  /** Scrub these next, from their beginning. */
  want(volumes: readonly VolumeId[]): void {
    for (const volume of volumes) this.#wanted.add(volume);
    this.#wakeUp();
  }

  resultOf(volume: VolumeId): VolumeScrub {
    const entry = this.#entries.get(volume);
    const findings = entry?.findings ?? [];
    return {
      finishedAt: timeText(entry?.finishedAtMs ?? null),
      running: this.#current === volume,
      readBytes: entry?.bytes ?? 0,
      findings: [...findings],
    };
  }

  async status(): Promise<ScrubStatus> {
    const { bytesPerSecond, periodMs, view, clock } = this.#options;
    const all = await view.list('/');
    const known = all.map(({ info }) => ({ path: info.path, id: asVolumeId(info.id) }));
    const now = clock.wallMs();
    const done = known.filter(({ id }) => {
      const at = this.#entries.get(id)?.finishedAtMs ?? null;
      return at !== null && now - at <= periodMs;
    });
    const current = known.find(({ id }) => id === this.#current);
    return {
      state: this.#state(),
      bytesPerSecond,
      periodMs,
      current: current?.path ?? null,
      readBytes: this.#bytes,
      volumes: known.length,
      scrubbed: done.length,
      waiting: this.#wanted.size + this.#due.length,
      damaged: known
        .filter(({ id }) => (this.#entries.get(id)?.findings.length ?? 0) > 0)
        .slice(0, limits.scrubFindingsMax)
        .map(({ path, id }) => ({ path, ...this.resultOf(id) })),
    };
  }

  /** For metrics: cheap. */
  figures(): { readonly readBytes: number; readonly damagedVolumes: number } {
    const damaged = [...this.#entries.values()].filter(({ findings }) => findings.length > 0);
    return { readBytes: this.#bytes, damagedVolumes: damaged.length };
  }

  #state(): ScrubStatus['state'] {
    if (this.#options.bytesPerSecond === 0) return 'off';
    if (this.#isPaused) return 'paused';
    return this.#current === null ? 'idle' : 'running';
  }

  async #loop(): Promise<void> {
    const { logger } = this.#options;
    while (!this.#stop.signal.aborted) {
      try {
        const next = this.#isPaused ? undefined : await this.#next();
        if (next === undefined) await this.#sleep();
        else await this.#slice(next);
        await this.#save(false);
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        this.#current = null;
        this.#due.shift();
        logger.warn({ err: error, code: toDvceError(error).code }, 'the scrub goes on later');
        await this.#sleep();
      }
    }
  }

  #wakeUp(): void {
    this.#isWoken = true;
    this.#wake?.();
  }

  /** Until somebody wants something, or it is time to look again. */
  async #sleep(): Promise<void> {
    this.#current = null;
    await new Promise<void>((resolve) => {
      if (this.#isWoken) return resolve();
      const timer = this.#options.timers.after(limits.scrubLookMs, resolve);
      this.#wake = () => {
        timer.cancel();
        resolve();
      };
    });
    this.#wake = undefined;
    this.#isWoken = false;
  }

  async #next(): Promise<VolumeId | undefined> {
    if (this.#options.bytesPerSecond === 0) return undefined;
    const [wanted] = this.#wanted;
    if (wanted !== undefined) return wanted;
    if (this.#due.length === 0) this.#due = await this.#findDue();
    return this.#due[0];
  }

  /** What is due, the longest first; a pass that was begun goes on before all others. Forgets volumes that are gone. */
  async #findDue(): Promise<VolumeId[]> {
    const { view, clock, periodMs } = this.#options;
    const now = clock.wallMs();
    const all = await view.list('/');
    const ids = new Set(all.map(({ record }) => record.id));
    for (const id of this.#entries.keys()) if (!ids.has(id)) this.#entries.delete(id);
    const lastOf = (id: VolumeId, createdAtMs: number): number => {
      const entry = this.#entries.get(id);
      if (entry !== undefined && entry.position !== null) return Number.NEGATIVE_INFINITY;
      return Math.min(entry?.finishedAtMs ?? createdAtMs, now);
    };
    return all
      .map(({ record }) => ({ id: record.id, last: lastOf(record.id, record.head.createdAtMs) }))
      .filter(({ last }) => now - last >= periodMs)
      .sort((a, b) => a.last - b.last)
      .map(({ id }) => id);
  }

  async #slice(volume: VolumeId): Promise<void> {
    const { pool, bytesPerSecond } = this.#options;
    const entry = this.#entryOf(volume);
    if (this.#current !== volume && this.#wanted.has(volume)) begin(entry);
    this.#current = volume;
    const options = { signal: this.#stop.signal, timeoutMs: limits.volumeCheckMs };
    try {
      const params = { volume, from: entry.position, bytesPerSecond };
      const slice = await pool.leastLoaded().call('scrub.slice', params, options);
      entry.position = slice.position;
      entry.notes = [...entry.notes, ...slice.notes].slice(0, limits.scrubNotesMax);
      entry.bytes += slice.bytes;
      this.#bytes += slice.bytes;
      this.#isChanged = true;
      if (slice.position !== null) return;
      const { notes } = entry;
      const traced =
        notes.length === 0
          ? { findings: [] }
          : await pool.leastLoaded().call('scrub.trace', { volume, notes }, options);
      this.#finish(volume, entry, traced.findings);
    } catch (error) {
      if (toDvceError(error).code !== 'NOT_FOUND') throw error;
      // Deleted meanwhile.
      this.#entries.delete(volume);
      this.#leave(volume);
    }
  }

  #finish(volume: VolumeId, entry: Entry, findings: readonly CheckFinding[]): void {
    const { clock, logger } = this.#options;
    entry.findings = findings.slice(0, limits.scrubFindingsMax);
    const { bytes } = entry;
    entry.finishedAtMs = clock.wallMs();
    entry.position = null;
    entry.notes = [];
    this.#leave(volume);
    this.#savedMs = Number.NEGATIVE_INFINITY;
    if (findings.length > 0)
      logger.error({ volume, codes: findings.map(({ code }) => code) }, 'a scrub found damage');
    else logger.info({ volume, bytes }, 'a volume was scrubbed');
  }

  #leave(volume: VolumeId): void {
    this.#wanted.delete(volume);
    this.#due = this.#due.filter((id) => id !== volume);
    this.#current = null;
  }

  #entryOf(volume: VolumeId): Entry {
    let entry = this.#entries.get(volume);
    if (entry === undefined) {
      entry = { finishedAtMs: null, position: null, notes: [], bytes: 0, findings: [] };
      this.#entries.set(volume, entry);
    }
    if (entry.position === null) entry.bytes = 0;
    return entry;
  }

  /** A file that cannot be used costs a pass, nothing else. */
  #load(): void {
    const { files, path, logger } = this.#options;
    try {
      const json = readWhole(files, path, stateBytesMax);
      if (json === undefined) return;
      const state: unknown = JSON.parse(json);
      if (!isRecord(state) || state['format'] !== 1 || !isRecord(state['volumes'])) return;
      this.#isPaused = state['paused'] === true;
      for (const [id, entry] of Object.entries(state['volumes']))
        if (isEntry(entry)) this.#entries.set(asVolumeId(id), entry);
        else logger.warn({ volume: id }, 'what the scrub knew of a volume cannot be used');
    } catch (error) {
      logger.warn({ err: error }, 'where the scrub was is not known; it begins anew');
      this.#entries.clear();
    }
  }

  /** P1: local, and rarely. */
  async #save(isLast: boolean): Promise<void> {
    const now = this.#options.clock.monotonicMs();
    if (!this.#isChanged || (!isLast && now - this.#savedMs < limits.scrubSaveMs)) return;
    this.#savedMs = now;
    // One after the other: of two at once the older state could be the one that stays.
    this.#saving = this.#saving.then(() => this.#write());
    await this.#saving;
  }

  async #write(): Promise<void> {
    const { files, path, logger } = this.#options;
    this.#isChanged = false;
    const volumes = Object.fromEntries(this.#entries);
    const state = { format: 1, paused: this.#isPaused, volumes };
    try {
      await writeDurably(files, path, `${JSON.stringify(state)}\n`);
    } catch (error) {
      logger.warn({ err: error }, 'where the scrub is could not be written down');
      this.#isChanged = true;
    }
  }
}

function begin(entry: Entry): void {
  entry.position = null;
  entry.notes = [];
  entry.bytes = 0;
}

const timeText = (ms: number | null): string | null =>
  ms === null ? null : new Date(ms).toISOString();
