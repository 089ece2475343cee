/**
 * Images: volumes below /images that were filled once and take no writes. The work of an import is done by a process of
 * its own (src/images); here it gets its volume, and loses it again when something fails.
 *
 *   check the name -> process reads, hashes, describes -> create volume (label `dvce.import`) -> attach -> process copies
 *     -> detach -> protect -> publish (snapshot `image`, digests) -> drop the label
 *                                                              any failure or cancel -> detach, delete the volume
 *
 * Invariants: only what was published is an image and can be cloned; after a failed, cancelled or interrupted import nothing
 * is left behind but a download that another import goes on with; only a volume that carries the label of the import that
 * made it is ever deleted here for tidiness.
 */
import type { CatalogueImage, Image, ImageImport, ImageUpdate, Operation } from '../api/index.ts';
import { urls } from '../api/index.ts';
import {
  type Clock,
  checkName,
  DvceError,
  type Logger,
  limits,
  sleep,
  type Timers,
} from '../base/index.ts';
import type { VolumeInfo } from '../blockd/index.ts';
import {
  type Catalogue,
  type ImageDescription,
  type ImageTarget,
  publicName,
  readCatalogue,
  runImport,
  sweepTemporary,
} from '../images/index.ts';
import type { DataProcess } from './data-process.ts';
import { type ImportOrder, importOrder } from './import-order.ts';
import type { OperationHandle, Operations } from './operations.ts';

const folder = '/images/';
/** Name of the snapshot that blockd takes when it publishes an image. */
export const imageSnapshot = 'image';
/** On a volume that is being filled: the operation that does it. */
const importLabel = 'dvce.import';
export const imagePath = (name: string): string => `${folder}${checkName(name)}`;

const long = { timeoutMs: limits.blockdLongCallMs } as const;

export interface ImageFiles {
  /** The operator's catalogue; when not given, one in the usual place that may be missing. */
  readonly catalogueFile?: string | undefined;
  /** Certificates of authorities for https sources, beside the system's. */
  readonly authoritiesFile?: string | undefined;
}

export interface ImagesOptions extends ImageFiles {
  readonly blockd: DataProcess;
  readonly operations: Operations;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly logger: Logger;
  /** For downloads under way. */
  readonly temporaryDirectory: string;
}

