/**
 * Idempotency-Key on POST: a client that got no answer asks again with the same key and gets the answer of the first time.
 *
 *   key, new            --> run, keep the answer (with a sync) before it is sent
 *   key, being answered --> wait for that answer, at most limits.idempotencyWaitMs; then 429
 *   key, answered       --> that answer again, with `idempotency-replayed: true`; an other request under the key: 422
 *
 * Invariants
 * - only good answers are kept: after a failure the same key may try again;
 * - a key belongs to who sent it; what is kept is bounded in number, age and size, and survives the agent;
 * - when the agent dies between the work and the keeping, the second request runs again. It finds what the first one made
 *   (ALREADY_EXISTS), because everything that a POST makes has a name; nothing is made twice.
 */
import { createHash } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { ClassicLevel } from 'classic-level';
import type { FastifyReply, FastifyRequest } from 'fastify';
import {
  type Clock,
  DvceError,
  type Logger,
  limits,
  type Timers,
  toDvceError,
} from '../../base/index.ts';
import type { Server } from '../routes/types.ts';
import { HttpRefusal } from './errors.ts';
import { identityOf } from './guard.ts';

interface Kept {
  readonly fingerprint: string;
  readonly atMs: number;
  readonly status: number;
  readonly type: string | null;
  readonly location: string | null;
  readonly body: string;
}

interface Waiting {
  readonly fingerprint: string;
  readonly done: Promise<Kept | undefined>;
  readonly end: (kept: Kept | undefined) => void;
}

interface Asked {
  readonly name: string;
  readonly fingerprint: string;
}

export class IdempotencyKeys {
  readonly #level: ClassicLevel<string, Kept>;
  readonly #clock: Clock;
  readonly #timers: Timers;
  readonly #running = new Map<string, Waiting>();
  /** Name -> when it was kept; oldest first. */
  readonly #ages: Map<string, number>;

  private constructor(
    level: ClassicLevel<string, Kept>,
    clock: Clock,
    timers: Timers,
    ages: Map<string, number>,
  ) {
    this.#level = level;
    this.#clock = clock;
    this.#timers = timers;
    this.#ages = ages;
  }

  /** What is kept may be lost without harm to the objects, so a store that cannot be opened is begun anew. */
  static async open(
    directory: string,
    clock: Clock,
    timers: Timers,
    logger: Logger,
  ): Promise<IdempotencyKeys> {
    const tried = await openLevel(directory).catch(async (error: unknown) => {
      logger.warn(
        { err: toDvceError(error) },
        'the kept idempotency keys cannot be read; beginning anew',
      );
      await ClassicLevel.destroy(directory);
      return openLevel(directory);
    });
    const ages: [string, number][] = [];
    for await (const [name, { atMs }] of tried.iterator()) ages.push([name, atMs]);
    ages.sort((a, b) => a[1] - b[1]);
    const keys = new IdempotencyKeys(tried, clock, timers, new Map(ages));
    await keys.#prune();
    return keys;
  }

  /** The answer to give, or undefined: the caller runs the request, and then calls `end`. */
  async begin({ name, fingerprint }: Asked): Promise<Kept | undefined> {
    const endMs = this.#clock.monotonicMs() + limits.idempotencyWaitMs;
    for (;;) {
      const running = this.#running.get(name);
      if (running === undefined) break;
      this.#compare(running.fingerprint, fingerprint);
      const kept = await this.#within(running.done, endMs);
      if (kept !== undefined) return kept;
      // The first one failed: this one is a new attempt, or waits for the one that was faster.
    }
    if (this.#running.size >= limits.idempotencyRunningMax)
      throw new DvceError('BUSY', {
        what: 'the agent',
        reason: `${limits.idempotencyRunningMax} requests with an Idempotency-Key are under way`,
      });
    const { promise, resolve } = Promise.withResolvers<Kept | undefined>();
    this.#running.set(name, { fingerprint, done: promise, end: resolve });
    try {
      const kept = await this.#level.get(name);
      if (kept === undefined || this.#clock.wallMs() - kept.atMs > limits.idempotencyAgeMs)
        return undefined;
      this.#compare(kept.fingerprint, fingerprint);
      this.#finish(name, kept);
      return kept;
    } catch (error) {
      this.#finish(name, undefined);
      throw error;
    }
  }

  /** @throws BUSY when the first request is not answered by then */
  async #within(done: Promise<Kept | undefined>, endMs: number): Promise<Kept | undefined> {
    const late = Promise.withResolvers<never>();
    const timer = this.#timers.after(Math.max(0, endMs - this.#clock.monotonicMs()), () =>
      late.reject(
        new DvceError('BUSY', {
          what: 'the first request with this Idempotency-Key',
          reason: `it was not answered within ${limits.idempotencyWaitMs} ms`,
        }),
      ),
    );
    try {
      return await Promise.race([done, late.promise]);
    } finally {
      timer.cancel();
    }
  }

