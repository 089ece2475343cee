/**
 * `guest-mix` of the block suite: fio inside of a guest on its own disk, 70 % reads, 8 KiB, a flush after every 16 writes.
 *
 * The guest is the small Linux of the quickstart with fio added, and starts it by itself. dvce runs it as any VM, on a clone of
 * the image. The peers are the same hypervisor with the same command line, the disk replaced by a raw file on the same file
 * system:
 *
 *   raw-file          cache=writeback, what QEMU does when nothing is said: the host's page cache, flushes reach the disk
 *   raw-file-direct   cache=none, aio=native, what most managers choose: past the page cache
 *
 * The guest writes the span once before, so that every block is allocated on each side, and reads past its own cache. It
 * measures itself; booting does not count. The sides alternate, and the order turns from round to round.
 */
import { spawn } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { GiB, MiB } from '../src/base/index.ts';
import { demoImage, movedTo, nodeWithImage, readyPattern } from './host-guests.ts';
import { clearDirectory, freshDirectory, type HostNode, run, until } from './host-node.ts';
import { median, type Row, spreadOf } from './report.ts';

export const guestMix = 'guest-mix';
export const guestPeers = ['raw-file', 'raw-file-direct'] as const;
export type GuestPeer = (typeof guestPeers)[number];

const tools = ['qemu-system-x86_64', 'debugfs', 'fio', 'ldd', 'apt-get'];
const depth = 8;
/** Behind the partitions of the image. */
const offsetBytes = 256 * MiB;
const spanBytes = 512 * MiB;
/** First byte of the partition with the guest's programs (scripts/demo-image.sh). */
const rootOffset = 67_584 * 512;
const marker = 'mix-result ';

/** Why guests cannot be measured here, or null. */
export function guestMixMissing(): string | null {
  if (process.arch !== 'x64') return 'the image of the guest is for x86_64 only';
  const path = `${process.env['PATH']}:/usr/sbin:/sbin`.split(':');
  const missing = tools.filter((tool) => !path.some((each) => existsSync(join(each, tool))));
  return missing.length === 0 ? null : `not installed: ${missing.join(', ')}`;
}

/** Run once by the guest's init; its output is the console. */
const mixScript = (seconds: number): string => `#!/bin/sh
export PATH=/bin:/sbin
cd /tmp
region="--filename=/dev/vda --offset=${offsetBytes} --size=${spanBytes} --direct=1 --thread --randrepeat=0"
fio --name=fill $region --rw=write --bs=1m --end_fsync=1 --output=/tmp/fill.txt || echo "${marker}{}"
fio --name=mix $region --ioengine=libaio --iodepth=${depth} --rw=randrw --rwmixread=70 --bs=8k --fsync=16 --norandommap \\
  --time_based --runtime=${seconds} --output-format=json --output=/tmp/mix.json
echo
echo "${marker}$(tr -d ' \\n' < /tmp/mix.json)"
`;

const inittab = `::sysinit:/etc/init.d/start
ttyS0::once:/root/mix
::shutdown:/etc/init.d/stop
`;

