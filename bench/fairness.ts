/**
 * The fairness suite: latency of a volume B at depth 1 while nothing else happens and while volume A of the same blockd is
 * flooded over four connections, on the same worker thread and on another one.
 *
 * A row is the 99th percentile of B under a flood (`ours`) beside that of B alone, measured right before it (`peer`); so the ratio
 * is what the flood costs. fio and blockd share the processors: with few of them a part of it is fio's own.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { GiB, MiB, systemClock, systemTimers } from '../src/base/index.ts';
import { BlockdClient, dataDirectory, ensureBlockd } from '../src/blockd/index.ts';
import { median, type Row, report, spreadOf } from './report.ts';

interface Load {
  readonly name: string;
  readonly options: readonly string[];
}

const load = (name: string, rw: string, blockSize: string, ...more: string[]): Load => ({
  name,
  options: [`--rw=${rw}`, `--bs=${blockSize}`, ...more],
});

const floods: readonly Load[] = [
  load('writes-4k', 'randwrite', '4k', '--iodepth=32'),
  load('writes-1m', 'write', '1m', '--iodepth=32'),
  load('reads-4k', 'randread', '4k', '--iodepth=32'),
  load('reads-1m', 'read', '1m', '--iodepth=32'),
  load('flushes-4k', 'randwrite', '4k', '--iodepth=1', '--fsync=1'),
  load('trims-1m', 'randtrim', '1m', '--iodepth=32'),
];
const victims: readonly Load[] = [
  load('read-4k', 'randread', '4k', '--iodepth=1'),
  load('write-flush-4k', 'randwrite', '4k', '--iodepth=1', '--fsync=1'),
];

const help = `usage: npm run bench -- fairness [options]

  --rounds N        how often each pair is measured (3)
  --seconds N       length of one measurement (5)
  --floods A,B      only these floods: ${floods.map(({ name }) => name).join(', ')}
  --places A,B      same, other: is the flooded volume on the same worker thread? (both)
  --dir DIR         where the files lie (a new directory below the system's temporary one)
`;

const spanBytes = 256 * MiB;

interface Settings {
  readonly rounds: number;
  readonly seconds: number;
  readonly floods: readonly Load[];
  readonly places: readonly string[];
  readonly directory: string;
}

function settingsOf(options: readonly string[]): Settings | undefined {
  const { values } = parseArgs({
    args: [...options],
    options: {
      help: { type: 'boolean', default: false },
      rounds: { type: 'string', default: '3' },
      seconds: { type: 'string', default: '5' },
      floods: { type: 'string' },
      places: { type: 'string', default: 'same,other' },
      dir: { type: 'string', default: '/tmp' },
    },
  });
  if (values.help) {
    process.stdout.write(help);
    return undefined;
  }
  const chosen = values.floods?.split(',');
  return {
    rounds: Number(values.rounds),
    seconds: Number(values.seconds),
    floods: floods.filter(({ name }) => chosen?.includes(name) ?? true),
    places: values.places.split(','),
    directory: mkdtempSync(join(values.dir, 'dvce-bench-')),
  };
}

export async function measureFairness(options: readonly string[]): Promise<void> {
  const settings = settingsOf(options);
  if (settings === undefined) return;
  const results = new Map<string, { alone: number[]; flooded: number[] }>();
  try {
    for (const place of settings.places) await measurePlace(place, settings, results);
  } finally {
    rmSync(settings.directory, { recursive: true, force: true });
  }
  const rows = [...results].map(([name, { alone, flooded }]): Row => {
    const [ours, peer] = [median(flooded), median(alone)];
    const spread = { ours: spreadOf(flooded), peer: spreadOf(alone) };
    const reach = { ratio: 3 };
    return {
      name,
      unit: 'ms p99',
      ours,
      peer,
      peerName: 'alone',
      ratio: ours / peer,
      spread,
      reach,
    };
  });
  report('fairness', rows);
}

/** Two workers and two volumes give each its own; one worker takes both. */
async function measurePlace(
  place: string,
  settings: Settings,
  results: Map<string, { alone: number[]; flooded: number[] }>,
): Promise<void> {
  const data = join(settings.directory, place);
  const argv = ['--workers', place === 'same' ? '1' : '2'];
  await ensureBlockd({ dataDirectory: data, argv, clock: systemClock, timers: systemTimers });
  const { controlSocket } = dataDirectory(data);
  const client = new BlockdClient({ socketPath: controlSocket, timers: systemTimers });
  try {
    const [a, b] = [await open(client, '/a'), await open(client, '/b')];
    for (const target of [a, b])
      await fio(target, load('fill', 'write', '1m', '--iodepth=8', `--io_size=${spanBytes}`), 1);
    for (let round = 1; round <= settings.rounds; round += 1)
      for (const victim of victims)
        for (const flood of settings.floods) {
          const time = ['--time_based', `--runtime=${settings.seconds}`];
          const timed = { ...victim, options: [...victim.options, ...time] };
          const alone = await p99(b, timed, settings);
          const running = startFio(a, forEver(flood), 4);
          await new Promise((resolve) => setTimeout(resolve, 700));
          const flooded = await p99(b, timed, settings);
          running.child.kill('SIGINT');
          await running.ended;
          const name = `${victim.name} beside ${flood.name}, ${place} worker`;
          const found = results.get(name) ?? { alone: [], flooded: [] };
          found.alone.push(alone);
          found.flooded.push(flooded);
          results.set(name, found);
          process.stderr.write(
            `round ${round} ${name}: ${alone.toFixed(3)} -> ${flooded.toFixed(3)} ms\n`,
          );
        }
    await client.call('shutdown', { graceful: true }, { timeoutMs: 120_000 });
  } finally {
    client.close();
  }
}

