/** G4, DD-0018: a flattened clone needs nothing of its origin, whatever happens in between. */
// limit: 120 s
import assert from 'node:assert/strict';
import t, { type Test } from 'tap';
import {
  DvceError,
  type LogId,
  limits,
  systemTimers,
  type VolumeId,
} from '../../src/base/index.ts';
import {
  checkVolume,
  cloneVolume,
  deleteSnapshot,
  deleteVolume,
  findSnapshot,
  getVolume,
  openSnapshot,
  readHead,
  readRanges,
  reap,
  reclaimLog,
  requireHead,
  rollbackVolume,
  segmentKey,
  updateVolume,
} from '../../src/hlfs/index.ts';
import { listSegments } from '../../src/hlfs/segments.ts';
import { openMemoryStore } from '../../src/stores/index.ts';
import {
  bytesFrom,
  type Disk,
  type Process,
  Reader,
  Rig,
  type RigOptions,
  storeMutations,
} from '../support/engine-rig.ts';
import { ModelDevice } from './model.ts';

const block = 4096;
const mebibyte = 1 << 20;
const quiet = { signal: new AbortController().signal, onProgress: () => {} };
const unused = (): undefined => undefined;

async function rigFor(test: Test, options: RigOptions = {}): Promise<Rig> {
  const store = openMemoryStore();
  const rig = await Rig.make({ store, ...options });
  test.teardown(() => rig.end());
  return rig;
}

/** /v with content and snapshot s, written on since; /c cloned from it. */
interface Family {
  readonly rig: Rig;
  readonly parent: VolumeId;
  readonly clone: VolumeId;
  /** What /c holds. */
  readonly model: ModelDevice;
}

async function family(rig: Rig, sizeBytes = 4 * mebibyte): Promise<Family> {
  const parent = await rig.create('/v', { sizeBytes, journalBytes: 2 * mebibyte });
  const disk = await rig.open(parent);
  const model = new ModelDevice(sizeBytes);
  const put = async (at: number, length: number): Promise<void> => {
    const bytes = bytesFrom(rig.random, length);
    model.write(at, bytes);
    await disk.write(at, bytes);
  };
  await put(0, sizeBytes / 4);
  await disk.volume.publishAll();
  await put(sizeBytes / 2, 8 * block + 100);
  await disk.zero(sizeBytes - 16 * block, 8 * block, true);
  await disk.snapshot('s');
  await disk.write(0, bytesFrom(rig.random, 32 * block));
  await disk.close();
  const { value } = await findSnapshot(rig.context, parent, 's');
  const source = await getVolume(rig.context, '/v');
  const options = { journalBytes: 2 * mebibyte };
  const clone = await cloneVolume(rig.context, source, value, '/c', options, readRanges);
  return { rig, parent, clone: clone.id, model };
}

const contentOf = async (disk: Reader, { sizeBytes }: ModelDevice): Promise<Buffer> =>
  disk.read(0, sizeBytes);

const modelled = (model: ModelDevice): Buffer => {
  const blocks = Array.from({ length: model.sizeBytes / block }, (_, at) => model.block(at));
  return Buffer.concat(blocks);
};

const isSame = async (disk: Reader, model: ModelDevice): Promise<boolean> =>
  (await contentOf(disk, model)).equals(modelled(model));

async function write(disk: Disk, model: ModelDevice, at: number, bytes: Buffer): Promise<void> {
  model.write(at, bytes);
  await disk.write(at, bytes);
}

/** Delete /v for good; nothing of its logs may be left. */
async function deleteOrigin({ rig, parent }: Pick<Family, 'rig' | 'parent'>): Promise<void> {
  await deleteVolume(rig.context, '/v', unused);
  await reap(rig.context, reclaimLog);
  assert.equal(await readHead(rig.context, parent), undefined, 'the origin is gone');
}

