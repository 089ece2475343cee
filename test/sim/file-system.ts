/**
 * `FileSystem` of one simulated process on a `SimDisk`.
 *
 * Every I/O that changes something passes `#perform`, which counts it, lets faults strike and stops the world at a chosen
 * number: before it, in the middle of a write, or after it but before anybody hears of it. Asynchronous calls take effect
 * after a random time and answer after another one, so that they overtake each other as in a thread pool.
 *
 * When its process is dead, synchronous calls do nothing and say that all went well, asynchronous ones never answer: whatever
 * the rest of that turn of the event loop still does leaves no trace.
 */
import type {
  FileStat,
  FileSystem,
  OpenFile,
  OpenMode,
  ReadDone,
  SyncDone,
} from '../../src/base/index.ts';
import { type DirectoryOperation, Inode, type SimDisk, sectorBytes } from './disk.ts';
import type { Scheduler, SimProcess } from './scheduler.ts';

export type IoKind =
  | 'create'
  | 'write'
  | 'dataSync'
  | 'syncDirectory'
  | 'makeDirectory'
  | 'link'
  | 'rename'
  | 'remove'
  | 'removeDirectory'
  | 'open'
  | 'read'
  | 'list'
  | 'stat';

export interface Io {
  readonly kind: IoKind;
  readonly path: string;
  /** Target of links and renames. */
  readonly target?: string;
  readonly position?: number;
  readonly lengthBytes?: number;
}

export interface Fault {
  readonly matches: (io: Io) => boolean;
  /** How often it strikes; Infinity = for good. */
  times: number;
  readonly effect:
    | { readonly kind: 'error'; readonly code: string }
    /** A write or read that ends after so many bytes. */
    | { readonly kind: 'short'; readonly bytes: number }
    /** A call of this kind takes so much longer. */
    | { readonly kind: 'delay'; readonly delayMs: number };
}

export interface CrashPlan {
  /** Number of the I/O, counted from 1. */
  readonly io: number;
  readonly when: 'before' | 'during' | 'after';
}

/** I/Os of all processes of a host; survives their deaths. */
export class IoLog {
  count = 0;
  readonly entries: Io[] = [];
  /** Keep what was done, for golden traces. */
  isRecording = false;
  readonly faults: Fault[] = [];
  readonly fired = new Map<Fault, number>();
  crashPlan: CrashPlan | undefined;
  /** Told of every I/O that was done. */
  observe: (io: Io) => void = () => {};
  /** A sync reports what went wrong in the time of an earlier process. */
  onLateError: () => void = () => {};
  /** Called when the plan strikes. */
  onCrash: () => void = () => {};

  inject(fault: Fault): void {
    this.faults.push(fault);
  }

  faultFor(io: Io): Fault | undefined {
    const fault = this.faults.find((one) => one.times > 0 && one.matches(io));
    if (fault === undefined) return undefined;
    fault.times -= 1;
    this.fired.set(fault, (this.fired.get(fault) ?? 0) + 1);
    return fault;
  }
}

const asyncDelayMs = 0.2;
const syncDelayMs = 3;

export class SimFileSystem implements FileSystem {
  readonly #scheduler: Scheduler;
  readonly #disk: SimDisk;
  readonly #process: SimProcess;
  readonly #log: IoLog;

  constructor(scheduler: Scheduler, disk: SimDisk, process: SimProcess, log: IoLog) {
    this.#scheduler = scheduler;
    this.#disk = disk;
    this.#process = process;
    this.#log = log;
  }

