/**
 * Reading what the page cache has, without ever waiting for the disk: preadv2(2) with RWF_NOWAIT, through koffi.
 *
 * A read of 4 KiB costs 1 to 2 us this way and 15 us through the thread pool, and a synchronous read of something that is not
 * cached would stop every volume of the thread for the time of a disk access. Without koffi, or on a kernel or file system
 * that does not know the flag, `readPageCache` answers false and the caller reads through the pool.
 */
import { fromLibc } from './libc.ts';

/** From <linux/fs.h>: do not wait for I/O; EAGAIN when the data is not in memory. */
const RWF_NOWAIT = 8;
/** Smaller reads go through one buffer with a known address and are copied, which is cheaper than asking for an address. */
const bounceBytes = 16_384;

interface Reader {
  readonly preadv2: (...args: unknown[]) => number;
  readonly address: (value: Uint8Array) => bigint;
  /** struct iovec of the bounce buffer; the length is set for each call. */
  readonly bounceVector: Buffer;
  readonly bounce: Buffer;
}

let reader: Reader | null | undefined;

const makeReader = (): Reader | null =>
  fromLibc((func, address) => {
    const preadv2 = func(
      'int64_t preadv2(int fd, const void *vectors, int count, int64_t offset, int flags)',
    );
    const bounce = Buffer.allocUnsafeSlow(bounceBytes);
    const bounceVector = Buffer.alloc(16);
    bounceVector.writeBigUInt64LE(address(bounce), 0);
    return { preadv2, address, bounceVector, bounce };
  });

/** Fill `target` from the page cache. False when any of it is not there; then nothing is known about `target`. */
export function readPageCache(fd: number, target: Uint8Array, position: number): boolean {
  if (reader === undefined) reader = makeReader();
  if (reader === null) return false;
  const length = target.byteLength;
  if (length > bounceBytes) {
    const vector = Buffer.alloc(16);
    vector.writeBigUInt64LE(reader.address(target), 0);
    vector.writeUInt32LE(length, 8);
    return reader.preadv2(fd, vector, 1, position, RWF_NOWAIT) === length;
  }
  reader.bounceVector.writeUInt32LE(length, 8);
  if (reader.preadv2(fd, reader.bounceVector, 1, position, RWF_NOWAIT) !== length) return false;
  target.set(reader.bounce.subarray(0, length));
  return true;
}
