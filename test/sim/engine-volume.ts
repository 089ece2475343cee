/** One volume of the simulated engine, through the calls that blockd makes. */
import {
  asSnapshotName,
  type DvceError,
  KiB,
  MiB,
  toDvceError,
  type VolumeId,
} from '../../src/base/index.ts';
import {
  type BlockReader,
  checkVolume,
  cloneVolume,
  deleteSnapshot,
  deleteVolume,
  findSnapshot,
  getVolume,
  growHead,
  type HlfsContext,
  listSnapshots,
  type OpenVolume,
  openSnapshot,
  openVolume,
  readRanges,
  reap,
  reclaimLog,
  requireHead,
  rollbackVolume,
  type SnapshotOptions,
  shrinkHead,
} from '../../src/hlfs/index.ts';
import type { SimOptions } from './options.ts';
import type { SimTarget } from './target.ts';

export const notInUse = (): undefined => undefined;

export const pathOf = (number: number): string => (number === 0 ? '/disk' : `/fork-${number}`);

export interface EngineVolumeParts {
  readonly context: HlfsContext;
  readonly number: number;
  readonly options: SimOptions;
  readonly note: (what: string) => void;
  /** Another volume of the same process. */
  readonly opened: (number: number) => EngineVolume;
}

export interface CutParameters {
  readonly token: string;
  readonly name?: string;
  readonly options?: unknown;
}

export class EngineVolume implements SimTarget {
  readonly #parts: EngineVolumeParts;
  readonly #path: string;
  #volume: OpenVolume | undefined;
  #holds = 0;
  #isPacking = false;
  #clones = 0;

  constructor(parts: EngineVolumeParts) {
    this.#parts = parts;
    this.#path = pathOf(parts.number);
  }

  get device(): OpenVolume {
    if (this.#volume === undefined) throw new Error('the volume is not open');
    return this.#volume;
  }

  /** The log that it writes; undefined while it is closed. */
  get log(): string | undefined {
    return this.#volume?.log;
  }

  get #context(): HlfsContext {
    return this.#parts.context;
  }

