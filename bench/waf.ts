/**
 * The waf suite: what writing costs besides the guest's bytes.
 *
 *   trace-write-amplification   the trace of a real VM, as fast as possible, on a store of which a fifth is spare when everything is
 *                               written: bytes given to the store for each byte from the guest, journal apart
 *   objects-per-16k-write       random writes of 16 KiB: objects given to the store for each, documents too
 *   cleaner-cost                blockd and fio, random writes of 4 KiB at depth 32: share of the rate before cleaning begins
 *                               that is gone once it has to keep up
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { parseSize, seededRandom, systemTimers } from '../src/base/index.ts';
import { BlockdClient, dataDirectory } from '../src/blockd/index.ts';
import { hostFacts, median, type Row, report, spreadOf } from './report.ts';
import { startPeer, type Target } from './targets.ts';
import { type Request, replay, startEngine } from './waf-engine.ts';

const help = `usage: npm run bench -- waf [options]

  --trace FILE   a block trace: 32 bytes a request, as docs/internals/benchmarks.md tells; without it its row is left out
  --rounds N     how often each row is measured (3)
  --span SIZE    bytes of the volume that cleaner-cost overwrites (2GiB)
  --rows A,B     only these rows
  --dir DIR      where the files lie (a new directory below the system's temporary one)

examples:
  npm run bench -- waf --trace vm.vscsi
  npm run bench -- waf --rows objects-per-16k-write --rounds 1
`;

interface Settings {
  readonly trace: string | undefined;
  readonly rounds: number;
  readonly spanBytes: number;
  readonly directory: string;
}

interface Work {
  readonly name: string;
  readonly unit: string;
  readonly reach: number;
  readonly measure: (settings: Settings, directory: string) => Promise<number>;
}

const works: readonly Work[] = [
  { name: 'trace-write-amplification', unit: 'bytes/byte', reach: 1.15, measure: traceCost },
  { name: 'objects-per-16k-write', unit: 'objects', reach: 0.001, measure: objectsPerWrite },
  { name: 'cleaner-cost', unit: 'share', reach: 0.2, measure: cleanerCost },
];

export async function measureWaf(options: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...options],
    options: {
      help: { type: 'boolean', default: false },
      trace: { type: 'string' },
      rounds: { type: 'string', default: '3' },
      span: { type: 'string', default: '2GiB' },
      rows: { type: 'string' },
      dir: { type: 'string' },
    },
  });
  if (values.help) {
    process.stdout.write(help);
    return;
  }
  const names = values.rows === undefined ? undefined : new Set(values.rows.split(','));
  const settings: Settings = {
    trace: values.trace,
    rounds: Number(values.rounds),
    spanBytes: parseSize(values.span),
    directory: mkdtempSync(join(values.dir ?? '/tmp', 'dvce-waf-')),
  };
  const host = hostFacts();
  try {
    const rows: Row[] = [];
    for (const work of works.filter(({ name }) => names === undefined || names.has(name))) {
      const row = await measureRow(work, settings);
      if (row !== null) rows.push(row);
    }
    report('waf', rows, host);
  } finally {
    rmSync(settings.directory, { recursive: true, force: true });
  }
}

async function measureRow(work: Work, settings: Settings): Promise<Row | null> {
  const { name, unit, reach } = work;
  if (work.measure === traceCost && (settings.trace === undefined || !existsSync(settings.trace))) {
    process.stderr.write(`${name} is left out: --trace names no file\n`);
    return null;
  }
  const values: number[] = [];
  for (let round = 1; round <= settings.rounds; round += 1) {
    const directory = mkdtempSync(join(settings.directory, 'round-'));
    const value = await work.measure(settings, directory);
    rmSync(directory, { recursive: true, force: true });
    values.push(value);
    process.stderr.write(`round ${round} ${name}: ${value.toPrecision(4)} ${unit}\n`);
  }
  return {
    name,
    unit,
    ours: median(values),
    peer: null,
    peerName: null,
    ratio: null,
    spread: { ours: spreadOf(values), peer: null },
    reach: { figure: reach },
  };
}

/** u32 number, u32 bytes, u32, u16 command (40 read, 42 write), u16, u64 sector of 512 bytes, u64 microseconds. */
function* readTrace(path: string): Generator<Request> {
  const bytes = readFileSync(path);
  for (let at = 0; at + 32 <= bytes.length; at += 32)
    yield {
      isWrite: bytes.readUInt16LE(at + 12) === 0x2a,
      length: bytes.readUInt32LE(at + 4),
      offset: Number(bytes.readBigUInt64LE(at + 16)) * 512,
    };
}

