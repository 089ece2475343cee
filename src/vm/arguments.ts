/**
 * The command line of QEMU for a VM: a pure function, so that a test can read what a hostile name turns into.
 *
 * Devices, disks and networks are given as JSON, where no character has a meaning of its own. The options that know no JSON
 * (`-name`, `-chardev`) use `key=value,...`; in their values a comma is written twice.
 *
 * No secret is ever part of it, since every user of the host can read a command line.
 */
import { DvceError, isUuid, limits, MiB } from '../base/index.ts';
import type { VmDefinition, VmDisk, VmNic } from './driver.ts';
import { tapName } from './taps.ts';

export type Accelerator = 'kvm' | 'tcg';

/** Where the files of one running guest are. */
export interface GuestPaths {
  /** Sockets of this run; emptied with every start. */
  readonly run: string;
  readonly control: string;
  readonly console: string;
  readonly agent: string;
  /** Seed disk and password of the display, both secret; only when the VM has them. */
  readonly seed: string;
  readonly vncPassword: string;
  /** Marks of what was begun with the guest (restarter.ts, freezing.ts). */
  readonly restarting: string;
  readonly frozen: string;
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
    seed: `${run}/seed.iso`,
    vncPassword: `${run}/vnc-password`,
    restarting: `${run}/restarting`,
    frozen: `${run}/frozen`,
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

/** What a VM's document may ask for instead of all that this host has. */
const baselines: Readonly<Record<string, string>> = {
  'x86-64-v2': 'qemu64,+cx16,+lahf-lm,+popcnt,+pni,+sse4.1,+sse4.2,+ssse3',
  'x86-64-v3':
    'qemu64,+cx16,+lahf-lm,+popcnt,+pni,+sse4.1,+sse4.2,+ssse3,+avx,+avx2,+bmi1,+bmi2,+f16c,+fma,+abm,+movbe,+xsave',
};

/** The processor as QEMU wants it; `host` is all that the accelerator offers. */
export const processorOf = (vm: VmDefinition, accelerator: Accelerator): string =>
  baselines[vm.cpuModel ?? 'host'] ?? processors[accelerator];

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
    ...['-cpu', processorOf(vm, accelerator)],
    ...['-smp', `cpus=${vm.cpus},maxcpus=${Math.max(vm.cpus, limits.vmCpusHotMax)}`],
    ...['-m', `size=${vm.memoryBytes / MiB}M`],
    ...['-rtc', 'base=utc'],
    ...['-display', 'none'],
    ...displayArguments(vm, paths),
    ...['-msg', 'timestamp=on'],
    // Why it ended stands in its log, for an agent that was away then (hypervisor-log.ts).
    ...['-trace', 'enable=qemu_system_shutdown_request'],
    // Only disks with a boot order are tried.
    ...['-boot', 'menu=off,strict=on'],
    ...characterDevices(paths),
    ...['-object', json({ 'qom-type': 'rng-builtin', id: 'rng0' })],
    ...['-device', json({ driver: 'virtio-rng-pci', id: 'rngdev0', rng: 'rng0' })],
    // Takes memory back from the guest while it runs, down to what the VM is set to.
    ...['-device', json({ driver: 'virtio-balloon-pci', id: 'balloon0' })],
    ...portArguments(vm),
    ...shareArguments(vm),
    ...vm.disks.flatMap((disk, index) => diskArguments(vm, disk, busOf(vm, index))),
    ...vm.nics.flatMap((nic, index) => networkArguments(vm, nic, index)),
    ...seedArguments(vm, paths),
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
 * Only devices behind a root port can be plugged and unplugged on q35: every disk and card gets one, and some stay free. Each
 * costs the firmware and the guest time at boot (24 of them 0.7 s under emulation), so there are few.
 */
function portArguments(vm: VmDefinition): string[] {
  if (!hasPorts(vm)) return [];
  const seeds = vm.seed === undefined ? 0 : 1;
  const count = vm.disks.length + vm.nics.length + seeds + limits.vmHotSlots;
  return Array.from({ length: count }, (_, at) => [
    '-device',
    json({
      driver: 'pcie-root-port',
      id: `port${at}`,
      chassis: at + 1,
      // Eight functions share a slot of the root bus.
      addr: `${(0x10 + Math.floor(at / 8)).toString(16)}.${at % 8}`,
      ...(at % 8 === 0 ? { multifunction: true } : {}),
      // Windows of the legacy kind are few, and virtio needs none.
      'io-reserve': 0,
    }),
  ]).flat();
}

/** The older machine type plugs into its only bus. */
const hasPorts = (vm: VmDefinition): boolean => /^(q35|pc-q35-)/.test(vm.machine);

const busOf = (vm: VmDefinition, port: number): string | null =>
  hasPorts(vm) ? `port${port}` : null;

/** Ids of what a disk is made of; the same whether it was there at the start or came later. */
export const diskNode = (disk: Pick<VmDisk, 'name'>): string => disk.name;
export const diskDeviceId = (disk: Pick<VmDisk, 'name'>): string => `device-${disk.name}`;

const diskArguments = (vm: VmDefinition, disk: VmDisk, bus: string | null): string[] => [
  '-blockdev',
  json(diskBlock(disk, isThrottled(vm))),
  '-device',
  json(diskDevice(disk, bus)),
];

/**
 * A lost server is awaited for `vmDiskReconnectMs`, in which the guest's requests just take long. When that time is over,
 * or the server reports an error, the guest is stopped instead of being shown the error; the driver continues it when
 * the disk answers again.
 */
export function diskBlock(disk: VmDisk, throttled: boolean): object {
  const node = { 'node-name': diskNode(disk) };
  if (!throttled) return { ...node, ...nbdBlock(disk) };
  // The limit stands above the disk, so that a lost server is awaited below it.
  const file = { 'node-name': `${diskNode(disk)}-nbd`, ...nbdBlock(disk) };
  return { ...node, driver: 'throttle', 'throttle-group': throttleGroup, file };
}

const throttleGroup = 'share0';

export const isThrottled = ({ resources }: VmDefinition): boolean =>
  resources?.ioMaxBytesPerSecond !== undefined || resources?.ioMaxRequestsPerSecond !== undefined;

/** One group for all disks: the limit is that of the VM. */
function shareArguments(vm: VmDefinition): string[] {
  if (!isThrottled(vm)) return [];
  const { ioMaxBytesPerSecond = 0, ioMaxRequestsPerSecond = 0 } = vm.resources ?? {};
  const limits = { 'bps-total': ioMaxBytesPerSecond, 'iops-total': ioMaxRequestsPerSecond };
  return ['-object', json({ 'qom-type': 'throttle-group', id: throttleGroup, limits })];
}

/** Behind the disks, so that their names in the guest do not depend on it. Nothing boots from it. */
function seedArguments(vm: VmDefinition, paths: GuestPaths): string[] {
  if (vm.seed === undefined) return [];
  const file = { driver: 'file', filename: paths.seed, 'read-only': true };
  const bus = busOf(vm, vm.disks.length + vm.nics.length);
  const device = {
    driver: 'virtio-blk-pci',
    id: 'seed0',
    ...(bus === null ? {} : { bus }),
    drive: 'seed',
    serial: 'seed',
  };
  return [
    ...['-blockdev', json({ driver: 'raw', 'node-name': 'seed', 'read-only': true, file })],
    ...['-device', json(device)],
  ];
}

/**
 * The password comes from a file, so it is on no command line. The port is the first free one; the hypervisor says which
 * (query-vnc).
 */
function displayArguments(vm: VmDefinition, paths: GuestPaths): string[] {
  if (vm.vnc !== true) return [];
  const secret = { 'qom-type': 'secret', id: 'vnc0', file: paths.vncPassword };
  return [
    ...['-object', json(secret)],
    ...['-vnc', `127.0.0.1:0,to=${vncDisplaysMax},password-secret=vnc0`],
    ...['-device', json({ driver: 'VGA', id: 'display0' })],
  ];
}

/** Ports 5900 to 6899. */
const vncDisplaysMax = 999;

const nbdBlock = (disk: VmDisk): object => ({
  driver: 'nbd',
  server: { type: 'unix', path: disk.socketPath },
  export: disk.exportName,
  'reconnect-delay': limits.vmDiskReconnectMs / 1000,
  'open-timeout': limits.vmDiskOpenMs / 1000,
  'read-only': disk.readOnly,
  discard: 'unmap',
  'detect-zeroes': 'off',
});

/** @param bus the port it sits behind; null: the machine's only bus */
export const diskDevice = (disk: VmDisk, bus: string | null): object => ({
  driver: 'virtio-blk-pci',
  id: diskDeviceId(disk),
  ...(bus === null ? {} : { bus }),
  drive: diskNode(disk),
  serial: disk.name,
  logical_block_size: disk.blockBytes,
  physical_block_size: 4096,
  rerror: 'stop',
  werror: 'stop',
  ...(disk.bootOrder === null ? {} : { bootindex: disk.bootOrder }),
});

export const cardBackendId = (nic: Pick<VmNic, 'name'>): string => `net-${nic.name}`;

/** The host's end of a card. */
export const cardBackend = (vmId: string, nic: VmNic): object => {
  const id = cardBackendId(nic);
  return nic.kind === 'user'
    ? { type: 'user', id }
    : { type: 'tap', id, ifname: tapName(vmId, nic.name), script: 'no', downscript: 'no' };
};

export const cardDevice = (nic: VmNic, bus: string | null): object => ({
  driver: 'virtio-net-pci',
  id: nic.name,
  ...(bus === null ? {} : { bus }),
  netdev: cardBackendId(nic),
  mac: nic.mac,
  // No boot over the network, so no option ROM.
  romfile: '',
});

const networkArguments = (vm: VmDefinition, nic: VmNic, index: number): string[] => [
  '-netdev',
  json(cardBackend(vm.id, nic)),
  '-device',
  json(cardDevice(nic, busOf(vm, vm.disks.length + index))),
];

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
  if (vm.nics.length > limits.vmNicsMax)
    throw invalid('the number of cards', vm.nics.length, `Give at most ${limits.vmNicsMax}.`);
  if (vm.cpuModel !== undefined && !cpuModels.includes(vm.cpuModel))
    throw invalid('the processor', vm.cpuModel, `Use one of ${cpuModels.join(', ')}.`);
  if (vm.name.includes('\0')) throw invalid('a name', vm.name, 'Leave out the zero byte.');
  for (const disk of vm.disks) checkDisk(disk);
}

export function checkDisk(disk: VmDisk): void {
  checkSocketPath(disk.socketPath);
  if (disk.exportName.includes('\0'))
    throw invalid('a name', disk.exportName, 'Leave out the zero byte.');
  // It becomes an id of QEMU, which takes few characters.
  if (!/^[a-z][a-z0-9-]{0,30}$/.test(disk.name))
    throw invalid('the name of a disk', disk.name, 'Use letters and digits: disk0.');
}

/** `host`: all that this host can offer. The others are the same on every host. */
export const cpuModels: readonly string[] = ['host', ...Object.keys(baselines)];

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
