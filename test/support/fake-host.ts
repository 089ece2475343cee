/**
 * A blockd and a hypervisor that fail when they are told to. Only for what the real ones cannot be made to do on request;
 * everything else is tested against the real ones (test/system).
 */

import type { DataProcess } from '../../src/agent/index.ts';
import { DvceError } from '../../src/base/index.ts';
import type {
  ControlMethod,
  ControlParams,
  ControlResult,
  VolumeInfo,
} from '../../src/blockd/index.ts';
import type { Hypervisor, RunningGuest, VmDefinition, VmObservation } from '../../src/vm/index.ts';

interface DocumentParams {
  readonly kind: string;
  readonly name: string;
  readonly version?: number;
  readonly value?: Record<string, unknown>;
}

interface AnyParams {
  readonly path?: string;
  readonly paths?: readonly string[];
  readonly name?: string;
  readonly labels?: Record<string, string>;
  readonly attachId?: string;
}

export class FakeBlockd implements DataProcess {
  readonly volumes = new Map<string, VolumeInfo>();
  /** path@name */
  readonly snapshots = new Set<string>();
  /** path -> attach id */
  readonly attached = new Map<string, string>();
  /** kind/name -> document of the wanted state */
  readonly documents = new Map<string, DocumentParams & { version: number }>();
  readonly calls: string[] = [];
  /** Method -> what it throws, once. */
  readonly failures = new Map<ControlMethod, DvceError>();
  /** `gone`: every call fails; `hangs`: none is answered, until it ends. */
  state: 'well' | 'gone' | 'hangs' = 'well';
  readonly #hanging: (() => void)[] = [];
  #ids = 0;

  /** Another one is started in its place. */
  restart(): void {
    this.state = 'well';
    for (const end of this.#hanging.splice(0)) end();
  }

  add(
    path: string,
    labels: Record<string, string> = {},
    rest: Partial<VolumeInfo> = {},
  ): VolumeInfo {
    this.#ids += 1;
    const volume: VolumeInfo = {
      id: `00000000-0000-4000-8000-${String(this.#ids).padStart(12, '0')}`,
      path,
      kind: 'volume',
      state: 'active',
      sizeBytes: 1024 ** 2,
      blockBytes: 512,
      labels,
      protected: false,
      createdAt: '2026-01-01T00:00:00.000Z',
      epoch: '1',
      log: 'log',
      origin: null,
      image: null,
      snapshots: 0,
      open: null,
      ...rest,
    };
    this.volumes.set(path, volume);
    return volume;
  }

  async call<M extends ControlMethod>(
    method: M,
    params: ControlParams<M>,
  ): Promise<ControlResult<M>> {
    const { path = '' } = params as AnyParams;
    const { state } = this;
    if (state === 'hangs') await new Promise<void>((end) => this.#hanging.push(end));
    if (state !== 'well')
      throw new DvceError('BLOCKD_UNAVAILABLE', { where: 'here', reason: 'it is away' });
    this.calls.push(`${method} ${path}`.trim());
    const failure = this.failures.get(method);
    this.failures.delete(method);
    if (failure !== undefined) throw failure;
    if (method.startsWith('document.'))
      return this.#document(method, params as DocumentParams) as ControlResult<M>;
    return this.#answer(method, params as AnyParams) as ControlResult<M>;
  }

  #document(method: ControlMethod, { kind, name, version, value = {} }: DocumentParams): unknown {
    const key = `${kind}/${name}`;
    const found = this.documents.get(key);
    switch (method) {
      case 'document.list':
        return {
          documents: [...this.documents.values()].filter((document) => document.kind === kind),
          next: null,
        };
      case 'document.read':
        return { document: found ?? null };
      case 'document.create':
        if (found !== undefined) throw new DvceError('ALREADY_EXISTS', { kind, name });
        this.documents.set(key, { kind, name, version: 1, value });
        return { version: 1 };
      default:
        if (found === undefined || found.version !== version)
          throw new DvceError('CONFLICT', { kind, name, reason: 'it was changed meanwhile' });
        if (method === 'document.delete') this.documents.delete(key);
        else this.documents.set(key, { kind, name, version: found.version + 1, value });
        return { version: found.version + 1 };
    }
  }

  #answer(
    method: ControlMethod,
    { path = '', labels = {}, attachId = '', paths = [], name = '' }: AnyParams,
  ): unknown {
    const missing = new DvceError('NOT_FOUND', { kind: 'volume', name: path });
    switch (method) {
      case 'volume.create':
      case 'volume.clone':
        if (this.volumes.has(path))
          throw new DvceError('ALREADY_EXISTS', { kind: 'volume', name: path });
        return this.add(path, labels);
      case 'volume.delete':
        if (!this.volumes.delete(path)) throw missing;
        return {};
      case 'volume.attach':
        if (!this.volumes.has(path)) throw missing;
        this.attached.set(path, attachId);
        return { socketPath: '/s', exportName: path, sizeBytes: 1, blockBytes: 512 };
      case 'volume.detach':
        if (this.attached.get(path) === attachId) this.attached.delete(path);
        return {};
      case 'volume.get': {
        const volume = this.volumes.get(path);
        if (volume === undefined) throw missing;
        return volume;
      }
      case 'volume.list':
        return { volumes: [...this.volumes.values()] };
      case 'snapshot.create-set':
        for (const one of paths) this.snapshots.add(`${one}@${name}`);
        return { snapshots: [] };
      case 'snapshot.delete':
        if (!this.snapshots.delete(`${path}@${name}`))
          throw new DvceError('NOT_FOUND', { kind: 'snapshot', name: `${path}@${name}` });
        return {};
      default:
        throw new DvceError('UNSUPPORTED', { what: method, reason: 'a fake', advice: '' });
    }
  }
}

