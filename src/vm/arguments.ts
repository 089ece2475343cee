/**
 * The command line of QEMU for a VM: a pure function, so that a test can read what a hostile name turns into.
 *
 * Devices, disks and networks are given as JSON, where no character has a meaning of its own. The options that know no JSON
 * (`-name`, `-chardev`) use `key=value,...`; in their values a comma is written twice.
 *
 * No secret is ever part of it, since every user of the host can read a command line.
 */
import { createHash } from 'node:crypto';
import { DvceError, isUuid, limits, MiB } from '../base/index.ts';
import type { VmDefinition, VmDisk } from './driver.ts';

export type Accelerator = 'kvm' | 'tcg';

/** Where the files of one running guest are. */
export interface GuestPaths {
  /** Sockets of this run; emptied with every start. */
  readonly run: string;
  readonly control: string;
  readonly console: string;
  readonly agent: string;
  /** Kept when the guest ends. */
  readonly log: string;
  readonly consoleLog: string;
  readonly hypervisorLog: string;
}

export function guestPaths(runDirectory: string, logDirectory: string, vmId: string): GuestPaths {
  const run = `${runDirectory}/${vmId}`;
  const log = `${logDirectory}/${vmId}`;
  return {
    run,
    control: `${run}/qmp.sock`,
    console: `${run}/console.sock`,
    agent: `${run}/agent.sock`,
    log,
    consoleLog: `${log}/console.log`,
    hypervisorLog: `${log}/qemu.log`,
  };
}

/** Emulated processors leave AVX out: it was new in QEMU 7.2 and is slower than what guests use without it. */
export const processors: Readonly<Record<Accelerator, string>> = {
  kvm: 'host',
  tcg: 'max,-avx,-avx2',
};

const machinePattern = /^(q35|pc|pc-q35-[0-9.]+|pc-i440fx-[0-9.]+)$/;

