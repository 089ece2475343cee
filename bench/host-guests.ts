/**
 * Guests in the host suite: how long from the wish for a VM to a guest that is ready, beside the bare hypervisor; and how
 * fast many are defined and started.
 *
 * The bare hypervisor gets the command line of dvce's own guest, read from /proc, with the disk replaced by a raw file; its
 * file is a fresh copy of the image each time, made before the clock starts. Both are ready when the guest says so on its
 * serial console. Program, kernel and image are in the page cache for both.
 */
import { spawn } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { DvceError, MiB, systemTimers } from '../src/base/index.ts';
import { BlockdClient, dataDirectory } from '../src/blockd/index.ts';
import { clearDirectory, freshDirectory, HostNode, run, until } from './host-node.ts';

export const readyPattern = 'demo guest ready';
const image = 'demo';
const clones = 16;

/** The small Linux that the quickstart boots, built at its first use. */
export async function demoImage(): Promise<string> {
  const script = resolve(import.meta.dirname, '../scripts/demo-image.sh');
  return (await run(script, [])).trim();
}

export async function nodeWithImage(
  parent: string,
  source: string,
  name = image,
): Promise<HostNode> {
  const node = await HostNode.start(parent);
  await node.ended(await node.api.images.import({ name, source }));
  return node;
}

const secondsSince = (startedMs: number): number => (performance.now() - startedMs) / 1000;

/** Seconds from the wish for a VM to a guest that is ready. The two alternate, and who begins does too. */
export async function measureBoots(
  parent: string,
  rounds: number,
): Promise<{ readonly dvce: readonly number[]; readonly bare: readonly number[] }> {
  const source = await demoImage();
  const node = await nodeWithImage(parent, source);
  const directory = freshDirectory(parent);
  const dvce: number[] = [];
  const bare: number[] = [];
  try {
    // The first boot of each warms the page cache and is not counted.
    const { commandLine } = await bootOverDvce(node, 'warm');
    await bootBare(commandLine, node.data, directory, source);
    const ours = async (round: number): Promise<void> => {
      const { defined, seconds } = await bootOverDvce(node, `web${round}`);
      dvce.push(seconds);
      const text = `${seconds.toFixed(3)} s (${defined.toFixed(3)} s to define it)`;
      process.stderr.write(`vm-start-to-ready ${round} dvce: ${text}\n`);
    };
    const theirs = async (round: number): Promise<void> => {
      const seconds = await bootBare(commandLine, node.data, directory, source);
      bare.push(seconds);
      process.stderr.write(`vm-start-to-ready ${round} bare-qemu: ${seconds.toFixed(3)} s\n`);
    };
    for (let round = 1; round <= rounds; round += 1)
      for (const one of round % 2 === 1 ? [ours, theirs] : [theirs, ours]) await one(round);
  } finally {
    clearDirectory(directory);
    await node.stop();
  }
  return { dvce, bare };
}

/** Clone the image, start, wait until ready; all of it over the API, and the clock runs from the first request. */
async function bootOverDvce(
  node: HostNode,
  name: string,
): Promise<{ defined: number; seconds: number; commandLine: readonly string[] }> {
  const { vms } = node.api;
  const startedMs = performance.now();
  await vms.create({ name, image, memoryBytes: 192 * MiB, nics: [], readyPattern });
  const defined = secondsSince(startedMs);
  await node.ended(await vms.start(name, { ready: true }));
  const seconds = secondsSince(startedMs);
  const { pid, ready } = await vms.get(name);
  if (ready !== 'pattern') throw new Error(`the guest is ready by ${ready}, not by its console`);
  const commandLine = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').slice(0, -1);
  await node.ended(await vms.stop(name, { force: true }));
  await vms.delete(name);
  return { defined, seconds, commandLine };
}

