/**
 * What a guest is given: cloud-init's seed, an address on a bridge, a display, a share; through the program as an operator uses
 * it, with the agent killed in the middle.
 */
// limit: 300 s
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, globSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import t, { type Test } from 'tap';
import type { Doctor, Network, Vm, VmVnc } from '../../src/api/index.ts';
import { type Dvce, freshDvce } from '../support/dvce.ts';
import { demoImage, guestsMissing, readyPattern, until } from '../support/guest-rig.ts';
import { lookAtScreen } from '../support/rfb.ts';

t.setTimeout(300_000);
const marker = 'MARKER-5f2c-in-user-data';
const bridge = `dvt${process.pid}`;
const key =
  'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGuVZ1h2wJmJxW2J8m8FqXfR2i0vJ2d3i5Uo1m3gYy2b someone@example';

function bridgesMissing(): string | false {
  if (process.getuid?.() !== 0) return 'bridges need root';
  if (!existsSync('/dev/net/tun')) return 'bridges need /dev/net/tun';
  const made = spawnSync('ip', ['link', 'add', bridge, 'type', 'bridge']);
  if (made.status !== 0) return `no bridge can be made: ${made.stderr}`;
  execFileSync('ip', ['link', 'delete', bridge]);
  return false;
}

const ip = (...args: string[]): string => execFileSync('ip', args, { encoding: 'utf8' });
const taps = (): string[] =>
  [...ip('-o', 'link', 'show', 'master', bridge).matchAll(/^\d+: (\S+?):/gm)].map(
    ([, tap]) => tap ?? '',
  );

async function inGuest(dvce: Dvce, vm: string, command: string): Promise<string> {
  const script = resolve(import.meta.dirname, '../../scripts/guest-shell.ts');
  const { code, stdout, stderr } = await dvce.shell(
    `${process.execPath} ${script} --timeout 60 ${vm} '${command}'`,
  );
  if (code !== 0) throw new Error(`${command} in the guest: ${code} ${stdout} ${stderr}`);
  return stdout;
}

async function killAgent(dvce: Dvce): Promise<void> {
  process.kill(dvce.agentPid(), 'SIGKILL');
  await until('the agent is gone', 5000, () => dvce.holder('agent.lock') === undefined);
}

/** Files of the data directory and command lines of processes in which the text stands. */
function whereIs(text: string, data: string): { files: string[]; commands: string[] } {
  const has = (path: string): boolean => {
    try {
      return statSync(path).size < 1024 ** 2 * 8 && readFileSync(path).includes(text);
    } catch {
      return false; // a socket, or gone meanwhile
    }
  };
  const commands = globSync('/proc/[0-9]*/{cmdline,environ}').filter((path) => {
    try {
      return readFileSync(path).includes(text);
    } catch {
      return false; // the process has ended
    }
  });
  return { files: globSync(`${data}/{log,state,run,store/state}/**/*`).filter(has), commands };
}

