/**
 * Races of the catalog's operations on a family of volumes, for scenario 11 [H]. After each the store is audited, reaped,
 * and audited again.
 */
import assert from 'node:assert/strict';
import type { Test } from 'tap';
import { DvceError, MiB } from '../../src/base/index.ts';
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
  restoreVolume,
  rollbackVolume,
  type SegmentStore,
  trashVolume,
} from '../../src/hlfs/index.ts';
import { audit } from './catalog-audit.ts';
import {
  readRanges,
  reclaimLog,
  segmentsOf,
  takeSnapshot,
  World,
  writeSegment,
} from './catalog-world.ts';
import { interleave, type Outcome, switching, switchPoints } from './interleave.ts';

const free = (): undefined => undefined;
const size = { sizeBytes: 10 * MiB };

export type Task = (context: HlfsContext) => Promise<unknown>;

export const clone =
  (from: string, snapshot: string, to: string): Task =>
  async (context) => {
    const source = await getVolume(context, from);
    const { value } = await findSnapshot(context, source.id, snapshot);
    return cloneVolume(context, source, value, to, {}, readRanges);
  };
export const removeSnapshot =
  (path: string, snapshot: string): Task =>
  async (context) =>
    deleteSnapshot(context, (await getVolume(context, path)).id, snapshot);
export const dropVolume =
  (path: string): Task =>
  (context) =>
    deleteVolume(context, path, free);
export const trash =
  (path: string): Task =>
  (context) =>
    trashVolume(context, path, free, 1000);
/** What was deleted last comes back, to where it was or to another place. */
export const restore =
  (to?: string): Task =>
  async (context) => {
    const [newest] = await listTrash(context);
    return newest === undefined ? undefined : restoreVolume(context, newest.id, to);
  };
export const emptyTrash: Task = async (context) => {
  for (const { id } of await listTrash(context)) await discardVolume(context, id);
  await reap(context, reclaimLog);
};
export const create =
  (path: string): Task =>
  (context) =>
    createVolume(context, path, size);
export const removeVolume =
  (path: string): Task =>
  async (context) => {
    await deleteVolume(context, path, free);
    await reap(context, reclaimLog);
  };
export const rollback =
  (path: string, snapshot: string): Task =>
  async (context) =>
    rollbackVolume(context, await getVolume(context, path), snapshot, readRanges, free);
export const hold =
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
/** As blockd does: what is left of a deletion that met it is settled right behind. */
export const promote =
  (path: string): Task =>
  async (context) => {
    const readEnd = async (_: HlfsContext, { log }: HeadDocument): Promise<number> =>
      (await segmentsOf(context, log)).at(-1) ?? 0;
    await promoteVolume(context, await getVolume(context, path), { readRanges, readEnd }, free);
    await reap(context, reclaimLog);
  };
export const cleanUp: Task = (context) => reap(context, reclaimLog);

/** /a with snapshot s; /m cloned from it with snapshot m; both written on; /r with a snapshot v on a log that is not the current one. */
async function family(world: World): Promise<HlfsContext> {
  const context = await world.start();
  const { id } = await createVolume(context, '/a', size);
  await takeSnapshot(context, id, 'q');
  await takeSnapshot(context, id, 's');
  await clone('/a', 's', '/m')(context);
  const middle = await getVolume(context, '/m');
  await takeSnapshot(context, middle.id, 'm');
  await writeSegment(context, middle.id);
  const retired = await createVolume(context, '/r', size);
  await takeSnapshot(context, retired.id, 'u');
  await takeSnapshot(context, retired.id, 'v');
  await rollback('/r', 'u')(context);
  await createVolume(context, '/t/old', size);
  await trash('/t/old')(context);
  return context;
}

const expected = new Set([
  'NOT_FOUND',
  'CONFLICT',
  'IN_USE',
  'SEGMENT_MISSING',
  'ALREADY_EXISTS',
  'NOT_ALLOWED',
]);

export async function race(
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

/**
 * All switches around a change of the store and back, in both orders.
 * @param runsMax for each order; beyond it every second, third, ... of the switches, shifted with each row
 */
async function everySwitch(
  tasks: readonly [Task, Task],
  runsMax: number,
  met: (outcomes: readonly Outcome[]) => void,
): Promise<void> {
  const forever = Number.MAX_SAFE_INTEGER;
  const run = async (
    first: number,
    before: number,
    between: number,
    of: number,
  ): Promise<number[]> => {
    const { outcomes, calls } = await race(1, tasks, switching(first, before, between));
    met(outcomes);
    return switchPoints(calls[of] ?? []);
  };
  for (const first of [0, 1]) {
    const befores = await run(first, forever, 0, first);
    for (const [index, before] of befores.entries()) {
      const betweens = await run(first, before, forever, 1 - first);
      const stride = Math.ceil((befores.length * betweens.length) / runsMax);
      const chosen = betweens.filter((_, other) => (index + other) % stride === 0);
      for (const between of chosen) await run(first, before, between, first);
    }
  }
}

export function raceAll(
  t: Test,
  pairs: Readonly<Record<string, readonly [Task, Task]>>,
  runsMax: number,
): void {
  for (const [name, tasks] of Object.entries(pairs))
    void t.test(`G3 scenario 11: ${name}, switches around every change`, async (t) => {
      const seen = new Map<string, number>();
      await everySwitch(tasks, runsMax, (outcomes) => {
        const key = outcomes.map((one) => ('value' in one ? 'done' : 'refused')).join(' ');
        seen.set(key, (seen.get(key) ?? 0) + 1);
      });
      t.ok(seen.size >= 1, [...seen].map(([key, count]) => `${count} ${key}`).join(', '));
    });
}
