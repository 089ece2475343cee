/**
 * Cuts the byte stream of the transmission phase into requests and payloads, in place.
 *
 * Input may be cut anywhere. A header that lies whole in the chunk is read where it is; one that straddles two chunks is
 * completed in a scratch of 32 bytes. Payload is copied exactly once, into memory that then belongs to the backend.
 *
 *   state      what comes next                                   left by
 *   header     28 or 32 bytes                                    a whole header
 *   waiting    nothing: the request has no room yet              the sink admits it
 *   payload    bytes of a request that is to be served           the last byte: sink.request(request, payload)
 *   skip       bytes of a request that is refused                the last byte: sink.refused(request, error)
 *   stopped    everything is ignored (DISC, lost stream)         -
 */
import { allocatePayload, DvceError, KiB, limits } from '../base/index.ts';
import {
  commandFlags,
  commands,
  extendedRequestBytes,
  magics,
  type ReplyMode,
  requestBytes,
} from './constants.ts';
import { checkRequest, fromWords, type Request, type RequestRules } from './requests.ts';

export interface RequestSink {
  rules(): RequestRules;
  /** Take the request into account, or say that there is no room yet. */
  admit(request: Request): boolean;
  /** A whole request; `payload` is set where the request carries one. */
  request(request: Request, payload: Buffer | null): void;
  refused(request: Request, error: DvceError): void;
  disconnect(): void;
  /** The stream makes no sense any more. */
  lost(reason: string): void;
}

/** Length of an answerable BLOCK_STATUS payload: the effect length and one context id. */
const blockStatusPayloadBytesMax = 4096;
/** A smaller rest of a payload is copied: what follows it comes with the same read. */
const roomBytesMin = 32 * KiB;

export class RequestParser {
  readonly #sink: RequestSink;
  readonly #extended: boolean;
  readonly #headerBytes: number;
  readonly #magic: number;
  readonly #scratch = Buffer.alloc(extendedRequestBytes);
  #scratchFill = 0;
  #waiting: Request | null = null;
  /** The request whose payload or refused payload is being read. */
  #current: Request | null = null;
  #payload: Buffer | null = null;
  #payloadFill = 0;
  #refusal: DvceError | null = null;
  #skipLeft = 0;
  #stopped = false;

  constructor(mode: ReplyMode, sink: RequestSink) {
    this.#sink = sink;
    this.#extended = mode === 'extended';
    this.#headerBytes = this.#extended ? extendedRequestBytes : requestBytes;
    this.#magic = this.#extended ? magics.extendedRequest : magics.request;
  }

  /** A request has been parsed that the sink had no room for; feeding, even nothing, tries it again. */
  get waiting(): boolean {
    return this.#waiting !== null;
  }

