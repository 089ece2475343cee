/** The engine as it ships, on the simulated host: clock, timers, disk and store injected, limits small, nothing else changed. */
import {
  asNodeId,
  asSnapshotName,
  type Logger,
  limits,
  randomUuid,
  silentLogger,
} from '../../src/base/index.ts';
import type { NodeContext } from '../../src/blockd/node-context.ts';
import { createSnapshotSet } from '../../src/blockd/snapshot-set.ts';
import { directCompressor } from '../../src/hlfs/compression.ts';
import {
  type BlockCompressor,
  BuildBudget,
  createVolume,
  deleteVolume,
  type HlfsContext,
  listVolumes,
  openDocuments,
  openProcessScope,
  reap,
  reclaimLog,
} from '../../src/hlfs/index.ts';
import { openLocalStore } from '../../src/stores/index.ts';
import { smallReads } from '../support/small-reads.ts';
import { type CutParameters, EngineVolume, notInUse, pathOf } from './engine-volume.ts';
import { FaultyStore, noChances } from './faulty-store.ts';
import { type FlipPlace, flipSomewhere, sampleOf } from './flips.ts';
import { optionsOf, type SimOptions } from './options.ts';
import { sectorBytes } from './oracle.ts';
import { type SegmentMemory, SegmentWatch } from './segment-watch.ts';
import type { Flip, SimProgram, SimTarget, SimTargetMaker, StoreState } from './target.ts';
import type { SimHost } from './world.ts';

const disks = 3;
const node = asNodeId('11111111-1111-4111-8111-111111111111');
const storeRoot = '/data/store';
const journalDirectory = '/data/journals';
const clonePrefix = '/clone-';

export interface EngineOptions {
  readonly logger?: Logger;
  readonly options?: SimOptions;
}

export const engine = ({ logger, options }: EngineOptions = {}): SimTargetMaker => {
  const chosen = options ?? optionsOf(0);
  return {
    name: 'engine',
    sectors: chosen.sizeBytes / sectorBytes,
    options: chosen,
    disks,
    async create(host) {
      await host.files.makeDirectory(journalDirectory);
      await host.files.syncDirectory('/data');
      await host.files.syncDirectory('/');
      const program = new EngineProgram(host, () => {}, chosen, logger);
      await program.start();
      const { blockBytes, journalBytes, sizeBytes } = chosen;
      const compression = chosen.compression === 'zstd' ? 'zstd' : 'none';
      const shape = { sizeBytes, blockBytes, journalBytes, compression } as const;
      await createVolume(program.context, pathOf(0), shape);
    },
    boot: (host, note) => new EngineProgram(host, note, chosen, logger),
  };
};

/** Stamps compress all; every third block shall be as if it did not. */
const partCompressor: BlockCompressor = {
  async pack(blocks, sums) {
    const chosen = sums.flatMap((sum, i) => (sum % 3 === 0 ? [] : [i]));
    const packed = await directCompressor.pack(
      chosen.map((i) => blocks[i] ?? Buffer.alloc(0)),
      chosen.map((i) => sums[i] ?? 0),
    );
    const lengths = blocks.map(() => 0);
    chosen.forEach((i, at) => {
      lengths[i] = packed.lengths[at] ?? 0;
    });
    return { lengths, bytes: packed.bytes };
  },
};

/** By host: what the segment watch remembers over reboots. */
const memories = new WeakMap<SimHost, SegmentMemory>();

class EngineProgram implements SimProgram {
  readonly #host: SimHost;
  readonly #note: (scenario: string) => void;
  readonly #options: SimOptions;
  readonly #logger: Logger;
  readonly #watch: SegmentWatch;
  readonly #volumes: EngineVolume[] = [];
  #context: HlfsContext | undefined;
  #store: FaultyStore | undefined;

