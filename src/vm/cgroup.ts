/**
 * A share of the host for a guest, by cgroup v2.
 *
 *   MOUNT/dvce                 the parent; cpu.weight and memory.min are the sums of what is below, because a share counts
 *                              among the siblings of its parent first
 *   MOUNT/dvce/vm-<id>         one guest: cpu.weight, cpu.max, memory.min, memory.max; exists while its run directory does
 *
 * Invariants
 * - a guest is in its group before it runs: the process enters it, then becomes the hypervisor. A group it cannot enter is a
 *   start that fails, never a guest without its limits;
 * - what cannot be kept on this host is refused (`refusal`), never left out silently;
 * - a group is known by the id of its VM, so a crash leaves nothing that is not found again.
 *
 * The parent is not the agent's own group by default: below a group that has groups with controllers no process may live
 * (rule "no internal processes"), so systemd could not start the agent again while guests run. A group that something else
 * delegates to dvce is given by the setting vm.cgroup.
 *
 * Limits of disks are not here. A guest's I/O is done by blockd, which serves all guests; io.max of the hypervisor's process
 * would limit nothing. They are limits of the virtual disks (arguments.ts).
 */
import { mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { DvceError, limits, sleep, systemCode, systemTimers, type Timers } from '../base/index.ts';
import type { VmShare } from './driver.ts';

export interface CgroupFiles {
  read(path: string): Promise<string>;
  write(path: string, text: string): Promise<void>;
  list(path: string): Promise<string[]>;
  makeDirectory(path: string): Promise<void>;
  removeDirectory(path: string): Promise<void>;
}

const kernelFiles: CgroupFiles = {
  read: (path) => readFile(path, 'utf8'),
  write: (path, text) => writeFile(path, text),
  list: async (path) =>
    (await readdir(path, { withFileTypes: true }))
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => name),
  makeDirectory: async (path) => {
    await mkdir(path, { recursive: true });
  },
  removeDirectory: (path) => rmdir(path),
};

export interface CgroupOptions {
  readonly timers: Timers;
  /** The group that guests' groups are made in; `dvce` of the mounted cgroup v2 when not given. */
  readonly parent?: string | undefined;
  /** For tests: where cgroup v2 is mounted, and its files. */
  readonly mount?: string;
  readonly files?: CgroupFiles;
}

const controllers = ['cpu', 'memory'] as const;
const periodUs = 100_000;
const weightUsual = 100;
const weightMax = 10_000;
/** A VM with a minimum weighs this much for each hundredth of a processor, so that those without one hardly matter. */
const weightPerPercent = 10;

/** Whether a share needs a group at all. */
export const needsCgroup = (share: VmShare | undefined): boolean =>
  share !== undefined &&
  [
    share.cpuMinPercent,
    share.cpuMaxPercent,
    share.cpuWeight,
    share.memoryMinBytes,
    share.memoryMaxBytes,
  ].some((value) => value !== undefined);

export function weightOf({ cpuWeight, cpuMinPercent = 0 }: VmShare): number {
  const needed = Math.min(weightMax, cpuMinPercent * weightPerPercent);
  return Math.max(cpuWeight ?? (needed > 0 ? 1 : weightUsual), needed);
}

