import assert from 'node:assert/strict';
import t from 'tap';
import { MiB, type Random, seededRandom, type VolumeId } from '../../src/base/index.ts';
import {
  cloneVolume,
  createVolume,
  deleteSnapshot,
  deleteVolume,
  findSnapshot,
  getVolume,
  type HlfsContext,
  listSnapshots,
  pinSnapshot,
  reap,
  reapVolume,
  rollbackVolume,
  shrinkHead,
} from '../../src/hlfs/index.ts';
import { audit } from '../support/catalog-audit.ts';
import {
  crashingAt,
  readRanges,
  reclaimLog,
  segmentsOf,
  takeSnapshot,
  World,
  writeSegment,
} from '../support/catalog-world.ts';

const free = (): undefined => undefined;
const size = { sizeBytes: 10 * MiB };

async function clone(
  context: HlfsContext,
  from: string,
  snapshot: string,
  to: string,
): Promise<VolumeId> {
  const source = await getVolume(context, from);
  const { value } = await findSnapshot(context, source.id, snapshot);
  return (await cloneVolume(context, source, value, to, {}, readRanges)).id;
}

t.test(
  'B-08 a rollback is one change of the head: a later reader sees it without any write',
  async (t) => {
    const world = new World();
    const first = await world.start();
    const { id, path, head } = await createVolume(first, '/v', size);
    const target = { id, path };
    await takeSnapshot(first, id, 's');
    await writeSegment(first, id);
    await shrinkHead(first, target, 5 * MiB, free);
    await t.rejects(
      rollbackVolume(first, target, 's', readRanges, () => 'it is open'),
      {
        code: 'IN_USE',
        message: /it is open/,
      },
    );
    const rolled = await rollbackVolume(first, target, 's', readRanges, free);
    t.match(rolled, { epoch: '3', scope: null, trimFrom: null, sizeBytes: String(10 * MiB) });
    t.same(rolled.logs, [rolled.log, head.log]);
    const context = await world.start();
    t.same((await getVolume(context, '/v')).head, rolled, 'the same after a restart');
    t.same(await segmentsOf(context, rolled.log), []);
    t.match(await listSnapshots(context, id), [{ document: { name: 's' }, current: true }]);
    await reap(context, reclaimLog);
    t.same(await segmentsOf(context, head.log), [1], 'what was written since is gone');
    await audit(context, { reaped: true });
  },
);

/** A snapshot tree as plain maps: name -> name of the parent. */
class Tree {
  readonly parents = new Map<string, string | null>();
  current: string | null = null;

  pick(random: Random): string {
    return [...this.parents.keys()][random.below(this.parents.size)] ?? '';
  }
  take(name: string): void {
    this.parents.set(name, this.current);
    this.current = name;
  }
  remove(name: string): void {
    const parent = this.parents.get(name) ?? null;
    this.parents.delete(name);
    for (const [child, above] of this.parents) if (above === name) this.parents.set(child, parent);
    if (this.current === name) this.current = parent;
  }
  line(): string[] {
    const line: string[] = [];
    for (let at = this.current; at !== null; at = this.parents.get(at) ?? null) line.push(at);
    return line.sort();
  }
}

/** The tree three times: as listed, as the documents say, as the model says. */
async function assertTree(context: HlfsContext, volume: VolumeId, model: Tree): Promise<void> {
  const records = await listSnapshots(context, volume);
  const names = new Map<string, string>(
    records.map(({ document }) => [document.id, document.name]),
  );
  const nameOf = (id: string | null): string | null => (id === null ? null : (names.get(id) ?? id));
  const expected = Object.fromEntries(model.parents);
  assert.deepEqual(
    Object.fromEntries(records.map((one) => [one.document.name, nameOf(one.parent)])),
    expected,
  );
  assert.deepEqual(
    Object.fromEntries(records.map(({ document }) => [document.name, nameOf(document.parent)])),
    expected,
  );
  const current = records.filter((one) => one.current).map(({ document }) => document.name);
  assert.deepEqual(current.sort(), model.line());
}

