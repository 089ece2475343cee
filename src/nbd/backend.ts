/**
 * `BlockBackend`: the one narrow interface between NBD and whatever holds the blocks. The volume engine implements it,
 * the NBD client is a remote one, and small wrappers of the same shape (stats, delay, error, ...) serve tests and operators.
 *
 * Completion is by callback, called exactly once, possibly before the call returns: a promise per request costs as much
 * as the request (DD-0003). A backend never throws for what a client sent; it passes a `DvceError` to the callback.
 */
import type { DvceError } from '../base/index.ts';

export type Done = (error: DvceError | null) => void;

/** Content of a read, in order: bytes, or a number n for a run of n zero bytes that need not be sent. */
export type ReadParts = readonly (Buffer | number)[];
/**
 * `giveBack`, where there is one, may be called once, when nothing refers to the bytes of the parts any more: the backend uses
 * their memory again. Not calling it costs no more than the collection of garbage.
 */
export type ReadDone = (error: DvceError | null, parts: ReadParts, giveBack?: () => void) => void;

export interface Extent {
  readonly lengthBytes: number;
  /** Not allocated: never written, or trimmed. */
  readonly hole: boolean;
  /** Reads as zeros. */
  readonly zero: boolean;
}
export type ExtentsDone = (error: DvceError | null, extents: readonly Extent[]) => void;

/** Where a request came from. A held request of a dead origin is dropped, never journaled (rule N6). */
export interface RequestOrigin {
  readonly alive: boolean;
}

export interface WriteOptions {
  /** Complete only when this write is stable. */
  readonly fua: boolean;
  readonly origin: RequestOrigin;
}

export interface ZeroOptions extends WriteOptions {
  /** Keep the range allocated (NBD_CMD_FLAG_NO_HOLE). */
  readonly noHole: boolean;
}

export interface BackendCaps {
  readonly readOnly: boolean;
  /** Logical block size in bytes, 512 or 4096; requests of any alignment are served all the same. */
  readonly blockBytes: number;
  /** A flush on one connection covers completed writes of all. */
  readonly multiConn: boolean;
  /** `cache` does something. */
  readonly cache: boolean;
  /** Rotational hint for the guest. */
  readonly rotational: boolean;
}

export interface BlockBackend {
  /** Current size in bytes; may grow while open. */
  readonly sizeBytes: number;
  readonly caps: BackendCaps;
  /** 0 < length <= limits.requestBytesMax; the range lies inside of the device (the server checks). */
  read(offset: number, length: number, done: ReadDone): void;
  /** `data` belongs to the backend from now on; the caller does not touch it again. */
  write(offset: number, data: Buffer, options: WriteOptions, done: Done): void;
  /** Stable = every write, trim and zeroing whose callback ran before this call. */
  flush(done: Done): void;
  /** May do only the whole blocks inside of the range, or nothing. */
  trim(offset: number, length: number, options: WriteOptions, done: Done): void;
  /** The range reads as zeros afterwards, edges included. */
  writeZeroes(offset: number, length: number, options: ZeroOptions, done: Done): void;
  /** At least one extent, starting at `offset`; may cover less than asked; the last may reach beyond. */
  extents(offset: number, length: number, done: ExtentsDone): void;
  /** Prefetch; a hint. */
  cache(offset: number, length: number, done: Done): void;
  /** Called when the last user lets go. */
  close(): Promise<void>;
}