/** The image of the quickstart with fio, its libraries and the script, and room for the span. */
async function makeImage(directory: string, seconds: number): Promise<string> {
  const image = join(directory, 'mix.raw');
  const script = join(directory, 'mix');
  const table = join(directory, 'inittab');
  copyFileSync(await demoImage(), image);
  truncateSync(image, GiB);
  writeFileSync(script, mixScript(seconds), { mode: 0o755 });
  writeFileSync(table, inittab);
  const fio = (await run('sh', ['-c', 'command -v fio'])).trim();
  const libraries = [...(await run('ldd', [fio])).matchAll(/(\/\S+) \(0x/g)].map(
    ([, path = '']) => path,
  );
  const files: [string, string][] = [
    [table, '/etc/inittab'],
    [script, '/root/mix'],
    [fio, '/bin/fio'],
    ...libraries.map((path): [string, string] => [path, path]),
  ];
  const folders = new Set<string>();
  for (const path of libraries)
    for (let at = path.indexOf('/', 1); at > 0; at = path.indexOf('/', at + 1))
      folders.add(path.slice(0, at));
  const commands = [
    'rm /etc/inittab',
    ...[...folders].map((folder) => `mkdir ${folder}`),
    ...files.flatMap(([from, to]) => [`cd ${dirname(to)}`, `write ${from} ${basename(to)}`]),
  ];
  const list = join(directory, 'commands');
  writeFileSync(list, `${commands.join('\n')}\n`);
  await run('debugfs', ['-w', '-f', list, `${image}?offset=${rootOffset}`], withSystemPrograms);
  return image;
}

const withSystemPrograms = { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` };

interface FioReport {
  readonly jobs: readonly { readonly read: { iops: number }; readonly write: { iops: number } }[];
}

/** Requests a second, once the guest has said so on its console. */
async function resultOn(console: string, hasEnded: () => string | null): Promise<number> {
  let line = '';
  const isSaid = (): boolean => {
    const ended = hasEnded();
    if (ended !== null) throw new Error(`the guest ended: ${ended}`);
    const text = existsSync(console) ? readFileSync(console, 'utf8') : '';
    const from = text.lastIndexOf(marker);
    const end = text.indexOf('\n', from);
    line = from < 0 || end < 0 ? '' : text.slice(from + marker.length, end);
    return line !== '';
  };
  await until('fio in the guest is done', isSaid, { everyMs: 100, withinMs: 600_000 });
  const { jobs: [job] = [] } = JSON.parse(line) as Partial<FioReport>;
  if (job === undefined) throw new Error(`fio failed in the guest, see ${console}`);
  return job.read.iops + job.write.iops;
}

interface Booted {
  readonly perSecond: number;
  readonly commandLine: readonly string[];
}

async function onDvce(node: HostNode, name: string): Promise<Booted> {
  const { vms } = node.api;
  await vms.create({ name, image: guestMix, memoryBytes: 256 * MiB, nics: [], readyPattern });
  await node.ended(await vms.start(name, { ready: true }));
  const { pid } = await vms.get(name);
  const commandLine = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').slice(0, -1);
  const console = /logfile=([^,]*)/.exec(commandLine.join('\n'))?.[1] ?? '';
  const hasEnded = (): string | null => (existsSync(`/proc/${pid}`) ? null : 'see its log');
  const perSecond = await resultOn(console, hasEnded);
  await node.ended(await vms.stop(name, { force: true }));
  await vms.delete(name);
  return { perSecond, commandLine };
}

async function onFile(
  peer: GuestPeer,
  commandLine: readonly string[],
  theirs: string,
  directory: string,
  image: string,
): Promise<number> {
  const disk = join(directory, 'disk.raw');
  const place = join(directory, 'guest');
  rmSync(place, { recursive: true, force: true });
  mkdirSync(place);
  copyFileSync(image, disk);
  const [program = '', ...args] = commandLine.map((argument) =>
    movedTo(argument, theirs, place, disk, { direct: peer === 'raw-file-direct' }),
  );
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  const ended = new Promise<void>((done) => child.once('close', () => done()));
  try {
    return await resultOn(join(place, 'console.log'), () =>
      child.exitCode === null ? null : `exit code ${child.exitCode}`,
    );
  } finally {
    child.kill('SIGKILL');
    await ended;
  }
}

/** One row for each peer. */
export async function measureGuestMix(
  parent: string,
  { rounds, seconds, peers }: { rounds: number; seconds: number; peers: readonly GuestPeer[] },
): Promise<Row[]> {
  const directory = freshDirectory(parent);
  const values = new Map<string, number[]>(['dvce', ...peers].map((name) => [name, []]));
  try {
    const image = await makeImage(directory, seconds);
    const node = await nodeWithImage(parent, image, guestMix);
    try {
      let line: readonly string[] = [];
      const ours = async (round: number): Promise<number> => {
        const { perSecond, commandLine } = await onDvce(node, `mix${round}`);
        line = commandLine;
        return perSecond;
      };
      const sides = ['dvce' as const, ...peers];
      for (let round = 1; round <= rounds; round += 1)
        for (const name of round % 2 === 1 ? sides : sides.toReversed()) {
          const perSecond =
            name === 'dvce'
              ? await ours(round)
              : await onFile(name, line, node.data, directory, image);
          values.get(name)?.push(perSecond);
          process.stderr.write(
            `round ${round} ${guestMix} ${name}: ${perSecond.toFixed(0)} IOPS\n`,
          );
        }
    } finally {
      await node.stop();
    }
  } finally {
    clearDirectory(directory);
  }
  const ours = values.get('dvce') ?? [];
  const own = { name: guestMix, unit: 'IOPS', ours: median(ours) };
  return peers.map((peerName): Row => {
    const theirs = values.get(peerName) ?? [];
    const peer = median(theirs);
    return {
      ...own,
      peer,
      peerName,
      ratio: own.ours / peer,
      spread: { ours: spreadOf(ours), peer: spreadOf(theirs) },
      reach: { ratioMin: 1.1 },
    };
  });
}
