// limit: 600 s
/** Every example of every help text, run as it stands, in the order of the command tree, with a guest that boots. */
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { nouns, rootExamples, singles } from '../../src/cli/tree/index.ts';
import { until } from '../support/blockd-process.ts';
import { type Dvce, freshDvce } from '../support/dvce.ts';
import { demoImage, guestsMissing } from '../support/guest-rig.ts';

t.setTimeout(600_000);

const readyWeb1 = 'dvce vm wait web1 --for agent --timeout 2m';
const unexportAll = 'dvce volume exports -o name | xargs -r -n1 dvce volume unexport';
const deletedVolume = [
  'dvce volume create /test/tmp --size 1GiB',
  'dvce volume delete /test/tmp --yes',
];

/** What has to be so before an example runs: each is about one thing, and the story is long. */
const before: Readonly<Record<string, readonly string[]>> = {
  // Volumes and snapshots begin with nothing.
  'dvce volume create /prod/db --size 10GiB': [
    'dvce vm stop web1 --force',
    'dvce vm delete web1 --yes',
    'dvce image delete debian --yes',
    'dvce trash empty --yes',
  ],
  'dvce volume clone /prod/db /test/db': ['dvce snapshot create /prod/db@before-upgrade'],
  'dvce volume undelete /test/tmp': deletedVolume,
  'dvce volume undelete /test/tmp --to /test/back': ['dvce volume delete /test/tmp --yes'],
  'dvce volume undelete "$(dvce trash list -o name | head -1)" --to /test/last': deletedVolume,
  'dvce volume unexport "$(dvce volume export /prod/db -o name)"': [unexportAll],
  [unexportAll]: ['dvce volume export /prod/web', 'dvce volume export /prod/db@before-upgrade'],
  'dvce volume at /prod/ledger --time "$(date +%FT%T)"': [
    `qemu-io -f raw -c 'write -q 0 4k' -c flush "$(dvce volume export /prod/ledger --socket)"`,
    unexportAll,
    // The example names a time in whole seconds, and the flush has to be before it.
    'sleep 1.1',
  ],
  'dvce snapshot create /prod/db@before-upgrade': [
    'dvce volume delete /test/db2 --yes --now',
    'dvce volume delete /test/db3 --yes --now',
    'dvce trash empty --yes',
    'dvce snapshot delete /prod/db@before-upgrade --yes',
  ],
  "dvce schedule create nightly --volumes '/prod/**' --every '*-*-* 02:00' --keep 7": [
    'dvce volume update /prod/db --label tier=gold',
  ],
  'dvce trash empty /test/tmp --yes': deletedVolume,

  // A guest that boots, one at a time.
  'dvce vm create app1 --image debian --user-data app1.yaml --ssh-key keys.pub --hostname app1.example.org':
    [
      "printf '#cloud-config\\n{}\\n' > app1.yaml",
      'echo ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGuVZ1h2wJmJxW2J8m8FqXfR2i0vJ2d3i5Uo1m3gYy2b > keys.pub',
    ],
  'dvce vm start web1 --ready': ['dvce vm stop web1 --force'],
  'dvce vm pause web1': ['dvce vm start web1 --ready'],
  'dvce vm pause web1 -o json': ['dvce vm resume web1'],
  'dvce vm resume web1 -o json': ['dvce vm pause web1'],
  'dvce vm reboot web1': [readyWeb1],
  'dvce op wait "$(dvce vm reboot web1 --no-wait)"': [readyWeb1],
  'dvce vm attach-disk web1 /vms/web1/more --size 64MiB': [readyWeb1],
  'dvce vm snapshot web1@release-4 --quiesce': [readyWeb1],
  'dvce vm rollback web1@before-upgrade --dry-run': ['dvce vm stop web1 --force'],
  'dvce vm vnc screen1': ['dvce vm start screen1'],
  'dvce vm log web1': ['dvce vm stop screen1 --force'],

  // The rest of the host.
  'dvce op cancel "$(dvce image import huge.raw huge --no-wait)"': ['truncate -s 64G huge.raw'],
  'dvce config check ./dvce.yaml': ["printf 'vm:\\n  memory: 1GiB\\n' > dvce.yaml"],
  'dvce top': ['dvce vm wait web5 --for running'],
  'dvce down --dry-run': ['dvce vm stop web5 --force'],
  'dvce down --stop-vms --timeout 2m': ['dvce up', 'dvce vm start web5 --ready'],
  'dvce status': ['dvce up'],
  'dvce console web1': ['dvce vm start web1'],
  'dvce agent': ['dvce vm stop web1 --force', 'dvce down'],
  'dvce api GET /v1/status': ['dvce up'],
  'dvce api DELETE /v1/volumes/prod%2Fdb --dry-run': [
    'for one in $(dvce snapshot list /prod/db -o name); do dvce snapshot update $one --no-protect; done',
  ],
};