/** Deleting everything returns the store to empty. */
async function assertEmpty({ context }: Rig, paths: readonly string[]): Promise<void> {
  for (const path of paths) await deleteVolume(context, path, unused);
  await reap(context, reclaimLog);
  for (const prefix of ['volumes', 'logs', 'intents'])
    assert.deepEqual(await context.store.list(prefix, undefined, 10), [], prefix);
}

async function isClean(rig: Rig, id: VolumeId): Promise<void> {
  assert.deepEqual((await checkVolume(rig.context, id, quiet)).findings, []);
}

t.test('G4 a flattened clone has no origin, and the origin goes', async (t) => {
  const rig = await rigFor(t);
  const { parent, clone, model } = await family(rig);
  const disk = await rig.open(clone);
  await write(disk, model, 3 * block + 5, bytesFrom(rig.random, 5 * block));
  await disk.volume.publishAll();
  const before = await disk.volume.space();
  t.ok(before.borrowedBytes > 0);
  const { copyBytes, held } = await disk.volume.flattener.plan();
  t.equal(copyBytes, before.borrowedBytes, 'a plan says exactly what is to be copied');
  t.equal(held, null);
  const told: number[] = [];
  const onProgress = (done: number, total: number): void => {
    t.equal(total, copyBytes);
    told.push(done);
  };
  const done = await disk.volume.flattener.run({ signal: quiet.signal, onProgress });
  t.same(done, { movedBytes: copyBytes, held: null });
  t.equal(told.at(-1), copyBytes);
  const after = await disk.volume.space();
  t.equal(after.sharedBytes, 0, 'nothing is shared any more');
  const framed = after.uniqueBytes - after.mappedBytes;
  t.ok(framed > 0 && framed <= 64 * 1024, 'all of it is its own, with the pages of its map');
  t.equal(after.mappedBytes, before.mappedBytes);
  t.equal((await requireHead(rig.context, clone)).value.origin, null);
  await isClean(rig, clone);
  await isClean(rig, parent);
  await deleteOrigin({ rig, parent });
  t.ok(await isSame(disk, model));
  await write(disk, model, 40 * block, bytesFrom(rig.random, block));
  t.same(await disk.volume.flattener.run(quiet), { movedBytes: 0, held: null }, 'again: nothing');
  await disk.flush();
  await rig.restart();
  const again = await rig.open(clone);
  t.ok(await isSame(again, model), 'and after a kill');
  t.same(await again.volume.flattener.plan(), { copyBytes: 0, held: null });
  await isClean(rig, clone);
  await again.snapshot('later');
  await again.close();
  const { value } = await findSnapshot(rig.context, clone, 'later');
  const source = await getVolume(rig.context, '/c');
  const made = await cloneVolume(rig.context, source, value, '/d', {}, readRanges);
  const child = await rig.open(made.id);
  t.ok(await isSame(child, model), 'a clone of it is one like any other');
  await child.volume.flattener.run(quiet);
  await child.close();
  await rollbackVolume(rig.context, source, 'later', readRanges, unused);
  await isClean(rig, clone);
  await isClean(rig, made.id);
  await assertEmpty(rig, ['/c', '/d']);
});

t.test('G1 what guests write while a volume is flattened wins', async (t) => {
  for (const seed of [1, 2, 3, 4]) {
    const rig = await rigFor(t, { seed });
    const { clone, model, parent } = await family(rig);
    const disk = await rig.open(clone);
    let isDone = false;
    // The store is slow, so that there is time between what is read and what is published.
    rig.process.doors.store = async () => {
      await new Promise<void>((resolve) => setImmediate(resolve));
    };
    const running = disk.volume.flattener.run(quiet).finally(() => {
      isDone = true;
    });
    for (let turn = 0; !isDone || turn < 50; turn += 1) {
      const at = rig.random.below(model.sizeBytes - 9 * block);
      const kind = rig.random.below(6);
      if (kind === 0) {
        model.trim(at, 8 * block);
        await disk.trim(at, 8 * block);
      } else if (kind === 1) {
        model.zero(at, 5000);
        await disk.zero(at, 5000, true);
      } else await write(disk, model, at, bytesFrom(rig.random, 1 + rig.random.below(8 * block)));
      if (kind === 5) await disk.volume.publishAll();
    }
    const { held } = await running;
    t.equal(held, null);
    t.ok(await isSame(disk, model), `seed ${seed}`);
    await deleteOrigin({ rig, parent });
    await disk.flush();
    await rig.restart();
    const again = await rig.open(clone);
    t.ok(await isSame(again, model), `seed ${seed} after a kill`);
    await again.close();
    await isClean(rig, clone);
  }
});

