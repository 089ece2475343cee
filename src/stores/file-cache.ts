/**
 * Open segment files for reading: a bounded set, least recently used out first.
 *
 * Invariants: a file is closed once and only when no read of it is under way; `done` is called once for every read. Keys never
 * change their contents, so an open file never goes stale; a deleted one is closed with `forget`.
 */
import {
  DvceError,
  type FileSystem,
  type OpenFile,
  systemCode,
  toDvceError,
} from '../base/index.ts';
import type { StoreReadDone } from '../hlfs/index.ts';

interface CachedFile {
  readonly file: OpenFile;
  reads: number;
  isForgotten: boolean;
}

export class FileCache {
  readonly #files: FileSystem;
  readonly #limit: number;
  /** In order of last use. */
  readonly #open = new Map<string, CachedFile>();
  #reads = 0;
  #idle: (() => void) | undefined;

  constructor(files: FileSystem, limit: number) {
    this.#files = files;
    this.#limit = limit;
  }

  /** Fill `target` at once when the file is open and that needs no disk access. */
  readCached(key: string, offset: number, target: Buffer): boolean {
    return this.#open.get(key)?.file.readCached?.(target, offset) ?? false;
  }

  read(key: string, path: string, offset: number, target: Buffer, done: StoreReadDone): void {
    let cached: CachedFile;
    try {
      cached = this.#take(key, path);
    } catch (error) {
      queueMicrotask(() => done(openError(key, path, error)));
      return;
    }
    const finish = (error: DvceError | null): void => {
      this.#release(cached);
      done(error);
    };
    const step = (filled: number): void => {
      cached.file.read(target.subarray(filled), offset + filled, (error, count) => {
        if (error !== null) finish(readError(key, path, error));
        else if (filled + count === target.byteLength) finish(null);
        else if (count === 0) finish(shortError(key, offset, target.byteLength, filled));
        else step(filled + count);
      });
    };
    step(0);
  }

  /** Close the file of a deleted key, so that its space is given back. */
  forget(key: string): void {
    const cached = this.#open.get(key);
    if (cached !== undefined) this.#drop(key, cached);
  }

  /** Resolves when every read has ended and every file is closed. */
  async close(): Promise<void> {
    for (const [key, cached] of this.#open) this.#drop(key, cached);
    if (this.#reads > 0)
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
  }

  #take(key: string, path: string): CachedFile {
    let cached = this.#open.get(key);
    if (cached === undefined) {
      cached = { file: this.#files.openSync(path, 'read'), reads: 0, isForgotten: false };
      this.#makeRoom();
    } else this.#open.delete(key);
    this.#open.set(key, cached);
    cached.reads += 1;
    this.#reads += 1;
    return cached;
  }

  #makeRoom(): void {
    for (const [key, cached] of this.#open) {
      if (this.#open.size < this.#limit) return;
      this.#drop(key, cached);
    }
  }

  #drop(key: string, cached: CachedFile): void {
    this.#open.delete(key);
    cached.isForgotten = true;
    if (cached.reads === 0) cached.file.closeSync();
  }

  #release(cached: CachedFile): void {
    cached.reads -= 1;
    this.#reads -= 1;
    if (cached.isForgotten && cached.reads === 0) cached.file.closeSync();
    if (this.#reads === 0) this.#idle?.();
  }
}

function openError(key: string, path: string, error: unknown): DvceError {
  if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR')
    return new DvceError('SEGMENT_MISSING', { name: key }, error);
  return readError(key, path, error);
}

function readError(key: string, path: string, error: unknown): DvceError {
  const table = toDvceError(error, path);
  if (table.code !== 'IO_FAILED') return table;
  return new DvceError(
    'IO_FAILED',
    { what: `a read of ${key}`, where: path, reason: String(table.context['reason']) },
    error,
  );
}

const shortError = (key: string, offset: number, wanted: number, filled: number): DvceError =>
  new DvceError('SEGMENT_DAMAGED', {
    name: key,
    reason: `it ends at ${offset + filled}; ${wanted} bytes were asked for at ${offset}`,
  });