export function buildArguments(
  vm: VmDefinition,
  accelerator: Accelerator,
  paths: GuestPaths,
): string[] {
  checkDefinition(vm);
  for (const path of [paths.control, paths.console, paths.agent]) checkSocketPath(path);
  return [
    ...['-name', `guest=${escaped(vm.name)}`],
    ...(isUuid(vm.id) ? ['-uuid', vm.id] : []),
    '-nodefaults',
    '-no-user-config',
    ...['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
    // Without graphics the firmware and the boot loader speak on the serial console.
    ...['-machine', `${vm.machine},graphics=off`],
    ...['-accel', accelerator],
    ...['-cpu', processors[accelerator]],
    ...['-smp', `cpus=${vm.cpus}`],
    ...['-m', `size=${vm.memoryBytes / MiB}M`],
    ...['-rtc', 'base=utc'],
    ...['-display', 'none'],
    ...['-msg', 'timestamp=on'],
    // Only disks with a boot order are tried.
    ...['-boot', 'menu=off,strict=on'],
    ...characterDevices(paths),
    ...['-object', json({ 'qom-type': 'rng-builtin', id: 'rng0' })],
    ...['-device', json({ driver: 'virtio-rng-pci', id: 'rngdev0', rng: 'rng0' })],
    ...vm.disks.flatMap((disk, index) => diskArguments(disk, index)),
    ...networkArguments(vm),
  ];
}

/** The argument that makes the control socket. Its path makes it unique on the host, so it also tells a guest's process. */
export function controlArgument(paths: GuestPaths): string {
  return socketArgument('control0', paths.control);
}

const socketArgument = (id: string, path: string): string =>
  `socket,id=${id},path=${escaped(path)},server=on,wait=off`;

/** The control socket, the serial console with its log, and the channel of the guest agent. */
function characterDevices(paths: GuestPaths): string[] {
  return [
    ...['-chardev', controlArgument(paths)],
    ...['-mon', 'chardev=control0,mode=control'],
    // The log is written whether or not somebody is connected.
    '-chardev',
    `${socketArgument('serial0', paths.console)},logfile=${escaped(paths.consoleLog)},logappend=on`,
    ...['-serial', 'chardev:serial0'],
    ...['-chardev', socketArgument('agent0', paths.agent)],
    ...['-device', json({ driver: 'virtio-serial-pci', id: 'agentbus0' })],
    '-device',
    json({ driver: 'virtserialport', chardev: 'agent0', name: 'org.qemu.guest_agent.0' }),
  ];
}

/**
 * A lost server is awaited for `vmDiskReconnectMs`, in which the guest's requests just take long. When that time is over,
 * or the server reports an error, the guest is stopped instead of being shown the error; the driver continues it when
 * the disk answers again.
 */
function diskArguments(disk: VmDisk, index: number): string[] {
  const node = `disk${index}`;
  const block = {
    driver: 'nbd',
    'node-name': node,
    server: { type: 'unix', path: disk.socketPath },
    export: disk.exportName,
    'reconnect-delay': limits.vmDiskReconnectMs / 1000,
    'open-timeout': limits.vmDiskOpenMs / 1000,
    'read-only': disk.readOnly,
    discard: 'unmap',
    'detect-zeroes': 'off',
  };
  const device = {
    driver: 'virtio-blk-pci',
    id: `device${index}`,
    drive: node,
    serial: disk.name,
    logical_block_size: disk.blockBytes,
    physical_block_size: 4096,
    rerror: 'stop',
    werror: 'stop',
    ...(disk.bootOrder === null ? {} : { bootindex: disk.bootOrder }),
  };
  return ['-blockdev', json(block), '-device', json(device)];
}

function networkArguments(vm: VmDefinition): string[] {
  if (vm.network === 'none') return [];
  const mac = createHash('sha256').update(vm.id).digest().subarray(0, 3);
  const card = {
    driver: 'virtio-net-pci',
    id: 'card0',
    netdev: 'net0',
    // The prefix is QEMU's own; the rest stays the same for the life of the VM.
    mac: `52:54:00:${mac.toString('hex').replace(/(..)(?=.)/g, '$1:')}`,
    // No boot over the network, so no option ROM.
    romfile: '',
  };
  return ['-netdev', json({ type: 'user', id: 'net0' }), '-device', json(card)];
}

const json = (value: object): string => JSON.stringify(value);

/** A value inside of `key=value,...`. */
const escaped = (text: string): string => text.replaceAll(',', ',,');

function checkDefinition(vm: VmDefinition): void {
  if (!machinePattern.test(vm.machine))
    throw invalid('the machine type', vm.machine, 'Use q35, pc, or one of their versions.');
  if (vm.firmware !== 'bios')
    throw new DvceError('UNSUPPORTED', {
      what: `firmware ${vm.firmware}`,
      reason: 'this release boots through BIOS firmware only',
      advice: 'Use an image that boots through BIOS, as most cloud images do.',
    });
  if (!Number.isInteger(vm.cpus) || vm.cpus < 1 || vm.cpus > limits.vmCpusMax)
    throw invalid('the number of processors', vm.cpus, `Give 1 to ${limits.vmCpusMax}.`);
  const megabytes = vm.memoryBytes / MiB;
  if (
    !Number.isInteger(megabytes) ||
    vm.memoryBytes < limits.vmMemoryBytesMin ||
    vm.memoryBytes > limits.vmMemoryBytesMax
  )
    throw invalid('the memory size', vm.memoryBytes, 'Give whole MiB, at least 32MiB.');
  if (vm.disks.length > limits.vmDisksMax)
    throw invalid('the number of disks', vm.disks.length, `Give at most ${limits.vmDisksMax}.`);
  for (const text of [vm.name, ...vm.disks.flatMap((disk) => [disk.name, disk.exportName])])
    if (text.includes('\0')) throw invalid('a name', text, 'Leave out the zero byte.');
  for (const disk of vm.disks) checkSocketPath(disk.socketPath);
}

function invalid(what: string, value: string | number, advice: string): DvceError {
  const reason = `${JSON.stringify(value)} is not possible`;
  return new DvceError('INVALID_ARGUMENT', { what, reason, advice });
}

/** Size of sun_path without its final zero. */
const socketPathBytesMax = 107;

function checkSocketPath(path: string): void {
  const length = Buffer.byteLength(path);
  if (length > socketPathBytesMax)
    throw new DvceError('PATH_TOO_LONG', { where: path, length, max: socketPathBytesMax });
}
