/** `--compression none|zstd`. */
import type { Given } from './spec.ts';

export function compressionGiven(given: Given): { compression?: 'none' | 'zstd' } {
  const word = given.text('compression');
  if (word === undefined) return {};
  return { compression: word === 'zstd' ? 'zstd' : 'none' };
}
