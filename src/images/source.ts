/**
 * Bringing a source under control: what is checked is what is imported.
 *
 * - What was downloaded lies in a file of ours (partial-file.ts).
 * - A local file in any format that means something to a program (all but raw) is copied or unpacked into a temporary file
 *   that has no name any more when its first byte is written: nobody else can change it, and it is gone with this process.
 * - A raw file stays where it is, held open: it is read twice (hash, copy), and `assertUnchanged` tells whether somebody
 *   wrote to it meanwhile. Raw bytes name no other file, so reading changed ones harms nothing but the result.
 */
import { constants } from 'node:fs';
import { type FileHandle, mkdir, open } from 'node:fs/promises';
import { DvceError, limits, systemCode, toDvceError } from '../base/index.ts';
import { isUrl, publicName } from './download.ts';
import { type FetchOptions, fetchChecksum, fetchFile, isWorthKeeping } from './fetch.ts';
import { findOvaDisk } from './ova.ts';
import { openNameless, type PartialFile, writeAll } from './partial-file.ts';
import { badImage, type ImageFormat, type ImportRequest } from './protocol.ts';
import { checkQcow2Header, tooLarge } from './qcow2.ts';
import { chunksOf, readAt } from './read-at.ts';
import { recognise, startBytes } from './recognise.ts';
import { SourceHash } from './source-hash.ts';
import { SpaceGuard } from './space-guard.ts';
import { compressionOf, unpack } from './unpack.ts';
import { checkVmdk, type FilePart } from './vmdk.ts';

export interface SourceOptions extends FetchOptions {
  /** Tests make it small. */
  readonly unpackedBytesMax?: number;
}

export interface PreparedSource {
  readonly file: FileHandle;
  /** Where in the file the disk image lies. */
  readonly part: FilePart;
  /** What the source is. */
  readonly format: ImageFormat;
  /** What the part is. */
  readonly diskFormat: Exclude<ImageFormat, 'ova'>;
  /** From the header, or the length (raw). */
  readonly virtualBytes: number;
  readonly sourceBytes: number;
  /** `sha256:...` of the source's bytes. */
  readonly digest: string;
  /** The file has the source's bytes, not what they unpack to. */
  readonly plain: boolean;
  /** Throws BAD_IMAGE when the file was written to since it was opened. */
  assertUnchanged(): Promise<void>;
  /** `failure`: why the import ended; a download that is not to blame is kept. */
  close(failure?: unknown): Promise<void>;
}

interface Acquired {
  /** What formats are looked for in. */
  readonly file: FileHandle;
  readonly sourceBytes: number;
  readonly digest: string;
  readonly plain: boolean;
  /** A local raw file: may be written to by others. */
  readonly shared: boolean;
  close(failure?: unknown): Promise<void>;
}

/** Opens, checks and hashes the source. */
export async function prepareSource(
  request: ImportRequest,
  options: SourceOptions,
): Promise<PreparedSource> {
  await mkdir(request.temporaryDirectory, { recursive: true, mode: 0o750 });
  const acquired = isUrl(request.source)
    ? await download(request, options)
    : await openLocal(request, options);
  try {
    return await describe(request, acquired, options);
  } catch (error) {
    await acquired.close(error);
    throw error;
  }
}

async function describe(
  request: ImportRequest,
  acquired: Acquired,
  options: SourceOptions,
): Promise<PreparedSource> {
  const { file } = acquired;
  const name = publicName(request.source);
  const before = await file.stat({ bigint: true });
  const start = await readAt(file, 0, startBytes);
  const format = recognise(start, request.format, name);
  const whole: FilePart = { offset: 0, length: Number(before.size) };
  const disk = await findDisk(file, format, whole, start, name, options.signal);
  if (disk.virtualBytes > limits.imageBytesMax) throw tooLarge(name, disk.virtualBytes);
  return {
    ...acquired,
    ...disk,
    format,
    async assertUnchanged() {
      if (!acquired.shared) return;
      const after = await file.stat({ bigint: true });
      if (after.size !== before.size || after.ctimeNs !== before.ctimeNs)
        throw badImage(name, 'it was changed while it was read', 'Try again.');
    },
  };
}

async function findDisk(
  file: FileHandle,
  format: ImageFormat,
  whole: FilePart,
  start: Buffer,
  name: string,
  signal: AbortSignal,
): Promise<Pick<PreparedSource, 'part' | 'diskFormat' | 'virtualBytes'>> {
  switch (format) {
    case 'raw':
      return { part: whole, diskFormat: 'raw', virtualBytes: whole.length };
    case 'qcow2':
      return { part: whole, diskFormat: format, ...checkQcow2Header(start, name) };
    case 'vmdk':
      return { part: whole, diskFormat: format, virtualBytes: await checkVmdk(file, whole, name) };
    case 'ova': {
      const disk = await findOvaDisk(file, whole.length, name, signal);
      const { offset, length, capacityBytes } = disk;
      const virtualBytes = await checkVmdk(file, { offset, length }, name);
      if (capacityBytes !== null && capacityBytes !== virtualBytes)
        throw badImage(name, 'its description and its disk disagree about the size');
      return { part: { offset, length }, diskFormat: 'vmdk', virtualBytes };
    }
    default:
      throw new DvceError('INTERNAL', { reason: `unknown format ${format satisfies never}` });
  }
}

