// limit: 420 s
/** Runs the examples of the documentation, page by page, against a real agent in a data directory of its own. */
import { execFileSync, spawn } from 'node:child_process';
import {
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { delimiter, join, resolve } from 'node:path';
import t from 'tap';
import { type Example, examplesIn } from '../support/examples.ts';

const root = resolve(import.meta.dirname, '../..');

const onPath = (tool: string): boolean =>
  `${process.env['PATH']}:/usr/sbin:/sbin`
    .split(delimiter)
    .some((directory) => existsSync(join(directory, tool)));

interface Outcome {
  readonly status: number | null;
  readonly output: string;
}

/** A checkout whose content is the real one, and in which what a page writes is not: it is gone with the directory. */
function checkout(directory: string): void {
  mkdirSync(directory);
  mkdirSync(join(root, '.vm'), { recursive: true });
  for (const name of readdirSync(root)) symlinkSync(join(root, name), join(directory, name));
}

/** Blocks of a page share one shell's variables: each block begins with the assignments of those before it. */
function runBlock(example: Example, assignments: string, directory: string): Promise<Outcome> {
  const child = spawn('bash', ['-euo', 'pipefail', '-c', `${assignments}\n${example.script}`], {
    cwd: join(directory, 'checkout'),
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: example.limitMs,
    env: {
      ...process.env,
      PATH: `${join(root, 'bin')}:${process.env['PATH']}:/usr/sbin:/sbin`,
      DVCE_DATA_DIR: join(directory, 'data'),
      XDG_CONFIG_HOME: join(directory, 'config'),
    },
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => {
      output = (output + chunk.toString('utf8')).slice(-8192);
    });
  return new Promise((done) => child.on('exit', (status) => done({ status, output })));
}

// Named pages alone, for whoever writes one: DVCE_TEST_PAGES=docs/guide/api.md
const pages = process.env['DVCE_TEST_PAGES']?.split(',') ?? [
  'README.md',
  ...globSync('docs/{guide,operations}/*.md', { cwd: root }).sort(),
];
const examples = pages.flatMap((page) => examplesIn(page, readFileSync(join(root, page), 'utf8')));

t.setTimeout(420_000);

t.test('there are examples to run', async (t) => {
  t.ok(examples.length >= pages.length);
});

for (const page of new Set(examples.map((example) => example.page)))
  t.test(`the examples of ${page} work`, { timeout: 400_000 }, async (t) => {
    const directory = mkdtempSync('/tmp/dvce-docs-');
    checkout(join(directory, 'checkout'));
    const environment = { ...process.env, DVCE_DATA_DIR: join(directory, 'data') };
    t.teardown(() => {
      try {
        execFileSync(join(root, 'bin/dvce'), ['down', '--stop-vms'], {
          env: environment,
          stdio: 'ignore',
          timeout: 60_000,
        });
      } catch {
        // The page has stopped the agent itself, or it never ran; what still runs is found by the test runner.
      }
      rmSync(directory, { recursive: true, force: true });
    });
    let assignments = '';
    for (const example of examples.filter((each) => each.page === page)) {
      const name = `${page}:${example.line}`;
      const missing = example.needs.filter((tool) => !onPath(tool));
      if (missing.length > 0) {
        await t.test(name, { skip: `needs ${missing.join(', ')}` }, async () => {});
        continue;
      }
      const { status, output } = await runBlock(example, assignments, directory);
      t.equal(status, 0, `${name} ends with status 0`, { script: example.script, output });
      for (const [line] of example.script.matchAll(/^[a-z_]+="[^"]*"$/gm))
        assignments += `${line}\n`;
      if (status !== 0) break;
    }
  });
