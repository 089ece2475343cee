/** The engine as it ships, on the simulated host: clock, timers, disk and store injected, nothing else changed. */
import {
  asNodeId,
  asSnapshotName,
  type DvceError,
  type Logger,
  MiB,
  silentLogger,
  toDvceError,
  type VolumeId,
} from '../../src/base/index.ts';
import {
  type BlockReader,
  checkVolume,
  cloneVolume,
  createVolume,
  deleteSnapshot,
  deleteVolume,
  findSnapshot,
  growHead,
  type HlfsContext,
  listSnapshots,
  listVolumes,
  type OpenVolume,
  openDocuments,
  openProcessScope,
  openSnapshot,
  openVolume,
  readRanges,
  reap,
  reclaimLog,
  requireHead,
  rollbackVolume,
  shrinkHead,
} from '../../src/hlfs/index.ts';
import { openLocalStore } from '../../src/stores/index.ts';
import type { Inode, SimDisk } from './disk.ts';
import { FaultyStore, noChances } from './faulty-store.ts';
import { sectorBytes } from './oracle.ts';
import { type SegmentMemory, SegmentWatch } from './segment-watch.ts';
import type { SimTarget, SimTargetMaker, StoreState } from './target.ts';
import type { SimHost } from './world.ts';

const sizeBytes = 4 * MiB;
const sectors = sizeBytes / sectorBytes;
const path = '/disk';
const node = asNodeId('11111111-1111-4111-8111-111111111111');
const storeRoot = '/data/store';
const journalDirectory = '/data/journals';
const notInUse = (): undefined => undefined;

export interface EngineTargetOptions {
  readonly logger?: Logger;
}

export const engine = (options: EngineTargetOptions = {}): SimTargetMaker => ({
  name: 'engine',
  sectors,
  async create(host) {
    await host.files.makeDirectory(journalDirectory);
    await host.files.syncDirectory('/data');
    await host.files.syncDirectory('/');
    const target = new EngineTarget(host, () => {}, options);
    await target.start();
    const { context } = target;
    await createVolume(context, path, { sizeBytes, blockBytes: 512, journalBytes: 16 * MiB });
  },
  boot: (host, note) => new EngineTarget(host, note, options),
});

/** By host: what the segment watch remembers over reboots. */
const memories = new WeakMap<SimHost, SegmentMemory>();

class EngineTarget implements SimTarget {
  readonly #host: SimHost;
  readonly #note: (scenario: string) => void;
  readonly #logger: Logger;
  readonly #watch: SegmentWatch;
  #context: HlfsContext | undefined;
  #store: FaultyStore | undefined;
  #holds = 0;
  #volume: OpenVolume | undefined;
  #clones = 0;

