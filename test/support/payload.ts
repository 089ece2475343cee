import { allocatePayload } from '../../src/base/index.ts';

/** A copy in memory as NBD gives it: whoever gets it lets go of it, and it is used again. */
export function asPayload(bytes: Uint8Array): Buffer {
  const payload = allocatePayload(bytes.byteLength);
  payload.set(bytes);
  return payload;
}
