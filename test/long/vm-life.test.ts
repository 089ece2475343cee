/**
 * The life of a VM as an operator lives it, with a real guest that has the guest agent: paused, restarted, resized, given disks
 * and cards, cloned, crashed; the agent is killed in the middle more than once.
 */
// limit: 600 s
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Operation, Vm, VmWaited } from '../../src/api/index.ts';
import { type Dvce, freshDvce } from '../support/dvce.ts';
import { demoImage, guestsMissing, readyPattern, Shell, until } from '../support/guest-rig.ts';

t.setTimeout(600_000);
const skip = guestsMissing();

const show = (dvce: Dvce, name: string): Promise<Vm> => dvce.json<Vm>(`vm show ${name}`);

async function restartAgent(dvce: Dvce): Promise<void> {
  process.kill(dvce.agentPid(), 'SIGKILL');
  await until('the agent is gone', 5000, () => dvce.holder('agent.lock') === undefined);
  await dvce.ok('up');
}

const shellOf = (dvce: Dvce, { id }: Vm): Shell =>
  new Shell(join(dvce.data, 'run', 'vm', id, 'console.sock'));

async function killAgent(dvce: Dvce): Promise<void> {
  process.kill(dvce.agentPid(), 'SIGKILL');
  await until('the agent is gone', 5000, () => dvce.holder('agent.lock') === undefined);
}

/** What the guest said on its console; read beside the agent. */
const consoleLog = (dvce: Dvce, { id }: Vm): string =>
  readFileSync(join(dvce.data, 'log', 'vm', id, 'console.log'), 'latin1');

const times = (text: string, part: string): number => text.split(part).length - 1;
const boots = (dvce: Dvce, vm: Vm): number => times(consoleLog(dvce, vm), readyPattern);
const ends = (dvce: Dvce, vm: Vm): number => times(consoleLog(dvce, vm), 'demo guest stopped');

/** Shut down from inside: the VM is stopped, and does not begin anew. */
async function endsByItself(t: Test, dvce: Dvce, name: string, shell: Shell): Promise<void> {
  const before = await show(dvce, name);
  const count = boots(dvce, before);
  await shell.run('true');
  shell.type('poweroff');
  await until('it is stopped, and that is wanted', 60_000, async () => {
    const { desired, phase } = await show(dvce, name);
    return desired === 'stopped' && phase === 'stopped';
  });
  t.equal(boots(dvce, before), count, 'it did not begin anew');
}

async function refused(dvce: Dvce, line: string, code: number, said: RegExp): Promise<void> {
  const outcome = await dvce.cli(line);
  t.equal(outcome.code, code, line, { stderr: outcome.stderr });
  t.match(outcome.stderr, said, line);
}

