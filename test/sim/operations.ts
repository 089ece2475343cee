/**
 * What a simulation does to a volume, as plain values: printable, replayable from the seed or from the print, and shorter
 * without any one of them, so that a failing run can be shrunk.
 */
import type { Random } from '../../src/base/index.ts';
import type { CrashPlan } from './file-system.ts';

export type Operation =
  /** `wait`: nothing else is sent before it has ended. */
  | {
      readonly kind: 'write';
      readonly first: number;
      readonly count: number;
      readonly fua: boolean;
      readonly wait: boolean;
    }
  /** A payload that is a copy of journal bytes (J3). */
  | { readonly kind: 'mimic'; readonly first: number }
  | { readonly kind: 'trim'; readonly first: number; readonly count: number }
  | {
      readonly kind: 'zero';
      readonly first: number;
      readonly count: number;
      readonly noHole: boolean;
    }
  | { readonly kind: 'read'; readonly first: number; readonly count: number }
  | { readonly kind: 'flush'; readonly wait: boolean }
  /** Wait until nothing is under way. */
  | { readonly kind: 'settle' }
  /** Let time pass: batches get old, the cleaner gets its turn. */
  | { readonly kind: 'idle'; readonly ms: number }
  /** The event loop stands still, then goes on. */
  | { readonly kind: 'stall'; readonly ms: number }
  /** Held for the cut of a snapshot set (G5): cut, given up, or left by a coordinator that died. */
  | { readonly kind: 'hold'; readonly end: 'cut' | 'dropped' | 'left' }
  | { readonly kind: 'publish' }
  | { readonly kind: 'snapshot'; readonly name: string }
  | { readonly kind: 'deleteSnapshot'; readonly name: string }
  /** Clone, look at the clone, delete it; `race`: delete the snapshot at the same time. */
  | { readonly kind: 'clone'; readonly name: string; readonly race: boolean }
  | { readonly kind: 'rollback'; readonly name: string }
  | { readonly kind: 'resize'; readonly sectors: number }
  | { readonly kind: 'reap' }
  | { readonly kind: 'reopen' }
  /** All connections are lost; what was not answered is sent again on a new one (N6). */
  | { readonly kind: 'reconnect' }
  | {
      readonly kind: 'fault';
      readonly fault: 'syncError' | 'syncErrorKill' | 'writeError' | 'shortWrite';
    }
  | { readonly kind: 'store'; readonly state: 'up' | 'down' | 'full' | 'late' }
  /** At the n-th I/O from now. */
  | {
      readonly kind: 'crash';
      readonly ending: 'power loss' | 'kill';
      readonly io: number;
      readonly when: CrashPlan['when'];
    };

export const printOperations = (operations: readonly Operation[]): string =>
  operations
    .map((operation, i) => `  ${String(i).padStart(3)}  ${JSON.stringify(operation)}`)
    .join('\n');

const snapshotNames = ['s1', 's2', 's3'] as const;

type Maker = (random: Random, sectors: number) => Operation;

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
          : 2048 + random.below(1200);
  const hot = random.below(3) > 0;
  const limit = hot ? Math.min(sectors, 256) : sectors;
  let first = random.below(limit);
  if (random.below(2) === 0) first -= first % 8;
  return { first, count: Math.min(count, sectors - first) };
}

const makers: readonly (readonly [weight: number, make: Maker])[] = [
  [
    40,
    (r, n) => ({ kind: 'write', ...place(r, n), fua: r.below(12) === 0, wait: r.below(4) === 0 }),
  ],
  [2, (r, n) => ({ kind: 'mimic', first: 8 * r.below(Math.floor(n / 8) - 8) })],
  [4, (r, n) => ({ kind: 'trim', ...place(r, n) })],
  [3, (r, n) => ({ kind: 'zero', ...place(r, n), noHole: r.below(2) === 0 })],
  [8, (r, n) => ({ kind: 'read', ...place(r, n) })],
  [10, (r) => ({ kind: 'flush', wait: r.below(2) === 0 })],
  [4, () => ({ kind: 'settle' })],
  [6, (r) => ({ kind: 'idle', ms: [5, 200, 5000, 35_000][r.below(4)] ?? 5 })],
  [1, () => ({ kind: 'stall', ms: 5000 })],
  [2, (r) => ({ kind: 'hold', end: (['cut', 'dropped', 'left'] as const)[r.below(3)] ?? 'left' })],
  [3, () => ({ kind: 'publish' })],
  [3, (r) => ({ kind: 'snapshot', name: snapshotNames[r.below(3)] ?? 's1' })],
  [2, (r) => ({ kind: 'deleteSnapshot', name: snapshotNames[r.below(3)] ?? 's1' })],
  [2, (r) => ({ kind: 'clone', name: snapshotNames[r.below(3)] ?? 's1', race: r.below(3) === 0 })],
  [1, (r) => ({ kind: 'rollback', name: snapshotNames[r.below(3)] ?? 's1' })],
  [1, (r, n) => ({ kind: 'resize', sectors: n - 8 * r.below(Math.floor(n / 16)) })],
  [1, () => ({ kind: 'reap' })],
  [2, () => ({ kind: 'reopen' })],
  [2, () => ({ kind: 'reconnect' })],
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
      state: (['up', 'up', 'down', 'full', 'late'] as const)[r.below(5)] ?? 'up',
    }),
  ],
  [
    6,
    (r) => ({
      kind: 'crash',
      ending: r.below(2) === 0 ? 'power loss' : 'kill',
      io: 1 + r.below([4, 20, 100][r.below(3)] ?? 20),
      when: (['before', 'during', 'after'] as const)[r.below(3)] ?? 'before',
    }),
  ],
];

