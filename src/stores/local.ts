/**
 * A SegmentStore in a directory of this host, the embedded default.
 *
 * Layout below the root (keys are paths):
 *   dvce-store.json                     marker {format, id}; a directory without it is no store
 *   <scope>/<instance>-<n>.tmp          uploads of a writer
 *   <scope>.fenced/                     the scope after it was taken away; its name is used up
 *   <key>                               published segments and documents
 *
 * How a publish keeps the promises of SegmentStore:
 *   1. the directory of the key exists, and its name is durable in its parent, and so on up to the root
 *   2. the body goes into a new file in the scope; written completely, then fdatasync
 *   3. link(2) gives it its name. This is the only decision: EEXIST = somebody has the name; ENOENT of the source = the scope
 *      was renamed away meanwhile (S1). Nothing is ever renamed over a key, so nothing is ever overwritten (B-18)
 *   4. fsync of the key's directory: only now it survives power loss (B-22), and only now the caller hears of it
 *   5. the temporary name is removed; if a crash leaves it behind, `sweepScope` finds it (S8)
 *
 * A process may be killed between 3 and 4; then the name is visible, but not durable. `list` and the answer `exists` therefore
 * sync the directory first: nothing is built on a name that power loss could take back.
 *
 * Several instances (threads, processes) may use one root: all state below is a cache of what is on disk. Times of files are
 * never read (B-01), paths below the root never stored (B-29).
 */
import {
  DvceError,
  dataSync,
  type FileSystem,
  limits,
  type OpenFile,
  systemCode,
  toDvceError,
  writeFully,
} from '../base/index.ts';
import type {
  ListEntry,
  PutResult,
  SegmentStore,
  StoreReadDone,
  StoreStat,
} from '../hlfs/index.ts';
import { entryOf, kindsIn, uploadsIn } from './directories.ts';
import { FileCache } from './file-cache.ts';
import {
  byCodeUnits,
  checkKey,
  checkScope,
  fencedSuffix,
  isOwnName,
  pageOf,
  parentOf,
  temporarySuffix,
} from './keys.ts';
import { type LocalStoreMarker, type LocalStoreOptions, openMarker } from './local-marker.ts';
import { FileReadAhead } from './read-ahead.ts';

export type { LocalStoreOptions } from './local-marker.ts';

export interface LocalStore extends SegmentStore {
  /** UUID of the store; stays when the directory is moved. */
  readonly id: string;
}

/** @throws NOT_FOUND, FORMAT_TOO_NEW, DOCUMENT_DAMAGED (marker), IN_USE (a directory with other contents) */
export async function openLocalStore(options: LocalStoreOptions): Promise<LocalStore> {
  return new DirectoryStore(options, await openMarker(options));
}

class DirectoryStore implements LocalStore {
  readonly location: string;
  readonly id: string;
  readonly #root: string;
  readonly #files: FileSystem;
  readonly #cache: FileCache;
  readonly #ahead: FileReadAhead;
  /** Prefix of this instance's temporary names: another instance never sweeps what is being written here. */
  readonly #instance: string;
  /** Directories that exist with a durable name, as far as this instance knows. */
  readonly #durable = new Set<string>(['']);
  readonly #running = new Set<Promise<unknown>>();
  #uploads = 0;
  #closed = false;

  constructor(options: LocalStoreOptions, marker: LocalStoreMarker) {
    this.location = `local:${options.root}`;
    this.id = marker.id;
    this.#root = options.root;
    this.#files = options.files;
    this.#instance = options.random.bytes(8).toString('hex');
    this.#cache = new FileCache(options, limits.openFilesPerStore);
    this.#ahead = new FileReadAhead(this.#cache);
  }

