/**
 * The simulation of a volume on a host that crashes.
 *
 *   npm run sim -- [--seeds N] [--start S] [--operations N] [--seed X]
 *
 * Prints how often everything happened, and for the first failing seed the shortest list of operations that still fails.
 */
import { parseArgs } from 'node:util';
import { engine } from '../test/sim/engine-target.ts';
import { explain, operationsOf, simulate } from '../test/sim/harness.ts';

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '20' },
    start: { type: 'string', default: '1' },
    seed: { type: 'string' },
    operations: { type: 'string', default: '80' },
    'no-shrink': { type: 'boolean', default: false },
  },
});

const say = (text: string): void => {
  process.stdout.write(`${text}\n`);
};

const first = Number(values.seed ?? values.start);
const count = values.seed === undefined ? Number(values.seeds) : 1;
const totals = new Map<string, number>();
const maker = engine();
let failures = 0;
for (let seed = first; seed < first + count && failures < 5; seed += 1) {
  const operations = operationsOf(maker, seed, Number(values.operations));
  const started = performance.now();
  const result = await simulate(maker, seed, operations);
  for (const [what, times] of result.counts) totals.set(what, (totals.get(what) ?? 0) + times);
  if (result.problem === undefined) continue;
  failures += 1;
  say(`FAILED seed ${seed} (${Math.round(performance.now() - started)} ms): ${result.problem}`);
  if (!values['no-shrink'] && failures === 1) say(await explain(maker, seed, operations));
}
for (const [what, times] of [...totals].sort(([a], [b]) => (a < b ? -1 : 1)))
  say(`${String(times).padStart(8)}  ${what}`);
say(failures === 0 ? `${count} seeds passed` : `${failures} seeds failed`);
process.exitCode = failures === 0 ? 0 : 1;