const catalogueDefault = '/etc/dvce/images.yaml';

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
    const order = await this.order(request);
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
            return await this.#import(name, order, handle);
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

  order(request: ImageImport): Promise<ImportOrder> {
    return importOrder(request, () => this.#catalogue());
  }

  #catalogue(): Promise<Catalogue> {
    const { catalogueFile } = this.#options;
    return readCatalogue(catalogueFile ?? catalogueDefault, {
      mustExist: catalogueFile !== undefined,
      arch: process.arch,
    });
  }

  /** Read anew each time: the file is the operator's to change. */
  async catalogue(): Promise<CatalogueImage[]> {
    return (await this.#catalogue()).entries.map((entry) => ({
      name: entry.name,
      description: entry.description ?? '',
      arch: entry.arch,
      url: entry.url,
      checksum: entry.sha256 ?? entry.sha512 ?? entry.checksumUrl ?? null,
      format: entry.format ?? null,
      sizeBytes: entry.diskBytes ?? null,
      labels: entry.labels ?? {},
      origin: entry.origin,
    }));
  }

  async update(name: string, change: ImageUpdate): Promise<Image> {
    const { blockd } = this.#options;
    const { path } = await this.published(name);
    await blockd.call('volume.update', { path, ...change });
    return this.get(name);
  }

  async #import(name: string, order: ImportOrder, handle: OperationHandle): Promise<unknown> {
    const { blockd, clock, timers, temporaryDirectory, authoritiesFile } = this.#options;
    const path = imagePath(name);
    const attachId = attachIdOf(handle.id);
    const mark = { ...order.labels, [importLabel]: handle.id };
    await sweepTemporary(temporaryDirectory, clock.wallMs());
    let made = false;
    const steadily = <T>(call: () => Promise<T>): Promise<T> => this.#steadily(call, handle.signal);
    const prepareVolume = async (description: ImageDescription): Promise<ImageTarget> => {
      const { volumeBytes: sizeBytes } = description;
      // Partition tables of images count in sectors of 512 bytes.
      const { compression } = order;
      const shape = { path, sizeBytes, blockBytes: 512, labels: mark } as const;
      // An older blockd does not know it; without it nothing is said of it.
      const wanted = compression ? { ...shape, compression } : shape;
      await steadily(async () => {
        try {
          await blockd.call('volume.create', wanted, long);
        } catch (error) {
          // The answer of an earlier call may have been lost.
          if (!(await this.#isOurs(path, handle.id))) throw error;
        }
      });
      made = true;
      const { socketPath, exportName } = await steadily(() =>
        blockd.call(
          'volume.attach',
          { path, attachId, vm: '' },
          { ...long, signal: handle.signal },
        ),
      );
      return { socketPath, exportName };
    };
    try {
      const { digest, contentDigest, format, sourceBytes } = await runImport({
        source: order.source,
        format: order.format,
        digest: order.digest,
        checksumUrl: order.checksumUrl,
        temporaryDirectory,
        authoritiesFile,
        timers,
        signal: deadline(handle.signal, timers, name),
        prepareVolume,
        onProgress: ({ done, total }) => handle.progress(done, total, 'bytes'),
      });
      await steadily(() => blockd.call('volume.detach', { path, attachId }, long));
      // Before it is an image: after the publish the next agent takes it as it is.
      if (order.protected)
        await steadily(() => blockd.call('volume.update', { path, protected: true }));
      const facts = {
        digest,
        contentDigest,
        format,
        sourceBytes,
        source: publicName(order.source),
      };
      await steadily(() => blockd.call('image.publish', { path, ...facts }, long));
      // From here on it is an image by its kind; the mark of its making has done its work.
      await steadily(() => blockd.call('volume.update', { path, labels: order.labels }));
      return { name, path, ...facts };
    } catch (error) {
      if (made) await this.#discard(path, attachId);
      if (handle.signal.aborted) throw handle.signal.reason;
      throw error;
    }
  }

  /**
   * A call that may be made twice, and is until blockd answers: what an import has done by then is not given up because blockd
   * is started again just now.
   */
  async #steadily<T>(call: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const { timers, clock } = this.#options;
    const untilMs = clock.monotonicMs() + limits.imageReconnectMs;
    for (;;) {
      try {
        return await call();
      } catch (error) {
        const isAway = error instanceof DvceError && error.code === 'BLOCKD_UNAVAILABLE';
        if (!isAway || clock.monotonicMs() >= untilMs) throw error;
        await sleep(timers, limits.imageRetryMs, signal);
      }
    }
  }

  /** Whether a volume is there that the import with this id has made. */
  async #isOurs(path: string, id: string): Promise<boolean> {
    try {
      const { labels } = await this.#options.blockd.call('volume.get', { path });
      return labels[importLabel] === id;
    } catch (error) {
      if (error instanceof DvceError && error.code === 'NOT_FOUND') return false;
      throw error;
    }
  }

  /** The failure of the import is what the operator must see, not that of tidying up. */
  async #discard(path: string, attachId: string): Promise<void> {
    const { blockd, logger } = this.#options;
    const steps: readonly (() => Promise<unknown>)[] = [
      () => blockd.call('volume.detach', { path, attachId }, long),
      () => blockd.call('volume.update', { path, protected: false }),
      () => blockd.call('volume.delete', { path }, long),
    ];
    for (const step of steps)
      try {
        await this.#steadily(step);
      } catch (error) {
        logger.error({ err: error, path }, 'tidying up after a failed import failed');
      }
  }

  /** Imports that the end of the last agent interrupted leave a half filled volume: it goes. */
  async tidy(interrupted: readonly Operation[]): Promise<void> {
    const { logger, temporaryDirectory, clock } = this.#options;
    for (const file of await sweepTemporary(temporaryDirectory, clock.wallMs()))
      logger.info({ file }, 'removed a temporary file of an earlier import');
    for (const { id, kind, resources } of interrupted) {
      if (kind !== 'image.import') continue;
      const name = decodeURIComponent(resources[0]?.split('/').at(-1) ?? '');
      try {
        const volume = await this.#volume(name);
        if (volume.labels[importLabel] !== id) continue;
        if (volume.image !== null) {
          await this.#unmark(volume);
          continue;
        }
        logger.info({ path: volume.path }, 'deleting what an interrupted import left');
        await this.#discard(volume.path, attachIdOf(id));
      } catch (error) {
        if (error instanceof DvceError && error.code === 'NOT_FOUND') continue;
        logger.error({ err: error, name }, 'what an interrupted import left could not be deleted');
      }
    }
  }

  /** It was published, and only its last step is missing. */
  async #unmark({ path, labels }: VolumeInfo): Promise<void> {
    await this.#options.blockd.call('volume.update', { path, labels: withoutMark(labels) });
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
      contentSha256: image?.contentDigest?.replace(/^sha256:/, '') ?? null,
      source: image?.source ?? null,
      format: image?.format ?? null,
      sourceBytes: image?.sourceBytes ?? null,
      createdAt: volume.createdAt,
      protected: volume.protected,
      labels: withoutMark(volume.labels),
    };
  }
}

const attachIdOf = (operation: string): string => `import:${operation}`;

/** Published, or on its way to it; any other volume below /images is somebody's own. */
const isImage = ({ kind, labels }: VolumeInfo): boolean =>
  kind === 'image' || labels[importLabel] !== undefined;

const withoutMark = (labels: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(Object.entries(labels).filter(([key]) => key !== importLabel));

/** An import ends within limits.importMs, whatever its source does. */
function deadline(signal: AbortSignal, timers: Timers, name: string): AbortSignal {
  const over = new AbortController();
  const timer = timers.after(limits.importMs, () =>
    over.abort(new DvceError('TIMED_OUT', { what: `the import of ${name}`, ms: limits.importMs })),
  );
  signal.addEventListener('abort', () => timer.cancel(), { once: true });
  return AbortSignal.any([signal, over.signal]);
}
