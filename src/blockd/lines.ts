/**
 * Framing of the control protocol: one JSON object a line, in both directions.
 *
 * A line is looked for in whole chunks and never longer than `limits.controlMessageBytesMax`; a peer that sends more without
 * a line end is cut off before the bytes are kept.
 */
import { DvceError, limits } from '../base/index.ts';

const newline = 0x0a;

/** Splits a byte stream into lines. */
export class LineSplitter {
  readonly #bytesMax: number;
  readonly #peer: string;
  #parts: Buffer[] = [];
  #bytes = 0;

  constructor(peer: string, bytesMax: number = limits.controlMessageBytesMax) {
    this.#peer = peer;
    this.#bytesMax = bytesMax;
  }

  /** @returns the lines completed by `chunk`, without their line ends. Throws PROTOCOL when one is too long. */
  push(chunk: Buffer): string[] {
    const lines: string[] = [];
    let start = 0;
    for (;;) {
      const end = chunk.indexOf(newline, start);
      const piece = chunk.subarray(start, end < 0 ? chunk.length : end);
      if (this.#bytes + piece.length > this.#bytesMax)
        throw new DvceError('PROTOCOL', {
          peer: this.#peer,
          reason: `a message is longer than ${this.#bytesMax} bytes`,
        });
      if (piece.length > 0) {
        this.#parts.push(piece);
        this.#bytes += piece.length;
      }
      if (end < 0) return lines;
      lines.push(Buffer.concat(this.#parts, this.#bytes).toString('utf8'));
      this.#parts = [];
      this.#bytes = 0;
      start = end + 1;
    }
  }
}

/** @returns the line of one message. Throws TOO_LARGE: the other side would end the connection. */
export function encodeMessage(
  message: object,
  bytesMax: number = limits.controlMessageBytesMax,
): Buffer {
  const line = Buffer.from(`${JSON.stringify(message)}\n`, 'utf8');
  if (line.length - 1 > bytesMax)
    throw new DvceError('TOO_LARGE', {
      what: 'the answer',
      reason: `it has ${line.length} bytes, a message at most ${bytesMax}`,
      advice: 'Ask for less: give a prefix or a limit.',
    });
  return line;
}

/** Parse a line to an object. Throws PROTOCOL. */
export function decodeMessage(line: string, peer: string): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new DvceError('PROTOCOL', { peer, reason: 'a line is not JSON' }, error);
  }
  if (!isRecord(value))
    throw new DvceError('PROTOCOL', { peer, reason: 'a line is not a JSON object' });
  return value;
}

export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
