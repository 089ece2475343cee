/**
 * A crash at every mutation of the store, of every operation; then again at a mutation of the repair. Afterwards the
 * operation took place whole or not at all, and the reaper leaves nothing over.
 */
import assert from 'node:assert/strict';
import t from 'tap';
import { MiB, type VolumeId } from '../../src/base/index.ts';
import {
  cloneVolume,
  createVolume,
  deleteSnapshot,
  deleteVolume,
  discardVolume,
  findSnapshot,
  getVolume,
  type HeadDocument,
  type HlfsContext,
  listTrash,
  pinSnapshot,
  promoteVolume,
  reap,
  renameVolume,
  restoreVolume,
  rollbackVolume,
  trashVolume,
  type VolumeRecord,
} from '../../src/hlfs/index.ts';
import { audit } from '../support/catalog-audit.ts';
import {
  crashingAt,
  failingAt,
  readRanges,
  reclaimLog,
  segmentsOf,
  takeSnapshot,
  World,
  writeSegment,
} from '../support/catalog-world.ts';

const free = (): undefined => undefined;
const size = { sizeBytes: 10 * MiB };

interface Scene {
  readonly before: (context: HlfsContext) => Promise<void>;
  readonly act: (context: HlfsContext) => Promise<unknown>;
  /** What is to be seen: one of these two, never anything else. */
  readonly see: (context: HlfsContext) => Promise<string>;
  readonly outcomes: readonly [none: string, whole: string];
  /** It changes documents of several volumes: what a crash left is seen when the next process has settled it. */
  readonly settles?: true;
}

const cloneOf = async (context: HlfsContext, from: string, to: string): Promise<VolumeRecord> => {
  const source = await getVolume(context, from);
  const { value } = await findSnapshot(context, source.id, 's');
  return cloneVolume(context, source, value, to, {}, readRanges);
};

const rollback = async (context: HlfsContext, path: string): Promise<unknown> =>
  rollbackVolume(context, await getVolume(context, path), 's', readRanges, free);

/** Paths, and for each volume its snapshots and the segments of its current log. */
async function view(context: HlfsContext): Promise<string> {
  const { volumes, snapshots } = await audit(context, { reaped: false });
  const lines: string[] = [];
  for (const [path, head] of volumes) {
    const names = [...snapshots.values()].filter(
      (one) => one.volume === head.volume && one.state === 'live',
    );
    const own = await segmentsOf(context, head.log);
    lines.push(`${path}(${names.map(({ name }) => name).join()};${own.join()})`);
  }
  for (const { trash, head } of await listTrash(context))
    lines.push(`trash:${trash.path}(${(await segmentsOf(context, head.log)).join()})`);
  return lines.sort().join(' ');
}

const dayMs = 86_400_000;
const trashedId = async (context: HlfsContext): Promise<VolumeId> => {
  const [first] = await listTrash(context);
  if (first === undefined) throw new Error('the trash is empty');
  return first.id;
};

/** /a with snapshots r, s and more; /m cloned from it with s; /c cloned from /m. */
async function family(context: HlfsContext): Promise<void> {
  const { id } = await createVolume(context, '/p/a', size);
  await takeSnapshot(context, id, 'r');
  await takeSnapshot(context, id, 's');
  await writeSegment(context, id);
  const middle = await cloneOf(context, '/p/a', '/p/q/m');
  await writeSegment(context, middle.id);
  await takeSnapshot(context, middle.id, 's');
}

const readEnd = async (context: HlfsContext, head: HeadDocument): Promise<number> =>
  (await segmentsOf(context, head.log)).at(-1) ?? 0;

const promote = async (context: HlfsContext, path: string): Promise<unknown> =>
  promoteVolume(context, await getVolume(context, path), { readRanges, readEnd }, free);

/** /a with snapshots r, s and t; /m cloned from s, /n from r, both written on. */
async function heirs(context: HlfsContext): Promise<void> {
  const { id } = await createVolume(context, '/a', size);
  await takeSnapshot(context, id, 'r');
  const before = await getVolume(context, '/a');
  const { value } = await findSnapshot(context, id, 'r');
  await takeSnapshot(context, id, 's');
  await writeSegment(context, id);
  await takeSnapshot(context, id, 't');
  const clone = await cloneOf(context, '/a', '/m');
  await writeSegment(context, clone.id);
  const other = await cloneVolume(context, before, value, '/n', {}, readRanges);
  await writeSegment(context, other.id);
}

