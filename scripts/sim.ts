/**
 * The simulation of volumes on a host that crashes.
 *
 *   npm run sim -- [--seeds N] [--start S] [--operations N] [--seconds N] [--report FILE] [--metamorphic | --mutants]
 *   npm run sim -- --seed X [--operations N] [--keep 3,17,18]
 *
 * Prints seeds and events per second and how often each fault and scenario fired; for the first failing seed the shortest list of
 * operations that still fails, and the command that repeats it (`--keep` names the operations that are left).
 *
 *   --start S        first seed; `commit` takes it from the newest commit, so that every commit runs other seeds
 *   --step N         only every N-th seed
 *   --seconds N      begins new seeds until that time is over
 *   --jobs N         in N processes, which share the seeds
 *   --share N        with --seconds: percent of the time for comparing histories under all option sets
 *   --metamorphic    only compares histories
 *   --report FILE    the counts as JSON, and for each scenario of docs/internals/protocol.md how often it fired;
 *                    scripts/check-protocol.ts reads it
 *   --mutants        breaks a copy of the code in every way that test/sim/mutants.ts names and expects each to be caught
 */
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { engine } from '../test/sim/engine-program.ts';
import { operationsOf, simulate } from '../test/sim/harness.ts';
import { lateRename } from '../test/sim/late-rename.ts';
import { compareHistories } from '../test/sim/metamorphic.ts';
import { control, mutants, runMutant } from '../test/sim/mutants.ts';
import { optionSets, optionsOf } from '../test/sim/options.ts';
import { choose, explain } from '../test/sim/shrink.ts';

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '20' },
    start: { type: 'string', default: '1' },
    step: { type: 'string', default: '1' },
    jobs: { type: 'string', default: '1' },
    seed: { type: 'string' },
    operations: { type: 'string', default: '200' },
    keep: { type: 'string' },
    'no-shrink': { type: 'boolean', default: false },
    'until-failure': { type: 'boolean', default: false },
    mutants: { type: 'boolean', default: false },
    mutant: { type: 'string' },
    metamorphic: { type: 'boolean', default: false },
    share: { type: 'string', default: '0' },
    seconds: { type: 'string' },
    report: { type: 'string' },
  },
});

const say = (text: string): void => {
  process.stdout.write(`${text}\n`);
};

interface Report {
  readonly seeds: number;
  readonly events: number;
  readonly failures: number;
  readonly scenarios: Readonly<Record<string, number>>;
  readonly counts: Readonly<Record<string, number>>;
}

const root = join(import.meta.dirname, '..');
const operationsPerSeed = Number(values.operations);
const startedMs = performance.now();
const endsMs = startedMs + Number(values.seconds ?? Number.MAX_SAFE_INTEGER) * 1000;
const failuresMax = values['until-failure'] ? 1 : 5;
const totals = new Map<string, number>();
let runs = 0;
let events = 0;
let failures = 0;

const add = (what: string, times = 1): void => {
  totals.set(what, (totals.get(what) ?? 0) + times);
};

if (values.mutants || values.mutant !== undefined) process.exit(await breakEverything());
if (values.seed !== undefined) await runSeed(Number(values.seed));
else if (Number(values.jobs) > 1) await runJobs(Number(values.jobs));
else await runSeeds();
summarize();
process.exitCode = failures === 0 ? 0 : 1;

/** The seed that a commit begins with; the same for everybody who runs that commit. */
function firstSeed(): number {
  if (values.start !== 'commit') return Number(values.start);
  const found = spawnSync('git', ['rev-parse', 'HEAD'], { cwd: root, encoding: 'utf8' });
  const commit = found.status === 0 ? found.stdout.trim() : '';
  const seed = commit === '' ? 1 : 1 + Number.parseInt(commit.slice(0, 7), 16);
  say(
    commit === '' ? 'no commit to be found: seeds from 1' : `commit ${commit}: seeds from ${seed}`,
  );
  return seed;
}

async function runSeeds(): Promise<void> {
  const first = firstSeed();
  const count = values.seconds === undefined ? Number(values.seeds) : Number.MAX_SAFE_INTEGER;
  const compareMs = ((endsMs - startedMs) * Number(values.share)) / 100;
  if (!values.metamorphic) await runWhile(first, count, endsMs - compareMs, runSeed);
  if (values.metamorphic || Number(values.share) > 0)
    await runWhile(first, count, endsMs, compareSeed);
}

