/**
 * Starting and stopping one VM, step by step. Whoever calls sees to it that nothing else is done to the VM meanwhile.
 *
 *   start: record `running` -> attach the volumes -> start the hypervisor        failure: let go, record `stopped`
 *   stop:  record `stopped` -> power button -> wait -> end it hard -> let the volumes go
 *
 * What is wanted is recorded first: when the agent ends in between, a guest that is gone counts as crashed after a start and
 * as stopped after a stop.
 *
 * A guest is ended even while the store is away. What is owed then, the record and the volumes, is kept in memory and done by
 * `settle` when the store is back; after the end of the agent in between its successor sees by the hypervisor's log that the
 * guest was ended, which makes it a stopped one, too.
 */
import {
  type Clock,
  DvceError,
  type Logger,
  sleep,
  type Timers,
  toDvceError,
} from '../base/index.ts';
import type { Hypervisor } from '../vm/index.ts';
import type { DataProcess } from './data-process.ts';
import { isAway, unlessAway } from './store-away.ts';
import { attachDisks, detachDisks } from './vm-disks.ts';
import type { VmDocument, VmDocumentDisk, VmDocuments } from './vm-documents.ts';
import type { Admission } from './vm-resources.ts';
import type { VmTable } from './vm-table.ts';
import { definitionOf, isAlive } from './vm-view.ts';

export interface VmPowerOptions {
  readonly documents: VmDocuments;
  readonly driver: Hypervisor;
  readonly blockd: DataProcess;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly logger: Logger;
  readonly admission: Admission;
}

/** The state is at hand; a look costs next to nothing. */
const pollMs = 20;

export class VmPower {
  readonly #options: VmPowerOptions;
  /** Documents of VMs that were stopped while the store was away, by id. */
  readonly #owed = new Map<string, VmDocument>();

  constructor(options: VmPowerOptions) {
    this.#options = options;
  }

