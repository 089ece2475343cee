/**
 * The transmission phase of one connection: requests in, calls of the backend, replies out.
 *
 * Invariants
 * - A request counts from the moment its header is accepted until its reply is in the kernel. At
 *   limits.nbdInFlightPerConnection requests or limits.nbdBytesPerConnection bytes the parser is not fed any more, and
 *   the socket is not read beyond limits.nbdHeldInputBytes: a client that does not read its replies, and a backend that is
 *   slow, both stop the input.
 * - `origin.alive` turns false in the same turn in which the connection is seen dead; from then on nothing new reaches
 *   the backend and replies are dropped (rule N6). A client that said DISC has not died: what it asked for is finished.
 * - `idle` is called once, when the connection takes no more input and no request is left in the backend.
 *
 *   state      input           replies    ends with
 *   open       parsed          sent       DISC, drain(), dead()
 *   finishing  ignored         sent       last reply written: io.end(), then dead()
 *   dead       ignored         dropped    last backend call returned: io.idle()
 */
import { assert, DvceError } from '../base/index.ts';
import type { BlockBackend, RequestOrigin, WriteOptions, ZeroOptions } from './backend.ts';
import { commandFlags, commands } from './constants.ts';
import { HeldInput } from './held-input.ts';
import { ReplyEncoder, sumOf } from './replies.ts';
import { ReplyWriter } from './reply-writer.ts';
import { RequestParser } from './request-parser.ts';
import { checkRequest, type Request, type RequestRules, withPayload } from './requests.ts';
import type { Negotiated, TransmissionIo } from './transmission-io.ts';

type State = 'open' | 'finishing' | 'dead';

export class Transmission {
  readonly #io: TransmissionIo;
  readonly #backend: BlockBackend;
  readonly #negotiated: Negotiated;
  readonly #writer: ReplyWriter;
  readonly #encoder: ReplyEncoder;
  readonly #parser: RequestParser;
  readonly #origin: { alive: boolean } = { alive: true };
  readonly #writeOptions: readonly [WriteOptions, WriteOptions];
  readonly #zeroOptions: readonly ZeroOptions[];
  #state: State = 'open';
  #inFlight = 0;
  #bytesInFlight = 0;
  #inBackend = 0;
  /** Input that arrived while there was no room. Reading goes on for a while, to see the end of a dead connection. */
  readonly #held = new HeldInput();
  #stalled = false;
  #waitsForTurn = false;
  #ended = false;
  #idleReported = false;
  #restarting = false;
  /** When the input that is being parsed came. */
  #fedAt = 0;

