/**
 * `Hypervisor`: what the agent asks of a driver (qemu now, xen later). A driver holds no truth: every call takes the
 * definition, and after a restart of the agent `inspect` finds what runs by looking at the host.
 */
import type { DvceError } from '../base/index.ts';
import type { GuestInterface } from './guest-agent.ts';

export interface VmDisk {
  /** Stable name within the VM: `disk0`, `disk1`, ... */
  readonly name: string;
  /** Unix socket of the volume's NBD export and the export's name. */
  readonly socketPath: string;
  readonly exportName: string;
  readonly readOnly: boolean;
  readonly blockBytes: 512 | 4096;
  /** Order in which the firmware tries disks, from 1; null: never. */
  readonly bootOrder: number | null;
}

/** A network card. `user`: NAT by the hypervisor; `bridge`: a tap device that is a port of that bridge of the host. */
export interface VmNic {
  /** Stable name within the VM: `card0`, `card1`, ... */
  readonly name: string;
  readonly mac: string;
  readonly kind: 'user' | 'bridge';
  readonly bridge?: string;
}

/** What cloud-init in the guest reads from a small read-only disk with the label `cidata`; may hold secrets. */
export interface VmSeed {
  readonly metaData: string;
  readonly userData: string;
  readonly networkConfig: string;
}

/** Its share of the host; what is absent is not limited, and nothing is held for it. */
export interface VmShare {
  readonly cpuMinPercent?: number;
  readonly cpuMaxPercent?: number;
  readonly cpuWeight?: number;
  readonly memoryMinBytes?: number;
  readonly memoryMaxBytes?: number;
  readonly ioMaxBytesPerSecond?: number;
  readonly ioMaxRequestsPerSecond?: number;
}

export interface VmDefinition {
  readonly id: string;
  readonly name: string;
  readonly cpus: number;
  readonly memoryBytes: number;
  /** As stored with the VM, so that an upgrade does not change the guest's hardware: e.g. `q35`. */
  readonly machine: string;
  /** `host` (all that the host offers) when absent, else a baseline that is the same on every host: `x86-64-v2`, ... */
  readonly cpuModel?: string;
  readonly firmware: 'bios' | 'uefi';
  readonly disks: readonly VmDisk[];
  /** In the order in which the guest finds them. */
  readonly nics: readonly VmNic[];
  readonly seed?: VmSeed;
  /** A graphical display by VNC on the loopback address, with a password made at each start. */
  readonly vnc?: boolean;
  readonly resources?: VmShare;
  /** Regular expression on the serial console that means the guest is ready, or null. */
  readonly readyPattern: string | null;
}

export type VmPhase =
  | 'stopped'
  | 'starting'
  | 'running'
  | 'paused'
  | 'io-error'
  | 'stopping'
  | 'crashed';

export interface VmObservation {
  readonly phase: VmPhase;
  readonly pid: number | null;
  /** Why ready: `agent`, `pattern` or `timeout` (60 s); null while it is not. */
  readonly ready: 'agent' | 'pattern' | 'timeout' | null;
  /** Exit reason, last error of the hypervisor. */
  readonly detail: string | null;
}

/** What a running guest has, as its hypervisor says. */
export interface VmHardware {
  readonly cpus: number;
  readonly memoryBytes: number;
  /** What it was started with; it gets no more before its next start. */
  readonly memoryBytesMax: number;
  /** Names of its disks and cards. */
  readonly disks: readonly string[];
  readonly cards: readonly string[];
}

/** A graphical display by VNC. */
export interface VmDisplay {
  readonly host: string;
  readonly port: number;
  /** Of this run of the guest. */
  readonly password: string;
}

/** What can be done to a guest that runs. */
export interface RunningGuest {
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** The reset button: the guest is not asked. */
  reset(): Promise<void>;
  /** Ask the guest to restart; reset it when it has not by the deadline. @returns whether it had to be reset */
  reboot(deadlineMs: number, signal: AbortSignal): Promise<{ hard: boolean }>;
  hardware(): Promise<VmHardware>;
  /** More processors; @throws VM_STATE when this guest cannot have them before its next start */
  setCpus(count: number): Promise<void>;
  setMemory(bytes: number): Promise<void>;
  /** Plug in; does nothing when it is there already. */
  attachDisk(disk: VmDisk): Promise<void>;
  attachCard(card: VmNic): Promise<void>;
  /** Resolves when the guest has let it go, or it is not there; TIMED_OUT leaves it where it is. */
  detachDisk(name: string): Promise<void>;
  detachCard(name: string): Promise<void>;
  /** Whether the agent in the guest answers. */
  agentAnswers(deadlineMs: number): Promise<boolean>;
  /** Where its graphical display is; null when it has none. */
  display(): Promise<VmDisplay | null>;
  /** The guest's cards and addresses, by its agent. */
  interfaces(deadlineMs: number): Promise<readonly GuestInterface[]>;
}

export interface Hypervisor {
  readonly name: 'qemu';
  /** Start; resolves when the process runs and its control socket answers. */
  start(vm: VmDefinition, signal: AbortSignal): Promise<void>;
  /** ACPI power button; resolves at once. The caller waits and then calls `kill`. */
  powerDown(vm: VmDefinition): Promise<void>;
  /** End the process hard; resolves when it is gone. */
  kill(vm: VmDefinition): Promise<void>;
  /** The guest of a VM that runs, to do something to it; @throws VM_STATE when it does not run */
  guest(vm: VmDefinition): Promise<RunningGuest>;
  /**
   * Flush and hold all file systems of the guest, by its agent; @throws when there is none. They go on by themselves after
   * limits.vmFrozenMs, and as soon as another process watches the guest.
   */
  freeze(vm: VmDefinition, deadlineMs: number): Promise<void>;
  /** @throws TIMED_OUT when they did not stay frozen until now: what was done meanwhile is not quiesced */
  thaw(vm: VmDefinition, deadlineMs: number): Promise<void>;
  /** The version of a machine type that it stands for now: `q35` -> `pc-q35-7.2`. */
  machineVersion(machine: string): Promise<string>;
  inspect(vm: VmDefinition): Promise<VmObservation>;
  /** Ids of the VMs whose guests run, found without knowing any of them. */
  runningIds(): Promise<readonly string[]>;
  /** Find a running guest again after a restart of the agent and watch it; false when it does not run. */
  adopt(vm: VmDefinition): Promise<boolean>;
  /** Called on every change of phase or readiness. */
  onChange(listener: (vmId: string, observation: VmObservation) => void): void;
  /** Unix socket of the serial console; one reader at a time is the driver's business, the log is always kept. */
  consoleSocket(vm: VmDefinition): string;
  consoleLog(vm: VmDefinition): string;
  /** Remove what the driver keeps about a VM (sockets, logs). */
  forget(vm: VmDefinition): Promise<void>;
  /** What is missing on this host to run guests; [] when a probe guest really ran. */
  probe(): Promise<readonly DvceError[]>;
  /** Why guests run emulated, not under KVM; null when they run under KVM. */
  kvmRefused(): Promise<string | null>;
  /** Let go of all guests without touching them. */
  close(): Promise<void>;
}
