/**
 * A world for the catalog: one store that survives, processes that come and go on it, and an engine reduced to what the
 * catalog sees of it: segments are small objects with numbers, a root says where the numbers before it live.
 */
import assert from 'node:assert/strict';
import {
  asNodeId,
  DvceError,
  type LogId,
  nodeFileSystem,
  type Random,
  seededRandom,
  silentLogger,
  systemTimers,
} from '../../src/base/index.ts';
import {
  createProcessScope,
  createSnapshotDocument,
  type HlfsContext,
  type LogDocument,
  openDocuments,
  openProcessScope,
  type ReadRanges,
  type ReclaimLog,
  requireHead,
  type SegmentStore,
  type SnapshotDocument,
  segmentKey,
} from '../../src/hlfs/index.ts';
import { openMemoryStore } from '../../src/stores/index.ts';

export const node = asNodeId('11111111-1111-4111-8111-111111111111');

/** Called before every call to the store; throwing there fails the call, waiting delays it. */
export type BeforeCall = (call: string, isMutation: boolean) => void | Promise<void>;

/** A store that asks before each call. */
export function watched(store: SegmentStore, before: BeforeCall): SegmentStore {
  const asked = async <T>(call: string, isMutation: boolean, run: () => Promise<T>): Promise<T> => {
    await before(call, isMutation);
    return run();
  };
  return {
    location: store.location,
    createScope: (scope) => asked(`createScope ${scope}`, true, () => store.createScope(scope)),
    probeScope: (scope) => asked(`probeScope ${scope}`, false, () => store.probeScope(scope)),
    fence: (scope) => asked(`fence ${scope}`, true, () => store.fence(scope)),
    sweepScope: (scope) => asked(`sweepScope ${scope}`, true, () => store.sweepScope(scope)),
    unfinished: (scope) => asked(`unfinished ${scope}`, false, () => store.unfinished(scope)),
    putIfAbsent: (scope, key, body) =>
      asked(`put ${key}`, true, () => store.putIfAbsent(scope, key, body)),
    read(key, offset, target, done) {
      asked(`read ${key}`, false, async () => {}).then(
        () => store.read(key, offset, target, done),
        (error: unknown) => done(error as DvceError),
      );
    },
    stat: (key) => asked(`stat ${key}`, false, () => store.stat(key)),
    list: (prefix, after, limit) =>
      asked(`list ${prefix}`, false, () => store.list(prefix, after, limit)),
    delete: (key) => asked(`delete ${key}`, true, () => store.delete(key)),
    deleteDirectory: (prefix) =>
      asked(`deleteDirectory ${prefix}`, true, () => store.deleteDirectory(prefix)),
    space: () => store.space(),
    close: () => store.close(),
  };
}

/** A process that dies at its n-th mutation (1 = before the first one): that call and every later one fail. */
export function crashingAt(
  store: SegmentStore,
  mutation: number,
): SegmentStore & { readonly hasCrashed: () => boolean } {
  let count = 0;
  const crashing = watched(store, (_call, isMutation) => {
    if (isMutation) count += 1;
    if (count >= mutation) throw new Error('crash');
  });
  return { ...crashing, hasCrashed: () => count >= mutation };
}

/** A store whose n-th mutation fails once, without effect. */
export function failingAt(
  store: SegmentStore,
  mutation: number,
): SegmentStore & { readonly hasFailed: () => boolean } {
  let count = 0;
  const failing = watched(store, (call, isMutation) => {
    if (!isMutation) return;
    count += 1;
    if (count === mutation)
      throw new DvceError('STORE_UNAVAILABLE', { where: 'memory', reason: call });
  });
  return { ...failing, hasFailed: () => count >= mutation };
}

export class World {
  readonly store: SegmentStore = openMemoryStore();
  readonly random: Random;
  #wallMs = 1_700_000_000_000;

  constructor(seed = 1) {
    this.random = seededRandom(seed);
  }

  context(scope: string, store: SegmentStore = this.store): HlfsContext {
    return {
      store,
      documents: openDocuments(store),
      files: nodeFileSystem,
      clock: {
        wallMs: () => {
          this.#wallMs += 1;
          return this.#wallMs;
        },
        monotonicMs: () => this.#wallMs,
      },
      timers: systemTimers,
      random: this.random,
      logger: silentLogger,
      node,
      scope,
      journalDirectory: '/nonexistent/dvce-journals',
    };
  }

