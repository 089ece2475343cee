/**
 * Devices of a running guest: plugged in, taken out, grown and shrunk.
 *
 * Invariants
 * - every step may be repeated: what is there already is not plugged in twice, what is gone is not taken out again. So the
 *   agent finishes after a crash what it had begun, without knowing how far it had come;
 * - a device is gone when the guest has let it go (DEVICE_DELETED), never when it was only asked to; what lies behind the
 *   device goes after that;
 * - a guest that does not answer costs a deadline, and leaves the device where it is.
 */
import { type Clock, DvceError, limits, MiB, sleep, type Timers } from '../base/index.ts';
import {
  cardBackend,
  cardBackendId,
  cardDevice,
  checkDisk,
  diskBlock,
  diskDevice,
  diskDeviceId,
  diskNode,
  isThrottled,
} from './arguments.ts';
import type { VmDefinition, VmDisk, VmHardware, VmNic } from './driver.ts';
import type { Guest } from './guest.ts';
import type { Surroundings } from './surroundings.ts';

export interface PlugWorld {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly vm: VmDefinition;
  readonly surroundings: Pick<Surroundings, 'attach' | 'detach'>;
}

const peripheral = '/machine/peripheral';

export async function plugDisk(guest: Guest, world: PlugWorld, disk: VmDisk): Promise<void> {
  checkDisk(disk);
  const ids = await deviceIds(guest);
  if (ids.includes(diskDeviceId(disk))) return;
  const bus = await freeBus(guest, ids, world);
  // What an attempt left that ended between the two steps.
  await ignoreMissing(guest.execute('blockdev-del', { 'node-name': diskNode(disk) }));
  const block = diskBlock(disk, isThrottled(world.vm));
  await guest.execute('blockdev-add', block, limits.vmDiskOpenMs + limits.qmpCommandMs);
  try {
    await guest.execute('device_add', diskDevice({ ...disk, bootOrder: null }, bus));
  } catch (error) {
    await ignoreMissing(guest.execute('blockdev-del', { 'node-name': diskNode(disk) }));
    throw error;
  }
}

export async function unplugDisk(
  guest: Guest,
  world: PlugWorld,
  disk: Pick<VmDisk, 'name'>,
): Promise<void> {
  await takeOut(guest, world, diskDeviceId(disk), `disk ${disk.name}`);
  const node = { 'node-name': diskNode(disk) };
  // The last requests may still be on their way for a moment.
  const endMs = world.clock.monotonicMs() + limits.vmUnplugAgainMs;
  for (;;)
    try {
      return await ignoreMissing(guest.execute('blockdev-del', node));
    } catch (error) {
      if (world.clock.monotonicMs() >= endMs) throw error;
      await sleep(world.timers, 100);
    }
}

export async function plugCard(guest: Guest, world: PlugWorld, card: VmNic): Promise<void> {
  const ids = await deviceIds(guest);
  if (ids.includes(card.name)) return;
  const bus = await freeBus(guest, ids, world);
  await ignoreMissing(guest.execute('netdev_del', { id: cardBackendId(card) }));
  await world.surroundings.attach(world.vm, card);
  try {
    await guest.execute('netdev_add', cardBackend(world.vm.id, card));
    await guest.execute('device_add', cardDevice(card, bus));
  } catch (error) {
    await ignoreMissing(guest.execute('netdev_del', { id: cardBackendId(card) }));
    await world.surroundings.detach(world.vm, card.name);
    throw error;
  }
}

export async function unplugCard(
  guest: Guest,
  world: PlugWorld,
  card: Pick<VmNic, 'name'>,
): Promise<void> {
  await takeOut(guest, world, card.name, `card ${card.name}`);
  await ignoreMissing(guest.execute('netdev_del', { id: cardBackendId(card) }));
  await world.surroundings.detach(world.vm, card.name);
}

/** What the guest has now. */
export async function hardwareOf(guest: Guest): Promise<VmHardware> {
  const ids = await deviceIds(guest);
  const cpus = await guest.execute('query-cpus-fast');
  const memory = await guest.execute('query-memory-size-summary');
  const balloon = await guest.execute('query-balloon');
  const ofDisk = diskDeviceId({ name: '' });
  return {
    cpus: cpus.length,
    memoryBytes: balloon.actual,
    memoryBytesMax: memory['base-memory'],
    disks: ids.filter((id) => id.startsWith(ofDisk)).map((id) => id.slice(ofDisk.length)),
    cards: ids.filter((id) => /^card\d+$/.test(id)),
  };
}

