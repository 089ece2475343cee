// limit: 300 s
/** Every example of every help text, run as it stands, in the order of the command tree. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import t from 'tap';
import { nouns, rootExamples, singles } from '../../src/cli/tree/index.ts';
import { until } from '../support/blockd-process.ts';
import { freshDvce } from '../support/dvce.ts';

const missing = ['qemu-img', 'qemu-system-x86_64'].filter(
  (tool) => spawnSync(tool, ['--version']).error !== undefined,
);

/** What has to be so before an example runs. */
const before: Readonly<Record<string, readonly string[]>> = {
  'dvce vm create app1 --image debian --user-data app1.yaml --ssh-key keys.pub --hostname app1.example.org':
    [
      "printf '#cloud-config\\n{}\\n' > app1.yaml",
      'echo ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGuVZ1h2wJmJxW2J8m8FqXfR2i0vJ2d3i5Uo1m3gYy2b > keys.pub',
    ],
  'dvce volume create /prod/db --size 10GiB': [
    'dvce vm stop web1 --force',
    'dvce vm delete web1 --yes',
    'dvce image delete debian --yes',
  ],
  'dvce volume clone /prod/db /test/db': ['dvce snapshot create /prod/db@before-upgrade'],
  'dvce snapshot create /prod/db@before-upgrade': [
    'dvce volume delete /test/db2 --yes --now',
    'dvce volume delete /test/db3 --yes --now',
    'dvce trash empty --yes',
    'dvce snapshot delete /prod/db@before-upgrade --yes',
  ],
  'dvce volume delete /test/tmp --yes && dvce volume undelete /test/tmp': [
    'dvce volume create /test/tmp --size 1GiB',
  ],
  'dvce volume delete /test/tmp --yes && dvce trash empty /test/tmp --yes': [
    'dvce volume create /test/tmp --size 1GiB',
  ],
  'dvce vm start web1 --timeout 2m': ['dvce vm stop web1 --force'],
  'dvce status': ['dvce up'],
  'dvce console web1': ['dvce up', 'dvce vm show web1 | grep -q running || dvce vm start web1'],
  'dvce agent': ['dvce vm stop web1 --force', 'dvce down'],
  'dvce api GET /v1/status': ['dvce up'],
};

/** Examples that run until they are told to stop, and what is there once they work. */
const foreground = ['dvce agent', 'dvce blockd'];

const skip = missing.length > 0 ? `needs ${missing.join(', ')}` : false;
t.test('examples of the help texts', { skip }, async (t) => {
  const dvce = freshDvce(t);
  const must = async (line: string): Promise<void> => {
    const { code, stderr } = await dvce.shell(line, { input: '' });
    if (code !== 0) throw new Error(`${line}: ${code} ${stderr}`);
  };
  await must('qemu-img create -q -f qcow2 debian.qcow2 64M');
  await must('qemu-img create -q -f raw disk.raw 4M');

  const runs = async (example: string): Promise<void> => {
    // The second form names a directory that a test does not own.
    const other = join(dvce.directory, 'srv');
    const directory = example.includes('/srv/dvce') ? other : dvce.data;
    const running = dvce.begin(example.replace('/srv/dvce', other).split(' ').slice(1));
    await until(`${example} to answer`, async () => {
      if (running.child.exitCode !== null) throw new Error(running.stderr());
      if (example.startsWith('dvce agent'))
        return (await dvce.cli(`status --data-dir ${directory}`)).code === 0;
      return (await dvce.shell(`test -S ${directory}/run/blockd.sock`)).code === 0;
    });
    running.child.kill('SIGTERM');
    t.equal((await running.ended).code, 0, example);
    // An agent leaves blockd running; here it must not stay.
    t.equal((await dvce.cli(`down --data-dir ${directory}`)).code, 0);
  };

  const examples = [
    ...rootExamples,
    ...nouns.flatMap(({ commands }) => commands.flatMap((command) => command.examples)),
    ...singles.flatMap((command) => command.examples),
  ];
  for (const [at, example] of examples.entries()) {
    // The first ones tell a story of their own, from nothing.
    if (at >= rootExamples.length) for (const line of before[example] ?? []) await must(line);
    if (foreground.some((line) => example === line || example.startsWith(`${line} --`))) {
      await runs(example);
      continue;
    }
    const { code, stderr } = await dvce.shell(example, { input: '' });
    t.equal(code, 0, example, { stderr });
  }
});