  createScope(scope: string): Promise<void> {
    checkScope(scope);
    return this.#run(`create the scope ${scope}`, async () => {
      const used = (): DvceError => new DvceError('ALREADY_EXISTS', { kind: 'scope', name: scope });
      if (await this.#exists(scope + fencedSuffix)) throw used();
      await this.#makeDurable(parentOf(scope));
      try {
        await this.#files.makeNewDirectory(this.#path(scope));
      } catch (error) {
        if (systemCode(error) === 'EEXIST') throw used();
        throw error;
      }
      // A fence may have come in between and must win: its mark stays, so looking after making it is enough.
      if (await this.#exists(scope + fencedSuffix)) {
        await this.#files.removeDirectory(this.#path(scope));
        throw used();
      }
      await this.#files.syncDirectory(this.#path(parentOf(scope)));
    });
  }

  probeScope(scope: string): Promise<boolean> {
    checkScope(scope);
    // S4 asks for a mutation: a file is made in the scope and removed again.
    return this.#run(`probe the scope ${scope}`, async () => {
      const path = this.#temporaryPath(scope);
      const file = this.#openTemporary(path);
      if (file === undefined) return false;
      file.closeSync();
      return this.#removeIfThere(path);
    });
  }

  fence(scope: string): Promise<void> {
    checkScope(scope);
    return this.#run(`fence the scope ${scope}`, async () => {
      const parent = parentOf(scope);
      await this.#makeDurable(parent);
      if (!(await this.#renameAway(scope))) {
        // It never was, or is fenced. The mark keeps a late createScope out; one that came just before it is renamed over.
        await this.#makeOne(this.#path(scope + fencedSuffix));
        await this.#renameAway(scope);
      }
      await this.#files.syncDirectory(this.#path(parent));
    });
  }

  sweepScope(scope: string): Promise<number> {
    checkScope(scope);
    return this.#run(`sweep the scope ${scope}`, async () => {
      let count = 0;
      for (const path of await this.#uploadsIn(scope)) count += +(await this.#removeIfThere(path));
      return count;
    });
  }

  unfinished(scope: string): Promise<number> {
    checkScope(scope);
    return this.#run(`look into ${scope}`, () => this.#uploadsIn(scope).then((all) => all.length));
  }

  putIfAbsent(scope: string, key: string, body: readonly Uint8Array[]): Promise<PutResult> {
    checkScope(scope);
    checkKey(key);
    return this.#run(`store ${key}`, () => this.#put(scope, key, body));
  }

  readNow(key: string, offset: number, target: Buffer): boolean {
    return this.#cache.readNow(key, offset, target);
  }

  readAhead(key: string, offset: number, length: number): Promise<void> | undefined {
    return this.#ahead.read(key, offset, length);
  }

  read(key: string, offset: number, target: Buffer, done: StoreReadDone): void {
    this.#cache.read(key, offset, target, done);
  }

  stat(key: string): Promise<StoreStat | undefined> {
    checkKey(key);
    return this.#run(`look at ${key}`, async () => {
      const stat = await this.#files.stat(this.#path(key));
      return stat === undefined || stat.isDirectory ? undefined : { lengthBytes: stat.sizeBytes };
    });
  }

  list(prefix: string, after: string | undefined, limit: number): Promise<ListEntry[]> {
    if (prefix !== '') checkKey(prefix);
    return this.#run(`list ${prefix}`, async () => {
      const kinds = await kindsIn(this.#files, this.#path(prefix));
      const names = [...kinds.keys()].filter((name) => !isOwnName(prefix, name));
      if (names.length === 0) return [];
      // Only an empty directory is ever removed: when it is gone, all that was in it went before.
      if (!(await this.#syncIfThere(prefix))) return [];
      const keys = pageOf(prefix, names.sort(byCodeUnits), after, limit);
      return (
        await Promise.all(keys.map((key) => entryOf(this.#files, key, this.#path(key), kinds)))
      ).flat();
    });
  }

  delete(key: string): Promise<void> {
    checkKey(key);
    return this.#run(`delete ${key}`, async () => {
      const wasThere = await this.#removeIfThere(this.#path(key));
      this.#cache.forget(key); // not before: until it was gone a read may have opened it
      if (wasThere) await this.#syncAbove(key);
    });
  }

  deleteDirectory(prefix: string): Promise<void> {
    checkKey(prefix);
    return this.#run(`remove the directory ${prefix}`, async () => {
      this.#forgetDirectories(prefix);
      try {
        await this.#files.removeDirectory(this.#path(prefix));
      } catch (error) {
        if (['ENOENT', 'ENOTEMPTY', 'EEXIST', 'ENOTDIR'].includes(systemCode(error) ?? '')) return;
        throw error;
      }
      await this.#syncAbove(prefix);
    });
  }

  /** Make a removal durable. A directory that somebody removed meanwhile, empty as it was, is gone with the one above it. */
  async #syncAbove(removed: string): Promise<void> {
    let directory = parentOf(removed);
    while (!(await this.#syncIfThere(directory))) directory = parentOf(directory);
  }

  async #syncIfThere(directory: string): Promise<boolean> {
    try {
      await this.#files.syncDirectory(this.#path(directory));
      return true;
    } catch (error) {
      if (systemCode(error) === 'ENOENT' && directory !== '') return false;
      throw error;
    }
  }

  space(): Promise<{ freeBytes: number; totalBytes: number }> {
    return this.#run('ask for the space left', () => this.#files.space(this.#root));
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.allSettled(this.#running);
    await this.#cache.close();
  }

  async #put(scope: string, key: string, body: readonly Uint8Array[]): Promise<PutResult> {
    const path = this.#temporaryPath(scope);
    const file = this.#openTemporary(path);
    if (file === undefined) return { outcome: 'fenced' };
    try {
      try {
        await writeFully(file, body, 0);
        await dataSync(file);
      } finally {
        file.closeSync();
      }
      return await this.#publish(scope, path, key);
    } finally {
      // Also on errors: a publish that failed gives its space back. In a fenced scope it is gone under this name.
      await this.#discard(path);
    }
  }

  /** A temporary file that cannot be removed must not hide how the publish ended; `sweepScope` finds it later (S8). */
  async #discard(path: string): Promise<void> {
    try {
      await this.#files.remove(path);
    } catch (error) {
      if (systemCode(error) === undefined) throw error;
    }
  }

  async #publish(scope: string, temporary: string, key: string): Promise<PutResult> {
    const directory = parentOf(key);
    for (let attempt = 1; ; attempt += 1) {
      await this.#makeDurable(directory);
      try {
        await this.#files.link(temporary, this.#path(key));
        await this.#files.syncDirectory(this.#path(directory));
        return { outcome: 'created', replicas: 1 };
      } catch (error) {
        const code = systemCode(error);
        if (code === 'EEXIST') {
          await this.#files.syncDirectory(this.#path(directory));
          return { outcome: 'exists' };
        }
        if (code !== 'ENOENT' || attempt === limits.storePublishAttempts) throw error;
        // Either the scope was fenced, or somebody removed the empty directory of the key.
        if (!(await this.#exists(scope))) return { outcome: 'fenced' };
        this.#forgetDirectories(directory);
      }
    }
  }

  /** Make a directory with all its parents and make their names durable, once for each directory. */
  async #makeDurable(directory: string): Promise<void> {
    if (this.#durable.has(directory)) return;
    const parent = parentOf(directory);
    await this.#makeDurable(parent);
    await this.#makeOne(this.#path(directory));
    // Also when it was there: whoever made it may have been killed before this sync.
    await this.#files.syncDirectory(this.#path(parent));
    if (this.#durable.size >= limits.storeDirectoriesKnown) {
      this.#durable.clear();
      this.#durable.add('');
    }
    this.#durable.add(directory);
  }

  async #makeOne(path: string): Promise<void> {
    try {
      await this.#files.makeNewDirectory(path);
    } catch (error) {
      if (systemCode(error) !== 'EEXIST') throw error;
    }
  }

  #forgetDirectories(prefix: string): void {
    for (const known of this.#durable)
      if (known === prefix || known.startsWith(`${prefix}/`) || prefix.startsWith(`${known}/`))
        this.#durable.delete(known);
    this.#durable.add('');
  }

  /** False: there was no such scope. */
  async #renameAway(scope: string): Promise<boolean> {
    try {
      await this.#files.rename(this.#path(scope), this.#path(scope + fencedSuffix));
      return true;
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return false;
      throw error;
    }
  }

  #uploadsIn = (scope: string): Promise<string[]> =>
    uploadsIn(this.#files, this.#path(scope), `${this.#instance}-`);

  /** undefined: the scope is not there, so it was fenced. */
  #openTemporary(path: string): OpenFile | undefined {
    try {
      return this.#files.openSync(path, 'create');
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return undefined;
      throw error;
    }
  }

  #temporaryPath(scope: string): string {
    this.#uploads += 1;
    return this.#path(`${scope}/${this.#instance}-${this.#uploads}${temporarySuffix}`);
  }

  /** False: it was not there. */
  async #removeIfThere(path: string): Promise<boolean> {
    try {
      await this.#files.remove(path);
      return true;
    } catch (error) {
      if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR') return false;
      throw error;
    }
  }

  async #exists(key: string): Promise<boolean> {
    return (await this.#files.stat(this.#path(key))) !== undefined;
  }

  #path(key: string): string {
    return key === '' ? this.#root : `${this.#root}/${key}`;
  }

  /** Every operation passes here: none starts after close, close waits for all (B-31), errors come from the table (B-34). */
  async #run<T>(what: string, operation: () => Promise<T>): Promise<T> {
    if (this.#closed) throw this.#closedError();
    const running = operation();
    this.#running.add(running);
    try {
      return await running;
    } catch (error) {
      throw this.#translate(what, error);
    } finally {
      this.#running.delete(running);
    }
  }

  #translate(what: string, error: unknown): DvceError {
    const table = toDvceError(error, this.location);
    if (table.code !== 'IO_FAILED' || table === error) return table;
    const facts = { where: this.location, reason: String(table.context['reason']) };
    // It may be made writable again: what is to be published waits for that.
    if (systemCode(error) === 'EROFS') return new DvceError('STORE_UNAVAILABLE', facts, error);
    return new DvceError('IO_FAILED', { what, ...facts }, error);
  }

  #closedError(): DvceError {
    return new DvceError('STORE_UNAVAILABLE', { where: this.location, reason: 'it was closed' });
  }
}