t.test('a VM from its definition to its crashes', { skip }, async (t) => {
  const dvce = freshDvce(t);
  await dvce.ok('up');
  await dvce.ok(`image import ${demoImage('--agent')} demo`);
  writeFileSync(
    join(dvce.directory, 'web1.yaml'),
    'image: demo\nmemoryBytes: 192MiB\nnics:\n  - kind: user\nonCrash: restart\n',
  );
  await dvce.ok('vm create web1 --file web1.yaml');
  t.match((await show(dvce, 'web1')).machine, /^pc-q35-\d/, 'the machine type has a version');
  await dvce.ok('vm start web1');
  await dvce.ok('vm wait web1 --for agent --timeout 1m');
  await dvce.ok('vm wait web1 --for ready --timeout 1m');
  const { addresses } = await dvce.json<VmWaited>('vm wait web1 --for ip --timeout 30s');
  t.strictSame(
    addresses.filter((text) => text.includes('.')),
    ['10.0.2.15'],
  );
  const vm = await show(dvce, 'web1');
  t.equal(vm.ready, 'agent');

  await t.test('paused, and paused still after the agent was killed', async (t) => {
    await dvce.ok('vm pause web1');
    await restartAgent(dvce);
    t.equal((await show(dvce, 'web1')).phase, 'paused');
    await dvce.ok('vm resume web1');
    await dvce.ok('vm wait web1 --for running --timeout 10s');
  });

  const shell = shellOf(dvce, vm);
  t.teardown(() => shell.close());

  await t.test('processors and memory of a running guest', async (t) => {
    await dvce.ok('vm resize web1 --cpus 2');
    t.match(await shell.run('cat /sys/devices/system/cpu/online'), '0-1');
    await dvce.ok('vm resize web1 --memory 128MiB');
    t.equal((await show(dvce, 'web1')).memoryBytes, 128 * 1024 ** 2);
    await refused(dvce, 'vm resize web1 --memory 1GiB', 6, /--at-next-start/);
    await refused(dvce, 'vm resize web1 --cpus 1', 6, /only be given more/);
    const { cpus, memoryBytes } = await show(dvce, 'web1');
    t.strictSame([cpus, memoryBytes], [2, 128 * 1024 ** 2], 'what was refused is not recorded');
    await dvce.ok('vm resize web1 --memory 192MiB');
    await dvce.ok('vm resize web1 --cpus 1 --at-next-start');
    t.strictSame((await show(dvce, 'web1')).pending, { cpus: 1, memoryBytes: null });
  });

  await t.test('disks and cards come and go; the agent is killed while a disk comes', async (t) => {
    await dvce.ok('vm attach-disk web1 /vms/web1/more --size 64MiB');
    await until('the guest sees the disk', 10_000, async () =>
      /vdb/.test(await shell.run('ls /sys/block')),
    );
    await shell.run('echo kept > /dev/vdb && sync');
    await dvce.ok('vm detach-disk web1 disk1');
    t.notMatch(await shell.run('ls /sys/block'), /vdb/);
    const operation = await dvce.ok('vm attach-disk web1 /vms/web1/more --no-wait');
    process.kill(dvce.agentPid(), 'SIGKILL');
    t.match(operation, /\w/);
    await until('the agent is gone', 5000, () => dvce.holder('agent.lock') === undefined);
    await dvce.ok('up');
    // Either it had not begun, or it is brought to its end.
    await until('document and guest agree', 30_000, async () => {
      const { disks } = await show(dvce, 'web1');
      if (disks.some(({ state }) => state !== 'attached')) return false;
      return /vdb/.test(await shell.run('ls /sys/block')) === (disks.length === 2);
    });
    if ((await show(dvce, 'web1')).disks.length === 1)
      await dvce.ok('vm attach-disk web1 /vms/web1/more');
    await until('the guest sees the disk again', 10_000, async () =>
      /vdb/.test(await shell.run('ls /sys/block')),
    );
    t.match(await shell.run('head -c 5 /dev/vdb'), 'kept');
    await dvce.ok('vm detach-disk web1 /vms/web1/more');
    await refused(dvce, 'vm detach-disk web1 disk0', 6, /boots from|runs/);
    await dvce.ok('vm attach-nic web1 user');
    await until('the guest sees the card', 10_000, async () =>
      /eth1/.test(await shell.run('ls /sys/class/net')),
    );
    await dvce.ok('vm detach-nic web1 card1');
    t.notMatch(await shell.run('ls /sys/class/net'), /eth1/);
  });

  await t.test('a clone of a running VM has its content, and nothing else of it', async (t) => {
    await shell.run('echo one > /root/mark && sync');
    await dvce.ok('vm clone web1 web2');
    const clone = await show(dvce, 'web2');
    t.match(clone, { phase: 'stopped', disks: [{ path: '/vms/web2/disk0', owned: true }] });
    t.not(clone.id, vm.id);
    t.not(clone.nics[0]?.mac, vm.nics[0]?.mac);
    await shell.run('echo two > /root/mark && sync');
    await dvce.ok('vm start web2');
    await dvce.ok('vm wait web2 --for agent --timeout 1m');
    const other = shellOf(dvce, clone);
    t.match(await other.run('cat /root/mark'), 'one');
    other.close();
    await dvce.ok('vm stop web2 --force');
    await dvce.ok('vm delete web2 --yes');
  });

  await t.test('restarted by its agent: ready anew, with the same process', async (t) => {
    const { pid } = await show(dvce, 'web1');
    t.match(await dvce.ok('vm reboot web1 --timeout 30s'), /restarts\.$/m);
    await dvce.ok('vm wait web1 --for ready --timeout 1m');
    t.equal((await show(dvce, 'web1')).pid, pid);
  });

  await t.test('restarted while no agent watches: the next power-off is an end', async (t) => {
    const [count, before] = [boots(dvce, vm), ends(dvce, vm)];
    await dvce.ok('vm reboot web1 --no-wait');
    await until('the guest obeys', 30_000, () => ends(dvce, vm) > before);
    await killAgent(dvce);
    await until('it is up again', 120_000, () => boots(dvce, vm) > count);
    await dvce.ok('up');
    await endsByItself(t, dvce, 'web1', shell);
    await dvce.ok('vm start web1');
    await dvce.ok('vm wait web1 --for agent --timeout 2m');
  });

  await t.test('a crash is followed by a restart, also one while the agent was away', async (t) => {
    const pidOf = async (): Promise<number> => (await show(dvce, 'web1')).pid ?? 0;
    const first = await pidOf();
    process.kill(first, 'SIGKILL');
    await until('it runs again', 30_000, async () => ![0, first].includes(await pidOf()));
    t.equal((await show(dvce, 'web1')).cpus, 1, 'what waited for its start came true');
    const second = await pidOf();
    process.kill(dvce.agentPid(), 'SIGKILL');
    process.kill(second, 'SIGKILL');
    await until('the agent is gone', 5000, () => dvce.holder('agent.lock') === undefined);
    await dvce.ok('up');
    await until('it runs once more', 30_000, async () => ![0, second].includes(await pidOf()));
    t.equal((await show(dvce, 'web1')).crashes.length, 2);
    await dvce.ok('vm update web1 --on-crash hold');
    process.kill(await pidOf(), 'SIGKILL');
    await until('it is held', 10_000, async () => (await show(dvce, 'web1')).held !== null);
    t.equal((await dvce.cli('status')).code !== 64 && (await show(dvce, 'web1')).phase, 'crashed');
    await dvce.ok('vm start web1');
    t.match(await show(dvce, 'web1'), { held: null, crashes: [] });
  });

  await t.test('a guest that shut itself down while the agent was away stays down', async (t) => {
    await dvce.ok('vm wait web1 --for agent --timeout 1m');
    const { pid } = await show(dvce, 'web1');
    const console = shellOf(dvce, vm);
    process.kill(dvce.agentPid(), 'SIGKILL');
    await until('the agent is gone', 5000, () => dvce.holder('agent.lock') === undefined);
    console.type('poweroff');
    await until('the guest is off', 30_000, () => {
      try {
        return readFileSync(`/proc/${pid}/stat`, 'latin1').includes(') Z ');
      } catch {
        return true; // gone
      }
    });
    console.close();
    await dvce.ok('up');
    await until('that is what is wanted now', 10_000, async () => {
      const now = await show(dvce, 'web1');
      return now.desired === 'stopped' && now.phase === 'stopped';
    });
    t.equal((await show(dvce, 'web1')).crashes.length, 0);
  });

  await t.test('a start of the host starts what has autostart', async (t) => {
    await dvce.ok('vm update web1 --autostart --protect --label team=shop');
    process.kill(dvce.agentPid(), 'SIGKILL');
    await until('the agent is gone', 5000, () => dvce.holder('agent.lock') === undefined);
    writeFileSync(join(dvce.data, 'state', 'host-boot'), 'another boot\n');
    await dvce.ok('up');
    await dvce.ok('vm wait web1 --for running --timeout 30s');
    const { pid } = await show(dvce, 'web1');
    await restartAgent(dvce);
    t.equal((await show(dvce, 'web1')).pid, pid, 'the next agent leaves it alone');
    await dvce.ok('vm stop web1 --force');
    await refused(dvce, 'vm delete web1 --yes', 7, /--no-protect/);
    await dvce.ok('vm update web1 --no-protect');
  });

  await t.test('bad input changes nothing', async (t) => {
    const before = await show(dvce, 'web1');
    const cases: [string, number, RegExp][] = [
      ['vm pause nobody', 5, /nobody/],
      ['vm pause web1', 6, /does not run/],
      ['vm reboot web1', 6, /does not run/],
      ['vm reset ..', 64, /name/],
      ['vm wait web1 --for running --timeout 100ms', 9, /running/],
      ['vm wait web1 --for lunch', 64, /lunch/],
      ['vm resize web1', 64, /--cpus/],
      ['vm resize web1 --cpus 0', 64, /cpus/],
      ['vm resize web1 --cpus 100000', 64, /cpus/],
      ['vm resize web1 --memory 1', 64, /memory/],
      ['vm update web1', 64, /nothing/],
      ['vm update web1 --on-crash dance', 64, /dance/],
      ['vm update web1 --start-order 100000', 64, /startOrder/],
      ['vm attach-disk web1 /no/such', 5, /no\/such/],
      ['vm attach-disk web1 ../x', 64, /name|path/],
      ['vm detach-disk web1 disk9', 64, /disk9/],
      ['vm attach-nic web1 none', 64, /none/],
      ['vm detach-nic web1 card9', 64, /card9/],
      ['vm clone web1 web1', 3, /web1/],
      ['vm clone web1 a/b', 64, /name/],
      ['vm create --file nothing.yaml', 64, /nothing.yaml/],
    ];
    for (const [line, code, said] of cases) await refused(dvce, line, code, said);
    const wrong = await dvce.cli('vm create x --file -', { input: 'cpus: 1\nfruit: apple\n' });
    t.match([wrong.code, wrong.stderr], [64, /standard input:2:1.*fruit/]);
    t.strictSame(await show(dvce, 'web1'), before);
    t.strictSame(
      (await dvce.json<Vm[]>('vm list')).map(({ name }) => name),
      ['web1'],
    );
    const failed = (await dvce.json<Operation[]>('op list')).filter(
      ({ status }) => status === 'running',
    );
    t.strictSame(failed, []);
  });
});

t.test('a restart by the power button is finished by the next agent', { skip }, async (t) => {
  const dvce = freshDvce(t);
  await dvce.ok('up');
  await dvce.ok(`image import ${demoImage()} demo`);
  await dvce.ok('vm create web1 --image demo --memory 192MiB --net none');
  await dvce.ok('vm start web1');
  const vm = await show(dvce, 'web1');
  await until('it is up', 120_000, () => boots(dvce, vm) === 1);
  const mark = join(dvce.data, 'run', 'vm', vm.id, 'restarting');

  await t.test('the agent is killed while the guest shuts down', async (t) => {
    await dvce.ok('vm reboot web1 --no-wait');
    await until('the guest obeys', 30_000, () => ends(dvce, vm) === 1);
    await killAgent(dvce);
    t.ok(existsSync(mark), 'it was in the middle');
    await dvce.ok('up');
    await until('it is up again', 120_000, () => boots(dvce, vm) === 2);
    t.equal((await show(dvce, 'web1')).pid, vm.pid, 'with the same process');
    t.notOk(existsSync(mark));
    const shell = shellOf(dvce, vm);
    await endsByItself(t, dvce, 'web1', shell);
    shell.close();
  });
});
