/**
 * Images: volumes below /images that were filled once and take no writes. The work of an import is done by a process of
 * its own (src/images); here it gets its volume, and loses it again when something fails.
 *
 *   check the name -> process reads, hashes, describes -> create volume (kind image) -> attach -> process copies
 *     -> detach -> publish (snapshot `image`, digest)          any failure or cancel -> detach, delete the volume
 *
 * Invariants: an image without digest is never cloned from (blockd refuses it); after a failed, cancelled or interrupted
 * import nothing is left behind.
 */
import type { Image, ImageImport, Operation } from '../api/index.ts';
import { urls } from '../api/index.ts';
import { checkName, DvceError, type Logger, limits, type Timers } from '../base/index.ts';
import type { VolumeInfo } from '../blockd/index.ts';
import { type ImageDescription, type ImageTarget, runImport } from '../images/index.ts';
import type { DataProcess } from './data-process.ts';
import type { OperationHandle, Operations } from './operations.ts';

const folder = '/images/';
/** Name of the snapshot that blockd takes when it publishes an image. */
export const imageSnapshot = 'image';
export const imagePath = (name: string): string => `${folder}${checkName(name)}`;

const long = { timeoutMs: limits.blockdLongCallMs } as const;

export interface ImagesOptions {
  readonly blockd: DataProcess;
  readonly operations: Operations;
  readonly timers: Timers;
  readonly logger: Logger;
  /** For downloads under way. */
  readonly temporaryDirectory: string;
}

export class Images {
  readonly #options: ImagesOptions;
  /** Names that an import is making. */
  readonly #importing = new Set<string>();

  constructor(options: ImagesOptions) {
    this.#options = options;
  }

