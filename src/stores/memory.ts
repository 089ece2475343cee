/**
 * A SegmentStore in the memory of this process: for tests, simulations and volumes that nobody will miss.
 *
 * Invariants: as SegmentStore states. A publish decides in one turn of the event loop (scope there? key free? space left?),
 * which makes it atomic. Bodies are copied in, so that a caller that reuses its buffers changes nothing here.
 */
import { DvceError } from '../base/index.ts';
import type {
  ListEntry,
  PutResult,
  SegmentStore,
  StoreReadDone,
  StoreStat,
} from '../hlfs/index.ts';
import {
  byCodeUnits,
  checkKey,
  checkScope,
  fencedSuffix,
  keyError,
  nameOf,
  pageOf,
  parentOf,
} from './keys.ts';

export interface MemoryStoreOptions {
  /** Space for bodies; unlimited by default. */
  readonly capacityBytes?: number;
}

interface Directory {
  /** True: a directory. */
  readonly entries: Map<string, boolean>;
  /** Names in order, made when first asked for after a change. */
  sorted: string[] | undefined;
}

export function openMemoryStore(options: MemoryStoreOptions = {}): SegmentStore {
  return new MemoryStore(options.capacityBytes ?? 2 ** 50);
}

class MemoryStore implements SegmentStore {
  readonly location = 'memory';
  readonly #capacityBytes: number;
  readonly #bodies = new Map<string, Buffer>();
  readonly #directories = new Map<string, Directory>();
  #usedBytes = 0;

  constructor(capacityBytes: number) {
    this.#capacityBytes = capacityBytes;
  }

  async createScope(scope: string): Promise<void> {
    checkScope(scope);
    if (this.#directories.has(scope) || this.#directories.has(scope + fencedSuffix))
      throw new DvceError('ALREADY_EXISTS', { kind: 'scope', name: scope });
    this.#directory(scope);
  }

  async probeScope(scope: string): Promise<boolean> {
    return this.#directories.has(checkScope(scope));
  }

  async fence(scope: string): Promise<void> {
    checkScope(scope);
    if (this.#directories.has(scope)) this.#removeDirectory(scope);
    this.#directory(scope + fencedSuffix);
  }

  async sweepScope(scope: string): Promise<number> {
    // Uploads are handed over whole, so there never is an unfinished one.
    checkScope(scope);
    return 0;
  }

  async unfinished(scope: string): Promise<number> {
    checkScope(scope);
    return 0;
  }

  async putIfAbsent(scope: string, key: string, body: readonly Uint8Array[]): Promise<PutResult> {
    checkScope(scope);
    checkKey(key);
    const bytes = Buffer.concat(body);
    if (!this.#directories.has(scope)) return { outcome: 'fenced' };
    if (this.#bodies.has(key)) return { outcome: 'exists' };
    if (this.#usedBytes + bytes.byteLength > this.#capacityBytes)
      throw new DvceError('NO_SPACE', {
        where: this.location,
        reason: `${bytes.byteLength} bytes for ${key} do not fit`,
      });
    this.#bodies.set(key, bytes);
    this.#usedBytes += bytes.byteLength;
    this.#enter(key, false);
    return { outcome: 'created', replicas: 1 };
  }

  read(key: string, offset: number, target: Buffer, done: StoreReadDone): void {
    const error = keyError(key) ?? this.#readNow(key, offset, target);
    queueMicrotask(() => done(error));
  }

  #readNow(key: string, offset: number, target: Buffer): DvceError | null {
    const body = this.#bodies.get(key);
    if (body === undefined) return new DvceError('SEGMENT_MISSING', { name: key });
    if (offset < 0 || offset + target.byteLength > body.byteLength)
      return new DvceError('SEGMENT_DAMAGED', {
        name: key,
        reason: `it ends at ${body.byteLength}; ${target.byteLength} bytes were asked for at ${offset}`,
      });
    body.copy(target, 0, offset);
    return null;
  }

  async stat(key: string): Promise<StoreStat | undefined> {
    const body = this.#bodies.get(checkKey(key));
    return body === undefined ? undefined : { lengthBytes: body.byteLength };
  }

  async list(prefix: string, after: string | undefined, limit: number): Promise<ListEntry[]> {
    if (prefix !== '') checkKey(prefix);
    const directory = this.#directories.get(prefix);
    if (directory === undefined) return [];
    directory.sorted ??= [...directory.entries.keys()].sort(byCodeUnits);
    return pageOf(prefix, directory.sorted, after, limit).map((key) => ({
      key,
      isDirectory: directory.entries.get(nameOf(key)) === true,
    }));
  }

  async delete(key: string): Promise<void> {
    const body = this.#bodies.get(checkKey(key));
    if (body === undefined) return;
    this.#bodies.delete(key);
    this.#usedBytes -= body.byteLength;
    this.#leave(key);
  }

  async deleteDirectory(prefix: string): Promise<void> {
    const directory = this.#directories.get(checkKey(prefix));
    if (directory !== undefined && directory.entries.size === 0) this.#removeDirectory(prefix);
  }

  async space(): Promise<{ freeBytes: number; totalBytes: number }> {
    return {
      freeBytes: this.#capacityBytes - this.#usedBytes,
      totalBytes: this.#capacityBytes,
    };
  }

  async close(): Promise<void> {}

  #directory(prefix: string): Directory {
    const found = this.#directories.get(prefix);
    if (found !== undefined) return found;
    const made: Directory = { entries: new Map(), sorted: undefined };
    this.#directories.set(prefix, made);
    if (prefix !== '') this.#enter(prefix, true);
    return made;
  }

  #removeDirectory(prefix: string): void {
    this.#directories.delete(prefix);
    this.#leave(prefix);
  }

  #enter(key: string, isDirectory: boolean): void {
    const parent = this.#directory(parentOf(key));
    parent.entries.set(nameOf(key), isDirectory);
    parent.sorted = undefined;
  }

  #leave(key: string): void {
    const parent = this.#directories.get(parentOf(key));
    parent?.entries.delete(nameOf(key));
    if (parent !== undefined) parent.sorted = undefined;
  }
}
