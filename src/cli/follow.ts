/**
 * Follow an operation to its end: progress on standard error, the failure as an error, Ctrl-C as the command wants it.
 * The first Ctrl-C cancels (or only lets go of) the operation, the second ends the command at once.
 */
import { fromProblem, type Operation } from '../api/index.ts';
import { DvceError } from '../base/errors.ts';
import { formatDuration, formatSize } from '../base/units.ts';
import type { Context } from './context.ts';
import type { Given } from './spec.ts';

export interface FollowOptions {
  /** Cancel the operation on Ctrl-C instead of leaving it alone. */
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

/** Wait with progress; Ctrl-C as the options say. */
export async function waitFor(
  context: Context,
  operation: Operation,
  options: FollowOptions,
): Promise<Operation> {
  const { api } = context;
  const progress = progressOf(context, operation.kind);
  const interrupt = new AbortController();
  let cancelled = false;
  const onInterrupt = (): void => {
    if (cancelled || !options.cancelOnInterrupt) {
      interrupt.abort(interrupted(operation, cancelled));
      return;
    }
    cancelled = true;
    context.output.note('Cancelling; press Ctrl-C again to leave at once.');
    api.operations.cancel(operation.id).catch((error: unknown) => {
      // An operation that ended meanwhile is seen by the wait below.
      if (!(error instanceof DvceError && error.code === 'CONFLICT')) interrupt.abort(error);
    });
  };
  process.on('SIGINT', onInterrupt);
  try {
    return await api.operations.wait(operation.id, {
      signal: interrupt.signal,
      onProgress: progress.update,
      ...(options.waitMs === undefined ? {} : { timeoutMs: options.waitMs }),
    });
  } finally {
    process.off('SIGINT', onInterrupt);
    progress.end();
  }
}

const interrupted = (operation: Operation, cancelled: boolean): DvceError =>
  new DvceError('INTERRUPTED', {
    what: `the wait for operation ${operation.id} (${operation.kind})`,
    advice: cancelled
      ? `Its cancellation goes on; see: dvce op show ${operation.id}`
      : `The operation goes on; see: dvce op wait ${operation.id}`,
  });

/** On a terminal one line that is drawn again, else a line for every tenth. */
function progressOf(context: Context, kind: string) {
  const { output } = context;
  let drawn = false;
  let tenth = -1;
  const textOf = ({ progress }: Operation): string => {
    if (progress === null) return kind;
    const { done, total, unit, etaMs } = progress;
    const amount = (value: number): string => (unit === 'bytes' ? formatSize(value) : `${value}`);
    if (total === null) return `${kind}: ${amount(done)}`;
    const percent = total === 0 ? 100 : Math.floor((done / total) * 100);
    const left = etaMs === null ? '' : `, ${formatDuration(etaMs)} left`;
    return `${kind}: ${amount(done)} of ${amount(total)} (${percent}%${left})`;
  };
  return {
    update: (operation: Operation): void => {
      if (output.live) {
        output.progress(textOf(operation));
        drawn = true;
        return;
      }
      const { done = 0, total = null } = operation.progress ?? {};
      const now = total === null || total === 0 ? -1 : Math.floor((done / total) * 10);
      if (now > tenth) {
        tenth = now;
        output.note(textOf(operation));
      }
    },
    end: (): void => {
      if (drawn) output.progress('');
    },
  };
}