  /** The request is answered; `kept` when the answer is worth it. Resolves when that is durable. */
  async end(name: string, kept: Kept | undefined): Promise<void> {
    try {
      if (kept !== undefined) {
        await this.#level.put(name, kept, { sync: true });
        this.#ages.delete(name);
        this.#ages.set(name, kept.atMs);
        await this.#prune();
      }
    } finally {
      this.#finish(name, kept);
    }
  }

  #finish(name: string, kept: Kept | undefined): void {
    this.#running.get(name)?.end(kept);
    this.#running.delete(name);
  }

  #compare(known: string, fingerprint: string): void {
    if (known !== fingerprint)
      throw new HttpRefusal(422, 'CONFLICT', {
        kind: 'Idempotency-Key',
        name: '',
        reason: 'it was used for another request',
      });
  }

  async #prune(): Promise<void> {
    const oldestMs = this.#clock.wallMs() - limits.idempotencyAgeMs;
    const gone: string[] = [];
    for (const [name, atMs] of this.#ages) {
      if (atMs >= oldestMs && this.#ages.size - gone.length <= limits.idempotencyKept) break;
      gone.push(name);
    }
    if (gone.length === 0) return;
    for (const name of gone) this.#ages.delete(name);
    await this.#level.batch(gone.map((key) => ({ type: 'del', key })));
  }

  async close(): Promise<void> {
    await this.#level.close();
  }
}

async function openLevel(directory: string): Promise<ClassicLevel<string, Kept>> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const level = new ClassicLevel<string, Kept>(directory, { valueEncoding: 'json' });
  await level.open();
  return level;
}

const hash = (...parts: readonly string[]): string =>
  createHash('sha256').update(JSON.stringify(parts)).digest('base64url');

function askedOf(request: FastifyRequest): Asked | undefined {
  const key = request.headers['idempotency-key'];
  if (request.method !== 'POST' || key === undefined) return undefined;
  if (typeof key !== 'string' || !/^[\x21-\x7e]{1,255}$/.test(key))
    throw new DvceError('INVALID_ARGUMENT', {
      what: 'the header Idempotency-Key',
      reason: 'it is not 1 to 255 printable characters without spaces',
      advice: 'Use a new UUID for each thing that you want done.',
    });
  const body = JSON.stringify(request.body ?? null);
  return {
    name: hash(identityOf(request).name, key),
    fingerprint: hash(request.method, request.url, body),
  };
}

export function replayAnswers(server: Server, keys: IdempotencyKeys, clock: Clock): void {
  const asked = new WeakMap<FastifyRequest, Asked>();
  server.addHook('preHandler', async (request, reply) => {
    const mine = askedOf(request);
    if (mine === undefined) return;
    // An answer with a secret is kept nowhere.
    if (request.routeOptions.config?.secretAnswer === true)
      throw new DvceError('UNSUPPORTED', {
        what: 'Idempotency-Key with this request',
        reason: 'its answer holds a secret, which is not kept',
        advice: 'Send it without the header; what it makes has a name.',
      });
    const kept = await keys.begin(mine);
    if (kept !== undefined) return replay(reply, kept);
    asked.set(request, mine);
    return;
  });
  server.addHook('onSend', async (request, reply, payload) => {
    const mine = asked.get(request);
    if (mine === undefined) return payload;
    asked.delete(request);
    await keys.end(mine.name, keptOf(mine, reply, payload, clock.wallMs()));
    return payload;
  });
}

function keptOf(
  mine: Asked,
  reply: FastifyReply,
  payload: unknown,
  atMs: number,
): Kept | undefined {
  const body = typeof payload === 'string' ? payload : '';
  const good = reply.statusCode < 300 && (payload === null || payload === undefined || body !== '');
  if (!good || body.length > limits.idempotencyBodyMax) return undefined;
  const text = (value: unknown): string | null => (typeof value === 'string' ? value : null);
  return {
    fingerprint: mine.fingerprint,
    atMs,
    status: reply.statusCode,
    type: text(reply.getHeader('content-type')),
    location: text(reply.getHeader('location')),
    body,
  };
}

function replay(reply: FastifyReply, { status, type, location, body }: Kept): FastifyReply {
  if (location !== null) reply.header('location', location);
  if (type !== null) reply.type(type);
  return reply
    .code(status)
    .header('idempotency-replayed', 'true')
    .serializer((value: unknown) => String(value))
    .send(body);
}