/** More processors for a running guest; it never gets fewer. */
export async function growCpus(guest: Guest, world: PlugWorld, count: number): Promise<void> {
  const slots = await guest.execute('query-hotpluggable-cpus');
  const present = slots.filter((slot) => 'qom-path' in slot).length;
  if (count < present)
    throw impossible(world, `${count} processors: it has ${present} and can only be given more`);
  if (count > slots.length)
    throw impossible(world, `${count} processors: it was started with room for ${slots.length}`);
  // They are listed from the last to the first; guests expect them in order.
  const free = slots.filter((slot) => !('qom-path' in slot)).reverse();
  for (const { type, props } of free.slice(0, count - present))
    await guest.execute('device_add', {
      driver: type,
      id: `cpu${Object.values(props).join('-')}`,
      ...props,
    });
  // Most guests use them by themselves; for the others their agent is asked, if there is one.
  if (await guest.agent.ping(limits.vmAgentQuickMs)) await guest.agent.useCpus(count - present);
}

/** Take memory back from a running guest, or give it again, up to what it was started with. */
export async function setMemory(guest: Guest, world: PlugWorld, bytes: number): Promise<void> {
  const { 'base-memory': base } = await guest.execute('query-memory-size-summary');
  if (bytes > base)
    throw impossible(world, `${bytes / MiB} MiB of memory: it was started with ${base / MiB} MiB`);
  const { actual: before } = await guest.execute('query-balloon');
  const endMs = world.clock.monotonicMs() + limits.vmBalloonMs;
  await guest.execute('balloon', { value: bytes });
  for (;;) {
    const { actual } = await guest.execute('query-balloon');
    if (actual === bytes) return;
    if (world.clock.monotonicMs() >= endMs) break;
    await sleep(world.timers, 100);
  }
  await guest.execute('balloon', { value: before });
  throw new DvceError('TIMED_OUT', {
    what: `the guest of VM ${world.vm.name} giving memory back (it needs the driver virtio_balloon)`,
    ms: limits.vmBalloonMs,
  });
}

async function takeOut(guest: Guest, world: PlugWorld, id: string, what: string): Promise<void> {
  const { clock, timers, vm } = world;
  const endMs = clock.monotonicMs() + limits.vmUnplugMs;
  const gone = Promise.withResolvers<boolean>();
  const silence = guest.listen(({ event, data }) => {
    if (event === 'DEVICE_DELETED' && data['device'] === id) gone.resolve(true);
  });
  try {
    while ((await deviceIds(guest)).includes(id)) {
      if (clock.monotonicMs() >= endMs)
        throw new DvceError('TIMED_OUT', {
          what: `the guest of VM ${vm.name} letting ${what} go`,
          ms: limits.vmUnplugMs,
        });
      // A guest that still boots misses the request; one that has it already refuses a second.
      await guest.execute('device_del', { id }).catch(onlyKnown);
      const waitMs = Math.min(limits.vmUnplugAgainMs, Math.max(1, endMs - clock.monotonicMs()));
      await Promise.race([gone.promise, sleep(timers, waitMs)]);
    }
  } finally {
    silence();
  }
}

const onlyKnown = (error: unknown): void => {
  if (!(error instanceof DvceError && error.code === 'HYPERVISOR_FAILED')) throw error;
};

async function deviceIds(guest: Guest): Promise<string[]> {
  const children = await guest.execute('qom-list', { path: peripheral });
  return children.filter(({ type }) => type.startsWith('child<')).map(({ name }) => name);
}

/** A root port that nothing sits behind; null on a machine with one bus for all. */
async function freeBus(
  guest: Guest,
  ids: readonly string[],
  world: PlugWorld,
): Promise<string | null> {
  const ports = ids.filter((id) => /^port\d+$/.test(id));
  if (ports.length === 0) return null;
  for (const port of ports) {
    const bus = await guest.execute('qom-list', { path: `${peripheral}/${port}/${port}` });
    if (!bus.some(({ name }) => name.startsWith('child['))) return port;
  }
  throw impossible(world, 'another device: all its slots are taken until its next start');
}

/** Removing what is not there is done. */
async function ignoreMissing(work: Promise<object>): Promise<void> {
  try {
    await work;
  } catch (error) {
    const isMissing =
      error instanceof DvceError && /not found|Failed to find|not find/i.test(error.message);
    if (!isMissing) throw error;
  }
}

const impossible = (world: PlugWorld, reason: string): DvceError =>
  new DvceError('VM_STATE', {
    name: world.vm.name,
    state: 'running',
    reason: `it cannot get ${reason}`,
    advice: 'Stop it first, or pass --at-next-start.',
  });
