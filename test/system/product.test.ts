/**
 * A real guest on a real volume, through the program as an operator uses it: what dies under the guest, and what the guest
 * notices of it.
 */
// limit: 300 s
import { spawn } from 'node:child_process';
import { resolve } from 'node:path';
import t, { type Test } from 'tap';
import type { Status, Vm } from '../../src/api/index.ts';
import { exitCodes } from '../../src/base/index.ts';
import { type Dvce, freshDvce, type Outcome } from '../support/dvce.ts';
import { demoImage, guestsMissing, readyPattern, until } from '../support/guest-rig.ts';

t.setTimeout(300_000);
const skip = guestsMissing();
const vm = 'web1';
const disk = `/vms/${vm}/disk0`;
const stoppedItself = /demo guest stopped/;
const ends = (log: string): number => log.match(new RegExp(stoppedItself, 'g'))?.length ?? 0;
const guestErrors = /I\/O error|EXT4-fs error|Remounting|FAILED/;

/** Runs a command in the guest's shell, by the same script as the quickstart. */
function inGuest(dvce: Dvce, command: string): Promise<Outcome> {
  const script = resolve(import.meta.dirname, '../../scripts/guest-shell.ts');
  const child = spawn(process.execPath, [script, '--timeout', '60', vm, command], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, DVCE_DATA_DIR: dvce.data },
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (bytes: Buffer) => {
    stdout += bytes.toString();
  });
  child.stderr.on('data', (bytes: Buffer) => {
    stderr += bytes.toString();
  });
  return new Promise((done, reject) => {
    child.on('error', reject);
    child.on('close', (code) => done({ code, stdout, stderr }));
  });
}

async function answer(dvce: Dvce, command: string): Promise<string> {
  const { code, stdout, stderr } = await inGuest(dvce, command);
  if (code !== 0) throw new Error(`${command} in the guest: ${code} ${stdout} ${stderr}`);
  return stdout;
}

const show = (dvce: Dvce): Promise<Vm> => dvce.json<Vm>(`vm show ${vm}`);
const ticks = async (dvce: Dvce): Promise<number> =>
  [...(await dvce.ok(`vm log ${vm}`)).matchAll(/^tick-\d+/gm)].length;

/** Writes and syncs 256 KiB with its checksum, says so, and again; at most 40 files stay. */
const busy =
  'mkdir -p /root/w; rm -f /root/stop /root/stopped; (i=0; while [ ! -e /root/stop ]; do i=$((i+1)); f=/root/w/$((i%40)); dd if=/dev/urandom of=$f bs=64k count=4 conv=fsync 2>/dev/null && md5sum $f > $f.sum && sync && echo ti""ck-$i || echo FAI""LED-$i; done; touch /root/stopped) &';
/** Every file must fit its checksum; the caches are dropped, so all of it comes from the volume. */
const verify =
  'touch /root/stop; while [ ! -e /root/stopped ]; do sleep 1; done; sync; echo 3 > /proc/sys/vm/drop_caches; cat /root/w/*.sum | md5sum -c > /root/result 2>&1; echo whole=$(grep -c ": OK" /root/result) broken=$(grep -c ": FAI""LED" /root/result)';

async function running(t: Test): Promise<Dvce> {
  const dvce = freshDvce(t);
  await dvce.ok('up');
  await dvce.ok(`image import ${demoImage()} demo`);
  const created = await dvce.run([
    ...['vm', 'create', vm, '--image', 'demo', '--memory', '192MiB', '--network', 'none'],
    ...['--ready-pattern', readyPattern],
  ]);
  t.equal(created.code, 0, created.stderr);
  await dvce.ok(`vm start ${vm} --ready --timeout 120s`);
  return dvce;
}

async function goesOn(dvce: Dvce, before: number): Promise<void> {
  await until('the guest goes on', 40_000, async () => (await ticks(dvce)) > before + 5);
}

async function allWhole(t: Test, dvce: Dvce): Promise<void> {
  const found = /whole=(\d+) broken=(\d+)/.exec(await answer(dvce, verify));
  t.ok(Number(found?.[1]) > 5, `${found?.[1]} files are whole`);
  t.equal(Number(found?.[2]), 0, 'no file is broken');
  t.notMatch(await dvce.ok(`vm log ${vm}`), guestErrors);
}