const forEver = ({ name, options }: Load): Load => ({
  name,
  options: [...options, '--time_based', '--runtime=3600'],
});

async function open(client: BlockdClient, path: string): Promise<string> {
  await client.call('volume.create', { path, sizeBytes: spanBytes, journalBytes: GiB / 2 });
  const attachment = { path, attachId: path.slice(1), vm: 'bench' };
  const { socketPath, exportName } = await client.call('volume.attach', attachment);
  return `nbd+unix:///${encodeURIComponent(exportName)}?socket=${socketPath}`;
}

interface FioSide {
  readonly total_ios: number;
  readonly clat_ns: { readonly percentile?: Readonly<Record<string, number>> };
}
interface FioJob {
  readonly read: FioSide;
  readonly write: FioSide;
  readonly sync: { readonly lat_ns: { readonly percentile?: Readonly<Record<string, number>> } };
}

/** Milliseconds; of a write with its flush the sum of both percentiles. */
async function p99(uri: string, victim: Load, settings: Settings): Promise<number> {
  const { jobs } = JSON.parse(await fio(uri, victim, 1)) as { jobs: readonly FioJob[] };
  const job = jobs[0];
  const at = (side: { readonly percentile?: Readonly<Record<string, number>> } | undefined) =>
    side?.percentile?.['99.000000'] ?? 0;
  if (job === undefined || job.read.total_ios + job.write.total_ios < settings.seconds)
    throw new Error(`fio measured nothing of ${victim.name}`);
  const parts = [at(job.read.clat_ns), at(job.write.clat_ns), at(job.sync.lat_ns)];
  return parts.reduce((sum, ns) => sum + ns, 0) / 1e6;
}

async function fio(uri: string, { options }: Load, jobs: number): Promise<string> {
  const running = startFio(uri, { name: '', options }, jobs);
  const { code, stdout, stderr } = await running.ended;
  if (code !== 0) throw new Error(`fio ${options.join(' ')} failed: ${stderr}${stdout}`);
  return stdout.slice(stdout.indexOf('{'));
}

interface RunningFio {
  readonly child: ChildProcess;
  readonly ended: Promise<{ code: number | null; stdout: string; stderr: string }>;
}

function startFio(uri: string, { options }: Load, jobs: number): RunningFio {
  const child = spawn(
    'fio',
    [
      '--name=bench',
      '--ioengine=nbd',
      `--uri=${uri}`,
      `--size=${spanBytes}`,
      `--numjobs=${jobs}`,
      '--thread',
      '--group_reporting',
      '--norandommap',
      '--randrepeat=0',
      '--output-format=json',
      ...options,
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const ended = new Promise<{ code: number | null; stdout: string; stderr: string }>((resolve) =>
    child.once('close', (code) => resolve({ code, stdout, stderr })),
  );
  return { child, ended };
}
