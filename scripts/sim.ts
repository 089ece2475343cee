/**
 * The simulation of a volume on a host that crashes.
 *
 *   npm run sim -- [--seeds N] [--start S] [--operations N] [--seed X] [--seconds N] [--report FILE] [--mutants]
 *
 * With --seconds it begins new seeds until that time is over. The report has the counts as JSON, and for each scenario of
 * docs/internals/protocol.md how often it fired; scripts/check-protocol.ts reads it.
 * With --mutants it breaks a copy of the code in every way that test/sim/mutants.ts names and expects each to be caught.
 * Prints how often everything happened, and for the first failing seed the shortest list of operations that still fails.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { engine } from '../test/sim/engine-target.ts';
import { explain, operationsOf, simulate } from '../test/sim/harness.ts';
import { lateRename } from '../test/sim/late-rename.ts';
import { control, mutants, runMutant } from '../test/sim/mutants.ts';

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '20' },
    start: { type: 'string', default: '1' },
    seed: { type: 'string' },
    operations: { type: 'string', default: '80' },
    'no-shrink': { type: 'boolean', default: false },
    'until-failure': { type: 'boolean', default: false },
    mutants: { type: 'boolean', default: false },
    seconds: { type: 'string' },
    report: { type: 'string' },
  },
});

const say = (text: string): void => {
  process.stdout.write(`${text}\n`);
};

const first = Number(values.seed ?? values.start);
const wanted = values.seconds === undefined ? Number(values.seeds) : Number.MAX_SAFE_INTEGER;
const count = values.seed === undefined ? wanted : 1;
const endsMs = performance.now() + Number(values.seconds ?? Number.MAX_SAFE_INTEGER) * 1000;
let run = 0;
const totals = new Map<string, number>();
const maker = engine();
let failures = 0;
const failuresMax = values['until-failure'] ? 1 : 5;
if (values.mutants) process.exit(await breakEverything());
for (let seed = first; seed < first + count && failures < failuresMax; seed += 1) {
  if (performance.now() > endsMs) break;
  run += 1;
  if (seed === first || seed % 25 === 0) await sleepers(seed);
  const operations = operationsOf(maker, seed, Number(values.operations));
  const started = performance.now();
  const result = await simulate(maker, seed, operations);
  for (const [what, times] of result.counts) totals.set(what, (totals.get(what) ?? 0) + times);
  if (result.problem === undefined) continue;
  failures += 1;
  say(`FAILED seed ${seed} (${Math.round(performance.now() - started)} ms): ${result.problem}`);
  if (!values['no-shrink'] && !values['until-failure'] && failures === 1)
    say(await explain(maker, seed, operations));
}
for (const [what, times] of [...totals].sort(([a], [b]) => (a < b ? -1 : 1)))
  say(`${String(times).padStart(8)}  ${what}`);
if (values.report !== undefined) {
  const scenarios: Record<string, number> = {};
  for (const [what, times] of totals) {
    const number = /^scenario (\d+)\b/.exec(what)?.[1];
    if (number !== undefined) scenarios[number] = (scenarios[number] ?? 0) + times;
  }
  const report = { seeds: run, failures, scenarios, counts: Object.fromEntries(totals) };
  writeFileSync(values.report, `${JSON.stringify(report, null, 2)}\n`);
}
say(failures === 0 ? `${run} seeds passed` : `${failures} seeds failed`);
process.exitCode = failures === 0 ? 0 : 1;

/** Scenario 2 needs two writers, which the random operations do not have. */
async function sleepers(seed: number): Promise<void> {
  for (const sleeper of ['segment', 'head'] as const) {
    const problem = await lateRename(seed, sleeper);
    if (problem !== undefined) {
      failures += 1;
      say(`FAILED seed ${seed}, a late ${sleeper}: ${problem}`);
    }
    const what = `scenario 2: a ${sleeper} arrives after its place was passed`;
    totals.set(what, (totals.get(what) ?? 0) + 1);
  }
}

/** @returns the exit status */
async function breakEverything(): Promise<number> {
  const root = join(import.meta.dirname, '..');
  const unbroken = await runMutant(root, control, Number(values.seeds));
  if (unbroken.isCaught) {
    say(`the unbroken code fails on these seeds, so no mutant can be judged: ${unbroken.says}`);
    return 1;
  }
  let missed = 0;
  for (const mutant of mutants) {
    const { isCaught, says } = await runMutant(root, mutant, Number(values.seeds));
    if (!isCaught) missed += 1;
    say(`${isCaught ? 'caught' : 'MISSED'}  ${mutant.name}: ${says}`);
  }
  say(`${mutants.length - missed} of ${mutants.length} mutants caught`);
  return missed === 0 ? 0 : 1;
}
