/** Reading parts of an open file. */
import type { FileHandle } from 'node:fs/promises';

/** Shorter only at the end of the file. */
export async function readAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await file.read(buffer, done, length - done, position + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return buffer.subarray(0, done);
}

const chunkBytes = 1024 * 1024;

export async function* chunksOf(
  file: FileHandle,
  from = 0,
  length = Number.POSITIVE_INFINITY,
): AsyncGenerator<Buffer> {
  const end = from + length;
  let position = from;
  while (position < end) {
    const buffer = Buffer.allocUnsafeSlow(chunkBytes);
    const most = Math.min(chunkBytes, end - position);
    const { bytesRead } = await file.read(buffer, 0, most, position);
    if (bytesRead === 0) return;
    position += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}
