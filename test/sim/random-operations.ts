/** Operations by chance: single ones by weight, and now and then a story. */
import type { Random } from '../../src/base/index.ts';
import type { OnVolume, Operation } from './operations.ts';
import { stories, storySectors } from './stories.ts';

const snapshotNames = ['s1', 's2', 's3', 'set1', 'set2'] as const;
const volumes = 3;

type Maker = (random: Random, sectors: number) => Operation;

const nameOf = (random: Random): string => snapshotNames[random.below(5)] ?? 's1';
/** Most happens to the first volume. */
const diskOf = (random: Random): OnVolume => {
  const disk = random.below(5) - 2;
  return disk > 0 ? { disk } : {};
};

/** Most writes are small and hit the same few places, so that overwriting, merging and tearing happen. */
function place(random: Random, sectors: number): { first: number; count: number } {
  const size = random.below(20);
  const count =
    size < 9
      ? 1 + random.below(8)
      : size < 17
        ? 8 * (1 + random.below(4))
        : size < 19
          ? 1 + random.below(300)
          : 400 + random.below(400);
  const hot = random.below(3) > 0;
  const limit = hot ? Math.min(sectors, 256) : sectors;
  let first = random.below(limit);
  if (random.below(2) === 0) first -= first % 8;
  return { first, count: Math.min(count, sectors - first) };
}

const makers: readonly (readonly [weight: number, make: Maker])[] = [
  [
    40,
    (r, n) => ({
      kind: 'write',
      ...diskOf(r),
      ...place(r, n),
      fua: r.below(12) === 0,
      wait: r.below(4) === 0,
    }),
  ],
  [2, (r, n) => ({ kind: 'mimic', ...diskOf(r), first: 8 * r.below(Math.floor(n / 8) - 8) })],
  [4, (r, n) => ({ kind: 'trim', ...diskOf(r), ...place(r, n) })],
  [3, (r, n) => ({ kind: 'zero', ...diskOf(r), ...place(r, n), noHole: r.below(2) === 0 })],
  [8, (r, n) => ({ kind: 'read', ...diskOf(r), ...place(r, n) })],
  [10, (r) => ({ kind: 'flush', ...diskOf(r), wait: r.below(2) === 0 })],
  [3, () => ({ kind: 'settle' })],
  [6, (r) => ({ kind: 'idle', ms: [5, 200, 5000, 35_000][r.below(4)] ?? 5 })],
  [1, () => ({ kind: 'stall', ms: 5000 })],
  [1, (r) => ({ kind: 'clock', ms: (r.below(2) === 0 ? -1 : 1) * r.below(2 ** 31) })],
  [
    1,
    (r) => ({
      kind: 'hold',
      ...diskOf(r),
      end: (['cut', 'dropped', 'left'] as const)[r.below(3)] ?? 'left',
    }),
  ],
  [
    2,
    (r) => ({
      kind: 'set',
      name: `set${1 + r.below(2)}`,
      steps: r.below(3) === 0 ? r.below(12) : null,
    }),
  ],
  [3, (r) => ({ kind: 'publish', ...diskOf(r) })],
  [3, (r) => ({ kind: 'snapshot', ...diskOf(r), name: snapshotNames[r.below(3)] ?? 's1' })],
  [2, (r) => ({ kind: 'deleteSnapshot', ...diskOf(r), name: nameOf(r) })],
  [1, (r) => ({ kind: 'clone', ...diskOf(r), name: nameOf(r), race: r.below(3) === 0 })],
  [2, (r) => ({ kind: 'fork', ...diskOf(r), name: nameOf(r), to: 1 + r.below(volumes - 1) })],
  [1, (r) => ({ kind: 'drop', disk: 1 + r.below(volumes - 1) })],
  [1, (r) => ({ kind: 'flatten', disk: 1 + r.below(volumes - 1), wait: r.below(3) === 0 })],
  [1, (r) => ({ kind: 'rollback', ...diskOf(r), name: nameOf(r) })],
  [1, (r, n) => ({ kind: 'resize', ...diskOf(r), sectors: n - 8 * r.below(Math.floor(n / 16)) })],
  [1, () => ({ kind: 'reap' })],
  [2, (r) => ({ kind: 'reopen', ...diskOf(r) })],
  [1, () => ({ kind: 'reconnect' })],
  [
    2,
    (r) => ({
      kind: 'fault',
      fault:
        (['syncError', 'syncErrorKill', 'writeError', 'shortWrite'] as const)[r.below(5)] ??
        'syncError',
    }),
  ],
  [
    3,
    (r) => ({
      kind: 'store',
      state: (['up', 'up', 'down', 'full', 'late', 'brim', 'flaky'] as const)[r.below(7)] ?? 'up',
    }),
  ],
  [
    1,
    (r) => ({
      kind: 'flip',
      what: (['segment', 'segment', 'journal', 'document'] as const)[r.below(4)] ?? 'segment',
      when: (['running', 'at rest', 'at work'] as const)[r.below(3)] ?? 'running',
    }),
  ],
  [
    5,
    (r) => ({
      kind: 'crash',
      ending: r.below(2) === 0 ? 'power loss' : 'kill',
      io: 1 + r.below([4, 20, 100][r.below(3)] ?? 20),
      when: (['before', 'during', 'after'] as const)[r.below(3)] ?? 'before',
    }),
  ],
  [1, (r) => ({ kind: 'restart', ending: r.below(2) === 0 ? 'power loss' : 'kill' })],
];

const totalWeight = makers.reduce((sum, [weight]) => sum + weight, 0);

/** About `count` operations. */
export function randomOperations(random: Random, count: number, sectors: number): Operation[] {
  const operations: Operation[] = [];
  while (operations.length < count) {
    const story = random.below(60) === 0 ? stories[random.below(stories.length)] : undefined;
    if (story !== undefined && sectors >= storySectors) operations.push(...story(random, sectors));
    else operations.push(randomOperation(random, sectors));
  }
  return operations;
}

function randomOperation(random: Random, sectors: number): Operation {
  let at = random.below(totalWeight);
  for (const [weight, make] of makers) {
    if (at < weight) return make(random, sectors);
    at -= weight;
  }
  return { kind: 'settle' };
}
