/**
 * Exports: the content of a volume, a snapshot or an image as a stream, made by a process of its own (src/images).
 *
 *   volume: temporary snapshot `export-<operation>` -> process reads it over NBD -> whoever asked reads the stream
 *           -> the snapshot is deleted
 *   snapshot, image: the same without the temporary snapshot
 *
 * Invariants: what is exported is one state of the disk, whatever guests do meanwhile; a temporary snapshot lives no longer
 * than its operation, or than the agent's next start; a reader that goes away ends the operation.
 */
import { type Readable, Transform } from 'node:stream';
import type { Operation } from '../api/index.ts';
import { urls } from '../api/index.ts';
import {
  asSnapshotName,
  asVolumePath,
  DvceError,
  type Logger,
  limits,
  type Timers,
} from '../base/index.ts';
import { type ExportFormat, type ExportResult, runExport } from '../images/index.ts';
import type { DataProcess } from './data-process.ts';
import { imageSnapshot } from './images.ts';
import type { OperationHandle, Operations } from './operations.ts';
import { snapshotNamed } from './snapshot-pages.ts';

const long = { timeoutMs: limits.blockdLongCallMs } as const;

export interface ExportsOptions {
  readonly blockd: DataProcess;
  readonly operations: Operations;
  readonly timers: Timers;
  readonly logger: Logger;
  /** For qcow2 files while they are made. */
  readonly temporaryDirectory: string;
}

export interface ExportOrder {
  readonly path: string;
  /** When not given: the content now. */
  readonly snapshot?: string | undefined;
  readonly format: ExportFormat;
  readonly framing: 'plain' | 'sparse';
}

export interface BegunExport {
  readonly operation: Operation;
  readonly content: Readable;
}

/**
 * The stream ends well only when the export did: a process that dies only closes its end. `gone`: whoever read it has left.
 */
function ending(from: Readable, whole: Promise<void>, gone: () => void): Readable {
  const to = new Transform({
    transform: (chunk, _encoding, done) => done(null, chunk),
    flush: (done) => {
      whole.then(() => done(), done);
    },
  });
  from.on('error', (error) => to.destroy(error));
  to.on('close', () => {
    if (!to.readableEnded) gone();
    from.destroy();
  });
  return from.pipe(to);
}

/** On a snapshot that is being exported: the operation that does it. */
const exportLabel = 'dvce.export';
const temporarySnapshot = (operation: string): string => `export-${operation}`;

export class ImageExports {
  readonly #options: ExportsOptions;
  #running = 0;

  constructor(options: ExportsOptions) {
    this.#options = options;
  }

  /** Resolves when the first bytes are there; what fails before is thrown. */
  async begin(order: ExportOrder): Promise<BegunExport> {
    const { operations } = this.#options;
    const path = asVolumePath(order.path);
    if (order.snapshot !== undefined) asSnapshotName(order.snapshot);
    if (this.#running >= limits.exportsRunningMax)
      throw new DvceError('IN_USE', {
        kind: 'agent',
        name: '',
        reason: `${limits.exportsRunningMax} exports run already`,
        advice: 'Wait for one of them: dvce op list --running',
      });
    this.#running += 1;
    const content = Promise.withResolvers<Readable>();
    const whole = Promise.withResolvers<void>();
    // Also when the operation cannot begin and nobody waits.
    for (const { promise } of [content, whole]) promise.catch(() => {});
    try {
      const operation = await operations.begin({
        kind: 'volume.export',
        resources: [urls.volume(path)],
        mayCancel: true,
        work: async (handle) => {
          try {
            const gone = (): void => this.#cancel(handle.id);
            const begun = (from: Readable): void =>
              content.resolve(ending(from, whole.promise, gone));
            const result = await this.#export({ ...order, path }, handle, begun);
            whole.resolve();
            return result;
          } catch (error) {
            content.reject(error);
            whole.reject(error);
            throw error;
          } finally {
            this.#running -= 1;
          }
        },
      });
      return { operation, content: await content.promise };
    } catch (error) {
      content.reject(error);
      throw error;
    }
  }

  async #export(
    order: ExportOrder,
    handle: OperationHandle,
    onContent: (content: Readable) => void,
  ): Promise<ExportResult> {
    const { blockd, timers, temporaryDirectory } = this.#options;
    const { path, format, framing } = order;
    const { nbdSocket } = await blockd.call('status', {});
    const { snapshot, isTemporary } = await this.#source(order, handle.id);
    try {
      return await runExport({
        name: `${path}@${snapshot}`,
        from: { socketPath: nbdSocket, exportName: `${path}@${snapshot}` },
        ...{ format, framing, temporaryDirectory, timers },
        signal: handle.signal,
        onProgress: ({ done, total }) => handle.progress(done, total, 'bytes'),
        onContent: (content) => content.once('readable', () => onContent(content)),
      });
    } finally {
      if (isTemporary) await this.#drop(path, snapshot);
    }
  }

  #cancel(id: string): void {
    const { operations } = this.#options;
    if (operations.get(id).status === 'running') operations.cancel(id);
  }

  async #source(
    { path, snapshot }: ExportOrder,
    operation: string,
  ): Promise<{ snapshot: string; isTemporary: boolean }> {
    const { blockd } = this.#options;
    if (snapshot !== undefined) {
      if ((await snapshotNamed(blockd, path, snapshot)) === undefined)
        throw new DvceError('NOT_FOUND', { kind: 'snapshot', name: `${path}@${snapshot}` });
      return { snapshot, isTemporary: false };
    }
    const volume = await blockd.call('volume.get', { path });
    if (volume.kind === 'image') return { snapshot: imageSnapshot, isTemporary: false };
    const name = temporarySnapshot(operation);
    await blockd.call(
      'snapshot.create',
      { path, name, labels: { [exportLabel]: operation } },
      long,
    );
    return { snapshot: name, isTemporary: true };
  }

  /** The outcome of the export is what the operator must see, not that of tidying up. */
  async #drop(path: string, name: string): Promise<void> {
    const { blockd, logger } = this.#options;
    try {
      await blockd.call('snapshot.delete', { path, name }, long);
    } catch (error) {
      logger.error({ err: error, path, name }, 'the snapshot of an export could not be deleted');
    }
  }

  /** Exports that the end of the last agent interrupted leave their snapshot: it goes. */
  async tidy(interrupted: readonly Operation[]): Promise<void> {
    const { blockd, logger } = this.#options;
    for (const { id, kind, resources } of interrupted) {
      if (kind !== 'volume.export') continue;
      const path = `/${decodeURIComponent(resources[0]?.split('/').at(-1) ?? '')}`;
      const name = temporarySnapshot(id);
      try {
        const found = await snapshotNamed(blockd, path, name);
        if (found?.labels[exportLabel] !== id) continue;
        logger.info({ path, name }, 'deleting what an interrupted export left');
        await blockd.call('snapshot.delete', { path, name }, long);
      } catch (error) {
        if (error instanceof DvceError && error.code === 'NOT_FOUND') continue;
        logger.error({ err: error, path }, 'what an interrupted export left could not be deleted');
      }
    }
  }
}