const skip = guestsMissing('ip') || bridgesMissing();
t.test('cloud-init, addresses on a bridge, a display', { skip }, async (t) => {
  ip('link', 'add', bridge, 'type', 'bridge');
  t.teardown(() => ip('link', 'delete', bridge));
  ip('addr', 'add', '10.213.7.1/24', 'dev', bridge);
  ip('link', 'set', bridge, 'up');
  const dvce = freshDvce(t);
  await dvce.ok('up');
  await dvce.ok(`image import ${demoImage()} demo`);
  writeFileSync(`${dvce.directory}/user-data`, `#cloud-config\npassword: ${marker}\n`);
  writeFileSync(`${dvce.directory}/keys.pub`, `# mine\n${key}\n`);
  await dvce.ok(
    `network create lan --bridge ${bridge} --subnet 10.213.7.0/24 --gateway 10.213.7.1 --range 10.213.7.10-10.213.7.12`,
  );
  await dvce.ok(
    `vm create web1 --image demo --memory 192MiB --net network=lan --user-data user-data --ssh-key keys.pub --hostname web1.example.org --vnc --io-max 64MiB`,
  );
  const patterned = await dvce.run([
    ...['vm', 'create', 'web2', '--image', 'demo', '--memory', '192MiB', '--net', 'none'],
    ...['--ready-pattern', readyPattern],
  ]);
  t.equal(patterned.code, 0, patterned.stderr);
  const show = (name: string): Promise<Vm> => dvce.json<Vm>(`vm show ${name}`);
  const made = await show('web1');
  const { id, nics, cloudInit } = made;
  t.match(nics, [{ kind: 'bridge', bridge, network: 'lan', address: '10.213.7.10' }]);
  t.match(cloudInit, { hostname: 'web1.example.org', sshKeys: [key], networkConfig: 'made' });
  t.notMatch(JSON.stringify(made), marker, 'user data is not shown again');
  await dvce.ok('vm start web1');
  const tap = taps();
  t.equal(tap.length, 1, 'the card is a port of the bridge');

  await t.test('the guest reads its seed, and nobody else the secret in it', async (t) => {
    const { files, commands } = whereIs(marker, dvce.data);
    t.strictSame(commands, [], 'on no command line, in no environment');
    t.ok(files.length >= 2, 'the document and the seed');
    for (const file of files) {
      t.notMatch(file, /\/log\//);
      t.equal(statSync(file).mode & 0o077, 0, `${file} is for its owner alone`);
    }
    await until('the guest is up', 60_000, async () =>
      (await dvce.ok('vm log web1')).includes(readyPattern),
    );
    const seed = await inGuest(dvce, 'web1', 'cat /sys/block/vdb/ro; strings -n 6 /dev/vdb');
    t.match(seed, /^1$/m, 'read-only');
    for (const text of ['cidata', `dvce-${id}`, 'web1.example.org', marker, '10.213.7.10/24', key])
      t.ok(seed.includes(text), text);
  });

  await t.test('it reaches the bridge with the address that it was given', async (t) => {
    const ping = await inGuest(
      dvce,
      'web1',
      'killall udhcpc; ip addr add 10.213.7.10/24 dev eth0; ping -c 1 -W 5 10.213.7.1',
    );
    t.match(ping, /1 packets received/);
    t.match(ip('neigh', 'show', 'dev', bridge), nics[0]?.mac ?? 'a card');
  });

  await t.test('the display wants the password of this run, on the loopback address', async (t) => {
    const { host, port, password } = await dvce.json<VmVnc>('vm vnc web1');
    t.equal(host, '127.0.0.1');
    const seen = await lookAtScreen(host, port, password);
    t.strictSame(seen.securityTypes, [2], 'no way in without it');
    t.ok((seen.width ?? 0) > 0);
    t.equal((await lookAtScreen(host, port, 'wrong')).width, null);
    t.strictSame(whereIs(password, dvce.data).commands, []);
    for (const file of whereIs(password, dvce.data).files)
      t.match(file, /\/run\/vm\/[^/]+\/vnc-password$/);
    await dvce.ok('vm start web2');
    const { pid } = await show('web2');
    t.notMatch(readFileSync(`/proc/${pid}/cmdline`, 'latin1'), 'vnc');
    t.match((await dvce.cli('vm vnc web2')).stderr, /no graphical display/);
    await dvce.ok('vm stop web2 --force');
  });

  await t.test(
    'the agent is killed: card and display go on, and are gone after the stop',
    async (t) => {
      const before = await dvce.json<VmVnc>('vm vnc web1');
      await killAgent(dvce);
      await dvce.ok('up');
      t.strictSame(taps(), tap);
      t.strictSame(await dvce.json<VmVnc>('vm vnc web1'), before);
      await dvce.ok('vm stop web1 --force');
      await until('nothing is left', 5000, () => taps().length === 0);
      await until(
        'the run directory is gone',
        5000,
        () => !existsSync(`${dvce.data}/run/vm/${id}`),
      );
      t.not((await dvce.cli('vm vnc web1')).code, 0);
    },
  );

  await t.test(
    'a guest that dies while no agent runs leaves nothing after the next start',
    async (t) => {
      await dvce.ok('vm start web1');
      const { pid } = await show('web1');
      await killAgent(dvce);
      process.kill(pid ?? 0, 'SIGKILL');
      t.equal(taps().length, 1);
      await dvce.ok('up');
      // As one that crashed it is started again, with a device of its own.
      await until('it runs again', 30_000, async () => {
        const vm = await show('web1');
        return vm.phase === 'running' && vm.pid !== pid;
      });
      t.equal(taps().length, 1);
      await until(
        'its start is over',
        30_000,
        async () => (await dvce.ok('op list --running -q')) === '',
      );
      await dvce.ok('vm stop web1 --force');
      await until('the tap device is gone', 20_000, () => taps().length === 0);
    },
  );

  await t.test('addresses: no two alike after a kill in the middle, freed on delete', async (t) => {
    const creates = ['a', 'b', 'c'].map((name) =>
      dvce.cli(`vm create ${name} --net network=lan --net user`),
    );
    await Promise.race(creates);
    await killAgent(dvce);
    await Promise.all(creates);
    await dvce.ok('up');
    for (const name of ['d', 'e', 'f']) await dvce.cli(`vm create ${name} --net network=lan`);
    const vms = await dvce.json<Vm[]>('vm list');
    const all = vms.flatMap((vm) => vm.nics);
    const addresses = all.flatMap(({ address }) => (address === null ? [] : [address]));
    t.equal(new Set(addresses).size, addresses.length);
    t.equal(addresses.length, 3, 'the whole range, and no more');
    t.equal(new Set(all.map(({ mac }) => mac)).size, all.length);
    const full = await dvce.cli('vm create z --net network=lan');
    t.equal(full.code, 4);
    t.match(full.stderr, /10\.213\.7\.10 to 10\.213\.7\.12 are leased/);
    t.match((await dvce.cli('vm show z')).code, 5, 'nothing of it stays');
    const used = await dvce.cli('network delete lan --yes');
    t.equal(used.code, 6);
    t.match(used.stderr, /web1/);
    for (const { name } of vms) await dvce.ok(`vm delete ${name} --yes`);
    t.strictSame((await dvce.json<Network>('network show lan')).leases, []);
    await dvce.ok('vm create z --net network=lan,10.213.7.12');
    t.equal((await show('z')).nics[0]?.address, '10.213.7.12');
    await dvce.ok('vm delete z --yes');
    await dvce.ok('network delete lan --yes');
    t.equal((await dvce.cli('network show lan')).code, 5);
  });

  await t.test('what the host has not is said, and nothing is half done', (t) => refusals(t, dvce));
});

async function refusals(t: Test, dvce: Dvce): Promise<void> {
  await dvce.ok('vm create lost --net bridge=dvnosuch');
  const lost = await dvce.cli('vm start lost');
  t.not(lost.code, 0);
  t.match(lost.stderr, /there is no bridge dvnosuch/);
  t.match(lost.stderr, /ip link add dvnosuch type bridge/);
  t.equal((await dvce.json<Vm>('vm show lost')).desired, 'stopped');
  await dvce.ok('vm create greedy --net none --cpu-min 64');
  const greedy = await dvce.cli('vm start greedy');
  t.equal(greedy.code, 8);
  t.match(greedy.stderr, /at least 64 CPUs/);
  const { findings } = await dvce.json<Doctor>('doctor');
  t.match(
    findings.find(({ name }) => name === 'bridges'),
    { result: 'ok', detail: new RegExp(bridge) },
  );
  const guarantees = findings.find(({ name }) => name === 'guarantees');
  t.ok(guarantees);
  await dvce.ok('vm create share --net none --cpu-weight 200 --memory 64MiB');
  const share = await dvce.cli('vm start share');
  if (guarantees?.result === 'ok') t.equal(share.code, 0, share.stderr);
  else t.match(share.stderr, /cgroup/, 'never without its share');
  const bad = [
    ['--net', 'bridge=a/b'],
    ['--net', 'bridge='],
    ['--ssh-key', 'ssh-ed25519 AAAA'],
    ['--user-data', '/nowhere'],
    ['--cpu-weight', '10001'],
    ['--memory-max', '64MiB'],
    ['--io-max', '1KiB'],
  ];
  for (const options of bad) {
    const { code, stderr } = await dvce.run(['vm', 'create', 'bad', ...options]);
    t.equal(code, 64, `${options.join(' ')}: ${stderr}`);
  }
  for (const options of [
    ['--subnet', '10.0.0.5/24'],
    ['--subnet', '10.0.0.0/24', '--gateway', '10.9.0.1'],
  ]) {
    const { code, stderr } = await dvce.run([
      'network',
      'create',
      'bad',
      '--bridge',
      'br0',
      ...options,
    ]);
    t.equal(code, 64, `${options.join(' ')}: ${stderr}`);
  }
  t.equal((await dvce.cli('vm show bad')).code, 5);
  t.equal((await dvce.cli('network show bad')).code, 5);
}
