/**
 * Starting and stopping one VM, step by step. Whoever calls sees to it that nothing else is done to the VM meanwhile.
 *
 *   start: record `running` -> attach the volumes -> start the hypervisor        failure: let go, record `stopped`
 *   stop:  record `stopped` -> power button -> wait -> end it hard -> let the volumes go
 *
 * What is wanted is recorded first: when the agent ends in between, a guest that is gone counts as crashed after a start and
 * as stopped after a stop.
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
import { attachDisks, detachDisks } from './vm-disks.ts';
import type { VmDocument, VmDocuments } from './vm-documents.ts';
import type { Admission } from './vm-resources.ts';
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

const pollMs = 100;

export class VmPower {
  readonly #options: VmPowerOptions;

  constructor(options: VmPowerOptions) {
    this.#options = options;
  }

  /** Record what is wanted from now on. */
  async want(document: VmDocument, desired: VmDocument['desired']): Promise<void> {
    await this.#options.documents.update(document, (now) => {
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
    const { driver, blockd, clock, timers } = this.#options;
    const definition = definitionOf(document);
    // First what is wanted: if the agent ends here, the guest's end is not taken for a crash.
    await this.want(document, 'stopped');
    const signal = new AbortController().signal;
    let alive = isAlive(await driver.inspect(definition));
    const wasRunning = alive;
    if (alive && timeoutMs > 0) {
      const end = clock.monotonicMs() + timeoutMs;
      await driver.powerDown(definition);
      while (alive && clock.monotonicMs() < end) {
        await sleep(timers, pollMs, signal);
        alive = isAlive(await driver.inspect(definition));
      }
    }
    if (alive) await driver.kill(definition);
    await detachDisks(blockd, document);
    return { hard: alive, wasRunning };
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

/** What its next start makes of a document: what waited for it comes true, what was leaving is gone. */
function nextStart(document: VmDocument): VmDocument {
  const { pending = {}, held: _, restartDue: __, ...rest } = document;
  const { nics } = rest;
  const stays = ({ transit }: { transit?: string }): boolean => transit !== 'leaving';
  return {
    ...rest,
    ...pending,
    disks: rest.disks.filter(stays),
    ...(nics === undefined ? {} : { nics: nics.filter(stays) }),
  };
}
