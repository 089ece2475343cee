/** Positions of a log with many snapshots: none is ever missing, and not all documents are read each time. */
import t from 'tap';
import { asLogId, asSnapshotName, type LogId, type VolumeId } from '../../src/base/index.ts';
import { pinKey, readHead } from '../../src/hlfs/catalog-documents.ts';
import { HeldPositions } from '../../src/hlfs/held-positions.ts';
import type { HlfsContext } from '../../src/hlfs/index.ts';
import { deleteSnapshot } from '../../src/hlfs/snapshot-deletion.ts';
import { createSnapshotDocument } from '../../src/hlfs/snapshots.ts';
import { openMemoryStore } from '../../src/stores/index.ts';
import { Rig } from '../support/engine-rig.ts';

const count = 80;

interface World {
  readonly rig: Rig;
  readonly id: VolumeId;
  readonly log: LogId;
  readonly context: HlfsContext;
  readonly held: HeldPositions;
  make(name: string, position: number): Promise<void>;
}

/** A volume with snapshots at 10, 20, ...; each look at the clock takes 10 ms. */
async function worldOf(rig: Rig): Promise<World> {
  const id = await rig.create('/v');
  const head = await readHead(rig.context, id);
  const log = asLogId(head?.value.log ?? '');
  let nowMs = 0;
  const clock = {
    wallMs: () => rig.clock.wallMs(),
    monotonicMs: () => {
      nowMs += 10;
      return nowMs;
    },
  };
  const context = { ...rig.context, clock };
  const held = new HeldPositions(context, log);
  const make = async (name: string, position: number): Promise<void> => {
    const facts = { name, log, rootSegment: position, checksum: 1, sizeBytes: 4096 };
    const made = { ...facts, labels: {}, protected: false };
    const newest = held.newestBefore(position);
    const follows = newest === undefined ? null : { log, name: asSnapshotName(newest) };
    await createSnapshotDocument(context, context.scope, id, made, follows);
  };
  for (let at = 1; at <= count; at += 1) {
    await make(`s${at}`, at * 10);
    held.made(`s${at}`, at * 10);
  }
  return { rig, id, log, context, held, make };
}

/** The answer once there is one: the documents of many are read while nobody waits. */
async function positionsOf(held: HeldPositions): Promise<readonly number[]> {
  for (;;) {
    const positions = await held.read();
    if (positions !== null) return positions;
    await new Promise((resolve) => setImmediate(resolve));
  }
}

const all = Array.from({ length: count }, (_, i) => (i + 1) * 10);

t.test('G2 positions of many snapshots are remembered, and none is missing', async (t) => {
  const rig = await Rig.make({ store: openMemoryStore() });
  t.teardown(() => rig.end());
  const { id, log, context, held, make } = await worldOf(rig);
  const readsOf = async (): Promise<[readonly number[], number]> => {
    const before = rig.process.counted('store', 'read');
    const positions = await positionsOf(held);
    return [positions, rig.process.counted('store', 'read') - before];
  };
  t.equal(await held.read(), null, 'not known yet: nothing may go');
  const [first, firstReads] = await readsOf();
  t.same(first, all, 'the first answer');
  t.ok(firstReads >= count, `${firstReads} reads`);
  const [second, secondReads] = await readsOf();
  t.same(second, all, 'the second one');
  t.ok(secondReads < 5, `${secondReads} reads`);

  held.forget('lost-reply');
  t.same(await positionsOf(held), all);
  await make('lost-reply', 5001);
  t.ok(
    (await positionsOf(held)).includes(5001),
    'one of which the writer does not know whether it is there',
  );

  await deleteSnapshot(context, id, 's7');
  await make('s7', 5002);
  held.made('s7', 5002);
  t.ok((await positionsOf(held)).includes(5002), 'a name that is used again');

  await deleteSnapshot(context, id, 's8');
  await held.read();
  held.forget('s8');
  await held.read();
  await make('s8', 5003);
  held.forget('s8');
  t.ok((await positionsOf(held)).includes(5003), 'and one of which the outcome was not known');

  const pin = { format: 1, who: 'x', kind: 'fork', volume: id, snapshot: id, cut: 77 };
  await context.documents.create(context.scope, pinKey(log, 'x'), { ...pin, createdAtMs: 0 });
  t.ok((await positionsOf(held)).includes(77), 'a pin, at once');

  await deleteSnapshot(context, id, 's9');
  for (let at = 0; at < 200; at += 1) context.clock.monotonicMs();
  await positionsOf(held);
  await held.settled();
  t.notOk((await positionsOf(held)).includes(90), 'a deleted one goes in the end');
});

t.test('G2 a name that is used again while all are read has its new position', async (t) => {
  const rig = await Rig.make({ store: openMemoryStore() });
  t.teardown(() => rig.end());
  const { id, context, held, make } = await worldOf(rig);
  // The read of the last document waits, after that of the first.
  const met = Promise.withResolvers<void>();
  const released = Promise.withResolvers<void>();
  let isHeld = false;
  rig.process.doors.store = (call, key) => {
    if (call !== 'read' || !key.includes('/s9@/') || isHeld) return;
    isHeld = true;
    met.resolve();
    return released.promise;
  };
  const reading = held.read();
  await met.promise;
  await deleteSnapshot(context, id, 's1');
  await make('s1', 9001);
  held.made('s1', 9001);
  released.resolve();
  t.equal(await reading, null);
  t.ok((await positionsOf(held)).includes(9001));
  t.equal(held.newestBefore(10_000), 's1');
});
