/**
 * Runs one command of the test run in a process group of its own, with a deadline, and finds what it left behind.
 *
 * A test that starts an agent or a guest and does not end it would disturb every test after it. Children inherit the
 * environment, so each run gets a mark in it: whatever carries the mark after the end is a leftover, also when it has
 * moved to a group or session of its own. Leftovers are killed and reported.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { StringDecoder } from 'node:string_decoder';

const markName = 'DVCE_TEST_MARK';
/** What a process needs to end after the one that started it did: sockets close, a signal arrives. */
const leftoverGraceMs = 2000;
const outputBytesMax = 64 * 1024;

export interface Ended {
  /** What was wrong with the end, if anything. */
  readonly fault: string | undefined;
  /** Command lines of the processes that were still there; they are killed. */
  readonly leftovers: readonly string[];
  /** The last part of what it wrote to standard error. */
  readonly errorOutput: string;
  readonly seconds: number;
}

export interface RunOptions {
  readonly limitSeconds: number;
  readonly environment?: Readonly<Record<string, string>>;
  readonly onLine: (line: string) => void;
}

const running = new Set<string>();

interface Marked {
  readonly pid: number;
  readonly command: string;
}

/** Processes of this user that carry the mark, zombies apart. Linux only; elsewhere nothing is found. */
function marked(mark: string): Marked[] {
  const found: Marked[] = [];
  let names: string[] = [];
  try {
    names = readdirSync('/proc');
  } catch {
    return found;
  }
  for (const name of names) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue;
    try {
      if (!readFileSync(`/proc/${name}/environ`, 'latin1').includes(`${markName}=${mark}`))
        continue;
      const command = readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
      found.push({ pid: Number(name), command: command.slice(0, 200) });
    } catch {
      // It ended between the listing and the reading, or belongs to somebody else.
    }
  }
  return found;
}

function killMarked(mark: string): void {
  for (const { pid } of marked(mark)) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It ended by itself.
    }
  }
}

/** End everything that this run has started; for a run that is interrupted. */
export function killEverything(): void {
  for (const mark of running) killMarked(mark);
}

const wait = (ms: number, keepsAlive = true): Promise<void> =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    if (!keepsAlive) timer.unref();
  });

async function collectLeftovers(mark: string): Promise<string[]> {
  const deadline = performance.now() + leftoverGraceMs;
  let left = marked(mark);
  while (left.length > 0 && performance.now() < deadline) {
    await wait(50);
    left = marked(mark);
  }
  const commands = left.map(({ pid, command }) => `${command} (pid ${pid})`);
  while (left.length > 0 && performance.now() < deadline + leftoverGraceMs) {
    killMarked(mark);
    await wait(20);
    left = marked(mark);
  }
  return commands;
}

function splitLines(child: ChildProcess, onLine: (line: string) => void): void {
  const decoder = new StringDecoder('utf8');
  let rest = '';
  child.stdout?.on('data', (chunk: Buffer) => {
    const lines = (rest + decoder.write(chunk)).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) onLine(line);
  });
  child.stdout?.on('end', () => {
    if (rest !== '') onLine(rest);
  });
}

/** Run `command` to its end or its limit; never rejects for what the command does. */
export async function run(command: readonly string[], options: RunOptions): Promise<Ended> {
  const [file = '', ...args] = command;
  const mark = randomUUID();
  const started = performance.now();
  running.add(mark);
  const child = spawn(file, args, {
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...options.environment, [markName]: mark },
  });
  splitLines(child, options.onLine);
  let errorOutput = '';
  child.stderr?.on('data', (chunk: Buffer) => {
    errorOutput = (errorOutput + chunk.toString('utf8')).slice(-outputBytesMax);
  });
  const closed = new Promise<void>((resolve) => child.on('close', () => resolve()));
  let late = false;
  const limit = setTimeout(() => {
    late = true;
    killMarked(mark);
  }, options.limitSeconds * 1000);
  const fault = await new Promise<string | undefined>((resolve) => {
    child.on('error', (error) => resolve(`it could not be started: ${error.message}`));
    child.on('exit', (status, signal) => {
      if (status === 0) resolve(undefined);
      else resolve(signal === null ? `exit status ${status}` : `killed by ${signal}`);
    });
  });
  clearTimeout(limit);
  const leftovers = await collectLeftovers(mark);
  // The pipes stay open as long as a leftover holds them; those are dead now.
  if (child.pid !== undefined) await Promise.race([closed, wait(5000, false)]);
  running.delete(mark);
  return {
    fault: late ? `it was over its limit of ${options.limitSeconds} s and was killed` : fault,
    leftovers,
    errorOutput,
    seconds: (performance.now() - started) / 1000,
  };
}