  /** Record what is wanted from now on, unless it came too late for that. */
  async want(
    document: VmDocument,
    desired: VmDocument['desired'],
    isLate: () => boolean = () => false,
  ): Promise<void> {
    await this.#options.documents.update(document, (now) => {
      if (isLate()) return now;
      if (desired === 'running') return { ...now, desired };
      // Nobody waits for it any more.
      const { held: _, restartDue: __, ...rest } = now;
      return { ...rest, desired };
    });
  }

  /** @param byItself not asked for by anybody: what is known of earlier crashes stays */
  async start(document: VmDocument, signal: AbortSignal, byItself = false): Promise<void> {
    const { driver, blockd, clock, admission, documents } = this.#options;
    const startedAt = new Date(clock.wallMs()).toISOString();
    let wanted = document;
    await admission.admit(document, async () => {
      wanted = await documents.update(document, (now) => {
        const { crashes = [], ...next } = nextStart(now);
        const kept = byItself && crashes.length > 0 ? { crashes } : {};
        return { ...next, ...kept, desired: 'running', startedAt };
      });
    });
    try {
      const disks = await attachDisks(blockd, wanted, signal);
      await driver.start(definitionOf(wanted, disks), signal);
    } catch (error) {
      await this.#afterFailedStart(wanted, byItself);
      if (signal.aborted) throw toDvceError(signal.reason);
      throw error;
    }
  }

  /** Only a guest that surely does not run loses its volumes. */
  async #afterFailedStart(document: VmDocument, byItself: boolean): Promise<void> {
    const { driver, blockd, logger } = this.#options;
    try {
      if (isAlive(await driver.inspect(definitionOf(document)))) return;
      await detachDisks(blockd, document);
      // One that starts by itself stays wanted: the failure counts as a crash.
      if (!byItself) await this.want(document, 'stopped');
    } catch (error) {
      logger.error({ err: error, vm: document.name }, 'clearing up after a failed start failed');
    }
  }

  /** @returns whether it ran, and whether it had to be ended hard */
  async stop(
    document: VmDocument,
    timeoutMs: number,
  ): Promise<{ hard: boolean; wasRunning: boolean }> {
    const { driver, clock, timers } = this.#options;
    const definition = definitionOf(document);
    let alive = isAlive(await driver.inspect(definition));
    const wasRunning = alive;
    // First what is wanted: if the agent ends here, the guest's end is not taken for a crash.
    const isRecorded = await this.#recordStop(document, alive);
    const signal = new AbortController().signal;
    if (alive && timeoutMs > 0) {
      const end = clock.monotonicMs() + timeoutMs;
      await driver.powerDown(definition);
      while (alive && clock.monotonicMs() < end) {
        await sleep(timers, pollMs, signal);
        alive = isAlive(await driver.inspect(definition));
      }
    }
    if (alive) await driver.kill(definition);
    if (isRecorded) await this.#letGo(document);
    return { hard: alive, wasRunning };
  }

  /** @returns false when the store is away, and it is owed; one that does not run needs no such haste */
  async #recordStop(document: VmDocument, isRunning: boolean): Promise<boolean> {
    if (!isRunning) {
      await this.want(document, 'stopped');
      return true;
    }
    let isLate = false;
    const work = this.want(document, 'stopped', () => isLate);
    if ((await unlessAway(this.#options.timers, work)) !== undefined) return true;
    isLate = true;
    this.#owe(document);
    return false;
  }

  async #letGo(document: VmDocument): Promise<void> {
    try {
      await detachDisks(this.#options.blockd, document);
    } catch (error) {
      if (!isAway(error)) throw error;
      this.#owe(document);
    }
  }

  #owe(document: VmDocument): void {
    const { logger } = this.#options;
    logger.warn({ vm: document.name }, 'the store is away: the end of a guest is recorded later');
    this.#owed.set(document.id, document);
  }

  /** What was owed to the store, for VMs that nothing is being done to. */
  async settle(table: VmTable): Promise<void> {
    for (const document of this.#owed.values()) {
      if (table.isBusy(document.name)) continue;
      await table.alone(document.name, 'being stopped', () => this.#settleOne(document));
    }
  }

  async #settleOne(document: VmDocument): Promise<void> {
    const { driver, blockd, logger } = this.#options;
    try {
      if (!isAlive(await driver.inspect(definitionOf(document)))) {
        await this.want(document, 'stopped');
        await detachDisks(blockd, document);
        logger.info({ vm: document.name }, 'the store is back: the end of a guest is recorded');
      }
    } catch (error) {
      if (!(error instanceof DvceError && error.code === 'NOT_FOUND')) throw error;
    }
    this.#owed.delete(document.id);
  }

  async untilReady(document: VmDocument, signal: AbortSignal): Promise<void> {
    const { driver, timers } = this.#options;
    for (;;) {
      const observation = await driver.inspect(definitionOf(document));
      if (!isAlive(observation))
        throw new DvceError('VM_STATE', {
          name: document.name,
          state: observation.phase,
          reason: observation.detail ?? 'it ended before it was ready',
          advice: `See: dvce vm log ${document.name}`,
        });
      if (observation.ready !== null) return;
      await sleep(timers, pollMs, signal);
    }
  }
}

/**
 * What its next start makes of a document: what waited for it comes true, what was leaving is gone, what was joining is there.
 * A disk whose volume was never found is left out.
 */
function nextStart(document: VmDocument): VmDocument {
  const { pending = {}, held: _, restartDue: __, ...rest } = document;
  const { nics } = rest;
  const isWhole = ({ transit, volumeId }: VmDocumentDisk): boolean =>
    transit !== 'joining' || volumeId !== '';
  return {
    ...rest,
    ...pending,
    disks: settled(rest.disks.filter(isWhole)),
    ...(nics === undefined ? {} : { nics: settled(nics) }),
  };
}

const settled = <T extends { readonly transit?: string }>(all: readonly T[]): T[] =>
  all
    .filter(({ transit }) => transit !== 'leaving')
    .map((one) => {
      const { transit: _, ...there } = one;
      return there as T;
    });
