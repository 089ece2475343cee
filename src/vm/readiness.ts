/**
 * When is a guest ready? At the first of: its guest agent answers; the serial console shows the configured pattern;
 * `limits.vmReadyMs` have passed. The guest decides only how early, never whether.
 */
import { limits, type Timer, type Timers } from '../base/index.ts';
import type { GuestPaths } from './arguments.ts';
import { ConsoleSearch } from './console-log.ts';
import type { VmDefinition, VmObservation } from './driver.ts';
import { connectJsonLines, type JsonLines } from './lines.ts';

export class Readiness {
  readonly #timers: Timers;
  readonly #paths: GuestPaths;
  readonly #vm: VmDefinition;
  readonly #search: ConsoleSearch | undefined;
  #agent: JsonLines | undefined;
  #agentAnswered = false;
  #ping: Timer | undefined;
  #closed = false;

  constructor(vm: VmDefinition, paths: GuestPaths, timers: Timers) {
    this.#vm = vm;
    this.#paths = paths;
    this.#timers = timers;
    if (vm.readyPattern !== null)
      this.#search = new ConsoleSearch(paths.consoleLog, vm.readyPattern);
  }

  /** Ask the guest agent; the answer shows in a later `check`. Does nothing while a question is under way. */
  async askAgent(): Promise<void> {
    if (this.#agent !== undefined || this.#closed) return;
    const agent = await connectJsonLines({
      path: this.#paths.agent,
      peer: `the guest agent of VM ${this.#vm.name}`,
      timers: this.#timers,
      connectMs: limits.qmpCommandMs,
      onMessage: (message) => {
        if (typeof message === 'object' && message !== null && 'return' in message)
          this.#agentAnswered = true;
      },
      // The guest reset its end, or sent what is no JSON; the next check asks anew.
      onClose: () => {
        this.#agent = undefined;
        this.#ping?.cancel();
      },
    });
    if (this.#closed) return agent.close();
    this.#agent = agent;
    this.#sendPing();
  }

  /** @param ageMs how long the guest has been running */
  async check(ageMs: number): Promise<VmObservation['ready']> {
    if (this.#agentAnswered) return 'agent';
    if (this.#search !== undefined && (await this.#search.advance())) return 'pattern';
    return ageMs >= limits.vmReadyMs ? 'timeout' : null;
  }

  close(): void {
    this.#closed = true;
    this.#ping?.cancel();
    this.#agent?.close();
  }

  /** A ping sent before the agent listens may be lost, so it is repeated; the interval bounds what piles up. */
  #sendPing(): void {
    this.#agent?.send({ execute: 'guest-ping' });
    this.#ping = this.#timers.after(limits.vmAgentPingMs, () => this.#sendPing());
  }
}
