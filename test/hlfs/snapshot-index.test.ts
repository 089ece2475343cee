/** Many snapshots on one volume: what one costs does not depend on how many there are, and what is remembered is never wrong. */
import t from 'tap';
import {
  asSnapshotName,
  MiB,
  type SnapshotName,
  seededRandom,
  type VolumeId,
} from '../../src/base/index.ts';
import { observed } from '../../src/blockd/observed-documents.ts';
import {
  commitSet,
  countSnapshots,
  createSnapshotDocument,
  createVolume,
  deleteSnapshot,
  getVolume,
  type HlfsContext,
  listSnapshots,
  newestSnapshot,
  reap,
  requireHead,
  rollbackVolume,
  SnapshotIndex,
  type SnapshotRecord,
  snapshotPage,
  snapshotRecord,
} from '../../src/hlfs/index.ts';
import { ordered } from '../../src/hlfs/snapshot-tree.ts';
import { readRanges, reclaimLog, takeSnapshot, World, watched } from '../support/catalog-world.ts';

/** A process that remembers snapshots, as blockd does, and counts what it asks of the store. */
async function remembering(
  world: World,
  most?: number,
): Promise<{ context: HlfsContext; counted: (run: () => Promise<unknown>) => Promise<number> }> {
  let calls = 0;
  const store = watched(world.store, () => {
    calls += 1;
  });
  const plain = world.through(await world.start(), store);
  const snapshots = new SnapshotIndex(plain, most);
  const documents = observed(plain.documents, (key) => snapshots.changed(key));
  const counted = async (run: () => Promise<unknown>): Promise<number> => {
    const before = calls;
    await run();
    return calls - before;
  };
  return { context: { ...plain, documents, snapshots }, counted };
}

async function take(context: HlfsContext, volume: VolumeId, name: string): Promise<void> {
  const { value: head } = await requireHead(context, volume);
  const position = await countSnapshots(context, head);
  const made = {
    ...{ name, log: head.log, rootSegment: position + 1, checksum: 1 },
    ...{ sizeBytes: MiB, labels: {}, protected: false },
  };
  const follows = await newestSnapshot(context, head);
  await createSnapshotDocument(context, context.scope, volume, made, follows);
}

const nameAt = (at: number): SnapshotName => asSnapshotName(`s${String(at).padStart(6, '0')}`);

interface Costs {
  readonly create: number;
  readonly page: number;
  readonly one: number;
  readonly count: number;
  readonly delete: number;
}

/** Calls to the store, with so many snapshots on the volume. */
async function costsWith(count: number): Promise<Costs> {
  const { context, counted } = await remembering(new World());
  const { id, head } = await createVolume(context, '/v', { sizeBytes: MiB });
  for (let at = 0; at < count; at += 1) await take(context, id, nameAt(at));
  return {
    create: await counted(() => take(context, id, 'new')),
    page: await counted(() => snapshotPage(context, id, undefined, 10)),
    one: await counted(() => snapshotRecord(context, id, nameAt(5))),
    count: await counted(() => countSnapshots(context, head)),
    delete: await counted(() => deleteSnapshot(context, id, nameAt(7))),
  };
}

t.test('taking, showing, listing and deleting one cost the same with many', async (t) => {
  const few = await costsWith(20);
  const many = await costsWith(300);
  t.same(many, few);
  t.ok(few.page < 150, `${few.page} calls for a page of 10`);
  t.equal(few.count, 0);
});

/** All pages, one after the other. */
async function listed(context: HlfsContext, id: VolumeId, limit: number) {
  const found: SnapshotRecord[] = [];
  let after: Parameters<typeof snapshotPage>[2];
  for (;;) {
    const { records, next } = await snapshotPage(context, id, after, limit);
    found.push(...records);
    if (next === null) return found;
    after = next;
  }
}

const byId = (records: readonly SnapshotRecord[]): SnapshotRecord[] =>
  records.toSorted((a, b) => (a.document.id < b.document.id ? -1 : 1));

