/**
 * A process of its own for measuring what a map costs: writes one block in each of many leaves of a volume, in an order that
 * helps no cache, reads all of them back, and says what the kernel counted.
 *
 *   node map-load.ts DIRECTORY LEAVES WRITES MAP_CACHE_BYTES
 */
import { mkdirSync, readFileSync } from 'node:fs';
import {
  asNodeId,
  MiB,
  nodeFileSystem,
  randomUuid,
  silentLogger,
  systemClock,
  systemRandom,
  systemTimers,
  TiB,
} from '../../src/base/index.ts';
import {
  createVolume,
  type HlfsContext,
  openDocuments,
  openProcessScope,
  openVolume,
} from '../../src/hlfs/index.ts';
import { openLocalStore } from '../../src/stores/index.ts';

const [directory = '', leavesText, writesText, cacheText] = process.argv.slice(2);
const leaves = Number(leavesText);
const writes = Number(writesText);

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
};
const { id } = await createVolume(context, '/v', { sizeBytes: TiB, journalBytes: 16 * MiB });
const volume = await openVolume(context, id, { mapCacheBytes: Number(cacheText) });

/** The nth block: leaves in a scattered order, another block of the leaf in each round through all of them. */
const step = 514_229; // a prime, so that it meets every leaf
const blockOf = (n: number): number =>
  ((n * step) % leaves) * 256 + ((Math.floor(n / leaves) * 7 + n) % 256);
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
const status = readFileSync('/proc/self/status', 'utf8');
const peakMib = Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1]) / 1024;
process.stdout.write(`${JSON.stringify({ peakMib, wrong })}\n`);
