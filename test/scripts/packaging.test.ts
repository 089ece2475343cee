/**
 * What packaging/ says fits the program: units name entries and options that exist, groups that are made, each other; the
 * settings are right. Whether systemd and dpkg like it: test/long/package.test.ts.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, globSync, readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import t from 'tap';
import { parse } from 'yaml';
import { readCommandLine } from '../../src/agent/command-line.ts';
import { parseBlockdArguments } from '../../src/blockd/options.ts';
import { configurationSchema, readConfiguration } from '../../src/config/index.ts';

const root = resolve(import.meta.dirname, '../..');
const packaging = join(root, 'packaging');
const read = (...path: string[]): string => readFileSync(join(packaging, ...path), 'utf8');
const unitNames = readdirSync(join(packaging, 'systemd')).filter((name) =>
  /\.(service|socket)$/.test(name),
);

/** `Key=value` lines of a unit, all of a key together. */
function unit(name: string): Map<string, string[]> {
  const keys = new Map<string, string[]>();
  for (const [, key = '', value = ''] of read('systemd', name).matchAll(/^([A-Za-z]+)=(.*)$/gm))
    keys.set(key, [...(keys.get(key) ?? []), value]);
  return keys;
}

const commandOf = (name: string): string[] =>
  (unit(name).get('ExecStart')?.[0] ?? '').split(' ').filter((word) => !word.startsWith('$'));

t.test('services start entries and give options that exist', async (t) => {
  for (const name of ['dvce-agent.service', 'dvce-blockd.service']) {
    const command = commandOf(name);
    const [program = '', ...words] = command;
    t.ok(program.startsWith('/usr/lib/dvce/'), program);
    t.ok(existsSync(join(root, program.slice('/usr/lib/dvce/'.length))), program);
    const entry = words.find((word) => word.endsWith('.js')) ?? '';
    const source = entry.replace('/usr/lib/dvce/dist/', 'src/').replace(/js$/, 'ts');
    t.ok(existsSync(join(root, source)), source);
    const given = words.slice(words.indexOf(entry) + 1);
    if (name === 'dvce-blockd.service') {
      const parsed = parseBlockdArguments(given);
      t.match(parsed, { options: { dataDirectory: '/var/lib/dvce', foreground: true } });
    } else {
      const nothing = { DVCE_CONFIG: join(packaging, 'dvce.yaml') };
      const parsed = await readCommandLine(given, nothing);
      t.match(parsed, { dataDirectory: '/var/lib/dvce', isBlockdExternal: true });
    }
  }
});

t.test('units, scripts and the builder speak of the same units, groups and files', async (t) => {
  const builder = readFileSync(join(root, 'scripts/package.ts'), 'utf8');
  const groups = [...read('systemd', 'dvce.sysusers').matchAll(/^g (\S+)/gm)].map(([, g]) => g);
  const texts = new Map([
    ...unitNames.map((name) => [name, read('systemd', name)] as const),
    ...['postinst', 'prerm', 'postrm'].map((name) => [name, read('debian', name)] as const),
  ]);
  for (const [name, text] of texts)
    for (const [said] of text.matchAll(/\bdvce-[a-z]+\.(service|socket|target|timer)\b/g))
      t.ok(unitNames.includes(said), `${name}: ${said}`);
  for (const name of unitNames) {
    t.match(builder, `'${name}'`, `${name} is in the package`);
    t.match(read('debian', 'postinst'), name, `${name} is enabled`);
    const keys = unit(name);
    for (const group of keys.get('SocketGroup') ?? []) t.ok(groups.includes(group), group);
    t.same(keys.get('Documentation'), ['file:///usr/share/doc/dvce/install.md'], name);
  }
  t.match(builder, "'docs/operations/install.md'");
  for (const name of ['dvce-agent.service', 'dvce-blockd.service'])
    t.equal(unit(name).get('StateDirectoryMode')?.[0], '0751', name);
  // Where owners differ, systemd gives everything below to the unit's user when it starts, the sockets of the groups too.
  const state = /^d \/var\/lib\/dvce +(\S+) (\S+) (\S+)/m.exec(read('systemd', 'dvce.tmpfiles'));
  t.same(state?.slice(1), ['0751', 'root', 'root']);
  t.equal(unit('dvce-agent.socket').get('FileDescriptorName')?.[0], 'agent');
});

t.test('scripts are shell, and tools that are started are depended upon', async (t) => {
  for (const name of ['postinst', 'prerm', 'postrm'])
    t.doesNotThrow(() => execFileSync('sh', ['-n', join(packaging, 'debian', name)]), name);
  const control = read('debian', 'control');
  const source = globSync('src/**/*.ts', { cwd: root })
    .map((path) => readFileSync(join(root, path), 'utf8'))
    .join('\n');
  for (const [tool, name] of [
    ['qemu-img', 'qemu-utils'],
    ['systemd-notify', 'systemd'],
    ['xz', 'xz-utils'],
    ['ip', 'iproute2'],
  ] as const)
    if (source.includes(`'${tool}'`))
      t.match(control, new RegExp(`^(Depends|Recommends):.*\\b${name}\\b`, 'm'), tool);
});

t.test('the settings of the package are right and have a published schema', async (t) => {
  const path = join(packaging, 'dvce.yaml');
  const { problems } = await readConfiguration({ environment: {}, path });
  t.same(problems, []);
  const published = JSON.parse(
    readFileSync(join(root, 'docs/reference/dvce-config.schema.json'), 'utf8'),
  ) as object;
  t.same(published, await configurationSchema());
  const validate = new Ajv2020({ strict: false }).compile(published);
  t.ok(validate(parse(readFileSync(path, 'utf8'))), JSON.stringify(validate.errors));
  t.notOk(validate({ data: { dri: '/x' } }), 'an unknown key is refused');
  t.match(readFileSync(path, 'utf8'), '$schema=/usr/share/dvce/dvce-config.schema.json');
  const builder = readFileSync(join(root, 'scripts/package.ts'), 'utf8');
  t.match(builder, "'docs/reference/*.schema.json'");
});