  constructor(host: SimHost, note: (scenario: string) => void, options: EngineTargetOptions) {
    this.#host = host;
    this.#note = note;
    this.#logger = options.logger ?? silentLogger;
    const memory = memories.get(host) ?? { wasAhead: false };
    memories.set(host, memory);
    this.#watch = new SegmentWatch(note, memory, () => {
      note('a block was overwritten while it was moved');
      if (host.random.below(3) === 0)
        host.crashAt({ io: 1 + host.random.below(4), when: 'before' });
    });
    host.log.observe = (io) => {
      if (io.kind === 'dataSync' && this.isJournal(io.path)) this.#watch.journalSynced();
    };
  }

  get context(): HlfsContext {
    if (this.#context === undefined) throw new Error('the process has not started');
    return this.#context;
  }

  get device(): OpenVolume {
    if (this.#volume === undefined) throw new Error('the volume is not open');
    return this.#volume;
  }

  async start(): Promise<void> {
    const { files, scheduler, process } = this.#host;
    const random = scheduler.random;
    const local = await openLocalStore({ root: storeRoot, files, random, create: true });
    const store = new FaultyStore({
      store: this.#watch.wrap(local),
      scheduler,
      process,
      delayMs: 2,
      onFault: ({ kind }, operation) => {
        if (kind === 'noSpace') this.#note('scenario 15: the store is full');
        if (kind.startsWith('late')) this.#note(`scenario 13: ${kind} of ${operation}`);
      },
    });
    const documents = openDocuments(store);
    this.#store = store;
    this.#context = {
      store,
      documents,
      files,
      clock: scheduler.clock(),
      timers: scheduler.timers(process),
      random,
      logger: this.#logger,
      node,
      scope: await openProcessScope(store, documents, node, random),
      journalDirectory,
    };
  }

  async open(): Promise<void> {
    if (this.#context === undefined) await this.start();
    const { context } = this;
    const { id, head } = await this.#main();
    this.#volume = await openVolume(context, id);
    if (Number(head.sizeBytes) < sizeBytes) await this.#grow();
    // Clones left behind by a crash.
    for (const record of await listVolumes(context))
      if (record.path !== path) await deleteVolume(context, record.path, notInUse);
  }

  async #main(): Promise<{ id: VolumeId; head: { sizeBytes: string } }> {
    for (const record of await listVolumes(this.context)) if (record.path === path) return record;
    throw new Error('the volume is gone');
  }

  async #grow(): Promise<void> {
    await growHead(this.context, { id: this.device.id, path }, sizeBytes);
    this.device.grow(sizeBytes);
  }

  setStore(state: StoreState): void {
    const store = this.#store;
    if (store === undefined) return;
    store.chances = state === 'late' ? { ...noChances, lateRequest: 40, lateReply: 40 } : noChances;
    if (state === 'down') store.plan = () => ({ kind: 'unavailable', when: 'before' });
    else if (state === 'full')
      store.plan = (operation, key) =>
        operation === 'putIfAbsent' && key.includes('/seg/') ? { kind: 'noSpace' } : undefined;
    else store.plan = () => undefined;
  }

  watch(first: number, count: number): void {
    this.#watch.guestWrites(first, count);
  }

  died(ending: 'power loss' | 'kill'): void {
    this.#watch.died(ending);
  }

  publish(): Promise<void> {
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

  reap(): Promise<void> {
    return reap(this.context, reclaimLog);
  }

  readonly snapshots = {
    list: async (): Promise<string[]> => {
      const records = await listSnapshots(this.context, this.device.id);
      return records
        .filter(({ document }) => document.state === 'live')
        .map(({ document }) => document.name);
    },
    create: async (name: string): Promise<void> => {
      await this.device.snapshot(asSnapshotName(name), { labels: {}, protected: false });
    },
    delete: (name: string): Promise<void> => deleteSnapshot(this.context, this.device.id, name),
    read: async (name: string): Promise<Buffer> => {
      const { value } = await findSnapshot(this.context, this.device.id, name);
      const reader = await openSnapshot(this.context, value, 512);
      return readAll(reader);
    },
    clone: (name: string): Promise<Buffer | undefined> => this.#clone(name),
    rollback: async (name: string): Promise<void> => {
      const { id } = await this.#main();
      await rollbackVolume(this.context, { id, path }, name, readRanges, notInUse);
    },
  };

  async #clone(name: string): Promise<Buffer | undefined> {
    const { context } = this;
    const source = { id: this.device.id, path };
    const { value } = await findSnapshot(context, source.id, name);
    this.#clones += 1;
    const clonePath = `/clone-${this.#clones}`;
    const options = { journalBytes: 16 * MiB };
    const record = await cloneVolume(context, source, value, clonePath, options, readRanges);
    const clone = await openVolume(context, record.id);
    const content = await readAll(clone);
    await clone.close();
    await deleteVolume(context, clonePath, notInUse);
    await reap(context, reclaimLog);
    return content;
  }

  async shrinkAndGrow(toBytes: number): Promise<void> {
    const { context } = this;
    const target = { id: this.device.id, path };
    await shrinkHead(context, target, Math.max(MiB, toBytes), notInUse);
    this.#volume = await openVolume(context, target.id);
    await this.#grow();
  }

  async verify(): Promise<string[]> {
    const { id } = this.device;
    const signal = new AbortController().signal;
    const { findings } = await checkVolume(this.context, id, { signal, onProgress: () => {} });
    await requireHead(this.context, id);
    return findings
      .filter(({ severity }) => severity === 'error')
      .map(({ code, object, detail }) => `${code} ${object}: ${detail}`);
  }

  isJournal(filePath: string): boolean {
    return filePath.startsWith(`${journalDirectory}/`);
  }

  /** A few blocks out of the first journal file that has records. */
  journalSample(): Buffer | undefined {
    const files = filesBelow(this.#host.disk, journalDirectory);
    const slots = files.filter(([name]) => name.includes('/slot-'));
    const [, inode] = slots[this.#host.random.below(slots.length)] ?? [];
    if (inode === undefined) return undefined;
    const bytes = Buffer.alloc(8 * sectorBytes * (1 + this.#host.random.below(4)));
    this.#host.disk.read(inode, bytes, 4096 * this.#host.random.below(8));
    this.#note('journal sampled');
    return bytes;
  }
}

function filesBelow(disk: SimDisk, root: string): [string, Inode][] {
  let directory: Inode | undefined = disk.root;
  for (const part of root.split('/').filter((each) => each !== ''))
    directory = directory?.entries.get(part);
  const found: [string, Inode][] = [];
  const walk = (inode: Inode, at: string): void => {
    for (const [name, child] of inode.entries)
      if (child.isDirectory) walk(child, `${at}/${name}`);
      else found.push([`${at}/${name}`, child]);
  };
  if (directory !== undefined) walk(directory, root);
  return found;
}

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
