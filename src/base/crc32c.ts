/**
 * CRC-32C (Castagnoli), the checksum of every dvce format. RFC 3720 appendix B.4 has the test vectors.
 * `zlib.crc32` is another polynomial and must not be used here.
 */
import { crc32c as native } from '@node-rs/crc32';

/** @param seed a running CRC, so that crc(a+b) = crc32c(b, crc32c(a)) @returns unsigned 32 bits */
export function crc32c(bytes: Uint8Array, seed = 0): number {
  return native(bytes, seed);
}