t.test('B-09 parents after random take, rollback, delete, reopen equal the model', async (t) => {
  for (let seed = 1; seed <= 15; seed += 1) {
    const random = seededRandom(seed);
    const world = new World(seed);
    let context = await world.start();
    const { id, path } = await createVolume(context, '/v', size);
    const model = new Tree();
    const act = async (step: number): Promise<void> => {
      const kind = random.below(6);
      if (kind <= 2 || model.parents.size === 0) {
        await takeSnapshot(context, id, `s${step}`);
        model.take(`s${step}`);
      } else if (kind === 3) {
        model.current = model.pick(random);
        await rollbackVolume(context, { id, path }, model.current, readRanges, free);
      } else if (kind === 4) {
        const gone = model.pick(random);
        await deleteSnapshot(context, id, gone);
        model.remove(gone);
      } else {
        context = await world.start();
        if (random.below(2) === 0) await reap(context, reclaimLog);
      }
    };
    for (let step = 0; step < 40; step += 1) {
      await act(step);
      await assertTree(context, id, model);
    }
    await reap(context, reclaimLog);
    await audit(context, { reaped: true });
    t.pass(`seed ${seed}`);
  }
});

t.test(
  'B-26 with clones at depth 1 to 5: snapshots are refused, volumes deferred, clones stay whole',
  async (t) => {
    const context = await new World().start();
    const ids = [(await createVolume(context, '/v0', size)).id];
    for (let depth = 1; depth <= 5; depth += 1) {
      await takeSnapshot(context, ids[depth - 1] as VolumeId, 's');
      ids.push(await clone(context, `/v${depth - 1}`, 's', `/v${depth}`));
    }
    await t.rejects(deleteSnapshot(context, ids[0] as VolumeId, 's'), {
      code: 'IN_USE',
      message: /in use: its clone \/v1$/,
    });
    t.match(await listSnapshots(context, ids[4] as VolumeId), [{ clones: [ids[5]] }]);
    for (const depth of [2, 0, 4, 1, 3]) {
      await deleteVolume(context, `/v${depth}`, free);
      await reap(context, reclaimLog);
      await reap(context, reclaimLog);
      await audit(context, { reaped: true });
    }
    t.match((await getVolume(context, '/v5')).head, { origin: { path: '/v4', snapshot: 's' } });
    t.equal((await context.documents.names('volumes')).length, 6, 'their logs are needed');
    await deleteVolume(context, '/v5', free);
    await reap(context, reclaimLog);
    await audit(context, { reaped: true });
    t.same(await context.documents.names('volumes'), [], 'the last clone frees them all');
    t.same(await context.documents.names('logs'), []);
  },
);

t.test('a clone may be larger, not smaller, and has what the source has', async (t) => {
  const context = await new World().start();
  const source = await createVolume(context, '/v', { ...size, blockBytes: 512 });
  const snapshot = await takeSnapshot(context, source.id, 's');
  const make = (path: string, sizeBytes: number): ReturnType<typeof cloneVolume> =>
    cloneVolume(context, source, snapshot, path, { sizeBytes, protected: true }, readRanges);
  await t.rejects(make('/c', 5 * MiB), { code: 'INVALID_SIZE' });
  const { head } = await make('/c', 20 * MiB);
  t.match(head, { sizeBytes: String(20 * MiB), blockBytes: 512, protected: true, epoch: '1' });
  const wrong = { ...snapshot, checksum: 1 };
  await t.rejects(cloneVolume(context, source, wrong, '/d', {}, readRanges), {
    code: 'SEGMENT_DAMAGED',
  });
  await audit(context, { reaped: true });
});

t.test('a snapshot name is used once among all logs of a volume', async (t) => {
  const context = await new World().start();
  const { id, path } = await createVolume(context, '/v', size);
  await takeSnapshot(context, id, 'a');
  await rollbackVolume(context, { id, path }, 'a', readRanges, free);
  await t.rejects(takeSnapshot(context, id, 'a'), { code: 'ALREADY_EXISTS' });
  await deleteSnapshot(context, id, 'a');
  await takeSnapshot(context, id, 'a');
  await deleteSnapshot(context, id, 'a');
  await takeSnapshot(context, id, 'a');
  t.equal((await listSnapshots(context, id)).length, 1);
  await audit(context, { reaped: false });
});

t.test('scenario 10 rollback, write, delete the snapshot, reap: the content stays', async (t) => {
  const context = await new World().start();
  const { id, path, head } = await createVolume(context, '/v', size);
  await takeSnapshot(context, id, 's');
  await writeSegment(context, id);
  await rollbackVolume(context, { id, path }, 's', readRanges, free);
  await writeSegment(context, id);
  await deleteSnapshot(context, id, 's');
  await reap(context, reclaimLog);
  t.same(await segmentsOf(context, head.log), [1], 'the pin of the new log keeps its base');
  await audit(context, { reaped: true });
  await takeSnapshot(context, id, 't');
  await rollbackVolume(context, { id, path }, 't', readRanges, free);
  await rollbackVolume(context, { id, path }, 't', readRanges, free);
  await reap(context, reclaimLog);
  t.equal((await getVolume(context, '/v')).head.logs.length, 3, 'the log between went');
  await audit(context, { reaped: true });
});