/** Kill the process at its n-th change of the store. @returns what settles when it is dead or `work` has ended */
function killedAt(process: Process, at: number, work: Promise<unknown>): Promise<boolean> {
  let count = 0;
  return new Promise((resolve, reject) => {
    process.doors.store = (call) => {
      if (!storeMutations.includes(call)) return;
      count += 1;
      if (count !== at) return;
      process.isAlive = false;
      resolve(true);
      throw new Error('killed');
    };
    work.then(() => resolve(false), reject);
  });
}

t.test('G4 a flatten that is killed at every change of the store can be begun again', async (t) => {
  let at = 1;
  for (let isKilled = true; isKilled; at += 1) {
    const rig = await rigFor(t, { seed: at });
    const { clone, parent, model } = await family(rig, mebibyte);
    const disk = await rig.open(clone);
    await write(disk, model, 9 * block, bytesFrom(rig.random, 3 * block));
    await disk.volume.publishAll();
    isKilled = await killedAt(rig.process, at, disk.volume.flattener.run(quiet));
    // What is next at work finds it, finishes or undoes it, and deletes what may go: never what is needed.
    await rig.restart();
    await reap(rig.context, reclaimLog);
    const after = await rig.open(clone);
    assert(await isSame(after, model), `content after a kill at ${at}`);
    await isClean(rig, clone);
    assert.equal((await after.volume.flattener.run(quiet)).held, null);
    assert.equal((await requireHead(rig.context, clone)).value.origin, null);
    await deleteOrigin({ rig, parent });
    assert(await isSame(after, model), `content without the origin, killed at ${at}`);
    await after.close();
    await isClean(rig, clone);
    await assertEmpty(rig, ['/c']);
    await rig.end();
  }
  t.ok(at > 8, `${at - 2} kills`);
});

t.test('L3 with a damaged newest root the older one needs no origin either', async (t) => {
  for (let roots = 0; roots < 4; roots += 1) {
    const rig = await rigFor(t, { seed: roots });
    const { clone, parent, model } = await family(rig);
    const disk = await rig.open(clone);
    // Killed after so many roots behind the copy; what may go has gone by then.
    let seen = 0;
    const running = disk.volume.flattener.run(quiet);
    await Promise.race([running, killedAfterRoots(rig.process, roots + 1, () => (seen += 1))]);
    await rig.restart();
    await deleteVolume(rig.context, '/v', unused);
    await reap(rig.context, reclaimLog);
    const { log } = (await requireHead(rig.context, clone)).value;
    await damageNewest(rig, log);
    const after = await rig.open(clone);
    t.ok(await isSame(after, model), `${seen} roots`);
    await after.close();
    t.ok(parent);
  }
});

/** Dies when so many segments were put. */
function killedAfterRoots(process: Process, count: number, onPut: () => void): Promise<void> {
  let left = count + 1;
  return new Promise((resolve) => {
    process.doors.store = (call, key) => {
      if (call !== 'put' || !key.includes('/seg/')) return;
      left -= 1;
      onPut();
      if (left > 0) return;
      process.isAlive = false;
      resolve();
      throw new Error('killed');
    };
  });
}

