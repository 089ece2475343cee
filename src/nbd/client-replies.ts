/**
 * Replies of a server, cut out of the byte stream. Content of a READ goes straight into its buffer. Anything that does
 * not fit the request it answers is a broken stream, never data.
 */
import { DvceError, nbdErrnos } from '../base/index.ts';
import type { Extent } from './backend.ts';
import {
  allocationContext,
  chunkDone,
  chunkTypes,
  commandName,
  commands,
  magics,
  type ReplyMode,
} from './constants.ts';
import { fromWords } from './requests.ts';

/** A request in flight. */
export interface Pending {
  readonly type: number;
  readonly offset: number;
  readonly length: number;
  /** Where the content of a READ goes. */
  readonly buffer: Buffer | null;
  /** Bytes of content received; a READ is complete at `length`. */
  received: number;
  /** All content so far was holes. */
  onlyHoles: boolean;
  extents: Extent[];
  error: DvceError | null;
  readonly done: (pending: Pending) => void;
}

export interface ReplySink {
  pending(cookie: number): Pending | undefined;
  complete(cookie: number, pending: Pending): void;
  broken(reason: string): void;
}

/** Longest body that is no content: a list of extents. */
const bodyBytesMax = 16 * 1024 * 1024;

export class ReplyParser {
  readonly #mode: ReplyMode;
  readonly #sink: ReplySink;
  readonly #where: string;
  readonly #header = Buffer.alloc(32);
  #target: Buffer;
  #fill = 0;
  #next: () => void;
  #broken = false;

  constructor(mode: ReplyMode, where: string, sink: ReplySink) {
    this.#mode = mode;
    this.#where = where;
    this.#sink = sink;
    this.#next = () => this.#parseHeader();
    this.#target = this.#header.subarray(0, 16);
  }

  feed(bytes: Buffer): void {
    for (let at = 0; at < bytes.length && !this.#broken; ) {
      const taken = Math.min(this.#target.length - this.#fill, bytes.length - at);
      bytes.copy(this.#target, this.#fill, at, at + taken);
      this.#fill += taken;
      at += taken;
      if (this.#fill === this.#target.length) this.#next();
    }
  }

  /** Fill `target` next, then run `next`; a target of no bytes is full at once. */
  #expect(target: Buffer, next: () => void): void {
    this.#target = target;
    this.#fill = 0;
    this.#next = next;
    if (target.length === 0) next();
  }

  #expectHeader(): void {
    this.#expect(this.#header.subarray(0, 16), () => this.#parseHeader());
  }

  #break(reason: string): void {
    this.#broken = true;
    this.#sink.broken(reason);
  }

  /** All headers have at least 16 bytes and start with their magic. */
  #parseHeader(): void {
    const magic = this.#header.readUInt32BE(0);
    if (magic === magics.simpleReply && this.#mode !== 'extended') this.#simple();
    else if (magic === magics.structuredReply && this.#mode === 'structured')
      this.#expect(this.#header.subarray(16, 20), () => this.#chunk(this.#header.readUInt32BE(16)));
    else if (magic === magics.extendedReply && this.#mode === 'extended')
      this.#expect(this.#header.subarray(16, 32), () =>
        this.#chunk(fromWords(this.#header.readUInt32BE(24), this.#header.readUInt32BE(28))),
      );
    else this.#break('wrong reply magic');
  }

  #find(): { readonly cookie: number; readonly pending: Pending } | null {
    const cookie = this.#header.readUInt32BE(12);
    const pending = this.#header.readUInt32BE(8) === 0 ? this.#sink.pending(cookie) : undefined;
    if (pending !== undefined) return { cookie, pending };
    this.#break('a reply to a request that was not made');
    return null;
  }

