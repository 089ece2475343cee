/**
 * Bringing a source under control: what is checked is what is imported.
 *
 * - A qcow2 file, and everything that was downloaded, is copied to a temporary file that has no name any more when the first
 *   byte is written to it: nobody else can change it, and it is gone with this process, however that ends.
 * - A raw file stays where it is, held open: it is read twice (hash, copy), and `assertUnchanged` tells whether somebody
 *   wrote to it meanwhile. Raw bytes name no other file, so reading changed ones harms nothing but the result.
 */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, mkdir, open, statfs, unlink } from 'node:fs/promises';
import {
  DvceError,
  limits,
  type Random,
  systemCode,
  type Timers,
  toDvceError,
} from '../base/index.ts';
import { isUrl, openDownload } from './download.ts';
import { badImage, type ImageFormat, type ImportProgress, type ImportRequest } from './protocol.ts';
import { checkQcow2Header, headerBytes, tooLarge } from './qcow2.ts';
import { recognise } from './recognise.ts';

export interface SourceOptions {
  readonly timers: Timers;
  readonly random: Random;
  readonly signal: AbortSignal;
  onProgress(progress: ImportProgress): void;
}

export interface PreparedSource {
  readonly file: FileHandle;
  readonly format: ImageFormat;
  /** From the header (qcow2) or the length (raw). */
  readonly virtualBytes: number;
  readonly sourceBytes: number;
  readonly digest: string;
  /** Throws BAD_IMAGE when the file was written to since it was opened. */
  assertUnchanged(): Promise<void>;
}

const chunkBytes = 1024 * 1024;

/** Opens, checks and hashes the source. The caller closes `file`. */
export async function prepareSource(
  request: ImportRequest,
  options: SourceOptions,
): Promise<PreparedSource> {
  const { file, digest } = isUrl(request.source)
    ? await fetchToTemporary(request, options)
    : await openLocal(request, options);
  try {
    const before = await file.stat({ bigint: true });
    const start = await readStart(file);
    const format = recognise(start, request.format, request.source);
    const sourceBytes = Number(before.size);
    const virtualBytes =
      format === 'raw' ? sourceBytes : checkQcow2Header(start, request.source).virtualBytes;
    if (virtualBytes > limits.imageBytesMax) throw tooLarge(request.source, virtualBytes);
    checkDigest(request, digest);
    return {
      file,
      format,
      virtualBytes,
      sourceBytes,
      digest: `sha256:${digest}`,
      async assertUnchanged() {
        const after = await file.stat({ bigint: true });
        if (after.size !== before.size || after.ctimeNs !== before.ctimeNs)
          throw badImage(request.source, 'it was changed while it was read', 'Try again.');
      },
    };
  } catch (error) {
    await file.close();
    throw error;
  }
}

interface Hashed {
  readonly file: FileHandle;
  readonly digest: string;
}

async function openLocal(request: ImportRequest, options: SourceOptions): Promise<Hashed> {
  const source = await openSource(request.source);
  let keep = false;
  try {
    const stat = await source.stat({ bigint: true });
    if (!stat.isFile()) throw badImage(request.source, 'it is no regular file');
    if (stat.size === 0n) throw badImage(request.source, 'it is empty');
    // Before it is hashed: a file of holes may be longer than a day of reading.
    if (stat.size > limits.imageBytesMax) throw tooLarge(request.source, Number(stat.size));
    const start = await readStart(source);
    // Refused before a byte is copied; what counts is the check of the copy in `prepareSource`.
    const format = recognise(start, request.format, request.source);
    if (format === 'qcow2') {
      checkQcow2Header(start, request.source);
      return await copyToTemporary(request, chunksOf(source), Number(stat.size), options);
    }
    const digest = await hash(source, Number(stat.size), options);
    keep = true;
    return { file: source, digest };
  } finally {
    if (!keep) await source.close();
  }
}