/** The same in several processes; each takes every n-th seed. */
async function runJobs(jobs: number): Promise<void> {
  const first = firstSeed();
  const directory = mkdtempSync(join(tmpdir(), 'dvce-sim-'));
  const passed = ['operations', 'share', 'seconds'] as const;
  const flags = ['no-shrink', 'until-failure', 'metamorphic'] as const;
  const common = [
    ...passed.flatMap((name) => (values[name] === undefined ? [] : [`--${name}`, values[name]])),
    ...flags.filter((name) => values[name]).map((name) => `--${name}`),
    ...['--step', String(jobs), '--seeds', String(Math.ceil(Number(values.seeds) / jobs))],
  ];
  try {
    const running = Array.from({ length: jobs }, (_, job) => {
      const report = join(directory, `${job}.json`);
      return runJob([...common, '--start', String(first + job), '--report', report], report);
    });
    await Promise.all(running);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

async function runJob(args: readonly string[], reportPath: string): Promise<void> {
  const child = spawn(process.execPath, [import.meta.filename, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => {
    output += chunk.toString();
  });
  const status = await new Promise<number | null>((resolve) => {
    child.on('close', resolve);
  });
  const report = JSON.parse(readFileSync(reportPath, 'utf8')) as Report;
  runs += report.seeds;
  events += report.events;
  failures += report.failures;
  for (const [what, times] of Object.entries(report.counts)) add(what, times);
  if (status !== 0)
    say(
      output
        .split('\n')
        .filter((line) => !/^ {2,}\d+ {2}[a-z]/.test(line))
        .join('\n'),
    );
}

async function runWhile(
  first: number,
  count: number,
  untilMs: number,
  task: (seed: number) => Promise<void>,
): Promise<void> {
  const step = Number(values.step);
  for (let done = 0; done < count && failures < failuresMax; done += 1) {
    const seed = first + done * step;
    if (performance.now() > untilMs) return;
    await task(seed);
  }
}

async function runSeed(seed: number): Promise<void> {
  if (runs % 50 === 0) await sleepers(seed);
  const maker = engine({ options: optionsOf(seed) });
  const all = operationsOf(maker, seed, operationsPerSeed);
  const operations =
    values.keep === undefined ? all : choose(all, values.keep.split(',').map(Number));
  const begunMs = performance.now();
  const result = await simulate(maker, seed, operations);
  runs += 1;
  events += result.events;
  for (const [what, times] of result.counts) add(what, times);
  add(`options: ${maker.options.name}`);
  if (result.problem === undefined) return;
  failures += 1;
  const tookMs = Math.round(performance.now() - begunMs);
  say(`FAILED seed ${seed} "${maker.options.name}" (${tookMs} ms): ${result.problem}`);
  const isExplained = values['no-shrink'] || values['until-failure'] || values.keep !== undefined;
  if (!isExplained && failures === 1) say(await explain(maker, seed, all));
}

/** The same operations under every option set. */
async function compareSeed(seed: number): Promise<void> {
  const result = await compareHistories(
    (options) => engine({ options }),
    optionSets,
    seed,
    operationsPerSeed,
  );
  runs += result.histories;
  events += result.events;
  add('histories compared', result.histories);
  add('looks compared', result.looks);
  if (result.problem === undefined) return;
  failures += 1;
  say(`FAILED histories of seed ${seed}: ${result.problem}`);
  say(`again: npm run sim -- --metamorphic --start ${seed} --seeds 1`);
}

/** Scenario 2 needs two writers, which the random operations do not have. */
async function sleepers(seed: number): Promise<void> {
  for (const sleeper of ['segment', 'head'] as const) {
    const problem = await lateRename(seed, sleeper);
    add(`scenario 2: a ${sleeper} arrives after its place was passed`);
    if (problem === undefined) continue;
    failures += 1;
    say(`FAILED seed ${seed}, a late ${sleeper}: ${problem}`);
  }
}

function summarize(): void {
  for (const [what, times] of [...totals].sort(([a], [b]) => (a < b ? -1 : 1)))
    say(`${String(times).padStart(9)}  ${what}`);
  const seconds = (performance.now() - startedMs) / 1000;
  const rate = (runs / seconds).toFixed(1);
  const eventRate = Math.round(events / seconds);
  say(`${runs} runs in ${seconds.toFixed(0)} s: ${rate} seeds/s, ${events} events, ${eventRate}/s`);
  if (values.report !== undefined) writeReport(values.report);
  say(failures === 0 ? `${runs} seeds passed` : `${failures} seeds failed`);
}

function writeReport(path: string): void {
  const scenarios: Record<string, number> = {};
  for (const [what, times] of totals) {
    const number = /^scenario (\d+)\b/.exec(what)?.[1];
    if (number !== undefined) scenarios[number] = (scenarios[number] ?? 0) + times;
  }
  const report: Report = {
    seeds: runs,
    events,
    failures,
    scenarios,
    counts: Object.fromEntries(totals),
  };
  writeFileSync(path, `${JSON.stringify(report, null, 2)}\n`);
}

/** @returns the exit status */
async function breakEverything(): Promise<number> {
  const chosen = mutants.filter(({ name }) => name.includes(values.mutant ?? ''));
  const seeds = Number(values.seeds);
  const unbroken = await runMutant(root, control, seeds);
  if (unbroken.isCaught) {
    say(`the unbroken code fails on these seeds, so no mutant can be judged: ${unbroken.says}`);
    return 1;
  }
  let missed = 0;
  for (const mutant of chosen) {
    const { isCaught, says, seconds } = await runMutant(root, mutant, seeds);
    if (!isCaught) missed += 1;
    say(`${isCaught ? 'caught' : 'MISSED'}  ${mutant.name} (${seconds.toFixed(0)} s): ${says}`);
  }
  say(`${chosen.length - missed} of ${chosen.length} mutants caught`);
  return missed === 0 ? 0 : 1;
}
