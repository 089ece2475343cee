/**
 * The door to the disk: everything that dvce keeps in local files goes through these two interfaces, so that a simulated
 * disk can drop, tear and reorder what was not synced, and fail any call.
 *
 * Journal appends and cached reads are synchronous because a 4 KiB write or read of the page cache costs 1 to 4 us that
 * way and 15 to 30 us through the thread pool; whatever waits for the device (data sync, reads of segments) is not.
 */
import * as fs from 'node:fs';
import { promisify } from 'node:util';
import { readPageCache } from './page-cache.ts';

export type ReadDone = (error: Error | null, bytesRead: number) => void;
export type SyncDone = (error: Error | null) => void;

export interface OpenFile {
  readonly path: string;
  /** Write at `position` (bytes). May write less than asked: the caller completes (rule J6). @returns bytes written */
  writevSync(buffers: readonly Uint8Array[], position: number): number;
  /** Write at `position` through the thread pool; may be short. @returns bytes written */
  writev(buffers: readonly Uint8Array[], position: number): Promise<number>;
  /** Read into `target` from `position`. @returns bytes read, less at the end of the file */
  readSync(target: Uint8Array, position: number): number;
  read(target: Uint8Array, position: number, done: ReadDone): void;
  /** Fill `target` if that needs no disk access; false: nothing is known of `target`, read it the other way. May be absent. */
  readCached?(target: Uint8Array, position: number): boolean;
  /** fdatasync. An error is final for everything not yet synced: it is never retried (rule J5). */
  dataSync(done: SyncDone): void;
  sizeSync(): number;
  closeSync(): void;
}

export interface FileStat {
  readonly sizeBytes: number;
  readonly mtimeMs: number;
  readonly isDirectory: boolean;
}

/** Modes: `read`, `write` (existing file, read and write), `create` (fails when it exists, read and write). */
export type OpenMode = 'read' | 'write' | 'create';

export interface DirectoryEntry {
  readonly name: string;
  readonly isDirectory: boolean;
}

export interface FileSystem {
  openSync(path: string, mode: OpenMode): OpenFile;
  /** fsync of a directory: makes names in it durable. */
  syncDirectory(path: string): Promise<void>;
  /** Creates missing parents too; an existing directory is no error. */
  makeDirectory(path: string): Promise<void>;
  /** Create exactly this directory; the parent must exist and the name must be free (EEXIST). */
  makeNewDirectory(path: string): Promise<void>;
  /** Names in the directory, unsorted; ENOENT when it is missing. */
  list(path: string): Promise<string[]>;
  /** The same with what each is. May be absent: `stat` says it of each. */
  entries?(path: string): Promise<readonly DirectoryEntry[]>;
  /** link(2): fails with EEXIST when `target` exists. */
  link(source: string, target: string): Promise<void>;
  rename(source: string, target: string): Promise<void>;
  remove(path: string): Promise<void>;
  removeDirectory(path: string): Promise<void>;
  /** undefined when nothing is there. */
  stat(path: string): Promise<FileStat | undefined>;
  /** Free and total bytes of the file system that holds `path`. */
  space(path: string): Promise<{ freeBytes: number; totalBytes: number }>;
}

const flags: Readonly<Record<OpenMode, string>> = { read: 'r', write: 'r+', create: 'wx+' };

class NodeFile implements OpenFile {
  readonly path: string;
  readonly #fd: number;

