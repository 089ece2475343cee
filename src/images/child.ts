/** The parent's side of an image process: start it, talk to it, see it end. */
import { type ChildProcess, spawn } from 'node:child_process';
import { getCompileCacheDir } from 'node:module';
import { dirname } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { DvceError, limits, systemCode, type Timers } from '../base/index.ts';
import {
  type ExportRequest,
  type ImageProgress,
  type ImportRequest,
  isTaskMessage,
  type TaskMessage,
} from './protocol.ts';

/** The program of the image process: run it with Node. */
const entry: string = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? './main.ts' : './main.js', import.meta.url),
);

export interface ChildOptions {
  readonly timers: Timers;
  /** Cancels; the promise rejects when the process has ended. */
  readonly signal: AbortSignal;
  /** More authorities for https sources than the system's: a file of certificates. */
  readonly authoritiesFile?: string | undefined;
  onProgress?(progress: ImageProgress): void;
}

type Answer = Exclude<TaskMessage, { progress: unknown } | { error: unknown }>;

export interface Child {
  /** What comes out of descriptor 3. */
  readonly content: Readable;
  tell(message: unknown): void;
  /** The messages that are no progress; throws the error of the task, or why there is no answer. */
  answers(): AsyncGenerator<Answer>;
}

/** Runs `task` beside a process with this request; when it is over, process and helpers of it are gone. */
export async function withChild<T>(
  request: ImportRequest | ExportRequest,
  options: ChildOptions,
  task: (child: Child) => Promise<T>,
): Promise<T> {
  options.signal.throwIfAborted();
  const { authoritiesFile } = options;
  // Compiled code is kept between its runs too, as bin/dvce does it: half of what a start costs.
  const compiled = getCompileCacheDir();
  const child = spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', '--use-system-ca', entry],
    {
      stdio: ['pipe', 'pipe', 'pipe', 'pipe'],
      env: {
        LC_ALL: 'C',
        ...(authoritiesFile === undefined ? {} : { NODE_EXTRA_CA_CERTS: authoritiesFile }),
        ...(compiled === undefined ? {} : { NODE_COMPILE_CACHE: dirname(compiled) }),
      },
      cwd: '/',
      // A group of its own, so that its qemu-img ends with it.
      detached: true,
    },
  );
  const ended = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('exit', (status, signal) => resolve(`it ended with ${signal ?? status}`));
  });
  const cancel = (): void => terminate(child, options);
  options.signal.addEventListener('abort', cancel, { once: true });
  try {
    return await task(converse(child, request, options, ended));
  } finally {
    options.signal.removeEventListener('abort', cancel);
    child.stdin?.destroy();
    cancel(); // does nothing to a process that has ended
    await ended;
    killGroup(child.pid);
  }
}

/** By the end of its input when its parent is what ends: what it has downloaded is kept then. By a signal when cancelled. */
function terminate(child: ChildProcess, { signal, timers }: ChildOptions): void {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const { reason } = signal;
  if (reason instanceof DvceError && reason.code === 'INTERRUPTED') child.stdin?.destroy();
  else child.kill('SIGTERM');
  const timer = timers.after(limits.imageCancelMs, () => child.kill('SIGKILL'));
  child.once('exit', () => timer.cancel());
}

function killGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch (error) {
    if (systemCode(error) !== 'ESRCH') throw error;
  }
}

function converse(
  child: ChildProcess,
  request: ImportRequest | ExportRequest,
  options: ChildOptions,
  ended: Promise<string>,
): Child {
  const { stdin, stdout, stderr, stdio } = child;
  const content = stdio[3];
  if (stdin === null || stdout === null || stderr === null || !isReadable(content))
    throw new DvceError('INTERNAL', { reason: 'the image process has no pipes' });
  stdin.on('error', () => {}); // the process ended; `ended` and its last message tell why
  let complaint = '';
  stderr.on('data', (chunk: Buffer) => {
    complaint = (complaint + chunk.toString()).slice(-1000);
  });
  const tell = (message: unknown): void => void stdin.write(`${JSON.stringify(message)}\n`);
  tell(request);
  return {
    content,
    tell,
    async *answers() {
      for await (const line of createInterface({ input: stdout })) {
        const message = parse(line);
        if ('progress' in message) options.onProgress?.(message.progress);
        else if ('error' in message) throw new DvceError(message.error.code, message.error.context);
        else yield message;
      }
      options.signal.throwIfAborted();
      throw new DvceError('INTERRUPTED', {
        what: `the ${request.task}`,
        advice: `Its process gave no answer (${await ended} ${complaint.trim()}); start it again when wanted.`,
      });
    },
  };
}

const isReadable = (stream: unknown): stream is Readable =>
  typeof stream === 'object' && stream !== null && 'read' in stream;

function parse(line: string): TaskMessage {
  let message: unknown;
  try {
    message = JSON.parse(line);
  } catch {
    message = undefined; // refused below
  }
  if (isTaskMessage(message)) return message;
  const reason = `it said ${JSON.stringify(line.slice(0, 200))}`;
  throw new DvceError('PROTOCOL', { peer: 'the image process', reason });
}
