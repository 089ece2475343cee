/**
 * A running guest where the host works against it: cards on a bridge that come and go with the agent killed in the middle, and an
 * end while blockd is away.
 */
// limit: 300 s
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Vm, Volume } from '../../src/api/index.ts';
import { isAlive } from '../support/blockd-process.ts';
import { type Dvce, freshDvce } from '../support/dvce.ts';
import { demoImage, guestsMissing, readyPattern, Shell, until } from '../support/guest-rig.ts';

t.setTimeout(300_000);
const bridge = `dve${process.pid}`;
const ip = (...args: string[]): string => execFileSync('ip', args, { encoding: 'utf8' });

function bridgesMissing(): string | false {
  if (process.getuid?.() !== 0) return 'bridges need root';
  if (!existsSync('/dev/net/tun')) return 'bridges need /dev/net/tun';
  const made = spawnSync('ip', ['link', 'add', bridge, 'type', 'bridge']);
  if (made.status !== 0) return `no bridge can be made (CAP_NET_ADMIN): ${made.stderr}`;
  ip('link', 'delete', bridge);
  return false;
}

/** The ports of the bridge. */
const ports = (): string[] => readdirSync(`/sys/class/net/${bridge}/brif`);

const show = (dvce: Dvce, name = 'web1'): Promise<Vm> => dvce.json<Vm>(`vm show ${name}`);

async function killAgent(dvce: Dvce): Promise<void> {
  process.kill(dvce.agentPid(), 'SIGKILL');
  await until('the agent is gone', 5000, () => dvce.holder('agent.lock') === undefined);
}

async function started(t: Test, dvce: Dvce): Promise<Shell> {
  await dvce.ok('vm start web1');
  await until('the guest is up', 120_000, async () =>
    (await dvce.ok('vm log web1')).includes(readyPattern),
  );
  const { id } = await show(dvce);
  const shell = new Shell(join(dvce.data, 'run', 'vm', id, 'console.sock'));
  t.teardown(() => shell.close());
  return shell;
}

const sees = (shell: Shell, card: string, isThere: boolean): Promise<void> =>
  until(`${card} ${isThere ? 'comes' : 'goes'}`, 30_000, async () => {
    const cards = await shell.run('ls /sys/class/net');
    return cards.split(/\s+/).includes(card) === isThere;
  });

async function made(t: Test): Promise<Dvce> {
  const dvce = freshDvce(t);
  await dvce.ok('up');
  await dvce.ok(`image import ${demoImage()} demo`);
  await dvce.ok('vm create web1 --image demo --memory 192MiB --net none');
  return dvce;
}

const skip = guestsMissing('ip');
const noBridges = bridgesMissing();

async function cards(t: Test, dvce: Dvce): Promise<void> {
  ip('link', 'add', bridge, 'type', 'bridge');
  t.teardown(() => ip('link', 'delete', bridge));
  ip('link', 'set', bridge, 'up');
  const shell = await started(t, dvce);
  const attach = `vm attach-nic web1 bridge=${bridge}`;

  await t.test('plugged in, the tap is a port; pulled out, it is gone', async (t) => {
    t.strictSame(ports(), []);
    await dvce.ok(attach);
    t.equal(ports().length, 1);
    t.match(
      ip('-o', 'link', 'show', ports()[0] ?? ''),
      new RegExp(`master ${bridge}.*\\bUP\\b|UP.*master ${bridge}`),
    );
    await sees(shell, 'eth0', true);
    t.match(await shell.run('cat /sys/class/net/eth0/address'), (await show(dvce)).nics[0]?.mac);
    await dvce.ok('vm detach-nic web1 card0');
    t.strictSame(ports(), []);
    await sees(shell, 'eth0', false);
  });

  await t.test('the agent is killed between the tap and the card', async () => {
    const attaching = dvce.cli(`${attach} --no-wait`);
    await until('the tap is there', 30_000, () => ports().length === 1);
    await killAgent(dvce);
    await attaching;
    await dvce.ok('up');
    await sees(shell, 'eth0', true);
    t.equal((await show(dvce)).nics.length, 1);
    t.equal(ports().length, 1);
  });

  await t.test('the agent is killed while the card is pulled out', async () => {
    await dvce.ok('vm detach-nic web1 card0 --no-wait');
    await killAgent(dvce);
    await dvce.ok('up');
    await until('the card is gone', 30_000, async () => {
      const { nics } = await show(dvce);
      // It had not begun, or what was begun has ended.
      if (nics.length > 0) await dvce.cli('vm detach-nic web1 card0');
      return nics.length === 0;
    });
    t.strictSame(ports(), []);
    await sees(shell, 'eth0', false);
  });

  await t.test('what the host has not leaves nothing', async (t) => {
    const { code, stderr } = await dvce.cli('vm attach-nic web1 bridge=dvnosuch');
    t.not(code, 0);
    t.match(stderr, /there is no bridge dvnosuch/);
    t.strictSame((await show(dvce)).nics, []);
  });

  await t.test('one that was attached while it was stopped comes with the start', async (t) => {
    await dvce.ok('vm stop web1 --force');
    await dvce.ok(attach);
    t.strictSame(ports(), []);
    await dvce.ok('vm start web1');
    t.equal(ports().length, 1);
    await dvce.ok('vm stop web1 --force');
    await until('the tap is gone', 10_000, () => ports().length === 0);
    await dvce.ok('vm detach-nic web1 card0');
  });
}

async function ends(t: Test, dvce: Dvce): Promise<void> {
  const volume = (): Promise<Volume> => dvce.json<Volume>('volume show /vms/web1/disk0');
  const recorded = (): Promise<void> =>
    until('it is recorded and its volume let go', 30_000, async () => {
      const vm = await show(dvce);
      return vm.desired === 'stopped' && vm.phase === 'stopped' && (await volume()).open === null;
    });

  await t.test('blockd hangs', async (t) => {
    await dvce.ok('vm start web1');
    const { pid } = await show(dvce);
    const blockd = dvce.holder('lock') ?? 0;
    process.kill(blockd, 'SIGSTOP');
    try {
      const stop = await dvce.cli('vm stop web1 --force');
      t.equal(stop.code, 0, stop.stderr);
      t.notOk(isAlive(pid ?? 0), 'the guest is gone');
    } finally {
      process.kill(blockd, 'SIGCONT');
    }
    await recorded();
  });

  await t.test('blockd is dead, and the agent ends before it is back', async (t) => {
    await dvce.ok('vm start web1');
    const { pid } = await show(dvce);
    const launcher = dvce.holder('launcher.lock') ?? 0;
    process.kill(launcher, 'SIGSTOP');
    try {
      process.kill(dvce.holder('lock') ?? 0, 'SIGKILL');
      const stop = await dvce.cli('vm stop web1 --timeout 1s');
      t.equal(stop.code, 0, stop.stderr);
      t.notOk(isAlive(pid ?? 0), 'the guest is gone');
      await killAgent(dvce);
    } finally {
      process.kill(launcher, 'SIGCONT');
    }
    await dvce.ok('up');
    await recorded();
    t.strictSame((await show(dvce)).crashes, [], 'its end was no crash');
  });
}

t.test('a running guest where the host works against it', { skip }, async (t) => {
  const dvce = await made(t);
  await t.test('cards on a bridge', { skip: noBridges }, (t) => cards(t, dvce));
  await t.test('a guest is stopped while blockd is away', (t) => ends(t, dvce));
});