/** A bit of the newest segment's root record flips. */
async function damageNewest(rig: Rig, log: LogId): Promise<void> {
  const numbers = await listSegments(rig.context.store, log);
  const key = segmentKey(log, numbers.at(-1) ?? 0);
  const length = (await rig.store.stat(key))?.lengthBytes ?? 0;
  const bytes = Buffer.alloc(length);
  await new Promise<void>((resolve, reject) => {
    rig.store.read(key, 0, bytes, (error) => (error ? reject(error) : resolve()));
  });
  const at = bytes.readUInt32LE(112);
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  await rig.store.delete(key);
  const scope = `logs/${log}/w/99-${'0'.repeat(32)}`;
  await rig.store.createScope(scope);
  assert.equal((await rig.store.putIfAbsent(scope, key, [bytes])).outcome, 'created');
}

t.test('G4 snapshots from before keep the origin, until the last of them goes', async (t) => {
  const rig = await rigFor(t);
  const { clone, parent, model } = await family(rig);
  const disk = await rig.open(clone);
  await disk.snapshot('a');
  const old = model.copy();
  await write(disk, model, 0, bytesFrom(rig.random, 9 * block));
  await disk.snapshot('b');
  const plan = await disk.volume.flattener.plan();
  t.same(plan.held?.snapshots, ['a', 'b']);
  const { held } = await disk.volume.flattener.run(quiet);
  t.same(held, { roots: false, snapshots: ['a', 'b'], areMore: false, points: false });
  await disk.snapshot('c');
  const head = async () => (await requireHead(rig.context, clone)).value;
  t.equal((await head()).origin?.path, '/v', 'it still has one');
  t.equal((await head()).flattened, (await head()).log);
  await deleteVolume(rig.context, '/v', unused);
  await reap(rig.context, reclaimLog);
  t.not(await readHead(rig.context, parent), undefined, 'what they need stays');
  const { value } = await findSnapshot(rig.context, clone, 'a');
  t.ok(await isSame(new Reader(await openSnapshot(rig.context, value, 4096)), old));
  // A clone of such a snapshot holds what it needs itself.
  const source = await getVolume(rig.context, '/c');
  const child = await cloneVolume(rig.context, source, value, '/d', {}, readRanges);
  await deleteSnapshot(rig.context, clone, 'b');
  await reap(rig.context, reclaimLog);
  t.equal((await head()).origin?.path, '/v');
  await deleteVolume(rig.context, '/d', unused);
  await reap(rig.context, reclaimLog);
  await deleteSnapshot(rig.context, clone, 'a');
  await reap(rig.context, reclaimLog);
  t.equal((await head()).origin, null);
  t.equal((await head()).flattened, undefined);
  t.equal(await readHead(rig.context, parent), undefined, 'the origin went with the last one');
  t.equal(await readHead(rig.context, child.id), undefined);
  t.ok(await isSame(disk, model));
  await disk.close();
  await isClean(rig, clone);
  await assertEmpty(rig, ['/c']);
});

t.test('G4 a clone of a flattened clone keeps what it needs', async (t) => {
  const rig = await rigFor(t);
  const { clone, parent, model } = await family(rig);
  const disk = await rig.open(clone);
  await write(disk, model, 7 * block, bytesFrom(rig.random, 2 * block));
  await disk.snapshot('s');
  const source = await getVolume(rig.context, '/c');
  const { value } = await findSnapshot(rig.context, clone, 's');
  const child = await cloneVolume(rig.context, source, value, '/d', {}, readRanges);
  const childModel = model.copy();
  await disk.volume.flattener.run(quiet);
  await disk.close();
  await deleteVolume(rig.context, '/c', unused);
  await deleteVolume(rig.context, '/v', unused);
  await reap(rig.context, reclaimLog);
  t.not(await readHead(rig.context, parent), undefined, 'the grandchild reads it');
  const opened = await rig.open(child.id);
  t.ok(await isSame(opened, childModel));
  await opened.volume.flattener.run(quiet);
  await reap(rig.context, reclaimLog);
  t.equal(await readHead(rig.context, parent), undefined);
  t.equal(await readHead(rig.context, clone), undefined);
  t.ok(await isSame(opened, childModel));
  await opened.close();
  await assertEmpty(rig, ['/d']);
});

