/**
 * Run one command in the shell on a guest's serial console, through `dvce console`:
 *
 *   node scripts/guest-shell.ts [--timeout SECONDS] VM 'COMMAND'
 *
 * Prints what the command printed and ends with its status; 9 when the guest does not answer in time. It works with every
 * guest that has a POSIX shell on its console, logged in or without login. DVCE_DATA_DIR says which agent.
 *
 * A console echoes what is typed. So each marker is typed with a pair of quotes inside, which the shell takes out: only what
 * the shell printed matches. The console is one stream of bytes without ends, so the answer stands between two markers.
 */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import type { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const dvce = fileURLToPath(new URL('../bin/dvce', import.meta.url));
const usage = "usage: guest-shell.ts [--timeout SECONDS] VM 'COMMAND'\n";
const exitTimedOut = 9;
/** How often the shell is asked whether it listens; a shell that is still starting loses what is typed. */
const askEveryMs = 1000;
/** A shell that has printed nothing for this long waits for a line. */
const quietMs = 300;
const settleMs = 5000;
const transcriptCharactersMax = 4 * 1024 * 1024;

class Console {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  #text = '';
  #ended: string | undefined;
  #changed: (() => void) | undefined;

  constructor(vm: string) {
    this.#child = spawn(dvce, ['--quiet', 'console', vm], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#child.stdin.on('error', () => {}); // the end of the process tells more
    this.#child.stdout.on('data', (bytes: Buffer) => {
      this.#text = (this.#text + bytes.toString('latin1')).slice(-transcriptCharactersMax);
      this.#changed?.();
    });
    const end = (reason: string): void => {
      this.#ended ??= reason;
      this.#changed?.();
    };
    this.#child.on('error', (error) => end(error.message));
    this.#child.on('close', (status) => end(`dvce console ended with status ${status}`));
  }

  type(line: string): void {
    this.#child.stdin.write(`${line}\n`);
  }

  /** The first match in everything printed so far; null when there is none until `endMs`. */
  async match(pattern: RegExp, endMs: number): Promise<RegExpExecArray | null> {
    for (;;) {
      const found = pattern.exec(this.#text);
      if (found !== null) return found;
      if (this.#ended !== undefined) throw new Error(this.#ended);
      const leftMs = endMs - performance.now();
      if (leftMs <= 0) return null;
      await this.#next(leftMs);
    }
  }

  get last(): string {
    return this.#text.slice(-2000);
  }

  /** Resolves when nothing has been printed for `quietMs`, at the latest at `endMs`. */
  async quiet(quietMs: number, endMs: number): Promise<void> {
    for (;;) {
      const before = this.#text.length;
      await this.#next(Math.min(quietMs, endMs - performance.now()));
      if (this.#text.length === before || performance.now() >= endMs) return;
    }
  }

  close(): void {
    this.#child.kill('SIGTERM');
  }

  #next(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, delayMs);
      this.#changed = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

async function runInGuest(vm: string, command: string, timeoutMs: number): Promise<number> {
  const endMs = performance.now() + timeoutMs;
  const id = randomBytes(4).toString('hex');
  const guest = new Console(vm);
  try {
    const listening = new RegExp(`listening-${id}`);
    let found: RegExpExecArray | null = null;
    while (found === null && performance.now() < endMs) {
      guest.type(`echo listen""ing-${id}`);
      found = await guest.match(listening, Math.min(endMs, performance.now() + askEveryMs));
    }
    // A slow guest still has other questions to answer. What is typed while its shell changes the modes of the terminal between
    // a command and the next prompt may be lost.
    await guest.quiet(quietMs, Math.min(endMs, performance.now() + settleMs));
    guest.type(`echo beg""in-${id}; ${command}`);
    guest.type(`echo "" en""d-${id} $?`);
    const answer = await guest.match(
      new RegExp(`begin-${id}\\r?\\n([^]*?) end-${id} (\\d+)\\r?\\n`),
      endMs,
    );
    if (answer === null) {
      process.stderr.write(`the guest ${vm} did not answer in time; it said: ${guest.last}\n`);
      return exitTimedOut;
    }
    process.stdout.write(clean(answer[1] ?? ''));
    return Number(answer[2]);
  } finally {
    guest.close();
  }
}

/** Without the echo of the line that ends the answer, prompts before it, and control sequences. */
function clean(text: string): string {
  const lines = text
    // biome-ignore lint/suspicious/noControlCharactersInRegex: terminals are told what to do by control characters
    .replace(/\x1b\[[0-9;?]*[A-Za-z]/g, '')
    .replaceAll('\r', '')
    .split('\n')
    .filter((line) => !line.includes('en""d-') && line !== '');
  return lines.map((line) => `${line}\n`).join('');
}

const { values, positionals } = parseArgs({
  options: { timeout: { type: 'string', default: '30' } },
  allowPositionals: true,
});
const [vm, command] = positionals;
const timeoutMs = Number(values.timeout) * 1000;
if (vm === undefined || command === undefined || !(timeoutMs > 0)) {
  process.stderr.write(usage);
  process.exit(64);
}
try {
  process.exitCode = await runInGuest(vm, command, timeoutMs);
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
