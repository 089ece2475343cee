/**
 * Replies as bytes, for the three modes.
 *
 * compact      simple replies only; an error carries no text
 * structured   READ and BLOCK_STATUS in chunks, errors as chunks with text, other successes as simple replies (shorter)
 * extended     chunks with 32-byte headers only, offset of the request repeated
 *
 * Content of a READ is complete before its first byte is written, so no error can follow a header (simple replies have
 * no way to tell one).
 */
import { type DvceError, limits } from '../base/index.ts';
import type { Extent, ReadParts } from './backend.ts';
import {
  allocationContext,
  chunkDone,
  chunkTypes,
  commandFlags,
  commands,
  magics,
  type ReplyMode,
} from './constants.ts';
import type { ReplyWriter } from './reply-writer.ts';
import { errnoFor, type Request } from './requests.ts';

export class ReplyEncoder {
  readonly #mode: ReplyMode;
  readonly #writer: ReplyWriter;

  constructor(mode: ReplyMode, writer: ReplyWriter) {
    this.#mode = mode;
    this.#writer = writer;
  }

  success(request: Request): void {
    if (
      this.#mode === 'extended' ||
      (this.#mode === 'structured' && request.type === commands.read)
    )
      this.#chunk(request, chunkTypes.none, chunkDone, 0);
    else this.#simple(request, 0);
    this.#writer.complete(request.accountedBytes);
  }

  failure(request: Request, error: DvceError): void {
    const errno = errnoFor(request, error);
    if (this.#mode === 'compact') this.#simple(request, errno);
    else {
      const text = errorText(error);
      const at = this.#chunk(request, chunkTypes.error, chunkDone, 6 + text.length);
      const slab = this.#writer.slab;
      slab.writeUInt32BE(errno, at);
      slab.writeUInt16BE(text.length, at + 4);
      slab.set(text, at + 6);
    }
    this.#writer.complete(request.accountedBytes);
  }

  /** @param giveBack called when the parts have left, if they do */
  content(request: Request, parts: ReadParts, giveBack?: () => void): void {
    if (giveBack !== undefined) this.#writer.whenSent(giveBack);
    if (request.length === 0) {
      this.success(request);
      return;
    }
    if (this.#mode === 'compact') {
      this.#simple(request, 0);
      this.#run(parts, 0, parts.length);
    } else if ((request.flags & commandFlags.df) !== 0 || parts.length === 1)
      this.#single(request, parts);
    else this.#chunks(request, parts);
    this.#writer.complete(request.accountedBytes);
  }

  /** One chunk for the only context there is. */
  blockStatus(request: Request, extents: readonly Extent[], sizeBytes: number): void {
    const wide = this.#mode === 'extended';
    const descriptors = describe(
      request,
      extents,
      sizeBytes,
      wide ? Number.MAX_SAFE_INTEGER : 0xffffffff,
    );
    const count = descriptors.length / 2;
    const body = Buffer.allocUnsafe(wide ? 8 + 16 * count : 4 + 8 * count);
    let at = body.writeUInt32BE(allocationContext.id, 0);
    if (wide) at = body.writeUInt32BE(count, at);
    for (const value of descriptors) {
      if (wide) at = body.writeUInt32BE(Math.floor(value / 0x1_0000_0000), at);
      at = body.writeUInt32BE(value % 0x1_0000_0000, at);
    }
    const type = wide ? chunkTypes.blockStatusExtended : chunkTypes.blockStatus;
    this.#header(request, type, chunkDone, body.length, 0);
    this.#writer.data(body);
    this.#writer.complete(request.accountedBytes);
  }

  #simple(request: Request, errno: number): void {
    const at = this.#writer.room(16);
    const slab = this.#writer.slab;
    slab.writeUInt32BE(magics.simpleReply, at);
    slab.writeUInt32BE(errno, at + 4);
    slab.writeUInt32BE(request.cookieHigh, at + 8);
    slab.writeUInt32BE(request.cookieLow, at + 12);
  }

  /** One content chunk: a hole if everything is zero and the client did not forbid it, else data. */
  #single(request: Request, parts: ReadParts): void {
    const only = parts[0];
    if (typeof only === 'number' && (request.flags & commandFlags.df) === 0)
      this.#hole(request, request.offset, only, chunkDone);
    else
      this.#dataChunk(request, parts, 0, parts.length, request.offset, request.length, chunkDone);
  }