export class Cgroups {
  readonly #options: CgroupOptions;
  readonly #files: CgroupFiles;
  /** The sums of the parent are brought up to date one change after another. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: CgroupOptions) {
    this.#options = options;
    this.#files = options.files ?? kernelFiles;
  }

  /** Why shares cannot be kept on this host; null when they can. */
  async refusal(): Promise<string | null> {
    const mount = await this.#mount();
    if (mount === undefined) return 'cgroup v2 is not mounted';
    const offered = words(await this.#read(`${mount}/cgroup.controllers`));
    const missing = controllers.filter((name) => !offered.includes(name));
    if (missing.length > 0)
      return `cgroup v2 at ${mount} lacks ${missing.join(' and ')}, which cgroup v1 has taken`;
    const parent = this.#parent(mount);
    if (!parent.startsWith(`${mount}/`) || parent.split('/').includes('..'))
      return `the group ${parent} does not lie below ${mount}`;
    return null;
  }

  /** Make the group of a guest. @returns its path; @throws HOST_UNPREPARED */
  async make(vmId: string, share: VmShare): Promise<string> {
    const reason = await this.refusal();
    const mount = await this.#mount();
    if (reason !== null || mount === undefined)
      throw new DvceError('HOST_UNPREPARED', {
        what: 'a guaranteed or limited share of processors or memory',
        reason: reason ?? 'cgroup v2 is not mounted',
        advice: cgroupAdvice,
      });
    await this.#makeParent(mount);
    const group = `${this.#parent(mount)}/vm-${vmId}`;
    await this.#files.makeDirectory(group);
    await this.#files.write(`${group}/cpu.weight`, `${weightOf(share)}`);
    const { cpuMaxPercent, memoryMinBytes = 0, memoryMaxBytes } = share;
    const quota = cpuMaxPercent === undefined ? 'max' : `${(cpuMaxPercent * periodUs) / 100}`;
    await this.#files.write(`${group}/cpu.max`, `${quota} ${periodUs}`);
    await this.#files.write(`${group}/memory.min`, `${memoryMinBytes}`);
    await this.#files.write(`${group}/memory.max`, `${memoryMaxBytes ?? 'max'}`);
    await this.#addUp(mount);
    return group;
  }

  /** Remove the group of a guest that is gone; does nothing when there is none. */
  async remove(vmId: string): Promise<void> {
    const mount = await this.#mount();
    if (mount === undefined) return;
    const group = `${this.#parent(mount)}/vm-${vmId}`;
    // The kernel lets go of the last process a moment after it is gone.
    for (let leftMs = limits.vmKillMs; ; leftMs -= removePollMs) {
      try {
        await this.#files.removeDirectory(group);
        break;
      } catch (error) {
        if (systemCode(error) === 'ENOENT') return;
        if (systemCode(error) !== 'EBUSY' || leftMs <= 0) throw error;
      }
      await sleep(this.#options.timers, removePollMs);
    }
    await this.#addUp(mount);
  }

  async #mount(): Promise<string | undefined> {
    if (this.#options.mount !== undefined) return this.#options.mount;
    const mounts = await readFile('/proc/self/mounts', 'utf8');
    return /^\S+ (\S+) cgroup2 /m.exec(mounts)?.[1];
  }

  #parent(mount: string): string {
    return this.#options.parent ?? `${mount}/dvce`;
  }

  /** The parent, with the controllers handed down to it from the mount. */
  async #makeParent(mount: string): Promise<void> {
    const parent = this.#parent(mount);
    await this.#files.makeDirectory(parent);
    const above: string[] = [];
    for (let at = parent; at.length >= mount.length; at = dirname(at)) above.unshift(at);
    for (const group of above) await this.#handDown(group);
  }

  async #handDown(group: string): Promise<void> {
    const control = `${group}/cgroup.subtree_control`;
    const have = words(await this.#read(control));
    const missing = controllers.filter((name) => !have.includes(name));
    if (missing.length === 0) return;
    const wanted = missing.map((name) => `+${name}`).join(' ');
    try {
      await this.#files.write(control, wanted);
    } catch (error) {
      if (systemCode(error) !== 'EBUSY') throw error;
      // Only a group without processes hands controllers down: those of a delegated group move one level deeper.
      await this.#emptyOf(group);
      await this.#files.write(control, wanted);
    }
  }

  async #emptyOf(group: string): Promise<void> {
    await this.#files.makeDirectory(`${group}/host`);
    for (const pid of words(await this.#read(`${group}/cgroup.procs`)))
      await this.#files.write(`${group}/host/cgroup.procs`, pid);
  }

  /** A share is kept only as far as the parent has it. */
  #addUp(mount: string): Promise<void> {
    const task = this.#turn.then(async () => {
      const parent = this.#parent(mount);
      let memory = 0n;
      let weight = 0;
      for (const name of await this.#files.list(parent)) {
        if (!name.startsWith('vm-')) continue;
        const min = (await this.#read(`${parent}/${name}/memory.min`)).trim();
        memory += /^\d+$/.test(min) ? BigInt(min) : 0n;
        weight += Number((await this.#read(`${parent}/${name}/cpu.weight`)).trim() || 0);
      }
      await this.#files.write(`${parent}/memory.min`, `${memory}`);
      const sum = Math.min(weightMax, Math.max(weightUsual, weight));
      await this.#files.write(`${parent}/cpu.weight`, `${sum}`);
    });
    this.#turn = task.catch(() => {}); // the caller has it
    return task;
  }

  /** A group that is being removed meanwhile has nothing to say. */
  async #read(path: string): Promise<string> {
    try {
      return await this.#files.read(path);
    } catch (error) {
      if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENODEV') return '';
      throw error;
    }
  }
}

/** Why this host keeps no shares; null when it does. Touches nothing. */
export async function sharesRefused(): Promise<string | null> {
  const reason = await new Cgroups({ timers: systemTimers }).refusal();
  if (reason !== null) return reason;
  return process.geteuid?.() === 0 ? null : 'the agent does not run as root';
}

const removePollMs = 20;
const words = (text: string): string[] => text.split(/\s+/).filter((word) => word !== '');

export const cgroupAdvice =
  'Boot the host with cgroup_no_v1=all systemd.unified_cgroup_hierarchy=1 and run the agent as root, or leave the limits out.';

/**
 * A command line that enters the group and then becomes the given program; the process stays the same one. The script is
 * constant: group and program are its arguments.
 */
export const enteringGroup = (group: string): readonly string[] => [
  '/bin/sh',
  '-c',
  'echo $$ > "$0" && exec "$@"',
  `${group}/cgroup.procs`,
];
