/**
 * Memory for payloads and replies.
 *
 * A write payload belongs to the backend for as long as it likes, so it never lies in a receive buffer. Small payloads
 * are carved off a slab one after the other (an ArrayBuffer for each would cost more than the request); the slab is small
 * so that a payload kept long pins little. Reply slabs are lent to a connection while it has replies in flight and go
 * back afterwards: thousands of idle connections hold none.
 */
import { KiB } from '../base/index.ts';

const payloadSlabBytes = 64 * KiB;
/** Above this a payload gets memory of its own: carving would waste the rest of a slab. */
const carvedBytesMax = 16 * KiB;
export const replySlabBytes = 256 * KiB;
const spareReplySlabsMax = 8;

let payloadSlab = Buffer.allocUnsafeSlow(payloadSlabBytes);
let payloadUsed = 0;

export function allocatePayload(lengthBytes: number): Buffer {
  if (lengthBytes > carvedBytesMax) return Buffer.allocUnsafeSlow(lengthBytes);
  if (payloadUsed + lengthBytes > payloadSlabBytes) {
    payloadSlab = Buffer.allocUnsafeSlow(payloadSlabBytes);
    payloadUsed = 0;
  }
  const payload = payloadSlab.subarray(payloadUsed, payloadUsed + lengthBytes);
  // Eight-byte alignment keeps copies and checksums on their fast paths.
  payloadUsed = (payloadUsed + lengthBytes + 7) & ~7;
  return payload;
}

const spareReplySlabs: Buffer[] = [];

export const borrowReplySlab = (): Buffer =>
  spareReplySlabs.pop() ?? Buffer.allocUnsafeSlow(replySlabBytes);

export function returnReplySlab(slab: Buffer): void {
  if (spareReplySlabs.length < spareReplySlabsMax) spareReplySlabs.push(slab);
}