  /** Neighbouring buffers share a chunk; each run of zeros is a hole chunk. */
  #chunks(request: Request, parts: ReadParts): void {
    let offset = request.offset;
    for (let from = 0; from < parts.length; ) {
      const to = endOfChunk(parts, from);
      const length = sumOf(parts, from, to);
      const flags = to === parts.length ? chunkDone : 0;
      if (typeof parts[from] === 'number') this.#hole(request, offset, length, flags);
      else this.#dataChunk(request, parts, from, to, offset, length, flags);
      offset += length;
      from = to;
    }
  }

  #dataChunk(
    request: Request,
    parts: ReadParts,
    from: number,
    to: number,
    offset: number,
    length: number,
    flags: number,
  ): void {
    const at = this.#header(request, chunkTypes.offsetData, flags, 8 + length, 8);
    this.#writeOffset(offset, at);
    this.#run(parts, from, to);
  }

  #hole(request: Request, offset: number, length: number, flags: number): void {
    const at = this.#chunk(request, chunkTypes.offsetHole, flags, 12);
    this.#writeOffset(offset, at);
    this.#writer.slab.writeUInt32BE(length, at + 8);
  }

  #run(parts: ReadParts, from: number, to: number): void {
    for (let i = from; i < to; i += 1) {
      const part = parts[i] as Buffer | number; // i < length
      if (typeof part === 'number') this.#writer.zeroes(part);
      else this.#writer.data(part);
    }
  }

  #writeOffset(offset: number, at: number): void {
    const slab = this.#writer.slab;
    slab.writeUInt32BE(Math.floor(offset / 0x1_0000_0000), at);
    slab.writeUInt32BE(offset % 0x1_0000_0000, at + 4);
  }

  /** Header and room for a whole short body. @returns where the body starts */
  #chunk(request: Request, type: number, flags: number, bodyBytes: number): number {
    return this.#header(request, type, flags, bodyBytes, bodyBytes);
  }

  #header(
    request: Request,
    type: number,
    flags: number,
    bodyBytes: number,
    roomBytes: number,
  ): number {
    const extended = this.#mode === 'extended';
    const headerBytes = extended ? 32 : 20;
    const at = this.#writer.room(headerBytes + roomBytes);
    const slab = this.#writer.slab;
    slab.writeUInt32BE(extended ? magics.extendedReply : magics.structuredReply, at);
    slab.writeUInt16BE(flags, at + 4);
    slab.writeUInt16BE(type, at + 6);
    slab.writeUInt32BE(request.cookieHigh, at + 8);
    slab.writeUInt32BE(request.cookieLow, at + 12);
    if (extended) {
      slab.writeUInt32BE(request.offsetHigh, at + 16);
      slab.writeUInt32BE(request.offsetLow, at + 20);
      slab.writeUInt32BE(0, at + 24);
    }
    slab.writeUInt32BE(bodyBytes, at + headerBytes - 4);
    return at + headerBytes;
  }
}

/** Message for a human, cut at a character so that it fits the protocol's limit. */
export function errorText(error: DvceError): Buffer {
  const bytes = Buffer.from(error.message);
  if (bytes.length <= limits.nbdErrorTextBytes) return bytes;
  let end = limits.nbdErrorTextBytes;
  while (end > 0 && ((bytes[end] as number) & 0xc0) === 0x80) end -= 1; // end < length
  return bytes.subarray(0, end);
}

export function sumOf(parts: ReadParts, from = 0, to = parts.length): number {
  let sum = 0;
  for (let i = from; i < to; i += 1) {
    const part = parts[i] as Buffer | number; // from and to lie in the list
    sum += typeof part === 'number' ? part : part.length;
  }
  return sum;
}

/** One run of zeros, or all buffers up to the next one. */
function endOfChunk(parts: ReadParts, from: number): number {
  let to = from + 1;
  if (typeof parts[from] === 'number') return to;
  while (to < parts.length && typeof parts[to] !== 'number') to += 1;
  return to;
}

interface StatusRequest {
  readonly offset: number;
  readonly length: number;
  readonly flags: number;
}

/**
 * Extents as pairs (length, flags): neighbours that are alike are joined, the list ends where the request ends (only the
 * last extent may reach beyond it, never beyond the export), and `lengthMax` is what the field can hold.
 */
export function describe(
  request: StatusRequest,
  extents: readonly Extent[],
  sizeBytes: number,
  lengthMax: number,
): number[] {
  const one = (request.flags & commandFlags.reqOne) !== 0;
  const end = one ? request.length : sizeBytes - request.offset;
  const countMax = one ? 1 : limits.nbdExtentsMax;
  const pairs: number[] = [];
  let total = 0;
  for (const { lengthBytes, flags } of joined(extents)) {
    const length = Math.min(lengthBytes, lengthMax, end - total);
    if (length <= 0) break;
    pairs.push(length, flags);
    total += length;
    // A cut extent ends the list: what follows it would not be its neighbour.
    if (length < lengthBytes || total >= request.length || pairs.length === 2 * countMax) break;
  }
  return pairs;
}

interface Run {
  lengthBytes: number;
  readonly flags: number;
}

function joined(extents: readonly Extent[]): Run[] {
  const runs: Run[] = [];
  for (const { lengthBytes, hole, zero } of extents) {
    const flags = (hole ? allocationContext.hole : 0) | (zero ? allocationContext.zero : 0);
    const last = runs.at(-1);
    if (last?.flags === flags) last.lengthBytes += lengthBytes;
    else runs.push({ lengthBytes, flags });
  }
  return runs;
}
