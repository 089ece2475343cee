/**
 * HTTP client of the agent, over its unix socket. One connection per request: a command makes a handful of them, and a
 * kept connection would keep the command alive.
 *
 * Every request has a deadline (limits.apiRequestMs unless told otherwise) and takes a signal. An answer that is a
 * problem is thrown as the DvceError that it was made from; an agent that is not there as AGENT_UNAVAILABLE.
 */
import * as http from 'node:http';
import type { Duplex, Readable } from 'node:stream';
import { type Clock, systemClock, systemTimers, type Timers } from '../base/clock.ts';
import { DvceError, systemCode } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import { fromProblem, isProblem } from './problem.ts';
import { connectRemote, parseRemoteUrl, type Remote } from './remote.ts';

export type Method = 'GET' | 'POST' | 'PATCH' | 'PUT' | 'DELETE';
export type Query = Readonly<Record<string, string | number | boolean | undefined>>;

export interface RequestOptions {
  readonly query?: Query;
  readonly body?: unknown;
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
}

export interface Answer {
  readonly status: number;
  readonly location: string | undefined;
  /** Parsed JSON; a text when the answer is not JSON; undefined when it is empty. */
  readonly body: unknown;
}

export interface Stream {
  readonly body: Readable;
  readonly location: string | undefined;
}

export interface Transport {
  /** Called with every request and its answer's status, for `--debug`; no content and no secret is in it. */
  readonly trace?: (line: string) => void;
  /** Ask what each change would do (`dryRun=true`); the answer to the first one is thrown as `Planned`. */
  readonly dryRun?: boolean;
  /** Another host's agent, instead of the one at the socket. */
  readonly remote?: Remote | undefined;
  readonly timers?: Timers;
  readonly clock?: Clock;
}

/** Thrown in place of an answer while nothing may be changed: what the agent would have done. No failure. */
export class Planned extends Error {
  override readonly name = 'Planned';
  readonly plan: unknown;

  constructor(plan: unknown) {
    super('nothing was changed');
    this.plan = plan;
  }
}

export class HttpClient {
  readonly socketPath: string;
  readonly #trace: (line: string) => void;
  readonly #timers: Timers;
  readonly #clock: Clock;
  readonly #dryRun: boolean;
  readonly #remote: Remote | undefined;

  constructor(socketPath: string, transport: Transport = {}) {
    this.socketPath = socketPath;
    this.#remote = transport.remote;
    this.#clock = transport.clock ?? systemClock;
    this.#dryRun = transport.dryRun ?? false;
    this.#trace = transport.trace ?? (() => {});
    this.#timers = transport.timers ?? systemTimers;
  }

  /** Send one request; an error status is thrown. */
  async request(method: Method, path: string, options: RequestOptions = {}): Promise<Answer> {
    const plans = this.#dryRun && method !== 'GET';
    const url = withQuery(path, plans ? { ...options.query, dryRun: true } : options.query);
    const startedMs = this.#clock.monotonicMs();
    const timeoutMs = options.timeoutMs ?? limits.apiRequestMs;
    const deadline = new AbortController();
    const timer = this.#timers.after(timeoutMs, () =>
      deadline.abort(
        new DvceError('TIMED_OUT', { what: `the request ${method} ${path}`, ms: timeoutMs }),
      ),
    );
    const signal = AbortSignal.any(
      options.signal === undefined ? [deadline.signal] : [deadline.signal, options.signal],
    );
    try {
      const answer = await this.#exchange(method, url, options.body, signal);
      const tookMs = Math.round(this.#clock.monotonicMs() - startedMs);
      this.#trace(`${method} ${withoutSecrets(url)} -> ${answer.status} in ${tookMs} ms`);
      if (answer.status >= 400) throw errorOf(answer, method, path);
      if (plans) throw new Planned(answer.body);
      return answer;
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      const known = this.#explain(error);
      if (known !== error) this.#trace(`${method} ${withoutSecrets(url)} -> no answer`);
      throw known;
    } finally {
      timer.cancel();
    }
  }

