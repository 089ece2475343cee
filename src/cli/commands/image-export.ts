/** `dvce image export` */

import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { resolve } from 'node:path';
import { fromProblem } from '../../api/index.ts';
import { systemClock } from '../../base/clock.ts';
import { DvceError } from '../../base/errors.ts';
import type { Context } from '../context.ts';
import { checkTarget, type Exported, writeExport } from '../export-file.ts';
import { size } from '../format.ts';
import { usageError } from '../output.ts';
import type { Run } from '../spec.ts';

/** `NAME` is an image; what has a slash is a volume, with or without a snapshot. */
function sourceOf(text: string): { path: string; snapshot: string | undefined } {
  const at = text.lastIndexOf('@');
  const path = at < 0 ? text : text.slice(0, at);
  const snapshot = at < 0 ? undefined : text.slice(at + 1);
  return { path: path.includes('/') ? path : `/images/${path}`, snapshot };
}

export const exportImage: Run = async (context, given) => {
  const { output } = context;
  const source = given.argument('source');
  const file = given.argument('file');
  const format = given.text('format') ?? 'raw';
  const gone = new AbortController();
  const interrupt = (): void =>
    gone.abort(
      new DvceError('INTERRUPTED', { what: `the export of ${source}`, advice: 'Nothing is kept.' }),
    );
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, interrupt);
  try {
    const job = { context, source, format, signal: gone.signal };
    if (file === '-') {
      const { sha256 } = await toStandardOutput(job);
      output.note(`sha256 ${sha256}`);
      return;
    }
    const path = resolve(file);
    const exported = await toFile(job, path, given.flag('force'));
    const facts = { source, file: path, format, ...exported };
    const what = `${source} to ${file} (${format}, ${size(exported.fileBytes)})`;
    output.changed(facts, path, `Exported ${what}, sha256 ${exported.sha256}.`);
  } finally {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, interrupt);
  }
};

interface Job {
  readonly context: Context;
  readonly source: string;
  readonly format: string;
  readonly signal: AbortSignal;
}

async function toFile(job: Job, path: string, mayReplace: boolean): Promise<Exported> {
  await checkTarget(path, mayReplace);
  const { body, operation } = await open(job, 'sparse');
  const tell = progress(job);
  try {
    return await writeExport(body, path, mayReplace, tell.update);
  } catch (error) {
    throw await reason(job, operation, error);
  } finally {
    tell.end();
    body.destroy();
  }
}

async function toStandardOutput(job: Job): Promise<{ sha256: string }> {
  if (process.stdout.isTTY === true)
    throw usageError('the file -', 'standard output is a terminal', 'Redirect it: > disk.raw');
  const { body, operation } = await open(job, 'plain');
  const hash = createHash('sha256');
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      hash.update(chunk);
      if (!process.stdout.write(chunk)) await once(process.stdout, 'drain', { signal: job.signal });
    }
  } catch (error) {
    throw await reason(job, operation, error);
  } finally {
    body.destroy();
  }
  const sha256 = hash.digest('hex');
  const { result, status, error } = await job.context.api.operations.wait(operation);
  const { digest } = Object(result) as { digest?: unknown };
  if (error !== null) throw fromProblem(error);
  if (status !== 'succeeded' || digest !== `sha256:${sha256}`)
    throw new DvceError('PROTOCOL', { peer: "the agent's export", reason: 'its digest differs' });
  return { sha256 };
}

async function open(job: Job, framing: 'plain' | 'sparse') {
  const { path, snapshot } = sourceOf(job.source);
  const { api } = job.context;
  const query = { snapshot, format: job.format, framing };
  const { body, location } = await api.volumes.content(path, query, job.signal);
  return { body, operation: location?.split('/').at(-1) ?? '' };
}

/** The stream only breaks; why, the operation knows. */
async function reason(
  { context, signal }: Job,
  operation: string,
  error: unknown,
): Promise<unknown> {
  if (signal.aborted) return signal.reason;
  if (error instanceof DvceError && error.code !== 'PROTOCOL' && error.code !== 'IO_FAILED')
    return error;
  try {
    const ended = await context.api.operations.wait(operation, { timeoutMs: 5000 });
    return ended.error === null ? error : fromProblem(ended.error);
  } catch (cause) {
    // The agent is gone, or has not noticed yet.
    return cause instanceof DvceError && cause.code === 'TIMED_OUT' ? error : cause;
  }
}

const everyMs = 250;

function progress({ context: { output }, source }: Job) {
  let nextMs = 0;
  return {
    update: (doneBytes: number): void => {
      if (!output.live || systemClock.monotonicMs() < nextMs) return;
      nextMs = systemClock.monotonicMs() + everyMs;
      output.progress(`export of ${source}: ${size(doneBytes)}`);
    },
    end: (): void => {
      if (output.live) output.progress('');
    },
  };
}
