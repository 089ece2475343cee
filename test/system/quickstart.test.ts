/** The quickstart, as a newcomer runs it: it works, it cleans up after itself, and it fails when something fails. */
// limit: 240 s
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { resolve } from 'node:path';
import t, { type Test } from 'tap';
import { demoImage, guestsMissing, until } from '../support/guest-rig.ts';

t.setTimeout(240_000);
const skip = guestsMissing();
const script = resolve(import.meta.dirname, '../../scripts/quickstart.sh');

interface Summary {
  ok: boolean;
  steps: Record<string, number>;
  seconds: number;
  sha256?: string;
  failed?: string;
}

interface Run {
  readonly child: ChildProcess;
  /** TMPDIR of the run: everything it makes is in here. */
  readonly directory: string;
  stdout(): string;
}

function start(t: Test, ...args: string[]): Run {
  const directory = mkdtempSync('/tmp/dvce-qs-');
  const child = spawn(script, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, TMPDIR: directory },
  });
  let stdout = '';
  child.stdout.on('data', (bytes: Buffer) => {
    stdout += bytes.toString();
  });
  child.stderr.resume();
  t.teardown(() => {
    child.kill('SIGTERM');
    rmSync(directory, { recursive: true, force: true });
  });
  return { child, directory, stdout: () => stdout };
}

const summary = (run: Run): Summary =>
  JSON.parse(run.stdout().trim().split('\n').at(-1) ?? '') as Summary;

/** Processes that have the run's directory among their arguments. */
function processesOf(run: Run): string[] {
  return readdirSync('/proc').filter((name) => {
    if (!/^\d+$/.test(name)) return false;
    try {
      return readFileSync(`/proc/${name}/cmdline`, 'latin1').includes(run.directory);
    } catch {
      return false; // it ended meanwhile
    }
  });
}

t.test('the whole main job works, and nothing is left of it', { skip }, async (t) => {
  demoImage(); // a second run is what has a limit
  const run = start(t);
  const [status] = (await once(run.child, 'close')) as [number];
  t.equal(status, 0, run.stdout());
  const told = summary(run);
  t.equal(told.ok, true);
  t.match(told.sha256, /^[0-9a-f]{64}$/);
  t.same(Object.keys(told.steps), [
    ...['prepare', 'image', 'agent', 'import', 'clone', 'boot', 'write'],
    ...['snapshot', 'destroy', 'rollback', 'reboot', 'verify', 'stop'],
  ]);
  t.comment(`second run: ${told.seconds} s`);
  t.match(run.stdout(), /boot the VM from its volume/, 'each step is said');
  t.same(processesOf(run), []);
  t.same(readdirSync(run.directory), []);
});

t.test('told to stop in the middle, it stops what it started', { skip }, async (t) => {
  const run = start(t, '--json');
  await until('an agent and a guest run', 90_000, () => processesOf(run).length >= 4);
  run.child.kill('SIGTERM');
  const [status] = (await once(run.child, 'close')) as [number];
  t.equal(status, 143);
  t.equal(run.stdout().trim().split('\n').length, 1, 'with --json there is only the last line');
  t.match(summary(run), { ok: false, failed: String });
  t.same(processesOf(run), []);
  t.same(readdirSync(run.directory), []);
});

t.test('a step that fails is named, and the exit status tells', { skip }, async (t) => {
  const run = start(t, '--dir', '/proc/none');
  const [status] = (await once(run.child, 'close')) as [number];
  t.equal(status, 1);
  t.match(summary(run), { ok: false, failed: 'prepare' });
});
