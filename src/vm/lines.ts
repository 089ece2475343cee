/**
 * A unix socket that carries one JSON object a line, as QMP and the guest agent speak it.
 *
 * Invariants: a line longer than `limits.qmpMessageBytesMax` ends the connection before it is kept; `onClose` runs exactly
 * once, after the last `onMessage`; connecting has a deadline.
 */
import { connect, type Socket } from 'node:net';
import { StringDecoder } from 'node:string_decoder';
import { DvceError, limits, type Timers } from '../base/index.ts';
import { withDeadline } from './deadline.ts';

export interface JsonLines {
  send(message: object): void;
  /** End the connection; `onClose` follows. */
  close(): void;
}

export interface JsonLinesOptions {
  readonly path: string;
  /** Who is at the other end, for messages. */
  readonly peer: string;
  readonly timers: Timers;
  readonly connectMs: number;
  onMessage(message: unknown): void;
  onClose(error: DvceError): void;
}

/** Characters that may wait in the socket for a peer that does not read. */
const unsentBytesMax = 1024 * 1024;

export async function connectJsonLines(options: JsonLinesOptions): Promise<JsonLines> {
  const { peer } = options;
  const socket = connect(options.path);
  const opened = new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', reject);
  });
  try {
    await withDeadline(options.timers, options.connectMs, `connecting to ${peer}`, opened);
  } catch (error) {
    socket.on('error', () => {}); // the reason is thrown below; a late one adds nothing
    socket.destroy();
    if (error instanceof DvceError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw new DvceError('PROTOCOL', { peer, reason }, error);
  }
  const fail = (reason: string): void => {
    socket.destroy(new DvceError('PROTOCOL', { peer, reason }));
  };
  receive(socket, options, fail);
  return {
    send(message) {
      if (socket.writableLength > unsentBytesMax) fail('it does not read what it is sent');
      else if (!socket.destroyed) socket.write(`${JSON.stringify(message)}\n`);
    },
    close: () => socket.destroy(),
  };
}

function receive(socket: Socket, options: JsonLinesOptions, fail: (reason: string) => void): void {
  const decoder = new StringDecoder('utf8');
  let rest = '';
  let reason: DvceError | undefined;
  socket.on('data', (chunk: Buffer) => {
    const text = rest + decoder.write(chunk);
    const lines = text.split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      const message = parse(line);
      if (message === undefined) return fail('a line is no JSON object');
      if (message !== null) options.onMessage(message);
    }
    if (rest.length > limits.qmpMessageBytesMax) fail('a message is too long');
  });
  socket.on('error', (error) => {
    reason =
      error instanceof DvceError
        ? error
        : new DvceError('PROTOCOL', { peer: options.peer, reason: error.message }, error);
  });
  socket.on('close', () => {
    options.onClose(
      reason ?? new DvceError('PROTOCOL', { peer: options.peer, reason: 'the connection ended' }),
    );
  });
}

/** @returns the object, null for an empty line, undefined for anything else */
function parse(line: string): object | null | undefined {
  // The guest agent puts 0xFF, which decodes to U+FFFD, before an answer to flush what came before it.
  const text = line.replace(/^\uFFFD+/, '').trim();
  if (text === '') return null;
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? value : undefined;
  } catch {
    return undefined; // the caller ends the connection and says why
  }
}