  openSync(path: string, mode: OpenMode): OpenFile {
    let inode: Inode | undefined;
    if (mode === 'create') {
      inode = new Inode(false);
      const created = inode;
      const place = this.#place(path);
      if (place.inode !== undefined) throw systemError('EEXIST', `open '${path}'`);
      this.#perform({ kind: 'create', path }, () =>
        this.#change({
          kind: 'link',
          directory: place.directory,
          name: place.name,
          inode: created,
        }),
      );
    } else {
      this.#fail({ kind: 'open', path });
      inode = this.#place(path).inode;
      if (inode === undefined) throw systemError('ENOENT', `open '${path}'`);
      if (inode.isDirectory && mode === 'write') throw systemError('EISDIR', `open '${path}'`);
    }
    return new SimFile(path, inode, this.#scheduler, this.#disk, this.#process, {
      perform: (io, effect) => this.#perform(io, effect),
      fail: (io) => this.#fail(io),
      lateError: () => this.#log.onLateError(),
      later: (delayMs, effect) => this.#later(delayMs, effect),
    });
  }

  syncDirectory(path: string): Promise<void> {
    return this.#later(syncDelayMs, () => {
      const directory = this.#directory(path);
      this.#perform({ kind: 'syncDirectory', path }, () => this.#disk.syncDirectory(directory));
    });
  }

  async makeDirectory(path: string): Promise<void> {
    const parent = path.slice(0, path.lastIndexOf('/'));
    if (parent !== '' && (await this.stat(parent)) === undefined) await this.makeDirectory(parent);
    try {
      await this.makeNewDirectory(path);
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error;
    }
  }

  makeNewDirectory(path: string): Promise<void> {
    return this.#later(asyncDelayMs, () => {
      const place = this.#place(path);
      if (place.inode !== undefined) throw systemError('EEXIST', `mkdir '${path}'`);
      this.#perform({ kind: 'makeDirectory', path }, () =>
        this.#change({ ...place, kind: 'link', inode: new Inode(true) }),
      );
    });
  }

  list(path: string): Promise<string[]> {
    return this.#look(asyncDelayMs, () => {
      this.#fail({ kind: 'list', path });
      const names = [...this.#directory(path).entries.keys()];
      // The order of a directory means nothing.
      for (let at = names.length - 1; at > 0; at -= 1) {
        const other = this.#scheduler.random.below(at + 1);
        [names[at], names[other]] = [names[other] ?? '', names[at] ?? ''];
      }
      return names;
    });
  }

  link(source: string, target: string): Promise<void> {
    return this.#later(asyncDelayMs, () => {
      const { inode } = this.#place(source);
      if (inode === undefined) throw systemError('ENOENT', `link '${source}' -> '${target}'`);
      const place = this.#place(target);
      if (place.inode !== undefined) throw systemError('EEXIST', `link '${source}' -> '${target}'`);
      this.#perform({ kind: 'link', path: source, target }, () =>
        this.#change({ kind: 'link', directory: place.directory, name: place.name, inode }),
      );
    });
  }

  rename(source: string, target: string): Promise<void> {
    return this.#later(asyncDelayMs, () => {
      const from = this.#place(source);
      const what = `rename '${source}' -> '${target}'`;
      if (from.inode === undefined) throw systemError('ENOENT', what);
      const to = this.#place(target);
      if (to.inode?.isDirectory && to.inode.entries.size > 0) throw systemError('ENOTEMPTY', what);
      const { inode } = from;
      this.#perform({ kind: 'rename', path: source, target }, () => {
        this.#change({
          kind: 'rename',
          directory: to.directory,
          name: to.name,
          inode,
          source: from.directory,
          sourceName: from.name,
          replaced: to.inode,
        });
      });
    });
  }

  remove(path: string): Promise<void> {
    return this.#later(asyncDelayMs, () => {
      const place = this.#place(path);
      const { inode } = place;
      if (inode === undefined) throw systemError('ENOENT', `unlink '${path}'`);
      if (inode.isDirectory) throw systemError('EISDIR', `unlink '${path}'`);
      this.#perform({ kind: 'remove', path }, () =>
        this.#change({ kind: 'unlink', directory: place.directory, name: place.name, inode }),
      );
    });
  }

  removeDirectory(path: string): Promise<void> {
    return this.#later(asyncDelayMs, () => {
      const place = this.#place(path);
      const { inode } = place;
      if (inode === undefined) throw systemError('ENOENT', `rmdir '${path}'`);
      if (!inode.isDirectory) throw systemError('ENOTDIR', `rmdir '${path}'`);
      if (inode.entries.size > 0) throw systemError('ENOTEMPTY', `rmdir '${path}'`);
      this.#perform({ kind: 'removeDirectory', path }, () =>
        this.#change({ kind: 'unlink', directory: place.directory, name: place.name, inode }),
      );
    });
  }

  stat(path: string): Promise<FileStat | undefined> {
    return this.#look(asyncDelayMs, () => {
      this.#fail({ kind: 'stat', path });
      let inode: Inode | undefined;
      try {
        inode = this.#place(path).inode;
      } catch {
        // A missing parent: the file is missing too.
        return undefined;
      }
      if (inode === undefined) return undefined;
      // B-01: times tell nothing.
      const mtimeMs = this.#scheduler.random.below(2 ** 40);
      return { sizeBytes: inode.sizeBytes, mtimeMs, isDirectory: inode.isDirectory };
    });
  }

  space(): Promise<{ freeBytes: number; totalBytes: number }> {
    return this.#look(asyncDelayMs, () => ({
      freeBytes: this.#disk.capacityBytes - this.#disk.usedBytes,
      totalBytes: this.#disk.capacityBytes,
    }));
  }

  #change(operation: DirectoryOperation): void {
    this.#disk.change(operation);
  }

  /** Do an I/O that changes something, unless a fault or the planned crash comes first. */
  #perform<T>(io: Io, effect: (bytesMax: number) => T): T | undefined {
    if (!this.#process.isAlive) return undefined;
    const log = this.#log;
    log.count += 1;
    if (log.isRecording) log.entries.push(io);
    const plan = log.crashPlan?.io === log.count ? log.crashPlan : undefined;
    if (plan?.when === 'before') {
      log.onCrash();
      return undefined;
    }
    const bytesMax =
      plan?.when === 'during' && io.kind === 'write' ? this.#cut(io) : this.#fail(io);
    const result = effect(bytesMax);
    log.observe(io);
    if (plan !== undefined) log.onCrash();
    return result;
  }

  /** A write that is cut by a crash ends at a sector of the disk. */
  #cut({ position = 0, lengthBytes = 0 }: Io): number {
    const end = position + this.#scheduler.random.below(lengthBytes + 1);
    return Math.max(0, end - (end % sectorBytes) - position);
  }

  /** @returns how many bytes a write or read may do at most */
  #fail(io: Io): number {
    const effect = this.#process.isAlive ? this.#log.faultFor(io)?.effect : undefined;
    if (effect?.kind === 'error') throw systemError(effect.code, `${io.kind} '${io.path}'`);
    return effect?.kind === 'short' ? effect.bytes : Number.MAX_SAFE_INTEGER;
  }

  /** Take effect after a while, answer after another while; never when the process dies in between. */
  #later<T>(delayMs: number, effect: () => T): Promise<T> {
    return new Promise((resolve, reject) => {
      if (!this.#process.isAlive) return;
      const answer = (settle: () => void): void =>
        this.#scheduler.soon(delayMs / 4, settle, this.#process);
      this.#scheduler.soon(
        delayMs,
        () => {
          try {
            const value = effect();
            answer(() => resolve(value));
          } catch (error) {
            answer(() => reject(error));
          }
        },
        this.#process,
      );
    });
  }

  /** As `#later`, for what changes nothing: one event, because what is seen may be late anyway where it is used. */
  #look<T>(delayMs: number, effect: () => T): Promise<T> {
    return new Promise((resolve, reject) => {
      if (!this.#process.isAlive) return;
      const look = (): void => {
        try {
          resolve(effect());
        } catch (error) {
          reject(error);
        }
      };
      this.#scheduler.soon(delayMs, look, this.#process);
    });
  }

  #directory(path: string): Inode {
    const inode = this.#walk(
      path.split('/').filter((part) => part !== ''),
      path,
    );
    if (!inode.isDirectory) throw systemError('ENOTDIR', `'${path}'`);
    return inode;
  }

  #place(path: string): { directory: Inode; name: string; inode: Inode | undefined } {
    const parts = path.split('/').filter((part) => part !== '');
    const name = parts.pop();
    if (name === undefined) return { directory: this.#disk.root, name: '', inode: this.#disk.root };
    const directory = this.#walk(parts, path);
    if (!directory.isDirectory) throw systemError('ENOTDIR', `'${path}'`);
    return { directory, name, inode: directory.entries.get(name) };
  }

  #walk(parts: readonly string[], path: string): Inode {
    let inode = this.#disk.root;
    for (const part of parts) {
      if (!inode.isDirectory) throw systemError('ENOTDIR', `'${path}'`);
      const next = inode.entries.get(part);
      if (next === undefined) throw systemError('ENOENT', `'${path}'`);
      inode = next;
    }
    return inode;
  }
}

