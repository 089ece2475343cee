/**
 * CRC-32C (Castagnoli), the checksum of every dvce format. RFC 3720 appendix B.4 has the test vectors.
 * `zlib.crc32` is another polynomial and must not be used here.
 */
import { crc32c as native } from '@node-rs/crc32';

/** @param seed a running CRC, so that crc(a+b) = crc32c(b, crc32c(a)) @returns unsigned 32 bits */
export function crc32c(bytes: Uint8Array, seed = 0): number {
  return native(bytes, seed);
}

/** Length of the pieces that `crc32cJoined` joins: a block of a volume. */
const joinedBytes = 4096;
const joinedBits = joinedBytes * 8;
/** The polynomial, lowest power in the highest bit. */
const polynomial = 0x82f6_3b78;

/**
 * The checksum of `a + b` from the checksums of both, without their bytes. CRC is linear: what `a` adds to it is its own
 * checksum moved on by the length of `b`, which is here always 4096, so that moving is four looks into tables.
 */
export function crc32cJoined(a: number, b: number): number {
  moved ??= movingTables();
  const [low, second, third, high] = moved;
  const sum =
    (low[a & 0xff] ?? 0) ^
    (second[(a >>> 8) & 0xff] ?? 0) ^
    (third[(a >>> 16) & 0xff] ?? 0) ^
    (high[a >>> 24] ?? 0);
  return (sum ^ b) >>> 0;
}

type MovingTables = readonly [Uint32Array, Uint32Array, Uint32Array, Uint32Array];
let moved: MovingTables | undefined;

/** What each value of each byte of a checksum becomes when 4096 zero bytes follow. */
function movingTables(): MovingTables {
  // A linear map of 32 bits is what it makes of each single bit; for one zero bit first, then squared up to `joinedBits`.
  let map = Uint32Array.from({ length: 32 }, (_, bit) => (bit === 0 ? polynomial : 2 ** (bit - 1)));
  for (let bits = 1; bits < joinedBits; bits *= 2) {
    const half = map;
    map = half.map((value) => applyMap(half, value));
  }
  const table = (shift: number): Uint32Array =>
    Uint32Array.from({ length: 256 }, (_, value) => applyMap(map, value * 2 ** shift));
  return [table(0), table(8), table(16), table(24)];
}

function applyMap(map: Uint32Array, value: number): number {
  let sum = 0;
  for (let bit = 0; bit < 32; bit += 1) if ((value >>> bit) & 1) sum ^= map[bit] ?? 0;
  return sum >>> 0;
}
