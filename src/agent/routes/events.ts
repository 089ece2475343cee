/**
 * The event stream (Server-Sent Events, HTML Living Standard 9.2): `id:` is the number of the event, so `Last-Event-ID` resumes.
 *
 * A listener that does not read is disconnected when limits.eventBacklogBytes wait for it: it comes back with the number of the last
 * event that it took and gets the rest, or 410 and looks at the objects again. Every limits.eventBeatMs a comment keeps proxies
 * from closing a silent stream, and the number of the newest event keeps a listener of rare events within the ring.
 */
import type { FastifyReply, FastifyRequest } from 'fastify';
import Type from 'typebox';
import type { Event } from '../../api/index.ts';
import { DvceError, limits, type Timers } from '../../base/index.ts';
import { maySee } from '../access.ts';
import type { Agent } from '../agent.ts';
import { type Events, parsePatterns } from '../events.ts';
import { identityOf } from '../http/guard.ts';
import { answers, type Server } from './types.ts';

export function eventRoutes(server: Server, { events, timers, tokens }: Agent): void {
  server.get(
    '/v1/events',
    {
      schema: {
        operationId: 'listenToEvents',
        tags: ['events'],
        summary: 'What changes, as a stream of server-sent events; 410 when the number is too old',
        querystring: Type.Object({
          since: Type.Optional(
            Type.Integer({
              minimum: 0,
              maximum: Number.MAX_SAFE_INTEGER,
              description:
                'Number of the last event seen; 0: all that are kept. The header Last-Event-ID says the same.',
            }),
          ),
          types: Type.Optional(
            Type.String({ maxLength: 1000, description: 'For example vm.*,operation.ended.' }),
          ),
        }),
        response: answers({
          200: {
            description: 'A stream of events; the data of each is an Event as JSON.',
            content: { 'text/event-stream': { schema: Type.String() } },
          },
        }),
      },
    },
    (request, reply) => {
      const { types } = request.query;
      const since = request.query.since ?? lastEventId(request);
      const identity = identityOf(request);
      const viewer: Viewer = {
        sees: (event) => maySee(identity, objectsOf(event)),
        stays: () => tokens.isValid(identity),
      };
      stream(
        events,
        timers,
        viewer,
        request,
        reply,
        since,
        types === undefined ? [] : parsePatterns(types),
      );
    },
  );
}

function lastEventId({ headers }: FastifyRequest): number | undefined {
  const text = headers['last-event-id'];
  if (text === undefined || text === '') return undefined;
  const number = typeof text === 'string' && /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
  if (Number.isSafeInteger(number)) return number;
  throw new DvceError('INVALID_ARGUMENT', {
    what: 'the header Last-Event-ID',
    reason: 'it is not the number of an event',
    advice: 'Listen without it.',
  });
}

/** Who listens: what may be shown, and whether the token still holds. */
interface Viewer {
  readonly sees: (event: Event) => boolean;
  readonly stays: () => boolean;
}

/** An operation is about the objects that it works on. */
const objectsOf = ({ type, resource, data }: Event): readonly string[] =>
  type.startsWith('operation.') && Array.isArray(data['resources'])
    ? data['resources'].map(String)
    : [resource];

function stream(
  events: Events,
  timers: Timers,
  viewer: Viewer,
  request: FastifyRequest,
  reply: FastifyReply,
  since: number | undefined,
  patterns: readonly string[],
): void {
  const { raw } = reply;
  const waiting: string[] = [];
  let begun = false;
  const send = (text: string): void => {
    if (!begun) {
      waiting.push(text);
      return;
    }
    if (!viewer.stays()) {
      raw.destroy();
      return;
    }
    raw.write(text);
    // The one who cannot keep up is told so by the end, not by gaps.
    if (raw.writableLength > limits.eventBacklogBytes) raw.destroy();
  };
  const newest = events.newest;
  const stop = events.follow(
    since,
    patterns,
    (event) =>
      viewer.sees(event) &&
      send(`id: ${event.seq}\nevent: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`),
    () => raw.end(),
  );
  // From here on nothing throws: the answer is ours.
  reply.hijack();
  request.raw.socket.setTimeout(0);
  raw.writeHead(200, {
    'content-type': 'text/event-stream',
    'cache-control': 'no-store',
    'x-accel-buffering': 'no',
  });
  begun = true;
  send(`retry: ${limits.eventRetryMs}\n: listening\n\n`);
  for (const text of waiting) send(text);
  send(`id: ${newest}\n\n`);
  let beat = timers.after(limits.eventBeatMs, function again() {
    send(`: beat\nid: ${events.newest}\n\n`);
    beat = timers.after(limits.eventBeatMs, again);
  });
  raw.once('close', () => {
    beat.cancel();
    stop();
  });
}
