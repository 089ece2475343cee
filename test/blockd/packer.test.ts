/** Compression beside the thread that serves: the same frames as in one's own turn, and a packer that fails costs only space. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import t, { type Test } from 'tap';
import {
  crc32c,
  limits,
  seededRandom,
  silentLogger,
  type Timer,
  type Timers,
} from '../../src/base/index.ts';
import { Packer } from '../../src/blockd/packer.ts';
import { directCompressor } from '../../src/hlfs/compression.ts';
import { compressBlocksMax } from '../../src/hlfs/index.ts';

t.setTimeout(60_000);
const random = seededRandom(5);

/** Blocks of every sort, with their checksums. */
function someBlocks(count: number): { blocks: Buffer[]; sums: number[] } {
  const blocks = Array.from({ length: count }, (_, i) =>
    i % 3 === 1 ? random.bytes(4096) : Buffer.alloc(4096, `line ${i} of a text that repeats; `),
  );
  return { blocks, sums: blocks.map((block) => crc32c(block)) };
}

/** Timers that come when they are told to, and a clock that goes with them. */
class HandTimers implements Timers {
  nowMs = 1000;
  readonly waiting = new Set<{ readonly atMs: number; readonly task: () => void }>();

  after(delayMs: number, task: () => void): Timer {
    const entry = { atMs: this.nowMs + delayMs, task };
    this.waiting.add(entry);
    return { cancel: () => this.waiting.delete(entry) };
  }
  defer(task: () => void): void {
    setImmediate(task);
  }
  pass(ms: number): void {
    this.nowMs += ms;
    for (const entry of [...this.waiting])
      if (entry.atMs <= this.nowMs && this.waiting.delete(entry)) entry.task();
  }
}

function packerOn(test: Test, entry?: URL): { packer: Packer; timers: HandTimers } {
  const timers = new HandTimers();
  const clock = { wallMs: () => 0, monotonicMs: () => timers.nowMs };
  const packer = new Packer({
    timers,
    clock,
    logger: silentLogger,
    ...(entry === undefined ? {} : { entry }),
  });
  test.teardown(() => packer.close());
  return { packer, timers };
}

function moduleOf(test: Test, text: string): URL {
  const directory = mkdtempSync(join(tmpdir(), 'dvce-packer-'));
  test.teardown(() => rmSync(directory, { recursive: true }));
  const path = join(directory, 'packer.mjs');
  writeFileSync(path, text);
  return pathToFileURL(path);
}

t.test('frames of the thread are those of one turn, also for many who ask at once', async (t) => {
  const { packer, timers } = packerOn(t);
  const pieces = [compressBlocksMax, 1, 40].map(someBlocks);
  const found = await Promise.all(pieces.map(({ blocks, sums }) => packer.pack(blocks, sums)));
  for (const [i, { blocks, sums }] of pieces.entries()) {
    const expected = await directCompressor.pack(blocks, sums);
    t.same([...Array.from(found[i]?.lengths ?? [])], [...Array.from(expected.lengths)]);
    t.ok(found[i]?.bytes.equals(expected.bytes), `piece ${i}`);
    t.ok(expected.bytes.byteLength > 0);
  }
  timers.pass(limits.packerIdleMs);
  const { blocks, sums } = someBlocks(9);
  const later = await packer.pack(blocks, sums);
  t.ok(later.bytes.byteLength > 0, 'a new thread after it was idle');
});

t.test(
  'N5 blocks belong to whoever asked: they may change as soon as they are packed',
  async (t) => {
    const { packer } = packerOn(t);
    const { blocks, sums } = someBlocks(4);
    const first = await packer.pack(blocks, sums);
    const kept = Buffer.from(first.bytes);
    for (const block of blocks) block.fill(0xee);
    const other = someBlocks(4);
    await packer.pack(other.blocks, other.sums);
    t.ok(first.bytes.equals(kept), 'frames lie in memory of their own');
  },
);

t.test('a packer that fails costs space, and another one comes after a while', async (t) => {
  const { blocks, sums } = someBlocks(6);
  const dies = moduleOf(
    t,
    "import { parentPort } from 'node:worker_threads'; parentPort.on('message', () => { throw new Error('no'); });",
  );
  const { packer, timers } = packerOn(t, dies);
  t.equal((await packer.pack(blocks, sums)).bytes.byteLength, 0);
  t.equal((await packer.pack(blocks, sums)).bytes.byteLength, 0, 'it is let rest');
  const wait = moduleOf(
    t,
    "import { parentPort } from 'node:worker_threads'; parentPort.on('message', () => {});",
  );
  const silent = packerOn(t, wait);
  const asked = silent.packer.pack(blocks, sums);
  await new Promise<void>((resolve) => setImmediate(resolve));
  silent.timers.pass(limits.packerMs);
  t.equal((await asked).bytes.byteLength, 0, 'no answer in time');
  timers.pass(limits.packerRestMs + 1);
  t.equal((await packer.pack(blocks, sums)).bytes.byteLength, 0, 'another one, which fails too');
});

t.test('an answer that cannot be is none', async (t) => {
  const lies = moduleOf(
    t,
    "import { parentPort, workerData } from 'node:worker_threads'; parentPort.on('message', ({ count }) => { workerData.lengths.fill(9999); parentPort.postMessage({ count }); });",
  );
  const { packer } = packerOn(t, lies);
  const { blocks, sums } = someBlocks(3);
  t.equal((await packer.pack(blocks, sums)).bytes.byteLength, 0);
});
