/**
 * ETag, If-Match, If-None-Match (RFC 9110, 13): so that a change is made to what its author looked at.
 *
 * The tag of an object is a hash of its JSON without its counters (`open` of a volume changes with every request of the guest; a tag
 * that never holds still would refuse every change). Every change with If-Match is alone with its object from the comparison
 * to its end: other changes of it wait, and it waits for those under way. A stale tag ends as 412 with the code CONFLICT.
 */
import { createHash } from 'node:crypto';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { DvceError, limits, sleep, type Timers } from '../../base/index.ts';
import type { Server } from '../routes/types.ts';
import { HttpRefusal } from './errors.ts';

/** Properties that count and measure, and say nothing about what was decided. */
const counters = new Set(['open', 'usage', 'stats', 'activity']);

export function tagOf(value: unknown): string {
  const text = JSON.stringify(value, (name, inner: unknown) =>
    counters.has(name) ? undefined : inner,
  );
  return `"${createHash('sha256').update(text).digest('base64url').slice(0, 22)}"`;
}

/** Whether a header such as `"a", W/"b"` or `*` names the tag. */
export function names(header: string, tag: string): boolean {
  if (header.trim() === '*') return true;
  return header.split(',').some((one) => one.trim() === tag);
}

/** Changes under way, per object. */
class Changes {
  readonly #waits = new Map<string, { count: number; alone: boolean }>();
  readonly #timers: Timers;

  constructor(timers: Timers) {
    this.#timers = timers;
  }

  /** @returns the end of the change */
  async enter(url: string, alone: boolean): Promise<() => void> {
    for (let tries = 0; tries < limits.apiTurnMs / 10; tries += 1) {
      const now = this.#waits.get(url);
      if (now === undefined || (!alone && !now.alone)) {
        this.#waits.set(url, { count: (now?.count ?? 0) + 1, alone });
        return () => this.#leave(url);
      }
      await sleep(this.#timers, 10);
    }
    throw new DvceError('BUSY', { what: url, reason: 'another change of it is under way' });
  }

  #leave(url: string): void {
    const now = this.#waits.get(url);
    if (now === undefined || now.count <= 1) this.#waits.delete(url);
    else this.#waits.set(url, { ...now, count: now.count - 1 });
  }
}

const ends = new WeakMap<FastifyRequest, () => void>();

export function compareTags(server: Server, timers: Timers): void {
  /** Patterns of URLs at which an object is shown. */
  const objects = new Set<string>();
  const changes = new Changes(timers);
  server.addHook('onRoute', ({ method, url, schema }) => {
    const good = (schema?.response as Record<string, { $ref?: string }> | undefined)?.['200']?.$ref;
    if (method === 'GET' && good !== undefined && !good.endsWith('List#') && url.includes(':'))
      objects.add(url);
  });
  server.addHook('preSerialization', async (request, reply, payload) => {
    if (
      request.method === 'GET' &&
      reply.statusCode === 200 &&
      objects.has(request.routeOptions.url ?? '')
    )
      reply.header('etag', tagOf(payload));
    return payload;
  });
  server.addHook('onSend', async (request, reply, payload) => {
    const known = request.headers['if-none-match'];
    const tag = reply.getHeader('etag');
    if (known === undefined || typeof tag !== 'string' || !names(known, tag)) return payload;
    reply.code(304).removeHeader('content-type').removeHeader('content-length');
    return null;
  });
  server.addHook('preHandler', async (request) => {
    if (request.method === 'GET') return;
    const url = objectOf(request, objects);
    const wanted = request.headers['if-match'];
    if (url === undefined) {
      if (wanted !== undefined)
        throw new HttpRefusal(412, 'INVALID_ARGUMENT', {
          what: 'the header If-Match',
          reason: 'there is no object at this URL',
          advice: 'Send it with a change of one object.',
        });
      return;
    }
    const end = await changes.enter(url, wanted !== undefined);
    ends.set(request, end);
    if (wanted !== undefined) await compare(server, url, wanted);
  });
  const leave = async (request: FastifyRequest): Promise<void> => {
    ends.get(request)?.();
    ends.delete(request);
  };
  // Every answer passes here, also that to a client that has gone.
  server.addHook('onSend', async (request: FastifyRequest, _: FastifyReply, payload) => {
    await leave(request);
    return payload;
  });
}

/** URL of the object that a change is about: that of the request, or the nearest above it at which one is shown. */
function objectOf(request: FastifyRequest, objects: ReadonlySet<string>): string | undefined {
  const pattern = (request.routeOptions.url ?? '').split('/');
  const path = (request.url.split('?', 1)[0] ?? '').split('/');
  for (let parts = pattern.length; parts > 2; parts -= 1)
    if (objects.has(pattern.slice(0, parts).join('/'))) return path.slice(0, parts).join('/');
  return undefined;
}

async function compare(server: Server, url: string, wanted: string): Promise<void> {
  const answer = await server.inject({ method: 'GET', url });
  if (answer.statusCode === 404)
    throw new HttpRefusal(412, 'CONFLICT', { kind: 'object', name: url, reason: 'it is gone' });
  const tag = answer.headers.etag;
  if (typeof tag !== 'string')
    throw new DvceError('INTERNAL', { reason: `${url} has no tag (${answer.statusCode})` });
  if (names(wanted, tag)) return;
  throw new HttpRefusal(412, 'CONFLICT', {
    kind: 'object',
    name: url,
    reason: `its tag is ${tag} now`,
  });
}
