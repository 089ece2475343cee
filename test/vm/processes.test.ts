/** Which process is whose: a recycled pid is never killed, a probe that hangs is no accelerator. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { systemClock, systemRandom, systemTimers, type Timers } from '../../src/base/index.ts';
import { type ProbeOptions, probeAccelerator } from '../../src/vm/accelerator.ts';
import {
  ageMs,
  findByArgument,
  identify,
  isAlive,
  killProcess,
  type ProcessIdentity,
  spawnDetached,
} from '../../src/vm/processes.ts';

// The project's timers keep no process alive, and here nothing else does.
const alive = setInterval(() => {}, 60_000);
t.teardown(() => clearInterval(alive));

/** A process, running for certain. */
async function sleeper(t: Test, ...args: string[]): Promise<[ChildProcess, ProcessIdentity]> {
  const child = spawn('sh', ['-c', 'echo; exec sleep 600', ...args], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  const identity = await identify(child.pid ?? 0);
  if (identity === undefined) throw new Error('the process is not there');
  return [child, identity];
}

const kill = (identity: ProcessIdentity): Promise<void> =>
  killProcess(identity, 'guest', systemClock, systemTimers);

t.test('a recycled pid is another process and is not killed', async (t) => {
  const [child, identity] = await sleeper(t);
  const recycled = { pid: identity.pid, startTicks: identity.startTicks - 1 };
  t.equal(await isAlive(recycled), false);
  await kill(recycled);
  t.equal(child.exitCode, null);
  t.equal(child.signalCode, null);
  t.equal(await isAlive(identity), true);
  const exited = once(child, 'exit');
  await kill(identity);
  t.same(await exited, [null, 'SIGKILL']);
  t.equal(await isAlive(identity), false);
  await kill(identity);
});

t.test('age counts from the start of the process', async (t) => {
  const [, identity] = await sleeper(t);
  const age = await ageMs(identity);
  t.ok(age >= 0 && age < 10_000, `${age} ms`);
});

t.test('remains that nobody has collected are not alive', async (t) => {
  // The shell starts a process that ends, and never waits for it.
  const parent = spawn('sh', ['-c', 'sleep 0.2 & echo $!; exec sleep 600'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  t.teardown(() => parent.kill('SIGKILL'));
  const [line] = (await once(parent.stdout, 'data')) as [Buffer];
  const pid = Number(line.toString());
  const endMs = performance.now() + 5000;
  while ((await identify(pid)) !== undefined && performance.now() < endMs)
    await new Promise((turn) => setTimeout(turn, 10));
  t.equal(await identify(pid), undefined);
  t.ok(readdirSync('/proc').includes(String(pid)), 'the remains are there');
});

t.test('a process is found by one whole argument', async (t) => {
  const [, identity] = await sleeper(t);
  const mark = `mark-${process.pid}`;
  const child = spawn('sh', ['-c', 'echo; read x', mark], { stdio: ['pipe', 'pipe', 'ignore'] });
  t.teardown(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  t.match(await findByArgument(mark), { pid: child.pid });
  t.not(identity.pid, child.pid);
  t.equal(await findByArgument(mark.slice(0, -1)), undefined);
});

t.test('a detached process has its own session and its output in a file', async (t) => {
  const directory = mkdtempSync('/tmp/dvce-process-');
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const child = spawnDetached(
    '/bin/sh',
    ['-c', 'cut -d" " -f6 /proc/$$/stat; pwd'],
    `${directory}/out`,
  );
  child.ref();
  await once(child, 'exit');
  t.equal(readFileSync(`${directory}/out`, 'utf8'), `${child.pid}\n/\n`);
});

/** A stand-in for QEMU that does `how` with each accelerator. */
function probeRig(t: Test, kvm: string, tcg: string): ProbeOptions {
  const directory = mkdtempSync('/tmp/dvce-probe-');
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const binary = `${directory}/qemu`;
  writeFileSync(binary, `#!/bin/sh\ncase "$*" in *"-accel kvm"*) ${kvm} ;; *) ${tcg} ;; esac\n`);
  chmodSync(binary, 0o755);
  // Deadlines run twenty times as fast.
  const timers: Timers = {
    ...systemTimers,
    after: (ms, task) => systemTimers.after(ms / 20, task),
  };
  return {
    clock: systemClock,
    timers,
    random: systemRandom,
    directory,
    binary,
    kvmDevice: '/dev/null',
  };
}

const runs = 'exit 33';
const hangs = 'exec sleep 600';

t.test('KVM is used where a guest ran with it', async (t) => {
  t.match(await probeAccelerator(probeRig(t, runs, runs)), { accelerator: 'kvm', problems: [] });
});

t.test('KVM that hangs, fails, or is slower than emulation is not used', async (t) => {
  const fails = 'echo cannot set register >&2; exit 1';
  for (const [kvm, why] of [
    [hangs, /did not run within/],
    [fails, /cannot set register/],
    ['exit 0', /status 0/],
    ['sleep 2; exit 33', /with KVM/],
  ] as const) {
    const options = {
      ...probeRig(t, kvm, runs),
      timers: kvm === hangs ? probeRig(t, kvm, runs).timers : systemTimers,
    };
    const result = await probeAccelerator(options);
    t.match(result, { accelerator: 'tcg', problems: [] });
    t.match(result.kvmRefused, why);
  }
});

t.test('no device, no KVM', async (t) => {
  const options = { ...probeRig(t, runs, runs), kvmDevice: '/dev/none' };
  t.match(await probeAccelerator(options), {
    accelerator: 'tcg',
    kvmRefused: /dev.none is missing/,
  });
});

t.test(
  'where no guest runs, the reason is given; a missing program is named with its package',
  async (t) => {
    const none = await probeAccelerator(probeRig(t, hangs, 'echo no firmware >&2; exit 1'));
    t.match(none, {
      accelerator: null,
      problems: [{ code: 'UNSUPPORTED', message: /no firmware/ }],
    });
    const missing = await probeAccelerator({ ...probeRig(t, runs, runs), binary: 'qemu-none' });
    t.match(missing, { binary: null, problems: [{ code: 'TOOL_MISSING' }] });
    t.match(missing.problems[0]?.advice, 'qemu-system-x86');
  },
);

t.test('a probe leaves nothing behind', async (t) => {
  const options = probeRig(t, runs, runs);
  await probeAccelerator(options);
  t.same(readdirSync(options.directory), ['qemu']);
});
