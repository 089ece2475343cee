/** Small files that are replaced whole: after a crash the old or the new content is there, never a mixture. */
import { dirname } from 'node:path';
import { DvceError, dataSync, type FileSystem, systemCode, writeFully } from '../base/index.ts';

/** Temp file, fdatasync, rename, fsync of the directory. Durable when it resolves. One writer per path. */
export async function writeDurably(
  files: FileSystem,
  path: string,
  content: string,
): Promise<void> {
  const temporary = `${path}.tmp`;
  if ((await files.stat(temporary)) !== undefined) await files.remove(temporary);
  const file = files.openSync(temporary, 'create');
  try {
    await writeFully(file, [Buffer.from(content, 'utf8')], 0);
    await dataSync(file);
  } finally {
    file.closeSync();
  }
  await files.rename(temporary, path);
  await files.syncDirectory(dirname(path));
}

/** @returns undefined when the file is absent. Throws TOO_LARGE instead of reading what cannot be one of ours. */
export function readWhole(files: FileSystem, path: string, bytesMax: number): string | undefined {
  let file: ReturnType<FileSystem['openSync']>;
  try {
    file = files.openSync(path, 'read');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
  try {
    const sizeBytes = file.sizeSync();
    if (sizeBytes > bytesMax)
      throw new DvceError('TOO_LARGE', {
        what: `the file ${path}`,
        reason: `it has ${sizeBytes} bytes, expected at most ${bytesMax}`,
        advice: 'It is not a file of this program; move it away.',
      });
    const bytes = Buffer.alloc(sizeBytes);
    let at = 0;
    while (at < sizeBytes) {
      const read = file.readSync(bytes.subarray(at), at);
      if (read === 0) break;
      at += read;
    }
    return bytes.toString('utf8', 0, at);
  } finally {
    file.closeSync();
  }
}
