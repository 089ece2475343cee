/**
 * Scenario 11 [H], the documents' part: clone against snapshot delete against deletion of the middle clone. Two at a time with
 * a switch before and after every change of the store, and back; all three with random schedules. Either the clone exists and its
 * pins protect it, or it does not exist and left nothing.
 */
import assert from 'node:assert/strict';
import t from 'tap';
import { DvceError, MiB, type Random, seededRandom } from '../../src/base/index.ts';
import {
  cloneVolume,
  createVolume,
  deleteSnapshot,
  deleteVolume,
  findSnapshot,
  getVolume,
  type HlfsContext,
  pinSnapshot,
  reap,
  rollbackVolume,
  type SegmentStore,
} from '../../src/hlfs/index.ts';
import { audit } from '../support/catalog-audit.ts';
import {
  readRanges,
  reclaimLog,
  segmentsOf,
  takeSnapshot,
  World,
  writeSegment,
} from '../support/catalog-world.ts';
import { interleave, type Outcome, switching, switchPoints } from '../support/interleave.ts';

const free = (): undefined => undefined;
const size = { sizeBytes: 10 * MiB };

type Task = (context: HlfsContext) => Promise<unknown>;

const clone =
  (from: string, snapshot: string, to: string): Task =>
  async (context) => {
    const source = await getVolume(context, from);
    const { value } = await findSnapshot(context, source.id, snapshot);
    return cloneVolume(context, source, value, to, {}, readRanges);
  };
const removeSnapshot =
  (path: string, snapshot: string): Task =>
  async (context) =>
    deleteSnapshot(context, (await getVolume(context, path)).id, snapshot);
const removeVolume =
  (path: string): Task =>
  async (context) => {
    await deleteVolume(context, path, free);
    await reap(context, reclaimLog);
  };
const rollback =
  (path: string, snapshot: string): Task =>
  async (context) =>
    rollbackVolume(context, await getVolume(context, path), snapshot, readRanges, free);
const hold =
  (path: string, snapshot: string): Task =>
  async (context) => {
    const { root } = await pinSnapshot(
      context,
      await getVolume(context, path),
      snapshot,
      readRanges,
    );
    for (const { log, last } of root.ranges)
      assert((await segmentsOf({ ...context, store: context.store }, log)).includes(last));
  };
const cleanUp: Task = (context) => reap(context, reclaimLog);

/** /a with snapshot s; /m cloned from it with snapshot m; both written on. */
async function family(world: World): Promise<HlfsContext> {
  const context = await world.start();
  const { id } = await createVolume(context, '/a', size);
  await takeSnapshot(context, id, 'q');
  await takeSnapshot(context, id, 's');
  await clone('/a', 's', '/m')(context);
  const middle = await getVolume(context, '/m');
  await takeSnapshot(context, middle.id, 'm');
  await writeSegment(context, middle.id);
  return context;
}

const expected = new Set(['NOT_FOUND', 'CONFLICT', 'IN_USE', 'SEGMENT_MISSING']);

async function race(
  seed: number,
  tasks: readonly Task[],
  choose: (waiting: readonly number[]) => number,
): Promise<{ outcomes: readonly Outcome[]; calls: readonly (readonly boolean[])[] }> {
  const world = new World(seed);
  const context = await family(world);
  const stepped = tasks.map((task) => async (store: SegmentStore) => {
    await Promise.resolve();
    return task(await world.helper(store));
  });
  const result = await interleave(world.store, stepped, choose);
  for (const outcome of result.outcomes)
    if ('error' in outcome)
      assert(
        outcome.error instanceof DvceError && expected.has(outcome.error.code),
        String(outcome.error instanceof Error ? outcome.error.stack : outcome.error),
      );
  const before = await audit(context, { reaped: false });
  assert.deepEqual(await context.documents.names('intents'), [], 'each cleaned up after itself');
  const next = await world.start();
  await reap(next, reclaimLog);
  const after = await audit(next, { reaped: true });
  assert.deepEqual([...after.volumes.keys()].sort(), [...before.volumes.keys()].sort());
  assert.deepEqual([...after.snapshots.keys()].sort(), [...before.snapshots.keys()].sort());
  const [cloned] = result.outcomes;
  if (after.volumes.has('/c')) assert(cloned !== undefined && 'value' in cloned);
  return result;
}

const pairs: Record<string, readonly [Task, Task]> = {
  'clone of the middle, deletion of its snapshot': [
    clone('/m', 'm', '/c'),
    removeSnapshot('/m', 'm'),
  ],
  'clone of the middle, deletion of the middle': [clone('/m', 'm', '/c'), removeVolume('/m')],
  'clone of the origin, deletion of its snapshot': [
    clone('/a', 'q', '/c'),
    removeSnapshot('/a', 'q'),
  ],
  'rollback, deletion of the snapshot': [rollback('/m', 'm'), removeSnapshot('/m', 'm')],
  'rollback, deletion of the volume': [
    rollback('/m', 'm'),
    (context) => deleteVolume(context, '/m', free),
  ],
  'reader, deletion of the snapshot': [hold('/m', 'm'), removeSnapshot('/m', 'm')],
  'rollback, reaper': [rollback('/m', 'm'), cleanUp],
  'deletion of a snapshot, reaper': [removeSnapshot('/m', 'm'), cleanUp],
  'deletion of the middle, twice': [removeVolume('/m'), removeVolume('/m')],
};

for (const [name, tasks] of Object.entries(pairs))
  t.test(`G3 scenario 11: ${name}, every pair of switches`, async (t) => {
    let runs = 0;
    const seen = new Set<string>();
    const run = async (
      first: number,
      before: number,
      between: number,
      of: number,
    ): Promise<number[]> => {
      const { outcomes, calls } = await race(1, tasks, switching(first, before, between));
      runs += 1;
      seen.add(outcomes.map((one) => ('value' in one ? 'done' : 'refused')).join(' '));
      return switchPoints(calls[of] ?? []);
    };
    const forever = Number.MAX_SAFE_INTEGER;
    for (const first of [0, 1])
      for (const before of await run(first, forever, 0, first))
        for (const between of await run(first, before, forever, 1 - first))
          await run(first, before, between, first);
    t.ok(seen.size >= 1, `${runs} runs: ${[...seen].join(', ')}`);
  });

t.test(
  'G3 scenario 11: clone, snapshot delete, deletion of the middle, random schedules',
  async (t) => {
    const seen = new Map<string, number>();
    const schedule = (random: Random): ((waiting: readonly number[]) => number) => {
      let chosen = 0;
      return (waiting) => {
        if (random.below(4) === 0 || !waiting.includes(chosen))
          chosen = waiting[random.below(waiting.length)] as number;
        return chosen;
      };
    };
    for (let seed = 1; seed <= 250; seed += 1) {
      const tasks = [
        clone('/m', 'm', '/c'),
        removeSnapshot('/m', 'm'),
        removeVolume('/m'),
        clone('/a', 's', '/d'),
        removeSnapshot('/a', 's'),
      ];
      const { outcomes } = await race(seed, tasks, schedule(seededRandom(seed)));
      const key = outcomes.map((one) => ('value' in one ? 'y' : 'n')).join('');
      seen.set(key, (seen.get(key) ?? 0) + 1);
    }
    t.ok(seen.size > 3, `${[...seen].map(([key, count]) => `${key}:${count}`).join(' ')}`);
  },
);
