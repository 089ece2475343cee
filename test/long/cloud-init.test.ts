/**
 * The real cloud-init of Debian in a real Debian, set up by what dvce gives it: the proof is a login over the network by the key,
 * at the address, on the host of the name that were given.
 */
// limit: 1200 s
import { execFileSync, spawnSync } from 'node:child_process';
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import t, { type Test } from 'tap';
import type { Vm } from '../../src/api/index.ts';
import { type Dvce, freshDvce } from '../support/dvce.ts';
import { demoImage, guestsMissing, until } from '../support/guest-rig.ts';

t.setTimeout(1_200_000);
const bridge = `dvc${process.pid}`;
const environment = {
  ...process.env,
  PATH: `${process.env['PATH']}:/usr/sbin:/sbin`,
  LC_ALL: 'C',
  DEBIAN_FRONTEND: 'noninteractive',
};
const run = (program: string, args: readonly string[], input?: string): string =>
  execFileSync(program, args, {
    encoding: 'utf8',
    env: environment,
    maxBuffer: 64 * 1024 ** 2,
    stdio: ['pipe', 'pipe', 'pipe'],
    ...(input === undefined ? {} : { input }),
  });

function missing(): string | false {
  if (process.getuid?.() !== 0) return 'building a Debian and a bridge needs root';
  const tools = ['mmdebstrap', 'sfdisk', 'mke2fs', 'dpkg-deb', 'depmod', 'ssh', 'ssh-keygen', 'ip'];
  const guests = guestsMissing(...tools);
  if (guests !== false) return guests;
  const made = spawnSync('ip', ['link', 'add', bridge, 'type', 'bridge'], { env: environment });
  if (made.status !== 0) return `no bridge can be made: ${made.stderr}`;
  run('ip', ['link', 'delete', bridge]);
  return false;
}

/** Where the second partition of the demonstration image begins. */
const rootOffset = 67_584 * 512;
const diskBytes = 900 * 1024 ** 2;

/** A Debian with cloud-init behind the boot loader, kernel and initramfs of the demonstration image. @returns its path */
function debianDisk(directory: string): string {
  const root = `${directory}/root`;
  const packages =
    'systemd-sysv,cloud-init,ifupdown,isc-dhcp-client,iproute2,kmod,udev,openssh-server,sudo,dbus';
  run('mmdebstrap', [
    ...['--quiet', '--variant=minbase', `--include=${packages}`],
    ...['--aptopt=APT::Install-Recommends "false"', '--dpkgopt=path-exclude=/usr/share/doc/*'],
    ...['bookworm', root],
  ]);
  addModules(directory, root);
  writeFileSync(
    `${root}/etc/cloud/cloud.cfg.d/99-datasource.cfg`,
    'datasource_list: [ NoCloud, None ]\n',
  );
  const disk = `${directory}/debian.raw`;
  copyFileSync(demoImage(), disk);
  truncateSync(disk, diskBytes);
  const table = 'label: dos\nstart=2048, size=65536, type=e, bootable\nstart=67584, type=83\n';
  run('sfdisk', ['-q', '--no-reread', '--wipe', 'never', disk], table);
  run('mke2fs', [
    ...['-q', '-F', '-t', 'ext4', '-b', '4096', '-L', 'demo-root', '-d', root],
    ...['-E', `root_owner=0:0,offset=${rootOffset},lazy_itable_init=0`],
    ...[disk, `${(diskBytes - rootOffset) / 1024}k`],
  ]);
  rmSync(root, { recursive: true });
  return disk;
}

/** The kernel of the demonstration image comes from this package; the initramfs has no module for the seed disk. */
function addModules(directory: string, root: string): void {
  const [, name = ''] =
    /Depends: (\S+)/.exec(run('apt-cache', ['depends', 'linux-image-cloud-amd64'])) ?? [];
  const unpacked = `${directory}/kernel`;
  mkdirSync(unpacked);
  execFileSync('apt-get', ['-q', '-o', 'APT::Sandbox::User=root', 'download', name], {
    cwd: unpacked,
    env: environment,
    stdio: 'ignore',
  });
  const [file = ''] = readdirSync(unpacked);
  run('dpkg-deb', ['-x', `${unpacked}/${file}`, unpacked]);
  const [version = ''] = readdirSync(`${unpacked}/lib/modules`);
  for (const module of ['fs/isofs/isofs.ko', 'drivers/cdrom/cdrom.ko']) {
    const target = `${root}/lib/modules/${version}/kernel/${module}`;
    mkdirSync(target.slice(0, target.lastIndexOf('/')), { recursive: true });
    copyFileSync(`${unpacked}/lib/modules/${version}/kernel/${module}`, target);
  }
  run('depmod', ['-b', root, version]);
}

const userData = `#cloud-config
runcmd:
  - [sh, -c, 'echo "DONE $(hostname) $(cloud-init query instance_id)" > /dev/console']
`;

/** How often cloud-init has run what it runs once for each instance. */
const runs = async (dvce: Dvce): Promise<number> =>
  [...(await dvce.ok('vm log deb1')).matchAll(/^.*DONE deb1 dvce-/gm)].length;

async function login(t: Test, dvce: Dvce, command: string): Promise<string> {
  const options = ['BatchMode=yes', 'StrictHostKeyChecking=no', 'UserKnownHostsFile=/dev/null'];
  const args = [
    ...options.flatMap((option) => ['-o', option]),
    ...['-o', 'ConnectTimeout=10', '-i', `${dvce.directory}/key`, 'debian@10.214.7.10', command],
  ];
  let answer = '';
  await until('a login', 120_000, () => {
    const { status, stdout } = spawnSync('ssh', args, { encoding: 'utf8', env: environment });
    answer = stdout;
    return status === 0;
  });
  t.comment(answer);
  return answer;
}

t.test('cloud-init sets a Debian up', { skip: missing() }, async (t) => {
  const directory = mkdtempSync('/tmp/dvce-debian-');
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const disk = debianDisk(directory);
  run('ip', ['link', 'add', bridge, 'type', 'bridge']);
  t.teardown(() => run('ip', ['link', 'delete', bridge]));
  run('ip', ['addr', 'add', '10.214.7.1/24', 'dev', bridge]);
  run('ip', ['link', 'set', bridge, 'up']);
  const dvce = freshDvce(t);
  writeFileSync(`${dvce.directory}/user-data`, userData);
  run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', `${dvce.directory}/key`]);
  await dvce.ok('up');
  await dvce.ok(`image import ${disk} debian`);
  await dvce.ok(
    `network create lan --bridge ${bridge} --subnet 10.214.7.0/24 --gateway 10.214.7.1 --range 10.214.7.10-10.214.7.20`,
  );
  await dvce.ok(
    'vm create deb1 --image debian --memory 512MiB --net network=lan --user-data user-data --ssh-key key.pub --hostname deb1',
  );
  const { id } = await dvce.json<Vm>('vm show deb1');
  await dvce.ok('vm start deb1');
  await until('cloud-init is done', 600_000, async () => (await runs(dvce)) > 0);
  t.ok((await dvce.ok('vm log deb1')).includes(`DONE deb1 dvce-${id}`), 'the instance is the VM');
  const answer = await login(t, dvce, 'hostname; ip -br addr; ip route; sudo sync');
  t.match(answer, /^deb1$/m);
  t.match(answer, /^eth0\s+UP\s+10\.214\.7\.10\/24/m);
  t.notMatch(await dvce.ok('vm log deb1'), /Skipping invalid command/);
  t.match(answer, /^default via 10\.214\.7\.1/m);
});