  constructor(
    host: SimHost,
    note: (scenario: string) => void,
    options: SimOptions,
    logger: Logger = silentLogger,
  ) {
    this.#host = host;
    this.#note = note;
    this.#options = options;
    this.#logger = logger;
    const memory = memories.get(host) ?? { wasAhead: false };
    memories.set(host, memory);
    this.#watch = new SegmentWatch(note, memory, () => {
      note('a block was overwritten while it was moved');
      if (host.random.below(3) === 0)
        host.crashAt({ io: 1 + host.random.below(4), when: 'before' });
    });
    this.#watch.follow = () => this.#volumes[0]?.log;
    host.log.observe = (io) => {
      if (io.kind === 'dataSync' && this.isJournal(io.path)) this.#watch.journalSynced();
    };
  }

  get context(): HlfsContext {
    if (this.#context === undefined) throw new Error('the process has not started');
    return this.#context;
  }

  async start(): Promise<readonly number[]> {
    await this.#startStore();
    const paths = (await listVolumes(this.context)).map(({ path }) => path);
    // Clones left behind by a crash.
    for (const path of paths)
      if (path.startsWith(clonePrefix)) await deleteVolume(this.context, path, notInUse);
    return Array.from({ length: disks }, (_, number) => number).filter((number) =>
      paths.some((path) => path === pathOf(number)),
    );
  }

  async #startStore(): Promise<void> {
    const { files, scheduler, process } = this.#host;
    const { random } = scheduler;
    const local = await openLocalStore({ root: storeRoot, files, random, create: true });
    const store = new FaultyStore({
      store: this.#watch.wrap(local),
      scheduler,
      process,
      delayMs: 2,
      onFault: ({ kind }, operation) => {
        if (kind === 'noSpace') this.#note('scenario 15: the store is full');
        if (kind === 'bitFlip') this.#note('a bit flipped on its way from the store');
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
      reads: smallReads(),
      builds: new BuildBudget(limits.keptPayloadBytes),
      compressor: partCompressor,
    };
  }

  disk(number: number): SimTarget {
    return this.#volume(number);
  }

  #volume(number: number): EngineVolume {
    const known = this.#volumes[number];
    if (known !== undefined) return known;
    const made = new EngineVolume({
      context: this.context,
      number,
      options: this.#options,
      note: this.#note,
      opened: (other) => this.#volume(other),
    });
    this.#volumes[number] = made;
    return made;
  }

  setStore(state: StoreState): void {
    const store = this.#store;
    if (store === undefined) return;
    if (state === 'late') store.chances = { ...noChances, lateRequest: 40, lateReply: 40 };
    else if (state === 'flaky') store.chances = { ...noChances, bitFlip: 100 };
    else store.chances = noChances;
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

  reap(): Promise<void> {
    return reap(this.context, reclaimLog);
  }

  /** By the coordinator that ships; its calls to the threads of the volumes take time, and may be the last ones. */
  async takeSet(
    numbers: readonly number[],
    name: string,
    steps: number,
    onHold: () => void,
  ): Promise<void> {
    const { scheduler, process } = this.#host;
    const pause = (): Promise<void> =>
      new Promise((resolve) => {
        scheduler.soon(1, resolve, process);
      });
    let calls = 0;
    const call = async (path: string, method: string, cut: CutParameters): Promise<unknown> => {
      calls += 1;
      if (method === 'cut.hold') onHold();
      if (calls > steps) return new Promise(() => {});
      await pause();
      const number = numbers.find((each) => pathOf(each) === path) ?? 0;
      const answer = await this.#volume(number).cut(method, cut);
      await pause();
      return answer;
    };
    const hostedOf = (path: string): unknown => ({
      key: path,
      thread: { call: (method: string, cut: CutParameters) => call(path, method, cut) },
    });
    const volumes = {
      exclusive: (_id: string, task: () => Promise<unknown>) => task(),
      withOpen: (_id: string, path: string, task: (hosted: unknown) => Promise<unknown>) =>
        task(hostedOf(path)),
    };
    // Only this much of it is used by a set.
    const context = { hlfs: this.context, logger: this.#logger, volumes } as unknown as NodeContext;
    const paths = numbers.map(pathOf);
    await createSnapshotSet(context, {
      name: asSnapshotName(name),
      paths,
      labels: { run: randomUuid(this.context.random) },
      protected: false,
    });
  }

  isJournal(filePath: string): boolean {
    return filePath.startsWith(`${journalDirectory}/`);
  }

  journalSample(): Buffer | undefined {
    const bytes = sampleOf(this.#host, journalDirectory);
    if (bytes !== undefined) this.#note('journal sampled');
    return bytes;
  }

  flip(what: 'segment' | 'journal' | 'document'): Flip | undefined {
    const root = what === 'journal' ? journalDirectory : storeRoot;
    const fits: Readonly<Record<typeof what, (path: string) => boolean>> = {
      segment: (path) => path.includes('/seg/'),
      journal: (path) => path.includes('/slot-') || path.endsWith('/state'),
      // One that is still being put together gets another name, under which nobody would put it right.
      document: (path) => !path.includes('/seg/') && !path.endsWith('.tmp'),
    };
    const place: FlipPlace = { root, fits: fits[what] };
    return flipSomewhere(this.#host, place);
  }
}