  /** Where requests go: a socket of this host, or a connection to another one whose certificate is right. */
  async #target(signal: AbortSignal): Promise<{
    readonly place: http.RequestOptions;
    readonly headers: http.OutgoingHttpHeaders;
  }> {
    const remote = this.#remote;
    if (remote === undefined) {
      checkLength(this.socketPath);
      const place = { socketPath: this.socketPath, agent: false } as const;
      return { place, headers: { host: 'dvce' } };
    }
    const { host, port } = parseRemoteUrl(remote.url);
    const connection = await connectRemote(remote, signal);
    return {
      place: { createConnection: () => connection },
      headers: {
        host: `${host.includes(':') ? `[${host}]` : host}:${port}`,
        authorization: `Bearer ${remote.token}`,
      },
    };
  }

  async #exchange(
    method: Method,
    url: string,
    body: unknown,
    signal: AbortSignal,
  ): Promise<Answer> {
    const payload = body === undefined ? undefined : Buffer.from(JSON.stringify(body));
    const target = await this.#target(signal);
    const headers: http.OutgoingHttpHeaders = {
      ...target.headers,
      accept: 'application/json, text/plain',
    };
    if (payload !== undefined) {
      headers['content-type'] = 'application/json';
      headers['content-length'] = payload.byteLength;
    }
    return new Promise((resolve, reject) => {
      const request = http.request(
        { ...target.place, method, path: url, headers, signal },
        (response) => {
          answerOf(response).then(resolve, reject);
        },
      );
      request.on('error', reject);
      request.end(payload);
    });
  }

  /** The body of an answer as it comes; the deadline is that of its begin. */
  async stream(path: string, options: RequestOptions = {}): Promise<Stream> {
    const url = withQuery(path, options.query);
    const timeoutMs = options.timeoutMs ?? limits.apiRequestMs;
    const target = await this.#target(options.signal ?? unending);
    return new Promise<Stream>((resolve, reject) => {
      const request = http.request({
        ...target.place,
        method: 'GET',
        path: url,
        headers: target.headers,
        ...(options.signal === undefined ? {} : { signal: options.signal }),
      });
      const timer = this.#timers.after(timeoutMs, () => {
        const what = `the request GET ${path}`;
        request.destroy(new DvceError('TIMED_OUT', { what, ms: timeoutMs }));
      });
      request.on('response', (response) => {
        timer.cancel();
        this.#trace(`GET ${withoutSecrets(url)} -> ${response.statusCode ?? 0}`);
        if (response.statusCode === 200)
          resolve({ body: response, location: response.headers.location });
        else answerOf(response).then((answer) => reject(errorOf(answer, 'GET', path)), reject);
      });
      request.on('error', (error) => {
        timer.cancel();
        reject(options.signal?.aborted ? options.signal.reason : this.#explain(error));
      });
      request.end();
    });
  }

  /** Change the protocol of a connection to `protocol` and get its raw bytes (console). */
  async upgrade(path: string, protocol: string, signal?: AbortSignal): Promise<Duplex> {
    const target = await this.#target(signal ?? unending);
    return new Promise<Duplex>((resolve, reject) => {
      const request = http.request({
        ...target.place,
        method: 'GET',
        path,
        headers: { ...target.headers, connection: 'Upgrade', upgrade: protocol },
        ...(signal === undefined ? {} : { signal }),
      });
      request.on('upgrade', (_, socket, head) => {
        if (head.byteLength > 0) socket.unshift(head);
        resolve(socket);
      });
      request.on('response', (response) => {
        answerOf(response).then((answer) => reject(errorOf(answer, 'GET', path)), reject);
      });
      request.on('error', (error) => reject(this.#explain(error)));
      request.end();
    });
  }

  #explain(error: unknown): unknown {
    const reasons: Readonly<Record<string, string>> = {
      ENOENT: 'its socket does not exist',
      ECONNREFUSED: 'nobody listens on its socket',
      EACCES: 'this user may not open its socket',
      ECONNRESET: 'the connection was closed before the answer',
      EPIPE: 'the connection was closed before the answer',
    };
    const reason = reasons[systemCode(error) ?? ''];
    if (reason === undefined) return error;
    if (this.#remote !== undefined)
      return new DvceError('REMOTE_UNAVAILABLE', { where: this.#remote.url, reason }, error);
    return new DvceError('AGENT_UNAVAILABLE', { where: this.socketPath, reason }, error);
  }
}

const unending = new AbortController().signal;

/** sizeof(sun_path) - 1 on Linux; `connect` would only say EINVAL. */
const socketPathBytesMax = 107;

function checkLength(path: string): void {
  const length = Buffer.byteLength(path);
  if (length > socketPathBytesMax)
    throw new DvceError('PATH_TOO_LONG', { where: path, length, max: socketPathBytesMax });
}

/** No route takes a secret in its URL; whoever sends one all the same shall not find it in a log. */
const withoutSecrets = (url: string): string =>
  url.replace(/([?&][^=&]*(?:pass|secret|token|key|credential)[^=&]*=)[^&]*/gi, '$1***');

function withQuery(path: string, query: Query = {}): string {
  const pairs = Object.entries(query).flatMap(([name, value]): [string, string][] =>
    value === undefined ? [] : [[name, String(value)]],
  );
  if (pairs.length === 0) return path;
  return `${path}${path.includes('?') ? '&' : '?'}${new URLSearchParams(pairs)}`;
}

async function answerOf(response: http.IncomingMessage): Promise<Answer> {
  const text = await collect(response);
  return {
    status: response.statusCode ?? 0,
    location: response.headers.location,
    body: parseBody(text, response.headers['content-type'] ?? ''),
  };
}

async function collect(response: http.IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of response as AsyncIterable<Buffer>) {
    bytes += part.byteLength;
    if (bytes > limits.apiAnswerBytesMax)
      throw new DvceError('PROTOCOL', {
        peer: 'the agent',
        reason: `its answer has more than ${limits.apiAnswerBytesMax} bytes`,
      });
    parts.push(part);
  }
  return Buffer.concat(parts).toString('utf8');
}

function parseBody(text: string, type: string): unknown {
  if (text === '') return undefined;
  if (!type.includes('json')) return text;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new DvceError('PROTOCOL', { peer: 'the agent', reason: 'its answer is not JSON' }, error);
  }
}

function errorOf(answer: Answer, method: string, path: string): DvceError {
  if (isProblem(answer.body)) return fromProblem(answer.body);
  return new DvceError('PROTOCOL', {
    peer: 'the agent',
    reason: `it answered ${method} ${path} with status ${answer.status} and no problem document`,
  });
}
