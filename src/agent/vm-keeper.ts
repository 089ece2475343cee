/**
 * VMs that are wanted and do not run.
 *
 *   gone --+--> it shut itself down                    wanted: stopped
 *          +--> it crashed --> counted --+--> started again by itself
 *                                        +--> held: too many crashes, or its policy is `hold`
 *
 * Invariants
 * - it is looked at what is, again and again, so no event can be missed: an end while the agent was away, or while the store
 *   did not answer, is handled when both are back;
 * - a crash is recorded before the restart that follows it, with a mark that the restart is due; so a crash is counted once,
 *   whatever ends in between, and the count survives the agent;
 * - a VM that is held stays as it is until somebody starts or stops it;
 * - after a start of the host exactly the VMs with `autostart` are started, in their order. Which agent saw the host last is
 *   recorded after that, so an agent that ends half way does the rest at its next start.
 */
import {
  type Clock,
  DvceError,
  type Logger,
  limits,
  sleep,
  type Timers,
  toDvceError,
} from '../base/index.ts';
import type { Hypervisor, VmObservation } from '../vm/index.ts';
import type { DataProcess } from './data-process.ts';
import { detachDisks } from './vm-disks.ts';
import type { VmDocument, VmDocuments } from './vm-documents.ts';
import type { VmPower } from './vm-power.ts';
import type { VmTable } from './vm-table.ts';
import { isAlive } from './vm-view.ts';

export interface VmKeeperOptions {
  readonly table: VmTable;
  readonly power: VmPower;
  readonly documents: VmDocuments;
  readonly driver: Hypervisor;
  readonly blockd: DataProcess;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly logger: Logger;
  readonly hostStarted?: () => Promise<boolean>;
}

export class VmKeeper {
  readonly #options: VmKeeperOptions;
  readonly #stop = new AbortController();
  /** VMs whose restart is waited for or under way. */
  readonly #restarting = new Set<string>();
  #wake: () => void = () => {};
  #running: Promise<void> = Promise.resolve();

  constructor(options: VmKeeperOptions) {
    this.#options = options;
    options.driver.onChange((_, observation) => {
      if (!isAlive(observation)) this.#wake();
    });
  }

  begin(): void {
    this.#running = this.#watch();
  }

  async close(): Promise<void> {
    this.#stop.abort(new DvceError('CANCELLED', { what: 'looking after VMs' }));
    this.#wake();
    await this.#running;
  }

  /** What the start of the host, or of the agent, makes of VMs that do not run. Guests that still run are left alone. */
  async afterStart(): Promise<void> {
    const { hostStarted } = this.#options;
    if (hostStarted === undefined || !(await hostStarted())) return;
    const documents = (await this.#options.table.documents()).filter(
      ({ half }) => half === undefined,
    );
    for (const group of byStartOrder(documents))
      await Promise.all(group.map((document) => this.#quietly(this.#afterHostStart(document))));
  }

  async #afterHostStart(document: VmDocument): Promise<void> {
    const { table, documents, power, logger } = this.#options;
    if (isAlive(await table.inspect(document))) return;
    if (document.autostart === true && document.held === undefined) {
      logger.info({ vm: document.name }, 'it is started with the host');
      await this.#startByItself(document);
    } else if (document.desired === 'running') {
      await power.want(document, 'stopped');
      const held = 'the host was started anew, and the VM has no autostart';
      await documents.update(document, (now) => ({ ...now, held }));
    }
  }

  async #watch(): Promise<void> {
    const { timers } = this.#options;
    while (!this.#stop.signal.aborted) {
      await this.#quietly(this.#look());
      const woken = new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      const pause = new AbortController();
      await Promise.race([woken, sleep(timers, limits.vmKeepMs, pause.signal).catch(() => {})]);
      pause.abort();
    }
  }

  async #look(): Promise<void> {
    const { table, power } = this.#options;
    await power.settle(table);
    for (const document of await table.documents()) {
      const isWanted = document.desired === 'running' && document.half === undefined;
      if (!isWanted || document.held !== undefined) continue;
      if (table.isBusy(document.name) || this.#restarting.has(document.id)) continue;
      const observation = await table.inspect(document);
      if (isAlive(observation) || table.isBusy(document.name)) continue;
      await this.#quietly(this.#gone(document, observation));
    }
  }

