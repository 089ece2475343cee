/** Pages that are generated are current; pages that list files list all of them. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import t from 'tap';
import { withLayers } from '../../scripts/architecture.ts';

const root = resolve(import.meta.dirname, '../..');
const read = (path: string): string => readFileSync(join(root, path), 'utf8');

t.test('the table of folders in ARCHITECTURE.md is current', async (t) => {
  const page = read('ARCHITECTURE.md');
  t.equal(page, withLayers(page), 'run: node scripts/architecture.ts');
});

for (const folder of ['design', 'format', 'guide', 'operations', 'reference', 'internals'])
  t.test(`docs/${folder}/README.md leads to every page of the folder`, async (t) => {
    const index = read(`docs/${folder}/README.md`);
    for (const name of readdirSync(join(root, 'docs', folder)))
      if (name.endsWith('.md') && name !== 'README.md')
        t.ok(index.includes(`](${name})`), `${name} has a link`);
    t.pass('looked at');
  });

t.test('every design record has a state, and decided ones have all parts', async (t) => {
  const names = readdirSync(join(root, 'docs/design')).filter((name) => /^DD-\d{4}-/.test(name));
  for (const name of names) {
    const text = read(`docs/design/${name}`);
    t.match(text, new RegExp(`^# ${name.slice(0, 7)}: `));
    t.match(text, /^State: (proposed|decided|replaced by DD-\d{4})/m, name);
    for (const part of ['Context', 'Decision', 'Consequences'])
      t.ok(text.includes(`## ${part}\n`), `${name} has ${part}`);
  }
});

t.test('the README names the commands that exist', async (t) => {
  const readme = read('README.md');
  for (const script of ['scripts/quickstart.sh', 'scripts/test.sh']) {
    t.ok(readme.includes(script));
    t.ok(existsSync(join(root, script)), `${script} exists`);
  }
});
