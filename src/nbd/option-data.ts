/** Data of options and their replies: parsed strictly (every length must add up), built in one buffer. */
import { infoTypes, magics, optionReplies, stringBytesMax } from './constants.ts';

export interface InfoRequest {
  readonly name: string;
  readonly infos: ReadonlySet<number>;
}

export interface MetaContextRequest {
  readonly name: string;
  readonly queryCount: number;
  /** Cut off at the caller's maximum. */
  readonly queries: readonly string[];
}

const decoder = new TextDecoder('utf-8', { fatal: true });

/** A string of the protocol, or null when it is too long, no UTF-8 or contains NUL. */
export function parseString(bytes: Buffer): string | null {
  if (bytes.length > stringBytesMax || bytes.includes(0)) return null;
  try {
    return decoder.decode(bytes);
  } catch {
    return null; // not UTF-8: an answer to the client, no failure of ours
  }
}

/** A u32 length and as many bytes at `at`, or null. */
function lengthPrefixed(data: Buffer, at: number): { text: string; next: number } | null {
  if (at + 4 > data.length) return null;
  const next = at + 4 + data.readUInt32BE(at);
  if (next > data.length) return null;
  const text = parseString(data.subarray(at + 4, next));
  return text === null ? null : { text, next };
}

/** INFO and GO: name, u16 count, u16 each. Null when the lengths do not add up. */
export function parseInfoRequest(data: Buffer): InfoRequest | null {
  const name = lengthPrefixed(data, 0);
  if (name === null || name.next + 2 > data.length) return null;
  const count = data.readUInt16BE(name.next);
  const from = name.next + 2;
  if (from + 2 * count !== data.length) return null;
  const infos = new Set<number>();
  for (let i = 0; i < count; i += 1) infos.add(data.readUInt16BE(from + 2 * i));
  return { name: name.text, infos };
}

/** LIST_ and SET_META_CONTEXT: name, u32 count, queries. Null when the lengths do not add up. */
export function parseMetaContextRequest(
  data: Buffer,
  queriesMax: number,
): MetaContextRequest | null {
  const name = lengthPrefixed(data, 0);
  if (name === null || name.next + 4 > data.length) return null;
  const queryCount = data.readUInt32BE(name.next);
  let at = name.next + 4;
  const queries: string[] = [];
  for (let i = 0; i < queryCount; i += 1) {
    const query = lengthPrefixed(data, at);
    if (query === null) return null;
    if (queries.length < queriesMax) queries.push(query.text);
    at = query.next;
  }
  return at === data.length ? { name: name.text, queryCount, queries } : null;
}

export function optionReply(option: number, type: number, body: Buffer | string = ''): Buffer {
  const bytes = typeof body === 'string' ? Buffer.from(body) : body;
  const reply = Buffer.allocUnsafe(20 + bytes.length);
  reply.writeUInt32BE(magics.optionReplyHigh, 0);
  reply.writeUInt32BE(magics.optionReplyLow, 4);
  reply.writeUInt32BE(option, 8);
  reply.writeUInt32BE(type, 12);
  reply.writeUInt32BE(bytes.length, 16);
  reply.set(bytes, 20);
  return reply;
}

export function serverReply(option: number, name: string, description = ''): Buffer {
  const nameBytes = Buffer.from(name);
  const length = Buffer.allocUnsafe(4);
  length.writeUInt32BE(nameBytes.length);
  return optionReply(
    option,
    optionReplies.server,
    Buffer.concat([length, nameBytes, Buffer.from(description)]),
  );
}

export function writeSize(target: Buffer, sizeBytes: number, at: number): number {
  target.writeUInt32BE(Math.floor(sizeBytes / 0x1_0000_0000), at);
  return target.writeUInt32BE(sizeBytes % 0x1_0000_0000, at + 4);
}

export function infoExport(sizeBytes: number, flags: number): Buffer {
  const body = Buffer.allocUnsafe(12);
  body.writeUInt16BE(infoTypes.export, 0);
  writeSize(body, sizeBytes, 2);
  body.writeUInt16BE(flags, 10);
  return body;
}

export function infoBlockSize(minimum: number, preferred: number, maximum: number): Buffer {
  const body = Buffer.allocUnsafe(14);
  body.writeUInt16BE(infoTypes.blockSize, 0);
  body.writeUInt32BE(minimum, 2);
  body.writeUInt32BE(preferred, 6);
  body.writeUInt32BE(maximum, 10);
  return body;
}

export function infoText(type: number, text: string): Buffer {
  const bytes = Buffer.from(text);
  const body = Buffer.allocUnsafe(2 + bytes.length);
  body.writeUInt16BE(type, 0);
  body.set(bytes, 2);
  return body;
}

export function metaContext(id: number, name: string): Buffer {
  const bytes = Buffer.from(name);
  const body = Buffer.allocUnsafe(4 + bytes.length);
  body.writeUInt32BE(id, 0);
  body.set(bytes, 4);
  return body;
}
