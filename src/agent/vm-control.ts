/**
 * A running guest is paused, continued, reset, restarted, and waited for. None of this changes what is wanted, so there is
 * nothing to record: the hypervisor knows, and after a restart of the agent it says.
 */
import type { Operation, Vm, VmReboot, VmWaited } from '../api/index.ts';
import { type Clock, checkName, DvceError, limits, sleep, type Timers } from '../base/index.ts';
import type { GuestInterface, RunningGuest } from '../vm/index.ts';
import type { VmTable } from './vm-table.ts';

export type VmCondition = VmWaited['condition'];

export interface VmControlOptions {
  readonly table: VmTable;
  readonly clock: Clock;
  readonly timers: Timers;
}

export class VmControl {
  readonly #options: VmControlOptions;

  constructor(options: VmControlOptions) {
    this.#options = options;
  }

  pause(name: string): Promise<Vm> {
    return this.#act(name, 'pause', (guest) => guest.pause());
  }

  resume(name: string): Promise<Vm> {
    return this.#act(name, 'resume', (guest) => guest.resume());
  }

  reset(name: string): Promise<Vm> {
    return this.#act(name, 'reset', (guest) => guest.reset());
  }

  reboot(name: string, { timeoutMs = limits.vmStopMs }: VmReboot): Promise<Operation> {
    const { table } = this.#options;
    return table.operate(name, {
      kind: 'vm.reboot',
      mayCancel: true,
      check: (document) => table.refuseStopped(document),
      work: async (document, { signal }) => (await table.guest(document)).reboot(timeoutMs, signal),
    });
  }

  /** Resolves when it is so, when `waitMs` is over, or when the asker has gone. */
  async wait(
    name: string,
    condition: VmCondition,
    waitMs: number,
    signal: AbortSignal,
  ): Promise<VmWaited> {
    const { table, clock, timers } = this.#options;
    const endMs = clock.monotonicMs() + waitMs;
    for (;;) {
      const vm = await table.get(name);
      const seen = await this.#look(vm, condition);
      if (seen.met || clock.monotonicMs() >= endMs || signal.aborted)
        return { ...seen, condition, vm };
      await sleep(timers, limits.vmWaitPollMs);
    }
  }

  async #look(vm: Vm, condition: VmCondition): Promise<Pick<VmWaited, 'met' | 'addresses'>> {
    const plain = (met: boolean) => ({ met, addresses: [] });
    if (vm.phase === 'unreadable') throw unreadable(vm);
    switch (condition) {
      case 'running':
        return plain(vm.phase === 'running');
      case 'ready':
        return plain(vm.ready !== null);
      case 'stopped':
        return plain(vm.pid === null);
      case 'agent':
        return plain(vm.pid !== null && (await this.#answers(vm.name)));
      case 'ip': {
        const addresses = vm.pid === null ? [] : await this.#addresses(vm.name);
        return { met: addresses.length > 0, addresses };
      }
      default:
        throw new DvceError('INTERNAL', { reason: `no condition ${condition satisfies never}` });
    }
  }

  async #answers(name: string): Promise<boolean> {
    return (await this.#asked(name, (guest) => guest.agentAnswers(limits.vmAgentQuickMs))) ?? false;
  }

  async #addresses(name: string): Promise<string[]> {
    const found = await this.#asked(name, (guest) => guest.interfaces(limits.vmAgentQuickMs));
    return usable(found ?? []);
  }

  /** A guest that ends, or whose agent does not answer yet, is asked again by the caller. */
  async #asked<T>(name: string, ask: (guest: RunningGuest) => Promise<T>): Promise<T | undefined> {
    const { table } = this.#options;
    try {
      return await ask(await table.guest(await table.document(name)));
    } catch (error) {
      if (error instanceof DvceError) return undefined;
      throw error;
    }
  }

  async #act(name: string, what: string, act: (guest: RunningGuest) => Promise<void>): Promise<Vm> {
    const { table } = this.#options;
    return table.alone(checkName(name), what, async () => {
      const document = await table.document(name);
      await table.refuseStopped(document);
      await act(await table.guest(document));
      return table.get(name);
    });
  }
}

/** Addresses by which somebody else can reach the guest. */
export const usable = (interfaces: readonly GuestInterface[]): string[] =>
  interfaces
    .flatMap(({ addresses }) => addresses)
    .filter((text) => !/^(127\.|169\.254\.|::1$|fe80:)/i.test(text));

const unreadable = (vm: Vm): DvceError =>
  new DvceError('DOCUMENT_DAMAGED', { name: `of VM ${vm.name}`, reason: vm.detail ?? '' });
