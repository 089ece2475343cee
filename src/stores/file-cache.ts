/**
 * Open segment files for reading: a bounded set, least recently opened or waited for out first.
 *
 * Invariants: a file is closed once and only when no read of it is under way; `done` is called once for every read. Keys never
 * change their contents, so an open file never goes stale; a deleted one is closed with `forget`. A key is checked when its file is
 * opened. After `close` nothing is opened or read.
 */
import {
  DvceError,
  type FileSystem,
  limits,
  type OpenFile,
  systemCode,
  toDvceError,
} from '../base/index.ts';
import type { StoreReadDone } from '../hlfs/index.ts';
import { checkKey } from './keys.ts';
import type { LocalStoreOptions } from './local-marker.ts';
import { logOf, ReadGate } from './read-gate.ts';

type FileCacheOptions = Pick<LocalStoreOptions, 'files' | 'root' | 'threads'>;

interface CachedFile {
  readonly file: OpenFile;
  reads: number;
  isForgotten: boolean;
}

export class FileCache {
  readonly #files: FileSystem;
  readonly #root: string;
  readonly #limit: number;
  readonly #gate: ReadGate;
  /** In order of last use. */
  readonly #open = new Map<string, CachedFile>();
  #reads = 0;
  #idle: (() => void) | undefined;
  #closed = false;

  constructor({ files, root, threads = 1 }: FileCacheOptions, limit: number) {
    const readsMax = Math.floor((limits.threadPoolThreads - limits.threadPoolSpare) / threads);
    this.#files = files;
    this.#root = root;
    this.#limit = limit;
    this.#gate = new ReadGate(Math.max(2, readsMax));
  }

  /** Fill `target` at once when that needs no disk access; false also when the file cannot be opened. */
  readNow(key: string, offset: number, target: Buffer): boolean {
    const cached = this.#open.get(key) ?? this.#tryOpen(key);
    return cached?.file.readCached?.(target, offset) ?? false;
  }

  #tryOpen(key: string): CachedFile | undefined {
    try {
      return this.#openFile(key);
    } catch {
      return undefined; // `read` opens it again and says what is wrong
    }
  }

  read(key: string, offset: number, target: Buffer, done: StoreReadDone): void {
    if (this.readNow(key, offset, target)) {
      done(null);
      return;
    }
    const path = `${this.#root}/${key}`;
    let cached: CachedFile;
    try {
      cached = this.#take(key);
    } catch (error) {
      queueMicrotask(() => done(openError(key, path, error)));
      return;
    }
    const finish = (error: DvceError | null): void => {
      this.#release(cached);
      this.#gate.leave();
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
    this.#gate.enter(logOf(key), () => step(0));
  }

  /** Close the file of a deleted key, so that its space is given back. */
  forget(key: string): void {
    const cached = this.#open.get(key);
    if (cached !== undefined) this.#drop(key, cached);
  }

  /** Resolves when every read has ended and every file is closed. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const [key, cached] of this.#open) this.#drop(key, cached);
    if (this.#reads > 0)
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
  }

  #take(key: string): CachedFile {
    const cached = this.#open.get(key) ?? this.#openFile(key);
    this.#open.delete(key);
    this.#open.set(key, cached);
    cached.reads += 1;
    this.#reads += 1;
    return cached;
  }

  #openFile(key: string): CachedFile {
    if (this.#closed) {
      const where = `local:${this.#root}`;
      throw new DvceError('STORE_UNAVAILABLE', { where, reason: 'it was closed' });
    }
    const file = this.#files.openSync(`${this.#root}/${checkKey(key)}`, 'read');
    const cached = { file, reads: 0, isForgotten: false };
    this.#makeRoom();
    this.#open.set(key, cached);
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
