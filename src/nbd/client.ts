/**
 * An export of another server as a `BlockBackend`.
 *
 * Plain: when the connection is lost every request in flight and every later one fails; there is no reconnect, because
 * only the caller knows whether asking again is right. A server that answers nothing for limits.nbdClientStallMs while
 * requests wait is taken for dead. Requests above the server's maximum are sent in parts.
 */
import type { Socket } from 'node:net';
import { DvceError, limits, type Timer, type Timers } from '../base/index.ts';
import type {
  BackendCaps,
  BlockBackend,
  Done,
  ExtentsDone,
  ReadDone,
  WriteOptions,
  ZeroOptions,
} from './backend.ts';
import { protocolError, type RemoteExport } from './client-handshake.ts';
import { type Pending, ReplyParser } from './client-replies.ts';
import { commandFlags, commands, magics, transmissionFlags } from './constants.ts';
import { writeSize } from './option-data.ts';

export class NbdClient implements BlockBackend {
  readonly facts: RemoteExport;
  readonly sizeBytes: number;
  readonly caps: BackendCaps;
  readonly #socket: Socket;
  readonly #where: string;
  readonly #timers: Timers;
  readonly #pending = new Map<number, Pending>();
  #nextCookie = 1;
  #failure: DvceError | null = null;
  #answers = 0;
  #watch: Timer | null = null;

  constructor(socket: Socket, facts: RemoteExport, where: string, timers: Timers, early: Buffer) {
    this.#socket = socket;
    this.facts = facts;
    this.#where = where;
    this.#timers = timers;
    this.sizeBytes = facts.sizeBytes;
    const has = (flag: number): boolean => (facts.flags & flag) !== 0;
    this.caps = {
      readOnly: has(transmissionFlags.readOnly),
      blockBytes: facts.minimumBlockBytes > 512 ? 4096 : 512,
      multiConn: has(transmissionFlags.canMultiConn),
      cache: has(transmissionFlags.sendCache),
      rotational: has(transmissionFlags.rotational),
    };
    const parser = new ReplyParser(facts.mode, where, {
      pending: (cookie) => this.#pending.get(cookie),
      complete: (cookie, pending) => {
        this.#pending.delete(cookie);
        this.#answers += 1;
        pending.done(pending);
      },
      broken: (reason) => this.#lose(protocolError(where, reason)),
    });
    socket.on('data', (bytes: Buffer) => parser.feed(bytes));
    socket.on('error', (error) => this.#lose(this.#lost(error.message)));
    socket.on('close', () => this.#lose(this.#lost('the server closed the connection')));
    if (early.length > 0) parser.feed(early);
    socket.resume();
  }

  /** Why the connection is lost; null while it is not. */
  get failure(): DvceError | null {
    return this.#failure;
  }

  read(offset: number, length: number, done: ReadDone): void {
    const buffer = Buffer.allocUnsafeSlow(length);
    let onlyHoles = true;
    this.#inParts(
      length,
      (error) => done(error, error === null ? [onlyHoles ? length : buffer] : []),
      (from, count, part) =>
        this.#send(
          commands.read,
          0,
          offset + from,
          count,
          buffer.subarray(from, from + count),
          (pending) => {
            onlyHoles &&= pending.onlyHoles;
            part(pending.error);
          },
        ),
    );
  }