  constructor(path: string, fd: number) {
    this.path = path;
    this.#fd = fd;
  }
  writevSync(buffers: readonly Uint8Array[], position: number): number {
    return fs.writevSync(this.#fd, buffers, position);
  }
  writev(buffers: readonly Uint8Array[], position: number): Promise<number> {
    return new Promise((resolve, reject) => {
      fs.writev(this.#fd, buffers, position, (error, written) =>
        error ? reject(error) : resolve(written),
      );
    });
  }
  readSync(target: Uint8Array, position: number): number {
    return fs.readSync(this.#fd, target, 0, target.byteLength, position);
  }
  read(target: Uint8Array, position: number, done: ReadDone): void {
    fs.read(this.#fd, target, 0, target.byteLength, position, done);
  }
  readCached(target: Uint8Array, position: number): boolean {
    return readPageCache(this.#fd, target, position);
  }
  dataSync(done: SyncDone): void {
    fs.fdatasync(this.#fd, done);
  }
  sizeSync(): number {
    return fs.fstatSync(this.#fd).size;
  }
  closeSync(): void {
    fs.closeSync(this.#fd);
  }
}

const fsync = promisify(fs.fsync);

export const nodeFileSystem: FileSystem = {
  // Disks of guests, and documents with what guests are told in secret: for nobody else.
  openSync: (path, mode) => new NodeFile(path, fs.openSync(path, flags[mode], 0o600)),
  async syncDirectory(path) {
    const fd = fs.openSync(path, 'r');
    try {
      await fsync(fd);
    } finally {
      fs.closeSync(fd);
    }
  },
  async makeDirectory(path) {
    await fs.promises.mkdir(path, { recursive: true, mode: 0o750 });
  },
  makeNewDirectory: (path) => fs.promises.mkdir(path, { mode: 0o750 }),
  list: (path) => fs.promises.readdir(path),
  async entries(path) {
    const found = await fs.promises.readdir(path, { withFileTypes: true });
    return Promise.all(
      found.map(async (entry) => ({
        name: entry.name,
        isDirectory:
          entry.isDirectory() ||
          (entry.isSymbolicLink() &&
            (await nodeFileSystem.stat(`${path}/${entry.name}`))?.isDirectory === true),
      })),
    );
  },
  link: (source, target) => fs.promises.link(source, target),
  rename: (source, target) => fs.promises.rename(source, target),
  remove: (path) => fs.promises.unlink(path),
  removeDirectory: (path) => fs.promises.rmdir(path),
  async stat(path) {
    try {
      const stat = await fs.promises.stat(path);
      return { sizeBytes: stat.size, mtimeMs: stat.mtimeMs, isDirectory: stat.isDirectory() };
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
      throw error;
    }
  },
  async space(path) {
    const stat = await fs.promises.statfs(path);
    return { freeBytes: stat.bavail * stat.bsize, totalBytes: stat.blocks * stat.bsize };
  },
};

/** Write all of `buffers` at `position`, completing short writes (rule J6). */
export async function writeFully(
  file: OpenFile,
  buffers: readonly Uint8Array[],
  position: number,
): Promise<void> {
  let rest = buffers.filter((buffer) => buffer.byteLength > 0);
  let at = position;
  while (rest.length > 0) {
    const written = await file.writev(rest.slice(0, vectorsMax), at);
    if (written <= 0) throw new Error(`write of ${file.path} made no progress`);
    at += written;
    rest = unwritten(rest, written);
  }
}

/** The same, synchronously: the journal's way (rule J6). */
export function writeFullySync(
  file: OpenFile,
  buffers: readonly Uint8Array[],
  position: number,
): void {
  let rest = buffers.filter((buffer) => buffer.byteLength > 0);
  let at = position;
  while (rest.length > 0) {
    const written = file.writevSync(rest.slice(0, vectorsMax), at);
    if (written <= 0) throw new Error(`write of ${file.path} made no progress`);
    at += written;
    rest = unwritten(rest, written);
  }
}

/** What is left of `buffers` after `written` bytes of them went out. */
function unwritten(buffers: readonly Uint8Array[], written: number): Uint8Array[] {
  let left = written;
  const next = buffers.findIndex((buffer) => {
    if (left < buffer.byteLength) return true;
    left -= buffer.byteLength;
    return false;
  });
  if (next < 0) return [];
  const rest = buffers.slice(next);
  const first = rest[0];
  if (left > 0 && first !== undefined) rest[0] = first.subarray(left);
  return rest;
}

/** IOV_MAX on Linux: writev takes at most this many buffers. */
export const vectorsMax = 1024;

/** fdatasync as a promise. */
export function dataSync(file: OpenFile): Promise<void> {
  return new Promise((resolve, reject) => {
    file.dataSync((error) => (error ? reject(error) : resolve()));
  });
}
