/**
 * A host for the engine under test: one real local store and one journal directory in a temporary directory, and processes
 * that come and go on them. A process sees both through doors that can fail calls, count them and, when the process is
 * killed, do nothing any more: what was in flight ends first, then nothing of it reaches the disk, no timer of it fires.
 *
 * `kill` is kill -9: what was written to files is there afterwards, synced or not. Loss of power is simulated elsewhere
 * (test/sim), where the disk is simulated too.
 */
import { cpSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  asNodeId,
  asSnapshotName,
  type Clock,
  type DvceError,
  type FileSystem,
  limits,
  type NodeId,
  nodeFileSystem,
  type OpenFile,
  type Random,
  randomUuid,
  seededRandom,
  silentLogger,
  type Timer,
  type Timers,
  type VolumeId,
} from '../../src/base/index.ts';
import {
  type BlockReader,
  BuildBudget,
  createVolume,
  type Extent,
  type HlfsContext,
  type OpenOptions,
  openDocuments,
  openProcessScope,
  openVolume,
  type PutResult,
  type SegmentStore,
  type SnapshotDocument,
  type VolumeOptions,
} from '../../src/hlfs/index.ts';
import { openLocalStore } from '../../src/stores/index.ts';
import { asPayload } from './payload.ts';
import { smallReads } from './small-reads.ts';

export type EngineVolume = Awaited<ReturnType<typeof openVolume>>;

/** What a door is asked before a call. Throwing fails the call; a promise delays it (asynchronous calls only). */
export interface Doors {
  /** Before each call of the store. */
  store: (call: string, key: string) => void | Promise<void>;
  /** After each call of the store that went well; throwing makes it a call whose reply was an error. */
  stored: (call: string, key: string) => void | Promise<void>;
  /** A publish: an answer of its own is given instead of asking the store. */
  put: (scope: string, key: string, body: readonly Uint8Array[]) => PutResult | undefined;
  /** Before each call on a file; a number limits the bytes of a write or read. */
  file: (call: string, path: string) => number | undefined;
  /** As `file`, for a data sync, which may be delayed too; a resolved error is its outcome. */
  sync: (path: string) => Error | null | Promise<Error | null>;
}

export const openDoors = (): Doors => ({
  store: () => {},
  stored: () => {},
  put: () => undefined,
  file: () => undefined,
  sync: () => null,
});

export interface Counts {
  readonly store: Map<string, number>;
  readonly file: Map<string, number>;
}

/** Calls of the store that change something in it. */
export const storeMutations = ['createScope', 'fence', 'put', 'delete', 'deleteDirectory'];

