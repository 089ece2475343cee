/** The configuration: precedence, origins, positions of mistakes, what belongs to another data directory. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Ajv } from 'ajv';
import t, { type Test } from 'tap';
import {
  blockdOptions,
  loadConfiguration,
  readConfiguration,
  secretFile,
  settingList,
  strayVariables,
} from '../../src/config/index.ts';
import { configurationSchema } from '../../src/config/schema.ts';
import { variableOf } from '../../src/config/settings.ts';

function folder(t: Test, files: Readonly<Record<string, string>>): string {
  const directory = mkdtempSync('/tmp/dvce-config-');
  t.teardown(() => rmSync(directory, { recursive: true }));
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(directory, name)), { recursive: true });
    writeFileSync(join(directory, name), text);
  }
  return join(directory, 'dvce.yaml');
}

t.test('flag, then variable, then file (the last one wins), then default', async (t) => {
  const path = folder(t, {
    'dvce.yaml': 'data: { dir: /srv/a }\nvm:\n  memory: 1GiB\n  cpus: 2\n',
    'conf.d/10-x.yaml': 'vm:\n  cpus: 3\n  stop_timeout: 90s\n',
    'conf.d/05-y.yaml': '# comments only\n\n',
    'conf.d/note.txt': 'not: [read',
    'conf.d/.hidden.yaml': 'not: [read',
  });
  const environment = { DVCE_VM_STOP_TIMEOUT: '2m', DVCE_DATA_DIR: '/srv/a' };
  const flags = { 'log.level': { flag: '--log-level', value: 'warn' } } as const;
  const found = await loadConfiguration({ environment, path, flags });
  const say = (name: Parameters<typeof found.setting>[0]): unknown => {
    const { value, origin } = found.setting(name);
    return [value, origin.kind, origin.where.replace(dirname(path), '')];
  };
  t.strictSame(say('vm.memory'), [1024 ** 3, 'file', '/dvce.yaml:3:3']);
  t.strictSame(say('vm.cpus'), [3, 'file', '/conf.d/10-x.yaml:2:3']);
  t.strictSame(say('vm.stop_timeout'), [120_000, 'environment', 'DVCE_VM_STOP_TIMEOUT']);
  t.strictSame(say('log.level'), ['warn', 'flag', '--log-level']);
  t.strictSame(say('vm.machine'), ['q35', 'default', '']);
});

t.test('every mistake is told with file, line and column, and refuses all of it', async (t) => {
  const path = folder(t, {
    'dvce.yaml':
      'nbd:\n  lsten: 0.0.0.0:1\n  insecure: maybe\nvm:\n  memory: 10GB\n  cpus: 0\nvmm: {}\nlog: debug\ndata:\n  dir: ../x\n',
  });
  const { problems } = await readConfiguration({ environment: {}, path });
  t.strictSame(
    problems.map(({ where, reason }) => `${where.slice(path.length)} ${reason}`),
    [
      ':2:3 the key "lsten" is not known in nbd',
      ':3:3 nbd.insecure is not valid: it is a string, not true or false',
      ':5:3 vm.memory is not valid: it is not a number with a unit B, KiB, MiB, GiB or TiB',
      ':6:3 vm.cpus is not valid: it is less than 1',
      ':7:1 the section "vmm" is not known',
      ':8:1 log is a section, not a value',
      ':10:3 data.dir is not valid: it is not an absolute path',
    ],
  );
  t.match(problems[0]?.advice, /^Did you mean listen\?/);
  t.match(problems[4]?.advice, /^Did you mean vm\?/);
  await t.rejects(loadConfiguration({ environment: {}, path }), {
    code: 'INVALID_CONFIG',
    exitCode: 64,
    message: `${path}:2:3: the key "lsten" is not known in nbd`,
    advice: /:10:3: data\.dir[\s\S]*dvce config check/,
  });
});

t.test('what is no YAML, and what is too much of it', async (t) => {
  const cases: readonly (readonly [string, RegExp])[] = [
    ['vm: [\n', /^\d+:\d+ /],
    ['vm: {cpus: 1}\nvm: {cpus: 2}\n', /^2:1 .*unique/],
    ['- a\n- b\n', /^1:1 it is no group of sections/],
    ['vm:\n  memory:\n', /^2:3 vm\.memory is not valid: it is empty, not a text/],
    ['vm:\n  memory: [1]\n', /it is a list, not a text/],
    ['vm:\n  cpus: 1.5\n', /it is a number, not a whole number/],
    ['vm:\n  cpus: 99999999999999999999\n', /not a whole number/],
    [`vm:\n  qemu: ${'x'.repeat(5000)}\n`, /more than 4096 characters/],
    ['vm:\n  qemu: "a\\u0007b"\n', /control characters/],
    ['nbd:\n  listen: "0.0.0.0:70000"\n', /HOST:PORT/],
    ['log: {level: loud}\n', /none of debug, info, warn, error/],
    [`#${'x'.repeat(2 * 1024 ** 2)}\n`, /more than 1048576 bytes/],
  ];
  for (const [text, expected] of cases) {
    const path = folder(t, { 'dvce.yaml': text });
    const { problems } = await readConfiguration({ environment: {}, path });
    const told = problems.map(({ where, reason }) => `${where.slice(path.length + 1)} ${reason}`);
    t.equal(problems.length, 1, told.join('; '));
    t.match(told[0], expected, text.slice(0, 40));
  }
  const { problems } = await readConfiguration({ environment: { DVCE_CONFIG: '/nowhere/x.yaml' } });
  t.match(problems, [{ where: '/nowhere/x.yaml', reason: 'it does not exist' }]);
});

t.test('a section of comments alone says nothing', async (t) => {
  const path = folder(t, { 'dvce.yaml': 'vm:\n  # cpus: 2\nlog: {}\n' });
  const { problems } = await readConfiguration({ environment: {}, path });
  t.strictSame(problems, []);
});

t.test('addresses and the store of a file are not those of another data directory', async (t) => {
  const path = folder(t, {
    'dvce.yaml':
      'data: {dir: /srv/a, store: /srv/s}\napi: {socket: /run/dvce/api.sock}\nnbd: {listen: "127.0.0.1:1", insecure: true}\nblockd: {workers: 2, export_idle: 5s}\n',
  });
  const own = await loadConfiguration({ environment: { DVCE_DATA_DIR: '/srv/a' }, path });
  t.equal(own.text('api.socket'), '/run/dvce/api.sock');
  t.strictSame(blockdOptions(own), [
    ...[
      '--store',
      '/srv/s',
      '--nbd-tcp',
      '127.0.0.1:1',
      '--workers',
      '2',
      '--export-idle',
      '5000ms',
    ],
    '--nbd-insecure',
  ]);
  const flags = { 'data.dir': { flag: '--data-dir', value: '/srv/b' } };
  const other = await loadConfiguration({ environment: {}, path, flags });
  t.equal(other.text('api.socket'), undefined);
  t.equal(other.text('data.store'), undefined);
  t.equal(other.text('nbd.listen'), undefined);
  t.equal(other.number('blockd.workers'), 2, 'what belongs to the host stays');
});

t.test('a secret is a file or a credential of systemd', async (t) => {
  const path = folder(t, { 'dvce.yaml': 'api: {key_file: api-key}\n' });
  const found = await loadConfiguration({ environment: {}, path });
  const environment = { CREDENTIALS_DIRECTORY: '/run/credentials/dvce' };
  t.equal(secretFile(found, 'api.key_file', environment), '/run/credentials/dvce/api-key');
  t.throws(() => secretFile(found, 'api.key_file', {}), { code: 'INVALID_CONFIG' });
});

t.test('a variable that looks like a setting and is none', async (t) => {
  t.match(strayVariables({ DVCE_VM_CPU: '1', DVCE_QEMU: 'x', DVCE_NODE: 'y', DVCE_VM_CPUS: '1' }), [
    { where: 'DVCE_VM_CPU', advice: /mean DVCE_VM_CPUS\?/ },
  ]);
});

t.test('the published schema says the same', async (t) => {
  const ajv = new Ajv({ strict: false });
  const { $schema: _, ...schema } = configurationSchema() as { $schema: string };
  const validate = ajv.compile(schema);
  for (const { name, ...spec } of settingList) {
    const [section = '', key = ''] = name.split('.');
    if (spec.default !== undefined) t.ok(validate({ [section]: { [key]: spec.default } }), name);
    t.match(JSON.stringify(schema), variableOf(name));
  }
  for (const wrong of [
    { nbd: { lsten: 'x' } },
    { vmm: {} },
    { vm: { memory: '10GB' } },
    { vm: { cpus: 0 } },
  ])
    t.notOk(validate(wrong), JSON.stringify(wrong));
});
