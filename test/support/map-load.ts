/**
 * A process of its own for measuring what a map costs: writes blocks in so many leaves of a volume of 1 TiB, in an order that
 * helps no cache, reads all of them back, and says what the kernel counted. It works as a volume does in blockd: on a thread
 * with the same bounds, with the default journal, and with payloads kept for building.
 *
 *   node map-load.ts DIRECTORY LEAVES WRITES
 */
import { mkdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { isMainThread, parentPort, Worker } from 'node:worker_threads';
import {
  asNodeId,
  limits,
  MiB,
  nodeFileSystem,
  randomUuid,
  silentLogger,
  systemClock,
  systemRandom,
  systemTimers,
  TiB,
} from '../../src/base/index.ts';
import { volumeThreadLimits } from '../../src/blockd/worker-pool.ts';
import {
  BuildBudget,
  createVolume,
  type HlfsContext,
  openDocuments,
  openProcessScope,
  openVolume,
} from '../../src/hlfs/index.ts';
import { openLocalStore } from '../../src/stores/index.ts';

const [directory = '', leavesText, writesText] = process.argv.slice(2);
const leaves = Number(leavesText);
const writes = Number(writesText);

/** The nth block: leaves all over the volume in a scattered order, another block of the leaf in each round through them. */
const step = 514_229; // a prime, so that it meets every leaf
const leafBlocks = Math.floor(TiB / MiB / leaves) * 256;
const blockOf = (n: number): number =>
  ((n * step) % leaves) * leafBlocks + ((Math.floor(n / leaves) * 7 + n) % 256);
const stamp = (block: number): Buffer => {
  const bytes = Buffer.alloc(4096, block & 0xff);
  bytes.writeUInt32LE(block);
  return bytes;
};

/** Each of the writes, so many at a time. */
async function each(atOnce: number, task: (n: number) => Promise<void>): Promise<void> {
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < writes) {
      next += 1;
      await task(next - 1);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
}

/** @returns how many blocks do not read as they were written */
async function load(): Promise<number> {
  mkdirSync(`${directory}/journal`, { recursive: true });
  const store = await openLocalStore({
    root: `${directory}/store`,
    files: nodeFileSystem,
    random: systemRandom,
    create: true,
  });
  const documents = openDocuments(store);
  const node = asNodeId(randomUuid(systemRandom));
  const context: HlfsContext = {
    store,
    documents,
    files: nodeFileSystem,
    clock: systemClock,
    timers: systemTimers,
    random: systemRandom,
    logger: silentLogger,
    node,
    scope: await openProcessScope(store, documents, node, systemRandom),
    journalDirectory: `${directory}/journal`,
    builds: new BuildBudget(limits.keptPayloadBytes),
  };
  const { id } = await createVolume(context, '/v', { sizeBytes: TiB });
  const volume = await openVolume(context, id);
  const origin = { alive: true };
  await each(64, async (n) => {
    const block = blockOf(n);
    await new Promise<void>((resolve, reject) => {
      volume.write(block * 4096, stamp(block), { fua: false, origin }, (error) =>
        error ? reject(error) : resolve(),
      );
    });
  });
  await volume.publishAll();
  let wrong = 0;
  await each(16, async (n) => {
    const block = blockOf(n);
    const bytes = await new Promise<Buffer>((resolve, reject) => {
      volume.read(block * 4096, 4096, (error, parts) => {
        const [first] = parts;
        if (error) reject(error);
        else resolve(first instanceof Buffer ? first : Buffer.alloc(4096));
      });
    });
    if (!bytes.equals(stamp(block))) wrong += 1;
  });
  await volume.close();
  await store.close();
  return wrong;
}

if (isMainThread) {
  const thread = new Worker(fileURLToPath(import.meta.url), {
    argv: process.argv.slice(2),
    resourceLimits: volumeThreadLimits,
  });
  const wrong = await new Promise((resolve, reject) => {
    thread.once('message', resolve);
    thread.once('error', reject);
  });
  const status = readFileSync('/proc/self/status', 'utf8');
  const peakMib = Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1]) / 1024;
  process.stdout.write(`${JSON.stringify({ peakMib, wrong })}\n`);
} else parentPort?.postMessage(await load());
