/**
 * The file systems of a guest, frozen for a moment.
 *
 *   thawed -- mark, then ask --> frozen -- ask, then remove the mark --> thawed
 *
 * Invariants
 * - whoever freezes may hang, forget, or end, so the end is not left to him. A guest that is frozen for longer than
 *   limits.vmFrozenMs is thawed by the watch over it, and a guest with the mark of an earlier process as soon as somebody
 *   watches it: again and again, until its agent says that it goes on or the guest begins anew;
 * - a freeze that was not answered in time is thawed as well, since the request may be carried out later;
 * - what somebody else froze is left alone: there is no mark;
 * - whoever thaws learns whether the guest was frozen until then.
 */
import { rm, writeFile } from 'node:fs/promises';
import { type Clock, DvceError, type Logger, limits } from '../base/index.ts';
import type { GuestAgent } from './guest-agent.ts';
import { isThere } from './host-files.ts';

export interface FreezingOptions {
  readonly mark: string;
  /** Name of the VM, for messages. */
  readonly vm: string;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly agent: GuestAgent;
}

export class Freezing {
  readonly #options: FreezingOptions;
  /** When the watch thaws it; null: it is not frozen. */
  #endMs: number | null = null;
  /** File systems that the last freeze held. */
  #count = 0;
  #isThawing = false;

  constructor(options: FreezingOptions) {
    this.#options = options;
  }

  async freeze(deadlineMs: number): Promise<void> {
    const { mark, vm, clock, agent } = this.#options;
    if (this.#endMs !== null)
      throw new DvceError('VM_STATE', {
        name: vm,
        state: 'running',
        reason: 'its file systems are frozen already',
        advice: `They go on by themselves within ${limits.vmFrozenMs / 1000} seconds.`,
      });
    const lastMs = clock.monotonicMs() + deadlineMs;
    // One without an agent is told soon, and has nothing to thaw either.
    await agent.freezeStatus(Math.min(deadlineMs, limits.vmGuestAgentMs));
    await writeFile(mark, '');
    this.#endMs = clock.monotonicMs() + limits.vmFrozenMs;
    try {
      this.#count = await agent.freeze(Math.max(1, lastMs - clock.monotonicMs()));
    } catch (error) {
      if (error instanceof DvceError && error.code === 'UNSUPPORTED') await this.forget();
      else this.#endMs = clock.monotonicMs();
      throw error;
    }
  }

  /** @throws TIMED_OUT when it did not stay frozen until now */
  async thaw(deadlineMs: number): Promise<void> {
    const { clock, agent } = this.#options;
    if (this.#endMs === null) throw this.#lapsed();
    let count: number;
    try {
      count = await agent.thaw(deadlineMs);
    } catch (error) {
      this.#endMs = clock.monotonicMs();
      throw error;
    }
    await this.forget();
    if (count === 0 && this.#count > 0) throw this.#lapsed();
  }

  #lapsed(): DvceError {
    return new DvceError('TIMED_OUT', {
      what: `holding the file systems of VM ${this.#options.vm} (they are not frozen any more)`,
      ms: limits.vmFrozenMs,
    });
  }

  /** The guest goes on, or begins anew. */
  async forget(): Promise<void> {
    this.#endMs = null;
    await rm(this.#options.mark, { force: true });
  }

  /** The watch over a guest that another process watched begins. */
  async takeOver(): Promise<void> {
    const { mark, clock } = this.#options;
    if (await isThere(mark)) this.#endMs = clock.monotonicMs();
  }

  /** Now and then. */
  async look(): Promise<void> {
    const { vm, clock, agent, logger } = this.#options;
    if (this.#endMs === null || this.#isThawing || clock.monotonicMs() < this.#endMs) return;
    this.#isThawing = true;
    try {
      await agent.thaw(limits.vmGuestAgentMs);
      await this.forget();
      logger.warn({ vm }, 'a guest that nobody thawed goes on');
    } catch (error) {
      this.#endMs = clock.monotonicMs() + limits.vmThawAgainMs;
      logger.warn({ vm, error }, 'a frozen guest could not be thawed; trying again');
    } finally {
      this.#isThawing = false;
    }
  }
}