/** Examples that run until they are told to stop, and how one sees that they work. */
const foreground: Readonly<Record<string, (dvce: Dvce, directory: string) => Promise<boolean>>> = {
  'dvce agent': async (dvce, directory) =>
    (await dvce.cli(`status --data-dir ${directory}`)).code === 0,
  'dvce blockd': async (dvce, directory) =>
    (await dvce.shell(`test -S ${directory}/run/blockd.sock`)).code === 0,
};

/** An example that prints changes as they happen. */
async function prints(t: Test, dvce: Dvce, example: string): Promise<void> {
  const running = dvce.begin(example.split(' ').slice(1));
  let number = 0;
  await until(`${example} to print a change`, async () => {
    number += 1;
    await dvce.ok(`volume update /prod/web --label number=${number}`);
    return running.stdout().includes('volume.changed');
  });
  running.child.kill('SIGINT');
  t.equal((await running.ended).code, 130, example);
}

const skip = guestsMissing('qemu-img');
t.test('examples of the help texts', { skip, timeout: 590_000 }, async (t) => {
  const dvce = freshDvce(t);
  const must = async (line: string): Promise<void> => {
    const { code, stderr } = await dvce.shell(line, { input: '' });
    if (code !== 0) throw new Error(`${line}: ${code} ${stderr}`);
  };
  await must(`qemu-img convert -f raw -O qcow2 ${demoImage('--agent')} debian.qcow2`);
  await must('qemu-img create -q -f raw disk.raw 4M');

  const runs = async (example: string, works: (typeof foreground)[string]): Promise<void> => {
    // Another directory of an operator is one that the test does not own.
    const other = join(dvce.directory, 'srv');
    const directory = example.includes('/srv/dvce') ? other : dvce.data;
    const running = dvce.begin(example.replace('/srv/dvce', other).split(' ').slice(1));
    await until(`${example} to answer`, async () => {
      if (running.child.exitCode !== null) throw new Error(running.stderr());
      return works(dvce, directory);
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
  for (const line of Object.keys(before)) t.ok(examples.includes(line), `an example: ${line}`);
  const slow: (readonly [ms: number, example: string])[] = [];
  const run = async (example: string): Promise<void> => {
    const endless = Object.keys(foreground).find(
      (line) => example === line || example.startsWith(`${line} --`),
    );
    const works = endless === undefined ? undefined : foreground[endless];
    if (works !== undefined) return runs(example, works);
    if (example === 'dvce event') return prints(t, dvce, example);
    const { code, stderr, stdout } = await dvce.shell(example, { input: '' });
    t.equal(code, 0, example, { stderr, stdout: stdout.slice(0, 2000) });
  };
  for (const [at, example] of examples.entries()) {
    // The first ones tell a story of their own, from nothing.
    if (at >= rootExamples.length) for (const line of before[example] ?? []) await must(line);
    const startedMs = performance.now();
    await run(example);
    slow.push([performance.now() - startedMs, example]);
  }
  t.match(await dvce.ok('audit list -o json'), /"openVmConsole"/, 'a console is written down');
  for (const [ms, example] of slow.sort(([a], [b]) => b - a).slice(0, 12))
    t.comment(`${Math.round(ms)} ms: ${example}`);
});
