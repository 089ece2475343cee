/**
 * `Hypervisor`: what the agent asks of a driver (qemu now, xen later). A driver holds no truth: every call takes the
 * definition, and after a restart of the agent `inspect` finds what runs by looking at the host.
 */
import type { DvceError } from '../base/index.ts';

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

export interface Hypervisor {
  readonly name: 'qemu';
  /** Start; resolves when the process runs and its control socket answers. */
  start(vm: VmDefinition, signal: AbortSignal): Promise<void>;
  /** ACPI power button; resolves at once. The caller waits and then calls `kill`. */
  powerDown(vm: VmDefinition): Promise<void>;
  /** End the process hard; resolves when it is gone. */
  kill(vm: VmDefinition): Promise<void>;
  inspect(vm: VmDefinition): Promise<VmObservation>;
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