// One guest for the whole story: its boot costs more than all that happens to it.
t.test('a guest, and what dies under it', { skip }, async (t) => {
  const dvce = await running(t);

  await t.test('blockd is killed and away for 5 s while the guest writes', async (t) => {
    await answer(dvce, busy);
    await until('the guest writes', 30_000, async () => (await ticks(dvce)) > 5);
    const launcher = dvce.holder('launcher.lock') ?? 0;
    const blockd = dvce.holder('lock') ?? 0;
    t.ok(launcher > 0 && blockd > 0);
    process.kill(launcher, 'SIGSTOP'); // it would start another at once
    try {
      process.kill(blockd, 'SIGKILL');
      await until('blockd is gone', 5000, () => dvce.holder('lock') === undefined);
      const endMs = performance.now() + 5000;
      await until('the outage is over', 6000, () => performance.now() > endMs);
    } finally {
      process.kill(launcher, 'SIGCONT');
    }
    const before = await ticks(dvce);
    await goesOn(dvce, before);
    t.not(dvce.holder('lock'), blockd, 'it is another blockd');
    t.equal((await show(dvce)).phase, 'running');
    await allWhole(t, dvce);
  });

  await t.test('the agent is killed and started again under the guest', async (t) => {
    const writtenBefore = await ticks(dvce);
    await answer(dvce, busy);
    await until('the guest writes', 30_000, async () => (await ticks(dvce)) > writtenBefore);
    const { pid } = await show(dvce);
    process.kill(dvce.agentPid(), 'SIGKILL');
    await until('the agent is gone', 5000, () => dvce.holder('agent.lock') === undefined);
    t.ok(pid !== null && process.kill(pid, 0), 'the guest lives');
    await dvce.ok('up');
    const before = await ticks(dvce);
    t.match(await show(dvce), { phase: 'running', pid }, 'the same process is adopted');
    await goesOn(dvce, before);
    await until('its readiness is found again', 10_000, async () => {
      return (await show(dvce)).ready === 'pattern';
    });
    await allWhole(t, dvce);
  });

  await t.test(
    'N7 the agent starts while blockd is away: it serves, and leaves the guest alone',
    async (t) => {
      const { pid } = await show(dvce);
      const launcher = dvce.holder('launcher.lock') ?? 0;
      process.kill(launcher, 'SIGSTOP');
      try {
        process.kill(dvce.agentPid(), 'SIGKILL');
        process.kill(dvce.holder('lock') ?? 0, 'SIGKILL');
        await until('both are gone', 5000, () => {
          return dvce.holder('lock') === undefined && dvce.holder('agent.lock') === undefined;
        });
        await dvce.ok('up');
        const looked = await dvce.cli('status -o json');
        t.equal(looked.code, exitCodes.unhealthy);
        const status = JSON.parse(looked.stdout) as Status;
        t.match(status, { health: 'critical', blockd: null });
        t.match(
          status.causes.map(({ code }) => code),
          ['BLOCKD_DOWN'],
        );
        for (const line of [
          'vm list',
          'vm stop web1',
          'volume list',
          `snapshot create ${disk}@no`,
        ]) {
          const { code, stderr } = await dvce.cli(line);
          t.equal(code, exitCodes.unhealthy, line);
          t.match(stderr, /blockd does not answer/, line);
        }
        t.ok(pid !== null && process.kill(pid, 0), 'the guest is untouched');
      } finally {
        process.kill(launcher, 'SIGCONT');
      }
      await until('the agent goes on by itself', 30_000, async () => {
        return (await dvce.cli('vm list')).code === 0;
      });
      t.match(await show(dvce), { phase: 'running', pid }, 'the same process is adopted');
      await answer(dvce, 'sync');
    },
  );

  await t.test('a rollback under the running guest is refused', async (t) => {
    await dvce.ok(`snapshot create ${disk}@now`);
    const refused = await dvce.cli(`snapshot rollback ${disk}@now --yes`);
    t.not(refused.code, 0);
    t.match(refused.stderr, /in use|running|attached/i);
  });

  await t.test('stop ends it by the power button', async (t) => {
    await dvce.ok(`vm stop ${vm} --timeout 60s`);
    t.match(await show(dvce), { phase: 'stopped', pid: null });
    t.match(await dvce.ok(`vm log ${vm}`), stoppedItself);
  });

  await t.test('E-10 stop ends a guest hard that ignores the power button', async (t) => {
    await dvce.ok(`vm start ${vm} --ready --timeout 120s`);
    const endsBefore = ends(await dvce.ok(`vm log ${vm}`));
    await answer(dvce, 'killall acpid');
    const { pid } = await show(dvce);
    const startedMs = performance.now();
    await dvce.ok(`vm stop ${vm} --timeout 2s`);
    t.ok(performance.now() - startedMs >= 1900, 'it had its time');
    t.match(await show(dvce), { phase: 'stopped', pid: null });
    t.throws(() => process.kill(pid ?? 0, 0), { code: 'ESRCH' });
    t.equal(ends(await dvce.ok(`vm log ${vm}`)), endsBefore, 'it did not end by itself');
  });
});
