/** The command line without an agent: help, parsing, errors, exit codes, completion words. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { resolve } from 'node:path';
import t from 'tap';
import { ApiClient } from '../../src/api/index.ts';
import { exitCodes } from '../../src/base/index.ts';
import { candidates } from '../../src/cli/complete.ts';
import { buildProgram, type Execute } from '../../src/cli/program.ts';
import type { Given } from '../../src/cli/spec.ts';
import { nouns, singles } from '../../src/cli/tree/index.ts';

const root = resolve(import.meta.dirname, '../..');
const data = mkdtempSync('/tmp/dvce-none-');
t.teardown(() => rmSync(data, { recursive: true }));

function dvce(...args: string[]): { code: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(`${root}/bin/dvce`, args, {
    encoding: 'utf8',
    input: '',
    env: { ...process.env, DVCE_DATA_DIR: data },
  });
  return { code: status, stdout, stderr };
}

/** Every command as the words that name it. */
const all = [
  ...nouns.flatMap((noun) =>
    noun.commands.map((command) => ({ words: [noun.name, command.name], command })),
  ),
  ...singles.map((command) => ({ words: [command.name], command })),
];

async function helpOf(words: readonly string[]): Promise<string> {
  let text = '';
  const program = buildProgram(async () => {}, {
    out: (part) => {
      text += part;
    },
    error: () => {},
  });
  await program.parseAsync([...words, '--help'], { from: 'user' }).catch((error: unknown) => {
    if (!(error instanceof Error && 'exitCode' in error && error.exitCode === 0)) throw error;
  });
  return text;
}

t.test('every help starts with three to eight examples, of a noun with some', async (t) => {
  for (const words of [[], ...nouns.map(({ name }) => [name]), ...all.map(({ words }) => words)]) {
    const help = await helpOf(words);
    t.match(help, /^Examples:\n {2}dvce /, `dvce ${words.join(' ')}`);
    const examples = help.slice(0, help.indexOf('\n\n')).split('\n').slice(1);
    const least = words.length === 0 || nouns.some(({ name }) => name === words.join(' ')) ? 1 : 3;
    t.ok(
      examples.length >= least && examples.length <= 8,
      `${words.join(' ')}: ${examples.length}`,
    );
  }
});

t.test('no example hides its own failure', async (t) => {
  for (const { command } of all)
    for (const example of command.examples) t.notMatch(example, /\|\| *true/, example);
});

