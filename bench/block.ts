/**
 * The block suite: fio's nbd engine against exports on one disk, alternating within one run.
 *
 * Every write row writes at least `writtenBytes` (four times the journal's quota), and its time includes what is left to
 * do afterwards: for dvce, until everything lies in the store and the journal is back at its starting level; for a peer,
 * until its file is synced. So nobody gains by putting work off. Read rows are warm: each server reads the whole span
 * once before.
 *
 * What fio writes is noise, so the peer `dvce-zstd`, a volume that compresses, shows what looking costs where there is nothing to
 * gain; with `--compressible` it shows what there is. It is measured only when it is named.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { parseSize } from '../src/base/index.ts';
import {
  type GuestPeer,
  guestMix,
  guestMixMissing,
  guestPeers,
  measureGuestMix,
} from './guest-mix.ts';
import { clearAtEnd, clearDirectory, freshDirectory } from './host-node.ts';
import { median, type Row, report, spreadOf } from './report.ts';
import { type PeerName, startPeer, type Target } from './targets.ts';

interface Work {
  readonly name: string;
  readonly unit: 'IOPS' | 'MiB/s';
  readonly rw: 'read' | 'write' | 'randread' | 'randwrite';
  readonly blockSize: '4k' | '1m';
  readonly depth: number;
  readonly jobs: number;
  readonly fsync: boolean;
}

const work = (
  name: string,
  rw: Work['rw'],
  blockSize: Work['blockSize'],
  depth: number,
  jobs = 1,
  fsync = false,
): Work => ({
  name,
  unit: blockSize === '1m' ? 'MiB/s' : 'IOPS',
  rw,
  blockSize,
  depth,
  jobs,
  fsync,
});

const works: readonly Work[] = [
  work('randwrite-4k-qd1', 'randwrite', '4k', 1),
  work('randwrite-4k-qd32', 'randwrite', '4k', 32),
  work('randread-4k-qd1', 'randread', '4k', 1),
  work('randread-4k-qd32', 'randread', '4k', 32),
  work('write-flush-4k-qd1', 'randwrite', '4k', 1, 1, true),
  work('write-flush-4k-16jobs', 'randwrite', '4k', 1, 16, true),
  work('seqwrite-1m', 'write', '1m', 8),
  work('seqread-1m', 'read', '1m', 8),
];

const peers: readonly PeerName[] = [
  'qemu-nbd-raw',
  'qemu-nbd-sparse',
  'qemu-nbd-qcow2',
  'nbdkit-file',
  'disk',
];

const help = `usage: npm run bench -- block [options]

  --rounds N        how often each row is measured for each target (3)
  --journal SIZE    quota of the journal (512MiB); write rows write at least four times as much
  --span SIZE       bytes of the volume that are used (1GiB)
  --read-seconds N  length of a read row (8)
  --rows A,B        only these rows
  --peers A,B       only these peers; dvce-zstd, a volume that compresses, is one of its own
  --compressible N  so many percent of what is written can be compressed away (0)
  --dir DIR         where the files lie (a new directory below the system's temporary one)

rows: ${works.map(({ name }) => name).join(', ')}, and ${guestMix}, measured by fio in a guest
peers: ${peers.join(', ')}; of ${guestMix} ${guestPeers.join(', ')}

examples:
  npm run bench -- block
  npm run bench -- block --rows randwrite-4k-qd32,randread-4k-qd32 --peers qemu-nbd-raw
  npm run bench -- block --rows randwrite-4k-qd32,seqwrite-1m --peers dvce-zstd
`;

interface Settings {
  readonly rounds: number;
  readonly journalBytes: number;
  readonly spanBytes: number;
  readonly readSeconds: number;
  readonly compressiblePercent: number;
  readonly works: readonly Work[];
  readonly peers: readonly PeerName[];
  /** Of the row that is measured in a guest; none: it is not wanted. */
  readonly guestPeers: readonly GuestPeer[];
  readonly directory: string;
}

function settingsOf(options: readonly string[]): Settings | undefined {
  const { values } = parseArgs({
    args: [...options],
    options: {
      help: { type: 'boolean', default: false },
      rounds: { type: 'string', default: '3' },
      journal: { type: 'string', default: '512MiB' },
      span: { type: 'string', default: '1GiB' },
      'read-seconds': { type: 'string', default: '8' },
      rows: { type: 'string' },
      peers: { type: 'string' },
      compressible: { type: 'string', default: '0' },
      dir: { type: 'string' },
    },
  });
  if (values.help) {
    process.stdout.write(help);
    return undefined;
  }
  const chosen = (list: string | undefined): Set<string> | undefined =>
    list === undefined ? undefined : new Set(list.split(','));
  const rows = chosen(values.rows);
  const names = chosen(values.peers);
  return {
    rounds: Number(values.rounds),
    journalBytes: parseSize(values.journal),
    spanBytes: parseSize(values.span),
    readSeconds: Number(values['read-seconds']),
    compressiblePercent: Number(values.compressible),
    works: works.filter(({ name }) => rows === undefined || rows.has(name)),
    peers:
      names === undefined
        ? peers
        : [...peers, 'dvce-zstd' as const].filter((name) => names.has(name)),
    guestPeers:
      rows === undefined || rows.has(guestMix)
        ? guestPeers.filter((name) => names === undefined || names.has(name))
        : [],
    directory: freshDirectory(values.dir ?? '/tmp'),
  };
}

export async function measureBlock(options: readonly string[]): Promise<void> {
  const settings = settingsOf(options);
  if (settings === undefined) return;
  clearAtEnd();
  try {
    const rows = settings.works.length > 0 ? await measureServers(settings) : [];
    report('block', [...rows, ...(await guestRows(settings))]);
  } finally {
    clearDirectory(settings.directory);
  }
}