t.test('a flatten is cancelled, goes on, and is refused when it cannot be', async (t) => {
  const rig = await rigFor(t);
  const { clone, model } = await family(rig, 16 * mebibyte);
  const disk = await rig.open(clone);
  const cancel = new AbortController();
  const cancelled = new DvceError('CANCELLED', { what: 'the request' });
  const onProgress = (): void => cancel.abort(cancelled);
  await t.rejects(disk.volume.flattener.run({ signal: cancel.signal, onProgress }), {
    code: 'CANCELLED',
  });
  t.ok(await isSame(disk, model));
  const running = disk.volume.flattener.run(quiet);
  await t.rejects(disk.volume.flattener.run(quiet), { code: 'CONFLICT' });
  await running;
  t.ok(await isSame(disk, model));
  await disk.close();
});

t.test('a volume that is closed while it is flattened closes cleanly', async (t) => {
  const rig = await rigFor(t);
  const { clone, model } = await family(rig, 16 * mebibyte);
  const disk = await rig.open(clone);
  const running = disk.volume.flattener.run(quiet);
  const outcome = running.then(
    () => 'done',
    (error: DvceError) => error.code,
  );
  await new Promise<void>((resolve) => systemTimers.after(3, resolve));
  await disk.close();
  t.equal(await outcome, 'VOLUME_CLOSED');
  const again = await rig.open(clone);
  await again.volume.flattener.run(quiet);
  t.ok(await isSame(again, model));
  await again.close();
  await isClean(rig, clone);
});

t.test('S9 a flatten that the store has no room for is refused, and guests write on', async (t) => {
  const store = openMemoryStore();
  let freeBytes = 10 * limits.storeReserveBytes;
  const small = new Proxy(store, {
    get(target, name) {
      if (name === 'space')
        return async () => ({ freeBytes, totalBytes: 20 * limits.storeReserveBytes });
      const member: unknown = Reflect.get(target, name);
      return typeof member === 'function' ? member.bind(target) : member;
    },
  });
  const rig = await rigFor(t, { store: small });
  const { clone, model } = await family(rig);
  const disk = await rig.open(clone);
  freeBytes = limits.storeReserveBytes + limits.cleanUrgentBytes;
  await t.rejects(disk.volume.flattener.run(quiet), { code: 'NO_SPACE' });
  await write(disk, model, 0, bytesFrom(rig.random, block));
  await disk.volume.publishAll();
  freeBytes = 10 * limits.storeReserveBytes;
  t.equal((await disk.volume.flattener.run(quiet)).held, null);
  t.ok(await isSame(disk, model));
  await disk.close();
});

t.test('DD-0013 points in time from before keep the origin', async (t) => {
  const rig = await rigFor(t);
  const { clone, parent } = await family(rig);
  await updateVolume(rig.context, '/c', { retainMs: 3_600_000 });
  const disk = await rig.open(clone);
  await disk.write(0, bytesFrom(rig.random, block));
  await disk.flush();
  await disk.volume.publishAll();
  const { held } = await disk.volume.flattener.run(quiet);
  t.equal(held?.points, true);
  await deleteVolume(rig.context, '/v', unused);
  await reap(rig.context, reclaimLog);
  t.not(await readHead(rig.context, parent), undefined);
  await updateVolume(rig.context, '/c', { retainMs: null });
  disk.volume.retain(null);
  await disk.volume.publishAll();
  await reap(rig.context, reclaimLog);
  t.equal(await readHead(rig.context, parent), undefined);
  t.equal((await requireHead(rig.context, clone)).value.origin, null);
  await disk.close();
});
