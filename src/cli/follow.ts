/**
 * Follow an operation to its end: progress on standard error, the failure as an error.
 *
 * Ctrl-C once: on a terminal the question whether to cancel the operation or to leave it alone, elsewhere whichever of the two the
 * command wants. Ctrl-C twice: the command ends at once with 130, the operation goes on. An agent that goes away meanwhile is
 * waited for a little: one that was restarted knows what became of the operation.
 */
import { setTimeout as after } from 'node:timers/promises';
import { fromProblem, type Operation } from '../api/index.ts';
import { systemClock } from '../base/clock.ts';
import { DvceError, exitCodes } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import { formatDuration } from '../base/units.ts';
import type { Context } from './context.ts';
import { type Progress, progressOf } from './progress.ts';
import type { Given } from './spec.ts';

export interface FollowOptions {
  /** What the first Ctrl-C means where nobody can be asked: cancel the operation, or leave it alone. */
  readonly cancelOnInterrupt: boolean;
  /** Total time to wait; `--timeout` when not given. */
  readonly waitMs?: number;
}

/** @returns the ended operation; undefined with `--no-wait` */
export async function follow(
  context: Context,
  given: Given,
  operation: Operation,
  options: FollowOptions,
): Promise<Operation | undefined> {
  const { output } = context;
  if (given.choice('wait') === false) {
    if (output.json) output.object(operation);
    else output.line(operation.id);
    return undefined;
  }
  const waitMs = options.waitMs ?? given.number('timeout');
  const ended = await waitFor(context, operation, {
    ...options,
    ...(waitMs === undefined ? {} : { waitMs }),
  });
  if (ended.status === 'succeeded') return ended;
  throw failureOf(ended);
}

/** Why an ended operation did not succeed. */
export function failureOf(operation: Operation): DvceError {
  if (operation.error !== null) return fromProblem(operation.error);
  return new DvceError('CANCELLED', { what: `operation ${operation.id} (${operation.kind})` });
}

/** Wait with progress; Ctrl-C as described above. */
export async function waitFor(
  context: Context,
  operation: Operation,
  options: FollowOptions,
): Promise<Operation> {
  const { output } = context;
  const startedMs = systemClock.monotonicMs();
  output.detail(`Operation ${operation.id} (${operation.kind}).`);
  const progress = progressOf(output, operation.kind);
  const stop = new AbortController();
  const onInterrupt = interrupts(context, operation, options, progress, stop);
  process.on('SIGINT', onInterrupt);
  try {
    const ended = await untilEnded(context, operation, options, progress, stop.signal);
    const tookMs = systemClock.monotonicMs() - startedMs;
    output.detail(`Operation ${ended.id}: ${ended.status} after ${formatDuration(tookMs)}.`);
    return ended;
  } finally {
    process.off('SIGINT', onInterrupt);
    stop.abort();
    progress.end();
  }
}

async function untilEnded(
  { api, output }: Context,
  operation: Operation,
  { waitMs }: FollowOptions,
  progress: Progress,
  signal: AbortSignal,
): Promise<Operation> {
  const end = waitMs === undefined ? undefined : systemClock.monotonicMs() + waitMs;
  let awayMs: number | undefined;
  const onProgress = (state: Operation): void => {
    awayMs = undefined;
    progress.update(state);
  };
  for (;;) {
    const now = systemClock.monotonicMs();
    const timeoutMs = end === undefined ? {} : { timeoutMs: Math.max(0, end - now) };
    try {
      return await api.operations.wait(operation.id, { signal, onProgress, ...timeoutMs });
    } catch (error) {
      const away = awayOrThrow(operation, { waitMs, end }, error);
      if (awayMs === undefined) output.note('The agent went away; waiting for it to come back.');
      awayMs ??= now;
      if (now - awayMs >= limits.agentReturnMs) throw lost(operation, away);
    }
    await after(limits.agentReturnPollMs, undefined, { signal }).catch(() => {
      throw signal.reason;
    });
  }
}

/** Only an agent that does not answer is worth another try, while the time that was given is not over. */
function awayOrThrow(
  operation: Operation,
  { waitMs, end }: { waitMs: number | undefined; end: number | undefined },
  error: unknown,
): DvceError {
  if (!(error instanceof DvceError)) throw error;
  if (error.code === 'AGENT_UNAVAILABLE') return error;
  if (error.code !== 'TIMED_OUT') throw error;
  if (waitMs !== undefined && end !== undefined && systemClock.monotonicMs() >= end)
    throw timedOut(operation, waitMs, error);
  // A request that nobody took: one process listens for another, which is slow to start or stuck.
  return error;
}

const timedOut = ({ id, kind }: Operation, ms: number, cause: unknown): DvceError =>
  new DvceError('TIMED_OUT', { what: `operation ${id} (${kind})`, ms }, cause);

function lost({ id, kind }: Operation, cause: DvceError): DvceError {
  const { where, reason } = cause.context;
  return new DvceError(
    'AGENT_UNAVAILABLE',
    {
      where: String(where ?? 'its socket'),
      reason: `${reason ?? cause.message}; it went away while operation ${id} (${kind}) was under way. When it runs again, see: dvce op show ${id}`,
    },
    cause,
  );
}

const interrupted = ({ id, kind }: Operation, advice: string): DvceError =>
  new DvceError('INTERRUPTED', { what: `the wait for operation ${id} (${kind})`, advice });

/** What an interrupt does; each call is one. `stop` ends the wait. */
function interrupts(
  context: Context,
  operation: Operation,
  { cancelOnInterrupt }: FollowOptions,
  progress: Progress,
  stop: AbortController,
): () => void {
  const { api, output, input } = context;
  const { id, mayCancel } = operation;
  const goesOn = `The operation goes on; see: dvce op wait ${id}`;
  let begun = false;
  const leave = (advice: string): void => stop.abort(interrupted(operation, advice));
  const cancel = (): void => {
    output.note('Cancelling; press Ctrl-C again to leave at once.');
    api.operations.cancel(id).catch((error: unknown) => {
      // An operation that ended meanwhile is seen by the wait.
      if (!(error instanceof DvceError && error.code === 'CONFLICT')) stop.abort(error);
    });
  };
  const ask = async (): Promise<void> => {
    progress.hide(true);
    const { askInterrupt } = await import('./interrupt.ts');
    const answer = await askInterrupt(input, operation, stop.signal);
    progress.hide(false);
    if (answer === 'quit') process.exit(exitCodes.interrupted);
    if (answer === 'cancel') return cancel();
    if (answer === 'detach') return leave(goesOn);
    begun = false;
  };
  return () => {
    if (begun) return leave(`It goes on or is being cancelled; see: dvce op show ${id}`);
    begun = true;
    if (input.isTTY === true && output.live) ask().catch((error: unknown) => stop.abort(error));
    else if (cancelOnInterrupt && mayCancel) cancel();
    else leave(goesOn);
  };
}