const scenes: Record<string, Scene> = {
  'G4 promote': {
    before: heirs,
    act: (context) => promote(context, '/m'),
    see: view,
    outcomes: ['/a(r,s,t;1,2,3,4) /m(;3) /n(;2)', '/a(t;) /m(r,s;3) /n(;2)'],
    settles: true,
  },
  'G4 promote, and back': {
    before: async (context) => {
      await heirs(context);
      await promote(context, '/m');
    },
    act: (context) => promote(context, '/a'),
    see: view,
    outcomes: ['/a(t;) /m(r,s;3) /n(;2)', '/a(r,s,t;) /m(;3) /n(;2)'],
    settles: true,
  },
  'G4 promote what branched off before': {
    before: async (context) => {
      await heirs(context);
      await promote(context, '/m');
    },
    act: (context) => promote(context, '/n'),
    see: view,
    outcomes: ['/a(t;) /m(r,s;3) /n(;2)', '/a(t;) /m(s;3) /n(r;2)'],
    settles: true,
  },
  'G4 promote a clone of what went over': {
    before: async (context) => {
      await heirs(context);
      await promote(context, '/n');
    },
    act: (context) => promote(context, '/m'),
    see: view,
    outcomes: ['/a(s,t;) /m(;3) /n(r;2)', '/a(t;) /m(s;3) /n(r;2)'],
    settles: true,
  },
  create: {
    before: family,
    act: (context) => createVolume(context, '/x/y/v', size),
    see: view,
    outcomes: ['/p/a(r,s;1,2,3) /p/q/m(s;3,4)', '/p/a(r,s;1,2,3) /p/q/m(s;3,4) /x/y/v(;)'],
  },
  'B-27 clone': {
    before: family,
    act: (context) => cloneOf(context, '/p/q/m', '/x/c'),
    see: view,
    outcomes: ['/p/a(r,s;1,2,3) /p/q/m(s;3,4)', '/p/a(r,s;1,2,3) /p/q/m(s;3,4) /x/c(;)'],
  },
  rename: {
    before: family,
    act: (context) => renameVolume(context, '/p/q/m', '/x/y/m'),
    see: view,
    outcomes: ['/p/a(r,s;1,2,3) /p/q/m(s;3,4)', '/p/a(r,s;1,2,3) /x/y/m(s;3,4)'],
  },
  'B-08 rollback': {
    before: family,
    act: (context) => rollback(context, '/p/a'),
    see: view,
    outcomes: ['/p/a(r,s;1,2,3) /p/q/m(s;3,4)', '/p/a(r,s;) /p/q/m(s;3,4)'],
  },
  'delete the volume that a clone starts from': {
    before: family,
    act: (context) => deleteVolume(context, '/p/a', free),
    see: view,
    outcomes: ['/p/a(r,s;1,2,3) /p/q/m(s;3,4)', '/p/q/m(s;3,4)'],
  },
  'delete the clone': {
    before: family,
    act: (context) => deleteVolume(context, '/p/q/m', free),
    see: view,
    outcomes: ['/p/a(r,s;1,2,3) /p/q/m(s;3,4)', '/p/a(r,s;1,2,3)'],
  },
  'delete into the trash': {
    before: family,
    act: (context) => trashVolume(context, '/p/q/m', free, dayMs),
    see: view,
    outcomes: ['/p/a(r,s;1,2,3) /p/q/m(s;3,4)', '/p/a(r,s;1,2,3) trash:/p/q/m(3,4)'],
  },
  'undelete, to a new directory': {
    before: async (context) => {
      await family(context);
      await trashVolume(context, '/p/a', free, dayMs);
    },
    act: async (context) => restoreVolume(context, await trashedId(context), '/x/y/a'),
    see: view,
    outcomes: ['/p/q/m(s;3,4) trash:/p/a(1,2,3)', '/p/q/m(s;3,4) /x/y/a(r,s;1,2,3)'],
  },
  'undelete, to the place of before': {
    before: async (context) => {
      await family(context);
      await trashVolume(context, '/p/q/m', free, dayMs);
    },
    act: async (context) => restoreVolume(context, await trashedId(context)),
    see: view,
    outcomes: ['/p/a(r,s;1,2,3) trash:/p/q/m(3,4)', '/p/a(r,s;1,2,3) /p/q/m(s;3,4)'],
  },
  'empty the trash': {
    before: async (context) => {
      await family(context);
      await trashVolume(context, '/p/q/m', free, dayMs);
    },
    act: async (context) => discardVolume(context, await trashedId(context)),
    see: view,
    outcomes: ['/p/a(r,s;1,2,3) trash:/p/q/m(3,4)', '/p/a(r,s;1,2,3)'],
  },
  'delete a snapshot': {
    before: family,
    act: async (context) => deleteSnapshot(context, (await getVolume(context, '/p/a')).id, 'r'),
    see: view,
    outcomes: ['/p/a(r,s;1,2,3) /p/q/m(s;3,4)', '/p/a(s;1,2,3) /p/q/m(s;3,4)'],
  },
  'hold a snapshot for reading': {
    before: family,
    act: async (context) =>
      (await pinSnapshot(context, await getVolume(context, '/p/q/m'), 's', readRanges)).release(),
    see: view,
    outcomes: ['/p/a(r,s;1,2,3) /p/q/m(s;3,4)', '/p/a(r,s;1,2,3) /p/q/m(s;3,4)'],
  },
  reap: {
    before: async (context) => {
      await family(context);
      await cloneOf(context, '/p/q/m', '/c');
      await rollback(context, '/c').catch(() => undefined);
      const { id } = await getVolume(context, '/c');
      await takeSnapshot(context, id, 's');
      await writeSegment(context, id);
      await rollback(context, '/c');
      await rollback(context, '/c');
      await deleteSnapshot(context, id, 's');
      await deleteVolume(context, '/p/q/m', free);
      const gone = await createVolume(context, '/gone', size);
      await takeSnapshot(context, gone.id, 's');
      await cloneOf(context, '/gone', '/gone2');
      await deleteVolume(context, '/gone2', free);
      await deleteVolume(context, '/gone', free);
    },
    act: (context) => reap(context, reclaimLog),
    see: view,
    outcomes: ['/c(;) /p/a(r,s;1,2,3)', '/c(;) /p/a(r,s;1,2,3)'],
  },
};

