/**
 * Images: volumes below /images that were filled once and take no writes. The work of an import is done by a process of
 * its own (src/images); here it gets its volume, and loses it again when something fails.
 *
 *   check the name -> process reads, hashes, describes -> create volume (label `dvce.import`) -> attach -> process copies
 *     -> detach -> publish (snapshot `image`, digest)          any failure or cancel -> detach, delete the volume
 *
 * Invariants: only what was published is an image and can be cloned; after a failed, cancelled or interrupted import nothing
 * is left behind; only a volume that carries the label of the import that made it is ever deleted here for tidiness.
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
/** On a volume that is being filled: the operation that does it. */
const importLabel = 'dvce.import';
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
    const attachId = attachIdOf(handle.id);
    let made = false;
    const prepareVolume = async (description: ImageDescription): Promise<ImageTarget> => {
      await blockd.call(
        'volume.create',
        {
          path,
          sizeBytes: description.volumeBytes,
          // Partition tables of images count in sectors of 512 bytes.
          blockBytes: 512,
          labels: { ...request.labels, [importLabel]: handle.id },
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
      // From here on it is an image by its kind; the mark of its making has done its work.
      await blockd.call('volume.update', { path, labels: request.labels ?? {} });
      return { name, path, ...facts };
    } catch (error) {
      if (made) await this.#discard(path, attachId);
      if (handle.signal.aborted) throw handle.signal.reason;
      throw error;
    }
  }

  /** The failure of the import is what the operator must see, not that of tidying up. */
  async #discard(path: string, attachId: string): Promise<void> {
    const { blockd, logger } = this.#options;
    const steps = [
      () => blockd.call('volume.detach', { path, attachId }, long),
      () => blockd.call('volume.delete', { path }, long),
    ];
    for (const step of steps)
      try {
        await step();
      } catch (error) {
        logger.error({ err: error, path }, 'tidying up after a failed import failed');
      }
  }

  /** Imports that the end of the last agent interrupted leave a half filled volume: it goes. */
  async tidy(interrupted: readonly Operation[]): Promise<void> {
    const { logger } = this.#options;
    for (const { id, kind, resources } of interrupted) {
      if (kind !== 'image.import') continue;
      const name = decodeURIComponent(resources[0]?.split('/').at(-1) ?? '');
      try {
        const volume = await this.#volume(name);
        if (volume.image !== null || volume.labels[importLabel] !== id) continue;
        logger.info({ path: volume.path }, 'deleting what an interrupted import left');
        await this.#discard(volume.path, attachIdOf(id));
      } catch (error) {
        if (error instanceof DvceError && error.code === 'NOT_FOUND') continue;
        logger.error({ err: error, name }, 'what an interrupted import left could not be deleted');
      }
    }
  }

  /** The published image of this name. */
  async published(name: string): Promise<Image> {
    const image = await this.get(name);
    if (image.state !== 'ready')
      throw new DvceError('BAD_IMAGE', {
        name,
        reason: image.state === 'importing' ? 'its import is under way' : 'its import did not end',
        advice:
          image.state === 'importing'
            ? 'Wait for it: dvce op list --running'
            : `Delete it and import it again: dvce image delete ${name} --yes`,
      });
    return image;
  }

  /** Whether anything is in the way, an image or not. */
  async #exists(name: string): Promise<boolean> {
    try {
      await this.#options.blockd.call('volume.get', { path: imagePath(name) });
      return true;
    } catch (error) {
      if (error instanceof DvceError && error.code === 'NOT_FOUND') return false;
      throw error;
    }
  }

  async #volume(name: string): Promise<VolumeInfo> {
    try {
      const volume = await this.#options.blockd.call('volume.get', { path: imagePath(name) });
      if (isImage(volume)) return volume;
    } catch (error) {
      if (!(error instanceof DvceError && error.code === 'NOT_FOUND')) throw error;
    }
    // In the caller's words: an image, not the volume that holds it.
    throw new DvceError('NOT_FOUND', { kind: 'image', name });
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
      labels: Object.fromEntries(
        Object.entries(volume.labels).filter(([key]) => key !== importLabel),
      ),
    };
  }
}

const attachIdOf = (operation: string): string => `import:${operation}`;

/** Published, or on its way to it; any other volume below /images is somebody's own. */
const isImage = ({ kind, labels }: VolumeInfo): boolean =>
  kind === 'image' || labels[importLabel] !== undefined;

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
