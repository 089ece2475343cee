/**
 * One host for hostile tests of the engine: a store in memory that survives, journals in a directory that survives, and
 * processes that are killed without a farewell. A killed process's calls to the store never come back.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import {
  asNodeId,
  type DvceError,
  nodeFileSystem,
  type Random,
  seededRandom,
  silentLogger,
  systemClock,
  systemTimers,
  type VolumeId,
} from '../../src/base/index.ts';
import {
  createVolume,
  type HlfsContext,
  type OpenOptions,
  openDocuments,
  openProcessScope,
  openVolume,
  type SegmentStore,
} from '../../src/hlfs/index.ts';
import { openMemoryStore } from '../../src/stores/index.ts';

export type Gate = (call: string) => Promise<void> | undefined;
type Opened = Awaited<ReturnType<typeof openVolume>>;

const node = asNodeId('11111111-1111-4111-8111-111111111111');
const forever = new Promise<never>(() => {});
const origin = { alive: true };

export class ReviewHost {
  readonly store: SegmentStore = openMemoryStore();
  readonly directory = mkdtempSync('/tmp/dvce-review-');
  readonly random: Random = seededRandom(7);
  /** Awaited before each call to the store of the living process. */
  gate: Gate = () => undefined;
  /** Error of a read of the store, if it is to have one. */
  failRead: (key: string, offset: number) => DvceError | undefined = () => undefined;
  /** Damages what a read of the store brought. */
  alterRead: (key: string, offset: number, target: Buffer) => void = () => {};
  #generation = 0;

  constructor(t: Test) {
    // The engine's timers do not keep a process alive.
    const alive = setInterval(() => {}, 1000);
    t.teardown(() => {
      clearInterval(alive);
      this.kill();
      rmSync(this.directory, { recursive: true, force: true });
    });
  }

  /** kill -9: nothing that the process had under way reaches the store any more. */
  kill(): void {
    this.#generation += 1;
    this.gate = () => undefined;
  }

  async start(): Promise<HlfsContext> {
    this.kill();
    const store = this.#storeOf(this.#generation);
    const documents = openDocuments(store);
    return {
      store,
      documents,
      files: nodeFileSystem,
      clock: systemClock,
      timers: systemTimers,
      random: this.random,
      logger: silentLogger,
      node,
      scope: await openProcessScope(store, documents, node, this.random),
      journalDirectory: join(this.directory, 'journal'),
    };
  }

  #storeOf(generation: number): SegmentStore {
    const { store } = this;
    const asked = async <T>(call: string, run: () => Promise<T>): Promise<T> => {
      if (generation === this.#generation) await this.gate(call);
      if (generation !== this.#generation) return forever;
      const answer = await run();
      return generation === this.#generation ? answer : forever;
    };
    return {
      location: store.location,
      createScope: (scope) => asked(`createScope ${scope}`, () => store.createScope(scope)),
      probeScope: (scope) => asked(`probeScope ${scope}`, () => store.probeScope(scope)),
      fence: (scope) => asked(`fence ${scope}`, () => store.fence(scope)),
      sweepScope: (scope) => asked(`sweepScope ${scope}`, () => store.sweepScope(scope)),
      unfinished: (scope) => asked(`unfinished ${scope}`, () => store.unfinished(scope)),
      putIfAbsent: (scope, key, body) =>
        asked(`put ${key}`, () => store.putIfAbsent(scope, key, body)),
      read: (key, offset, target, done) => {
        if (generation !== this.#generation) return;
        const failure = this.failRead(key, offset);
        if (failure !== undefined) return done(failure);
        store.read(key, offset, target, (error) => {
          this.alterRead(key, offset, target);
          done(error);
        });
      },
      stat: (key) => asked(`stat ${key}`, () => store.stat(key)),
      list: (prefix, after, limit) =>
        asked(`list ${prefix}`, () => store.list(prefix, after, limit)),
      delete: (key) => asked(`delete ${key}`, () => store.delete(key)),
      deleteDirectory: (prefix) =>
        asked(`deleteDirectory ${prefix}`, () => store.deleteDirectory(prefix)),
      space: () => store.space(),
      close: () => store.close(),
    };
  }

  async create(
    context: HlfsContext,
    path = '/v',
    sizeBytes: number = 64 * 2 ** 20,
  ): Promise<VolumeId> {
    const made = await createVolume(context, path, {
      sizeBytes,
      blockBytes: 512,
      journalBytes: 16 * 2 ** 20,
    });
    return made.id;
  }

  /** Journal files of a volume that hold records, as paths. */
  slots(id: VolumeId): string[] {
    const directory = join(this.directory, 'journal', id);
    return readdirSync(directory)
      .filter((name) => name.startsWith('slot-'))
      .map((name) => join(directory, name));
  }

  /** Change every used journal file of a volume. @returns how many were changed */
  alterSlots(id: VolumeId, alter: (bytes: Buffer) => boolean): number {
    let changed = 0;
    for (const path of this.slots(id)) {
      const bytes = readFileSync(path);
      if (bytes.readUInt32LE(0) === 0 || !alter(bytes)) continue;
      writeFileSync(path, bytes);
      changed += 1;
    }
    return changed;
  }
}

export const reopen = (
  context: HlfsContext,
  id: VolumeId,
  options: OpenOptions = {},
): Promise<Opened> => openVolume(context, id, options);

const settle = (run: (done: (error: Error | null) => void) => void): Promise<void> =>
  new Promise((resolve, reject) => run((error) => (error ? reject(error) : resolve())));

export const write = (volume: Opened, offset: number, bytes: Buffer): Promise<void> =>
  settle((done) => volume.write(offset, bytes, { fua: false, origin }, done));

export const flush = (volume: Opened): Promise<void> => settle((done) => volume.flush(done));

export function read(volume: Opened, offset: number, length: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    volume.read(offset, length, (error, parts) => {
      if (error) reject(error);
      else
        resolve(
          Buffer.concat(
            parts.map((part) => (typeof part === 'number' ? Buffer.alloc(part) : part)),
          ),
        );
    });
  });
}

/** A promise that fails when `promise` does not settle in time. */
export async function within<T>(ms: number, promise: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not happen within ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Wait for a condition, looking every few milliseconds. */
export async function until(
  condition: () => Promise<boolean>,
  what: string,
  limitMs = 5000,
): Promise<void> {
  const deadline = performance.now() + limitMs;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`${what} did not come`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export const filled = (value: number, length = 4096): Buffer => Buffer.alloc(length, value);