  write(offset: number, data: Buffer, options: WriteOptions, done: Done): void {
    this.#inParts(data.length, done, (from, count, part) => {
      const flags =
        this.#fua(options) | (this.facts.mode === 'extended' ? commandFlags.payloadLength : 0);
      this.#send(
        commands.write,
        flags,
        offset + from,
        count,
        null,
        (p) => part(p.error),
        data.subarray(from, from + count),
      );
    });
  }

  flush(done: Done): void {
    if ((this.facts.flags & transmissionFlags.sendFlush) === 0) done(null);
    else this.#send(commands.flush, 0, 0, 0, null, (pending) => done(pending.error));
  }

  trim(offset: number, length: number, options: WriteOptions, done: Done): void {
    if ((this.facts.flags & transmissionFlags.sendTrim) === 0) done(null);
    else this.#ranges(commands.trim, this.#fua(options), offset, length, done);
  }

  writeZeroes(offset: number, length: number, options: ZeroOptions, done: Done): void {
    if ((this.facts.flags & transmissionFlags.sendWriteZeroes) === 0) {
      const count = Math.min(length, limits.requestBytesMax);
      this.write(offset, Buffer.alloc(count), options, (error) => {
        if (error !== null || count === length) done(error);
        else this.writeZeroes(offset + count, length - count, options, done);
      });
      return;
    }
    const flags = this.#fua(options) | (options.noHole ? commandFlags.noHole : 0);
    this.#ranges(commands.writeZeroes, flags, offset, length, done);
  }

  extents(offset: number, length: number, done: ExtentsDone): void {
    if (!this.facts.blockStatus) {
      done(null, [{ lengthBytes: length, hole: false, zero: false }]);
      return;
    }
    const count = this.facts.mode === 'extended' ? length : Math.min(length, rangeBytesMax);
    this.#send(commands.blockStatus, 0, offset, count, null, (pending) => {
      const empty = pending.error === null && pending.extents.length === 0;
      done(empty ? protocolError(this.#where, 'no extents') : pending.error, pending.extents);
    });
  }

  cache(offset: number, length: number, done: Done): void {
    if (!this.caps.cache) done(null);
    else this.#ranges(commands.cache, 0, offset, length, done);
  }

  /** Say DISC and close; requests in flight are finished first by the server, their answers are not waited for. */
  async close(): Promise<void> {
    if (this.#socket.destroyed) return;
    this.#socket.write(this.#header(commands.disconnect, 0, 0, 0, 0));
    await new Promise<void>((resolve) => {
      const deadline = this.#timers.after(limits.nbdClientConnectMs, () => this.#socket.destroy());
      this.#socket.once('close', () => {
        deadline.cancel();
        resolve();
      });
      this.#socket.end();
    });
  }

  #fua(options: WriteOptions): number {
    return options.fua && (this.facts.flags & transmissionFlags.sendFua) !== 0
      ? commandFlags.fua
      : 0;
  }

  /** Ranges without payload: 32-bit lengths but with extended headers. */
  #ranges(type: number, flags: number, offset: number, length: number, done: Done): void {
    const max = this.facts.mode === 'extended' ? length : rangeBytesMax;
    const count = Math.min(length, max);
    this.#send(type, flags, offset, count, null, ({ error }) => {
      if (error !== null || count === length) done(error);
      else this.#ranges(type, flags, offset + count, length - count, done);
    });
  }

  #inParts(
    length: number,
    done: Done,
    send: (from: number, count: number, part: Done) => void,
  ): void {
    if (length === 0) done(null);
    const max = this.facts.maximumPayloadBytes;
    let left = Math.ceil(length / max);
    let failure: DvceError | null = null;
    for (let from = 0; from < length; from += max)
      send(from, Math.min(max, length - from), (error) => {
        failure ??= error;
        left -= 1;
        if (left === 0) done(failure);
      });
  }

  #send(
    type: number,
    flags: number,
    offset: number,
    length: number,
    buffer: Buffer | null,
    done: (pending: Pending) => void,
    payload: Buffer | null = null,
  ): void {
    const pending: Pending = {
      type,
      offset,
      length,
      buffer,
      done,
      received: 0,
      onlyHoles: true,
      extents: [],
      error: this.#failure,
    };
    if (this.#failure !== null) {
      done(pending);
      return;
    }
    const cookie = this.#nextCookie;
    this.#nextCookie = cookie === 0xffffffff ? 1 : cookie + 1;
    this.#pending.set(cookie, pending);
    this.#watch ??= this.#startWatch();
    const header = this.#header(type, flags, cookie, offset, length);
    if (payload === null) this.#socket.write(header);
    else {
      this.#socket.cork();
      this.#socket.write(header);
      this.#socket.write(payload);
      this.#socket.uncork();
    }
  }

  #header(type: number, flags: number, cookie: number, offset: number, length: number): Buffer {
    const extended = this.facts.mode === 'extended';
    const header = Buffer.allocUnsafe(extended ? 32 : 28);
    header.writeUInt32BE(extended ? magics.extendedRequest : magics.request, 0);
    header.writeUInt16BE(flags, 4);
    header.writeUInt16BE(type, 6);
    header.writeUInt32BE(0, 8);
    header.writeUInt32BE(cookie, 12);
    writeSize(header, offset, 16);
    if (extended) writeSize(header, length, 24);
    else header.writeUInt32BE(length, 24);
    return header;
  }

  #startWatch(): Timer {
    const seen = this.#answers;
    return this.#timers.after(limits.nbdClientStallMs, () => {
      this.#watch = null;
      if (this.#pending.size === 0) return;
      if (this.#answers === seen)
        this.#lose(this.#lost(`no answer within ${limits.nbdClientStallMs} ms`));
      else this.#watch = this.#startWatch();
    });
  }

  #lost(reason: string): DvceError {
    return new DvceError('IO_FAILED', { what: 'the NBD connection', where: this.#where, reason });
  }

  #lose(error: DvceError): void {
    this.#failure ??= error;
    this.#watch?.cancel();
    this.#watch = null;
    this.#socket.destroy();
    const waiting = [...this.#pending.values()];
    this.#pending.clear();
    for (const pending of waiting) {
      pending.error = this.#failure;
      pending.done(pending);
    }
  }
}

/** Multiple of every block size, below what 32 bits hold. */
const rangeBytesMax = 0x8000_0000;
