/**
 * What is wrong with this host, since when, and what to do about it.
 *
 *   look --> see (blockd, VMs, clock, certificates, the sources of others) --> causes --> raised, cleared --> events, file
 *
 * Invariants
 * - a cause is known by its code and its object; `since` is when it was seen first without having been gone, over restarts of the
 *   agent too (state/health.json; when that cannot be read everything begins now);
 * - looking has an end: whatever does not answer within limits.metricsReadMs is itself what is wrong;
 * - one look at a time; whoever asks while one is under way gets the next one, which began after the question.
 */
import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { HealthCause, Status, Vm } from '../api/index.ts';
import {
  type Clock,
  DvceError,
  type FileSystem,
  type Logger,
  limits,
  sleep,
  type Timers,
  toDvceError,
} from '../base/index.ts';
import type { BlockdMetrics } from '../blockd/index.ts';
import type { DataProcess } from './data-process.ts';
import type { Events } from './events.ts';
import { type ClockJump, cause, causesOf, type FoundCause } from './health-causes.ts';
import { HealthFile, keyOf } from './health-file.ts';

/** Something else that looks after a part of the host. */
export type HealthSource = () => Promise<readonly FoundCause[]>;

export interface HealthOptions {
  readonly path: string;
  readonly files: FileSystem;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly logger: Logger;
  readonly events: Events;
  readonly blockd: DataProcess;
  readonly vms: () => Promise<readonly Vm[]>;
  /** What is missing to run VMs, or undefined. */
  readonly missingHypervisor: () => Promise<string | undefined>;
  readonly certificates: () => readonly string[];
}

export interface Looked {
  readonly blockd: BlockdMetrics | { readonly failure: string };
  /** The VMs, or those of the last time when they cannot be read now. */
  readonly vms: readonly Vm[];
  readonly causes: readonly HealthCause[];
  readonly health: Status['health'];
}

const timeout = { timeoutMs: limits.metricsReadMs } as const;
const resource = '/v1/status';

export class Health {
  readonly #options: HealthOptions;
  readonly #file: HealthFile;
  readonly #sources = new Map<string, HealthSource>();
  #causes = new Map<string, HealthCause>();
  #vms: readonly Vm[] = [];
  #store = '';
  #restarts = 0;
  #jump: ClockJump | undefined;
  /** Wall clock minus monotonic clock: changes when the wall clock is set. */
  #offsetMs: number;
  #current: Promise<Looked> | undefined;
  #next: Promise<Looked> | undefined;

  constructor(options: HealthOptions) {
    this.#options = options;
    this.#file = new HealthFile(options.path, options.files, options.logger);
    this.#offsetMs = options.clock.wallMs() - options.clock.monotonicMs();
  }

  /** Let `source` say what is wrong with its part. One per name. */
  addSource(name: string, source: HealthSource): void {
    this.#sources.set(name, source);
  }

  /** Starts of blockd after the first one that this agent saw. */
  get blockdRestarts(): number {
    return this.#restarts;
  }

  /** blockd is stopped on purpose: its next start is no restart. Kept at once, because the agent ends, too. */
  async blockdStopped(): Promise<void> {
    await this.#current?.catch(() => {}); // whoever asked for it has its answer
    await this.#file.forgetStarts();
  }

