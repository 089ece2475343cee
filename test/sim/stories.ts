/** Sequences that random single operations hardly ever form. */
import type { Random } from '../../src/base/index.ts';
import type { Operation } from './operations.ts';

/** Stories are told on volumes of at least this size. */
export const storySectors = 4096;

type Story = (random: Random, sectors: number) => Operation[];

const endingOf = (random: Random): 'power loss' | 'kill' =>
  random.below(2) === 0 ? 'power loss' : 'kill';

/** Reads of layers that wait for the store, overwritten meanwhile. */
const storeAway: Story = (r) => [
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
];

/** The journal at its quota: writes are held, connections are lost, trims storm in. */
const journalFull: Story = (r, n) => [
  { kind: 'store', state: (['down', 'full', 'brim'] as const)[r.below(3)] ?? 'down' },
  ...Array.from({ length: 12 }, (): Operation => {
    const count = 300 + r.below(200);
    return { kind: 'write', first: r.below(n - count), count, fua: false, wait: false };
  }),
  { kind: 'idle', ms: 500 },
  { kind: 'write', first: r.below(100), count: 12, fua: false, wait: false },
  ...Array.from(
    { length: 10 },
    (): Operation => ({ kind: 'trim', first: 8 * r.below(400), count: 8 * (1 + r.below(50)) }),
  ),
  { kind: 'idle', ms: 300 },
  { kind: 'reconnect' },
  { kind: 'write', first: r.below(100), count: 12, fua: false, wait: false },
  { kind: 'idle', ms: 300 },
  // Half of the time nothing of it has reached the store when the process dies.
  ...(r.below(2) === 0
    ? ([
        { kind: 'flush', wait: true },
        { kind: 'crash', ending: endingOf(r), io: 1, when: 'before' },
        { kind: 'write', first: 0, count: 1, fua: true, wait: true },
      ] as const)
    : []),
  { kind: 'store', state: 'up' },
  { kind: 'settle' },
];

/** A segment that is mostly dead, overwritten while the cleaner moves what is left of it. */
const cleanedMeanwhile: Story = (r) => {
  const rest = (): number => 600 + 8 * r.below(37);
  return [
    { kind: 'settle' },
    { kind: 'write', first: 0, count: 900, fua: false, wait: true },
    { kind: 'publish' },
    { kind: 'write', first: 0, count: 600, fua: false, wait: true },
    { kind: 'publish' },
    { kind: 'write', first: 2000, count: 8, fua: false, wait: true },
    { kind: 'publish' },
    { kind: 'idle', ms: 1900 },
    ...(r.below(2) === 0 ? [{ kind: 'store', state: 'late' } as const] : []),
    ...Array.from({ length: 12 }, (): Operation[] => [
      { kind: 'write', first: rest(), count: 8, fua: r.below(3) === 0, wait: false },
      { kind: 'idle', ms: 5 + r.below(40) },
    ]).flat(),
    { kind: 'crash', ending: endingOf(r), io: 1 + r.below(40), when: 'before' },
    ...Array.from({ length: 12 }, (): Operation[] => [
      { kind: 'write', first: rest(), count: 8, fua: false, wait: false },
      { kind: 'idle', ms: 5 + r.below(80) },
    ]).flat(),
  ];
};

/** Segments ahead of the journal: published, never flushed, and the power fails twice. */
const segmentsAhead: Story = (r) => [
  { kind: 'write', first: r.below(500), count: 40, fua: false, wait: true },
  { kind: 'idle', ms: 35_000 },
  { kind: 'write', first: r.below(500), count: 16, fua: false, wait: true },
  { kind: 'crash', ending: 'power loss', io: 1, when: 'before' },
  { kind: 'write', first: r.below(500), count: 16, fua: false, wait: true },
  { kind: 'write', first: r.below(500), count: 16, fua: r.below(2) === 0, wait: true },
  { kind: 'crash', ending: 'power loss', io: 1 + r.below(4), when: 'after' },
  { kind: 'write', first: r.below(500), count: 16, fua: false, wait: true },
  { kind: 'flush', wait: true },
];