  constructor(io: TransmissionIo, backend: BlockBackend, negotiated: Negotiated) {
    this.#io = io;
    this.#backend = backend;
    this.#negotiated = negotiated;
    this.#writer = new ReplyWriter(
      io.socket,
      (requests, bytes) => this.#written(requests, bytes),
      (error) => io.destroy(error.message),
    );
    this.#encoder = new ReplyEncoder(negotiated.mode, this.#writer);
    this.#parser = new RequestParser(negotiated.mode, {
      rules: () => this.#rules(),
      admit: (request) => this.#admit(request),
      request: (request, payload) => this.#serve(request, payload),
      refused: (request, error) => this.#fail(request, error),
      disconnect: () => this.#finish(),
      lost: (reason) => io.destroy(reason),
    });
    const origin: RequestOrigin = this.#origin;
    this.#writeOptions = [
      { fua: false, origin },
      { fua: true, origin },
    ];
    this.#zeroOptions = [0, 1, 2, 3].map((bits) => ({
      fua: (bits & 1) !== 0,
      noHole: (bits & 2) !== 0,
      origin,
    }));
  }

  get requestsInFlight(): number {
    return this.#inFlight;
  }

  /** Where the next input may go as it is, null when that is not known. */
  get inputRoom(): Buffer | null {
    return this.#state === 'open' && !this.#stalled ? this.#parser.payloadRoom : null;
  }

  /** Input; `bytes` are only valid during the call, unless they lie in `inputRoom`. */
  receive(bytes: Buffer): void {
    if (this.#state !== 'open') return;
    if (this.#stalled) this.#hold(bytes);
    else this.#feed(bytes, false);
  }

  /** Planned restart: read nothing more, finish what was read, send no error for the rest (it is asked again). */
  drain(): void {
    this.#restarting = true;
    if (this.#state !== 'open') return;
    this.#parser.stop();
    this.#io.pause();
    this.#finish();
  }

  /** The connection is gone; called in the turn in which that is seen. */
  dead(): void {
    if (this.#state === 'dead') return;
    // After DISC the client will not send anything again, so what it left in flight may still be applied.
    if (this.#state === 'open' || this.#restarting) this.#origin.alive = false;
    this.#state = 'dead';
    this.#parser.stop();
    this.#io.throttle?.forget(this.#origin);
    this.#writer.close();
    this.#held.clear();
    this.#io.budget.bytes -= this.#bytesInFlight;
    this.#reportIdle();
  }

  /** End of input without DISC: the client is gone. After DISC it is what the client does next. */
  get expectsEnd(): boolean {
    return this.#state === 'finishing' && !this.#restarting;
  }

  #account(bytes: number): void {
    this.#bytesInFlight += bytes;
    if (this.#state !== 'dead') this.#io.budget.bytes += bytes;
  }

  /** `isHeld`: these bytes were held, and stay valid. */
  #feed(bytes: Buffer, isHeld: boolean): void {
    const { meter, share } = this.#io;
    if (meter !== null) this.#fedAt = meter.now();
    share?.begin();
    this.#writer.held = true;
    const taken = this.#parser.feed(bytes);
    this.#writer.held = false;
    this.#writer.flush();
    share?.input(taken);
    // A request may be waiting for room even when all bytes were taken.
    const isUsedUp = share?.isUsedUp === true;
    const stall = taken < bytes.length || this.#parser.waiting || isUsedUp;
    if (this.#state !== 'open' || !stall) return;
    this.#stalled = true;
    this.#held.putBack(bytes.subarray(taken), isHeld);
    if (this.#held.isFull) this.#io.pause();
    if (isUsedUp) this.#leaveTurn();
  }

  /** The volume has done its share of this turn. The socket is read on, so that the end of a dead connection is seen (N6). */
  #leaveTurn(): void {
    if (this.#waitsForTurn) return;
    this.#waitsForTurn = true;
    this.#io.share?.wait(() => {
      this.#waitsForTurn = false;
      this.#goOn();
    });
  }

  #hold(bytes: Buffer): void {
    this.#held.add(bytes);
    if (this.#held.isFull) this.#io.pause();
  }

  #written(requests: number, bytes: number): void {
    this.#inFlight -= requests;
    this.#account(-bytes);
    if (this.#state === 'dead') return;
    if (this.#state === 'finishing') this.#endWhenDone();
    this.#goOn();
  }

  /** There is room again: what was held comes first. */
  #goOn(): void {
    if (!this.#stalled || this.#waitsForTurn || this.#state !== 'open') return;
    this.#stalled = false;
    // Feeding nothing, too, tries the request that waits.
    do this.#feed(this.#held.take(), true);
    while (!this.#stalled && !this.#held.isEmpty);
    if (!this.#stalled && this.#state === 'open') this.#io.resume();
  }

  #finish(): void {
    this.#state = 'finishing';
    this.#held.clear();
    this.#writer.flush();
    this.#endWhenDone();
  }

  #endWhenDone(): void {
    if (this.#inFlight > 0 || this.#ended) return;
    this.#ended = true;
    this.#io.end();
  }

  #reportIdle(): void {
    if (this.#state !== 'dead' || this.#inBackend > 0 || this.#idleReported) return;
    this.#idleReported = true;
    this.#origin.alive = false;
    this.#io.idle();
  }

  #rules(): RequestRules {
    const { sizeBytes, caps } = this.#backend;
    const { mode, blockStatus } = this.#negotiated;
    return { mode, blockStatus, readOnly: caps.readOnly, sizeBytes };
  }

  #admit(request: Request): boolean {
    const { inFlightMax, bytesInFlightMax, budget, share } = this.#io;
    const bytes = request.accountedBytes;
    if (this.#inFlight >= inFlightMax || share?.isUsedUp === true) return false;
    // One request alone always goes through, so that no connection waits for another.
    const full =
      this.#bytesInFlight + bytes > bytesInFlightMax || budget.bytes + bytes > budget.bytesMax;
    if (full && bytes > 0 && this.#inFlight > 0) return false;
    this.#inFlight += 1;
    this.#account(bytes);
    share?.request(request.type, request.length);
    return true;
  }

  #serve(request: Request, payload: Buffer | null): void {
    request.startedAt = this.#fedAt;
    const { throttle } = this.#io;
    const { type, length } = request;
    if (throttle === null || throttle.passes(type, length)) this.#start(request, payload);
    else throttle.hold(type, length, this.#origin, () => this.#start(request, payload));
  }

  #start(request: Request, payload: Buffer | null): void {
    switch (request.type) {
      case commands.read:
        this.#read(request);
        return;
      case commands.write:
        this.#write(request, payload);
        return;
      case commands.flush:
        this.#flush(request);
        return;
      case commands.trim:
      case commands.writeZeroes:
        this.#discard(request);
        return;
      case commands.cache:
        this.#cache(request);
        return;
      default:
        this.#blockStatus(request, payload);
        return;
    }
  }

  #read(request: Request): void {
    if (request.length === 0) {
      this.#succeed(request);
      return;
    }
    this.#inBackend += 1;
    this.#backend.read(request.offset, request.length, (error, parts, giveBack) => {
      this.#returned(request, error);
      if (error !== null) this.#fail(request, error);
      else if (sumOf(parts) !== request.length) this.#fail(request, wrongLength('read'));
      else if (this.#answers()) this.#encoder.content(request, parts, giveBack);
      else giveBack?.();
    });
  }

  #write(request: Request, payload: Buffer | null): void {
    const fua = request.flags & commandFlags.fua;
    if (payload === null) {
      this.#empty(request);
      return;
    }
    this.#inBackend += 1;
    const options = this.#writeOptions[fua === 0 ? 0 : 1];
    this.#backend.write(request.offset, payload, options, (error) => this.#done(request, error));
  }

  /** A request of length 0 changes nothing; with FUA it is still a point of stability. */
  #empty(request: Request): void {
    if ((request.flags & commandFlags.fua) === 0) this.#succeed(request);
    else this.#flush(request);
  }

  #flush(request: Request): void {
    if (this.#backend.caps.readOnly) {
      this.#succeed(request);
      return;
    }
    this.#inBackend += 1;
    this.#backend.flush((error) => this.#done(request, error));
  }

  #discard(request: Request): void {
    const { flags } = request;
    if (request.length === 0) {
      this.#empty(request);
      return;
    }
    const fua = (flags & commandFlags.fua) !== 0;
    const noHole = (flags & commandFlags.noHole) !== 0;
    if (noHole && (flags & commandFlags.fastZero) !== 0) {
      this.#fail(request, notFast());
      return;
    }
    this.#inBackend += 1;
    const done = (error: DvceError | null): void => this.#done(request, error);
    if (request.type === commands.trim) {
      const options = this.#writeOptions[fua ? 1 : 0];
      this.#backend.trim(request.offset, request.length, options, done);
      return;
    }
    const options = this.#zeroOptions[(fua ? 1 : 0) | (noHole ? 2 : 0)] as ZeroOptions; // four entries
    this.#backend.writeZeroes(request.offset, request.length, options, done);
  }

  #cache(request: Request): void {
    if (request.length === 0) {
      this.#succeed(request);
      return;
    }
    this.#inBackend += 1;
    this.#backend.cache(request.offset, request.length, (error) => this.#done(request, error));
  }

  #blockStatus(request: Request, payload: Buffer | null): void {
    const asked = payload === null ? request : withPayload(request, payload);
    const error = asked instanceof DvceError ? asked : checkRequest(asked, this.#rules());
    if (error !== null) {
      this.#fail(request, error);
      return;
    }
    const effective = asked as Request; // an error has returned above
    this.#inBackend += 1;
    this.#backend.extents(effective.offset, effective.length, (failure, extents) => {
      this.#returned(request, failure);
      if (failure !== null) this.#fail(request, failure);
      else if ((extents[0]?.lengthBytes ?? 0) <= 0) this.#fail(request, wrongLength('extents'));
      else if (this.#answers())
        this.#encoder.blockStatus(effective, extents, this.#backend.sizeBytes);
    });
  }

  #done(request: Request, error: DvceError | null): void {
    this.#returned(request, error);
    if (error === null) this.#succeed(request);
    else this.#fail(request, error);
  }

  #returned(request: Request, error: DvceError | null): void {
    assert(!request.answered, 'a backend answered one request twice');
    request.answered = true;
    this.#inBackend -= 1;
    this.#io.meter?.ended(request.type, request.startedAt, error !== null);
    if (this.#state === 'dead') this.#reportIdle();
  }

  #answers(): boolean {
    return this.#state !== 'dead';
  }

  #succeed(request: Request): void {
    if (this.#answers()) this.#encoder.success(request);
  }

  #fail(request: Request, error: DvceError): void {
    if (!this.#answers()) return;
    // In a planned restart the guest must see no error: the client reconnects and asks again.
    const shutdown = 108;
    if (this.#restarting && error.nbdErrno === shutdown) {
      this.#io.destroy('the volume closed during a restart');
      return;
    }
    this.#encoder.failure(request, error);
  }
}

const wrongLength = (what: string): DvceError =>
  new DvceError('INTERNAL', { reason: `the backend answered ${what} with a wrong length` });

const notFast = (): DvceError =>
  new DvceError('UNSUPPORTED', {
    what: 'WRITE_ZEROES with FAST_ZERO and NO_HOLE',
    reason: 'keeping the range allocated is not fast',
    advice: 'Write zeros instead.',
  });