t.test('every example is about its command, and parses', async (t) => {
  for (const { words, command } of all)
    for (const example of command.examples) {
      t.ok(example.includes(`dvce ${words.join(' ')}`), example);
      // Only what has no shell in it can be parsed here; a system test runs them all.
      if (/["'$|>&]/.test(example)) continue;
      let reached = false;
      const execute: Execute = async () => {
        reached = true;
      };
      const program = buildProgram(execute, { out: () => {}, error: () => {} });
      await program.parseAsync(example.split(' ').slice(1), { from: 'user' });
      t.ok(reached, example);
    }
});

t.test('every command can be loaded', async (t) => {
  for (const { words, command } of all) t.type(await command.run(), 'function', words.join(' '));
});

/** What a command would be given. */
async function parse(line: string): Promise<Given> {
  let found: Given | undefined;
  const execute: Execute = async ({ given }) => {
    found = given;
  };
  const program = buildProgram(execute, { out: () => {}, error: () => {} });
  await program.parseAsync(line.split(' '), { from: 'user' });
  if (found === undefined) throw new Error(`nothing ran for ${line}`);
  return found;
}

t.test('texts become values', async (t) => {
  const create = await parse('volume create /a --size 1.5GiB -l a=b --label c=d=e --protect');
  t.equal(create.argument('path'), '/a');
  t.equal(create.number('size'), 1.5 * 1024 ** 3);
  t.strictSame(create.labels('label'), { a: 'b', c: 'd=e' });
  t.equal(create.flag('protect'), true);
  t.equal(create.flag('ifNotExists'), false);
  const vm = await parse('vm create x --disk /a --disk /b,1GiB --cpus 2');
  t.strictSame(vm.texts('disk'), ['/a', '/b,1GiB']);
  t.equal(vm.number('cpus'), 2);
  t.equal((await parse('vm stop x --timeout 1m')).number('timeout'), 60_000);
  t.equal((await parse('volume check /a --no-wait')).choice('wait'), false);
  t.equal((await parse('volume update /a --protect')).choice('protect'), true);
  t.equal((await parse('volume update /a --no-protect')).choice('protect'), false);
  t.equal((await parse('volume update /a')).choice('protect'), undefined);
});

t.test('what is not valid ends with 64 and says what would be', async (t) => {
  const cases: readonly (readonly [string, RegExp])[] = [
    ['volum list', /unknown command 'volum'\n {2}Did you mean volume\?/],
    ['volume creat /a', /Did you mean create\? See: dvce volume --help/],
    [
      'volume create /a --size 1GiB --jornal 1GiB',
      /Did you mean --journal\? See: dvce volume create --help/,
    ],
    ['volume create /a', /required option '-s, --size <size>' not specified/],
    ['volume show', /missing required argument 'path'/],
    ['volume show /a /b', /too many arguments/],
    ['volume create /a --size tomorrow', /the size "tomorrow" is not valid/],
    ['volume create /a --size 10GB', /the size "10GB" is not valid/],
    ['volume create /a --size 1GiB --block 1000', /Allowed choices are 512, 4096/],
    ['volume create /a --size 1GiB --label x', /it is not KEY=VALUE/],
    ['vm create a --cpus -1', /.+/],
    ['vm stop a --timeout soon', /the duration "soon" is not valid/],
    ['volume list -o xml', /Allowed choices are table, json, yaml, csv, name, wide/],
    ['snapshot create /a', /it names no snapshot/],
    ['snapshot create /a@b@c', /not valid/],
    ['completion tcsh', /Allowed choices are bash, zsh, fish/],
    ['volume recover /a', /nobody accepted that/],
    ['api GET /v1/status --body {', /the body is not valid: it is not JSON/],
  ];
  for (const [line, message] of cases) {
    const { code, stderr, stdout } = dvce(...line.split(' '));
    t.equal(code, exitCodes.usage, line);
    t.match(stderr, message, line);
    t.match(stderr, /^error: .*\n {2}\S/, `${line}: a message and what to do next`);
    t.equal(stdout, '', 'standard output carries data only');
  }
});

t.test('a noun alone shows its help and ends with 64', async (t) => {
  const { code, stderr, stdout } = dvce('volume');
  t.equal(code, exitCodes.usage);
  t.match(stderr, /^Examples:/);
  t.equal(stdout, '');
});

t.test('without an agent: exit code 2 and how to start one', async (t) => {
  for (const line of ['volume list', 'status', 'vm show x', 'op list', 'api GET /v1/status']) {
    const { code, stderr, stdout } = dvce(...line.split(' '));
    t.equal(code, exitCodes.unhealthy, line);
    t.match(stderr, /agent\.sock: its socket does not exist\n {2}Start it with: dvce up\n$/, line);
    t.equal(stdout, '');
  }
  t.match(dvce('version'), { code: 0, stdout: /agent {3}does not run/ });
  t.match(dvce('down'), { code: 0, stderr: /No agent runs/ });
});

t.test('a data directory with too long a path', async (t) => {
  const long = `/tmp/${'x'.repeat(110)}`;
  const { code, stderr } = dvce('--data-dir', long, 'agent');
  t.equal(code, exitCodes.usage);
  t.match(stderr, /the system takes at most 107/);
});

t.test('completion knows commands, options and their values', async (t) => {
  const none = (): ApiClient => new ApiClient(`${data}/none.sock`);
  const of = (line: string, current = '') =>
    candidates(line.split(' ').filter(Boolean), current, none);
  t.ok((await of('')).includes('snapshot'));
  t.strictSame(
    await of('snapshot'),
    nouns[1]?.commands.map(({ name }) => name),
  );
  t.ok((await of('volume create', '--')).includes('--size'));
  t.strictSame(await of('volume create /a --block'), ['512', '4096']);
  t.strictSame(await of('--output'), ['table', 'json', 'yaml', 'csv', 'name', 'wide']);
  t.strictSame(await of('completion'), ['bash', 'zsh', 'fish']);
  t.strictSame(await of('volume show'), [], 'without an agent no names, and no error');
  t.strictSame(await of('nothing at'), []);
});

t.test('the completion scripts are scripts', async (t) => {
  const check = (shell: string, args: string[]) => {
    const script = dvce('completion', shell).stdout;
    return spawnSync(args[0] ?? '', args.slice(1), { input: script, encoding: 'utf8' });
  };
  t.equal(check('bash', ['bash', '-n']).status, 0);
  t.match(dvce('completion', 'zsh').stdout, /^#compdef dvce/);
  t.match(dvce('completion', 'fish').stdout, /complete -c dvce/);
  const asked = spawnSync(
    'bash',
    [
      '-c',
      `${dvce('completion', 'bash').stdout}\nCOMP_WORDS=(dvce volume cr) COMP_CWORD=2; _dvce; echo "\${COMPREPLY[@]}"`,
    ],
    { encoding: 'utf8', env: { ...process.env, PATH: `${root}/bin:${process.env['PATH']}` } },
  );
  t.equal(asked.stdout.trim(), 'create', asked.stderr);
});
