/**
 * Admission: the minima that running VMs hold never sum to more than the host has, less a reserve.
 *
 * Invariants
 * - a VM holds its minima while it is wanted running, so the documents are the only record, and a crash loses none;
 * - of two starts at once the second sees the first: check and record are one turn.
 */
import type { VmResources } from '../api/index.ts';
import { DvceError, formatSize, limits } from '../base/index.ts';

/** What the host has. */
export interface HostCapacity {
  readonly cpus: number;
  readonly memoryBytes: number;
}

/** Of a document, what counts here. */
interface Holder {
  readonly id: string;
  readonly name: string;
  readonly desired: 'running' | 'stopped';
  readonly resources?: VmResources;
}

export interface AdmissionOptions {
  readonly capacity: HostCapacity;
  readonly documents: () => Promise<readonly Holder[]>;
}

export class Admission {
  readonly #options: AdmissionOptions;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: AdmissionOptions) {
    this.#options = options;
  }

  /** Record that a VM is wanted running, unless its minima do not fit. */
  admit(vm: Holder, record: () => Promise<void>): Promise<void> {
    const task = this.#turn.then(async () => {
      await this.#check(vm);
      await record();
    });
    this.#turn = task.catch(() => {}); // the caller has it
    return task;
  }

  async #check(vm: Holder): Promise<void> {
    const { memoryMinBytes = 0, cpuMinPercent = 0 } = vm.resources ?? {};
    if (memoryMinBytes === 0 && cpuMinPercent === 0) return;
    const others = (await this.#options.documents()).filter(
      ({ id, desired }) => id !== vm.id && desired === 'running',
    );
    const { memoryBytes, cpuPercent } = promised(this.#options.capacity);
    refuse(vm.name, 'memory', memoryMinBytes, memoryBytes, formatSize, heldBy(others, memoryOf));
    refuse(vm.name, 'processors', cpuMinPercent, cpuPercent, inCpus, heldBy(others, cpuOf));
  }
}

const memoryOf = ({ memoryMinBytes = 0 }: VmResources): number => memoryMinBytes;
const cpuOf = ({ cpuMinPercent = 0 }: VmResources): number => cpuMinPercent;
const inCpus = (percent: number): string => `${percent / 100} CPUs`;

/** What may be promised altogether. */
export function promised({ cpus, memoryBytes }: HostCapacity): {
  memoryBytes: number;
  cpuPercent: number;
} {
  const reserve = Math.min(limits.hostMemoryReserveBytes, memoryBytes / 4);
  return {
    memoryBytes: Math.floor(memoryBytes - reserve),
    cpuPercent: cpus * 100 - limits.hostCpuReservePercent,
  };
}

type Held = readonly { readonly name: string; readonly amount: number }[];

const heldBy = (holders: readonly Holder[], of: (resources: VmResources) => number): Held =>
  holders
    .map(({ name, resources = {} }) => ({ name, amount: of(resources) }))
    .filter(({ amount }) => amount > 0)
    .sort((a, b) => b.amount - a.amount);

const namesShown = 10;

function refuse(
  name: string,
  what: string,
  wanted: number,
  capacity: number,
  show: (amount: number) => string,
  held: Held,
): void {
  const sum = held.reduce((total, { amount }) => total + amount, 0);
  if (wanted === 0 || sum + wanted <= capacity) return;
  const list = held.slice(0, namesShown).map((one) => `${one.name} ${show(one.amount)}`);
  const rest = held.length > namesShown ? [`${held.length - namesShown} more`] : [];
  const holders = held.length === 0 ? 'nobody holds any' : [...list, ...rest].join(', ');
  throw new DvceError('NOT_ADMITTED', {
    name,
    what,
    reason: `it wants at least ${show(wanted)}, of ${show(capacity)} that may be promised ${show(Math.max(0, capacity - sum))} are left (${holders})`,
  });
}

/** What a request says about its share, checked. */
export function checkResources(share: VmResources, memoryBytes: number): void {
  const { cpuMinPercent = 0, cpuMaxPercent, memoryMinBytes = 0, memoryMaxBytes } = share;
  if (cpuMaxPercent !== undefined && cpuMaxPercent < cpuMinPercent)
    throw invalid(
      'the processor share',
      'its upper bound is below its lower one',
      'Raise --cpu-max.',
    );
  const needed = memoryBytes + limits.vmMemoryOverheadBytes;
  if (memoryMaxBytes !== undefined && memoryMaxBytes < needed)
    throw invalid(
      'the upper bound of memory',
      `the guest's ${formatSize(memoryBytes)} and its hypervisor need ${formatSize(needed)}`,
      `Give --memory-max ${formatSize(needed)} or more, or less --memory.`,
    );
  if (memoryMinBytes > (memoryMaxBytes ?? needed))
    throw invalid(
      'the lower bound of memory',
      'the VM never needs that much',
      `Give at most ${formatSize(memoryMaxBytes ?? needed)}.`,
    );
}

const invalid = (what: string, reason: string, advice: string): DvceError =>
  new DvceError('INVALID_ARGUMENT', { what, reason, advice });
