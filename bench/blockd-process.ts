/** A blockd of a suite's own: started in a fresh directory, measured from outside, killed and started again. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { systemTimers } from '../src/base/index.ts';
import { BlockdClient, blockdEntry, dataDirectory } from '../src/blockd/index.ts';

export interface Disk {
  /** Directory of its blockd. */
  readonly directory: string;
  readonly path: string;
  readonly socketPath: string;
  readonly exportName: string;
}

export class BlockdProcess {
  readonly client: BlockdClient;
  readonly #directory: string;
  readonly #child: ChildProcess;

  private constructor(directory: string) {
    this.#directory = directory;
    const root = join(directory, 'data');
    // Without the launcher: a killed one must not come back by itself.
    this.#child = spawn(
      process.execPath,
      ['--disable-warning=ExperimentalWarning', blockdEntry, '--data-dir', root],
      { stdio: 'ignore' },
    );
    const socketPath = dataDirectory(root).controlSocket;
    this.client = new BlockdClient({ socketPath, timers: systemTimers });
  }

  /** Resolves when it answers. */
  static async start(directory: string): Promise<BlockdProcess> {
    const blockd = new BlockdProcess(directory);
    const endMs = performance.now() + 60_000;
    for (;;)
      try {
        await blockd.client.hello();
        return blockd;
      } catch (error) {
        if (performance.now() > endMs || blockd.#hasEnded) throw error;
        await pause(5);
      }
  }

  get #hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }
  get #pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Seconds of processor that all its threads have used. */
  get cpuSeconds(): number {
    const stat = readFileSync(`/proc/${this.#pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) / 100;
  }

  /** The most memory that it ever had, as the kernel counts it. */
  get peakMib(): number {
    const status = readFileSync(`/proc/${this.#pid}/status`, 'utf8');
    return Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1]) / 1024;
  }

  async attach(path: string): Promise<Disk> {
    const { socketPath, exportName } = await this.client.call(
      'volume.attach',
      { path, attachId: 'bench', vm: 'bench' },
      { timeoutMs: 600_000 },
    );
    return { directory: this.#directory, path, socketPath, exportName };
  }

  async detach(path: string): Promise<void> {
    await this.client.call('volume.detach', { path, attachId: 'bench' }, { timeoutMs: 600_000 });
  }

  /** So that the next one opens none by itself. */
  async detachAll(): Promise<void> {
    for (const { path, open } of (await this.client.call('volume.list', {})).volumes)
      if (open?.attachId === 'bench') await this.detach(path);
  }

  async create(path: string, sizeBytes: number): Promise<Disk> {
    await this.client.call('volume.create', { path, sizeBytes });
    return await this.attach(path);
  }

  async snapshot(path: string, name: string): Promise<void> {
    await this.client.call('snapshot.create', { path, name }, { timeoutMs: 600_000 });
  }

  /** How full the journal of an open volume is, 0 to 1. */
  async journalFill(path: string): Promise<number> {
    const { volumes } = await this.client.call('metrics', {});
    const open = volumes.find((volume) => volume.path === path);
    if (open === undefined) throw new Error(`${path} is not open`);
    return open.journalBytes / open.journalQuotaBytes;
  }

  /** kill -9. */
  async kill(): Promise<void> {
    this.client.close();
    await this.#end('SIGKILL');
  }

  async stop(): Promise<void> {
    const { client } = this;
    await client
      .call('shutdown', { graceful: true }, { timeoutMs: 120_000 })
      .catch((error: unknown) => {
        process.stderr.write(`blockd did not stop: ${String(error)}\n`);
      });
    client.close();
    await this.#end('SIGTERM');
  }

  #end(signal: NodeJS.Signals): Promise<void> {
    return new Promise((resolve) => {
      if (this.#hasEnded) return resolve();
      this.#child.once('exit', () => resolve());
      this.#child.kill(signal);
    });
  }
}

export interface FioWork {
  readonly rw: 'randread' | 'randwrite' | 'read' | 'write';
  readonly blockSize: string;
  readonly depth: number;
  readonly sizeBytes: number;
  readonly extra: readonly string[];
}

interface FioSide {
  readonly total_ios: number;
  readonly runtime: number;
}

/** Run fio on one or several disks at once. @returns requests per second of all together */
export async function fio(disks: readonly Disk[], work: FioWork): Promise<number> {
  const args = [
    '--ioengine=nbd',
    `--rw=${work.rw}`,
    `--bs=${work.blockSize}`,
    `--iodepth=${work.depth}`,
    `--size=${work.sizeBytes}`,
    '--thread',
    '--group_reporting',
    '--randrepeat=0',
    '--random_generator=tausworthe64',
    '--refill_buffers',
    '--output-format=json',
    ...work.extra,
    ...disks.flatMap(({ socketPath, exportName }, i) => [
      `--name=disk${i}`,
      `--uri=nbd+unix:///${encodeURIComponent(exportName)}?socket=${socketPath}`,
    ]),
  ];
  const text = await runFio(args);
  const { jobs } = JSON.parse(text.slice(text.indexOf('{'))) as {
    jobs: readonly { readonly read: FioSide; readonly write: FioSide }[];
  };
  let ratePerSecond = 0;
  for (const job of jobs) {
    const side = work.rw.endsWith('read') ? job.read : job.write;
    ratePerSecond += (side.total_ios * 1000) / side.runtime;
  }
  return ratePerSecond;
}

/** Beside this process, which has a load of its own in some rows. */
async function runFio(args: readonly string[]): Promise<string> {
  const child = spawn('fio', [...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  const kill = (): boolean => child.kill('SIGKILL');
  process.once('exit', kill);
  let output = '';
  let complaint = '';
  child.stdout.on('data', (bytes: Buffer) => (output += bytes.toString()));
  child.stderr.on('data', (bytes: Buffer) => (complaint += bytes.toString()));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  process.removeListener('exit', kill);
  if (code !== 0) throw new Error(`fio ${args.join(' ')} failed: ${complaint}${output}`);
  return output;
}

/** What a directory takes on the disk. */
export function diskMib(directory: string): number {
  const done = spawnSync('du', ['-sm', directory], { encoding: 'utf8' });
  return Number(/^\d+/.exec(done.stdout)?.[0]);
}