  async list(): Promise<Image[]> {
    const { volumes } = await this.#options.blockd.call('volume.list', { kind: 'image' });
    return volumes
      .filter(({ path }) => path.startsWith(folder))
      .map((volume) => this.#view(volume));
  }

  async get(name: string): Promise<Image> {
    return this.#view(await this.#volume(name));
  }

  async delete(name: string): Promise<void> {
    if (this.#importing.has(name))
      throw new DvceError('IN_USE', {
        kind: 'image',
        name,
        reason: 'it is being imported',
        advice: 'Cancel the import: dvce op list --running, dvce op cancel ID',
      });
    const { path } = await this.#volume(name);
    await this.#options.blockd.call('volume.delete', { path }, long);
  }

  async import(request: ImageImport): Promise<Operation> {
    const { operations } = this.#options;
    const name = checkName(request.name);
    checkSource(request.source);
    if (this.#importing.has(name) || (await this.#exists(name)))
      throw new DvceError('ALREADY_EXISTS', { kind: 'image', name });
    if (this.#importing.size >= limits.importsRunningMax)
      throw new DvceError('IN_USE', {
        kind: 'agent',
        name: '',
        reason: `${limits.importsRunningMax} imports run already`,
        advice: 'Wait for one of them: dvce op list --running',
      });
    this.#importing.add(name);
    try {
      return await operations.begin({
        kind: 'image.import',
        resources: [urls.image(name)],
        mayCancel: true,
        work: async (handle) => {
          try {
            return await this.#import(name, request, handle);
          } finally {
            this.#importing.delete(name);
          }
        },
      });
    } catch (error) {
      this.#importing.delete(name);
      throw error;
    }
  }

  async #import(name: string, request: ImageImport, handle: OperationHandle): Promise<unknown> {
    const { blockd, timers, temporaryDirectory } = this.#options;
    const path = imagePath(name);
    const attachId = `import:${name}`;
    let made = false;
    const prepareVolume = async (description: ImageDescription): Promise<ImageTarget> => {
      await blockd.call(
        'volume.create',
        {
          path,
          kind: 'image',
          sizeBytes: description.volumeBytes,
          ...(request.labels === undefined ? {} : { labels: request.labels }),
        },
        long,
      );
      made = true;
      const { socketPath, exportName } = await blockd.call(
        'volume.attach',
        { path, attachId, vm: '' },
        { ...long, signal: handle.signal },
      );
      return { socketPath, exportName };
    };
    try {
      const { digest, format, sourceBytes } = await runImport({
        source: request.source,
        format: request.format ?? 'auto',
        sha256: request.sha256 ?? null,
        temporaryDirectory,
        timers,
        signal: deadline(handle.signal, timers, name),
        prepareVolume,
        onProgress: ({ done, total }) => handle.progress(done, total, 'bytes'),
      });
      await blockd.call('volume.detach', { path, attachId }, long);
      const facts = { digest, format, sourceBytes, source: request.source };
      await blockd.call('image.publish', { path, ...facts }, long);
      return { name, path, ...facts };
    } catch (error) {
      if (made) await this.#discard(path, attachId);
      throw error;
    }
  }

  /** The failure of the import is what the operator must see, not that of tidying up. */
  async #discard(path: string, attachId: string): Promise<void> {
    const { blockd, logger } = this.#options;
    try {
      await blockd.call('volume.detach', { path, attachId }, long);
      await blockd.call('volume.delete', { path }, long);
    } catch (error) {
      logger.error({ err: error, path }, 'the volume of a failed import could not be deleted');
    }
  }

  /** Imports that the end of the last agent interrupted leave a volume without digest: it goes. */
  async tidy(interrupted: readonly Operation[]): Promise<void> {
    const { blockd, logger } = this.#options;
    for (const { kind, resources } of interrupted) {
      if (kind !== 'image.import') continue;
      const name = decodeURIComponent(resources[0]?.split('/').at(-1) ?? '');
      try {
        const volume = await this.#volume(name);
        if (volume.image !== null) continue;
        logger.info({ path: volume.path }, 'deleting what an interrupted import left');
        await blockd.call('volume.detach', { path: volume.path, attachId: `import:${name}` }, long);
        await blockd.call('volume.delete', { path: volume.path }, long);
      } catch (error) {
        if (error instanceof DvceError && error.code === 'NOT_FOUND') continue;
        logger.error({ err: error, name }, 'what an interrupted import left could not be deleted');
      }
    }
  }

  async #exists(name: string): Promise<boolean> {
    try {
      await this.#volume(name);
      return true;
    } catch (error) {
      if (error instanceof DvceError && error.code === 'NOT_FOUND') return false;
      throw error;
    }
  }

  async #volume(name: string): Promise<VolumeInfo> {
    try {
      return await this.#options.blockd.call('volume.get', { path: imagePath(name) });
    } catch (error) {
      // Say it in the caller's words: an image, not the volume that holds it.
      if (error instanceof DvceError && error.code === 'NOT_FOUND')
        throw new DvceError('NOT_FOUND', { kind: 'image', name }, error);
      throw error;
    }
  }

  #view(volume: VolumeInfo): Image {
    const name = volume.path.slice(folder.length);
    const { image } = volume;
    return {
      name,
      path: volume.path,
      state: image !== null ? 'ready' : this.#importing.has(name) ? 'importing' : 'incomplete',
      sizeBytes: volume.sizeBytes,
      sha256: image?.digest.replace(/^sha256:/, '') ?? null,
      source: image?.source ?? null,
      format: image?.format ?? null,
      sourceBytes: image?.sourceBytes ?? null,
      createdAt: volume.createdAt,
      protected: volume.protected,
      labels: { ...volume.labels },
    };
  }
}

/** The agent has a working directory of its own, so a relative path would name another file than the caller means. */
function checkSource(source: string): void {
  if (source.startsWith('/') || /^https?:\/\/./.test(source)) return;
  throw new DvceError('INVALID_ARGUMENT', {
    what: `the source ${JSON.stringify(source)}`,
    reason: 'it is neither an absolute path nor an http or https URL',
    advice: 'For example /srv/images/debian.qcow2.',
  });
}

/** An import ends within limits.importMs, whatever its source does. */
function deadline(signal: AbortSignal, timers: Timers, name: string): AbortSignal {
  const over = new AbortController();
  const timer = timers.after(limits.importMs, () =>
    over.abort(new DvceError('TIMED_OUT', { what: `the import of ${name}`, ms: limits.importMs })),
  );
  signal.addEventListener('abort', () => timer.cancel(), { once: true });
  return AbortSignal.any([signal, over.signal]);
}