const stopped: VmObservation = { phase: 'stopped', pid: null, ready: null, detail: null };

export class FakeHypervisor implements Hypervisor {
  readonly name = 'qemu';
  readonly running = new Map<string, VmObservation>();
  /** How those that ran ended. */
  readonly ends = new Map<string, VmObservation>();
  readonly calls: string[] = [];
  startFailure: DvceError | undefined;
  /** What the guest does about the power button. */
  obeysButton = true;
  agentAnswers = false;
  problems: readonly DvceError[] = [];
  kvmProblem: string | null = null;
  #listener: (vmId: string, observation: VmObservation) => void = () => {};

  async start(vm: VmDefinition): Promise<void> {
    this.calls.push(`start ${vm.name}`);
    if (this.startFailure !== undefined) throw this.startFailure;
    this.running.set(vm.id, { phase: 'running', pid: 42, ready: null, detail: null });
    this.size = { cpus: vm.cpus, memoryBytes: vm.memoryBytes };
  }
  async powerDown(vm: VmDefinition): Promise<void> {
    this.calls.push(`powerDown ${vm.name}`);
    if (this.obeysButton) this.end(vm.id, stopped);
  }
  async kill(vm: VmDefinition): Promise<void> {
    this.calls.push(`kill ${vm.name}`);
    this.end(vm.id, { ...stopped, detail: 'killed' });
  }
  /** The process ends, as the driver would tell it. */
  end(vmId: string, observation: VmObservation): void {
    this.running.delete(vmId);
    this.ends.set(vmId, observation);
    this.#listener(vmId, observation);
  }
  async inspect(vm: VmDefinition): Promise<VmObservation> {
    return this.running.get(vm.id) ?? this.ends.get(vm.id) ?? stopped;
  }
  async runningIds(): Promise<readonly string[]> {
    return [...this.running.keys()];
  }
  async adopt(vm: VmDefinition): Promise<boolean> {
    this.calls.push(`adopt ${vm.name}`);
    return this.running.has(vm.id);
  }
  onChange(listener: (vmId: string, observation: VmObservation) => void): void {
    this.#listener = listener;
  }
  consoleSocket(vm: VmDefinition): string {
    return `/nowhere/${vm.id}`;
  }
  consoleLog(vm: VmDefinition): string {
    return `/nowhere/${vm.id}.log`;
  }
  async forget(vm: VmDefinition): Promise<void> {
    this.calls.push(`forget ${vm.name}`);
  }
  /** What the running guests have, as far as it was changed while they ran. */
  readonly plugged = new Set<string>();
  /** What the guest that was started last has; it is given more processors only up to `cpusMax`. */
  size = { cpus: 0, memoryBytes: 0 };
  cpusMax = 8;
  /** What a guest refuses to let go. */
  readonly stuck = new Set<string>();
  async guest(vm: VmDefinition): Promise<RunningGuest> {
    const phase = (next: VmObservation['phase']): void => {
      const now = this.running.get(vm.id);
      if (now !== undefined) this.running.set(vm.id, { ...now, phase: next });
    };
    if (!this.running.has(vm.id))
      throw new DvceError('VM_STATE', { name: vm.name, state: 'stopped', reason: '', advice: '' });
    const note = (what: string): void => void this.calls.push(`${what} ${vm.name}`);
    const out = async (name: string): Promise<void> => {
      note(`detach ${name}`);
      if (this.stuck.has(name)) throw new DvceError('TIMED_OUT', { what: name, ms: 1 });
      this.plugged.delete(name);
    };
    const into = async ({ name }: { name: string }): Promise<void> => {
      note(`attach ${name}`);
      if (this.stuck.has(name))
        throw new DvceError('HYPERVISOR_FAILED', { name: vm.name, reason: 'no' });
      this.plugged.add(name);
    };
    return {
      pause: async () => phase('paused'),
      resume: async () => phase('running'),
      reset: async () => note('reset'),
      reboot: async () => ({ hard: !this.obeysButton }),
      hardware: async () => ({
        ...(this.size.cpus === 0 ? { cpus: vm.cpus, memoryBytes: vm.memoryBytes } : this.size),
        memoryBytesMax: vm.memoryBytes,
        disks: [...this.plugged].filter((name) => name.startsWith('disk')),
        cards: [...this.plugged].filter((name) => name.startsWith('card')),
      }),
      setCpus: async (cpus) => {
        note(`cpus ${cpus}`);
        if (cpus > this.cpusMax)
          throw new DvceError('VM_STATE', { name: vm.name, state: '', reason: '', advice: '' });
        this.size = { ...this.size, cpus };
      },
      setMemory: async (memoryBytes) => {
        note(`memory ${memoryBytes}`);
        this.size = { ...this.size, memoryBytes };
      },
      attachDisk: into,
      attachCard: into,
      detachDisk: out,
      detachCard: out,
      agentAnswers: async () => this.agentAnswers,
      interfaces: async () => [],
      display: async () => null,
    };
  }
  async freeze(vm: VmDefinition): Promise<void> {
    this.calls.push(`freeze ${vm.name}`);
  }
  async thaw(vm: VmDefinition): Promise<void> {
    this.calls.push(`thaw ${vm.name}`);
  }
  async machineVersion(machine: string): Promise<string> {
    return machine === 'q35' ? 'pc-q35-7.2' : machine;
  }
  async probe(): Promise<readonly DvceError[]> {
    return this.problems;
  }
  async kvmRefused(): Promise<string | null> {
    return this.kvmProblem;
  }
  async close(): Promise<void> {}
}
