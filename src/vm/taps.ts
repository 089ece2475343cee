/**
 * Tap devices: the host's end of a card that is a port of a bridge.
 *
 * Invariants
 * - the name of a tap device follows from the VM and the card. Nothing records it, so nothing can be stale: after a restart of
 *   the agent, or a crash between any two steps, it is found by its name;
 * - the devices of a VM exist only while its run directory does (surroundings.ts): it is made before them and removed after;
 * - this process makes the device and plugs it into the bridge, so the hypervisor needs no right to do either.
 */
import { createHash } from 'node:crypto';
import { access, constants, readdir, readFile } from 'node:fs/promises';
import { DvceError, systemCode } from '../base/index.ts';
import type { VmNic } from './driver.ts';
import type { HostCommand } from './host-command.ts';

const hash = (text: string, length: number): string =>
  createHash('sha256').update(text).digest('hex').slice(0, length);

const prefixOf = (vmId: string): string => `dv${hash(vmId, 8)}`;

/** A name of an interface has at most 15 characters. */
export const tapName = (vmId: string, nic: string): string => `${prefixOf(vmId)}${hash(nic, 4)}`;

const interfaces = '/sys/class/net';

/** Make the device of a card and plug it in; one that a crash left is made anew. */
export async function makeTap(run: HostCommand, vmId: string, nic: VmNic): Promise<void> {
  const { bridge } = nic;
  if (bridge === undefined) return;
  await checkBridge(bridge);
  await checkMayMakeTaps();
  const name = tapName(vmId, nic.name);
  if ((await readdir(interfaces)).includes(name)) await run('ip', ['link', 'delete', 'dev', name]);
  await run('ip', ['tuntap', 'add', 'dev', name, 'mode', 'tap']);
  try {
    // A port with a smaller MTU would lower that of the whole bridge.
    const mtu = (await readFile(`${interfaces}/${bridge}/mtu`, 'utf8')).trim();
    await run('ip', ['link', 'set', 'dev', name, 'mtu', mtu, 'master', bridge, 'up']);
  } catch (error) {
    await run('ip', ['link', 'delete', 'dev', name]);
    throw error;
  }
}

/** Does nothing when it is not there. */
export async function removeTap(run: HostCommand, vmId: string, nic: string): Promise<void> {
  await removeInterfaces(run, (name) => name === tapName(vmId, nic));
}

/** All devices of a VM, also of cards that its document does not name any more. */
export async function removeTaps(run: HostCommand, vmId: string): Promise<void> {
  await removeInterfaces(run, (name) => name.startsWith(prefixOf(vmId)));
}

async function removeInterfaces(
  run: HostCommand,
  matches: (name: string) => boolean,
): Promise<void> {
  for (const name of await readdir(interfaces))
    if (matches(name)) await run('ip', ['link', 'delete', 'dev', name]);
}

async function checkBridge(bridge: string): Promise<void> {
  if ((await bridges()).includes(bridge)) return;
  const isThere = (await readdir(interfaces)).includes(bridge);
  throw new DvceError('HOST_UNPREPARED', {
    what: `a card on the bridge ${bridge}`,
    reason: isThere ? `the interface ${bridge} is no bridge` : `there is no bridge ${bridge}`,
    advice: isThere
      ? 'Name a bridge; ip link show type bridge lists them.'
      : `Make it: ip link add ${bridge} type bridge && ip link set ${bridge} up`,
  });
}

/** The bridges of this host. */
export async function bridges(): Promise<string[]> {
  const found: string[] = [];
  for (const name of await readdir(interfaces)) {
    try {
      await access(`${interfaces}/${name}/bridge`);
      found.push(name);
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw error;
    }
  }
  return found;
}

/** Why this process may not make tap devices; null when it may. */
export async function tapsRefused(): Promise<string | null> {
  const status = await readFile('/proc/self/status', 'utf8');
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`);
  const netAdmin = 12n;
  if (((effective >> netAdmin) & 1n) === 0n)
    return 'the agent does not run as root (CAP_NET_ADMIN is missing)';
  try {
    await access('/dev/net/tun', constants.R_OK | constants.W_OK);
    return null;
  } catch {
    return '/dev/net/tun cannot be opened'; // any reason means that
  }
}

async function checkMayMakeTaps(): Promise<void> {
  const reason = await tapsRefused();
  if (reason === null) return;
  throw new DvceError('HOST_UNPREPARED', {
    what: 'a card on a bridge',
    reason,
    advice: 'Run the agent as root with the module tun loaded, or use --net user.',
  });
}