/** A chain of clones that all write, whose middle goes; what it alone held goes, what the last one needs stays. */
const middleGoes: Story = (r) => [
  { kind: 'write', first: 0, count: 400, fua: false, wait: true },
  { kind: 'snapshot', name: 's1' },
  { kind: 'drop', disk: 2 },
  { kind: 'drop', disk: 1 },
  { kind: 'fork', name: 's1', to: 1 },
  { kind: 'write', disk: 1, first: 100, count: 300, fua: false, wait: true },
  { kind: 'write', first: 0, count: 200, fua: false, wait: false },
  { kind: 'snapshot', disk: 1, name: 's2' },
  { kind: 'fork', disk: 1, name: 's2', to: 2 },
  { kind: 'write', disk: 2, first: 200, count: 100, fua: false, wait: false },
  { kind: 'write', disk: 1, first: 0, count: 300, fua: false, wait: false },
  ...(r.below(2) === 0 ? [{ kind: 'deleteSnapshot', name: 's1' } as const] : []),
  ...(r.below(3) === 0
    ? [{ kind: 'crash', ending: endingOf(r), io: 1 + r.below(60), when: 'after' } as const]
    : []),
  { kind: 'drop', disk: 1 },
  { kind: 'reap' },
  { kind: 'write', disk: 2, first: 150, count: 40, fua: true, wait: true },
  { kind: 'idle', ms: 5000 },
  { kind: 'read', disk: 2, first: 0, count: 500 },
  { kind: 'reap' },
  { kind: 'restart', ending: endingOf(r) },
];

/** A clone is flattened while it is written to, and again after whatever happened; then what it came from goes. */
const flattened: Story = (r) => [
  { kind: 'write', first: 0, count: 600, fua: false, wait: true },
  { kind: 'snapshot', name: 's1' },
  { kind: 'drop', disk: 2 },
  { kind: 'drop', disk: 1 },
  { kind: 'fork', name: 's1', to: 1 },
  { kind: 'write', disk: 1, first: 100, count: 200, fua: false, wait: true },
  { kind: 'snapshot', disk: 1, name: 's2' },
  { kind: 'fork', disk: 1, name: 's2', to: 2 },
  { kind: 'write', disk: 2, first: 50, count: 100, fua: false, wait: true },
  ...(r.below(3) === 0 ? [{ kind: 'snapshot', disk: 2, name: 's3' } as const] : []),
  ...(r.below(2) === 0
    ? [{ kind: 'crash', ending: endingOf(r), io: 1 + r.below(120), when: 'after' } as const]
    : []),
  { kind: 'flatten', disk: 2, wait: false },
  ...Array.from({ length: 8 }, (): Operation[] => [
    { kind: 'write', disk: 2, first: 8 * r.below(70), count: 8, fua: false, wait: false },
    { kind: 'idle', ms: 1 + r.below(20) },
  ]).flat(),
  { kind: 'flatten', disk: 2, wait: true },
  { kind: 'flatten', disk: 2, wait: true },
  { kind: 'drop', disk: 1 },
  { kind: 'reap' },
  { kind: 'write', first: 0, count: 600, fua: false, wait: true },
  { kind: 'deleteSnapshot', name: 's1' },
  { kind: 'idle', ms: 5000 },
  { kind: 'read', disk: 2, first: 0, count: 700 },
  ...(r.below(2) === 0 ? [{ kind: 'deleteSnapshot', disk: 2, name: 's3' } as const] : []),
  { kind: 'reap' },
  { kind: 'restart', ending: endingOf(r) },
  { kind: 'read', disk: 2, first: 0, count: 700 },
];

/** Writes go from one volume to another while a set is taken: its members must be of one moment. */
const setAmongWrites: Story = (r) => [
  { kind: 'snapshot', name: 's1' },
  { kind: 'fork', name: 's1', to: 1 },
  ...Array.from({ length: 8 }, (): Operation => {
    const disk = r.below(2);
    return { kind: 'write', disk, first: 8 * r.below(16), count: 8, fua: false, wait: false };
  }),
  { kind: 'deleteSnapshot', name: 'set1' },
  { kind: 'deleteSnapshot', disk: 1, name: 'set1' },
  ...(r.below(3) === 0
    ? [{ kind: 'crash', ending: endingOf(r), io: 1 + r.below(60), when: 'after' } as const]
    : []),
  { kind: 'set', name: 'set1', steps: r.below(3) === 0 ? r.below(8) : null },
  { kind: 'write', first: 8, count: 8, fua: false, wait: true },
  { kind: 'write', disk: 1, first: 8, count: 8, fua: false, wait: true },
];

export const stories: readonly Story[] = [
  storeAway,
  journalFull,
  cleanedMeanwhile,
  segmentsAhead,
  middleGoes,
  flattened,
  setAmongWrites,
];
