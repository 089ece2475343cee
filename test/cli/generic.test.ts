/** The command tree as a whole: what every command must have because of what it does. */

import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import t from 'tap';
import { ApiClient, Planned } from '../../src/api/index.ts';
import { nearest } from '../../src/base/index.ts';
import { kindOf, optionsOf } from '../../src/cli/generic.ts';
import { manualPages } from '../../src/cli/man.ts';
import type { CommandSpec } from '../../src/cli/spec.ts';
import { globalOptions, nouns, singles } from '../../src/cli/tree/index.ts';

const all = [
  ...nouns.flatMap((noun) =>
    noun.commands.map((command) => ({ words: `${noun.name} ${command.name}`, command })),
  ),
  ...singles.map((command) => ({ words: command.name, command })),
];
const flagsOf = (command: CommandSpec): string[] =>
  optionsOf(command).flatMap(({ flags }) => flags.match(/--[a-z][a-z0-9-]*/g) ?? []);

/** Words that change something, whatever else a command is called. */
const changing = new RegExp(
  `^(${[
    'create|delete|update|rename|resize|clone|import|rollback|start|stop|cancel',
    'set|attach|detach|add|remove|recover|undelete|pause|resume|reset|reboot',
    'launch|up|down|revoke|protect|reload|empty',
  ].join('|')})`,
);

t.test('every mutation has --dry-run; every operation --no-wait and --timeout, too', async (t) => {
  for (const { words, command } of all) {
    const flags = flagsOf(command);
    t.equal(new Set(flags).size, flags.length, `${words}: no option twice`);
    const kind = kindOf(command);
    if (kind === 'mutation' || kind === 'operation')
      t.ok(flags.includes('--dry-run'), `${words}: --dry-run`);
    if (kind === 'operation') {
      t.ok(flags.includes('--no-wait'), `${words}: --no-wait`);
      t.ok(flags.includes('--timeout'), `${words}: --timeout`);
    }
    if (changing.test(command.name))
      if (!words.startsWith('context '))
        // A context is a file of this user, not of the host.
        t.ok(['mutation', 'operation'].includes(kind), `${words} changes something: ${kind}`);
    if (flags.includes('--no-wait')) t.equal(kind, 'operation', `${words} is an operation`);
  }
});

t.test('no command takes an option of all commands for itself', async (t) => {
  const taken = globalOptions.flatMap(({ flags }) => flags.match(/--[a-z][a-z0-9-]*/g) ?? []);
  for (const { words, command } of all)
    for (const flag of flagsOf(command)) t.notOk(taken.includes(flag), `${words} ${flag}`);
});

t.test('a dry run sends no change that is not asked about, and ends with the plan', async (t) => {
  const directory = mkdtempSync('/tmp/dvce-dry-');
  const seen: string[] = [];
  const plan = { dryRun: true, steps: [], warnings: [] };
  const server = createServer((request, response) => {
    seen.push(`${request.method} ${request.url}`);
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(plan));
  });
  const socket = `${directory}/a.sock`;
  await new Promise<void>((resolve) => server.listen(socket, resolve));
  t.teardown(() => {
    server.close();
    rmSync(directory, { recursive: true });
  });
  const api = new ApiClient(socket, { dryRun: true });
  await api.volumes.list();
  await t.rejects(api.volumes.delete('/a'), Planned);
  await t.rejects(api.volumes.update('/a', { protected: true }), Planned);
  await t.rejects(api.http.request('POST', '/v1/x?a=b', { body: {} }), Planned);
  await t.rejects(api.http.request('PUT', '/v1/x', { body: {} }), Planned);
  t.strictSame(seen, [
    'GET /v1/volumes',
    'DELETE /v1/volumes/a?dryRun=true',
    'PATCH /v1/volumes/a?dryRun=true',
    'POST /v1/x?a=b&dryRun=true',
    'PUT /v1/x?dryRun=true',
  ]);
});

t.test('the nearest word', async (t) => {
  const words = ['volume', 'snapshot', 'image', 'vm', 'listen', 'tls_dir'];
  t.equal(nearest('volum', words), 'volume');
  t.equal(nearest('lsiten', words), 'listen');
  t.equal(nearest('SNAPSHOTS', words), 'snapshot');
  t.equal(nearest('xyz', words), undefined);
  t.equal(nearest('v'.repeat(5000), words), undefined);
});

t.test('a manual page for every noun and command, with all of its options', async (t) => {
  const pages = new Map(manualPages('1.2.3').map(({ file, text }) => [file, text]));
  t.match(pages.get('dvce.1'), /\.SH EXIT STATUS[\s\S]*fB130/);
  for (const { words, command } of all) {
    if (command.hidden === true) continue;
    const noun = words.includes(' ') ? words.split(' ')[0] : command.name;
    const page = pages.get(`dvce-${noun}.1`) ?? '';
    t.ok(page.includes(`\\fBdvce ${words.replaceAll('-', '\\-')}\\fR`), words);
    for (const flag of flagsOf(command))
      t.ok(page.includes(flag.replaceAll('-', '\\-')), `${words} ${flag}`);
  }
  for (const [file, text] of pages)
    t.notMatch(
      text,
      /^\.(?!TH |SH |SS |TP$|PP$|RS 4$|RE$|nf$|fi$|br$)/m,
      `${file}: only known requests`,
    );
});
