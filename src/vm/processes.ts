/**
 * Processes of this host, told apart for certain: a process is a pid *and* the time it started, so that a pid which the
 * system has given to another process meanwhile is never taken for the guest, let alone killed.
 *
 * A guest is recognised after a restart of the agent by its control socket's path in its own command line. No file
 * records it, so none can be missing, stale, or written too late.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, constants, openSync, rmSync } from 'node:fs';
import { access, readdir, readFile } from 'node:fs/promises';
import { type Clock, DvceError, limits, sleep, systemCode, type Timers } from '../base/index.ts';

export interface ProcessIdentity {
  readonly pid: number;
  /** Field `starttime` of /proc/PID/stat: ticks of 10 ms since the host booted. */
  readonly startTicks: number;
}

const ticksPerSecond = 100; // USER_HZ, the same on every Linux

/** @returns undefined when there is no such process, or only its remains that nobody has collected */
export async function identify(pid: number): Promise<ProcessIdentity | undefined> {
  const text = await readProcFile(`/proc/${pid}/stat`);
  // The name in parentheses may contain anything, so the fields are counted from the last one.
  const fields = text?.slice(text.lastIndexOf(')') + 2).split(' ');
  const state = fields?.[0];
  const startTicks = Number(fields?.[19]);
  if (state === undefined || state === 'Z' || state === 'X' || !Number.isFinite(startTicks))
    return undefined;
  return { pid, startTicks };
}

export async function isAlive(identity: ProcessIdentity): Promise<boolean> {
  const now = await identify(identity.pid);
  return now?.startTicks === identity.startTicks;
}

/** Milliseconds since the process started. */
export async function ageMs(identity: ProcessIdentity): Promise<number> {
  const uptime = Number.parseFloat((await readProcFile('/proc/uptime')) ?? '');
  if (!Number.isFinite(uptime)) return 0;
  return Math.max(0, (uptime - identity.startTicks / ticksPerSecond) * 1000);
}

/** The process that has exactly this argument, or undefined. */
export async function findByArgument(argument: string): Promise<ProcessIdentity | undefined> {
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const text = await readProcFile(`/proc/${name}/cmdline`);
    if (!text?.split('\0').includes(argument)) continue;
    const identity = await identify(Number(name));
    if (identity !== undefined) return identity;
  }
  return undefined;
}

/** Kill for certain; resolves when it is gone, throws HYPERVISOR_FAILED when it does not go. */
export async function killProcess(
  identity: ProcessIdentity,
  vm: string,
  clock: Clock,
  timers: Timers,
): Promise<void> {
  if (await isAlive(identity)) signal(identity.pid, 'SIGKILL');
  if (await waitGone(identity, limits.vmKillMs, clock, timers)) return;
  throw new DvceError('HYPERVISOR_FAILED', {
    name: vm,
    reason: `process ${identity.pid} does not end although it was killed`,
  });
}

/** @returns whether the process was gone within `delayMs` */
export async function waitGone(
  identity: ProcessIdentity,
  delayMs: number,
  clock: Clock,
  timers: Timers,
): Promise<boolean> {
  const end = clock.monotonicMs() + delayMs;
  while (await isAlive(identity)) {
    if (clock.monotonicMs() >= end) return false;
    await sleep(timers, 20);
  }
  return true;
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if (systemCode(error) !== 'ESRCH') throw error; // gone already is what was wanted
  }
}

/**
 * Start a program in a session of its own: it neither ends nor gets signals with this process. Its output goes to the end of
 * `outputPath`, which is emptied first and may get lines of others.
 */
export function spawnDetached(
  binary: string,
  args: readonly string[],
  outputPath: string,
): ChildProcess {
  rmSync(outputPath, { force: true });
  const output = openSync(outputPath, 'a', 0o600);
  try {
    const child = spawn(binary, args, {
      detached: true,
      stdio: ['ignore', output, output],
      cwd: '/',
      env: { PATH: searchPath.join(':'), LC_ALL: 'C' },
    });
    child.unref();
    return child;
  } finally {
    closeSync(output);
  }
}

const searchPath = ['/usr/local/bin', '/usr/bin', '/bin', '/usr/local/sbin', '/usr/sbin', '/sbin'];

/** Full path of a program, or undefined. A name with a slash is taken as it is. */
export async function findProgram(name: string): Promise<string | undefined> {
  const candidates = name.includes('/') ? [name] : searchPath.map((path) => `${path}/${name}`);
  for (const candidate of candidates) if (await isExecutable(candidate)) return candidate;
  return undefined;
}

async function isExecutable(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return true;
  } catch {
    return false; // any reason means that it cannot be run
  }
}

/** Whether this process may read and write the device. */
export async function isUsableDevice(path: string): Promise<boolean> {
  try {
    await access(path, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false; // any reason means that it cannot be used
  }
}

/** A process may end while its files are read; then there is nothing to read. */
async function readProcFile(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    const code = systemCode(error);
    if (code === 'ENOENT' || code === 'ESRCH' || code === 'EACCES' || code === 'EPERM')
      return undefined;
    throw error;
  }
}