async function measureServers(settings: Settings): Promise<Row[]> {
  const results = new Map<string, number[]>();
  const targets: Target[] = [];
  try {
    for (const name of ['dvce', ...settings.peers] as const)
      targets.push(
        await startPeer(name, settings.directory, settings.spanBytes, settings.journalBytes),
      );
    for (const target of targets) fill(target, settings);
    for (let round = 1; round <= settings.rounds; round += 1)
      await measureRound(round, targets, settings, results);
  } finally {
    for (const target of targets) await target.stop();
  }
  return rowsOf(settings, results);
}

async function guestRows({ guestPeers: wanted, ...settings }: Settings): Promise<Row[]> {
  if (wanted.length === 0) return [];
  const missing = guestMixMissing();
  if (missing !== null) {
    process.stderr.write(`${guestMix} is left out: ${missing}\n`);
    return [];
  }
  const { rounds, readSeconds: seconds, directory } = settings;
  // Beside it: paths of sockets are short.
  return await measureGuestMix(dirname(directory), { rounds, seconds, peers: wanted });
}

/** The order turns from round to round, so that no target always runs on a machine that another has just heated. */
async function measureRound(
  round: number,
  targets: readonly Target[],
  settings: Settings,
  results: Map<string, number[]>,
): Promise<void> {
  for (const each of settings.works)
    for (const target of round % 2 === 1 ? targets : targets.toReversed()) {
      const value = await measure(target, each, settings);
      const key = `${each.name} ${target.name}`;
      results.set(key, [...(results.get(key) ?? []), value]);
      process.stderr.write(`round ${round} ${key}: ${value.toFixed(1)} ${each.unit}\n`);
    }
}

function rowsOf(settings: Settings, results: ReadonlyMap<string, readonly number[]>): Row[] {
  return settings.works.flatMap(({ name, unit }) => {
    const ours = results.get(`${name} dvce`) ?? [];
    const own = { name, unit, ours: median(ours) };
    const spread = spreadOf(ours);
    if (settings.peers.length === 0)
      return [
        { ...own, peer: null, peerName: null, ratio: null, spread: { ours: spread, peer: null } },
      ];
    return settings.peers.map((peerName): Row => {
      const values = results.get(`${name} ${peerName}`) ?? [];
      const peer = median(values);
      return {
        ...own,
        peer,
        peerName,
        ratio: own.ours / peer,
        spread: { ours: spread, peer: spreadOf(values) },
      };
    });
  });
}

/** Every block of the span is written once: reads find data, and a thin peer has allocated what it will overwrite. */
function fill(target: Target, settings: Settings): void {
  if (target.startsSparse) return;
  fio(target, { ...work('fill', 'write', '1m', 8), fsync: false }, settings, [
    `--io_size=${settings.spanBytes}`,
  ]);
  target.settle();
}

async function measure(target: Target, each: Work, settings: Settings): Promise<number> {
  const isRead = each.rw.endsWith('read');
  if (isRead) {
    fio(target, work('warm', 'read', '1m', 8), settings, [`--io_size=${settings.spanBytes}`]);
    const extra = ['--time_based', `--runtime=${settings.readSeconds}`];
    const { bytes, seconds } = fio(target, each, settings, extra);
    return figure(each, bytes, seconds);
  }
  await target.prepare();
  const perJob = Math.ceil((4 * settings.journalBytes) / each.jobs);
  const { bytes, seconds } = fio(target, each, settings, [`--io_size=${perJob}`]);
  const before = performance.now();
  await target.drain();
  return figure(each, bytes, seconds + (performance.now() - before) / 1000);
}

const figure = (each: Work, bytes: number, seconds: number): number =>
  each.unit === 'IOPS' ? bytes / 4096 / seconds : bytes / 1024 ** 2 / seconds;

interface FioJob {
  readonly read: { readonly io_bytes: number; readonly runtime: number };
  readonly write: { readonly io_bytes: number; readonly runtime: number };
}

/** Run fio and return what it moved and how long it took (its own clock, without its start-up). */
function fio(
  target: Target,
  each: Work,
  settings: Settings,
  extra: readonly string[],
): { bytes: number; seconds: number } {
  const output = join(settings.directory, 'fio.json');
  const args = [
    '--name=bench',
    ...target.fioTarget(each.depth),
    `--rw=${each.rw}`,
    `--bs=${each.blockSize}`,
    `--iodepth=${each.depth}`,
    `--numjobs=${each.jobs}`,
    `--size=${settings.spanBytes}`,
    '--thread',
    '--group_reporting',
    '--randrepeat=0',
    '--norandommap',
    '--random_generator=tausworthe64',
    '--refill_buffers',
    ...(each.fsync ? ['--fsync=1'] : []),
    ...(settings.compressiblePercent === 0
      ? []
      : [
          `--buffer_compress_percentage=${settings.compressiblePercent}`,
          '--buffer_compress_chunk=4096',
        ]),
    '--output-format=json',
    `--output=${output}`,
    ...extra,
  ];
  const done = spawnSync('fio', args, { encoding: 'utf8', timeout: 1_800_000 });
  if (done.status !== 0)
    throw new Error(`fio ${args.join(' ')} failed: ${done.stderr}${done.stdout}`);
  const text = readFileSync(output, 'utf8');
  const { jobs } = JSON.parse(text.slice(text.indexOf('{'))) as { jobs: readonly FioJob[] };
  const job = jobs[0];
  if (job === undefined) throw new Error('fio reported no job');
  const side = each.rw.endsWith('read') ? job.read : job.write;
  return { bytes: side.io_bytes, seconds: side.runtime / 1000 };
}
