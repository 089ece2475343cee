/**
 * Real guests under the driver, on a stand-in disk server that can be killed; test/system/product.test.ts has the same with
 * blockd.
 */
// limit: 240 s
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import type { VmObservation } from '../../src/vm/index.ts';
import {
  exportName,
  faultyServer,
  guestRig,
  guestsMissing,
  newDefinition,
  Shell,
  until,
  untilReady,
} from '../support/guest-rig.ts';

t.setTimeout(240_000);

const never = new AbortController().signal;
const skip = guestsMissing();
const guestErrors = /I\/O error|EXT4-fs error|Remounting|FAILED/;

/** Writes and syncs 256 KiB again and again, saying so each time. */
const busy =
  'i=0; while [ $i -lt 2000 ]; do i=$((i+1)); dd if=/dev/urandom of=/root/f$((i%40)) bs=64k count=4 conv=fsync 2>/dev/null && echo ti""ck-$i || echo FAI""LED-$i; done &';

const ticks = (log: string): number => [...log.matchAll(/^tick-\d+/gm)].length;

/** The ext4 partition of the demonstration image, checked without changing it. */
const checkFileSystem = (disk: string): number | null =>
  spawnSync('/usr/sbin/e2fsck', ['-fn', `${disk}?offset=${67584 * 512}`]).status;

t.test(
  'a guest boots from its disk, writes, and stops by its power button',
  { skip },
  async (t) => {
    const { driver, vm, server } = await guestRig(t);
    t.same(await driver.probe(), []);
    const seen: VmObservation[] = [];
    driver.onChange((_, observation) => seen.push(observation));
    t.equal((await driver.inspect(vm)).phase, 'stopped');
    await driver.start(vm, never);
    t.equal((await driver.inspect(vm)).phase, 'running');
    await t.rejects(driver.start(vm, never), { code: 'VM_STATE' }, 'a second start is refused');
    t.equal(await untilReady(driver, vm), 'pattern');
    const shell = new Shell(driver.consoleSocket(vm));
    const written = await shell.run('echo some text > /root/note && sync && cat /root/note');
    t.match(written, 'some text');
    t.match(await shell.run('cat /sys/block/vda/queue/logical_block_size'), '512');
    shell.close();
    await driver.powerDown(vm);
    t.equal((await driver.inspect(vm)).phase, 'stopping');
    await until(
      'the guest has stopped',
      30_000,
      async () => (await driver.inspect(vm)).pid === null,
    );
    const last = await driver.inspect(vm);
    t.match(last, { phase: 'stopped', ready: null, detail: 'guest-shutdown' });
    const phases = seen.map(({ phase }) => phase).filter((phase, at, all) => phase !== all[at - 1]);
    t.same(phases, ['running', 'stopping', 'stopped']);
    t.equal(checkFileSystem(server.disk), 0, 'the file system is clean');
    await driver.forget(vm);
    t.notOk(existsSync(driver.consoleLog(vm)));
  },
);

t.test('E-10 a guest that ignores the power button is ended hard', { skip }, async (t) => {
  const { driver, vm } = await guestRig(t);
  await driver.start(vm, never);
  await untilReady(driver, vm);
  const shell = new Shell(driver.consoleSocket(vm));
  await shell.run('killall acpid');
  shell.close();
  await driver.powerDown(vm);
  const { pid } = await driver.inspect(vm);
  // Twice the time that the same guest takes when it listens.
  await t.rejects(
    until('it stops', 6000, async () => (await driver.inspect(vm)).pid === null),
    /not within/,
  );
  t.match(await driver.inspect(vm), { phase: 'stopping', pid });
  await driver.kill(vm);
  t.match(await driver.inspect(vm), { phase: 'stopped', pid: null });
  await until('the process is gone', 2000, () => !existsSync(`/proc/${pid}`));
});