/** Not blocking: opening a named pipe would wait for its writer. */
async function openSource(path: string): Promise<FileHandle> {
  if (!path.startsWith('/'))
    throw new DvceError('INVALID_ARGUMENT', {
      what: `the source ${JSON.stringify(path)}`,
      reason: 'it is no absolute path',
      advice: 'Give the whole path, starting with a slash.',
    });
  try {
    return await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    const code = systemCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR')
      throw new DvceError('NOT_FOUND', { kind: 'image', name: path }, error);
    const reason = error instanceof Error ? error.message : String(error);
    throw badImage(path, `it cannot be opened: ${reason}`);
  }
}

async function fetchToTemporary(request: ImportRequest, options: SourceOptions): Promise<Hashed> {
  const download = await openDownload(request.source, options.timers, options.signal);
  try {
    return await copyToTemporary(request, download.chunks, download.totalBytes, options);
  } finally {
    download.close();
  }
}

async function copyToTemporary(
  request: ImportRequest,
  chunks: AsyncIterable<Buffer>,
  totalBytes: number | null,
  options: SourceOptions,
): Promise<Hashed> {
  const directory = request.temporaryDirectory;
  await mkdir(directory, { recursive: true, mode: 0o750 });
  await checkSpace(directory, totalBytes ?? 0);
  const file = await openTemporary(directory, options.random);
  const sum = createHash('sha256');
  let done = 0;
  try {
    for await (const chunk of chunks) {
      options.signal.throwIfAborted();
      sum.update(chunk);
      await writeAll(file, chunk, done);
      done += chunk.length;
      options.onProgress({ stage: 'read', done, total: totalBytes });
    }
    return { file, digest: sum.digest('hex') };
  } catch (error) {
    await file.close();
    if (options.signal.aborted) throw options.signal.reason;
    throw toDvceError(error, directory);
  }
}

/** A file without a name. */
async function openTemporary(directory: string, random: Random): Promise<FileHandle> {
  const path = `${directory}/import-${random.bytes(8).toString('hex')}`;
  const file = await open(path, 'wx+', 0o600);
  await unlink(path);
  return file;
}

async function checkSpace(directory: string, neededBytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  if (bavail * bsize < neededBytes)
    throw new DvceError('NO_SPACE', {
      where: directory,
      reason: `the image needs ${neededBytes} bytes, ${bavail * bsize} are free`,
    });
}

async function writeAll(file: FileHandle, chunk: Buffer, position: number): Promise<void> {
  let done = 0;
  while (done < chunk.length) {
    const { bytesWritten } = await file.write(chunk, done, chunk.length - done, position + done);
    done += bytesWritten;
  }
}

async function hash(file: FileHandle, totalBytes: number, options: SourceOptions): Promise<string> {
  const sum = createHash('sha256');
  let done = 0;
  for await (const chunk of chunksOf(file)) {
    options.signal.throwIfAborted();
    sum.update(chunk);
    done += chunk.length;
    options.onProgress({ stage: 'read', done, total: totalBytes });
  }
  return sum.digest('hex');
}

async function* chunksOf(file: FileHandle): AsyncGenerator<Buffer> {
  let position = 0;
  for (;;) {
    const buffer = Buffer.allocUnsafeSlow(chunkBytes);
    const { bytesRead } = await file.read(buffer, 0, chunkBytes, position);
    if (bytesRead === 0) return;
    position += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

async function readStart(file: FileHandle): Promise<Buffer> {
  const buffer = Buffer.alloc(headerBytes);
  const { bytesRead } = await file.read(buffer, 0, headerBytes, 0);
  return buffer.subarray(0, bytesRead);
}

function checkDigest(request: ImportRequest, digest: string): void {
  if (request.sha256 === null || request.sha256 === digest) return;
  throw new DvceError('CHECKSUM_MISMATCH', {
    what: request.source,
    actual: digest,
    expected: request.sha256,
  });
}
