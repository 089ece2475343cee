/**
 * Gathers the replies of one connection and hands them to the socket in one write per turn of the event loop.
 *
 * Headers and small data are copied side by side into a slab (copying 4 KiB costs less than another entry in a gather
 * list); large data goes out by reference, gathered by cork/uncork. `written` tells the session how many requests left
 * for the kernel, which is what its limits count: a client that does not read its replies stops being read.
 *
 * Invariants: bytes of a slab between `sentUpTo` and `used` are waiting, those before it belong to the socket until the
 * callback of its write; a slab goes back to the pool only when no write is outstanding.
 */
import type { Writable } from 'node:stream';
import { KiB } from '../base/index.ts';
import { borrowReplySlab, replySlabBytes, returnReplySlab } from './payload-pool.ts';

/** Data up to this length is copied; measured break-even with the cost of a gather entry. */
const copyBytesMax = 16 * KiB;
const zeros = Buffer.alloc(64 * KiB);

export class ReplyWriter {
  readonly #socket: Writable;
  readonly #written: (requests: number, bytes: number) => void;
  readonly #failed: (error: Error) => void;
  #slab: Buffer | null = null;
  #used = 0;
  #sentUpTo = 0;
  #gathered: Buffer[] = [];
  /** Waiting for the next write to have ended. */
  #whenSent: (() => void)[] = [];
  #requests = 0;
  #bytes = 0;
  #outstanding = 0;
  #scheduled = false;
  #closed = false;
  /** While the session parses a chunk of input it flushes itself at the end. */
  held = false;

  constructor(
    socket: Writable,
    written: (requests: number, bytes: number) => void,
    failed: (error: Error) => void,
  ) {
    this.#socket = socket;
    this.#written = written;
    this.#failed = failed;
  }

  /** Room for `lengthBytes` of header: the position in `slab`, to be filled before the next call. */
  room(lengthBytes: number): number {
    if (this.#slab === null || this.#used + lengthBytes > replySlabBytes) this.#nextSlab();
    const at = this.#used;
    this.#used += lengthBytes;
    return at;
  }

  /** The slab that the last `room` lies in. */
  get slab(): Buffer {
    return this.#slab as Buffer; // only read after room(), which sets it
  }

  data(bytes: Buffer): void {
    if (bytes.length <= copyBytesMax) {
      const at = this.room(bytes.length);
      this.slab.set(bytes, at);
      return;
    }
    this.#seal();
    this.#gathered.push(bytes);
  }

  zeroes(lengthBytes: number): void {
    if (lengthBytes <= copyBytesMax) {
      const at = this.room(lengthBytes);
      this.slab.fill(0, at, at + lengthBytes);
      return;
    }
    this.#seal();
    for (let left = lengthBytes; left > 0; left -= zeros.length)
      this.#gathered.push(left >= zeros.length ? zeros : zeros.subarray(0, left));
  }

  /** `action` runs once everything up to the next `complete` is with the kernel; never when the connection dies before. */
  whenSent(action: () => void): void {
    this.#whenSent.push(action);
  }

  /** A reply is complete; it accounts for `bytes` of the session's limit until the kernel has it. */
  complete(bytes: number): void {
    this.#requests += 1;
    this.#bytes += bytes;
    if (this.held || this.#scheduled) return;
    this.#scheduled = true;
    // After the callback under way, which may complete many requests; a whole turn later would cost a lone client a poll.
    queueMicrotask(() => {
      this.#scheduled = false;
      this.flush();
    });
  }

  flush(): void {
    if (this.#closed) return;
    this.#seal();
    const gathered = this.#gathered;
    const last = gathered.length - 1;
    if (last < 0) return;
    this.#gathered = [];
    const requests = this.#requests;
    const bytes = this.#bytes;
    const whenSent = this.#whenSent;
    if (whenSent.length > 0) this.#whenSent = [];
    this.#requests = 0;
    this.#bytes = 0;
    this.#outstanding += 1;
    const socket = this.#socket;
    if (last > 0) socket.cork();
    for (let i = 0; i < last; i += 1) socket.write(gathered[i]);
    socket.write(gathered[last], (error) => {
      // Told here first, before the event: nothing may be started for a connection that is dead (rule N6).
      if (error) this.#failed(error);
      else this.#sent(requests, bytes, whenSent);
    });
    if (last > 0) socket.uncork();
  }

  /** The connection is gone: drop what waits. */
  close(): void {
    this.#closed = true;
    this.#gathered = [];
    this.#whenSent = [];
    this.#slab = null;
  }

  #sent(requests: number, bytes: number, whenSent: readonly (() => void)[]): void {
    for (const action of whenSent) action();
    this.#outstanding -= 1;
    if (this.#outstanding === 0 && this.#slab !== null && this.#sentUpTo === this.#used) {
      if (this.#gathered.length === 0) {
        returnReplySlab(this.#slab);
        this.#slab = null;
      }
    }
    this.#written(requests, bytes);
  }

  #nextSlab(): void {
    // A full slab that the socket still reads from is left to the garbage collector.
    this.#seal();
    this.#slab = borrowReplySlab();
    this.#used = 0;
    this.#sentUpTo = 0;
  }

  #seal(): void {
    if (this.#slab === null || this.#sentUpTo === this.#used) return;
    this.#gathered.push(this.#slab.subarray(this.#sentUpTo, this.#used));
    this.#sentUpTo = this.#used;
  }
}