/** Sequences that random single operations hardly ever form. */
const stories: readonly ((random: Random, sectors: number) => Operation[])[] = [
  // Reads of layers that wait for the store, overwritten meanwhile.
  (r) => [
    { kind: 'store', state: 'down' },
    { kind: 'write', first: 8 * r.below(8), count: 64, fua: false, wait: true },
    { kind: 'idle', ms: 35_000 },
    { kind: 'write', first: 8 * r.below(8), count: 32, fua: false, wait: true },
    { kind: 'trim', first: 8 * r.below(8), count: 24 },
    { kind: 'read', first: 0, count: 128 },
    { kind: 'idle', ms: 35_000 },
    { kind: 'write', first: r.below(64), count: 5, fua: false, wait: true },
    { kind: 'read', first: 0, count: 128 },
    { kind: 'store', state: 'up' },
    { kind: 'read', first: 0, count: 128 },
  ],
  // The journal at its quota: writes are held, connections are lost, trims storm in.
  (r, n) => [
    { kind: 'store', state: r.below(2) === 0 ? 'down' : 'full' },
    ...Array.from({ length: 12 }, (): Operation => {
      const count = 2400 + r.below(800);
      return { kind: 'write', first: r.below(n - count), count, fua: false, wait: false };
    }),
    { kind: 'idle', ms: 500 },
    { kind: 'write', first: r.below(100), count: 12, fua: false, wait: false },
    ...Array.from(
      { length: 10 },
      (): Operation => ({ kind: 'trim', first: 8 * r.below(900), count: 8 * (1 + r.below(50)) }),
    ),
    { kind: 'idle', ms: 300 },
    { kind: 'reconnect' },
    { kind: 'write', first: r.below(100), count: 12, fua: false, wait: false },
    { kind: 'idle', ms: 300 },
    // Half of the time nothing of it has reached the store when the process dies.
    ...(r.below(2) === 0
      ? ([
          { kind: 'flush', wait: true },
          {
            kind: 'crash',
            ending: r.below(2) === 0 ? 'power loss' : 'kill',
            io: 1,
            when: 'before',
          },
          { kind: 'write', first: 0, count: 1, fua: true, wait: true },
        ] as const)
      : []),
    { kind: 'store', state: 'up' },
    { kind: 'settle' },
  ],
  // A segment that is mostly dead, overwritten while the cleaner moves what is left of it.
  (r) => {
    const half = { kind: 'write', count: 2400, fua: false, wait: true } as const;
    return [
      { kind: 'write', first: 0, count: 3600, fua: false, wait: true },
      { kind: 'publish' },
      { ...half, first: 0 },
      { kind: 'publish' },
      { kind: 'write', first: 4000, count: 8, fua: false, wait: true },
      { kind: 'publish' },
      { kind: 'idle', ms: 1900 },
      ...(r.below(2) === 0 ? [{ kind: 'store', state: 'late' } as const] : []),
      ...Array.from({ length: 12 }, (): Operation[] => [
        {
          kind: 'write',
          first: 2400 + 8 * r.below(150),
          count: 8,
          fua: r.below(3) === 0,
          wait: false,
        },
        { kind: 'idle', ms: 5 + r.below(40) },
      ]).flat(),
      {
        kind: 'crash',
        ending: r.below(2) === 0 ? 'power loss' : 'kill',
        io: 1 + r.below(40),
        when: 'before',
      },
      ...Array.from({ length: 12 }, (): Operation[] => [
        { kind: 'write', first: 2400 + 8 * r.below(150), count: 8, fua: false, wait: false },
        { kind: 'idle', ms: 5 + r.below(80) },
      ]).flat(),
    ];
  },
  // Segments ahead of the journal: published, never flushed, and the power fails twice.
  (r) => [
    { kind: 'write', first: r.below(500), count: 40, fua: false, wait: true },
    { kind: 'idle', ms: 35_000 },
    { kind: 'write', first: r.below(500), count: 16, fua: false, wait: true },
    { kind: 'crash', ending: 'power loss', io: 1, when: 'before' },
    { kind: 'write', first: r.below(500), count: 16, fua: false, wait: true },
    { kind: 'write', first: r.below(500), count: 16, fua: r.below(2) === 0, wait: true },
    { kind: 'crash', ending: 'power loss', io: 1 + r.below(4), when: 'after' },
    { kind: 'write', first: r.below(500), count: 16, fua: false, wait: true },
    { kind: 'flush', wait: true },
  ],
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

/** Stories are told on devices of at least this size. */
const storySectors = 8192;

function randomOperation(random: Random, sectors: number): Operation {
  let at = random.below(totalWeight);
  for (const [weight, make] of makers) {
    if (at < weight) return make(random, sectors);
    at -= weight;
  }
  return { kind: 'settle' };
}

/** Drop operations as long as the run still fails: halves, quarters, ... single ones. */
export async function shrink(
  operations: readonly Operation[],
  fails: (operations: readonly Operation[]) => Promise<boolean>,
  attemptsMax = 300,
): Promise<readonly Operation[]> {
  let current = operations;
  let attempts = 0;
  for (
    let size = Math.ceil(current.length / 2);
    size >= 1;
    size = size === 1 ? 0 : Math.ceil(size / 2)
  ) {
    for (let at = 0; at < current.length && attempts < attemptsMax; ) {
      const candidate = [...current.slice(0, at), ...current.slice(at + size)];
      attempts += 1;
      if (await fails(candidate)) current = candidate;
      else at += size;
    }
  }
  return current;
}
