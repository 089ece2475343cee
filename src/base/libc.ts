/** Functions of the C library, through koffi; each is null where koffi or this C library is missing. */
import { createRequire } from 'node:module';

interface Koffi {
  load(path: string): { func(signature: string): (...args: unknown[]) => number };
  address(value: Uint8Array): bigint;
}

/** @param make told the loader of functions and how to get the address of a buffer that stays */
export function fromLibc<T>(
  make: (
    func: (signature: string) => (...args: unknown[]) => number,
    address: (value: Uint8Array) => bigint,
  ) => T,
): T | null {
  try {
    const koffi = createRequire(import.meta.url)('koffi') as Koffi;
    const libc = koffi.load('libc.so.6');
    return make(
      (signature) => libc.func(signature),
      (value) => koffi.address(value),
    );
  } catch {
    return null; // not installed, or another C library: callers have a way without
  }
}
