/** Randomness, injected: secrets and nonces from the system, simulations from a seed. */
import { randomBytes } from 'node:crypto';
import { formatUuid } from './ids.ts';

export interface Random {
  bytes(count: number): Buffer;
  /** A whole number in [0, limit). */
  below(limit: number): number;
}

export const systemRandom: Random = {
  bytes: (count) => randomBytes(count),
  below: (limit) => randomBytes(6).readUIntBE(0, 6) % limit,
};

export const randomUuid = (random: Random): string => formatUuid(random.bytes(16));

/** xoshiro128** (Blackman and Vigna, 2018), seeded by splitmix32: the same seed gives the same run. */
export function seededRandom(seed: number): Random {
  let s = seed >>> 0;
  const split = (): number => {
    s = (s + 0x9e3779b9) >>> 0;
    let z = s;
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
    return (z ^ (z >>> 16)) >>> 0;
  };
  let a = split();
  let b = split();
  let c = split();
  let d = split();
  const rotl = (x: number, k: number): number => ((x << k) | (x >>> (32 - k))) >>> 0;
  const next = (): number => {
    const result = Math.imul(rotl(Math.imul(b, 5) >>> 0, 7), 9) >>> 0;
    const t = (b << 9) >>> 0;
    c = (c ^ a) >>> 0;
    d = (d ^ b) >>> 0;
    b = (b ^ c) >>> 0;
    a = (a ^ d) >>> 0;
    c = (c ^ t) >>> 0;
    d = rotl(d, 11);
    return result;
  };
  return {
    bytes(count) {
      const out = Buffer.alloc(count);
      for (let i = 0; i < count; i += 1) out[i] = next() & 0xff;
      return out;
    },
    below: (limit) => Math.floor((next() / 0x1_0000_0000) * limit),
  };
}
