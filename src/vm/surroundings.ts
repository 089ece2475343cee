/**
 * What a guest's process needs on the host beside its disks: the seed disk, the password of its display, tap devices, a group
 * with its share. Made before the process, removed after it.
 *
 * Invariants
 * - all of it exists only while the guest's run directory does: that is made before and removed after, so that whoever finds
 *   a run directory without a process, after a crash at any moment, clears up completely;
 * - `clear` may be called at any time and any number of times for a guest without a process;
 * - seed and password are files of mode 0600 in a directory of mode 0700, and nowhere else.
 */
import { rm, writeFile } from 'node:fs/promises';
import type { Random } from '../base/index.ts';
import type { GuestPaths } from './arguments.ts';
import { type Cgroups, enteringGroup, needsCgroup } from './cgroup.ts';
import type { VmDefinition, VmNic } from './driver.ts';
import { type HostCommand, hostCommand } from './host-command.ts';
import { isoImage } from './iso9660.ts';
import { makeTap, removeTap, removeTaps } from './taps.ts';

export interface SurroundingsOptions {
  readonly cgroups: Cgroups;
  readonly random: Random;
  readonly run?: HostCommand;
}

const passwordLetters = 'ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz23456789';
/** VNC takes no more. */
const passwordCharacters = 8;

export class Surroundings {
  readonly #options: SurroundingsOptions;
  readonly #run: HostCommand;

  constructor(options: SurroundingsOptions) {
    this.#options = options;
    this.#run = options.run ?? hostCommand;
  }

  /** In an empty run directory. @returns what to put before the command line of the hypervisor */
  async prepare(vm: VmDefinition, paths: GuestPaths): Promise<readonly string[]> {
    if (vm.seed !== undefined) await writeSecret(paths.seed, seedImage(vm.seed));
    if (vm.vnc === true) await writeSecret(paths.vncPassword, Buffer.from(this.#password()));
    for (const nic of vm.nics) await this.attach(vm, nic);
    const { resources } = vm;
    if (resources === undefined || !needsCgroup(resources)) return [];
    return enteringGroup(await this.#options.cgroups.make(vm.id, resources));
  }

  /** The host's end of one card, before it is plugged in. */
  async attach(vm: VmDefinition, nic: VmNic): Promise<void> {
    if (nic.kind === 'bridge') await makeTap(this.#run, vm.id, nic);
  }

  /** After it was pulled out. */
  async detach(vm: VmDefinition, nic: string): Promise<void> {
    await removeTap(this.#run, vm.id, nic);
  }

  /** Remove everything, the run directory last. */
  async clear(vm: Pick<VmDefinition, 'id'>, paths: GuestPaths): Promise<void> {
    await removeTaps(this.#run, vm.id);
    await this.#options.cgroups.remove(vm.id);
    await rm(paths.run, { recursive: true, force: true });
  }

  #password(): string {
    const { random } = this.#options;
    const letter = (): string => passwordLetters[random.below(passwordLetters.length)] ?? '';
    return Array.from({ length: passwordCharacters }, letter).join('');
  }
}

const seedImage = (seed: NonNullable<VmDefinition['seed']>): Buffer =>
  isoImage('cidata', [
    { name: 'meta-data', content: Buffer.from(seed.metaData) },
    { name: 'user-data', content: Buffer.from(seed.userData) },
    { name: 'network-config', content: Buffer.from(seed.networkConfig) },
  ]);

const writeSecret = (path: string, content: Buffer): Promise<void> =>
  writeFile(path, content, { mode: 0o600, flag: 'wx' });