interface FileHooks {
  perform<T>(io: Io, effect: (bytesMax: number) => T): T | undefined;
  fail(io: Io): number;
  lateError(): void;
  later<T>(delayMs: number, effect: () => T): Promise<T>;
}

class SimFile implements OpenFile {
  readonly path: string;
  readonly #inode: Inode;
  readonly #scheduler: Scheduler;
  readonly #disk: SimDisk;
  readonly #process: SimProcess;
  readonly #hooks: FileHooks;
  #isOpen = true;

  constructor(
    path: string,
    inode: Inode,
    scheduler: Scheduler,
    disk: SimDisk,
    process: SimProcess,
    hooks: FileHooks,
  ) {
    this.path = path;
    this.#inode = inode;
    this.#scheduler = scheduler;
    this.#disk = disk;
    this.#process = process;
    this.#hooks = hooks;
    disk.open(inode);
  }

  writevSync(buffers: readonly Uint8Array[], position: number): number {
    this.#checkOpen();
    const lengthBytes = buffers.reduce((sum, buffer) => sum + buffer.byteLength, 0);
    const io: Io = { kind: 'write', path: this.path, position, lengthBytes };
    const written = this.#hooks.perform(io, (bytesMax) =>
      this.#disk.write(this.#inode, buffers, position, bytesMax),
    );
    if (written === 0 && lengthBytes > 0 && this.#process.isAlive)
      throw systemError('ENOSPC', `write '${this.path}'`);
    return written ?? lengthBytes;
  }

