/** Start the other processes of dvce: in place of this one, in the background, or for one answer. */
import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Doctor, Shutdown } from '../api/index.ts';
import { DvceError, type ErrorCode, type ErrorContext, exitCodes } from '../base/errors.ts';
import type { Context } from './context.ts';
import type { Given } from './spec.ts';

/** `.ts` in a checkout, `.js` in the installed package. */
const extension = import.meta.url.endsWith('.ts') ? '.ts' : '.js';
const folder = extension === '.ts' ? 'src' : 'dist';
/** `blockd/main` to the file that runs. */
const entryOf = (context: Context, name: string): string =>
  join(context.programRoot, folder, `${name}${extension}`);

/** For the agent: a socket that is not in its data directory. */
export const socketOption = ({ dataDirectory, socketPath }: Context): readonly string[] =>
  socketPath === join(dataDirectory, 'run/agent.sock') ? [] : ['--api-socket', socketPath];

/** For the agent: the door to other hosts. */
export const doorOptions = (given: Given): readonly string[] =>
  ['apiListen', 'apiCertFile', 'apiKeyFile'].flatMap((name) => {
    const value = given.text(name);
    const flag = `--${name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    // The agent in the background works in another directory.
    return value === undefined ? [] : [flag, name.endsWith('File') ? resolve(value) : value];
  });

const quiet = '--disable-warning=ExperimentalWarning';

/** Become `name` (execve): same process id, so that signals and supervisors reach it. Does not return. */
export function become(context: Context, name: string, more: readonly string[]): never {
  const entry = entryOf(context, name);
  if (process.execve === undefined)
    throw new DvceError('UNSUPPORTED', {
      what: `running ${name} from here`,
      reason: 'this platform has no execve',
      advice: `Run: node ${entry} --data-dir ${context.dataDirectory}`,
    });
  const environment = Object.fromEntries(
    Object.entries(context.environment).flatMap(([key, value]) =>
      value === undefined ? [] : [[key, value]],
    ),
  );
  process.execve(
    process.execPath,
    [process.execPath, quiet, entry, '--data-dir', context.dataDirectory, ...more],
    environment,
  );
  throw new DvceError('INTERNAL', { reason: 'execve came back' });
}

export interface Started {
  readonly pid: number;
  readonly logPath: string;
  /** Exit code or signal once it has ended. */
  ended(): string | undefined;
}

/** Start the agent so that it outlives this process. It keeps a log; what it prints is the reason of a failed start. */
export function startAgent(
  context: Context,
  options: readonly string[],
  blockdOptions: readonly string[],
): Started {
  const directory = join(context.dataDirectory, 'log');
  mkdirSync(directory, { recursive: true, mode: 0o750 });
  const logPath = join(directory, 'agent-start.log');
  const log = openSync(logPath, 'w', 0o640);
  let ended: string | undefined;
  try {
    const child = spawn(
      process.execPath,
      [
        quiet,
        entryOf(context, 'agent/main'),
        '--data-dir',
        context.dataDirectory,
        '--log',
        join(directory, 'agent.log'),
        ...socketOption(context),
        ...options,
        '--',
        ...blockdOptions,
      ],
      { detached: true, stdio: ['ignore', log, log], cwd: '/' },
    );
    child.on('error', (error) => {
      ended = error.message;
    });
    child.on('exit', (code, signal) => {
      ended = signal ?? `exit code ${code}`;
    });
    child.unref();
    return { pid: child.pid ?? 0, logPath, ended: () => ended };
  } finally {
    closeSync(log);
  }
}

/** Stop what an agent that was killed left running. @returns the exit code; why it failed was printed */
export function stopRemains(context: Context, request: Shutdown): Promise<number> {
  const child = spawn(
    process.execPath,
    [
      quiet,
      entryOf(context, 'agent/main'),
      '--data-dir',
      context.dataDirectory,
      ...socketOption(context),
      '--stop',
      JSON.stringify(request),
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  // Its log lines are not for the operator; the reason of a failure is.
  let complaint = '';
  child.stderr.on('data', (bytes: Buffer) => {
    complaint += bytes.toString('utf8');
  });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => {
      const at = complaint.lastIndexOf('error: ');
      if (code !== 0 && at >= 0) context.output.error(complaint.slice(at).trimEnd());
      resolve(code ?? exitCodes.failed);
    });
  });
}

/** Run the checks of `dvce doctor` without an agent. */
export function runDoctor(context: Context): Promise<Doctor> {
  const qemu = context.environment['DVCE_QEMU'];
  return answerOf(
    context,
    'agent/doctor-main',
    qemu === undefined || qemu === '' ? [] : ['--qemu', qemu],
  );
}

export interface Bundle {
  readonly path: string;
  readonly sizeBytes: number;
  readonly missing: readonly string[];
}

/** Write a support bundle, with or without an agent. */
export async function writeSupportBundle(context: Context, path: string): Promise<Bundle> {
  const qemu = context.environment['DVCE_QEMU'];
  const answer = await answerOf<Bundle | { error: { code: ErrorCode; context: ErrorContext } }>(
    context,
    'agent/support-bundle-main',
    ['--output', path, ...(qemu === undefined || qemu === '' ? [] : ['--qemu', qemu])],
  );
  if ('error' in answer) throw new DvceError(answer.error.code, answer.error.context);
  return answer;
}

/** Run a process of ours that answers with one JSON object. */
async function answerOf<T>(context: Context, entry: string, words: readonly string[]): Promise<T> {
  const child = spawn(
    process.execPath,
    [quiet, entryOf(context, entry), '--data-dir', context.dataDirectory, ...words],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const parts: Buffer[] = [];
  for await (const part of child.stdout as AsyncIterable<Buffer>) parts.push(part);
  try {
    return JSON.parse(Buffer.concat(parts).toString('utf8')) as T;
  } catch (error) {
    throw new DvceError('INTERNAL', { reason: `${entry} ended without an answer` }, error);
  }
}

/** Read a segment or a journal in a process of its own, which needs no agent. @throws what it answers as an error */
export async function runDump(context: Context, args: readonly string[]): Promise<unknown> {
  const entry = entryOf(context, 'blockd/dump-main');
  const where = ['--data-dir', context.dataDirectory];
  const child = spawn(process.execPath, [quiet, entry, ...where, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const parts: Buffer[] = [];
  for await (const part of child.stdout as AsyncIterable<Buffer>) parts.push(part);
  const text = Buffer.concat(parts).toString('utf8');
  let answer: { error?: { code: ErrorCode; context: ErrorContext } };
  try {
    answer = JSON.parse(text) as typeof answer;
  } catch (error) {
    throw new DvceError('INTERNAL', { reason: 'reading ended without an answer' }, error);
  }
  if (answer.error !== undefined) throw new DvceError(answer.error.code, answer.error.context);
  return answer;
}
