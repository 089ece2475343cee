/** `dvce event`: follow the event stream, and come back to it where it broke. */
import { setTimeout as after } from 'node:timers/promises';
import { type Event, sse } from '../../api/index.ts';
import { DvceError } from '../../base/errors.ts';
import { limits } from '../../base/limits.ts';
import type { Context } from '../context.ts';
import { time } from '../format.ts';
import { type Output, usageError } from '../output.ts';
import type { Run } from '../spec.ts';
import { printable } from '../text.ts';

/** The end that was asked for: no failure. */
class Enough extends Error {}

export const event: Run = async (context, given) => {
  const stop = new AbortController();
  const timeoutMs = given.number('timeout');
  const limit = given.number('limit') ?? Number.POSITIVE_INFINITY;
  const done = new AbortController();
  if (timeoutMs !== undefined)
    after(timeoutMs, undefined, { signal: done.signal }).then(
      () => stop.abort(new Enough()),
      () => {}, // ended before
    );
  let count = 0;
  try {
    await follow(
      context,
      numberOf(given.text('since')),
      given.text('types'),
      stop.signal,
      (one) => {
        print(context, one);
        count += 1;
        if (count >= limit) stop.abort(new Enough());
      },
    );
  } catch (error) {
    if (!(error instanceof Enough)) throw error;
  } finally {
    done.abort();
  }
};

function numberOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (/^\d{1,16}$/.test(text) && Number.isSafeInteger(Number(text))) return Number(text);
  throw usageError('--since', 'it is not the number of an event', 'For example 0.');
}

/** Where a listener stands. */
interface Place {
  since: number | undefined;
  hasBegun: boolean;
}

async function follow(
  context: Context,
  from: number | undefined,
  types: string | undefined,
  signal: AbortSignal,
  hear: (event: Event) => void,
): Promise<void> {
  const { output } = context;
  const place: Place = { since: from, hasBegun: false };
  for (;;) {
    try {
      await listen(context, place, types, signal, hear);
      if (signal.aborted) throw signal.reason;
      output.note('The stream was cut; listening again.');
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      goesOn(output, place, error);
    }
    await after(limits.eventRetryMs, undefined, { signal }).catch(() => {
      throw signal.reason;
    });
  }
}

/** Until the stream ends. */
async function listen(
  { api }: Context,
  place: Place,
  types: string | undefined,
  signal: AbortSignal,
  hear: (event: Event) => void,
): Promise<void> {
  const query = { since: place.since, types };
  const { body } = await api.http.stream('/v1/events', { query, signal });
  place.hasBegun = true;
  for await (const message of sse(body, signal)) {
    if (message.id !== undefined) place.since = message.id;
    if (message.data !== undefined) hear(JSON.parse(message.data) as Event);
    if (signal.aborted) throw signal.reason;
  }
}

/** What a listener may live through. At the first try no agent is a failure; later it may come back. */
function goesOn(output: Output, place: Place, error: unknown): void {
  if (!(error instanceof DvceError && place.hasBegun)) throw error;
  if (error.code === 'AGENT_UNAVAILABLE') return;
  if (error.code !== 'GONE') throw error;
  output.note(`${error.message}; going on from now, list the objects again.`);
  place.since = undefined;
}

function print({ output }: Context, one: Event): void {
  const { format } = output.options;
  // Of a stream every line is an object of its own.
  if (format === 'json') output.line(JSON.stringify(one));
  else if (format === 'yaml') {
    output.raw('---\n');
    output.object(one);
  } else if (output.names) output.line(one.resource);
  else output.line(lineOf(one));
}

function lineOf({ seq, at, type, resource, data }: Event): string {
  const more = Object.entries(data)
    .filter(([, value]) => typeof value !== 'object')
    .map(([key, value]) => `${key}=${value}`)
    .join(' ');
  return printable([`${seq}`, time(at), type, resource, more].join('  ').trimEnd());
}
