/**
 * A guest is asked to restart.
 *
 *   asked --+--> its agent: it resets itself
 *           +--> the power button: it powers off into a pause, and is reset and continued
 *
 * Invariants
 * - that a power-off is a pause is a setting of the hypervisor, which outlives this process. A mark in the run directory is made
 *   before it is set and removed after it was taken back. So whoever watches next knows whether a guest that powers off is
 *   to begin anew or to end;
 * - it is taken back when the guest has begun anew, when it is to be shut down, and when the time for the restart is over: a
 *   guest that ignored the button and is shut down by somebody later ends.
 */
import { rm, writeFile } from 'node:fs/promises';
import { type Clock, limits } from '../base/index.ts';
import type { GuestAgent } from './guest-agent.ts';
import { isThere } from './host-files.ts';
import type { QmpCommand, QmpResult } from './qmp.ts';

export interface RestarterOptions {
  readonly mark: string;
  readonly clock: Clock;
  readonly agent: GuestAgent;
  readonly execute: <C extends QmpCommand>(command: C, args?: object) => Promise<QmpResult<C>>;
}

export class Restarter {
  readonly #options: RestarterOptions;
  /** Until when a power-off is a restart; null: it is an end. */
  #untilMs: number | null = null;
  #isResetting = false;

  constructor(options: RestarterOptions) {
    this.#options = options;
  }

  /** Resolves when the guest was asked. */
  async ask(deadlineMs: number): Promise<void> {
    const { agent, mark, clock, execute } = this.#options;
    if (await agent.ping(limits.vmAgentQuickMs)) return agent.shutdown('reboot');
    await writeFile(mark, '');
    this.#untilMs = clock.monotonicMs() + deadlineMs;
    await execute('set-action', { shutdown: 'pause' });
    await execute('system_powerdown');
  }

  /**
   * It has powered off and its hypervisor has stayed: that is how a restart by the power button looks.
   * @returns false when that is under way already
   */
  async begin(): Promise<boolean> {
    if (this.#isResetting) return false;
    this.#isResetting = true;
    try {
      await this.#options.execute('system_reset');
      await this.#options.execute('cont');
      return true;
    } finally {
      this.#isResetting = false;
    }
  }

  /** From now on a guest that powers off ends. */
  async end(): Promise<void> {
    const { mark, execute } = this.#options;
    this.#untilMs = null;
    await execute('set-action', { shutdown: 'poweroff' });
    await rm(mark, { force: true });
  }

  /** The watch over a guest that another process watched begins. */
  async takeOver(): Promise<void> {
    const { mark, clock, execute } = this.#options;
    if (!(await isThere(mark))) return this.end();
    this.#untilMs = clock.monotonicMs() + limits.vmStopMs;
    // The other one may have ended between the reset and what follows it.
    if ((await execute('query-status')).status === 'paused') await execute('cont');
  }

  /** Now and then. */
  async look(): Promise<void> {
    if (this.#untilMs !== null && this.#options.clock.monotonicMs() >= this.#untilMs)
      await this.end();
  }
}
