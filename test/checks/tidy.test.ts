/** Style as a test: the rules of scripts/tidy.ts over the whole project, and each of them over a planted fault. */
import { resolve } from 'node:path';
import t from 'tap';
import { brokenLinks } from '../../scripts/links.ts';
import { codeOf, projectFiles, readTexts } from '../../scripts/text.ts';
import { bannedCalls, bans, type Finding, longFiles, rules } from '../../scripts/tidy.ts';

const root = resolve(import.meta.dirname, '../..');
const files = readTexts(root, projectFiles(root));

const show = (findings: readonly Finding[]): string[] =>
  findings.map(({ rule, path, line, detail }) => `${path}:${line} ${rule}: ${detail}`);

for (const rule of rules)
  t.test(`the project is tidy: ${rule.name}`, async (t) => {
    t.same(show(files.flatMap((file) => rule(file))), []);
  });

t.test('links of the documentation lead somewhere', async (t) => {
  t.same(show(files.flatMap((file) => brokenLinks(root, file))), []);
});

t.test('every exception still excuses something, in a file that exists', async (t) => {
  const used = new Set<string>();
  for (const file of files) bannedCalls(file, used);
  for (const { name, allowed } of bans)
    for (const path of Object.keys(allowed))
      t.ok(used.has(`${name} ${path}`), `${name} in ${path}`);
  for (const path of Object.keys(longFiles)) t.ok(files.some((file) => file.path === path));
});

t.test('each rule finds a planted fault', async (t) => {
  const found = (path: string, text: string): string[] =>
    [...rules.flatMap((rule) => rule({ path, text })), ...brokenLinks(root, { path, text })].map(
      ({ rule }) => rule,
    );
  const source = 'src/hlfs/volume.ts';
  t.same(found(source, 'const x = Date.now();'), ['ban Date.now']);
  t.same(found(source, 'const x = `$' + '{Math.random()}`;'), ['ban Math.random']);
  t.same(found(source, 'setTimeout(f, 5);'), ['ban setTimeout']);
  t.same(found(source, 'console.log(1);'), ['ban console']);
  t.same(found(source, 'const x = process.env.HOME;'), ['ban process.env']);
  t.same(found(source, "exec('ls');"), ['ban exec']);
  t.same(found('test/hlfs/x.ts', 'const x = Date.now();'), []);
  t.same(found(source, 'f();\n'.repeat(401)), ['long file']);
  t.same(found(source, `${'x '.repeat(80)}`), ['long line']);
  t.same(found('src/hlfs/index.ts', "export * from './volume.ts';"), ['front door']);
  t.same(found('README.md', 'see /wo' + 'rk/here'), ['machine path']);
  t.same(found('README.md', 'from registry.npm' + 'js.org'), ['registry host']);
  t.same(found(source, '// TO' + 'DO later'), ['unfinished']);
  t.same(found('test/a.test.ts', 't.on' + "ly('x')"), ['only']);
  t.same(found('package-lock.json', '"resolved": "https://host/x.tgz"'), ['lock']);
  t.same(found('README.md', '[a](docs/none.md) [b](#none) `[c](none)`'), ['link', 'link']);
  t.same(found('CHANGELOG.md', '# Changelog\n\n## [Unreleased]\n### Added\n'), []);
  t.same(found('CHANGELOG.md', '# Changelog\n\n## 1.0\n### New\n').length, 2);
});

t.test('a banned call in a comment or a string is not code', async (t) => {
  const text =
    "// Date.now()\nconst a = 'Date.now()'; /* Math.random\n */ const b = `it's $" + '{c()}`;';
  t.equal(codeOf(text).split('\n').length, text.split('\n').length);
  t.notMatch(codeOf(text), /Date\.now|Math\.random/);
  t.match(codeOf(text), /c\(\)/);
});