async function download(request: ImportRequest, options: SourceOptions): Promise<Acquired> {
  const { source, temporaryDirectory, checksumUrl } = request;
  const wanted =
    checksumUrl === null ? request.digest : await fetchChecksum(checksumUrl, source, options);
  const partial = await fetchFile(source, temporaryDirectory, options);
  try {
    return await downloaded(request, partial, wanted, options);
  } catch (error) {
    await partial.close(isWorthKeeping(error));
    throw error;
  }
}

async function downloaded(
  request: ImportRequest,
  partial: PartialFile,
  wanted: string | null,
  options: SourceOptions,
): Promise<Acquired> {
  const { file } = partial;
  const { size } = await file.stat();
  const name = publicName(request.source);
  if (size === 0) throw badImage(name, 'it is empty');
  const hash = new SourceHash(name, wanted);
  const chunks = hashed(file, size, hash, options);
  const compression = compressionOf(await readAt(file, 0, startBytes));
  if (compression !== undefined) {
    const unpacked = await unpackToTemporary(request, compression, chunks, options);
    const { digest } = await settle(unpacked, () => hash.end());
    await partial.close(false);
    return { ...owned(unpacked, size, digest), plain: false };
  }
  for await (const _ of chunks); // all of it goes through the hash
  const { digest } = hash.end();
  return {
    file,
    sourceBytes: size,
    digest,
    plain: true,
    shared: false,
    close: (failure) => partial.close(failure !== undefined && isWorthKeeping(failure)),
  };
}

/** What fails here must not leave the file open. */
async function settle<T>(file: FileHandle, task: () => T): Promise<T> {
  try {
    return task();
  } catch (error) {
    await file.close();
    throw error;
  }
}

const owned = (file: FileHandle, sourceBytes: number, digest: string): Acquired => ({
  file,
  sourceBytes,
  digest,
  plain: true,
  shared: false,
  close: () => file.close(),
});

async function openLocal(request: ImportRequest, options: SourceOptions): Promise<Acquired> {
  const source = await openSource(request.source);
  let keep = false;
  try {
    const stat = await source.stat({ bigint: true });
    if (!stat.isFile()) throw badImage(request.source, 'it is no regular file');
    if (stat.size === 0n) throw badImage(request.source, 'it is empty');
    // Before it is hashed: a file of holes may be longer than a day of reading.
    if (stat.size > limits.imageBytesMax) throw tooLarge(request.source, Number(stat.size));
    const sourceBytes = Number(stat.size);
    const start = await readAt(source, 0, startBytes);
    const hash = new SourceHash(request.source, request.digest);
    const chunks = hashed(source, sourceBytes, hash, options);
    const compression = compressionOf(start);
    if (compression !== undefined) {
      const file = await unpackToTemporary(request, compression, chunks, options);
      const { digest } = await settle(file, () => hash.end());
      return { ...owned(file, sourceBytes, digest), plain: false };
    }
    // Refused before a byte is copied; what counts is the check of the copy.
    const format = recognise(start, request.format, request.source);
    if (format === 'raw') {
      for await (const _ of chunks); // all of it goes through the hash
      const { digest } = hash.end();
      keep = true;
      return { ...owned(source, sourceBytes, digest), shared: true };
    }
    if (format === 'qcow2') checkQcow2Header(start, request.source);
    const file = await copyToTemporary(request, chunks, sourceBytes, options);
    return owned(file, sourceBytes, (await settle(file, () => hash.end())).digest);
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

async function* hashed(
  file: FileHandle,
  totalBytes: number,
  hash: SourceHash,
  options: SourceOptions,
): AsyncGenerator<Buffer> {
  let done = 0;
  for await (const chunk of chunksOf(file)) {
    options.signal.throwIfAborted();
    hash.add(chunk);
    done += chunk.length;
    yield chunk;
    options.onProgress({ stage: 'read', done, total: totalBytes });
  }
}

async function unpackToTemporary(
  request: ImportRequest,
  compression: 'gzip' | 'xz' | 'zstd',
  packed: AsyncIterable<Buffer>,
  options: SourceOptions,
): Promise<FileHandle> {
  const { temporaryDirectory } = request;
  const { signal, unpackedBytesMax } = options;
  return filled(request, options, async (into, space) => {
    const name = publicName(request.source);
    const more = unpackedBytesMax === undefined ? {} : { unpackedBytesMax };
    const size = await unpack({ name, compression, packed, into, space, signal, ...more });
    if (size === 0) throw badImage(name, `it unpacks to nothing, in ${temporaryDirectory}`);
  });
}

function copyToTemporary(
  request: ImportRequest,
  chunks: AsyncIterable<Buffer>,
  totalBytes: number,
  options: SourceOptions,
): Promise<FileHandle> {
  return filled(request, options, async (file, space) => {
    await space.need(totalBytes);
    let done = 0;
    for await (const chunk of chunks) {
      await writeAll(file, chunk, done);
      done += chunk.length;
    }
  });
}

/** A file without a name, with what `fill` writes to it. */
async function filled(
  request: ImportRequest,
  options: SourceOptions,
  fill: (file: FileHandle, space: SpaceGuard) => Promise<void>,
): Promise<FileHandle> {
  const { temporaryDirectory } = request;
  const file = await openNameless(temporaryDirectory, options.random);
  try {
    await fill(file, new SpaceGuard(temporaryDirectory));
    return file;
  } catch (error) {
    await file.close();
    if (options.signal.aborted) throw options.signal.reason;
    throw toDvceError(error, temporaryDirectory);
  }
}
