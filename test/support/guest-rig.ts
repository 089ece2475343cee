/** Real guests for system tests: the demonstration image, a stand-in disk server, a driver, a shell on the console. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { resolve } from 'node:path';
import type { Test } from 'tap';
import {
  MiB,
  silentLogger,
  systemClock,
  systemRandom,
  systemTimers,
} from '../../src/base/index.ts';
import { createQemuDriver, type Hypervisor, type VmDefinition } from '../../src/vm/index.ts';

const root = resolve(import.meta.dirname, '../..');

/** Why guests cannot run here, or false. */
export function guestsMissing(...tools: readonly string[]): string | false {
  for (const tool of ['qemu-system-x86_64', 'qemu-nbd', 'apt-get', ...tools])
    if (!onPath(tool)) return `${tool} is not installed`;
  return false;
}

function onPath(tool: string): boolean {
  const path = `${process.env['PATH']}:/usr/sbin:/sbin`;
  return path.split(':').some((directory) => existsSync(`${directory}/${tool}`));
}

const images = new Map<string, string>();

/** Path of the demonstration image, built at the first call; `--agent`: with the guest agent in it. */
export function demoImage(...options: readonly '--agent'[]): string {
  const key = options.join(' ');
  const path =
    images.get(key) ??
    execFileSync(`${root}/scripts/demo-image.sh`, options, {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'inherit'],
    }).trim();
  images.set(key, path);
  return path;
}

export const readyPattern = 'demo guest ready';

/** Poll until `condition` holds; throws with `what` when it does not in time. */
export async function until(
  what: string,
  delayMs: number,
  condition: () => boolean | Promise<boolean>,
): Promise<void> {
  const endMs = performance.now() + delayMs;
  while (!(await condition())) {
    if (performance.now() > endMs) throw new Error(`not within ${delayMs} ms: ${what}`);
    await new Promise((wake) => setTimeout(wake, 50));
  }
}

/** A disk with the demonstration image, served by a program that may be killed and started again. */
export class DiskServer {
  readonly disk: string;
  readonly socketPath: string;
  readonly #command: readonly string[];
  #process: ChildProcess | undefined;

  constructor(
    directory: string,
    command: (disk: string, socket: string) => readonly string[] = qemuNbd,
    image: string = demoImage(),
  ) {
    this.disk = `${directory}/disk.raw`;
    this.socketPath = `${directory}/disk.sock`;
    copyFileSync(image, this.disk);
    this.#command = command(this.disk, this.socketPath);
  }

  async start(): Promise<void> {
    rmSync(this.socketPath, { force: true });
    const [program = '', ...args] = this.#command;
    this.#process = spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] });
    await until('the disk server listens', 10_000, () => existsSync(this.socketPath));
  }

  async kill(): Promise<void> {
    const { exitCode, signalCode } = this.#process ?? { exitCode: 0, signalCode: null };
    if (this.#process === undefined || exitCode !== null || signalCode !== null) return;
    const gone = new Promise((done) => this.#process?.once('exit', done));
    this.#process.kill('SIGKILL');
    await gone;
  }
}

export const exportName = 'disk';

const qemuNbd = (disk: string, socket: string): string[] => [
  ...['qemu-nbd', '-k', socket, '-f', 'raw', '-x', exportName, '-e', '8', '-t'],
  ...['--cache=writeback', '--discard=unmap', disk],
];

/** Errors on every request while `trigger` exists. */
export const faultyServer =
  (trigger: string) =>
  (disk: string, socket: string): string[] => [
    ...['nbdkit', '-f', '-U', socket, '-e', exportName, '--filter=error', 'file', disk],
    ...['error-rate=100%', `error-file=${trigger}`, 'error=EIO'],
  ];

export interface GuestRig {
  readonly directory: string;
  readonly server: DiskServer;
  readonly driver: Hypervisor;
  readonly vm: VmDefinition;
  /** Another driver on the same directories, as after a restart of the agent. */
  anotherDriver(): Hypervisor;
  log(): string;
}

export function newDriver(directory: string): Hypervisor {
  return createQemuDriver({
    clock: systemClock,
    timers: systemTimers,
    random: systemRandom,
    logger: silentLogger,
    runDirectory: `${directory}/run`,
    logDirectory: `${directory}/log`,
  });
}

export function newDefinition(
  server: DiskServer,
  change: Partial<VmDefinition> = {},
): VmDefinition {
  return {
    id: '6f1c2b1e-52c3-4b6e-9a5d-0d2a4c8b7e10',
    name: 'guest',
    cpus: 1,
    memoryBytes: 192 * MiB,
    machine: 'q35',
    firmware: 'bios',
    nics: [],
    readyPattern,
    disks: [
      {
        name: 'disk0',
        socketPath: server.socketPath,
        exportName,
        readOnly: false,
        blockBytes: 512,
        bootOrder: 1,
      },
    ],
    ...change,
  };
}

/** A driver and a served disk in a temporary directory; everything ends with the test. */
export async function guestRig(
  t: Test,
  command?: (directory: string) => (disk: string, socket: string) => readonly string[],
  image?: string,
): Promise<GuestRig> {
  const directory = mkdtempSync('/tmp/dvce-guest-');
  const server = new DiskServer(directory, command?.(directory), image);
  await server.start();
  const vm = newDefinition(server);
  const drivers: Hypervisor[] = [];
  const anotherDriver = (): Hypervisor => {
    const driver = newDriver(directory);
    drivers.push(driver);
    return driver;
  };
  const driver = anotherDriver();
  t.teardown(async () => {
    await drivers.at(-1)?.kill(vm);
    for (const each of drivers) await each.close();
    await server.kill();
    rmSync(directory, { recursive: true, force: true });
  });
  const log = (): string => readFileSync(driver.consoleLog(vm), 'latin1');
  return { directory, server, driver, vm, anotherDriver, log };
}

export async function untilReady(driver: Hypervisor, vm: VmDefinition): Promise<string> {
  let ready: string | null = null;
  await until('the guest is ready', 60_000, async () => {
    const seen = await driver.inspect(vm);
    if (seen.pid === null) throw new Error(`the guest ended: ${seen.detail}`);
    ready = seen.ready;
    return ready !== null;
  });
  return ready ?? '';
}

/** A shell on the serial console. Markers are typed with quotes inside, so their echo does not match. */
export class Shell {
  readonly #socket: Socket;
  #text = '';
  #count = 0;

  constructor(path: string) {
    this.#socket = connect(path);
    this.#socket.on('error', () => {}); // a guest that ends closes its console
    this.#socket.on('data', (bytes: Buffer) => {
      this.#text += bytes.toString('latin1');
    });
  }

  /** Type a line and do not wait. */
  type(line: string): void {
    this.#socket.write(`${line}\n`);
  }

  /** @returns what the command printed; throws when its status is not 0 */
  async run(command: string, delayMs = 30_000): Promise<string> {
    this.#count += 1;
    const mark = `${this.#count}-${process.pid}`;
    this.type(`echo be""gin-${mark}; ${command}; echo "" en""d-${mark} $?`);
    const answer = new RegExp(`begin-${mark}\\r?\\n([^]*?) end-${mark} (\\d+)`);
    await until(`the guest answers to: ${command}`, delayMs, () => answer.test(this.#text));
    const [, output = '', status] = answer.exec(this.#text) ?? [];
    if (status !== '0') throw new Error(`${command} ended with ${status}: ${output}`);
    return output.replaceAll('\r', '');
  }

  close(): void {
    this.#socket.destroy();
  }
}