/** Content that no checksum has seen before: a part of a random buffer, from another place each time. */
function contents(): (length: number) => Buffer {
  const random = seededRandom(1);
  const pool = random.bytes(4 * 2 ** 20);
  return (length) => {
    const start = random.below(pool.byteLength - length);
    return Buffer.from(pool.subarray(start, start + length));
  };
}

async function traceCost({ trace }: Settings, directory: string): Promise<number> {
  if (trace === undefined) throw new Error('no trace');
  const blocks = new Set<number>();
  let guestBytes = 0;
  let end = 0;
  for (const { isWrite, offset, length } of readTrace(trace)) {
    end = Math.max(end, offset + length);
    if (!isWrite) continue;
    guestBytes += length;
    const last = Math.floor((offset + length - 1) / 4096);
    for (let block = Math.floor(offset / 4096); block <= last; block += 1) blocks.add(block);
  }
  const sizeBytes = Math.ceil(end / 2 ** 20) * 2 ** 20;
  const capacityBytes = Math.ceil((blocks.size * 4096) / 0.8);
  const engine = await startEngine(directory, { sizeBytes, capacityBytes });
  try {
    await replay(engine, readTrace(trace), contents());
    const { putBytes, objects } = engine.counts;
    const { movedBytes } = engine.volume.statistics();
    process.stderr.write(`${objects} objects, ${movedBytes} bytes moved\n`);
    return putBytes / guestBytes;
  } finally {
    await engine.close();
  }
}

async function objectsPerWrite(_settings: Settings, directory: string): Promise<number> {
  const sizeBytes = 2 ** 30;
  const length = 16 * 1024;
  const count = 3 * (sizeBytes / length);
  const random = seededRandom(2);
  const engine = await startEngine(directory, { sizeBytes, capacityBytes: 2 ** 40 });
  const requests = function* (): Generator<Request> {
    for (let i = 0; i < count; i += 1)
      yield { isWrite: true, offset: random.below(sizeBytes / length) * length, length };
  };
  try {
    const before = engine.counts.objects;
    await replay(engine, requests(), contents());
    return (engine.counts.objects - before) / count;
  } finally {
    await engine.close();
  }
}

/**
 * Written once, a volume has no garbage; while the first 40 % of it are overwritten more than 70 % of what is stored lives, and
 * nothing is cleaned. After three times its size cleaning has to keep up.
 */
async function cleanerCost({ spanBytes }: Settings, directory: string): Promise<number> {
  const target = await startPeer('dvce', directory, spanBytes, 512 * 2 ** 20);
  const client = new BlockdClient({
    socketPath: dataDirectory(join(directory, 'dvce')).controlSocket,
    timers: systemTimers,
  });
  try {
    fio(target, directory, 'write', '1m', spanBytes, spanBytes);
    await target.drain();
    const before = fio(target, directory, 'randwrite', '4k', spanBytes, 0.35 * spanBytes);
    fio(target, directory, 'randwrite', '4k', spanBytes, 3 * spanBytes);
    const after = fio(target, directory, 'randwrite', '4k', spanBytes, spanBytes);
    const { space } = await client.call('volume.get', { path: '/bench', space: true });
    const live = (space?.mappedBytes ?? 0) / (space?.storedBytes ?? 1);
    process.stderr.write(
      `${Math.round(before)} then ${Math.round(after)} writes a second, ${(100 * live).toFixed(0)} % of what is stored lives\n`,
    );
    return Math.max(0, 1 - after / before);
  } finally {
    client.close();
    await target.stop();
  }
}

/** @returns requests a second */
function fio(
  target: Target,
  directory: string,
  rw: 'write' | 'randwrite',
  blockSize: '1m' | '4k',
  spanBytes: number,
  bytes: number,
): number {
  const output = join(directory, 'fio.json');
  const args = [
    '--name=bench',
    ...target.fioTarget(32),
    `--rw=${rw}`,
    `--bs=${blockSize}`,
    `--iodepth=${rw === 'write' ? 8 : 32}`,
    `--size=${spanBytes}`,
    `--io_size=${Math.floor(bytes / 4096) * 4096}`,
    '--thread',
    '--randrepeat=0',
    '--norandommap',
    '--random_generator=tausworthe64',
    '--refill_buffers',
    '--output-format=json',
    `--output=${output}`,
  ];
  const done = spawnSync('fio', args, { encoding: 'utf8', timeout: 1_800_000 });
  if (done.status !== 0) throw new Error(`fio failed: ${done.stderr}${done.stdout}`);
  const text = readFileSync(output, 'utf8');
  const parsed = JSON.parse(text.slice(text.indexOf('{'))) as {
    readonly jobs: readonly { readonly write: { readonly iops: number } }[];
  };
  return parsed.jobs[0]?.write.iops ?? Number.NaN;
}
