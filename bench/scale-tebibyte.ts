/**
 * Rows of the scale suite on a volume of 1 TiB with random blocks in every leaf of its map: its writes against those of a small
 * volume, opening after a kill, memory.
 *
 * It is made by the engine itself from real writes: first one block in each leaf, leaf after leaf in random order, then blocks
 * anywhere. `--random-blocks` says how many; with fewer than the volume has leaves (1 TiB: 1,048,576) some leaves do not exist.
 */
import { statfs } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import { GiB, systemTimers } from '../src/base/index.ts';
import { connectNbd } from '../src/nbd/index.ts';
import { alternate, type Measured, measured, note, type Settings } from './alternate.ts';
import { BlockdProcess, type Disk, diskMib, type FioWork, fio } from './blockd-process.ts';

const mebibyte = 2 ** 20;
const smallBytes = 512 * mebibyte;
const tinyBytes = 16 * mebibyte;
/** Stored at most for what lives: with 131,072 blocks it was 1.2; cleaning under load keeps it below this. */
const storedFactor = 2;
/** Four times the default quota of the journal. */
const writtenBytes = 512 * mebibyte;

const randomWrites = (sizeBytes: number, ioBytes: number, extra: readonly string[]): FioWork => ({
  rw: 'randwrite',
  blockSize: '4k',
  depth: 32,
  sizeBytes,
  extra: [...extra, `--io_size=${ioBytes}`],
});
const anywhere = (sizeBytes: number, ioBytes: number): FioWork =>
  randomWrites(sizeBytes, ioBytes, ['--norandommap']);

/**
 * What the store takes at most: blocks and map pages, and what cleaning has not caught up with.
 * @throws when the disk has less
 */
async function checkSpace({ directory, largeBytes, randomBlocks }: Settings): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  const pages = Math.min(randomBlocks, largeBytes / mebibyte) * 1.01;
  const spareBytes = 4 * GiB;
  const neededBytes = (randomBlocks + pages) * 4096 * storedFactor + spareBytes;
  if (bavail * bsize >= neededBytes) return;
  const fits = Math.floor(((bavail * bsize - spareBytes) / 4096 / storedFactor - pages) / mebibyte);
  throw new Error(
    `${directory} has ${Math.floor((bavail * bsize) / GiB)} GiB free, ${Math.ceil(neededBytes / GiB)} may be needed: try --random-blocks ${Math.max(1, fits) * mebibyte}`,
  );
}

export async function largeMap(settings: Settings): Promise<Measured[]> {
  const { directory, largeBytes } = settings;
  await checkSpace(settings);
  let blockd = await BlockdProcess.start(directory);
  try {
    const small = await blockd.create('/small', smallBytes);
    await blockd.create('/tiny', tinyBytes);
    const large = await blockd.create('/large', largeBytes);
    await fill(small);
    await scatter(large, settings);
    note(`the large volume is made, ${diskMib(directory)} MiB on the disk`);
    const rate = measured('randwrite-1t', 'IOPS', 'small-map', { ratioMin: 0.5 });
    await alternate(
      rate,
      settings.rounds,
      () => fio([large], anywhere(largeBytes, writtenBytes)),
      () => fio([small], anywhere(smallBytes, writtenBytes)),
    );
    const opened = measured('open-after-kill-1t-seconds', 's', null, { figure: 1 });
    const written = measured('first-write-after-kill-1t-seconds', 's');
    for (let round = 1; round <= settings.rounds; round += 1) {
      const killed = await killWhenFull(blockd, large, largeBytes);
      blockd = killed.blockd;
      opened.ours.push(killed.readSeconds);
      written.ours.push(killed.writeSeconds);
    }
    const memory = measured('map-memory-1t-random-mib', 'MiB', null, { figure: 64 });
    for (let round = 1; round <= settings.rounds; round += 1) {
      const [tinyMib, restarted] = await peakOf(blockd, settings, '/tiny', tinyBytes);
      const [largeMib, again] = await peakOf(restarted, settings, '/large', largeBytes);
      blockd = again;
      note(`VmHWM ${tinyMib.toFixed(0)} MiB with a small map, ${largeMib.toFixed(0)} MiB`);
      memory.ours.push(largeMib - tinyMib);
    }
    return [rate, opened, written, memory];
  } finally {
    await blockd.stop();
  }
}

