/**
 * The driver `qemu`: guests as QEMU processes of this host.
 *
 * Invariants:
 *   - a guest's process has a session of its own and outlives this one; it is found again by its command line;
 *   - at most one process per VM: a start looks for a running one first, and calls for one VM run one after another;
 *   - what is kept about a VM is its run directory (sockets, empty when it does not run) and its log directory.
 */
import { existsSync } from 'node:fs';
import { chmod, mkdir, readdir, rm } from 'node:fs/promises';
import {
  type Clock,
  checkName,
  DvceError,
  type Logger,
  type Random,
  systemCode,
  type Timers,
} from '../base/index.ts';
import { type ProbeResult, probeAccelerator } from './accelerator.ts';
import { buildArguments, controlArgument, type GuestPaths, guestPaths } from './arguments.ts';
import { Cgroups } from './cgroup.ts';
import { compilePattern, startConsoleLog } from './console-log.ts';
import type { Hypervisor, RunningGuest, VmDefinition, VmObservation } from './driver.ts';
import { Guest } from './guest.ts';
import { endFromLog, noteEnd } from './hypervisor-log.ts';
import { versionOfMachine } from './machine.ts';
import { findByArgument, identify, killProcess, spawnDetached } from './processes.ts';
import { runningGuest } from './running-guest.ts';
import { Surroundings } from './surroundings.ts';

export interface QemuDriverOptions {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly logger: Logger;
  /** Sockets of running guests, one directory a VM; keep the path short. */
  readonly runDirectory: string;
  /** Console and hypervisor logs, one directory a VM. */
  readonly logDirectory: string;
  /** The group that guests with a share get their groups in. */
  readonly cgroupParent?: string | undefined;
  /** QEMU's program, looked for in the usual directories unless it is a path; `qemu-system-x86_64`. */
  readonly binary?: string;
}

const stopped: VmObservation = { phase: 'stopped', pid: null, ready: null, detail: null };

export function createQemuDriver(options: QemuDriverOptions): Hypervisor {
  return new QemuDriver(options);
}

class QemuDriver implements Hypervisor {
  readonly name = 'qemu';
  readonly #options: QemuDriverOptions;
  readonly #guests = new Map<string, Guest>();
  /** How guests that were watched ended; one entry a VM, dropped by the next start and by `forget`. */
  readonly #ends = new Map<string, VmObservation>();
  readonly #queues = new Map<string, Promise<unknown>>();
  readonly #listeners: ((vmId: string, observation: VmObservation) => void)[] = [];
  readonly #surroundings: Surroundings;
  #probe: Promise<ProbeResult> | undefined;

  constructor(options: QemuDriverOptions) {
    this.#options = options;
    const { timers, random, cgroupParent } = options;
    const cgroups = new Cgroups({ timers, parent: cgroupParent });
    this.#surroundings = new Surroundings({ cgroups, random });
  }

  start(vm: VmDefinition, signal: AbortSignal): Promise<void> {
    return this.#inTurn(vm, () => this.#start(vm, signal));
  }

  async powerDown(vm: VmDefinition): Promise<void> {
    const guest = await this.#inTurn(vm, () => this.#find(vm));
    if (guest === undefined) throw notRunning(vm);
    await guest.powerDown();
  }

