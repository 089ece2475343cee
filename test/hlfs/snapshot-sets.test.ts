/** G5: snapshots of several volumes at one instant: the hold of one volume, and how the set comes to exist. */
import assert from 'node:assert/strict';
import t from 'tap';
import { asSnapshotName, limits, MiB, randomUuid } from '../../src/base/index.ts';
import {
  commitSet,
  createSnapshotDocument,
  createVolume,
  deleteSnapshot,
  dropMember,
  findSnapshot,
  getVolume,
  type HlfsContext,
  listSnapshots,
  openSnapshot,
  reap,
  requireHead,
  type SetReference,
  type SnapshotDocument,
} from '../../src/hlfs/index.ts';
import { crashingAt, reclaimLog, World, writeSegment } from '../support/catalog-world.ts';
import { filled, flush, ReviewHost, read, reopen, within, write } from '../support/review-host.ts';

const options = { labels: {}, protected: false };
const name = asSnapshotName('s');

t.test('G5 while held nothing is acknowledged; the mark lies before all that waits', async (t) => {
  const host = new ReviewHost(t);
  const context = await host.start();
  const id = await host.create(context);
  const volume = await reopen(context, id);
  await write(volume, 0, filled(1));
  volume.cuts.hold('a');
  let isAcknowledged = false;
  const waiting = write(volume, 0, filled(2)).then(() => {
    isAcknowledged = true;
  });
  await within(1000, flush(volume), 'a flush of what was acknowledged');
  t.same(await read(volume, 0, 4096), filled(1), 'reads go on');
  t.notOk(isAcknowledged);
  t.throws(() => volume.cuts.hold('b'), { code: 'CONFLICT' }, 'one at a time');
  t.throws(() => volume.cuts.mark('b'), { code: 'CONFLICT' });
  volume.cuts.mark('a');
  t.notOk(isAcknowledged);
  t.ok(volume.cuts.release('a'));
  await within(1000, waiting, 'the write that was held');
  const document = await volume.cuts.documentOfCut('a', name, options);
  const snapshot = await openSnapshot(context, document, 512);
  t.same(await read(snapshot as typeof volume, 0, 4096), filled(1));
  t.same(await read(volume, 0, 4096), filled(2));
  t.notOk(volume.cuts.release('a'), 'it is over');
  volume.cuts.hold('c');
  volume.cuts.drop('c');
  await within(1000, write(volume, 0, filled(3)), 'a write after a set that was given up');
  await volume.close();
});

t.test('G5 a hold ends by itself, and says that it is broken', async (t) => {
  const host = new ReviewHost(t);
  const context = await host.start();
  const id = await host.create(context);
  const volume = await reopen(context, id);
  const startMs = context.clock.monotonicMs();
  volume.cuts.hold('a');
  await within(limits.holdMs + 2000, write(volume, 0, filled(1)), 'a held write');
  t.ok(context.clock.monotonicMs() - startMs >= limits.holdMs - 5);
  t.throws(() => volume.cuts.mark('a'), { code: 'CONFLICT' });
  t.notOk(volume.cuts.release('a'));
  t.strictSame(await listSnapshots(context, id), []);
  await volume.close();
});

t.test(
  'G5 after a stall of the event loop the hold is broken though its timer has not run',
  async (t) => {
    const host = new ReviewHost(t);
    let skippedMs = 0;
    const real = await host.start();
    const { clock } = real;
    const context: HlfsContext = {
      ...real,
      clock: {
        wallMs: () => clock.wallMs(),
        monotonicMs: () => clock.monotonicMs() + skippedMs,
      },
    };
    const id = await host.create(context);
    const volume = await reopen(context, id);
    volume.cuts.hold('a');
    skippedMs += 5000;
    t.throws(() => volume.cuts.mark('a'), { code: 'CONFLICT' });
    t.notOk(volume.cuts.release('a'));
    volume.cuts.hold('b');
    volume.cuts.mark('b');
    skippedMs += 5000;
    t.notOk(volume.cuts.release('b'), 'marked, but held for too long');
    await within(1000, write(volume, 0, filled(1)), 'a write');
    await volume.close();
  },
);

