/**
 * Reading an image from an http or https address.
 *
 * Invariants: at most `limits.redirectsMax` redirects, never from https to http, never to another scheme; no more bytes than
 * `limits.downloadBytesMax`, whatever the server announces; a server that stops talking for `limits.downloadIdleMs` ends it;
 * a body shorter than announced is an error, never a short image.
 */
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { DvceError, formatSize, limits, type Timers } from '../base/index.ts';
import { badImage } from './protocol.ts';

export interface Download {
  /** As announced, or null. */
  readonly totalBytes: number | null;
  /** The body; throws on every kind of failure. Read it to the end, or call `close`. */
  readonly chunks: AsyncIterable<Buffer>;
  close(): void;
}

export const isUrl = (source: string): boolean => /^[a-z][a-z0-9+.-]*:\/\//i.test(source);

/** Refuses what is no plain http(s) address. Credentials would end up in the records of the image. */
export function parseUrl(text: string, base?: URL): URL {
  let url: URL;
  try {
    url = new URL(text, base);
  } catch {
    throw invalid(text, 'it is no address');
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:')
    throw invalid(text, `the scheme ${url.protocol} is not supported`);
  if (url.username !== '' || url.password !== '')
    throw invalid(`${url.protocol}//${url.host}`, 'it contains a user name or password');
  return url;
}

function invalid(text: string, reason: string): DvceError {
  const advice = 'Give a path, or an address that starts with http:// or https://.';
  return new DvceError('INVALID_ARGUMENT', {
    what: `the source ${JSON.stringify(text)}`,
    reason,
    advice,
  });
}

export async function openDownload(
  source: string,
  timers: Timers,
  signal: AbortSignal,
): Promise<Download> {
  let url = parseUrl(source);
  for (let hops = 0; hops <= limits.redirectsMax; hops += 1) {
    const response = await get(url, timers, signal);
    const location = redirect(response);
    if (location === undefined) return accept(response, source, timers);
    response.destroy();
    const next = parseUrl(location, url);
    if (url.protocol === 'https:' && next.protocol === 'http:')
      throw failed(source, 'it leads from https to http');
    url = next;
  }
  throw failed(source, `it leads on more than ${limits.redirectsMax} times`);
}

function get(url: URL, timers: Timers, signal: AbortSignal): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const send = url.protocol === 'https:' ? httpsRequest : httpRequest;
    const outgoing = send(url, {
      signal,
      headers: { 'user-agent': 'dvce', accept: '*/*', 'accept-encoding': 'identity' },
    });
    const timer = timers.after(limits.downloadIdleMs, () => {
      outgoing.destroy(
        new DvceError('TIMED_OUT', { what: `asking ${url.host}`, ms: limits.downloadIdleMs }),
      );
    });
    outgoing.on('response', (response) => {
      timer.cancel();
      resolve(response);
    });
    outgoing.on('error', (error) => {
      timer.cancel();
      if (signal.aborted) reject(signal.reason);
      else reject(error instanceof DvceError ? error : failed(url.href, error.message));
    });
    outgoing.end();
  });
}

function redirect(response: IncomingMessage): string | undefined {
  const { statusCode = 0, headers } = response;
  return [301, 302, 303, 307, 308].includes(statusCode) ? headers.location : undefined;
}

function accept(response: IncomingMessage, source: string, timers: Timers): Download {
  const refuse = (error: DvceError): never => {
    response.destroy();
    throw error;
  };
  const { statusCode, headers } = response;
  if (statusCode !== 200) refuse(failed(source, `the server answered ${statusCode}`));
  const encoding = headers['content-encoding'];
  if (encoding !== undefined && encoding !== 'identity')
    refuse(failed(source, `the server sends it encoded as ${encoding}`));
  const announced = headers['content-length'];
  const totalBytes = announced === undefined ? null : Number(announced);
  if (totalBytes !== null && totalBytes > limits.downloadBytesMax) refuse(tooLong(source));
  return {
    totalBytes,
    chunks: body(response, source, totalBytes, timers),
    close: () => response.destroy(),
  };
}

async function* body(
  response: IncomingMessage,
  source: string,
  totalBytes: number | null,
  timers: Timers,
): AsyncGenerator<Buffer> {
  let doneBytes = 0;
  const idle = (): void => {
    const what = `reading ${source}`;
    response.destroy(new DvceError('TIMED_OUT', { what, ms: limits.downloadIdleMs }));
  };
  let timer = timers.after(limits.downloadIdleMs, idle);
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      timer.cancel();
      doneBytes += chunk.length;
      if (doneBytes > limits.downloadBytesMax) throw tooLong(source);
      yield chunk;
      timer = timers.after(limits.downloadIdleMs, idle);
    }
  } catch (error) {
    if (error instanceof DvceError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw failed(source, `the transfer broke after ${doneBytes} bytes: ${reason}`);
  } finally {
    timer.cancel();
    response.destroy();
  }
  if (totalBytes !== null && doneBytes !== totalBytes)
    throw failed(source, `it ended after ${doneBytes} of ${totalBytes} bytes`);
}

const failed = (source: string, reason: string): DvceError =>
  badImage(source, reason, 'Check the address and try again.');

const tooLong = (source: string): DvceError =>
  new DvceError('TOO_LARGE', {
    what: source,
    reason: `more than ${formatSize(limits.downloadBytesMax)} are not downloaded`,
    advice: 'Fetch the file by other means and import the file.',
  });