  /** The rest of a large payload: input read into it need not be copied. */
  get payloadRoom(): Buffer | null {
    const payload = this.#payload;
    if (payload === null || payload.length - this.#payloadFill < roomBytesMin) return null;
    return payload.subarray(this.#payloadFill);
  }

  /** Ignore all further input and forget what is incomplete: nothing of it is ever applied (B-35). */
  stop(): void {
    this.#stopped = true;
    this.#waiting = null;
    this.#current = null;
    this.#payload = null;
  }

  /** @returns how many bytes were taken; fewer than given = no room, offer the rest again later */
  feed(bytes: Buffer): number {
    let at = 0;
    while (!this.#stopped) {
      if (this.#waiting !== null && !this.#tryWaiting(this.#waiting)) return at;
      if (at === bytes.length) return at;
      if (this.#payload !== null) at = this.#fillPayload(this.#payload, bytes, at);
      else if (this.#skipLeft > 0) at = this.#skip(bytes, at);
      else at = this.#readHeader(bytes, at);
    }
    return bytes.length;
  }

  #readHeader(bytes: Buffer, from: number): number {
    const need = this.#headerBytes;
    if (this.#scratchFill === 0 && bytes.length - from >= need) {
      this.#parseHeader(bytes, from);
      return from + need;
    }
    const taken = Math.min(need - this.#scratchFill, bytes.length - from);
    bytes.copy(this.#scratch, this.#scratchFill, from, from + taken);
    this.#scratchFill += taken;
    if (this.#scratchFill === need) {
      this.#scratchFill = 0;
      this.#parseHeader(this.#scratch, 0);
    }
    return from + taken;
  }

  #parseHeader(source: Buffer, at: number): void {
    if (source.readUInt32BE(at) !== this.#magic) {
      this.#lose('wrong request magic');
      return;
    }
    const flags = source.readUInt16BE(at + 4);
    const type = source.readUInt16BE(at + 6);
    if (type === commands.disconnect) {
      this.stop();
      this.#sink.disconnect();
      return;
    }
    const offsetHigh = source.readUInt32BE(at + 16);
    const offsetLow = source.readUInt32BE(at + 20);
    const length = this.#extended
      ? fromWords(source.readUInt32BE(at + 24), source.readUInt32BE(at + 28))
      : source.readUInt32BE(at + 24);
    this.#start({
      type,
      flags,
      cookieHigh: source.readUInt32BE(at + 8),
      cookieLow: source.readUInt32BE(at + 12),
      offsetHigh,
      offsetLow,
      offset: fromWords(offsetHigh, offsetLow),
      length,
      accountedBytes:
        (type === commands.read || type === commands.write) && length <= limits.requestBytesMax
          ? length
          : 0,
      answered: false,
      startedAt: 0,
    });
  }

  #start(request: Request): void {
    if (this.#payloadBytes(request) > this.#payloadBytesMax()) {
      this.#lose('a payload above the maximum');
      return;
    }
    if (!this.#sink.admit(request)) this.#waiting = request;
    else this.#begin(request);
  }

  #tryWaiting(request: Request): boolean {
    if (!this.#sink.admit(request)) return false;
    this.#waiting = null;
    this.#begin(request);
    return true;
  }

  /** The request was admitted: read its payload, refuse it, or pass it on. */
  #begin(request: Request): void {
    const payloadBytes = this.#payloadBytes(request);
    if (this.#extended && request.type === commands.blockStatus && payloadBytes > 0) {
      this.#beginBlockStatusPayload(request);
      return;
    }
    const error = checkRequest(request, this.#sink.rules());
    if (error !== null) this.#refuse(request, error, payloadBytes);
    else if (payloadBytes > 0) this.#collect(request);
    else this.#sink.request(request, null);
  }

  #collect(request: Request): void {
    this.#current = request;
    this.#payload = allocatePayload(request.length);
    this.#payloadFill = 0;
  }

  #refuse(request: Request, error: DvceError, payloadBytes: number): void {
    if (payloadBytes === 0) {
      this.#sink.refused(request, error);
      return;
    }
    this.#current = request;
    this.#refusal = error;
    this.#skipLeft = payloadBytes;
  }

  #beginBlockStatusPayload(request: Request): void {
    const { length } = request;
    if (length >= 12 && length <= blockStatusPayloadBytesMax && length % 4 === 0) {
      this.#collect(request);
      return;
    }
    const error = new DvceError('INVALID_ARGUMENT', {
      what: 'NBD request BLOCK_STATUS',
      reason: `a payload of ${length} bytes is no list of contexts`,
    });
    this.#refuse(request, error, length);
  }

  #fillPayload(payload: Buffer, bytes: Buffer, from: number): number {
    const taken = Math.min(payload.length - this.#payloadFill, bytes.length - from);
    const isThere =
      bytes.buffer === payload.buffer &&
      bytes.byteOffset + from === payload.byteOffset + this.#payloadFill;
    if (!isThere) bytes.copy(payload, this.#payloadFill, from, from + taken);
    this.#payloadFill += taken;
    if (this.#payloadFill === payload.length) {
      const request = this.#current as Request; // set together with #payload
      this.#payload = null;
      this.#current = null;
      this.#sink.request(request, payload);
    }
    return from + taken;
  }

  #skip(bytes: Buffer, from: number): number {
    const taken = Math.min(this.#skipLeft, bytes.length - from);
    this.#skipLeft -= taken;
    if (this.#skipLeft === 0) {
      const request = this.#current as Request; // set together with #skipLeft
      const refusal = this.#refusal as DvceError; // likewise
      this.#current = null;
      this.#refusal = null;
      this.#sink.refused(request, refusal);
    }
    return from + taken;
  }

  /** Compact headers: only WRITE carries a payload. Extended: whatever says so. */
  #payloadBytes(request: Request): number {
    const carries = this.#extended
      ? (request.flags & commandFlags.payloadLength) !== 0
      : request.type === commands.write;
    return carries ? request.length : 0;
  }

  #payloadBytesMax(): number {
    return this.#extended ? limits.requestBytesMax : limits.nbdSkippedBytesMax;
  }

  #lose(reason: string): void {
    this.stop();
    this.#sink.lost(reason);
  }
}
