/** Rows of the scale suite on volumes of ordinary size: clones, snapshots, two at a time. */
import { setTimeout as pause } from 'node:timers/promises';
import { systemTimers } from '../src/base/index.ts';
import { connectNbd, type NbdClient } from '../src/nbd/index.ts';
import { alternate, type Measured, measured, note, type Settings } from './alternate.ts';
import { BlockdProcess, type Disk, type FioWork, fio } from './blockd-process.ts';

const mebibyte = 2 ** 20;
const spanBytes = 512 * mebibyte;

const timed = (rw: FioWork['rw'], settings: Settings, sizeBytes = spanBytes): FioWork => ({
  rw,
  blockSize: '4k',
  depth: 32,
  sizeBytes,
  extra: ['--norandommap', '--time_based', `--runtime=${settings.seconds}`],
});

/** Every block of the span once. */
const fill: FioWork = {
  rw: 'write',
  blockSize: '1m',
  depth: 8,
  sizeBytes: spanBytes,
  extra: [],
};
const warm: FioWork = { ...fill, rw: 'read' };

/** A blockd for one group; it is gone at the end, however it ends. */
async function withBlockd<T>(
  settings: Settings,
  task: (blockd: BlockdProcess) => Promise<T>,
): Promise<T> {
  const blockd = await BlockdProcess.start(settings.directory);
  try {
    return await task(blockd);
  } finally {
    await blockd.stop();
  }
}

/**
 * Sixteen clones of each other, each of which overwrote a sixteenth of the blocks; against a volume on which the same was
 * written one after the other. Read in full before, so that both are served from memory.
 */
export function deepClone(settings: Settings): Promise<Measured[]> {
  const depth = 16;
  const change: FioWork = {
    rw: 'randwrite',
    blockSize: '4k',
    depth: 32,
    sizeBytes: spanBytes,
    extra: ['--norandommap', `--io_size=${spanBytes / depth}`],
  };
  return withBlockd(settings, async (blockd) => {
    const flat = await blockd.create('/flat', spanBytes);
    let deep = await blockd.create('/deep-0', spanBytes);
    await fio([flat], fill);
    await fio([deep], fill);
    for (let level = 1; level <= depth; level += 1) {
      await blockd.snapshot(deep.path, 'base');
      const path = `/deep-${level}`;
      await blockd.client.call(
        'volume.clone',
        { source: `${deep.path}@base`, path },
        { timeoutMs: 600_000 },
      );
      await blockd.detach(deep.path);
      deep = await blockd.attach(path);
      await fio([deep], change);
      await fio([flat], change);
    }
    await blockd.snapshot(deep.path, 'all');
    await blockd.snapshot(flat.path, 'all');
    const row = measured('deep-clone-randread', 'IOPS', 'no-clones', { ratioMin: 0.9 });
    const side = (disk: Disk) => async () => {
      await fio([disk], warm);
      return await fio([disk], timed('randread', settings));
    };
    await alternate(row, settings.rounds, side(deep), side(flat));
    return [row];
  });
}

/**
 * Overwriting with many snapshots below. What waits in the journal at the end is at most an eighth of what was written, and the
 * same on both sides.
 */
export function manySnapshots(settings: Settings): Promise<Measured[]> {
  return withBlockd(settings, async (blockd) => {
    const none = await blockd.create('/none', spanBytes);
    const many = await blockd.create('/many', spanBytes);
    await fio([none], fill);
    await fio([many], fill);
    const startMs = performance.now();
    await withClient(many, async (client) => {
      for (let count = 0; count < settings.snapshots; count += 1) {
        await writeBlock(client, (count * 7919) % (spanBytes / 4096));
        await blockd.snapshot(many.path, `s${count}`);
        if (count % 100 === 99)
          note(`${count + 1} snapshots, ${((performance.now() - startMs) / 1000).toFixed(0)} s`);
      }
    });
    const row = measured('many-snapshots-randwrite', 'IOPS', 'no-snapshots', { ratioMin: 0.9 });
    const work: FioWork = {
      ...timed('randwrite', settings),
      extra: ['--norandommap', `--io_size=${1024 * mebibyte}`],
    };
    const side = (disk: Disk) => () => fio([disk], work);
    await alternate(row, settings.rounds, side(many), side(none));
    return [row];
  });
}

/** Writes a second of the steady load under which snapshots are taken, and how many at a time at most. */
const loadPerSecond = 4000;
const loadDepth = 64;

interface Write {
  readonly startMs: number;
  readonly endMs: number;
}

/**
 * Snapshots under random writes of a fixed rate. The stall of a snapshot is the longest time that a write took which was under
 * way between its request and its answer; the peer is the same for stretches of equal length without one.
 */
