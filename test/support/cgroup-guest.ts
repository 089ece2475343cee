/**
 * Runs in an emulated machine whose kernel has cgroup v2 alone: uses the shipped module, and tells as lines `@ {...}` what the
 * kernel made of it. test/long/cgroup.test.ts judges that.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { MiB, systemTimers } from '../../src/base/index.ts';
import { Cgroups, enteringGroup } from '../../src/vm/cgroup.ts';

const mount = '/sys/fs/cgroup';
const tell = (what: string, facts: object): void => {
  process.stdout.write(`@ ${JSON.stringify({ what, ...facts })}\n`);
};
const text = (path: string): string => readFileSync(path, 'utf8').trim();
const usageUs = (group: string): number =>
  Number(/^usage_usec (\d+)$/m.exec(text(`${group}/cpu.stat`))?.[1]);
const wait = (delayMs: number): Promise<void> => new Promise((wake) => setTimeout(wake, delayMs));

function begin(group: string, ...command: string[]): ChildProcess {
  const [shell = '', ...args] = [...enteringGroup(group), ...command];
  return spawn(shell, args, { stdio: 'ignore' });
}
const busy = ['/bin/busybox', 'sh', '-c', 'while :; do :; done'];

async function end(child: ChildProcess): Promise<void> {
  const gone = once(child, 'exit');
  child.kill('SIGKILL');
  await gone;
}

mkdirSync(mount, { recursive: true });
execFileSync('/bin/busybox', ['mount', '-t', 'cgroup2', 'cgroup2', mount]);
const groups = new Cgroups({ timers: systemTimers });
tell('host', { refusal: await groups.refusal(), controllers: text(`${mount}/cgroup.controllers`) });

const limited = await groups.make('limited', {
  cpuMaxPercent: 20,
  memoryMinBytes: 16 * MiB,
  memoryMaxBytes: 64 * MiB,
});
tell('written', {
  cpuMax: text(`${limited}/cpu.max`),
  memoryMin: text(`${limited}/memory.min`),
  memoryMax: text(`${limited}/memory.max`),
  parentMin: text(`${mount}/dvce/memory.min`),
});

const loop = begin(limited, ...busy);
await wait(500);
const from = { us: usageUs(limited), ms: performance.now() };
await wait(5000);
const share = (usageUs(limited) - from.us) / 1000 / (performance.now() - from.ms);
tell('limited', {
  share,
  group: text(`/proc/${loop.pid}/cgroup`),
  command: text(`/proc/${loop.pid}/cmdline`).split('\0')[0],
  throttled: Number(/^nr_throttled (\d+)$/m.exec(text(`${limited}/cpu.stat`))?.[1]),
});
await end(loop);

// A buffer larger than its bound.
const glutton = begin(
  limited,
  '/bin/busybox',
  'dd',
  'if=/dev/zero',
  'of=/dev/null',
  'bs=100M',
  'count=1',
);
const [, signal] = (await once(glutton, 'exit')) as [number | null, string | null];
tell('memory', {
  signal,
  kills: Number(/^oom_kill (\d+)$/m.exec(text(`${limited}/memory.events`))?.[1]),
});
await groups.remove('limited');
tell('removed', { left: existsSync(limited), parentMin: text(`${mount}/dvce/memory.min`) });

const held = await groups.make('held', { cpuMinPercent: 50 });
const other = await groups.make('other', { cpuWeight: 100 });
const loops = [begin(held, ...busy), begin(other, ...busy)];
await wait(500);
const before = [usageUs(held), usageUs(other)];
await wait(5000);
const [heldUs = 0, otherUs = 0] = [usageUs(held), usageUs(other)].map(
  (now, at) => now - (before[at] ?? 0),
);
tell('weights', { ratio: heldUs / otherUs });
for (const each of loops) await end(each);
await groups.remove('held');
await groups.remove('other');
tell('end', {});
