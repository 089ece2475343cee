/**
 * One import from the source to the filled volume: the body of the import process.
 *
 *   prepare (fetch, unpack, check, hash)  ->  volume  ->  copy  ->  read back and hash
 *
 * What is read back is what guests will see; of a raw source it must be what was hashed before.
 */
import { DvceError, limits } from '../base/index.ts';
import { ContentHash, readContent } from './content.ts';
import { publicName } from './download.ts';
import { isNbdUri, parseNbdUri } from './nbd-source.ts';
import {
  badImage,
  type ImageDescription,
  type ImageTarget,
  type ImportRequest,
  type ImportResult,
} from './protocol.ts';
import { tooLarge } from './qcow2.ts';
import { copyToVolume, type QemuImgOptions, verifyImage } from './qemu-img.ts';
import { type PreparedSource, prepareSource, type SourceOptions } from './source.ts';
import { checkDigest } from './source-hash.ts';
import { SteadyClient } from './steady-client.ts';

export interface ImportOptions extends SourceOptions {
  /** Called once, when everything about the source is known; resolves with an empty volume of `volumeBytes`. */
  prepareVolume(description: ImageDescription): Promise<ImageTarget>;
}

export async function importImage(
  request: ImportRequest,
  options: ImportOptions,
): Promise<ImportResult> {
  if (isNbdUri(request.source)) return importDisk(request, options);
  const source = await prepareSource(request, options);
  try {
    const result = await copy(request, source, options);
    await source.close();
    return result;
  } catch (error) {
    await source.close(error);
    throw error;
  }
}

async function copy(
  request: ImportRequest,
  source: PreparedSource,
  options: ImportOptions,
): Promise<ImportResult> {
  const { format, virtualBytes, sourceBytes, digest } = source;
  const name = publicName(request.source);
  const tool: QemuImgOptions = {
    timers: options.timers,
    signal: options.signal,
    descriptor: source.file.fd,
    part: source.part,
    format: source.diskFormat,
    name,
  };
  if (source.diskFormat !== 'raw') {
    const seenBytes = await verifyImage(tool);
    if (seenBytes !== virtualBytes)
      throw badImage(name, 'its header and its content disagree about its size');
  }
  const description = { format, virtualBytes, volumeBytes: volumeSize(virtualBytes), sourceBytes };
  const target = await options.prepareVolume(description);
  options.signal.throwIfAborted();
  const progress = (done: number): void =>
    options.onProgress({ stage: 'copy', done, total: virtualBytes });
  progress(0);
  await copyToVolume(tool, target, (percent) =>
    progress(Math.floor((virtualBytes * percent) / 100)),
  );
  await source.assertUnchanged();
  const seen = await readBack(target, virtualBytes, options);
  if (format === 'raw' && source.plain) assertSame(name, digest, seen.exact);
  return { ...description, digest, contentDigest: seen.padded };
}

function assertSame(name: string, digest: string, exact: string): void {
  if (digest === exact) return;
  throw badImage(
    name,
    `the volume has ${exact} after the copy, the source ${digest}`,
    'Try again.',
  );
}

/** Digests of the disk alone, and of the whole volume. */
async function readBack(
  target: ImageTarget,
  virtualBytes: number,
  options: ImportOptions,
): Promise<{ exact: string; padded: string }> {
  const client = await openTarget(target, options);
  try {
    const hash = new ContentHash(virtualBytes);
    let done = 0;
    for await (const { length, bytes } of readContent(client, options.timers)) {
      options.signal.throwIfAborted();
      hash.add(length, bytes);
      done += length;
      options.onProgress({ stage: 'verify', done, total: client.sizeBytes });
    }
    return { exact: `sha256:${hash.marked ?? ''}`, padded: `sha256:${hash.end()}` };
  } finally {
    await client.close();
  }
}

const openTarget = (target: ImageTarget, options: ImportOptions): Promise<SteadyClient> =>
  SteadyClient.open(
    { address: { path: target.socketPath }, exportName: target.exportName },
    options,
  );

/** From one NBD export to another. What the source says when it is read once is what is imported. */
async function importDisk(request: ImportRequest, options: ImportOptions): Promise<ImportResult> {
  if (request.format !== 'auto' && request.format !== 'raw')
    throw new DvceError('INVALID_ARGUMENT', {
      what: `the format ${request.format}`,
      reason: 'an NBD server gives the bytes of the disk',
      advice: 'Leave out the format.',
    });
  const from = await openDisk(request.source, options);
  try {
    const { sizeBytes } = from;
    if (sizeBytes === 0) throw badImage(request.source, 'it is empty');
    if (sizeBytes > limits.imageBytesMax) throw tooLarge(request.source, sizeBytes);
    const description: ImageDescription = {
      format: 'raw',
      virtualBytes: sizeBytes,
      volumeBytes: volumeSize(sizeBytes),
      sourceBytes: sizeBytes,
    };
    const target = await options.prepareVolume(description);
    const digest = await copyDisk(from, target, options);
    checkDigest(request.source, digest, request.digest);
    const seen = await readBack(target, sizeBytes, options);
    assertSame(request.source, digest, seen.exact);
    return { ...description, digest, contentDigest: seen.padded };
  } finally {
    await from.close();
  }
}

async function openDisk(source: string, options: ImportOptions): Promise<SteadyClient> {
  const place = parseNbdUri(source);
  try {
    return await SteadyClient.open(place, options);
  } catch (error) {
    if (options.signal.aborted) throw options.signal.reason;
    const reason = error instanceof Error ? error.message : String(error);
    throw new DvceError('DOWNLOAD_FAILED', { what: source, reason }, error);
  }
}

/** Zeros are left out: the target is a new volume. @returns the digest of what was read */
async function copyDisk(
  from: SteadyClient,
  target: ImageTarget,
  options: ImportOptions,
): Promise<string> {
  const to = await openTarget(target, options);
  const writing = new Set<Promise<void>>();
  const failed = Promise.withResolvers<never>();
  failed.promise.catch(() => {}); // it is raced below as long as anybody waits
  const hash = new ContentHash();
  try {
    for await (const { offset, length, bytes } of readContent(from, options.timers)) {
      options.signal.throwIfAborted();
      hash.add(length, bytes);
      if (bytes !== null) {
        const write = to.write(offset, bytes);
        writing.add(write);
        write.then(() => writing.delete(write), failed.reject);
      }
      while (writing.size >= limits.imagePiecesInFlight)
        await Promise.race([...writing, failed.promise]);
      options.onProgress({ stage: 'copy', done: offset + length, total: from.sizeBytes });
    }
    await Promise.all(writing);
    await to.flush();
    return `sha256:${hash.end()}`;
  } finally {
    await to.close();
  }
}

const sectorBytes = 512;

function volumeSize(virtualBytes: number): number {
  const whole = Math.ceil(virtualBytes / sectorBytes) * sectorBytes;
  return Math.max(limits.volumeBytesMin, whole);
}
