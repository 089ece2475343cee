/**
 * Random histories of volumes against the model: every read, snapshot, clone, diff and block status agrees with it, whatever
 * is closed, killed, published, cleaned or reaped in between.
 *
 * A history is a list of plain values: what fast-check prints for a failure can be put into `regressions` as it is.
 */
// limit: 150 s
import fc from 'fast-check';
import t from 'tap';
import { History, type Step } from '../support/engine-history.ts';
import { regressions } from './volume-regressions.ts';

// The file's own limit is above; tap's 30 s for a file that runs alone is too short.
t.setTimeout(1_000_000);

const natural = fc.nat({ max: 2 ** 31 - 1 });
const lengths = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom(1, 511, 512, 513, 4095, 4096, 4097, 8192, 65_536) },
  { weight: 3, arbitrary: fc.integer({ min: 1, max: 20_000 }) },
  { weight: 2, arbitrary: fc.integer({ min: 1, max: 200 }).map((blocks) => blocks * 4096) },
  { weight: 1, arbitrary: fc.integer({ min: 1 << 20, max: 3 << 20 }) },
);
const places = fc.record({
  at: natural,
  alignBytes: fc.constantFrom(1, 512, 4096, 4096, 4096, 65_536),
  length: lengths,
});

const kinds: readonly [number, fc.Arbitrary<Step>][] = [
  [
    12,
    fc.record({
      kind: fc.constant('write' as const),
      place: places,
      fill: natural,
      fua: fc.boolean(),
    }),
  ],
  [3, fc.record({ kind: fc.constant('read' as const), place: places })],
  [
    3,
    fc.record({
      kind: fc.constant('trim' as const),
      place: places,
      factor: fc.constantFrom(1, 1, 100),
    }),
  ],
  [
    3,
    fc.record({
      kind: fc.constant('zero' as const),
      place: places,
      noHole: fc.boolean(),
      factor: fc.constantFrom(1, 1, 100),
    }),
  ],
  [2, fc.record({ kind: fc.constant('flush' as const) })],
  [
    3,
    fc.record({
      kind: fc.constant('burst' as const),
      places: fc.array(places, { minLength: 2, maxLength: 6 }),
      fill: natural,
      snapshot: fc.boolean(),
    }),
  ],
  [2, fc.record({ kind: fc.constant('snapshot' as const) })],
  [1, fc.record({ kind: fc.constant('deleteSnapshot' as const), which: natural })],
  [2, fc.record({ kind: fc.constant('clone' as const), which: natural })],
  [1, fc.record({ kind: fc.constant('rollback' as const), which: natural })],
  [1, fc.record({ kind: fc.constant('deleteVolume' as const), which: natural })],
  [1, fc.record({ kind: fc.constant('resize' as const), to: natural })],
  [2, fc.record({ kind: fc.constant('select' as const), which: natural })],
  [2, fc.record({ kind: fc.constant('reopen' as const) })],
  [
    3,
    fc.record({
      kind: fc.constant('kill' as const),
      during: fc.constantFrom(
        'nothing' as const,
        'burst' as const,
        'publish' as const,
        'snapshot' as const,
        'reclaim' as const,
        'close' as const,
      ),
      places: fc.array(places, { minLength: 1, maxLength: 5 }),
      fill: natural,
      turns: fc.nat({ max: 12 }),
    }),
  ],
  [2, fc.record({ kind: fc.constant('churn' as const), place: places, fill: natural })],
  [2, fc.record({ kind: fc.constant('publish' as const) })],
  [2, fc.record({ kind: fc.constant('reclaim' as const) })],
  [1, fc.record({ kind: fc.constant('age' as const) })],
  [1, fc.record({ kind: fc.constant('check' as const) })],
  [1, fc.record({ kind: fc.constant('reap' as const) })],
  [2, fc.record({ kind: fc.constant('diff' as const), from: natural, to: natural })],
  [
    2,
    fc.record({
      kind: fc.constant('extents' as const),
      place: places,
      factor: fc.constantFrom(1, 16, 1000),
    }),
  ],
  [1, fc.record({ kind: fc.constant('verify' as const) })],
];
const step = fc.oneof(...kinds.map(([weight, arbitrary]) => ({ weight, arbitrary })));

const modes = {
  'small volumes, the usual map cache': { sizeBytes: 12 << 20 },
  'small volumes, the smallest map cache': { sizeBytes: 16 << 20, mapCacheBytes: 1 },
  '512-byte blocks, a size that is no multiple of 4096': {
    sizeBytes: (5 << 20) + 512,
    blockBytes: 512,
  },
  'offsets up to 16 TiB, the smallest map cache': { sizeBytes: 2 ** 44, mapCacheBytes: 1 },
} as const;

for (const [mode, options] of Object.entries(modes))
  t.test(
    `J1 L2 G1 G2 G6 B-10 B-26 B-33 random histories agree with the model: ${mode}`,
    async (t) => {
      let runs = 0;
      await fc.assert(
        fc.asyncProperty(
          fc.array(step, { minLength: 25, maxLength: 60, size: 'max' }),
          async (steps) => {
            runs += 1;
            await History.run(options, steps);
          },
        ),
        {
          numRuns: Number(process.env['PROPERTY_RUNS'] ?? 6),
          ...(process.env['PROPERTY_SEED'] === undefined
            ? {}
            : { seed: Number(process.env['PROPERTY_SEED']) }),
          interruptAfterTimeLimit: Number(process.env['PROPERTY_SECONDS'] ?? 20) * 1000,
          endOnFailure: process.env['PROPERTY_SHRINK'] === undefined,
        },
      );
      t.ok(runs > 0, `${runs} histories`);
    },
  );

for (const { name, options, steps } of regressions)
  t.test(`a history that failed once: ${name}`, async (t) => {
    await History.run(options, steps);
    t.pass(`${steps.length} steps`);
  });
