/**
 * One request to an http or https address, from its begin or from where an earlier one broke off.
 *
 * Invariants: at most `limits.redirectsMax` redirects, never from https to http, never to another scheme; no more bytes than
 * `limits.downloadBytesMax`, whatever the server announces; a server that sends less than `limits.downloadWindowBytesMin`
 * within `limits.downloadIdleMs` ends it; a body shorter than announced is an error, never a short image. A part is taken
 * only when it is the part that was asked for, of the file that was asked for. Neither a name nor a redirect leads to this host,
 * unless the address that was given is one of it.
 */
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import {
  DvceError,
  formatSize,
  isHostThis,
  leadsHere,
  limits,
  lookupElsewhere,
  systemCode,
  type Timers,
} from '../base/index.ts';

/** From where to go on: the part may only be of the file that had this validator. */
export interface Resume {
  readonly fromBytes: number;
  /** ETag or Last-Modified, as the server gave it. */
  readonly validator: string;
}

export interface Download {
  /** Where the body begins: what was asked for, or 0. */
  readonly fromBytes: number;
  /** Of the whole file as announced, or null. */
  readonly totalBytes: number | null;
  /** What a later request can go on with; null when the server gives nothing to tell one version of the file from another. */
  readonly validator: string | null;
  /** The body; throws on every kind of failure. Read it to the end, or call `close`. */
  readonly chunks: AsyncIterable<Buffer>;
  close(): void;
}

/** A failure that another request may cure. */
export class Interrupted extends DvceError {}

export const isUrl = (source: string): boolean => /^[a-z][a-z0-9+.-]*:\/\//i.test(source);