async function bootBare(
  commandLine: readonly string[],
  theirs: string,
  directory: string,
  source: string,
): Promise<number> {
  const disk = join(directory, 'disk.raw');
  const place = join(directory, 'guest');
  const console = join(place, 'console.log');
  rmSync(place, { recursive: true, force: true });
  mkdirSync(place);
  copyFileSync(source, disk);
  const [program = '', ...args] = commandLine.map((argument) =>
    movedTo(argument, theirs, place, disk),
  );
  const startedMs = performance.now();
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  const ended = new Promise<void>((done) => child.once('close', () => done()));
  const isReady = (): boolean =>
    existsSync(console) && readFileSync(console, 'utf8').includes(readyPattern);
  try {
    await until('the bare guest is ready', () => {
      if (child.exitCode !== null) throw new Error(`the bare hypervisor ended: ${child.exitCode}`);
      return isReady();
    });
    return secondsSince(startedMs);
  } finally {
    child.kill('SIGKILL');
    await ended;
  }
}

/**
 * The same argument for a guest whose files lie in `place` and whose disk is a raw file.
 * @param options.direct past the host's page cache
 */
export function movedTo(
  argument: string,
  theirs: string,
  place: string,
  disk: string,
  { direct = false } = {},
): string {
  if (argument.startsWith('{"node-name":"disk0"')) {
    const how = direct ? { cache: { direct: true }, aio: 'native' } : {};
    const file = { driver: 'file', filename: disk, 'read-only': false, ...how };
    return JSON.stringify({ 'node-name': 'disk0', driver: 'raw', discard: 'unmap', file });
  }
  // Sockets and logs: `path=DATA/run/vm/ID/qmp.sock`, `logfile=DATA/log/vm/ID/console.log`.
  return argument.replaceAll(/=([^,]*)/g, (whole, path: string) =>
    path.startsWith(theirs) ? `=${join(place, path.slice(path.lastIndexOf('/') + 1))}` : whole,
  );
}

/**
 * Seconds for each of 16 VMs that are defined from an image and started, all at once. Nobody waits for the guests, which boot
 * meanwhile and fight for the processors with what is measured.
 */
export async function measureClones(
  parent: string,
  rounds: number,
): Promise<{ readonly served: readonly number[]; readonly running: readonly number[] }> {
  const node = await nodeWithImage(parent, await demoImage());
  const { vms } = node.api;
  const blockd = new BlockdClient({
    socketPath: dataDirectory(node.data).controlSocket,
    timers: systemTimers,
  });
  /** Until every disk is attached. */
  const served: number[] = [];
  /** Until every hypervisor runs with its disk open. */
  const running: number[] = [];
  try {
    for (let round = 1; round <= rounds; round += 1) {
      const names = Array.from({ length: clones }, (_, at) => `clone-${round}-${at}`);
      const startedMs = performance.now();
      const started = Promise.all(
        names.map(async (name) => {
          await vms.create({ name, image, memoryBytes: 64 * MiB, nics: [], readyPattern });
          await node.ended(await vms.start(name));
        }),
      );
      for (const name of names)
        await until(`the disk of ${name} is served`, () => isServed(blockd, name), {
          everyMs: 20,
        });
      served.push(secondsSince(startedMs) / clones);
      await started;
      running.push(secondsSince(startedMs) / clones);
      await checkServed(node, names);
      const [first = 0, second = 0] = [served.at(-1), running.at(-1)];
      const text = `${first.toFixed(3)} s until served, ${second.toFixed(3)} s until it runs`;
      process.stderr.write(`clone-and-start-16 ${round}: ${text}\n`);
      for (const name of names) {
        await node.ended(await vms.stop(name, { force: true }));
        await vms.delete(name);
      }
    }
  } finally {
    blockd.close();
    await node.stop();
  }
  return { served, running };
}

async function isServed(blockd: BlockdClient, vm: string): Promise<boolean> {
  try {
    const { open } = await blockd.call('volume.get', { path: `/vms/${vm}/disk0` });
    return typeof open?.attachId === 'string';
  } catch (error) {
    if (error instanceof DvceError && error.code === 'NOT_FOUND') return false;
    throw error;
  }
}

/** What was measured is what was meant: every disk is attached to its VM, whose process is there. */
async function checkServed({ api }: HostNode, names: readonly string[]): Promise<void> {
  for (const name of names) {
    const { id, pid } = await api.vms.get(name);
    const { open } = await api.volumes.get(`/vms/${name}/disk0`);
    if (pid === null || open?.attachId !== id) throw new Error(`the disk of ${name} is not served`);
  }
}