/** Timers of one process: they die with it, and a test may let one come early. */
class RigTimers implements Timers {
  readonly #process: Process;
  readonly #waiting = new Set<{
    readonly delayMs: number;
    readonly run: () => void;
    readonly cancel: () => void;
  }>();
  deferred = 0;

  constructor(process: Process) {
    this.#process = process;
  }

  after(delayMs: number, task: () => void): Timer {
    // A waiting timer keeps the test alive, which waits for it too.
    const entry = {
      delayMs,
      run: (): void => {
        clearTimeout(handle);
        if (this.#waiting.delete(entry) && this.#process.isAlive) task();
      },
      cancel: (): void => {
        clearTimeout(handle);
        this.#waiting.delete(entry);
      },
    };
    const handle = setTimeout(entry.run, delayMs * this.#process.timeScale);
    this.#waiting.add(entry);
    return entry;
  }

  defer(task: () => void): void {
    this.deferred += 1;
    setImmediate(() => {
      this.deferred -= 1;
      if (this.#process.isAlive) task();
    });
  }

  /** Let every timer of this delay fire now. @returns how many */
  fire(delayMs: number): number {
    const due = [...this.#waiting].filter((entry) => entry.delayMs === delayMs);
    for (const entry of due) entry.run();
    return due.length;
  }

  stop(): void {
    for (const entry of this.#waiting) entry.cancel();
  }
}

/** One blockd, as far as the engine can tell. */
export class Process {
  isAlive = true;
  /** Timers run this much faster than they ask for (1: real time). */
  timeScale = 1;
  readonly doors: Doors = openDoors();
  readonly counts: Counts = { store: new Map(), file: new Map() };
  readonly timers: RigTimers;
  /** Files that are open. */
  readonly openFiles = new Set<OpenFile>();
  inFlight = 0;
  context!: HlfsContext; // set by Rig.start, before anybody sees the process

  constructor() {
    this.timers = new RigTimers(this);
  }

  count(kind: keyof Counts, call: string): void {
    this.counts[kind].set(call, (this.counts[kind].get(call) ?? 0) + 1);
  }

  counted(kind: keyof Counts, call: string): number {
    return this.counts[kind].get(call) ?? 0;
  }

  /** Sum of all calls that change the store. */
  get mutations(): number {
    return storeMutations.reduce((sum, call) => sum + this.counted('store', call), 0);
  }

  /** Resolves when the process has nothing to do but wait for timers. */
  async quiet(turns = 6): Promise<void> {
    for (let calm = 0; calm < turns; ) {
      await new Promise<void>((resolve) => setImmediate(resolve));
      calm = this.inFlight === 0 && this.timers.deferred === 0 ? calm + 1 : 0;
    }
  }

  /** kill -9. What is in flight ends, nothing else happens. */
  async kill(): Promise<void> {
    this.isAlive = false;
    this.timers.stop();
    await this.quiet();
    for (const file of this.openFiles) file.closeSync();
    this.openFiles.clear();
  }
}

/** Never settles: what a dead process waits for. */
const forever = new Promise<never>(() => {});

function doorFile(process: Process, file: OpenFile): OpenFile {
  const path = file.path;
  const before = (call: string): number => {
    process.count('file', call);
    return (
      (process.isAlive ? process.doors.file(call, path) : undefined) ?? Number.MAX_SAFE_INTEGER
    );
  };
  return {
    path,
    writevSync(buffers, position) {
      const limit = before('write');
      const total = buffers.reduce((sum, buffer) => sum + buffer.byteLength, 0);
      if (!process.isAlive) return total;
      return file.writevSync(
        limit < total ? [Buffer.concat(buffers).subarray(0, limit)] : buffers,
        position,
      );
    },
    async writev(buffers, position) {
      const limit = before('write');
      if (!process.isAlive) return forever;
      process.inFlight += 1;
      const total = buffers.reduce((sum, buffer) => sum + buffer.byteLength, 0);
      const parts = limit < total ? [Buffer.concat(buffers).subarray(0, limit)] : buffers;
      const written = await file.writev(parts, position).finally(() => {
        process.inFlight -= 1;
      });
      return process.isAlive ? written : forever;
    },
    readSync(target, position) {
      const limit = before('read');
      return file.readSync(
        limit < target.byteLength ? target.subarray(0, limit) : target,
        position,
      );
    },
    read(target, position, done) {
      before('read');
      process.inFlight += 1;
      file.read(target, position, (error, bytes) => {
        process.inFlight -= 1;
        if (process.isAlive) done(error, bytes);
      });
    },
    dataSync(done) {
      process.count('file', 'dataSync');
      if (!process.isAlive) return;
      process.inFlight += 1;
      const end = (error: Error | null): void => {
        process.inFlight -= 1;
        if (process.isAlive) done(error);
      };
      Promise.resolve(process.doors.sync(path)).then(
        (failure) => (failure === null && process.isAlive ? file.dataSync(end) : end(failure)),
        end,
      );
    },
    sizeSync: () => file.sizeSync(),
    closeSync() {
      if (process.openFiles.delete(file)) file.closeSync();
    },
  };
}

function doorFiles(process: Process): FileSystem {
  const real = nodeFileSystem;
  const run = async <T>(call: string, path: string, perform: () => Promise<T>): Promise<T> => {
    if (!process.isAlive) return forever;
    process.count('file', call);
    process.doors.file(call, path);
    process.inFlight += 1;
    try {
      return await perform();
    } finally {
      process.inFlight -= 1;
      if (!process.isAlive) await forever;
    }
  };
  return {
    openSync(path, mode) {
      process.count('file', 'open');
      if (process.isAlive) process.doors.file('open', path);
      const file = real.openSync(path, mode);
      process.openFiles.add(file);
      return doorFile(process, file);
    },
    syncDirectory: (path) => run('syncDirectory', path, () => real.syncDirectory(path)),
    makeDirectory: (path) => run('makeDirectory', path, () => real.makeDirectory(path)),
    makeNewDirectory: (path) => run('makeNewDirectory', path, () => real.makeNewDirectory(path)),
    list: (path) => run('list', path, () => real.list(path)),
    link: (source, target) => run('link', target, () => real.link(source, target)),
    rename: (source, target) => run('rename', target, () => real.rename(source, target)),
    remove: (path) => run('remove', path, () => real.remove(path)),
    removeDirectory: (path) => run('removeDirectory', path, () => real.removeDirectory(path)),
    stat: (path) => run('stat', path, () => real.stat(path)),
    space: (path) => run('space', path, () => real.space(path)),
  };
}

function doorStore(process: Process, store: SegmentStore): SegmentStore {
  const run = async <T>(call: string, key: string, perform: () => Promise<T>): Promise<T> => {
    if (!process.isAlive) return forever;
    process.count('store', call);
    process.inFlight += 1;
    try {
      await process.doors.store(call, key);
      const result = await perform();
      await process.doors.stored(call, key);
      return result;
    } finally {
      process.inFlight -= 1;
      if (!process.isAlive) await forever;
    }
  };
  return {
    location: store.location,
    createScope: (scope) => run('createScope', scope, () => store.createScope(scope)),
    probeScope: (scope) => run('probeScope', scope, () => store.probeScope(scope)),
    fence: (scope) => run('fence', scope, () => store.fence(scope)),
    sweepScope: (scope) => run('sweepScope', scope, () => store.sweepScope(scope)),
    unfinished: (scope) => run('unfinished', scope, () => store.unfinished(scope)),
    putIfAbsent: (scope, key, body) =>
      run('put', key, async () => {
        const answer = process.doors.put(scope, key, body);
        return answer ?? store.putIfAbsent(scope, key, body);
      }),
    read(key, offset, target, done) {
      run(
        'read',
        key,
        () =>
          new Promise<void>((resolve, reject) => {
            store.read(key, offset, target, (error) => (error ? reject(error) : resolve()));
          }),
      ).then(
        () => done(null),
        (error: DvceError) => done(error),
      );
    },
    stat: (key) => run('stat', key, () => store.stat(key)),
    list: (prefix, after, limit) => run('list', prefix, () => store.list(prefix, after, limit)),
    delete: (key) => run('delete', key, () => store.delete(key)),
    deleteDirectory: (key) => run('deleteDirectory', key, () => store.deleteDirectory(key)),
    space: () => run('space', '', () => store.space()),
    close: async () => {},
  };
}

export interface RigOptions {
  readonly seed?: number;
  /** Another store than a local one. */
  readonly store?: SegmentStore;
  readonly clock?: Clock;
}

export class Rig {
  readonly directory: string;
  readonly random: Random;
  readonly clock: Clock;
  readonly nodes: NodeId[] = [];
  store: SegmentStore;
  process!: Process; // set by `make`
  readonly #processes: Process[] = [];

  private constructor(directory: string, store: SegmentStore, options: RigOptions) {
    this.directory = directory;
    this.random = seededRandom(options.seed ?? 1);
    this.store = store;
    let wallMs = 1_750_000_000_000;
    this.clock = options.clock ?? {
      wallMs: () => {
        wallMs += 1;
        return wallMs;
      },
      monotonicMs: () => performance.now(),
    };
  }

  static async make(options: RigOptions = {}): Promise<Rig> {
    const directory = mkdtempSync(join(tmpdir(), 'dvce-engine-'));
    const random = seededRandom((options.seed ?? 1) ^ 0x517e);
    const store =
      options.store ??
      (await openLocalStore({
        root: `${directory}/store`,
        files: nodeFileSystem,
        random,
        create: true,
      }));
    const rig = new Rig(directory, store, options);
    await rig.start();
    return rig;
  }

  /** Another host with a copy of this one's disk as it is now. */
  async copy(): Promise<Rig> {
    const directory = mkdtempSync(join(tmpdir(), 'dvce-engine-'));
    cpSync(this.directory, directory, { recursive: true });
    return Rig.at(directory, this.nodes);
  }

  /** A host on directories that are there already. */
  static async at(directory: string, nodes: readonly NodeId[]): Promise<Rig> {
    const random = seededRandom(0xc0);
    const store = await openLocalStore({
      root: `${directory}/store`,
      files: nodeFileSystem,
      random,
      create: false,
    });
    const rig = new Rig(directory, store, { seed: 0xc1 });
    rig.nodes.push(...nodes);
    await rig.start();
    return rig;
  }

  /** A new process on node `node` (0 is the usual one); each node has journals of its own. */
  async start(node = 0): Promise<Process> {
    while (this.nodes.length <= node) this.nodes.push(asNodeId(randomUuid(this.random)));
    const journalDirectory = `${this.directory}/journals-${node}`;
    mkdirSync(journalDirectory, { recursive: true });
    const process = new Process();
    const id = this.nodes[node];
    if (id === undefined) throw new Error('no such node');
    // As blockd does: the scopes of processes before it on this node are fenced.
    const scope = await openProcessScope(this.store, openDocuments(this.store), id, this.random);
    const store = doorStore(process, this.store);
    process.context = {
      store,
      documents: openDocuments(store),
      files: doorFiles(process),
      clock: this.clock,
      timers: process.timers,
      random: this.random,
      logger: silentLogger,
      node: id,
      scope,
      journalDirectory,
      reads: smallReads(),
      builds: new BuildBudget(limits.keptPayloadBytes),
    };
    this.process = process;
    this.#processes.push(process);
    return process;
  }

  get context(): HlfsContext {
    return this.process.context;
  }

  async create(path: string, options: Partial<VolumeOptions> = {}): Promise<VolumeId> {
    const record = await createVolume(this.context, path, {
      sizeBytes: 8 << 20,
      journalBytes: 32 << 20,
      ...options,
    });
    return record.id;
  }

  async open(id: VolumeId, options: OpenOptions = {}): Promise<Disk> {
    return new Disk(await openVolume(this.context, id, options), this.process);
  }

  /** kill -9 and a new process on the same node. */
  async restart(): Promise<Process> {
    await this.process.kill();
    return this.start();
  }

  journalOf(id: VolumeId, node = 0): string {
    return `${this.directory}/journals-${node}/${id}`;
  }

  async end(): Promise<void> {
    for (const process of this.#processes) await process.kill();
    await this.store.close();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

const plain = { fua: false, origin: { alive: true } };

/** Promises over the callbacks of a block device. */
export class Reader<T extends BlockReader = BlockReader> {
  readonly volume: T;

  constructor(volume: T) {
    this.volume = volume;
  }
  get sizeBytes(): number {
    return this.volume.sizeBytes;
  }

  read(offset: number, length: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.volume.read(offset, length, (error, parts, giveBack) => {
        if (error) return reject(error);
        const bytes = parts.map((part) => (typeof part === 'number' ? Buffer.alloc(part) : part));
        // A copy: the engine reuses what it gave. Whoever else looks at it shall notice.
        const copy = Buffer.concat(bytes);
        for (const each of bytes) each.fill(0xee);
        giveBack?.();
        resolve(copy);
      });
    });
  }

  /** Extents of the whole range, asked for as often as needed. */
  async extents(offset: number, length: number): Promise<Extent[]> {
    const all: Extent[] = [];
    for (let at = offset; at < offset + length; ) {
      const some = await new Promise<readonly Extent[]>((resolve, reject) => {
        this.volume.extents(at, offset + length - at, (error, extents) =>
          error ? reject(error) : resolve(extents),
        );
      });
      if (some.length === 0) throw new Error('no progress in block status');
      for (const extent of some) {
        if (extent.lengthBytes <= 0) throw new Error('an empty extent');
        at += extent.lengthBytes;
        all.push(extent);
      }
    }
    return all;
  }
}

/** An open volume. */
export class Disk extends Reader<EngineVolume> {
  readonly process: Process;

  constructor(volume: EngineVolume, process: Process) {
    super(volume);
    this.process = process;
  }

  write(offset: number, bytes: Buffer, options = plain): Promise<void> {
    return new Promise((resolve, reject) => {
      // The engine owns the buffer, and its memory is used again.
      this.volume.write(offset, asPayload(bytes), options, (error) =>
        error ? reject(error) : resolve(),
      );
    });
  }
  trim(offset: number, length: number, options = plain): Promise<void> {
    return new Promise((resolve, reject) => {
      this.volume.trim(offset, length, options, (error) => (error ? reject(error) : resolve()));
    });
  }
  zero(offset: number, length: number, noHole: boolean, options = plain): Promise<void> {
    return new Promise((resolve, reject) => {
      this.volume.writeZeroes(offset, length, { ...options, noHole }, (error) =>
        error ? reject(error) : resolve(),
      );
    });
  }
  flush(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.volume.flush((error) => (error ? reject(error) : resolve()));
    });
  }
  snapshot(name: string): Promise<SnapshotDocument> {
    return this.volume.snapshot(asSnapshotName(name), { labels: {}, protected: false });
  }
  close(): Promise<void> {
    return this.volume.close();
  }
}

/** Bytes that a seed decides; no two calls of one generator give the same. */
export const bytesFrom = (random: Random, length: number): Buffer => {
  const bytes = Buffer.alloc(length, random.bytes(64));
  for (let i = 0; i < Math.min(4, length); i += 1) bytes[i] = random.below(256);
  return bytes;
};
