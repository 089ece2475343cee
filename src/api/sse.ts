/** Server-sent events as they are read (HTML Living Standard 9.2): lines, an empty one ends a message. */
import type { Readable } from 'node:stream';
import { DvceError, systemCode } from '../base/errors.ts';
import { limits } from '../base/limits.ts';

export interface Message {
  /** Number of the newest event that the stream has reached; also sent without data. */
  readonly id: number | undefined;
  readonly data: string | undefined;
}

/** Ends when the stream ends, whole or cut. @throws PROTOCOL when it is no event stream */
export async function* sse(body: Readable, signal: AbortSignal): AsyncGenerator<Message> {
  let rest = '';
  body.setEncoding('utf8');
  signal.addEventListener('abort', () => body.destroy(), { once: true });
  try {
    for await (const part of body as AsyncIterable<string>) {
      rest += part.replaceAll('\r', '');
      if (rest.length > limits.eventBacklogBytes)
        throw new DvceError('PROTOCOL', { peer: 'the agent', reason: 'an event without end' });
      let end = rest.indexOf('\n\n');
      while (end >= 0) {
        yield messageOf(rest.slice(0, end));
        rest = rest.slice(end + 2);
        end = rest.indexOf('\n\n');
      }
    }
  } catch (error) {
    // A stream that is cut is one that ends; whoever listens comes back.
    if (!['ECONNRESET', 'ERR_STREAM_PREMATURE_CLOSE'].includes(systemCode(error) ?? ''))
      throw error;
  } finally {
    body.destroy();
  }
}

function messageOf(text: string): Message {
  let id: number | undefined;
  const data: string[] = [];
  for (const line of text.split('\n')) {
    const match = /^(id|data): ?(.*)$/.exec(line);
    if (match?.[1] === 'data') data.push(match[2] ?? '');
    else if (match?.[1] === 'id' && /^\d{1,16}$/.test(match[2] ?? '')) id = Number(match[2]);
  }
  return { id, data: data.length === 0 ? undefined : data.join('\n') };
}
