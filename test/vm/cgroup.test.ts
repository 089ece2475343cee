/** Shares of the host: what is written to which file of cgroup v2. test/long/cgroup.test.ts has the same on a real kernel. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { appendFile, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import t, { type Test } from 'tap';
import { systemTimers } from '../../src/base/index.ts';
import { type CgroupFiles, Cgroups, enteringGroup, weightOf } from '../../src/vm/cgroup.ts';

const alive = setInterval(() => {}, 1000);
t.teardown(() => clearInterval(alive));
const MiB = 1024 ** 2;

/** A directory tree in place of the kernel's; the kernel removes a group with the files in it. */
function tree(t: Test, controllers = 'cpuset cpu io memory pids') {
  const mount = mkdtempSync('/tmp/dvce-cgroup-');
  t.teardown(() => rmSync(mount, { recursive: true, force: true }));
  writeFileSync(`${mount}/cgroup.controllers`, `${controllers}\n`);
  writeFileSync(`${mount}/cgroup.subtree_control`, 'cpuset\n');
  const written: string[] = [];
  /** Path -> error code, once. */
  const failures = new Map<string, string>();
  const files: CgroupFiles = {
    read: (path) => readFile(path, 'utf8'),
    write: async (path, text) => {
      const code = failures.get(path);
      failures.delete(path);
      if (code !== undefined) throw Object.assign(new Error(`${code} ${path}`), { code });
      written.push(`${path.slice(mount.length + 1)} ${text}`);
      // The kernel adds a controller to those that are there.
      if (!path.endsWith('subtree_control')) return writeFile(path, text);
      await appendFile(path, text.replaceAll('+', ' '));
    },
    list: async (path) =>
      (await readdir(path, { withFileTypes: true }))
        .filter((entry) => entry.isDirectory())
        .map(({ name }) => name),
    makeDirectory: async (path) => {
      await mkdir(path, { recursive: true });
    },
    removeDirectory: async (path) => {
      await stat(path);
      const code = failures.get(path);
      failures.delete(path);
      if (code !== undefined) throw Object.assign(new Error(`${code} ${path}`), { code });
      await rm(path, { recursive: true });
    },
  };
  const text = (path: string): string => readFileSync(`${mount}/${path}`, 'utf8').trim();
  const cgroups = (parent?: string): Cgroups =>
    new Cgroups({ timers: systemTimers, mount, files, parent });
  return { mount, written, failures, text, cgroups };
}

t.test('a share is written before anyone enters, and summed up in the parent', async (t) => {
  const { mount, written, text, cgroups } = tree(t);
  const groups = cgroups();
  t.equal(await groups.refusal(), null);
  const path = await groups.make('a', {
    cpuMaxPercent: 150,
    cpuWeight: 300,
    memoryMinBytes: 64 * MiB,
    memoryMaxBytes: 512 * MiB,
  });
  t.equal(path, `${mount}/dvce/vm-a`);
  t.strictSame(
    written.filter((line) => line.includes('subtree_control')),
    ['cgroup.subtree_control +cpu +memory', 'dvce/cgroup.subtree_control +cpu +memory'],
    'controllers are handed down from the top',
  );
  t.equal(text('dvce/vm-a/cpu.max'), '150000 100000');
  t.equal(text('dvce/vm-a/cpu.weight'), '300');
  t.equal(text('dvce/vm-a/memory.min'), `${64 * MiB}`);
  t.equal(text('dvce/vm-a/memory.max'), `${512 * MiB}`);
  await groups.make('b', { cpuMinPercent: 50, memoryMinBytes: 32 * MiB });
  t.equal(text('dvce/vm-b/cpu.max'), 'max 100000');
  t.equal(text('dvce/vm-b/memory.max'), 'max');
  t.equal(text('dvce/vm-b/cpu.weight'), '500');
  t.equal(text('dvce/memory.min'), `${96 * MiB}`);
  t.equal(text('dvce/cpu.weight'), '800');
  await groups.remove('a');
  t.equal(text('dvce/memory.min'), `${32 * MiB}`);
  await groups.remove('a');
  await groups.remove('b');
  t.equal(text('dvce/memory.min'), '0');
  t.equal(text('dvce/cpu.weight'), '100');
});

t.test('weights: a minimum outweighs those without one', async (t) => {
  t.equal(weightOf({}), 100);
  t.equal(weightOf({ cpuWeight: 7 }), 7);
  t.equal(weightOf({ cpuMinPercent: 100 }), 1000);
  t.equal(weightOf({ cpuMinPercent: 100, cpuWeight: 2000 }), 2000);
  t.equal(weightOf({ cpuMinPercent: 6400 }), 10_000, 'the kernel takes no more');
});

t.test('a host without the controllers is refused by name', async (t) => {
  const { cgroups } = tree(t, 'hugetlb cpu');
  t.match(await cgroups().refusal(), /lacks memory/);
  await t.rejects(cgroups().make('a', { cpuWeight: 10 }), {
    code: 'HOST_UNPREPARED',
    message: /lacks memory/,
    advice: /cgroup_no_v1=all/,
  });
  const { mount, cgroups: other } = tree(t);
  t.match(await other('/somewhere/else').refusal(), /does not lie below/);
  t.match(await other(`${mount}/../x`).refusal(), /does not lie below/);
});

t.test('processes of a delegated group move one level deeper', async (t) => {
  const { mount, written, failures, cgroups } = tree(t);
  const parent = `${mount}/system.slice/dvce.service`;
  mkdirSync(parent, { recursive: true });
  writeFileSync(`${parent}/cgroup.procs`, '11\n12\n');
  failures.set(`${parent}/cgroup.subtree_control`, 'EBUSY');
  await cgroups(parent).make('a', { cpuWeight: 10 });
  t.strictSame(
    written.filter((line) => line.includes('host/cgroup.procs')),
    ['11', '12'].map((pid) => `system.slice/dvce.service/host/cgroup.procs ${pid}`),
  );
});

t.test('a group that the kernel still holds is removed a moment later', async (t) => {
  const { mount, failures, cgroups } = tree(t);
  const groups = cgroups();
  await groups.make('a', { cpuWeight: 10 });
  failures.set(`${mount}/dvce/vm-a`, 'EBUSY');
  await groups.remove('a');
  await t.rejects(stat(`${mount}/dvce/vm-a`), { code: 'ENOENT' });
});

t.test('the process enters the group before it becomes the hypervisor', async (t) => {
  const directory = mkdtempSync('/tmp/dvce-enter-');
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const { execFileSync } = await import('node:child_process');
  const [shell = '', ...args] = enteringGroup(`${directory}/a b;$(id)`);
  mkdirSync(`${directory}/a b;$(id)`);
  const out = execFileSync(shell, [...args, '/bin/sh', '-c', 'echo $$ "$1"', 'x', '$(y)']);
  const [pid, rest] = out.toString().trim().split(' ');
  t.equal(rest, '$(y)', 'arguments stay as they are');
  t.equal(readFileSync(`${directory}/a b;$(id)/cgroup.procs`, 'utf8').trim(), pid);
  t.throws(() =>
    execFileSync(shell, [...enteringGroup('/nowhere').slice(1), '/bin/true'], { stdio: 'ignore' }),
  );
});