  kill(vm: VmDefinition): Promise<void> {
    return this.#inTurn(vm, async () => {
      const guest = this.#guests.get(vm.id);
      if (guest !== undefined) return guest.kill();
      const { clock, timers } = this.#options;
      const paths = this.#paths(vm);
      const identity = await findByArgument(controlArgument(paths));
      if (identity === undefined) return;
      await noteEnd(paths.hypervisorLog);
      await killProcess(identity, vm.name, clock, timers);
    });
  }

  async guest(vm: VmDefinition): Promise<RunningGuest> {
    const { clock, timers } = this.#options;
    const surroundings = this.#surroundings;
    return runningGuest(await this.#running(vm), { clock, timers, vm, surroundings });
  }

  async freeze(vm: VmDefinition, deadlineMs: number): Promise<void> {
    await (await this.#running(vm)).freezing.freeze(deadlineMs);
  }

  async thaw(vm: VmDefinition, deadlineMs: number): Promise<void> {
    await (await this.#running(vm)).freezing.thaw(deadlineMs);
  }

  async machineVersion(machine: string): Promise<string> {
    const { binary } = await this.#probed();
    if (binary === null) return machine;
    return versionOfMachine(binary, machine);
  }

  async #running(vm: VmDefinition): Promise<Guest> {
    const guest = this.#guests.get(vm.id) ?? (await this.#inTurn(vm, () => this.#find(vm)));
    if (guest === undefined) throw notRunning(vm);
    return guest;
  }

  async inspect(vm: VmDefinition): Promise<VmObservation> {
    const watched = this.#guests.get(vm.id);
    if (watched !== undefined) return watched.observation;
    // Nobody else starts it, so one whose end is known needs no search: a list asks for hundreds of them.
    const end = this.#ends.get(vm.id);
    if (end !== undefined && !this.#queues.has(vm.id)) return end;
    const guest = await this.#inTurn(vm, () => this.#find(vm));
    return guest?.observation ?? this.#ends.get(vm.id) ?? (await this.#endBefore(vm)) ?? stopped;
  }

  /** How it ended while nobody watched; looked up once. */
  async #endBefore(vm: VmDefinition): Promise<VmObservation | undefined> {
    const { hypervisorLog } = this.#paths(vm);
    const wasStarted = existsSync(hypervisorLog);
    const end = (await endFromLog(hypervisorLog, wasStarted)) ?? stopped;
    // A start that began meanwhile knows better.
    if (!this.#guests.has(vm.id) && !this.#queues.has(vm.id)) this.#ends.set(vm.id, end);
    return end;
  }

  async runningIds(): Promise<readonly string[]> {
    const ids: string[] = [];
    for (const id of (await listOrNone(this.#options.runDirectory)) ?? []) {
      const paths = guestPaths(this.#options.runDirectory, this.#options.logDirectory, id);
      if ((await findByArgument(controlArgument(paths))) !== undefined) ids.push(id);
    }
    return ids;
  }

  async adopt(vm: VmDefinition): Promise<boolean> {
    return (await this.#inTurn(vm, () => this.#find(vm))) !== undefined;
  }

  onChange(listener: (vmId: string, observation: VmObservation) => void): void {
    this.#listeners.push(listener);
  }

  consoleSocket(vm: VmDefinition): string {
    return this.#paths(vm).console;
  }

  consoleLog(vm: VmDefinition): string {
    return this.#paths(vm).consoleLog;
  }

  forget(vm: VmDefinition): Promise<void> {
    return this.#inTurn(vm, async () => {
      if ((await this.#find(vm)) !== undefined) throw runs(vm, 'Stop it first.');
      const paths = this.#paths(vm);
      await this.#surroundings.clear(vm, paths);
      await rm(paths.log, { recursive: true, force: true });
      this.#ends.delete(vm.id);
    });
  }

  async probe(): Promise<readonly DvceError[]> {
    return (await this.#probed()).problems;
  }

  async kvmRefused(): Promise<string | null> {
    return (await this.#probed()).kvmRefused;
  }

  async close(): Promise<void> {
    await Promise.allSettled(this.#queues.values());
    for (const guest of this.#guests.values()) guest.close();
    this.#guests.clear();
    this.#listeners.length = 0;
  }

  async #start(vm: VmDefinition, signal: AbortSignal): Promise<void> {
    const paths = this.#paths(vm);
    if (vm.readyPattern !== null) compilePattern(vm.readyPattern);
    const { binary, accelerator, problems } = await this.#probed();
    const problem = problems[0];
    if (problem !== undefined) throw problem;
    if (binary === null || accelerator === null)
      throw new DvceError('INTERNAL', { reason: 'a probe without accelerator and problem' });
    const args = buildArguments(vm, accelerator, paths);
    if ((await this.#find(vm)) !== undefined) throw runs(vm, 'Look at it: dvce vm show.');
    signal.throwIfAborted();
    await prepare(paths);
    this.#ends.delete(vm.id);
    const guest = await this.#spawn(vm, paths, [
      ...(await this.#surround(vm, paths)),
      binary,
      ...args,
    ]);
    try {
      await guest.begin(signal);
    } catch (error) {
      await guest.kill();
      this.#ends.delete(vm.id); // the caller learns of the failure here, and the VM never ran
      throw error;
    }
    this.#options.logger.info(
      { vm: vm.id, pid: guest.identity.pid, accelerator },
      'a guest was started',
    );
  }

  /** @returns what to put before the command line */
  async #surround(vm: VmDefinition, paths: GuestPaths): Promise<readonly string[]> {
    try {
      return await this.#surroundings.prepare(vm, paths);
    } catch (error) {
      await this.#surroundings.clear(vm, paths);
      throw error;
    }
  }

  async #spawn(
    vm: VmDefinition,
    paths: GuestPaths,
    [program = '', ...args]: readonly string[],
  ): Promise<Guest> {
    const child = spawnDetached(program, args, paths.hypervisorLog);
    const failed = new Promise<never>((_, reject) => {
      child.once('error', (error) => {
        const reason = error.message;
        reject(new DvceError('HYPERVISOR_FAILED', { name: vm.name, reason }, error));
      });
    });
    failed.catch(() => {}); // awaited below; later there is nobody left to tell
    const identity = child.pid === undefined ? await failed : await identify(child.pid);
    // A process that ended at once leaves no start time; 0 stands for one that is never alive.
    return this.#watch(vm, paths, identity ?? { pid: child.pid ?? 0, startTicks: 0 }, child);
  }

  /** The running guest of a VM, watched from now on, or undefined. */
  async #find(vm: VmDefinition): Promise<Guest | undefined> {
    const known = this.#guests.get(vm.id);
    if (known !== undefined) return known;
    const paths = this.#paths(vm);
    if (!(await mayRun(paths))) return undefined;
    const identity = await findByArgument(controlArgument(paths));
    if (identity === undefined) {
      await this.#surroundings.clear(vm, paths);
      return undefined;
    }
    const guest = this.#watch(vm, paths, identity, undefined);
    try {
      await guest.begin(new AbortController().signal);
    } catch (error) {
      this.#guests.delete(vm.id);
      guest.close();
      throw error;
    }
    this.#options.logger.info({ vm: vm.id, pid: identity.pid }, 'a running guest was found');
    return guest;
  }

  #watch(
    vm: VmDefinition,
    paths: GuestPaths,
    identity: Guest['identity'],
    child: ReturnType<typeof spawnDetached> | undefined,
  ): Guest {
    const { clock, timers, random, logger } = this.#options;
    const guest = new Guest({
      vm,
      identity,
      paths,
      clock,
      timers,
      random,
      logger,
      child,
      onChange: (observation) => this.#tell(vm.id, observation),
      onEnd: (last) => {
        if (this.#guests.get(vm.id) === guest) this.#guests.delete(vm.id);
        this.#ends.set(vm.id, last);
        this.#tidy(vm, paths);
      },
    });
    this.#guests.set(vm.id, guest);
    return guest;
  }

  /** What a guest that ended needed on the host goes, and its sockets, which would only cost a search for its process. */
  #tidy(vm: VmDefinition, paths: GuestPaths): void {
    const { logger } = this.#options;
    this.#inTurn(vm, async () => {
      if (!this.#guests.has(vm.id)) await this.#surroundings.clear(vm, paths);
    }).catch((error: unknown) => {
      logger.warn({ vm: vm.id, error }, 'the run directory of a guest could not be removed');
    });
  }

  #tell(vmId: string, observation: VmObservation): void {
    for (const listener of this.#listeners) listener(vmId, observation);
  }

  #paths(vm: VmDefinition): GuestPaths {
    const { runDirectory, logDirectory } = this.#options;
    return guestPaths(runDirectory, logDirectory, checkName(vm.id));
  }

  /** Once per driver: what a host can run does not change under it. A failed probe is tried again by the next caller. */
  #probed(): Promise<ProbeResult> {
    const { clock, timers, random, runDirectory, binary, logger } = this.#options;
    this.#probe ??= probeAccelerator({
      clock,
      timers,
      random,
      directory: runDirectory,
      ...(binary === undefined ? {} : { binary }),
    }).then(
      (result) => {
        if (result.accelerator === null) this.#probe = undefined;
        const { accelerator, kvmRefused } = result;
        logger.info({ accelerator, kvmRefused }, 'the accelerator was probed');
        return result;
      },
      (error: unknown) => {
        this.#probe = undefined;
        throw error;
      },
    );
    return this.#probe;
  }

  /** Calls for one VM run one after another; a failed one does not stop the next. */
  #inTurn<T>(vm: VmDefinition, task: () => Promise<T>): Promise<T> {
    const before = this.#queues.get(vm.id) ?? Promise.resolve();
    const mine = before.then(task, task);
    const settled = mine
      .catch(() => {}) // the caller has it
      .finally(() => {
        if (this.#queues.get(vm.id) === settled) this.#queues.delete(vm.id);
      });
    this.#queues.set(vm.id, settled);
    return mine;
  }
}

/** Directories for a start; what an earlier run left in the run directory goes. */
async function prepare(paths: GuestPaths): Promise<void> {
  await rm(paths.run, { recursive: true, force: true });
  await mkdir(paths.run, { recursive: true });
  await mkdir(paths.log, { recursive: true });
  // The sockets give control of the guest.
  await chmod(paths.run, 0o700);
  await chmod(paths.log, 0o700);
  await startConsoleLog(paths.consoleLog);
}

/** Whether a run directory exists; without one no process needs to be looked for. */
async function mayRun(paths: GuestPaths): Promise<boolean> {
  return (await listOrNone(paths.run)) !== undefined;
}

async function listOrNone(directory: string): Promise<string[] | undefined> {
  try {
    return await readdir(directory);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

function notRunning(vm: VmDefinition): DvceError {
  return new DvceError('VM_STATE', {
    name: vm.name,
    state: 'stopped',
    reason: 'it does not run',
    advice: 'Start it first.',
  });
}

function runs(vm: VmDefinition, advice: string): DvceError {
  return new DvceError('VM_STATE', {
    name: vm.name,
    state: 'running',
    reason: 'its process exists',
    advice,
  });
}
