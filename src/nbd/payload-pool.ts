/**
 * Memory for replies. A slab is lent to a connection while it has replies in flight and goes back afterwards: thousands of idle
 * connections hold none.
 */
import { KiB } from '../base/index.ts';

export const replySlabBytes = 256 * KiB;
const spareReplySlabsMax = 8;

const spareReplySlabs: Buffer[] = [];

export const borrowReplySlab = (): Buffer =>
  spareReplySlabs.pop() ?? Buffer.allocUnsafeSlow(replySlabBytes);

export function returnReplySlab(slab: Buffer): void {
  if (spareReplySlabs.length < spareReplySlabsMax) spareReplySlabs.push(slab);
}
