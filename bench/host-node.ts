/**
 * A host for the host suite: a fresh data directory with an agent and a blockd of its own, started and stopped by the
 * program as an operator does it. What is left of it when the suite ends, or is interrupted, is killed: every process of
 * it, guests included, has its directory on its command line.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { join, resolve } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { ApiClient, type Operation } from '../src/api/index.ts';

const program = resolve(import.meta.dirname, '../bin/dvce');

/** Directories of this run that exist. */
const directories = new Set<string>();

/** A directory whose processes are gone, and which is removed, when the suite ends however it ends. */
export function freshDirectory(parent: string): string {
  const directory = mkdtempSync(join(parent, 'dvce-bench-'));
  directories.add(directory);
  return directory;
}

export function clearDirectory(directory: string): void {
  // A launcher may start a blockd while we look, so look until there is nothing.
  for (let tries = 0; tries < 100; tries += 1) {
    const left = processesOf(directory);
    if (left.length === 0) break;
    for (const pid of left) kill(pid);
  }
  rmSync(directory, { recursive: true, force: true, maxRetries: 5 });
  directories.delete(directory);
}

/** However it ends, by ^C too: nothing that was started stays. */
export function clearAtEnd(): void {
  process.on('exit', () => {
    for (const directory of [...directories]) clearDirectory(directory);
  });
  for (const [name, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const)
    process.on(name, () => process.exit(code));
}

function processesOf(directory: string): number[] {
  return readdirSync('/proc').flatMap((entry) => {
    const pid = Number(entry);
    if (!(pid > 0) || pid === process.pid) return [];
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(directory) ? [pid] : [];
    } catch {
      return []; // it has ended meanwhile
    }
  });
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended meanwhile.
  }
}

/** Run a program to its end. @throws when it fails */
export async function run(
  command: string,
  args: readonly string[],
  environment: NodeJS.ProcessEnv = process.env,
): Promise<string> {
  const child: ChildProcess = spawn(command, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: environment,
  });
  let output = '';
  let complaint = '';
  child.stdout?.on('data', (bytes: Buffer) => (output += bytes.toString()));
  child.stderr?.on('data', (bytes: Buffer) => (complaint += bytes.toString()));
  const code = await new Promise<number | null>((done, reject) => {
    child.once('error', reject);
    child.once('close', done);
  });
  if (code !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${code}: ${complaint}`);
  return output;
}

export class HostNode {
  readonly data: string;
  readonly api: ApiClient;
  readonly #directory: string;
  readonly #environment: NodeJS.ProcessEnv;

  private constructor(directory: string) {
    this.#directory = directory;
    this.data = join(directory, 'data');
    this.api = new ApiClient(this.socket);
    this.#environment = {
      ...process.env,
      DVCE_DATA_DIR: this.data,
      XDG_CONFIG_HOME: join(directory, 'config'),
    };
  }

  static async start(parent: string, upOptions: readonly string[] = []): Promise<HostNode> {
    const directory = freshDirectory(parent);
    try {
      const node = new HostNode(directory);
      await node.dvce('up', ...upOptions);
      return node;
    } catch (error) {
      clearDirectory(directory);
      throw error;
    }
  }

  get socket(): string {
    return join(this.data, 'run', 'agent.sock');
  }

  dvce(...args: readonly string[]): Promise<string> {
    return run(program, args, this.#environment);
  }

  get agentPid(): number {
    return this.#holder('agent.lock');
  }
  get blockdPid(): number {
    return this.#holder('lock');
  }
  #holder(lock: string): number {
    return Number(readFileSync(join(this.data, lock), 'utf8').trim());
  }

  /** Wait for the end of an operation, which must succeed. */
  async ended(operation: Operation): Promise<void> {
    const { status, error, kind } = await this.api.operations.wait(operation.id);
    if (status !== 'succeeded') throw new Error(`${kind}: ${error?.detail ?? status}`);
  }

  async stop(): Promise<void> {
    try {
      await this.dvce('down', '--stop-vms', '--timeout', '1s');
    } catch (error) {
      process.stderr.write(`the agent did not stop: ${String(error)}\n`);
    }
    clearDirectory(this.#directory);
  }
}

/** A port of the loopback that nobody listens on. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

/** @throws when it is not so in time */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  { everyMs = 5, withinMs = 120_000 } = {},
): Promise<void> {
  const endMs = performance.now() + withinMs;
  while (!(await condition())) {
    if (performance.now() > endMs) throw new Error(`not within ${withinMs} ms: ${what}`);
    await pause(everyMs);
  }
}

/** Do something for each of many, several at a time. */
export async function each<T>(
  items: readonly T[],
  atOnce: number,
  task: (item: T) => Promise<unknown>,
): Promise<void> {
  const waiting = items.values();
  await Promise.all(
    Array.from({ length: atOnce }, async () => {
      for (const item of waiting) await task(item);
    }),
  );
}
