/**
 * When is a guest ready? At the first of: its guest agent answers; the serial console shows the configured pattern;
 * `limits.vmReadyMs` have passed. The guest decides only how early, never whether.
 */
import { type Clock, limits, sleep, type Timers } from '../base/index.ts';
import type { GuestPaths } from './arguments.ts';
import { ConsoleSearch, sizeOf } from './console-log.ts';
import type { VmDefinition, VmObservation } from './driver.ts';
import type { GuestAgent } from './guest-agent.ts';
import { ageMs as ageOf, type ProcessIdentity } from './processes.ts';

export interface ReadinessOptions {
  readonly vm: VmDefinition;
  readonly paths: GuestPaths;
  readonly agent: GuestAgent;
  readonly identity: ProcessIdentity;
  readonly clock: Clock;
  readonly timers: Timers;
  /** Ends the watch. */
  readonly signal: AbortSignal;
  onReady(ready: NonNullable<VmObservation['ready']>): void;
}

export class Readiness {
  readonly #options: ReadinessOptions;
  #search: ConsoleSearch | undefined;
  #asking: Promise<void> | undefined;
  #agentAnswered = false;
  /** When the guest was last reset, on the clock; null: not since this watch began. */
  #resetAtMs: number | null = null;
  /** Raised by every reset: what was seen before it is the past. */
  #generation = 0;
  #isWatching = false;

  constructor(options: ReadinessOptions) {
    this.#options = options;
    this.#search = this.#newSearch(0);
  }

  /** Until the guest is ready or the signal aborts. */
  async watch(): Promise<void> {
    if (this.#isWatching) return;
    this.#isWatching = true;
    const { timers, signal } = this.#options;
    try {
      while (!signal.aborted) {
        const generation = this.#generation;
        this.askAgent();
        const ready = await this.check(await this.#ageMs());
        if (ready !== null && generation === this.#generation) return this.#options.onReady(ready);
        await sleep(timers, limits.vmReadyPollMs, signal);
      }
    } finally {
      this.#isWatching = false;
    }
  }

  /** The guest begins anew. */
  async reset(): Promise<void> {
    this.#generation += 1;
    this.#resetAtMs = this.#options.clock.monotonicMs();
    this.#agentAnswered = false;
    // Only what the console says from here on counts.
    this.#search = this.#newSearch(await sizeOf(this.#options.paths.consoleLog));
  }

  #newSearch(from: number): ConsoleSearch | undefined {
    const { vm, paths } = this.#options;
    if (vm.readyPattern === null) return undefined;
    return new ConsoleSearch(paths.consoleLog, vm.readyPattern, from);
  }

  /** The question waits in the channel until an agent reads it, so the answer comes as soon as there is one. */
  askAgent(): void {
    if (this.#asking !== undefined) return;
    const generation = this.#generation;
    this.#asking = this.#options.agent
      .ping(limits.vmAgentPingMs)
      .then((answered) => {
        if (generation === this.#generation) this.#agentAnswered ||= answered;
      })
      .catch(() => {}) // a ping fails only by a defect, which shows as never ready by the agent
      .finally(() => {
        this.#asking = undefined;
      });
  }

  /** @param ageMs how long the guest has been running */
  async check(ageMs: number): Promise<VmObservation['ready']> {
    if (this.#agentAnswered) return 'agent';
    if (this.#search !== undefined && (await this.#search.advance())) return 'pattern';
    return ageMs >= limits.vmReadyMs ? 'timeout' : null;
  }

  async #ageMs(): Promise<number> {
    if (this.#resetAtMs === null) return ageOf(this.#options.identity);
    return this.#options.clock.monotonicMs() - this.#resetAtMs;
  }
}