/** An address for records and messages: what follows the path may be a signature that opens a private store. */
export const publicName = (source: string): string =>
  isUrl(source) && !source.startsWith('nbd') ? source.replace(/[?#].*$/s, '') : source;

/** Refuses what is no plain http(s) address. Credentials would end up in the records of the image. */
export function parseUrl(text: string, base?: URL): URL {
  let url: URL;
  try {
    url = new URL(text, base);
  } catch {
    throw invalid(publicName(text), 'it is no address');
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:')
    throw invalid(publicName(text), `the scheme ${url.protocol} is not supported`);
  if (url.username !== '' || url.password !== '')
    throw invalid(`${url.protocol}//${url.host}`, 'it contains a user name or password');
  return url;
}

function invalid(source: string, reason: string): DvceError {
  const advice = 'Give a path, or an address that starts with http://, https:// or nbd://.';
  return new DvceError('INVALID_ARGUMENT', {
    what: `the source ${JSON.stringify(source)}`,
    reason,
    advice,
  });
}

export async function openDownload(
  source: string,
  timers: Timers,
  signal: AbortSignal,
  resume?: Resume,
): Promise<Download> {
  let url = parseUrl(source);
  const name = publicName(source);
  const mayBeHere = isHostThis(url.hostname);
  for (let hops = 0; hops <= limits.redirectsMax; hops += 1) {
    if (!mayBeHere && isHostThis(url.hostname)) throw leadsHere(url.hostname);
    const response = await get(url, mayBeHere, timers, signal, resume);
    const location = redirect(response);
    if (location === undefined) return accept(response, name, timers, resume);
    response.destroy();
    const next = parseUrl(location, url);
    if (url.protocol === 'https:' && next.protocol === 'http:')
      throw failed(name, 'it leads from https to http');
    url = next;
  }
  throw failed(name, `it leads on more than ${limits.redirectsMax} times`);
}

function get(
  url: URL,
  mayBeHere: boolean,
  timers: Timers,
  signal: AbortSignal,
  resume: Resume | undefined,
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const send = url.protocol === 'https:' ? httpsRequest : httpRequest;
    const part =
      resume === undefined
        ? {}
        : { range: `bytes=${resume.fromBytes}-`, 'if-range': resume.validator };
    const outgoing = send(url, {
      signal,
      agent: false,
      ...(mayBeHere ? {} : { lookup: lookupElsewhere }),
      headers: { 'user-agent': 'dvce', accept: '*/*', 'accept-encoding': 'identity', ...part },
    });
    const timer = timers.after(limits.downloadIdleMs, () => {
      outgoing.destroy(stalled(url.host));
    });
    outgoing.on('response', (response) => {
      timer.cancel();
      resolve(response);
    });
    outgoing.on('error', (error) => {
      timer.cancel();
      if (signal.aborted) reject(signal.reason);
      else if (error instanceof DvceError) reject(error);
      else reject(explain(publicName(url.href), error));
    });
    outgoing.end();
  });
}

/** Names and certificates do not get better by asking again; connections do. */
const passing = ['ECONNRESET', 'ECONNREFUSED', 'ETIMEDOUT', 'EPIPE', 'EHOSTUNREACH', 'ENETUNREACH'];

function explain(name: string, error: Error): DvceError {
  const code = systemCode(error) ?? '';
  return passing.includes(code) || code === 'EAI_AGAIN'
    ? interrupted(name, error.message)
    : failed(name, error.message);
}

function redirect(response: IncomingMessage): string | undefined {
  const { statusCode = 0, headers } = response;
  return [301, 302, 303, 307, 308].includes(statusCode) ? headers.location : undefined;
}

function accept(
  response: IncomingMessage,
  name: string,
  timers: Timers,
  resume: Resume | undefined,
): Download {
  try {
    const { fromBytes, totalBytes } = extentOf(response, name, resume);
    if (totalBytes !== null && totalBytes > limits.downloadBytesMax) throw tooLong(name);
    return {
      fromBytes,
      totalBytes,
      validator: validatorOf(response),
      chunks: body(response, name, fromBytes, totalBytes, timers),
      close: () => response.destroy(),
    };
  } catch (error) {
    response.destroy();
    throw error;
  }
}

/** A weak ETag says that two versions mean the same, not that their bytes are; a time is too coarse only for the impatient. */
function validatorOf({ headers }: IncomingMessage): string | null {
  const { etag } = headers;
  if (etag?.startsWith('"')) return etag;
  return headers['last-modified'] ?? null;
}

interface BodyExtent {
  readonly fromBytes: number;
  readonly totalBytes: number | null;
}

function extentOf(response: IncomingMessage, name: string, resume: Resume | undefined): BodyExtent {
  const { statusCode = 0, headers } = response;
  const encoding = headers['content-encoding'];
  if (encoding !== undefined && encoding !== 'identity')
    throw failed(name, `the server sends it encoded as ${encoding}`);
  if (statusCode === 206 && resume !== undefined) return partOf(response, name, resume);
  // The range lies beyond the end, or the server does not like the question: from the begin, then.
  if (statusCode === 416 && resume !== undefined)
    throw new RangeRefused(name, 'the server has no such part');
  if (statusCode === 429 || statusCode >= 500)
    throw interrupted(name, `the server answered ${statusCode}`);
  if (statusCode !== 200) throw failed(name, `the server answered ${statusCode}`);
  const announced = headers['content-length'];
  return { fromBytes: 0, totalBytes: announced === undefined ? null : Number(announced) };
}

/** The server's part of the file does not fit what is there already. */
export class RangeRefused extends Interrupted {
  constructor(name: string, reason: string) {
    super('DOWNLOAD_FAILED', { what: name, reason });
  }
}

function partOf(response: IncomingMessage, name: string, resume: Resume): BodyExtent {
  const range = /^bytes (\d{1,15})-(\d{1,15})\/(\d{1,15})$/.exec(
    response.headers['content-range'] ?? '',
  );
  const [first, last, total] = (range ?? []).slice(1).map(Number);
  if (first === undefined || last === undefined || total === undefined)
    throw new RangeRefused(name, 'the server sends a part and does not say which');
  if (first !== resume.fromBytes || last !== total - 1)
    throw new RangeRefused(
      name,
      `the server sends the part ${first}-${last}, not the one asked for`,
    );
  const validator = validatorOf(response);
  if (validator !== null && validator !== resume.validator)
    throw new RangeRefused(name, 'the server has another version of it');
  return { fromBytes: first, totalBytes: total };
}

/** Gives a server up that sends too little within one window of time. While its reader is busy no window runs out. */
class Pace {
  readonly #timers: Timers;
  readonly #late: () => void;
  #timer: ReturnType<Timers['after']>;
  #bytes = 0;
  #isHeld = false;
  #isOver = false;

  constructor(timers: Timers, late: () => void) {
    this.#timers = timers;
    this.#late = late;
    this.#timer = this.#window();
  }

  #window(): ReturnType<Timers['after']> {
    this.#bytes = 0;
    this.#isOver = false;
    return this.#timers.after(limits.downloadIdleMs, () => {
      this.#isOver = true;
      if (this.#isHeld) return;
      if (this.#bytes < limits.downloadWindowBytesMin) this.#late();
      else this.#timer = this.#window();
    });
  }

  /** The reader has a chunk, and takes his time. */
  held(bytes: number): void {
    this.#bytes += bytes;
    this.#isHeld = true;
  }
  asked(): void {
    this.#isHeld = false;
    if (this.#isOver) this.#timer = this.#window();
  }
  stop(): void {
    this.#timer.cancel();
  }
}

async function* body(
  response: IncomingMessage,
  name: string,
  fromBytes: number,
  totalBytes: number | null,
  timers: Timers,
): AsyncGenerator<Buffer> {
  let doneBytes = fromBytes;
  const pace = new Pace(timers, () => response.destroy(stalled(name)));
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      doneBytes += chunk.length;
      if (doneBytes > Math.min(limits.downloadBytesMax, totalBytes ?? Number.POSITIVE_INFINITY))
        throw tooLong(name);
      pace.held(chunk.length);
      yield chunk;
      pace.asked();
    }
  } catch (error) {
    if (error instanceof DvceError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw interrupted(name, `the transfer broke after ${doneBytes} bytes: ${reason}`);
  } finally {
    pace.stop();
    response.destroy();
  }
  if (totalBytes !== null && doneBytes !== totalBytes)
    throw interrupted(name, `it ended after ${doneBytes} of ${totalBytes} bytes`);
}

const failed = (name: string, reason: string): DvceError =>
  new DvceError('DOWNLOAD_FAILED', { what: name, reason });

const interrupted = (name: string, reason: string): DvceError =>
  new Interrupted('DOWNLOAD_FAILED', { what: name, reason });

const stalled = (name: string): DvceError =>
  new Interrupted('TIMED_OUT', {
    what: `reading ${limits.downloadWindowBytesMin} bytes from ${name}`,
    ms: limits.downloadIdleMs,
  });

const tooLong = (name: string): DvceError =>
  new DvceError('TOO_LARGE', {
    what: name,
    reason: `more than ${formatSize(limits.downloadBytesMax)}, or than the server announced, are not downloaded`,
    advice: 'Fetch the file by other means and import the file.',
  });