  async #gone(document: VmDocument, observation: VmObservation): Promise<void> {
    const { table, power, blockd, logger } = this.#options;
    const { name } = document;
    await table.alone(name, 'ending', async () => {
      logger.info({ vm: name, phase: observation.phase }, 'a guest ended');
      await detachDisks(blockd, document);
      if (document.restartDue === true) return; // counted already
      // Shut down from inside: that is what is wanted from now on.
      if (observation.phase === 'stopped') await power.want(document, 'stopped');
      else await this.#count(document, observation.detail);
    });
    const now = await table.document(name);
    if (now.restartDue === true && !this.#stop.signal.aborted)
      // The others are not kept waiting by the delay.
      void this.#quietly(this.#restart(now));
  }

  /** Record a crash, and what follows from it. */
  async #count(document: VmDocument, detail: string | null): Promise<void> {
    const { documents, clock, logger } = this.#options;
    const now = clock.wallMs();
    const after = await documents.update(document, (current) => {
      if (current.restartDue === true) return current;
      const crashes = [...recent(current.crashes ?? [], now), new Date(now).toISOString()];
      const held = holdReason(current, crashes.length, detail);
      return held === undefined
        ? { ...current, crashes, restartDue: true }
        : { ...current, crashes, held };
    });
    const { name: vm, held, crashes = [] } = after;
    logger.warn({ vm, detail, crashes: crashes.length, held }, 'a VM crashed');
  }

  async #restart(document: VmDocument): Promise<void> {
    const { table, timers } = this.#options;
    const { signal } = this.#stop;
    const count = (document.crashes ?? []).length;
    this.#restarting.add(document.id);
    try {
      // The first one at once; it may be stopped, or started by somebody, meanwhile.
      if (count > 1) await sleep(timers, (count - 1) * limits.vmRestartDelayMs, signal);
      const now = await table.document(document.name);
      if (now.restartDue === true && now.desired === 'running' && !table.isBusy(now.name))
        await this.#startByItself(now);
    } finally {
      this.#restarting.delete(document.id);
    }
  }

  /** As an operation, so that it is seen; resolves when that has ended. */
  async #startByItself(document: VmDocument): Promise<void> {
    const { table, power } = this.#options;
    const ended = Promise.withResolvers<void>();
    await table.operate(document.name, {
      kind: 'vm.start',
      mayCancel: true,
      check: (now) => table.refuseRunning(now),
      work: async (now, { signal }) => {
        try {
          await power.start(now, signal, true);
        } catch (error) {
          await this.#afterFailedStart(now, signal, toDvceError(error));
          throw error;
        } finally {
          ended.resolve();
        }
        return null;
      },
    });
    await ended.promise;
  }

  /** A start that fails is a crash. One that was cancelled is wanted no more, and a store that is away is no crash. */
  async #afterFailedStart(
    document: VmDocument,
    signal: AbortSignal,
    error: DvceError,
  ): Promise<void> {
    const { power, documents } = this.#options;
    if (signal.aborted && !this.#stop.signal.aborted) await power.want(document, 'stopped');
    else if (signal.aborted || error.retryable)
      await documents.update(document, (now) => ({ ...now, restartDue: true }));
    else await this.#count(document, error.message);
  }

  /** Work of which nobody waits for the outcome: it is logged, and tried again by the next look. */
  async #quietly(work: Promise<void>): Promise<void> {
    try {
      await work;
    } catch (error) {
      if (!this.#stop.signal.aborted)
        this.#options.logger.error({ err: error }, 'a VM that is wanted could not be looked after');
    }
  }
}

const recent = (crashes: readonly string[], nowMs: number): string[] =>
  crashes.filter((text) => nowMs - Date.parse(text) < limits.vmRestartWindowMs);

function holdReason(
  { onCrash = 'restart' }: VmDocument,
  crashes: number,
  detail: string | null,
): string | undefined {
  const last = detail === null ? '' : `; the last time: ${detail}`;
  if (onCrash === 'hold') return `it crashed and is not to be started again by itself${last}`;
  if (crashes <= limits.vmRestartsMax) return undefined;
  return `it crashed ${crashes} times in 24 hours${last}`;
}

/** Groups of equal start order, lowest first. */
export function byStartOrder<T extends { readonly startOrder?: number }>(all: readonly T[]): T[][] {
  const groups = new Map<number, T[]>();
  for (const one of all) {
    const order = one.startOrder ?? 0;
    groups.set(order, [...(groups.get(order) ?? []), one]);
  }
  return [...groups].sort(([a], [b]) => a - b).map(([, group]) => group);
}
