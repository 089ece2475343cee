/** Real blockd processes for tests: started, killed and cleaned up by their pid. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import { systemClock, systemTimers } from '../../src/base/index.ts';
import {
  BlockdClient,
  blockdEntry,
  type DataDirectory,
  dataDirectory,
  ensureBlockd,
} from '../../src/blockd/index.ts';

export const seconds = (count: number): number => count * 1000;

/** Poll until `condition` holds; what it says last is in the error. */
export async function until<T>(
  what: string,
  condition: () => T | Promise<T>,
  timeoutMs = seconds(30),
): Promise<NonNullable<T>> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const value = await condition();
    if (value !== undefined && value !== null && value !== false) return value as NonNullable<T>;
    if (Date.now() > deadline) throw new Error(`waited ${timeoutMs} ms for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

function pidIn(file: string): number | undefined {
  try {
    const pid = Number(readFileSync(file, 'utf8').trim());
    return pid > 0 ? pid : undefined;
  } catch {
    return undefined;
  }
}

export class TestNode {
  readonly directory: DataDirectory;
  readonly client: BlockdClient;
  readonly argv: readonly string[];
  readonly #children = new Set<ChildProcess>();

  constructor(root: string, argv: readonly string[]) {
    this.directory = dataDirectory(root);
    this.client = new BlockdClient({
      socketPath: this.directory.controlSocket,
      timers: systemTimers,
    });
    this.argv = argv;
  }

  /** By the launcher, as the agent does it. */
  async ensure(): Promise<number> {
    const { pid } = await ensureBlockd({
      dataDirectory: this.directory.root,
      argv: this.argv,
      clock: systemClock,
      timers: systemTimers,
    });
    return pid;
  }

  /** Without a launcher. */
  spawn(
    options: { readonly before?: readonly string[]; readonly environment?: NodeJS.ProcessEnv } = {},
  ): ChildProcess {
    const command = [
      ...(options.before ?? []),
      process.execPath,
      '--disable-warning=ExperimentalWarning',
      blockdEntry,
      '--data-dir',
      this.directory.root,
      ...this.argv,
    ];
    const child = spawn(command[0] ?? '', command.slice(1), {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, ...options.environment },
    });
    this.#children.add(child);
    child.on('exit', () => this.#children.delete(child));
    return child;
  }

  async answers(): Promise<number> {
    return until('blockd to answer', async () => {
      try {
        return (await this.client.hello()).pid;
      } catch {
        return undefined;
      }
    });
  }

  get pid(): number | undefined {
    return pidIn(this.directory.lockFile);
  }
  get launcherPid(): number | undefined {
    return pidIn(this.directory.launcherLockFile);
  }

  /** kill -9 of blockd. @returns its pid, which is gone */
  async kill(): Promise<number> {
    const { pid } = this;
    if (pid === undefined) throw new Error('no blockd runs');
    process.kill(pid, 'SIGKILL');
    await until('blockd to be gone', () => !isAlive(pid));
    return pid;
  }

  /** Graceful shutdown; waits for blockd and its launcher. */
  async stop(): Promise<void> {
    const { pid, launcherPid } = this;
    if (pid !== undefined && isAlive(pid)) {
      await this.client.call('shutdown', { graceful: true }, { timeoutMs: seconds(60) });
      await until('blockd to end', () => !isAlive(pid));
    }
    if (launcherPid !== undefined) await until('the launcher to end', () => !isAlive(launcherPid));
  }

  /** A pid in a lock file may be old: only what runs on this directory is ours to kill. */
  #isOurs(pid: number): boolean {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(this.directory.root);
    } catch {
      return false;
    }
  }

  /** When the test process ends in the middle. The launcher first, or it would start another one. */
  killNow(): void {
    for (const child of this.#children) child.kill('SIGKILL');
    for (const pid of [this.launcherPid, this.pid])
      if (pid !== undefined && isAlive(pid) && this.#isOurs(pid)) process.kill(pid, 'SIGKILL');
  }

  /** Whatever is left. */
  async destroy(): Promise<void> {
    this.client.close();
    this.killNow();
    for (const pid of [this.launcherPid, this.pid]) {
      if (pid === undefined || !isAlive(pid) || !this.#isOurs(pid)) continue;
      process.kill(pid, 'SIGKILL');
      await until('a process to be gone', () => !isAlive(pid));
    }
  }

  log(): string {
    try {
      return readFileSync(this.directory.logFile, 'utf8');
    } catch {
      return '';
    }
  }
}

const running = new Set<TestNode>();
process.on('exit', () => {
  for (const node of running) node.killNow();
});

/** A fresh data directory; its processes are gone and it is removed when the test ends. */
export function testNode(t: Test, argv: readonly string[] = []): TestNode {
  const root = mkdtempSync('/tmp/dvce-node-');
  const node = new TestNode(join(root, 'd'), argv);
  running.add(node);
  t.teardown(async () => {
    await node.destroy();
    running.delete(node);
    rmSync(root, { recursive: true, force: true });
  });
  return node;
}

/** Run a program to its end. */
export async function run(
  command: readonly string[],
  timeoutMs = seconds(60),
): Promise<{ code: number; output: string }> {
  const child = spawn(command[0] ?? '', command.slice(1), {
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: timeoutMs,
  });
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()));
  return new Promise((resolve) => {
    child.on('error', (error) => resolve({ code: -1, output: error.message }));
    child.on('close', (code) => resolve({ code: code ?? -1, output }));
  });
}

/** False when a program of that name is not in the path. */
export async function hasTool(name: string): Promise<boolean> {
  return (await run(['which', name])).code === 0;
}