  /** What is wrong now. */
  look(): Promise<Looked> {
    if (this.#current === undefined) {
      this.#current = this.#look().finally(() => {
        this.#current = undefined;
      });
      return this.#current;
    }
    this.#next ??= this.#current
      .catch(() => {})
      .then(() => {
        this.#next = undefined;
        return this.look();
      });
    return this.#next;
  }

  /** Look again and again until the signal aborts. */
  async watch(signal: AbortSignal): Promise<void> {
    const { timers, logger } = this.#options;
    while (!signal.aborted)
      try {
        await this.look();
        await sleep(timers, limits.healthLookMs, signal);
      } catch (error) {
        if (signal.aborted) return;
        logger.error({ err: error }, 'the health could not be looked at');
        await sleep(timers, limits.healthLookMs, signal).catch(() => {});
      }
  }

  async #look(): Promise<Looked> {
    const { clock } = this.#options;
    await this.#file.load();
    const [blockd, vms, missingHypervisor, certificates] = await Promise.all([
      this.#seeBlockd(),
      this.#seeVms(),
      this.#options.missingHypervisor(),
      this.#seeCertificates(),
    ]);
    const nowMs = clock.wallMs();
    this.#seeClock(nowMs);
    if (!('failure' in blockd) && this.#file.sawBlockd(blockd.process, nowMs)) this.#restarts += 1;
    const isDown = 'failure' in blockd;
    const found = [
      ...causesOf({
        blockd,
        store: this.#store,
        blockdStarts: this.#file.starts(nowMs),
        vms: this.#vms,
        missingHypervisor,
        clockJump: this.#jump,
        certificates,
      }),
      // Without blockd most of them cannot look, which is no news.
      ...(await this.#askSources(isDown)),
      ...(vms === undefined || isDown
        ? []
        : [cause('CHECK_FAILED', '/v1/vms', `the VMs cannot be listed: ${vms}`)]),
    ];
    const causes = await this.#settle(found, nowMs);
    return { blockd, vms: this.#vms, causes, health: healthOf(causes) };
  }

  async #seeBlockd(): Promise<Looked['blockd']> {
    const { blockd } = this.#options;
    try {
      if (this.#store === '') this.#store = (await blockd.call('status', {}, timeout)).store;
      return await blockd.call('metrics', {}, timeout);
    } catch (error) {
      const known = toDvceError(error);
      if (known.code !== 'UNSUPPORTED') return { failure: known.message };
    }
    // The blockd of an earlier release answers and counts nothing.
    try {
      return withoutFigures(await blockd.call('status', {}, timeout));
    } catch (error) {
      return { failure: toDvceError(error).message };
    }
  }

  /** @returns why they cannot be listed */
  async #seeVms(): Promise<string | undefined> {
    try {
      this.#vms = await this.#options.vms();
      return undefined;
    } catch (error) {
      return toDvceError(error).message;
    }
  }

  /** A clock that is slewed drifts by less than a second between two looks. */
  #seeClock(nowMs: number): void {
    const offsetMs = nowMs - this.#options.clock.monotonicMs();
    const byMs = offsetMs - this.#offsetMs;
    this.#offsetMs = offsetMs;
    if (Math.abs(byMs) > limits.clockJumpMs) {
      this.#jump = { atMs: this.#options.clock.monotonicMs(), byMs };
      this.#options.logger.warn({ byMs: Math.round(byMs) }, 'the clock was set');
    }
    const age = this.#options.clock.monotonicMs() - (this.#jump?.atMs ?? 0);
    if (age > limits.clockJumpShownMs) this.#jump = undefined;
  }

  async #seeCertificates(): Promise<{ path: string; leftMs: number }[]> {
    const nowMs = this.#options.clock.wallMs();
    const seen: { path: string; leftMs: number }[] = [];
    for (const path of this.#options.certificates())
      try {
        const { validToDate } = new X509Certificate(await readFile(path));
        seen.push({ path, leftMs: validToDate.getTime() - nowMs });
      } catch (error) {
        this.#options.logger.warn({ err: error, path }, 'a certificate cannot be read');
        seen.push({ path, leftMs: 0 });
      }
    return seen;
  }

  async #askSources(quiet: boolean): Promise<FoundCause[]> {
    const { timers, logger } = this.#options;
    const found = await Promise.all(
      [...this.#sources].map(async ([name, source]): Promise<readonly FoundCause[]> => {
        try {
          return await inTime(source(), timers, name);
        } catch (error) {
          logger.debug({ err: error, source: name }, 'a source of health failed');
          if (quiet) return [];
          const text = `${name}: ${toDvceError(error).message}`;
          return [cause('CHECK_FAILED', `/v1/${name}`, text)];
        }
      }),
    );
    return found.flat();
  }

  /** Give every cause its time, tell what is new and what is gone, keep the times. */
  async #settle(found: readonly FoundCause[], nowMs: number): Promise<HealthCause[]> {
    const { events, logger } = this.#options;
    const now = new Date(nowMs).toISOString();
    const causes = new Map<string, HealthCause>();
    for (const one of found.slice(0, limits.healthCausesMax)) {
      const key = keyOf(one);
      const since = this.#causes.get(key)?.since ?? this.#file.since(key) ?? now;
      causes.set(key, { ...one, since });
    }
    for (const [key, one] of causes)
      if (!this.#causes.has(key) && this.#file.since(key) === undefined) {
        logger.warn({ code: one.code, object: one.object }, one.text);
        events.emit('node.health', resource, { change: 'raised', ...one });
      }
    for (const gone of this.#file.missing(causes)) {
      logger.info({ code: gone.code, object: gone.object }, 'no longer wrong');
      const text = this.#causes.get(keyOf(gone))?.text ?? '';
      events.emit('node.health', resource, { change: 'cleared', ...gone, text });
    }
    this.#causes = causes;
    await this.#file.keep([...causes.values()]);
    const order = ['critical', 'warning', 'notice'];
    return [...causes.values()].sort(
      (a, b) =>
        order.indexOf(a.severity) - order.indexOf(b.severity) || a.since.localeCompare(b.since),
    );
  }
}

const healthOf = (causes: readonly HealthCause[]): Status['health'] => {
  if (causes.some(({ severity }) => severity === 'critical')) return 'critical';
  return causes.some(({ severity }) => severity === 'warning') ? 'degraded' : 'ok';
};

function withoutFigures(status: {
  readonly pid: number;
  readonly startedAt: string;
  readonly storeFreeBytes: number;
  readonly storeTotalBytes: number;
}): BlockdMetrics {
  const { pid, startedAt, storeFreeBytes, storeTotalBytes } = status;
  return {
    format: 1,
    process: {
      pid,
      startedAtSeconds: Date.parse(startedAt) / 1000,
      cpuSeconds: 0,
      residentBytes: 0,
      heapUsedBytes: 0,
      openFiles: 0,
    },
    loops: [],
    store: { freeBytes: storeFreeBytes, totalBytes: storeTotalBytes },
    nbd: { boundsSeconds: [], connections: 0, operations: [] },
    volumes: [],
    unopened: [],
  };
}

async function inTime<T>(work: Promise<T>, timers: Timers, what: string): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = timers.after(limits.metricsReadMs, () =>
    late.reject(new DvceError('TIMED_OUT', { what, ms: limits.metricsReadMs })),
  );
  try {
    return await Promise.race([work, late.promise]);
  } finally {
    timer.cancel();
  }
}

export const healthPath = (stateDirectory: string): string => join(stateDirectory, 'health.json');