const fill = (disk: Disk): Promise<number> =>
  fio([disk], { rw: 'write', blockSize: '1m', depth: 8, sizeBytes: smallBytes, extra: [] });

async function scatter(disk: Disk, { largeBytes, randomBlocks }: Settings): Promise<void> {
  const leaves = largeBytes / mebibyte;
  const first = Math.min(leaves, randomBlocks);
  const oneEach = randomWrites(largeBytes, first * 4096, ['--blockalign=1m']);
  note(`${first} blocks, each in a leaf of its own: ${(await fio([disk], oneEach)).toFixed(0)}/s`);
  const rest = randomBlocks - first;
  if (rest === 0) return;
  const perSecond = await fio([disk], anywhere(largeBytes, rest * 4096));
  note(`${rest} more blocks anywhere: ${perSecond.toFixed(0)}/s`);
}

interface Killed {
  readonly blockd: BlockdProcess;
  readonly readSeconds: number;
  readonly writeSeconds: number;
}

/**
 * kill -9 while the journal is at least three quarters full; then from the start of a new blockd, its own start included, until
 * the first read and the first write are answered.
 */
async function killWhenFull(blockd: BlockdProcess, disk: Disk, sizeBytes: number): Promise<Killed> {
  // Longer writes than elsewhere: they fill the journal faster than it is published.
  const writes = { ...anywhere(sizeBytes, 64 * writtenBytes), blockSize: '64k', depth: 64 };
  const load = fio([disk], writes).then(
    () => note('the load ended before the kill'),
    () => {}, // its disk goes away, as it should
  );
  const endMs = performance.now() + 120_000;
  let isFull = false;
  while (!isFull && performance.now() < endMs) {
    isFull = (await blockd.journalFill(disk.path)) >= 0.75;
    if (!isFull) await pause(5);
  }
  await blockd.kill();
  await load;
  if (!isFull) throw new Error('the journal never was three quarters full');
  const startMs = performance.now();
  const next = await BlockdProcess.start(disk.directory);
  const answersMs = performance.now();
  const { socketPath: path, exportName } = await next.attach(disk.path);
  const client = await connectNbd({ address: { path }, exportName, timers: systemTimers });
  const block = Math.floor(Math.random() * (sizeBytes / 4096));
  await new Promise<void>((resolve, reject) => {
    client.read(block * 4096, 4096, (error) => (error ? reject(error) : resolve()));
  });
  const readMs = performance.now();
  const fill = await next.journalFill(disk.path);
  await new Promise<void>((resolve, reject) => {
    const options = { fua: false, origin: { alive: true } };
    client.write(block * 4096, Buffer.alloc(4096, 7), options, (error) =>
      error ? reject(error) : resolve(),
    );
  });
  const writeMs = performance.now();
  await client.close();
  const seconds = (ms: number): string => ((ms - startMs) / 1000).toFixed(2);
  note(
    `journal ${(fill * 100).toFixed(0)} % full: blockd answers after ${seconds(answersMs)} s, the volume reads after ${seconds(readMs)} s, writes after ${seconds(writeMs)} s`,
  );
  return {
    blockd: next,
    readSeconds: (readMs - startMs) / 1000,
    writeSeconds: (writeMs - startMs) / 1000,
  };
}

/** The most memory that a blockd takes which has only this volume open and writes and reads all over it. */
async function peakOf(
  before: BlockdProcess,
  settings: Settings,
  path: string,
  sizeBytes: number,
): Promise<[number, BlockdProcess]> {
  await before.detachAll();
  await before.stop();
  const blockd = await BlockdProcess.start(settings.directory);
  const disk = await blockd.attach(path);
  await fio([disk], anywhere(sizeBytes, 2 * writtenBytes));
  await fio([disk], { ...anywhere(sizeBytes, writtenBytes / 8), rw: 'randread' });
  return [blockd.peakMib, blockd];
}