  async open(): Promise<void> {
    const { id, head } = await getVolume(this.#context, this.#path);
    this.#volume = await openVolume(this.#context, id);
    this.#changeCompression();
    if (Number(head.sizeBytes) < this.#parts.options.sizeBytes) await this.#grow();
  }

  #changeCompression(): void {
    if (this.#parts.options.compression !== 'changing') return;
    this.#isPacking = !this.#isPacking;
    this.device.compress(this.#isPacking ? 'zstd' : 'none');
  }

  async #target(): Promise<{ id: VolumeId; path: string }> {
    const { id } = await getVolume(this.#context, this.#path);
    return { id, path: this.#path };
  }

  async #grow(): Promise<void> {
    const { sizeBytes } = this.#parts.options;
    await growHead(this.#context, { id: this.device.id, path: this.#path }, sizeBytes);
    this.device.grow(sizeBytes);
  }

  publish(): Promise<void> {
    this.#changeCompression();
    return this.device.publishAll();
  }

  hold(end: 'cut' | 'dropped' | 'left'): string {
    const { cuts } = this.device;
    this.#holds += 1;
    const token = `hold ${this.#holds}`;
    try {
      cuts.hold(token);
      if (end === 'left') return 'scenario 15: the coordinator of a set dies in HOLD';
      cuts.mark(token);
      if (end === 'cut') return cuts.release(token) ? 'a hold, cut' : 'a hold, broken';
      cuts.drop(token);
      return 'a hold, dropped';
    } catch (error) {
      // The store, the journal or an earlier hold is in the way; nobody waits for it.
      cuts.drop(token);
      return `a hold, refused: ${toDvceError(error).code}`;
    }
  }

  /** What a thread of blockd does for the coordinator of a set. */
  async cut(method: string, { token, name = '', options }: CutParameters): Promise<unknown> {
    const { cuts } = this.device;
    switch (method) {
      case 'cut.hold':
        cuts.hold(token);
        return {};
      case 'cut.mark':
        cuts.mark(token);
        return {};
      case 'cut.release':
        return { unbroken: cuts.release(token) };
      case 'cut.document':
        return {
          document: await cuts.documentOfCut(
            token,
            asSnapshotName(name),
            // As the coordinator made them.
            options as SnapshotOptions,
          ),
        };
      default:
        cuts.drop(token);
        return {};
    }
  }

  readonly snapshots = {
    list: async (): Promise<string[]> => {
      const records = await listSnapshots(this.#context, this.device.id);
      return records
        .filter(({ document }) => document.state === 'live')
        .map(({ document }) => document.name);
    },
    create: async (name: string): Promise<void> => {
      await this.device.snapshot(asSnapshotName(name), { labels: {}, protected: false });
    },
    delete: (name: string): Promise<void> => deleteSnapshot(this.#context, this.device.id, name),
    open: async (name: string): Promise<BlockReader> => {
      const { value } = await findSnapshot(this.#context, this.device.id, name);
      return openSnapshot(this.#context, value, 512);
    },
    clone: (name: string): Promise<Buffer | undefined> => this.#clone(name),
    fork: async (name: string, to: number): Promise<void> => {
      await this.#makeClone(name, pathOf(to));
      await this.#parts.opened(to).open();
    },
    rollback: async (name: string): Promise<void> => {
      await rollbackVolume(this.#context, await this.#target(), name, readRanges, notInUse);
    },
  };

  async #makeClone(name: string, path: string): Promise<VolumeId> {
    const source = { id: this.device.id, path: this.#path };
    const { value } = await findSnapshot(this.#context, source.id, name);
    const { journalBytes, sizeBytes } = this.#parts.options;
    const options = { sizeBytes, journalBytes: Math.min(journalBytes, 512 * KiB) };
    return (await cloneVolume(this.#context, source, value, path, options, readRanges)).id;
  }

  async #clone(name: string): Promise<Buffer | undefined> {
    const context = this.#context;
    this.#clones += 1;
    const path = `/clone-${this.#parts.number}-${this.#clones}`;
    const clone = await openVolume(context, await this.#makeClone(name, path));
    const content = await readAll(clone);
    await clone.close();
    await deleteVolume(context, path, notInUse);
    await reap(context, reclaimLog);
    return content;
  }

  async flatten(signal: AbortSignal): Promise<string> {
    const { movedBytes, held } = await this.device.flattener.run({ signal, onProgress: () => {} });
    if (held !== null) return 'flattened, and snapshots hold the origin';
    return movedBytes === 0 ? 'flattened, with nothing to do' : 'flattened';
  }

  async remove(): Promise<void> {
    await deleteVolume(this.#context, this.#path, notInUse);
    this.#volume = undefined;
  }

  async shrinkAndGrow(toBytes: number): Promise<void> {
    const target = await this.#target();
    await shrinkHead(this.#context, target, Math.max(MiB, toBytes), notInUse);
    this.#volume = await openVolume(this.#context, target.id);
    await this.#grow();
  }

  /**
   * The volume is open, and cleaning may delete what the root that the check began with refers to. What is missing again in a check
   * that begins with a newer root is missing.
   */
  async verify(): Promise<string[]> {
    for (let attempt = 1; ; attempt += 1) {
      const problems = await this.#check();
      const isMissing = problems.some((problem) => problem.startsWith('CHECK_MISSING'));
      if (!isMissing || attempt === checksMax) return problems;
      this.#parts.note('a check was outrun by cleaning');
    }
  }

  async #check(): Promise<string[]> {
    const { id } = this.device;
    const signal = new AbortController().signal;
    const { findings } = await checkVolume(this.#context, id, { signal, onProgress: () => {} });
    await requireHead(this.#context, id);
    return findings
      .filter(({ severity }) => severity === 'error')
      .map(({ code, object, detail }) => `${code} ${object}: ${detail}`);
  }
}

const checksMax = 4;

function readAll(reader: Pick<BlockReader, 'read' | 'sizeBytes'>): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    reader.read(0, reader.sizeBytes, (error: DvceError | null, parts) => {
      if (error) return reject(error);
      return resolve(
        Buffer.concat(parts.map((part) => (typeof part === 'number' ? Buffer.alloc(part) : part))),
      );
    });
  });
}
