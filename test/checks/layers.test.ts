/** The layer rules find a planted fault of each kind, in a tree of their own; and the real tree has a place for each folder. */
import { spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  realpathSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import t, { type Test } from 'tap';
import { allowedPattern, layers } from '../../scripts/layers.ts';

const root = resolve(import.meta.dirname, '../..');

/** A small tree that keeps every rule, plus `faults`. @returns names of the violated rules */
function violations(t: Test, faults: Readonly<Record<string, string>>): string[] {
  const directory = t.testdir({});
  const good: Record<string, string> = {
    'src/base/index.ts': "export * from './errors.ts';\n",
    'src/base/errors.ts': 'export const code = 1;\n',
    'src/hlfs/index.ts': "export { volume, type Volume } from './volume.ts';\n",
    'src/hlfs/volume.ts':
      "import { code } from '../base/index.ts';\nexport const volume = code;\nexport type Volume = number;\n",
    'src/nbd/index.ts': "export { code as server } from '../base/index.ts';\n",
    'src/agent/main.ts':
      "import { volume } from '../hlfs/index.ts';\nimport { server } from '../nbd/index.ts';\nexport const all = volume + server;\n",
    'scripts/tool.ts':
      "import { all } from '../src/agent/main.ts';\nexport const twice = 2 * all;\n",
  };
  cpSync(join(root, '.dependency-cruiser.mjs'), join(directory, '.dependency-cruiser.mjs'));
  cpSync(join(root, 'tsconfig.json'), join(directory, 'tsconfig.json'));
  cpSync(join(root, 'package.json'), join(directory, 'package.json'));
  for (const [name, text] of Object.entries({ ...good, ...faults })) {
    mkdirSync(join(directory, name, '..'), { recursive: true });
    writeFileSync(join(directory, name), text);
  }
  cpSync(join(root, 'scripts/layers.ts'), join(directory, 'scripts/layers.ts'));
  symlinkSync(join(root, 'node_modules'), join(directory, 'node_modules'));
  const { stdout, stderr } = spawnSync(
    process.execPath,
    [
      realpathSync(join(root, 'node_modules/.bin/depcruise')),
      '--output-type=json',
      'src',
      'scripts',
    ],
    { cwd: directory, encoding: 'utf8' },
  );
  t.equal(stderr, '');
  const report = JSON.parse(stdout) as {
    summary: { violations: { rule: { name: string }; from: string }[] };
  };
  return [...new Set(report.summary.violations.map(({ rule }) => rule.name))].sort();
}

t.test('a tree that keeps the rules has no violation', async (t) => {
  t.same(violations(t, {}), []);
});

const planted: readonly [rule: string, files: Readonly<Record<string, string>>][] = [
  [
    'layer-nbd',
    {
      'src/nbd/index.ts':
        "import type { Volume } from '../hlfs/index.ts';\nexport const server: Volume = 1;\n",
    },
  ],
  ['layer-base', { 'src/base/errors.ts': "export { server as code } from '../nbd/index.ts';\n" }],
  [
    'no-cycles',
    {
      'src/hlfs/volume.ts':
        "import { part } from './part.ts';\nexport const volume = part;\nexport type Volume = number;\n",
      'src/hlfs/part.ts':
        "import { volume } from './volume.ts';\nexport const part = () => volume;\n",
    },
  ],
  [
    'front-door',
    {
      'src/agent/main.ts':
        "import { volume } from '../hlfs/volume.ts';\nexport const all = volume;\n",
    },
  ],
  ['known-layer', { 'src/misc/main.ts': "export { code } from '../base/index.ts';\n" }],
  ['no-orphans', { 'src/hlfs/dead.ts': 'export const dead = 1;\n' }],
  [
    'src-stands-alone',
    { 'src/agent/main.ts': "export { layers as all } from '../../scripts/layers.ts';\n" },
  ],
  [
    'placement-pure',
    {
      'src/placement/index.ts':
        "import { readFileSync } from 'node:fs';\nexport { readFileSync };\n",
      'src/agent/main.ts': "export { readFileSync as all } from '../placement/index.ts';\n",
    },
  ],
  ['unresolvable', { 'src/hlfs/volume.ts': "export { volume, type Volume } from './gone.ts';\n" }],
  [
    'no-dev-in-src',
    {
      'src/hlfs/volume.ts':
        "import t from 'tap';\nexport const volume = t.pass;\nexport type Volume = number;\n",
    },
  ],
];
for (const [rule, files] of planted)
  t.test(`a planted fault is found: ${rule}`, async (t) => {
    t.ok(violations(t, files).includes(rule));
  });

t.test('the command layer may import the API client only', async (t) => {
  t.equal(allowedPattern('cli'), 'cli|base|config|api');
  t.notOk(allowedPattern('agent').split('|').includes('cli'));
});

t.test('every folder of src/ has a place and a front door with a header', async (t) => {
  for (const name of readdirSync(join(root, 'src'))) {
    t.ok(layers[name], `${name} is in the table`);
    const doors = ['index.ts', 'main.ts'].filter((door) =>
      existsSync(join(root, 'src', name, door)),
    );
    t.ok(doors.length > 0, `${name} has an index.ts, or is a program with a main.ts`);
  }
});