/** Two volumes, each with a member of the set that is written but not decided. */
async function twoMembers(context: HlfsContext, set: SetReference): Promise<SnapshotDocument[]> {
  const made: SnapshotDocument[] = [];
  for (const path of ['/p/a', '/q/b']) {
    const { id } = await getVolume(context, path);
    const { value: head } = await requireHead(context, id);
    const document = await createSnapshotDocument(context, context.scope, id, {
      name: 's',
      log: head.log,
      rootSegment: await writeSegment(context, id),
      checksum: 1,
      sizeBytes: Number(head.sizeBytes),
      ...options,
      set,
    });
    made.push(document);
  }
  return made;
}

const newSet = (context: HlfsContext): SetReference => ({
  id: randomUuid(context.random),
  scope: context.scope,
});

async function prepared(context: HlfsContext): Promise<void> {
  for (const path of ['/p/a', '/q/b']) await createVolume(context, path, { sizeBytes: MiB });
}

/** What anybody sees: the names of the snapshots of both volumes. */
async function seen(context: HlfsContext): Promise<string> {
  const names: string[] = [];
  for (const path of ['/p/a', '/q/b']) {
    const { id } = await getVolume(context, path);
    const listed = await listSnapshots(context, id);
    names.push(listed.map(({ document }) => document.name).join());
    const found = await findSnapshot(context, id, 's').then(
      ({ value }) => value.state,
      (error: { code: string }) => error.code,
    );
    assert.equal(found, listed.length > 0 ? 'live' : 'NOT_FOUND', 'list and find agree');
  }
  return names.join('+');
}

t.test('G5 a crash at every mutation: the snapshots of a set exist all or none', async (t) => {
  const outcomes = new Set<string>();
  let at = 1;
  for (let isOver = false; !isOver; at += 1) {
    const world = new World(at);
    const first = await world.start();
    await prepared(first);
    const store = crashingAt(world.store, at);
    const through = world.through(first, store);
    const set = newSet(through);
    const isDone = await twoMembers(through, set)
      .then((members) => commitSet(through, set, members))
      .then(
        () => true,
        () => false,
      );
    const second = await world.start();
    const before = await seen(second);
    assert(before === '+' || before === 's+s', `after a crash at ${at}: ${before}`);
    if (isDone) assert.equal(before, 's+s', 'what was reported as done is there');
    outcomes.add(before);
    const repairing = crashingAt(world.store, 1 + world.random.below(6));
    await reap(world.through(second, repairing), reclaimLog).catch(() => undefined);
    const third = await world.start();
    assert.equal(await seen(third), before, 'repairing changes nothing that is seen');
    await reap(third, reclaimLog);
    assert.equal(await seen(third), before);
    for (const id of await third.documents.names('sets'))
      assert.equal(await third.documents.read(`sets/${id}`), undefined, 'no set is left over');
    for (const path of ['/p/a', '/q/b']) {
      const { id } = await getVolume(third, path);
      if (before === 's+s') await deleteSnapshot(third, id, 's');
      else await t.rejects(deleteSnapshot(third, id, 's'), { code: 'NOT_FOUND' });
    }
    isOver = !store.hasCrashed();
  }
  t.strictSame([...outcomes].sort(), ['+', 's+s'], `both were seen in ${at - 1} crashes`);
});

t.test(
  'G5 an undecided member is seen by nobody, and stays while its process may still decide',
  async (t) => {
    const world = new World(1);
    const context = await world.start();
    await prepared(context);
    const set = newSet(context);
    const members = await twoMembers(context, set);
    t.equal(await seen(context), '+');
    await reap(context, reclaimLog);
    const { id } = await getVolume(context, '/p/a');
    await t.rejects(deleteSnapshot(context, id, 's'), { code: 'NOT_FOUND' });
    await commitSet(context, set, members);
    t.equal(await seen(context), 's+s', 'the reaper left them alone');

    for (const path of ['/p/a', '/q/b'])
      await deleteSnapshot(context, (await getVolume(context, path)).id, 's');
    const other = newSet(context);
    for (const member of await twoMembers(context, other)) await dropMember(context, member, other);
    t.equal(await seen(context), '+');
  },
);