  /** Start the process of this node: the scopes of its predecessors are fenced. */
  async start(): Promise<HlfsContext> {
    const scope = await openProcessScope(this.store, openDocuments(this.store), node, this.random);
    return this.context(scope);
  }

  /** Another process of this node beside the first. */
  async helper(store: SegmentStore = this.store): Promise<HlfsContext> {
    return this.context(await createProcessScope(this.store, node, this.random), store);
  }

  /** The same process, seen through a store that may fail or wait. */
  through(context: HlfsContext, store: SegmentStore): HlfsContext {
    return { ...context, store, documents: openDocuments(store) };
  }
}

const checksumOf = (log: LogId, root: number): number =>
  (Number.parseInt(log.slice(0, 6), 16) * 31 + root) >>> 0;

/** Segment numbers that a log has in the store. */
export async function segmentsOf(context: HlfsContext, log: LogId): Promise<number[]> {
  const numbers: number[] = [];
  for (const shard of await context.store.list(`logs/${log}/seg`, undefined, 1000))
    for (const entry of await context.store.list(shard.key, undefined, 1000))
      numbers.push(Number(entry.key.slice(entry.key.lastIndexOf('/') + 1)));
  return numbers.sort((a, b) => a - b);
}

export async function readLogDocument(context: HlfsContext, log: LogId): Promise<LogDocument> {
  const found = await context.documents.read<LogDocument>(`logs/${log}/log`);
  assert(found !== undefined, `log ${log} has a document`);
  return found.value;
}

export const readRanges: ReadRanges = async (context, log, rootSegment) => {
  const start = (await readLogDocument(context, log)).base;
  if (start?.rootSegment === rootSegment)
    return { ranges: start.ranges, checksum: checksumOf(log, rootSegment), sizeBytes: 0 };
  if ((await context.store.stat(segmentKey(log, rootSegment))) === undefined)
    throw new DvceError('SEGMENT_MISSING', { name: segmentKey(log, rootSegment) });
  const { base } = await readLogDocument(context, log);
  const first = (base?.rootSegment ?? 0) + 1;
  return {
    ranges: [...(base?.ranges ?? []), { first, last: rootSegment, log, store: 'main' }],
    checksum: checksumOf(log, rootSegment),
    sizeBytes: 0,
  };
};

export const reclaimLog: ReclaimLog = async (context, log, positions) => {
  const needed = Math.max(0, ...positions);
  const present = await segmentsOf(context, log);
  for (const number of present)
    if (number > needed) await context.store.delete(segmentKey(log, number));
  for (const shard of await context.store.list(`logs/${log}/seg`, undefined, 1000))
    await context.store.deleteDirectory(shard.key);
  return present.every((number) => number > needed);
};

/** Publish one more segment of the volume's current log. @returns its number */
export async function writeSegment(
  context: HlfsContext,
  volume: SnapshotDocument['volume'],
): Promise<number> {
  const { value: head } = await requireHead(context, volume);
  const { base } = await readLogDocument(context, head.log);
  const present = await segmentsOf(context, head.log);
  const number = Math.max(base?.rootSegment ?? 0, ...present) + 1;
  await context.store.putIfAbsent(context.scope, segmentKey(head.log, number), [
    Buffer.from(`${head.log} ${number}`),
  ]);
  return number;
}

/** What the engine does for a snapshot: a segment with a root, then the document. */
export async function takeSnapshot(
  context: HlfsContext,
  volume: SnapshotDocument['volume'],
  name: string,
  options: { protected?: boolean; at?: number } = {},
): Promise<SnapshotDocument> {
  const { value: head } = await requireHead(context, volume);
  const rootSegment = options.at ?? (await writeSegment(context, volume));
  return createSnapshotDocument(context, context.scope, volume, {
    name,
    log: head.log,
    rootSegment,
    checksum: checksumOf(head.log, rootSegment),
    sizeBytes: Number(head.sizeBytes),
    labels: {},
    protected: options.protected ?? false,
  });
}