t.test('what is remembered is what the documents say, after any change', async (t) => {
  for (let seed = 1; seed <= 4; seed += 1) {
    const random = seededRandom(seed);
    const world = new World(seed);
    const { context } = await remembering(world);
    const { id, path } = await createVolume(context, '/v', { sizeBytes: MiB });
    const { snapshots: _, ...plain } = context;
    const names: string[] = [];
    const act = async (step: number): Promise<void> => {
      const chosen = names[random.below(Math.max(1, names.length))];
      const kind = random.below(6);
      if (kind <= 2 || chosen === undefined) {
        await takeSnapshot(context, id, `s${step}`);
        names.push(`s${step}`);
      } else if (kind === 3) {
        await deleteSnapshot(context, id, chosen);
        names.splice(names.indexOf(chosen), 1);
      } else if (kind === 4)
        await rollbackVolume(context, { id, path }, chosen, readRanges, () => undefined);
      else if (random.below(3) === 0) await reap(context, reclaimLog);
    };
    for (let step = 0; step < 40; step += 1) {
      await act(step);
      const full = await listSnapshots(plain, id);
      const pages = await listed(context, id, 1 + random.below(7));
      t.same(byId(pages), byId(full), `seed ${seed}, step ${step}`);
      t.equal(await countSnapshots(context, (await getVolume(context, '/v')).head), full.length);
    }
  }
});

t.test('a page begins behind the one before, whatever went and came meanwhile', async (t) => {
  const { context } = await remembering(new World());
  const { id } = await createVolume(context, '/v', { sizeBytes: MiB });
  for (let at = 0; at < 20; at += 1) await take(context, id, nameAt(at));
  const first = await snapshotPage(context, id, undefined, 5);
  t.same(names(first), [0, 1, 2, 3, 4].map(nameAt));
  // The last one of the page, and the first one of the next.
  await deleteSnapshot(context, id, nameAt(4));
  await deleteSnapshot(context, id, nameAt(5));
  await take(context, id, nameAt(20));
  const second = await snapshotPage(context, id, first.next ?? undefined, 100);
  t.same(
    names(second),
    Array.from({ length: 15 }, (_, i) => nameAt(6 + i)),
  );
  t.equal(second.next, null);
  t.equal(second.records[0]?.parentName, nameAt(3), 'the tree closes over those that went');
});

const names = ({ records }: { readonly records: readonly SnapshotRecord[] }): string[] =>
  records.map(({ document }) => document.name);

t.test('G5 members of a set appear with its document, not before', async (t) => {
  const { context } = await remembering(new World());
  const { id, head } = await createVolume(context, '/v', { sizeBytes: MiB });
  const set = { id: '22222222-2222-4222-8222-222222222222', scope: context.scope };
  const made = {
    ...{ name: 'm', log: head.log, rootSegment: 1, checksum: 1, sizeBytes: MiB },
    ...{ labels: {}, protected: false, set },
  };
  const document = await createSnapshotDocument(context, context.scope, id, made);
  t.equal(await countSnapshots(context, head), 0);
  await commitSet(context, set, [document]);
  t.equal(await countSnapshots(context, head), 1);
});

t.test(
  'N7 a document that cannot be read is an error, and once it can be the list is whole',
  async (t) => {
    const world = new World();
    let isAway = false;
    const store = watched(world.store, (call) => {
      if (isAway && call.includes('/snap/s000003@')) throw new Error('the disk does not answer');
    });
    const plain = world.through(await world.start(), store);
    const snapshots = new SnapshotIndex(plain);
    const context = { ...plain, snapshots };
    const { id, head } = await createVolume(context, '/v', { sizeBytes: MiB });
    for (let at = 0; at < 9; at += 1) await takeSnapshot(plain, id, nameAt(at));
    isAway = true;
    await t.rejects(countSnapshots(context, head), /does not answer/);
    isAway = false;
    t.equal(await countSnapshots(context, head), 9);
  },
);

t.test(
  'many at one position are put in order without looking at each other again and again',
  async (t) => {
    const count = 20_000;
    const all = Array.from({ length: count }, (_, at) => ({
      ...{ id: `id${at}`, name: nameAt(at), log: 'l' as never, state: 'live' as const },
      ...{ volume: 'v' as never, rootSegment: 7, createdAtMs: count - at, protected: false },
      parent: at === 0 ? null : `id${at - 1}`,
    }));
    const shuffled = all.toSorted((a, b) => (a.id < b.id ? -1 : 1));
    t.same(
      ordered(shuffled).map(({ id }) => id),
      all.map(({ id }) => id),
    );
  },
);

t.test('what is remembered is bounded', async (t) => {
  const { context, counted } = await remembering(new World(), 10);
  const one = await createVolume(context, '/one', { sizeBytes: MiB });
  for (let at = 0; at < 20; at += 1) await take(context, one.id, nameAt(at));
  await countSnapshots(context, one.head);
  t.equal(await counted(() => countSnapshots(context, one.head)), 0, 'one alone may have more');
  const other = await createVolume(context, '/other', { sizeBytes: MiB });
  await take(context, other.id, 'a');
  await countSnapshots(context, other.head);
  t.not(await counted(() => countSnapshots(context, one.head)), 0, 'it was forgotten');
});
