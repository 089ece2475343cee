/**
 * The engine in the simulation: a slice of seeds, runs that once failed, and writers that sleep through a takeover.
 * `npm run sim` runs as many seeds as wanted.
 */
import t from 'tap';
import { MiB } from '../../src/base/index.ts';
import { engine } from './engine-program.ts';
import { operationsOf, simulate } from './harness.ts';
import { lateRename } from './late-rename.ts';
import { logDevice } from './log-device.ts';
import { compareHistories } from './metamorphic.ts';
import type { Operation } from './operations.ts';
import { optionSets, optionsOf, type SimOptions, shippedOptions } from './options.ts';
import type { SimTargetMaker } from './target.ts';

t.test(
  'J1 content after every crash is a prefix of the journal order with everything flushed in it',
  async (t) => {
    for (let seed = 1; seed <= 12; seed += 1) {
      const maker = engine({ options: optionsOf(seed) });
      const { problem } = await simulate(maker, seed, operationsOf(maker, seed, 80));
      t.equal(problem, undefined, `seed ${seed}`);
    }
  },
);

t.test('the same operations under different options give one history', async (t) => {
  const makerOf = (options: SimOptions): SimTargetMaker => engine({ options });
  const result = await compareHistories(makerOf, optionSets, 1, 60);
  t.equal(result.problem, undefined);
  t.equal(result.histories, optionSets.length);
  t.ok(result.looks > 8 * optionSets.length, `${result.looks} looks`);
});

t.test('a history that differs is noticed', async (t) => {
  // A smaller device gets other operations.
  const makerOf = (options: SimOptions): SimTargetMaker => ({
    ...logDevice(),
    ...(options.name === 'tiny journal' ? { sectors: 256 } : {}),
  });
  const result = await compareHistories(makerOf, optionSets, 3, 60);
  t.match(result.problem, /"tiny journal" against "small": look/);
});

t.test('the same seed gives the same run', async (t) => {
  const maker = engine();
  const operations = operationsOf(maker, 7, 60);
  const [one, two] = [await simulate(maker, 7, operations), await simulate(maker, 7, operations)];
  t.same([...one.counts], [...two.counts]);
});

interface Regression {
  readonly name: string;
  readonly seed: number;
  readonly options: SimOptions;
  readonly operations: readonly Operation[];
}

const regressions: readonly Regression[] = [
  {
    name: 'J5 J8 writes go on after two journal files were given up',
    seed: 452,
    options: { ...shippedOptions, sizeBytes: 4 * MiB },
    operations: [
      { kind: 'write', first: 102, count: 2785, fua: false, wait: true },
      { kind: 'flush', wait: false },
      { kind: 'write', first: 3230, count: 2956, fua: false, wait: false },
      { kind: 'fault', fault: 'syncError' },
      { kind: 'write', first: 6509, count: 24, fua: true, wait: false },
      { kind: 'write', first: 34, count: 3140, fua: true, wait: false },
      { kind: 'flush', wait: true },
      { kind: 'write', first: 5120, count: 8, fua: false, wait: true },
    ],
  },
];

for (const { name, seed, options, operations } of regressions)
  t.test(name, async (t) => {
    t.equal((await simulate(engine({ options }), seed, operations)).problem, undefined);
  });

for (const sleeper of ['segment', 'head'] as const)
  t.test(`S1 S2 a ${sleeper} that arrives long after a takeover changes nothing`, async (t) => {
    for (let seed = 1; seed <= 3; seed += 1)
      t.equal(await lateRename(seed, sleeper), undefined, `seed ${seed}`);
  });
