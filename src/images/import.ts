/** One import from the source to the filled volume: the body of the import process. */
import { limits } from '../base/index.ts';
import {
  badImage,
  type ImageDescription,
  type ImageTarget,
  type ImportRequest,
  type ImportResult,
} from './protocol.ts';
import { copyToVolume, type QemuImgOptions, verifyQcow2 } from './qemu-img.ts';
import { type PreparedSource, prepareSource, type SourceOptions } from './source.ts';

export interface ImportOptions extends SourceOptions {
  /** Called once, when everything about the source is known; resolves with an empty volume of `volumeBytes`. */
  prepareVolume(description: ImageDescription): Promise<ImageTarget>;
}

export async function importImage(
  request: ImportRequest,
  options: ImportOptions,
): Promise<ImportResult> {
  const source = await prepareSource(request, options);
  try {
    return await copy(request, source, options);
  } finally {
    await source.file.close();
  }
}

async function copy(
  request: ImportRequest,
  source: PreparedSource,
  options: ImportOptions,
): Promise<ImportResult> {
  const { format, virtualBytes, sourceBytes, digest } = source;
  const tool: QemuImgOptions = {
    timers: options.timers,
    signal: options.signal,
    descriptor: source.file.fd,
    format,
    name: request.source,
  };
  if (format === 'qcow2') {
    const seenBytes = await verifyQcow2(tool);
    if (seenBytes !== virtualBytes)
      throw badImage(request.source, 'its header and its content disagree about its size');
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
  return { ...description, digest };
}

const sectorBytes = 512;

function volumeSize(virtualBytes: number): number {
  const whole = Math.ceil(virtualBytes / sectorBytes) * sectorBytes;
  return Math.max(limits.volumeBytesMin, whole);
}
