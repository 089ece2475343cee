/** The real program in a data directory of its own: commands as an operator types them, and the clean end of everything. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Test } from 'tap';
import { isAlive, seconds, until } from './blockd-process.ts';

export const projectRoot = resolve(import.meta.dirname, '../..');

export interface Outcome {
  /** null: ended by a signal. */
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly input?: string;
  readonly environment?: NodeJS.ProcessEnv;
  readonly timeoutMs?: number;
}

/** A process and what it printed, for those who look while it runs. */
export interface Running {
  readonly child: ChildProcess;
  readonly ended: Promise<Outcome>;
  stderr(): string;
  stdout(): string;
}

export class Dvce {
  /** Working directory of the commands. */
  readonly directory: string;
  readonly data: string;
  readonly #environment: NodeJS.ProcessEnv;

  constructor(directory: string, environment: NodeJS.ProcessEnv = {}) {
    this.directory = directory;
    this.data = join(directory, 'data');
    this.#environment = environment;
  }

  /** Arguments as they are, without a shell. */
  begin(args: readonly string[], options: RunOptions = {}): Running {
    return this.#spawn(join(projectRoot, 'bin/dvce'), args, options);
  }
  run(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
    return this.begin(args, options).ended;
  }
  /** One line as an operator types it: words without quotes. */
  cli(line: string, options: RunOptions = {}): Promise<Outcome> {
    return this.run(line.split(' '), options);
  }
  /** A line for the shell, with `dvce` on its path. */
  shell(line: string, options: RunOptions = {}): Promise<Outcome> {
    return this.#spawn('/bin/sh', ['-c', line], options).ended;
  }
  /** A command that must work. */
  async ok(line: string, options: RunOptions = {}): Promise<string> {
    const outcome = await this.cli(line, options);
    if (outcome.code !== 0)
      throw new Error(`dvce ${line} ended with ${outcome.code}: ${outcome.stderr}`);
    return outcome.stdout;
  }
  async json<T>(line: string): Promise<T> {
    return JSON.parse(await this.ok(`${line} -o json`)) as T;
  }

  #spawn(program: string, args: readonly string[], options: RunOptions): Running {
    const child = spawn(program, args, {
      cwd: this.directory,
      stdio: ['pipe', 'pipe', 'pipe'],
      timeout: options.timeoutMs ?? seconds(120),
      env: {
        ...process.env,
        NO_COLOR: '1',
        PATH: `${join(projectRoot, 'bin')}:${process.env['PATH']}`,
        DVCE_DATA_DIR: this.data,
        XDG_CONFIG_HOME: join(this.directory, 'config'),
        ...this.#environment,
        ...options.environment,
      },
    });
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', (bytes: Buffer) => {
      stdout += bytes.toString('utf8');
    });
    child.stderr.on('data', (bytes: Buffer) => {
      stderr += bytes.toString('utf8');
    });
    child.stdin.on('error', () => {}); // a command that reads nothing closes it
    if (options.input !== undefined) child.stdin.end(options.input);
    const ended = new Promise<Outcome>((done, reject) => {
      child.on('error', reject);
      child.on('close', (code) => done({ code, stdout, stderr }));
    });
    return { child, ended, stdout: () => stdout, stderr: () => stderr };
  }

  /** The pid in a lock file, when its holder lives. */
  holder(lock: 'agent.lock' | 'lock' | 'launcher.lock'): number | undefined {
    try {
      const pid = Number(readFileSync(join(this.data, lock), 'utf8').trim());
      if (!(pid > 0) || !isAlive(pid)) return undefined;
      // A pid in a lock file may be old, and belong to something else by now.
      const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
      return command.includes(this.data) ? pid : undefined;
    } catch {
      return undefined;
    }
  }

  agentPid(): number {
    const pid = this.holder('agent.lock');
    if (pid === undefined) throw new Error('no agent runs');
    return pid;
  }

  /** Everything of this directory ends, guests first. */
  async end(): Promise<void> {
    await this.cli('down --stop-vms --timeout 1s');
    for (const name of ['launcher.lock', 'agent.lock', 'lock'] as const) {
      const pid = this.holder(name);
      if (pid !== undefined) process.kill(pid, 'SIGKILL');
    }
    await until('the end of all processes', () =>
      (['launcher.lock', 'agent.lock', 'lock'] as const).every(
        (name) => this.holder(name) === undefined,
      ),
    );
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** A fresh installation; socket paths are short, so it lies in /tmp. */
export function freshDvce(t: Test, environment: NodeJS.ProcessEnv = {}): Dvce {
  const dvce = new Dvce(mkdtempSync('/tmp/dvce-cli-'), environment);
  t.teardown(() => dvce.end());
  return dvce;
}
