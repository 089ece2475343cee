/**
 * The content of a disk over NBD, in order, holes as holes: what an export writes, an import of an NBD disk copies, and the
 * digest of a filled volume is made of.
 */
import { createHash, type Hash } from 'node:crypto';
import { DvceError, GiB, limits, type Timers } from '../base/index.ts';
import type { SteadyClient } from './steady-client.ts';

export interface Piece {
  readonly offset: number;
  readonly length: number;
  /** null: zeros. */
  readonly bytes: Buffer | null;
}

const zeros = Buffer.alloc(limits.imagePieceBytes);

export const isZero = (bytes: Buffer): boolean => {
  for (let at = 0; at < bytes.length; at += zeros.length) {
    const part = bytes.subarray(at, at + zeros.length);
    if (!part.equals(zeros.subarray(0, part.length))) return false;
  }
  return true;
};

async function* plan(
  client: SteadyClient,
): AsyncGenerator<{ offset: number; length: number; zero: boolean }> {
  const { sizeBytes } = client;
  let offset = 0;
  while (offset < sizeBytes) {
    const extents = await client.extents(offset, Math.min(sizeBytes - offset, GiB));
    const before = offset;
    for (const { lengthBytes, zero } of extents) {
      const end = Math.min(sizeBytes, offset + lengthBytes);
      const most = zero ? limits.imageZeroBytes : limits.imagePieceBytes;
      while (offset < end) {
        const length = Math.min(most, end - offset);
        yield { offset, length, zero };
        offset += length;
      }
    }
    if (offset === before)
      throw new DvceError('PROTOCOL', { peer: 'the NBD server', reason: 'it names no extents' });
  }
}

/** Everything from the first byte to the last; a few reads are under way ahead of the one that is yielded. */
export async function* readContent(client: SteadyClient, timers: Timers): AsyncGenerator<Piece> {
  const ahead: Promise<Piece>[] = [];
  for await (const { offset, length, zero } of plan(client)) {
    const piece = zero ? turn(timers, { offset, length }) : fetch(client, offset, length);
    piece.catch(() => {}); // it is awaited below, perhaps only after another one has failed
    ahead.push(piece);
    const next = ahead.length < limits.imagePiecesInFlight ? undefined : ahead.shift();
    if (next !== undefined) yield await next;
  }
  for (const piece of ahead) yield await piece;
}

async function fetch(client: SteadyClient, offset: number, length: number): Promise<Piece> {
  const bytes = await client.read(offset, length);
  return { offset, length, bytes: bytes === null || isZero(bytes) ? null : bytes };
}

/** Hashing zeros needs no I/O: without a turn of the event loop now and then nothing could be cancelled. */
function turn(timers: Timers, place: { offset: number; length: number }): Promise<Piece> {
  return new Promise((resolve) => timers.defer(() => resolve({ ...place, bytes: null })));
}

/** sha256 over pieces in order; `at(n)` remembers the digest of the first n bytes. */
export class ContentHash {
  readonly #hash: Hash = createHash('sha256');
  readonly #markBytes: number;
  #doneBytes = 0;
  #marked: string | undefined;

  constructor(markBytes = Number.POSITIVE_INFINITY) {
    this.#markBytes = markBytes;
  }

  add(length: number, bytes: Buffer | null): void {
    const rest = this.#markBytes - this.#doneBytes;
    if (rest > 0 && rest < length) {
      this.#add(rest, bytes?.subarray(0, rest) ?? null);
      this.#add(length - rest, bytes?.subarray(rest) ?? null);
    } else this.#add(length, bytes);
  }

  #add(length: number, bytes: Buffer | null): void {
    if (bytes !== null) this.#hash.update(bytes);
    else
      for (let left = length; left > 0; left -= zeros.length)
        this.#hash.update(left < zeros.length ? zeros.subarray(0, left) : zeros);
    this.#doneBytes += length;
    if (this.#doneBytes === this.#markBytes) this.#marked = this.#hash.copy().digest('hex');
  }

  /** Of the bytes before the mark; undefined when that many were not there. */
  get marked(): string | undefined {
    return this.#marked;
  }

  end(): string {
    return this.#hash.digest('hex');
  }
}