  #simple(): void {
    const found = this.#find();
    if (found === null) return;
    const { cookie, pending } = found;
    const errno = this.#header.readUInt32BE(4);
    const finish = (): void => {
      this.#sink.complete(cookie, pending);
      this.#expectHeader();
    };
    if (errno !== 0) {
      pending.error = remoteError(errno, '', pending, this.#where);
      finish();
    } else if (pending.buffer === null) finish();
    else if (this.#mode !== 'compact') this.#break('content without a chunk');
    else {
      pending.received = pending.length;
      pending.onlyHoles = false;
      this.#expect(pending.buffer, finish);
    }
  }

  #chunk(length: number): void {
    const found = this.#find();
    if (found === null) return;
    const { cookie, pending } = found;
    const flags = this.#header.readUInt16BE(4);
    const type = this.#header.readUInt16BE(6);
    const finish = (): void => {
      if ((flags & chunkDone) !== 0) {
        if (!isWhole(pending)) {
          this.#break('a READ was answered in part');
          return;
        }
        this.#sink.complete(cookie, pending);
      }
      this.#expectHeader();
      return;
    };
    if (type === chunkTypes.offsetData) this.#content(pending, length, finish);
    else if (length > bodyBytesMax) this.#break('a reply chunk is too long');
    else {
      const body = Buffer.allocUnsafe(length);
      this.#expect(body, () => {
        if (this.#body(pending, type, body)) finish();
        else this.#break(`a reply chunk of type ${type} does not fit its request`);
      });
    }
  }

  #content(pending: Pending, length: number, finish: () => void): void {
    const offsetBytes = Buffer.allocUnsafe(8);
    this.#expect(offsetBytes, () => {
      const target = place(pending, offsetBytes, length - 8);
      if (target === null) return this.#break('content outside of the request');
      pending.onlyHoles = false;
      return this.#expect(target, finish);
    });
  }

  #body(pending: Pending, type: number, body: Buffer): boolean {
    if (type === chunkTypes.none) return body.length === 0;
    if (type === chunkTypes.offsetHole) return hole(pending, body);
    if (type === chunkTypes.blockStatus) return status(pending, body, 4, 4);
    if (type === chunkTypes.blockStatusExtended) return status(pending, body, 8, 8);
    const isError = type === chunkTypes.error || type === chunkTypes.errorOffset;
    if (!isError || body.length < 6) return false;
    const textEnd = 6 + body.readUInt16BE(4);
    if (textEnd > body.length) return false;
    const text = body.toString('utf8', 6, textEnd);
    pending.error = remoteError(body.readUInt32BE(0), text, pending, this.#where);
    return true;
  }
}

/** A READ without error is whole when its content adds up. */
const isWhole = (pending: Pending): boolean =>
  pending.error !== null || pending.buffer === null || pending.received === pending.length;

/** The part of the buffer that a content chunk fills, or null when it lies outside. */
function place(pending: Pending, offsetBytes: Buffer, length: number): Buffer | null {
  const { buffer } = pending;
  const offset = fromWords(offsetBytes.readUInt32BE(0), offsetBytes.readUInt32BE(4));
  const from = offset - pending.offset;
  if (buffer === null || length <= 0 || from < 0 || from + length > pending.length) return null;
  pending.received += length;
  return pending.received > pending.length ? null : buffer.subarray(from, from + length);
}

function hole(pending: Pending, body: Buffer): boolean {
  if (body.length !== 12) return false;
  const target = place(pending, body, body.readUInt32BE(8));
  target?.fill(0);
  return target !== null;
}

/** Context id (and in the wide form a count), then pairs of length and flags. */
function status(pending: Pending, body: Buffer, headBytes: number, wordBytes: 4 | 8): boolean {
  const rest = body.length - headBytes;
  if (pending.type !== commands.blockStatus || rest <= 0 || rest % (2 * wordBytes) !== 0)
    return false;
  const number = (at: number): number =>
    wordBytes === 4
      ? body.readUInt32BE(at)
      : fromWords(body.readUInt32BE(at), body.readUInt32BE(at + 4));
  for (let at = headBytes; at < body.length; at += 2 * wordBytes) {
    const lengthBytes = number(at);
    const flags = number(at + wordBytes);
    if (lengthBytes === 0) return false;
    pending.extents.push({
      lengthBytes,
      hole: (flags & allocationContext.hole) !== 0,
      zero: (flags & allocationContext.zero) !== 0,
    });
  }
  return true;
}

function remoteError(errno: number, text: string, pending: Pending, where: string): DvceError {
  const what = `NBD ${commandName(pending.type)}`;
  const reason = text === '' ? `error ${errno} of the server` : text;
  switch (errno) {
    case nbdErrnos.EPERM:
      return new DvceError('NOT_ALLOWED', { what: `${what} at ${where}`, reason, advice: '' });
    case nbdErrnos.EINVAL:
    case nbdErrnos.EOVERFLOW:
      return new DvceError('INVALID_ARGUMENT', { what: `${what} at ${where}`, reason, advice: '' });
    case nbdErrnos.ENOSPC:
      return new DvceError('NO_SPACE', { where, reason });
    case nbdErrnos.ENOTSUP:
      return new DvceError('UNSUPPORTED', { what: `${what} at ${where}`, reason, advice: '' });
    case nbdErrnos.ESHUTDOWN:
      return new DvceError('VOLUME_CLOSED', { name: where });
    default:
      return new DvceError('IO_FAILED', { what, where, reason });
  }
}
