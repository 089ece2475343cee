/**
 * The suites of the test command, in the order in which they run, each with its time budget. A suite over its budget
 * fails. The budgets of the normal run sum to less than `totalSecondsMax`.
 *
 * A step is either a command, which counts as one test, or a set of test files, whose tests are counted. A test file may
 * raise its own limit with a line `// limit: 300 s` among its first thirty.
 */
import { existsSync, globSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';

export interface CommandStep {
  readonly name: string;
  readonly command: readonly string[];
  /** The step is skipped by name when this file does not exist. */
  readonly needs?: string;
}

export interface Suite {
  readonly name: string;
  readonly budgetSeconds: number;
  /** Limit of one file or command unless it states its own. */
  readonly limitSeconds: number;
  /** Test files that run at the same time. */
  readonly jobs: number;
  /** Only with --all or --only. */
  readonly long?: true;
  /** What its tests find in their environment. */
  readonly environment?: Readonly<Record<string, string>>;
  readonly before?: readonly CommandStep[];
  /** Which test files belong to it, as globs. */
  readonly files: readonly string[];
  readonly after?: readonly CommandStep[];
}

/** The whole normal run on two cores, installation apart. */
export const totalSecondsMax = 1310;

export const simReport = 'node_modules/.cache/sim-report.json';

/** Where the agents of the system tests write which operations of the API they were asked for; they run elsewhere. */
const accessLog = resolve('node_modules/.cache/api-access.log');

const node = process.execPath;
/** Without it most of the system tests are skipped, each by name. */
const hypervisor = '/usr/bin/qemu-system-x86_64';

export const suites: readonly Suite[] = [
  {
    name: 'checks',
    budgetSeconds: 45,
    limitSeconds: 90,
    jobs: 2,
    before: [
      { name: 'types: tsc', command: ['tsc'] },
      {
        name: 'lint and format: biome',
        command: ['biome', 'ci', '--colors=off', '--diagnostic-level=error', '.'],
      },
      {
        name: 'layers: dependency-cruiser',
        command: [
          'depcruise',
          ...['src', 'scripts', 'test', 'bench'].filter((name) => existsSync(name)),
        ],
      },
      { name: 'unused code: knip', command: ['knip', '--no-config-hints'] },
      {
        name: 'reference pages are current',
        command: [node, 'scripts/reference.ts', '--check'],
      },
      {
        name: 'protocol rules and bugs have code and tests',
        command: [node, 'scripts/check-protocol.ts', 'rules'],
      },
    ],
    files: ['test/checks/**/*.test.ts'],
  },
  {
    name: 'unit',
    budgetSeconds: 220,
    limitSeconds: 90,
    jobs: 2,
    files: ['test/**/*.test.ts'],
  },
  {
    name: 'contract',
    budgetSeconds: 15,
    limitSeconds: 60,
    jobs: 2,
    files: ['test/contract/**/*.test.ts'],
  },
  {
    name: 'sim',
    budgetSeconds: 100,
    limitSeconds: 180,
    jobs: 2,
    before: [
      {
        name: 'simulation slice',
        // Two minutes of simulation on two cores; other seeds for each commit.
        command: [
          node,
          'scripts/sim.ts',
          ...['--seconds', '62', '--jobs', '2', '--share', '15', '--start', 'commit'],
          ...['--report', simReport],
        ],
        needs: 'scripts/sim.ts',
      },
      {
        name: 'scenarios of the protocol fired in the simulation',
        command: [node, 'scripts/check-protocol.ts', 'scenarios', '--report', simReport],
        needs: 'scripts/sim.ts',
      },
    ],
    files: ['test/sim/**/*.test.ts'],
  },
  {
    name: 'system',
    budgetSeconds: 930,
    limitSeconds: 120,
    // They wait for guests, syncs and deadlines most of the time: one at a time leaves two thirds of two cores idle.
    jobs: 2,
    environment: { DVCE_ACCESS_LOG: accessLog },
    before: [
      {
        name: 'access log of the API',
        command: [node, 'scripts/check-api-coverage.ts', '--begin', accessLog],
      },
    ],
    files: ['test/system/**/*.test.ts'],
    after: [
      {
        name: 'every operation of the API was asked for (E-07)',
        command: [node, 'scripts/check-api-coverage.ts', accessLog],
        needs: hypervisor,
      },
    ],
  },
  {
    name: 'long',
    budgetSeconds: 7200,
    limitSeconds: 1800,
    jobs: 1,
    long: true,
    files: ['test/long/**/*.test.ts'],
  },
];

/** Test files of each suite: every file belongs to the suite whose folder it is in, the rest to `unit`. */
export function filesOf(suite: Suite, root = '.'): string[] {
  const own = globSync([...suite.files], { cwd: root });
  if (suite.name !== 'unit') return own.sort();
  const others = new Set(
    suites.flatMap((other) => (other === suite ? [] : globSync([...other.files], { cwd: root }))),
  );
  return own.filter((file) => !others.has(file)).sort();
}

/** The limit of one test file in seconds. */
export function limitOf(suite: Suite, file: string): number {
  const head = readFileSync(file, 'utf8').split('\n', 30).join('\n');
  const own = /^\/\/ limit: (\d+) s$/m.exec(head);
  return own === null ? suite.limitSeconds : Number(own[1]);
}