/** What is seen after the operation without any failure must be what the scene says. */
async function unharmed(scene: Scene): Promise<void> {
  const context = await new World().start();
  await scene.before(context);
  assert.equal(await scene.see(context), scene.outcomes[0]);
  await scene.act(context);
  assert.equal(await scene.see(context), scene.outcomes[1]);
}

/** @returns false when the operation ended before the n-th mutation */
async function crashed(scene: Scene, at: number): Promise<boolean> {
  const world = new World(at);
  const first = await world.start();
  await scene.before(first);
  const store = crashingAt(world.store, at);
  const isDone = await scene.act(world.through(first, store)).then(
    () => true,
    () => false,
  );
  assert(isDone || store.hasCrashed());

  // The next process dies in the middle of repairing, the one after it does not.
  const second = await world.start();
  const seen = await scene.see(second);
  if (scene.settles === undefined)
    assert(scene.outcomes.includes(seen), `after a crash at ${at}: ${seen}`);
  if (isDone) assert.equal(seen, scene.outcomes[1], 'what was reported as done is there');
  const repairing = crashingAt(world.store, 1 + world.random.below(12));
  await reap(world.through(second, repairing), reclaimLog).catch(() => undefined);
  const third = await world.start();
  if (scene.settles === undefined)
    assert.equal(await scene.see(third), seen, 'repairing changes nothing that is seen');
  await reap(third, reclaimLog);
  const settled = await scene.see(third);
  if (scene.settles === undefined) assert.equal(settled, seen);
  else assert(scene.outcomes.includes(settled), `settled after a crash at ${at}: ${settled}`);
  await audit(third, { reaped: true });
  await assertNoLeak(third);
  return store.hasCrashed();
}

/** With everything deleted the store holds nothing but names that were used and scopes. */
async function assertNoLeak(context: HlfsContext): Promise<void> {
  for (let rounds = 0; rounds < 2; rounds += 1) {
    const { volumes } = await audit(context, { reaped: true });
    for (const path of volumes.keys()) await deleteVolume(context, path, free);
    for (const { id } of await listTrash(context)) await discardVolume(context, id);
    await reap(context, reclaimLog);
  }
  for (const prefix of ['volumes', 'logs', 'intents'])
    assert.deepEqual(
      await context.store.list(prefix, undefined, 10),
      [],
      `nothing below ${prefix}`,
    );
}

for (const [name, scene] of Object.entries(scenes)) {
  t.test(`N2 a crash at every mutation: ${name}`, async (t) => {
    await unharmed(scene);
    let at = 1;
    while (await crashed(scene, at)) at += 1;
    t.ok(at > 2, `${at - 1} crashes`);
  });

  t.test(`N2 one failing call at every mutation: ${name}`, async (t) => {
    for (let at = 1; ; at += 1) {
      const world = new World(at);
      const context = await world.start();
      await scene.before(context);
      const store = failingAt(world.store, at);
      const isDone = await scene.act(world.through(context, store)).then(
        () => true,
        () => false,
      );
      const seen = await scene.see(context);
      assert(scene.outcomes.includes(seen), `after a failure at ${at}: ${seen}`);
      if (isDone) assert.equal(seen, scene.outcomes[1]);
      const next = await world.start();
      await reap(next, reclaimLog);
      assert.equal(await scene.see(next), seen);
      await audit(next, { reaped: true });
      if (!store.hasFailed()) break;
    }
    t.pass();
  });
}

t.test('N2 an intent of a process that may still be at work is left alone', async (t) => {
  const world = new World();
  const context = await world.start();
  let found: VolumeId[] = [];
  const reader = await world.helper();
  const slow = world.through(context, crashingAt(world.store, 4));
  await createVolume(slow, '/v', size).catch(() => undefined);
  await reap(reader, reclaimLog);
  found = (await context.documents.names('intents')) as VolumeId[];
  t.equal(found.length, 1, 'its scope is not fenced');
  const next = await world.start();
  await reap(next, reclaimLog);
  t.same(await next.documents.names('intents'), []);
  await audit(next, { reaped: true });
});
