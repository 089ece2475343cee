/**
 * Which accelerator runs guests on this host, found out by running one.
 *
 * A /dev/kvm that opens proves nothing: inside of some virtual machines and containers it exists, and a guest that uses it
 * hangs for ever, dies with an unknown processor register, or runs slower than emulated. So a guest of one boot sector is
 * started: it waits for a timer interrupt, then ends QEMU with a known status through the isa-debug-exit device, and only
 * that status counts. It takes the way of a real guest: same processor, firmware, boot order, virtio disk, sandbox.
 */
import { spawn } from 'node:child_process';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { type Clock, DvceError, limits, MiB, type Random, type Timers } from '../base/index.ts';
import { type Accelerator, processors } from './arguments.ts';
import { findProgram, isUsableDevice } from './processes.ts';

export interface ProbeOptions {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  /** Where the boot sector is written meanwhile. */
  readonly directory: string;
  readonly binary?: string;
  /** For tests; `/dev/kvm` otherwise. */
  readonly kvmDevice?: string;
}

export interface ProbeResult {
  /** Full path of QEMU, null when it is missing. */
  readonly binary: string | null;
  /** null: no guest runs here; `problems` says why. */
  readonly accelerator: Accelerator | null;
  readonly problems: readonly DvceError[];
  /** Why KVM is not used, null when it is. */
  readonly kvmRefused: string | null;
}

const debugPort = 0xf4;
const debugValue = 0x10;
/** isa-debug-exit ends QEMU with (value << 1) | 1. */
const debugStatus = (debugValue << 1) | 1;

const code = [
  ...[0x31, 0xc0, 0x8e, 0xd8, 0xfb], // xor ax, ax; mov ds, ax; sti
  ...[0xa1, 0x6c, 0x04], // mov ax, [0x46c]: the firmware counts timer interrupts there
  ...[0x3b, 0x06, 0x6c, 0x04, 0x74, 0xfa], // wait: cmp ax, [0x46c]; je wait
  ...[0xba, debugPort, 0x00, 0xb0, debugValue, 0xee], // mov dx, debugPort; mov al, debugValue; out dx, al
  ...[0xf4, 0xeb, 0xfd], // halt: hlt; jmp halt
];

/** A disk with a boot sector. SeaBIOS refuses to read from one that is no longer than the sector itself. */
function bootDisk(): Buffer {
  const disk = Buffer.alloc(1 * MiB);
  Buffer.from(code).copy(disk);
  disk.writeUInt16LE(0xaa55, 510);
  return disk;
}

export async function probeAccelerator(options: ProbeOptions): Promise<ProbeResult> {
  const binary = await findProgram(options.binary ?? 'qemu-system-x86_64');
  if (binary === undefined) {
    const missing = new DvceError('TOOL_MISSING', {
      tool: options.binary ?? 'qemu-system-x86_64',
      advice: 'apt-get install --no-install-recommends qemu-system-x86',
    });
    return { binary: null, accelerator: null, problems: [missing], kvmRefused: null };
  }
  const disk = `${options.directory}/probe-${options.random.bytes(6).toString('hex')}.img`;
  await mkdir(options.directory, { recursive: true, mode: 0o750 });
  await writeFile(disk, bootDisk(), { mode: 0o600 });
  try {
    // Both at once: where KVM hangs, its deadline is the time that the first start waits.
    const [kvm, tcg] = await Promise.all([
      probeKvm(binary, disk, options),
      runProbeGuest(binary, 'tcg', disk, options),
    ]);
    const kvmRefused = kvm.refused ?? slower(kvm, tcg);
    if (kvmRefused === null) return { binary, accelerator: 'kvm', problems: [], kvmRefused };
    if (tcg.refused === null) return { binary, accelerator: 'tcg', problems: [], kvmRefused };
    const problem = new DvceError('UNSUPPORTED', {
      what: 'running guests on this host',
      reason: tcg.refused,
      advice:
        'Reinstall QEMU: apt-get install --reinstall qemu-system-x86 qemu-system-data seabios',
    });
    return { binary, accelerator: null, problems: [problem], kvmRefused };
  } finally {
    await rm(disk, { force: true });
  }
}

interface Trial {
  /** null when the guest ran, else why it did not. */
  readonly refused: string | null;
  readonly tookMs: number;
}

/** Virtualisation that something emulates in software runs guests, but worse than QEMU does by itself. */
function slower(kvm: Trial, tcg: Trial): string | null {
  if (tcg.refused !== null || kvm.tookMs < 2 * tcg.tookMs + slackMs) return null;
  return `a guest took ${Math.round(kvm.tookMs)} ms with KVM and ${Math.round(tcg.tookMs)} ms without`;
}
/** More than what two runs on a busy host differ by. */
const slackMs = 1000;

async function probeKvm(binary: string, disk: string, options: ProbeOptions): Promise<Trial> {
  const device = options.kvmDevice ?? '/dev/kvm';
  if (!(await isUsableDevice(device)))
    return { refused: `${device} is missing or may not be opened`, tookMs: 0 };
  return runProbeGuest(binary, 'kvm', disk, options);
}

function runProbeGuest(
  binary: string,
  accelerator: Accelerator,
  disk: string,
  options: ProbeOptions,
): Promise<Trial> {
  const { clock, timers } = options;
  const startedMs = clock.monotonicMs();
  const delayMs = accelerator === 'kvm' ? limits.vmProbeMs : limits.vmProbeEmulatedMs;
  const child = spawn(binary, probeArguments(accelerator, disk), {
    stdio: ['ignore', 'ignore', 'pipe'],
    cwd: '/',
    env: { LC_ALL: 'C' },
  });
  let complaint = '';
  child.stderr.on('data', (chunk: Buffer) => {
    complaint = (complaint + chunk.toString()).slice(-2000);
  });
  return new Promise((settle) => {
    const resolve = (refused: string | null): void =>
      settle({ refused, tookMs: clock.monotonicMs() - startedMs });
    const timer = timers.after(delayMs, () => {
      child.kill('SIGKILL');
      resolve(`a guest with ${accelerator} did not run within ${delayMs} ms`);
    });
    child.on('error', (error) => {
      timer.cancel();
      resolve(error.message);
    });
    child.on('close', (status, signal) => {
      timer.cancel();
      const reason = complaint.trim() || `QEMU ended with ${signal ?? `status ${status}`}`;
      resolve(status === debugStatus ? null : reason);
    });
  });
}

function probeArguments(accelerator: Accelerator, disk: string): string[] {
  const json = (value: object): string => JSON.stringify(value);
  return [
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ...['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
    ...[
      '-machine',
      'q35',
      '-accel',
      accelerator,
      '-cpu',
      processors[accelerator],
      '-m',
      'size=32M',
      '-boot',
      'strict=on',
    ],
    '-blockdev',
    json({
      driver: 'raw',
      'node-name': 'disk0',
      'read-only': true,
      file: { driver: 'file', filename: disk },
    }),
    ...['-device', json({ driver: 'virtio-blk-pci', drive: 'disk0', bootindex: 1 })],
    ...['-device', json({ driver: 'isa-debug-exit', iobase: debugPort, iosize: 4 })],
  ];
}
