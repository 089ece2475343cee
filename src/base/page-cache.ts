/**
 * Reading what the page cache has, without ever waiting for the disk: preadv2(2) with RWF_NOWAIT, through koffi.
 *
 * A read of 4 KiB costs 1 to 2 us this way and 15 us through the thread pool, and a synchronous read of something that is not
 * cached would stop every volume of the thread for the time of a disk access. Without koffi, or on a kernel or file system
 * that does not know the flag, `readPageCache` answers false and the caller reads through the pool.
 *
 * The kernel writes straight into `target`. Its address is that of its ArrayBuffer, asked for once and remembered as long as that
 * lives, plus its offset: what an ArrayBuffer holds never moves. (Asking for it makes V8 move a tiny array off its heap.)
 */
import { fromLibc } from './libc.ts';

/** From <linux/fs.h>: do not wait for I/O; EAGAIN when the data is not in memory. */
const RWF_NOWAIT = 8;
const word = 2 ** 32;

interface Reader {
  readonly preadv2: (...args: unknown[]) => number;
  readonly address: (value: Uint8Array) => bigint;
  /** struct iovec {address, length} in 32-bit words; lowest first, as on every processor that is served here. */
  readonly vector: Uint32Array;
}

let reader: Reader | null | undefined;
const addresses = new WeakMap<ArrayBufferLike, number>();

const makeReader = (): Reader | null =>
  fromLibc((func, address) => {
    const preadv2 = func(
      'int64_t preadv2(int fd, const void *vectors, int count, int64_t offset, int flags)',
    );
    return { preadv2, address, vector: new Uint32Array(4) };
  });

/** User space ends below 2^47, so an address is exact as a number. */
function addressOf({ address }: Reader, target: Uint8Array): number {
  const { buffer } = target;
  let base = addresses.get(buffer);
  if (base === undefined) {
    base = Number(address(new Uint8Array(buffer)));
    addresses.set(buffer, base);
  }
  return base + target.byteOffset;
}

/** Fill `target` from the page cache. False when any of it is not there; then nothing is known about `target`. */
export function readPageCache(fd: number, target: Uint8Array, position: number): boolean {
  if (reader === undefined) reader = makeReader();
  if (reader === null) return false;
  const { vector } = reader;
  const address = addressOf(reader, target);
  vector[0] = address % word;
  vector[1] = Math.floor(address / word);
  vector[2] = target.byteLength;
  return reader.preadv2(fd, vector, 1, position, RWF_NOWAIT) === target.byteLength;
}