t.test('a guest survives the restart of its disk server while it writes', { skip }, async (t) => {
  const { driver, vm, server, log } = await guestRig(t);
  await driver.start(vm, never);
  await untilReady(driver, vm);
  const shell = new Shell(driver.consoleSocket(vm));
  shell.type(busy);
  await until('the guest writes', 20_000, () => ticks(log()) > 5);
  await server.kill();
  const outageEndMs = performance.now() + 5000;
  await until('the outage is over', 6000, () => performance.now() > outageEndMs);
  const before = ticks(log());
  await server.start();
  await until('the guest goes on', 30_000, () => ticks(log()) > before + 5);
  t.notMatch(log(), guestErrors);
  t.equal((await driver.inspect(vm)).phase, 'running');
  shell.close();
  await driver.powerDown(vm);
  await until('the guest has stopped', 30_000, async () => (await driver.inspect(vm)).pid === null);
  t.equal(checkFileSystem(server.disk), 0, 'the file system is clean');
});

t.test(
  'a disk that fails pauses the guest, and it goes on when the disk works again',
  { skip: guestsMissing('nbdkit') },
  async (t) => {
    const { driver, vm, log, directory } = await guestRig(t, (path) =>
      faultyServer(`${path}/fail`),
    );
    await driver.start(vm, never);
    await untilReady(driver, vm);
    const shell = new Shell(driver.consoleSocket(vm));
    shell.type(busy);
    await until('the guest writes', 20_000, () => ticks(log()) > 5);
    writeFileSync(`${directory}/fail`, '');
    const phase = async (): Promise<string> => (await driver.inspect(vm)).phase;
    await until('the guest is paused', 20_000, async () => (await phase()) === 'io-error');
    t.match((await driver.inspect(vm)).detail, 'failed');
    const before = ticks(log());
    rmSync(`${directory}/fail`);
    await until('the guest goes on', 20_000, () => ticks(log()) > before + 5);
    t.equal(await phase(), 'running');
    t.notMatch(log(), guestErrors);
    shell.close();
  },
);

t.test('a guest outlives the process that started it and is adopted', { skip }, async (t) => {
  const { directory, vm, anotherDriver, log } = await guestRig(t);
  const parent = spawn(
    process.execPath,
    [
      fileURLToPath(new URL('../support/start-guest.ts', import.meta.url)),
      directory,
      JSON.stringify(vm),
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const [line] = (await once(parent.stdout, 'data')) as [Buffer];
  t.match(line.toString(), 'started');
  parent.kill('SIGKILL');
  await once(parent, 'exit');
  const driver = anotherDriver();
  t.equal(await driver.adopt(vm), true);
  await untilReady(driver, vm);
  const { pid } = await driver.inspect(vm);
  const third = anotherDriver();
  await driver.close();
  t.match(await third.inspect(vm), { phase: 'running', pid }, 'looking adopts, too');
  await until('its readiness is found again', 5000, async () => {
    return (await third.inspect(vm)).ready === 'pattern';
  });
  await third.powerDown(vm);
  await until('the guest has stopped', 30_000, async () => (await third.inspect(vm)).pid === null);
  t.match(await third.inspect(vm), { phase: 'stopped', detail: 'guest-shutdown' });
  t.match(log(), 'demo guest stopped');
  t.equal(await third.adopt(vm), false);
});

t.test('a guest killed from outside has crashed', { skip }, async (t) => {
  const { driver, vm } = await guestRig(t);
  await driver.start(vm, never);
  const { pid } = await driver.inspect(vm);
  process.kill(pid ?? 0, 'SIGKILL');
  await until('it is noticed', 10_000, async () => (await driver.inspect(vm)).pid === null);
  t.match(await driver.inspect(vm), { phase: 'crashed' });
});

t.test('a start that cannot work says why and leaves no process', { skip }, async (t) => {
  const { driver, server } = await guestRig(t);
  const wrong = newDefinition(server, { id: '6f1c2b1e-52c3-4b6e-9a5d-0d2a4c8b7e11' });
  const [disk] = wrong.disks;
  if (disk === undefined) throw new Error('the definition has a disk');
  const vm = { ...wrong, disks: [{ ...disk, exportName: `no ${exportName}` }] };
  const error = (await driver.start(vm, never).catch((reason: unknown) => reason)) as Error;
  t.match(error, { code: 'HYPERVISOR_FAILED', message: /export/ });
  t.match(await driver.inspect(vm), { phase: 'stopped', pid: null });
});