t.test('G3 a reader holds its snapshot; its process gone, it holds nothing', async (t) => {
  const world = new World();
  const first = await world.start();
  const { id, path, head } = await createVolume(first, '/v', size);
  await takeSnapshot(first, id, 's');
  const pin = await pinSnapshot(first, { id, path }, 's', readRanges);
  await t.rejects(deleteSnapshot(first, id, 's'), { code: 'IN_USE', message: /a reader/ });
  await reap(first, reclaimLog);
  await t.rejects(deleteSnapshot(first, id, 's'), { code: 'IN_USE' }, 'still held after reaping');
  await pin.release();
  await pin.release();
  await takeSnapshot(first, id, 't');
  await pinSnapshot(first, { id, path }, 't', readRanges);
  const context = await world.start();
  await t.rejects(deleteSnapshot(context, id, 't'), { code: 'IN_USE' });
  await reap(context, reclaimLog);
  await deleteSnapshot(context, id, 't');
  await deleteSnapshot(context, id, 's');
  t.same(await context.documents.names(`logs/${head.log}/pins`), []);
  await audit(context, { reaped: true });
});

t.test(
  'B-09 snapshots at one position, and right after a rollback, keep their order',
  async (t) => {
    const context = await new World().start();
    const { id, path } = await createVolume(context, '/v', size);
    const parents = async (): Promise<Record<string, string | undefined>> => {
      const records = await listSnapshots(context, id);
      const byId = new Map<string | null, string>(
        records.map(({ document }) => [document.id, document.name]),
      );
      return Object.fromEntries(records.map((one) => [one.document.name, byId.get(one.parent)]));
    };
    const { rootSegment: at } = await takeSnapshot(context, id, 'z');
    await takeSnapshot(context, id, 'y', { at });
    await takeSnapshot(context, id, 'x', { at });
    t.same(await parents(), { z: undefined, y: 'z', x: 'y' });
    await rollbackVolume(context, { id, path }, 'y', readRanges, free);
    await takeSnapshot(context, id, 'w', { at });
    t.same(await parents(), { z: undefined, y: 'z', x: 'y', w: 'y' });
    // The log of w never wrote a segment; it stays for its snapshot, and goes with it.
    await rollbackVolume(context, { id, path }, 'w', readRanges, free);
    await reap(context, reclaimLog);
    t.match(await findSnapshot(context, id, 'w'), { value: { state: 'live' } });
    await takeSnapshot(context, id, 'after');
    await deleteSnapshot(context, id, 'w');
    await reap(context, reclaimLog);
    t.equal((await getVolume(context, '/v')).head.logs.length, 2);
    t.match(await parents(), { after: 'x' }, 'nothing tells z, y and x apart once w is gone');
    await audit(context, { reaped: true });
  },
);

t.test(
  'G3 a clone that was just deleted does not hold its snapshot when the reaper may run',
  async (t) => {
    const context = await new World().start();
    const { id } = await createVolume(context, '/v', size);
    await takeSnapshot(context, id, 's');
    await clone(context, '/v', 's', '/c');
    const reapNow = (): Promise<void> => reap(context, reclaimLog);
    await t.rejects(deleteSnapshot(context, id, 's', reapNow), { message: /its clone \/c/ });
    await deleteVolume(context, '/c', free);
    await t.rejects(deleteSnapshot(context, id, 's'), { message: /the deleted volume/ });
    await deleteSnapshot(context, id, 's', reapNow);
    await audit(context, { reaped: true });
  },
);

t.test('N2 one deleted volume is reaped alone, its name included', async (t) => {
  for (let at = 1; ; at += 1) {
    const world = new World(at);
    const first = await world.start();
    const { id } = await createVolume(first, '/v', size);
    const store = crashingAt(world.store, at);
    const died = deleteVolume(world.through(first, store), '/v', free);
    await died.catch(() => undefined);
    const context = await world.start();
    await reapVolume(context, id, reclaimLog);
    await audit(context, { reaped: true });
    if (!store.hasCrashed()) break;
  }
  t.pass();
});
