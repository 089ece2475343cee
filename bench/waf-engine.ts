/**
 * The engine of a volume on a local store whose space is limited and whose puts are counted: what write amplification is
 * measured at. The journal's own bytes are not counted; every byte and object that the store is given is, documents too.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import {
  asNodeId,
  DvceError,
  nodeFileSystem,
  randomUuid,
  silentLogger,
  systemClock,
  systemRandom,
  systemTimers,
} from '../src/base/index.ts';
import {
  createVolume,
  type OpenVolume,
  openDocuments,
  openProcessScope,
  openVolume,
  type SegmentStore,
} from '../src/hlfs/index.ts';
import { openLocalStore } from '../src/stores/index.ts';

export interface Counts {
  putBytes: number;
  objects: number;
  usedBytes: number;
}

/** A store that has `capacityBytes` and says how much of it is free. */
function limited(
  store: SegmentStore,
  capacityBytes: number,
): { store: SegmentStore; counts: Counts } {
  const counts: Counts = { putBytes: 0, objects: 0, usedBytes: 0 };
  const sizes = new Map<string, number>();
  return {
    counts,
    store: {
      location: store.location,
      createScope: (scope) => store.createScope(scope),
      probeScope: (scope) => store.probeScope(scope),
      fence: (scope) => store.fence(scope),
      sweepScope: (scope) => store.sweepScope(scope),
      unfinished: (...given) => store.unfinished(...given),
      async putIfAbsent(scope, key, body) {
        const bytes = body.reduce((sum, part) => sum + part.byteLength, 0);
        if (counts.usedBytes + bytes > capacityBytes)
          throw new DvceError('NO_SPACE', { where: store.location, reason: 'it is limited' });
        const result = await store.putIfAbsent(scope, key, body);
        if (result.outcome !== 'created') return result;
        sizes.set(key, bytes);
        counts.putBytes += bytes;
        counts.objects += 1;
        counts.usedBytes += bytes;
        return result;
      },
      read: (key, offset, target, done) => store.read(key, offset, target, done),
      stat: (key) => store.stat(key),
      list: (prefix, after, limit) => store.list(prefix, after, limit),
      async delete(key) {
        await store.delete(key);
        counts.usedBytes -= sizes.get(key) ?? 0;
        sizes.delete(key);
      },
      deleteDirectory: (prefix) => store.deleteDirectory(prefix),
      space: async () => ({
        freeBytes: Math.max(0, capacityBytes - counts.usedBytes),
        totalBytes: capacityBytes,
      }),
      close: () => store.close(),
    },
  };
}

export interface Engine {
  readonly volume: OpenVolume;
  readonly counts: Counts;
  close(): Promise<void>;
}

/** An empty volume in `directory`, which is empty too. */
export async function startEngine(
  directory: string,
  options: { readonly sizeBytes: number; readonly capacityBytes: number },
): Promise<Engine> {
  const local = await openLocalStore({
    root: join(directory, 'store'),
    files: nodeFileSystem,
    random: systemRandom,
    create: true,
  });
  const { store, counts } = limited(local, options.capacityBytes);
  const journalDirectory = join(directory, 'journals');
  mkdirSync(journalDirectory, { recursive: true });
  const node = asNodeId(randomUuid(systemRandom));
  const documents = openDocuments(store);
  const context = {
    store,
    documents,
    files: nodeFileSystem,
    clock: systemClock,
    timers: systemTimers,
    random: systemRandom,
    logger: silentLogger,
    node,
    scope: await openProcessScope(store, documents, node, systemRandom),
    journalDirectory,
  };
  const made = await createVolume(context, '/bench', {
    sizeBytes: options.sizeBytes,
    blockBytes: 512,
    journalBytes: 512 * 2 ** 20,
  });
  const volume = await openVolume(context, made.id);
  // The engine's timers keep no process alive; blockd's sockets do that.
  const alive = setInterval(() => {}, 60_000);
  return {
    volume,
    counts,
    async close() {
      await volume.close();
      await local.close();
      clearInterval(alive);
    },
  };
}

export interface Request {
  readonly isWrite: boolean;
  readonly offset: number;
  readonly length: number;
}

const origin = { alive: true };

/** Give the volume all requests in order, 32 at a time, and publish what is left. */
export async function replay(
  { volume }: Engine,
  requests: Iterable<Request>,
  content: (length: number) => Buffer,
): Promise<void> {
  let failure: DvceError | null = null;
  let inFlight = 0;
  let wake = (): void => {};
  const ended = (error: DvceError | null): void => {
    failure ??= error;
    inFlight -= 1;
    wake();
  };
  for (const { isWrite, offset, length } of requests) {
    while (inFlight >= 32)
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    if (failure !== null) throw failure;
    inFlight += 1;
    if (isWrite) volume.write(offset, content(length), { fua: false, origin }, ended);
    else volume.read(offset, length, ended);
  }
  while (inFlight > 0)
    await new Promise<void>((resolve) => {
      wake = resolve;
    });
  if (failure !== null) throw failure;
  await volume.publishAll();
}