export function snapshotStall(settings: Settings): Promise<Measured[]> {
  return withBlockd(settings, async (blockd) => {
    const disk = await blockd.create('/v', spanBytes);
    await fio([disk], fill);
    const count = Math.max(10, settings.rounds * settings.seconds * 3);
    const stall = measured('snapshot-stall-p99-ms', 'ms', 'no-snapshot', { figure: 10 });
    const durable = measured('snapshot-durable-seconds', 's', null, { figure: 1 });
    await withClient(disk, async (client) => {
      const load = new Load(client);
      await pause(1000);
      const stalls: number[] = [];
      const calm: number[] = [];
      for (let at = 0; at < count; at += 1) {
        const startMs = performance.now();
        await blockd.snapshot(disk.path, `s${at}`);
        const lengthMs = performance.now() - startMs;
        durable.ours.push(lengthMs / 1000);
        await pause(300);
        stalls.push(load.longest(startMs, startMs + lengthMs));
        const calmMs = performance.now();
        await pause(lengthMs + 100);
        calm.push(load.longest(calmMs, calmMs + lengthMs));
      }
      await load.stop();
      note(`${load.writes} writes, ${count} snapshots`);
      stall.ours.push(percentile(stalls, 99));
      stall.peer.push(percentile(calm, 99));
    });
    durable.ours.splice(0, durable.ours.length, percentile(durable.ours, 99));
    return [stall, durable];
  });
}

function percentile(values: readonly number[], percent: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil((sorted.length * percent) / 100) - 1)] ?? 0;
}

class Load {
  writes = 0;
  readonly #client: NbdClient;
  readonly #startedMs = performance.now();
  #ended: Write[] = [];
  #open = 0;
  #sent = 0;
  #isStopped = false;
  readonly #over: Promise<void>;

  constructor(client: NbdClient) {
    this.#client = client;
    this.#over = this.#run();
  }

  async #run(): Promise<void> {
    while (!this.#isStopped) {
      const due = ((performance.now() - this.#startedMs) / 1000) * loadPerSecond;
      // What could not be sent in time is not made up for later.
      if (due - this.#sent > loadDepth) this.#sent = due - loadDepth;
      for (; this.#sent < due && this.#open < loadDepth; this.#sent += 1) this.#write();
      await pause(1);
    }
    while (this.#open > 0) await pause(1);
  }

  #write(): void {
    const startMs = performance.now();
    this.#open += 1;
    void writeBlock(this.#client, Math.floor(Math.random() * (spanBytes / 4096))).then(() => {
      this.#open -= 1;
      this.writes += 1;
      this.#ended.push({ startMs, endMs: performance.now() });
    });
  }

  /** The longest write that was under way in this time; what ended before is forgotten. */
  longest(fromMs: number, toMs: number): number {
    this.#ended = this.#ended.filter(({ endMs }) => endMs >= fromMs);
    return this.#ended
      .filter(({ startMs }) => startMs <= toMs)
      .reduce((longest, { startMs, endMs }) => Math.max(longest, endMs - startMs), 0);
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    await this.#over;
  }
}

async function withClient(disk: Disk, task: (client: NbdClient) => Promise<void>): Promise<void> {
  const { socketPath: path, exportName } = disk;
  const client = await connectNbd({ address: { path }, exportName, timers: systemTimers });
  try {
    await task(client);
  } finally {
    await client.close();
  }
}

const origin = { alive: true };

function writeBlock(client: NbdClient, block: number): Promise<void> {
  const bytes = Buffer.alloc(4096, block & 0xff);
  bytes.writeDoubleLE(Math.random());
  return new Promise((resolve, reject) => {
    client.write(block * 4096, bytes, { fua: false, origin }, (error) =>
      error ? reject(error) : resolve(),
    );
  });
}

/** Two busy volumes against one, on the same processors as fio; and operations for each second of blockd's processor time. */
export function twoVolumes(settings: Settings): Promise<Measured[]> {
  return withBlockd(settings, async (blockd) => {
    const first = await blockd.create('/first', spanBytes);
    const second = await blockd.create('/second', spanBytes);
    await fio([first], fill);
    await fio([second], fill);
    const rate = measured('two-volumes', 'IOPS', 'one-volume', { ratioMin: 1.3 });
    const perCpu = measured('two-volumes-per-cpu', 'IO/CPU s', 'one-volume-per-cpu', {
      ratioMin: 0.9,
    });
    const side = (disks: readonly Disk[], values: number[]) => async (): Promise<number> => {
      const beforeSeconds = blockd.cpuSeconds;
      const perSecond = await fio(disks, timed('randwrite', settings));
      values.push((perSecond * settings.seconds) / (blockd.cpuSeconds - beforeSeconds));
      return perSecond;
    };
    await alternate(
      rate,
      settings.rounds,
      side([first, second], perCpu.ours),
      side([first], perCpu.peer),
    );
    return [rate, perCpu];
  });
}
