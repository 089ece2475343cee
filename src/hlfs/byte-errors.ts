/**
 * Which single wrong byte explains a wrong CRC-32C? The checksum is linear: a wrong byte changes it by a value that depends on the
 * byte's change and its distance from the end only, not on the data. So the difference between the checksum that was found
 * and the one that was expected is taken back byte by byte, and looked up at each place: 4 KiB cost some 40 us, where trying
 * every bit costs 15 ms.
 */

/** CRC-32C, bits reversed. */
const polynomial = 0x82f6_3b78;

/** What one wrong byte at the end does to the checksum, by its change. */
const effects = Uint32Array.from({ length: 256 }, (_, change) => {
  let crc = change;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ polynomial : crc >>> 1;
  return crc >>> 0;
});
const changeOf = new Map([...effects].map((effect, change) => [effect, change]));
/** The highest byte of each effect is a different one: it tells which byte went through last. */
const byHighest = Uint8Array.from({ length: 256 });
for (const [change, effect] of effects.entries()) byHighest[effect >>> 24] = change;

export interface ByteError {
  readonly at: number;
  /** Bits that are wrong. */
  readonly change: number;
}

/** @param difference of the two checksums (exclusive or); 0 has no answer */
export function byteErrors(difference: number, lengthBytes: number): ByteError[] {
  const found: ByteError[] = [];
  let left = difference >>> 0;
  for (let at = lengthBytes - 1; at >= 0; at -= 1) {
    const change = changeOf.get(left);
    if (change !== undefined && change !== 0) found.push({ at, change });
    const last = byHighest[left >>> 24] ?? 0;
    left = (((left ^ (effects[last] ?? 0)) << 8) | last) >>> 0;
  }
  return found;
}

/** Is it one bit? */
export const isOneBit = (change: number): boolean => (change & (change - 1)) === 0;
