/**
 * Memory for the payloads of writes, used again instead of being collected: fresh memory for each would have the garbage
 * collector mark everything several times a second, and the kernel clear every page.
 *
 * Small payloads are carved one behind the other from a slab, larger ones have a slab of their own; the largest are left to the
 * collector. A slab counts its holders. Whoever allocates a payload holds it; `holdPayload` adds a holder, `letGoOfPayload`
 * removes one.
 *
 * Invariants:
 * - memory is handed out again only after its last holder has let go (N5: its write and its overlay are done);
 * - who never lets go keeps his memory: then it is the collector's, as any other buffer;
 * - free memory is bounded (`limits.freePayloadBytes`), and a quiet thread keeps none.
 */
import { assert } from './errors.ts';
import { limits } from './limits.ts';
import { KiB, MiB } from './units.ts';

const smallSlabBytes = 64 * KiB;
/** Above this a payload gets a slab of its own: carving would waste the rest of one. */
const carvedBytesMax = 16 * KiB;
const slabBytesMax = 1 * MiB;

interface Slab {
  readonly bytes: Buffer;
  holders: number;
}

const slabs = new WeakMap<ArrayBufferLike, Slab>();
/** By size, a power of two. */
const free = new Map<number, Slab[]>();
let freeBytes = 0;
let current: Slab | undefined;
let currentUsed = 0;

/** Of any content. The caller holds it. */
export function allocatePayload(lengthBytes: number): Buffer {
  if (lengthBytes > slabBytesMax) return Buffer.allocUnsafeSlow(lengthBytes);
  if (lengthBytes <= carvedBytesMax) return carve(lengthBytes);
  return takeSlab(2 ** Math.ceil(Math.log2(lengthBytes))).bytes.subarray(0, lengthBytes);
}

/** One more needs this memory. Buffers from elsewhere are the collector's, with or without this. */
export function holdPayload(payload: Buffer): void {
  const slab = slabs.get(payload.buffer);
  if (slab === undefined) return;
  assert(slab.holders > 0, 'a payload is held by somebody who has it');
  slab.holders += 1;
}

/** One of its holders never looks at this memory again. */
export function letGoOfPayload(payload: Buffer): void {
  const slab = slabs.get(payload.buffer);
  if (slab !== undefined) letGoOf(slab);
}

/** Memory that nobody holds goes back to the system. */
export function dropFreePayloads(): void {
  free.clear();
  freeBytes = 0;
}

function carve(lengthBytes: number): Buffer {
  if (current === undefined || currentUsed + lengthBytes > smallSlabBytes) {
    // The slab that is carved from has a holder here.
    if (current !== undefined) letGoOf(current);
    current = takeSlab(smallSlabBytes);
    currentUsed = 0;
  }
  const payload = current.bytes.subarray(currentUsed, currentUsed + lengthBytes);
  current.holders += 1;
  // Eight-byte alignment keeps copies and checksums on their fast paths.
  currentUsed = (currentUsed + lengthBytes + 7) & ~7;
  return payload;
}

function takeSlab(bytes: number): Slab {
  const known = free.get(bytes)?.pop();
  if (known !== undefined) {
    freeBytes -= bytes;
    known.holders = 1;
    return known;
  }
  const slab = { bytes: Buffer.allocUnsafeSlow(bytes), holders: 1 };
  slabs.set(slab.bytes.buffer, slab);
  return slab;
}

function letGoOf(slab: Slab): void {
  assert(slab.holders > 0, 'a payload is let go once by each holder');
  slab.holders -= 1;
  const { byteLength } = slab.bytes;
  if (slab.holders > 0 || freeBytes + byteLength > limits.freePayloadBytes) return;
  const list = free.get(byteLength);
  if (list === undefined) free.set(byteLength, [slab]);
  else list.push(slab);
  freeBytes += byteLength;
}
