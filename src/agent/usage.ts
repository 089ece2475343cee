/** What the guests of this host use, from the kernel and from blockd; for `dvce top`. */
import { readFile } from 'node:fs/promises';
import type { Usage, Vm } from '../api/index.ts';
import { systemCode } from '../base/index.ts';
import type { Agent } from './agent.ts';

/** Ticks of /proc/PID/stat; Linux shows them to programs as 100 a second whatever the kernel's own. */
const tickMs = 10;
const pageBytes = 4096;

/** @returns undefined when the process is gone */
async function processUse(
  pid: number,
): Promise<{ cpuMs: number; residentBytes: number } | undefined> {
  let stat: string;
  try {
    stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ESRCH') return undefined;
    throw error;
  }
  // The name, in brackets, may hold anything; what counts stands behind it.
  const fields = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .map(Number);
  const [user = 0, system = 0, resident = 0] = [fields[11], fields[12], fields[21]];
  return { cpuMs: (user + system) * tickMs, residentBytes: resident * pageBytes };
}

async function guestUse(vm: Vm): Promise<Usage['vms'][number]> {
  const use = vm.pid === null ? undefined : await processUse(vm.pid);
  return {
    name: vm.name,
    phase: vm.phase,
    cpus: vm.cpus,
    memoryBytes: vm.memoryBytes,
    pid: vm.pid,
    cpuMs: use?.cpuMs ?? null,
    residentBytes: use?.residentBytes ?? null,
    volumes: vm.disks.map(({ path }) => path),
  };
}

export async function usageOf({ vms, blockd, clock }: Agent): Promise<Usage> {
  const all = await vms.list();
  const { volumes } = await blockd.call('metrics', {});
  const owner = new Map(all.flatMap(({ name, disks }) => disks.map(({ path }) => [path, name])));
  return {
    atMs: clock.monotonicMs(),
    vms: await Promise.all(all.map(guestUse)),
    volumes: volumes.map((one) => ({
      path: one.path,
      vm: owner.get(one.path) ?? null,
      reads: one.reads,
      writes: one.writes,
      flushes: one.flushes,
      readBytes: one.readBytes,
      writtenBytes: one.writtenBytes,
      throttledMs: one.throttledMs ?? 0,
      flushLagMs: one.flushLagMs,
    })),
  };
}
