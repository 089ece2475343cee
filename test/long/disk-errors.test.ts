// limit: 300 s
/**
 * A disk that answers with EIO, for real (test/support/failing-disk.ts), under a blockd of its own process: what was acknowledged as
 * flushed is there afterwards, what could not be made safe was never acknowledged, what can be read is read.
 */
import { mkdirSync, readdirSync, statSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { MiB } from '../../src/base/index.ts';
import { type TestNode, testNode, until } from '../support/blockd-process.ts';
import { FailingDisk, noFailingDisk } from '../support/failing-disk.ts';
import { Failed, RawNbd } from '../support/nbd-raw.ts';
import { blockBytes, readStamp, stamp } from '../support/stamped-load.ts';

const skip = await noFailingDisk();
const eio = 5;
const journal = '16MiB';
const badBytes = 256 * 1024;

async function attach(node: TestNode): Promise<RawNbd> {
  const { socketPath, exportName } = await node.client.call('volume.attach', {
    ...{ path: '/a', attachId: 'x', vm: 'v' },
  });
  return await RawNbd.connect({ path: socketPath }, exportName);
}

/** The errno of a request, 0 when it is done. */
async function errnoOf(request: Promise<unknown>): Promise<number> {
  try {
    await request;
    return 0;
  } catch (error) {
    if (error instanceof Failed) return error.errno;
    throw error;
  }
}

const figuresOf = async (node: TestNode) => (await node.client.call('metrics', {})).volumes[0];

/** Blocks 0..count with these numbers, read over a new connection. */
async function contains(t: Test, node: TestNode, numbers: readonly number[]): Promise<void> {
  const nbd = await attach(node);
  for (const [block, number] of numbers.entries())
    t.equal(readStamp(await nbd.read(block * blockBytes, blockBytes), block), number, `${block}`);
  await nbd.disconnect();
}

/** The journal on the failing disk; the store there too, or on a good one. */
function nodeOn(t: Test, disk: FailingDisk, store: 'good' | 'failing'): TestNode {
  mkdirSync(join(disk.path, 'journal'));
  const words = ['--workers', '1', '--journal-bytes', journal];
  const elsewhere = store === 'failing' ? ['--store', join(disk.path, 'store')] : [];
  const node = testNode(t, [...words, ...elsewhere]);
  mkdirSync(node.directory.root, { recursive: true });
  symlinkSync(join(disk.path, 'journal'), node.directory.journal);
  return node;
}

t.test('J5 EIO when the journal is written and synced', { skip }, async (t) => {
  const disk = await FailingDisk.make(t, 128 * MiB);
  const node = nodeOn(t, disk, 'good');
  await node.ensure();
  await node.client.call('volume.create', { path: '/a', sizeBytes: 64 * MiB });
  const nbd = await attach(node);
  await nbd.write(0, stamp(0, 1));
  await nbd.flush();

  disk.fail('write', true);
  const written = await errnoOf(nbd.write(blockBytes, stamp(1, 2)));
  const flushed = await errnoOf(nbd.flush());
  t.equal(flushed, eio, 'what no file takes is not acknowledged as flushed');
  const readOnly = await until('the volume to be read-only', async () => {
    return (await figuresOf(node))?.readOnlyReason;
  });
  t.match(readOnly, /journal/i, 'and says why');
  t.equal(await errnoOf(nbd.write(2 * blockBytes, stamp(2, 3))), eio, 'no write any more');
  t.equal(await errnoOf(nbd.flush()), eio, 'a failed sync is never retried into success');
  t.equal(readStamp(await nbd.read(0, blockBytes), 0), 1, 'reads go on');
  if (written === 0)
    t.equal(
      readStamp(await nbd.read(blockBytes, blockBytes), 1),
      2,
      'of what was acknowledged too',
    );
  const info = await node.client.call('volume.get', { path: '/a' });
  t.match(info.open?.readOnlyReason, /journal/i, 'volume show says it');
  t.ok(((await figuresOf(node))?.journalFailedFiles ?? 0) > 0, 'the alert on failing files is fed');

  // The disk works again, and blockd is killed: nothing of what was acknowledged as flushed is gone.
  disk.fail('write', false);
  await node.kill();
  await node.ensure();
  await contains(t, node, [1]);
  const again = await attach(node);
  await again.write(2 * blockBytes, stamp(2, 4));
  await again.flush();
  t.equal(readStamp(await again.read(2 * blockBytes, blockBytes), 2), 4, 'it takes writes again');
  await again.disconnect();
});

t.test(
  'J5 EIO once: the records go to another file before a flush is acknowledged',
  { skip },
  async (t) => {
    const disk = await FailingDisk.make(t, 128 * MiB);
    const node = nodeOn(t, disk, 'good');
    await node.ensure();
    await node.client.call('volume.create', { path: '/a', sizeBytes: 64 * MiB });
    const nbd = await attach(node);
    const numbers: number[] = [];
    let acknowledged = 0;
    for (let round = 1; round <= 40; round += 1) {
      const block = round - 1;
      // Fails until the journal has seen it; from before the write on, for it may be on its way to the disk before the flush.
      disk.fail('write', round === 20);
      await nbd.write(block * blockBytes, stamp(block, round));
      numbers.push(round);
      const flushing = errnoOf(nbd.flush());
      if (round === 20)
        await until('a file to be given up', async () => {
          return ((await figuresOf(node))?.journalFailedFiles ?? 0) > 0;
        });
      disk.fail('write', false);
      if ((await flushing) !== 0) break;
      acknowledged = round;
    }
    t.ok(acknowledged >= 19, `${acknowledged} flushes were acknowledged`);
    await node.kill();
    await node.ensure();
    await contains(t, node, numbers.slice(0, acknowledged));
  },
);

t.test(
  'EIO when a segment is read: these ranges fail, all others are read',
  { skip },
  async (t) => {
    const disk = await FailingDisk.make(t, 128 * MiB);
    const node = nodeOn(t, disk, 'failing');
    await node.ensure();
    await node.client.call('volume.create', { path: '/a', sizeBytes: 64 * MiB });
    const nbd = await attach(node);
    const count = 512;
    for (let block = 0; block < count; block += 1)
      await nbd.write(block * blockBytes, stamp(block, block + 1));
    await nbd.disconnect();
    await node.client.call('volume.detach', { path: '/a', attachId: 'x' });
    await node.stop();
    const found = readdirSync(join(disk.path, 'store'), { recursive: true, encoding: 'utf8' })
      .filter((name) => /logs\/[^/]+\/seg\/\d+\/\d+$/.test(name))
      .map((name) => ({ name, bytes: statSync(join(disk.path, 'store', name)).size }));
    const largest = found.sort((a, b) => b.bytes - a.bytes)[0];
    if (largest === undefined) throw new Error('nothing was stored');
    const middle = Math.floor(largest.bytes / 2 / badBytes) * badBytes;
    t.comment(`${largest.name}: ${largest.bytes} bytes, bad from ${middle} on`);
    await disk.failReadsOf(join('store', largest.name), middle, badBytes);

    await node.ensure();
    const reader = await attach(node);
    const failed: number[] = [];
    for (let block = 0; block < count; block += 1)
      try {
        const data = await reader.read(block * blockBytes, blockBytes);
        if (readStamp(data, block) !== block + 1) t.fail(`block ${block} has other content`);
      } catch (error) {
        t.equal(error instanceof Failed && error.errno, eio, `block ${block}: ${String(error)}`);
        failed.push(block);
      }
    t.ok(
      failed.length > 0 && failed.length <= 2 * (badBytes / blockBytes),
      `blocks ${failed.join(', ')} of ${count} fail`,
    );
    t.equal((await figuresOf(node))?.readOnlyReason, null, 'writes go on');
    await reader.write((failed[0] ?? 0) * blockBytes, stamp(failed[0] ?? 0, 7));
    await reader.flush();
    const { findings } = await node.client.call(
      'volume.check',
      { path: '/a' },
      { timeoutMs: 60_000 },
    );
    const bad = findings.find(({ code }) => code === 'CHECK_UNREADABLE');
    t.match(bad, { severity: 'error', object: new RegExp(largest.name.slice(-12)) });
    const named = (bad?.ranges ?? []).flatMap(({ offset, length }) =>
      Array.from({ length: length / blockBytes }, (_, at) => offset / blockBytes + at),
    );
    for (const block of failed) t.ok(named.includes(block), `the check names block ${block}`);
    t.ok(named.length <= failed.length + 32, 'and not much more');
  },
);
