/**
 * One export from a disk to a stream: the body of the export process.
 *
 * raw goes straight from the disk to the stream. qcow2 is built in a temporary file without a name first, because its tables
 * are known only at the end. Either way the digest is that of the file that arrives.
 */
import { type FileHandle, mkdir } from 'node:fs/promises';
import type { Writable } from 'node:stream';
import { DvceError, limits, type Random, type Timers } from '../base/index.ts';
import { ContentHash, isZero, type Piece, readContent } from './content.ts';
import { openNameless } from './partial-file.ts';
import type { ExportRequest, ExportResult, ImageProgress } from './protocol.ts';
import { copyToFile } from './qemu-img.ts';
import { chunksOf } from './read-at.ts';
import { SpaceGuard } from './space-guard.ts';
import { frames } from './sparse-frames.ts';
import { SteadyClient } from './steady-client.ts';

export interface ExportOptions {
  readonly timers: Timers;
  readonly random: Random;
  readonly signal: AbortSignal;
  readonly output: Writable;
  onProgress(progress: ImageProgress): void;
}

export async function exportImage(
  request: ExportRequest,
  options: ExportOptions,
): Promise<ExportResult> {
  const { socketPath, exportName } = request.from;
  const client = await SteadyClient.open({ address: { path: socketPath }, exportName }, options);
  try {
    const { sizeBytes } = client;
    const progress = (done: number): void =>
      options.onProgress({ stage: 'copy', done, total: sizeBytes });
    if (request.format === 'raw') {
      const pieces = readContent(client, options.timers);
      return { sizeBytes, ...(await send(request, pieces, options, progress)) };
    }
    return { sizeBytes, ...(await sendQcow2(request, sizeBytes, options, progress)) };
  } finally {
    await client.close();
  }
}

async function sendQcow2(
  request: ExportRequest,
  sizeBytes: number,
  options: ExportOptions,
  progress: (done: number) => void,
): Promise<Omit<ExportResult, 'sizeBytes'>> {
  const { temporaryDirectory, name } = request;
  await mkdir(temporaryDirectory, { recursive: true, mode: 0o750 });
  await new SpaceGuard(temporaryDirectory).need(0);
  const file = await openNameless(temporaryDirectory, options.random);
  try {
    const { timers, signal } = options;
    const part = { offset: 0, length: 0 };
    await copyToFile(
      { timers, signal, descriptor: file.fd, part, format: 'qcow2', name },
      request.from,
      (percent) => progress(Math.floor((sizeBytes * percent) / 100)),
    );
    return await send(request, piecesOf(file), options, () => {});
  } finally {
    await file.close();
  }
}

async function* piecesOf(file: FileHandle): AsyncGenerator<Piece> {
  let offset = 0;
  for await (const chunk of chunksOf(file)) {
    yield { offset, length: chunk.length, bytes: isZero(chunk) ? null : chunk };
    offset += chunk.length;
  }
}

const zeros = Buffer.alloc(limits.imagePieceBytes);

async function send(
  request: ExportRequest,
  pieces: AsyncIterable<Piece>,
  options: ExportOptions,
  progress: (done: number) => void,
): Promise<Omit<ExportResult, 'sizeBytes'>> {
  const { output, signal } = options;
  const sparse = request.framing === 'sparse';
  const hash = new ContentHash();
  let fileBytes = 0;
  if (sparse) await write(output, frames.start(), signal);
  for await (const { length, bytes } of pieces) {
    signal.throwIfAborted();
    hash.add(length, bytes);
    if (sparse) {
      await write(output, bytes === null ? frames.zeros(length) : frames.data(length), signal);
      if (bytes !== null) await write(output, bytes, signal);
    } else await writePlain(output, length, bytes, signal);
    fileBytes += length;
    progress(fileBytes);
  }
  const digest = hash.end();
  if (sparse) await write(output, frames.end(fileBytes, digest), signal);
  await new Promise<void>((resolve) => output.end(resolve));
  return { fileBytes, digest: `sha256:${digest}` };
}

async function writePlain(
  output: Writable,
  length: number,
  bytes: Buffer | null,
  signal: AbortSignal,
): Promise<void> {
  if (bytes !== null) return write(output, bytes, signal);
  for (let left = length; left > 0; left -= zeros.length)
    await write(output, left < zeros.length ? zeros.subarray(0, left) : zeros, signal);
}

/** Resolves when the reader has taken it: nothing piles up. */
function write(output: Writable, bytes: Buffer, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    output.write(bytes, (error) => {
      signal.removeEventListener('abort', abort);
      if (error === null || error === undefined) resolve();
      else reject(new DvceError('CANCELLED', { what: 'the export, whose reader is gone,' }, error));
    });
  });
}
