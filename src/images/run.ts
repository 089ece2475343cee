/** The parent's side: start an import process and talk to it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { DvceError, limits, type Timers } from '../base/index.ts';
import {
  type ImageDescription,
  type ImageFormat,
  type ImageTarget,
  type ImportMessage,
  type ImportProgress,
  type ImportRequest,
  type ImportResult,
  isImportMessage,
} from './protocol.ts';

/** The program of the import process: run it with Node. */
const importEntry: string = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? './main.ts' : './main.js', import.meta.url),
);

export interface RunImportOptions {
  /** Absolute path, or http(s) address. */
  readonly source: string;
  readonly format?: ImageFormat | 'auto';
  /** Lower-case hex, with or without `sha256:` before it. */
  readonly sha256?: string | null;
  /** A directory on a disk with room for the image's file; made when missing. */
  readonly temporaryDirectory: string;
  readonly timers: Timers;
  /** Cancels; the promise rejects when the process has ended. */
  readonly signal: AbortSignal;
  onProgress?(progress: ImportProgress): void;
  /**
   * Make an empty volume of `description.volumeBytes`, export it, and say where. When the import fails afterwards the
   * caller deletes it, which returns the space.
   */
  prepareVolume(description: ImageDescription): Promise<ImageTarget>;
}

/** Import an image in a process of its own; rejects with the table error of what went wrong. */
export async function runImport(options: RunImportOptions): Promise<ImportResult> {
  const request = requestOf(options);
  options.signal.throwIfAborted();
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', importEntry], {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { LC_ALL: 'C' },
    cwd: '/',
  });
  const ended = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('close', (status, signal) => resolve(`it ended with ${signal ?? status}`));
  });
  const cancel = (): void => terminate(child, options.timers);
  options.signal.addEventListener('abort', cancel, { once: true });
  try {
    return await converse(child, request, options, ended);
  } finally {
    options.signal.removeEventListener('abort', cancel);
    child.stdin?.destroy();
    cancel(); // does nothing to a process that has ended
    await ended;
  }
}

function requestOf(options: RunImportOptions): ImportRequest {
  const sha256 = options.sha256?.replace(/^sha256:/, '').toLowerCase() ?? null;
  if (sha256 !== null && !/^[0-9a-f]{64}$/.test(sha256))
    throw new DvceError('INVALID_ARGUMENT', {
      what: 'the sha256',
      reason: 'it does not have 64 hexadecimal digits',
      advice: 'Give what sha256sum prints.',
    });
  return {
    version: 1,
    source: options.source,
    format: options.format ?? 'auto',
    sha256,
    temporaryDirectory: options.temporaryDirectory,
  };
}

function terminate(child: ChildProcess, timers: Timers): void {
  child.kill('SIGTERM');
  const timer = timers.after(limits.imageCancelMs, () => child.kill('SIGKILL'));
  child.once('close', () => timer.cancel());
}

async function converse(
  child: ChildProcess,
  request: ImportRequest,
  options: RunImportOptions,
  ended: Promise<string>,
): Promise<ImportResult> {
  const { stdin, stdout, stderr } = child;
  if (stdin === null || stdout === null || stderr === null)
    throw new DvceError('INTERNAL', { reason: 'the import process has no pipes' });
  stdin.on('error', () => {}); // the process ended; `ended` and its last message tell why
  let complaint = '';
  stderr.on('data', (chunk: Buffer) => {
    complaint = (complaint + chunk.toString()).slice(-1000);
  });
  stdin.write(`${JSON.stringify(request)}\n`);
  for await (const line of createInterface({ input: stdout })) {
    const message = parse(line);
    if ('progress' in message) options.onProgress?.(message.progress);
    else if ('described' in message) {
      const target = await options.prepareVolume(message.described);
      stdin.write(`${JSON.stringify({ target })}\n`);
    } else if ('result' in message) return message.result;
    else throw new DvceError(message.error.code, message.error.context);
  }
  options.signal.throwIfAborted();
  const reason = `the import process gave no answer: ${await ended} ${complaint}`.trim();
  throw new DvceError('INTERNAL', { reason });
}

function parse(line: string): ImportMessage {
  let message: unknown;
  try {
    message = JSON.parse(line);
  } catch {
    message = undefined; // refused below
  }
  if (isImportMessage(message)) return message;
  const reason = `it said ${JSON.stringify(line.slice(0, 200))}`;
  throw new DvceError('PROTOCOL', { peer: 'the import process', reason });
}