  writev(buffers: readonly Uint8Array[], position: number): Promise<number> {
    return this.#hooks.later(asyncDelayMs, () => this.writevSync(buffers, position));
  }

  readSync(target: Uint8Array, position: number): number {
    this.#checkOpen();
    if (this.#inode.isDirectory) throw systemError('EISDIR', `read '${this.path}'`);
    const lengthBytes = target.byteLength;
    const bytesMax = this.#hooks.fail({ kind: 'read', path: this.path, position, lengthBytes });
    return this.#disk.read(this.#inode, target.subarray(0, bytesMax), position);
  }

  read(target: Uint8Array, position: number, done: ReadDone): void {
    const look = (): void => {
      let count: number;
      try {
        count = this.readSync(target, position);
      } catch (error) {
        done(asError(error), 0);
        return;
      }
      done(null, count);
    };
    this.#scheduler.soon(asyncDelayMs, look, this.#process);
  }

  dataSync(done: SyncDone): void {
    this.#checkOpen();
    if (!this.#process.isAlive) return;
    const inode = this.#inode;
    const capture = this.#disk.beginSync(inode);
    const finish = (): Error | null => {
      if (inode.hasUnreportedError) {
        inode.hasUnreportedError = false;
        this.#hooks.lateError();
        return systemError('EIO', `fdatasync '${this.path}'`);
      }
      try {
        this.#hooks.perform({ kind: 'dataSync', path: this.path }, () =>
          this.#disk.finishSync(inode, capture),
        );
        return null;
      } catch (error) {
        this.#disk.failSync(inode, capture);
        return asError(error);
      }
    };
    this.#scheduler.soon(
      syncDelayMs,
      () => {
        const error = finish();
        // The error waits in the kernel for the next who syncs, unless this process lives to hear of it.
        if (error !== null) inode.hasUnreportedError = true;
        this.#scheduler.soon(
          syncDelayMs / 4,
          () => {
            if (error !== null) inode.hasUnreportedError = false;
            done(error);
          },
          this.#process,
        );
      },
      this.#process,
    );
  }

  sizeSync(): number {
    this.#checkOpen();
    return this.#inode.sizeBytes;
  }

  closeSync(): void {
    this.#checkOpen();
    this.#isOpen = false;
    if (!this.#process.isAlive) return;
    this.#disk.close(this.#inode);
  }

  #checkOpen(): void {
    if (!this.#isOpen) throw systemError('EBADF', `'${this.path}' is closed`);
  }
}

const asError = (error: unknown): Error =>
  error instanceof Error ? error : new Error(String(error));

export function systemError(code: string, what: string): Error {
  return Object.assign(new Error(`${code}: ${what}`), { code });
}
