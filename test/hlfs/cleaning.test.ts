/** Cleaning under load: space stays bounded while guests write, nothing they write is undone, a store that is nearly full. */
import fc from 'fast-check';
import t, { type Test } from 'tap';
import { asSnapshotName, type Clock, type Timers, type VolumeId } from '../../src/base/index.ts';
import { snapshotKey } from '../../src/hlfs/catalog-documents.ts';
import { holesBetween } from '../../src/hlfs/cleaner.ts';
import { cleaningCandidates, passOf } from '../../src/hlfs/cleaning-policy.ts';
import { Foreground } from '../../src/hlfs/foreground.ts';
import { checkVolume, requireHead, type SegmentStore, segmentKey } from '../../src/hlfs/index.ts';
import { isHeld, SegmentTable } from '../../src/hlfs/segment-table.ts';
import { listSegments } from '../../src/hlfs/segments.ts';
import { openMemoryStore } from '../../src/stores/index.ts';
import { bytesFrom, type Disk, Rig } from '../support/engine-rig.ts';

t.setTimeout(300_000);
const mebibyte = 1 << 20;
const piece = 64 * 1024;
const quiet = { signal: new AbortController().signal, onProgress: () => {} };

async function rigOn(test: Test, store: SegmentStore): Promise<Rig> {
  const rig = await Rig.make({ store });
  test.teardown(() => rig.end());
  return rig;
}

async function storedBytes(rig: Rig, id: VolumeId): Promise<number> {
  const { log } = (await requireHead(rig.context, id)).value;
  let sum = 0;
  for (const number of await listSegments(rig.store, log))
    sum += (await rig.store.stat(segmentKey(log, number)))?.lengthBytes ?? 0;
  return sum;
}

/** Write `bytes` in pieces at random places, without ever giving the volume a quiet moment. */
async function overwrite(rig: Rig, disk: Disk, expected: Buffer, bytes: number): Promise<void> {
  const places = expected.byteLength / piece;
  for (let written = 0; written < bytes; written += 8 * piece) {
    const writes: Promise<void>[] = [];
    for (let i = 0; i < 8; i += 1) {
      const at = rig.random.below(places) * piece;
      const content = bytesFrom(rig.random, piece);
      content.copy(expected, at);
      writes.push(disk.write(at, content));
    }
    await Promise.all(writes);
  }
}

t.test('space stays bounded while guests never pause, and every byte stays right', async (t) => {
  const rig = await rigOn(t, openMemoryStore());
  const sizeBytes = 96 * mebibyte;
  const id = await rig.create('/v', { sizeBytes, journalBytes: 16 * mebibyte });
  const disk = await rig.open(id);
  const expected = Buffer.alloc(sizeBytes);
  for (let at = 0; at < sizeBytes; at += mebibyte) {
    const content = bytesFrom(rig.random, mebibyte);
    content.copy(expected, at);
    await disk.write(at, content);
  }
  await overwrite(rig, disk, expected, 4 * sizeBytes);
  const { movedBytes, segments } = disk.volume.statistics();
  t.ok(movedBytes > 10 * mebibyte, `${movedBytes} bytes were moved`);
  const stored = await storedBytes(rig, id);
  t.ok(stored < 3 * sizeBytes, `${(stored / sizeBytes).toFixed(2)} times what lives is stored`);
  t.ok(segments > 0);
  t.ok((await disk.read(0, sizeBytes)).equals(expected), 'content');
  await rig.restart();
  const again = await rig.open(id);
  t.ok((await again.read(0, sizeBytes)).equals(expected), 'content after a kill');
  await again.close();
  t.same((await checkVolume(rig.context, id, quiet)).findings, []);
});

t.test('S9 in a store that is nearly full cleaning goes on before guests are held', async (t) => {
  const sizeBytes = 128 * mebibyte;
  const store = openMemoryStore({ capacityBytes: sizeBytes * 1.35 });
  const rig = await rigOn(t, store);
  const id = await rig.create('/v', { sizeBytes, journalBytes: 16 * mebibyte });
  const disk = await rig.open(id);
  const expected = Buffer.alloc(sizeBytes);
  for (let at = 0; at < sizeBytes; at += mebibyte) {
    const content = bytesFrom(rig.random, mebibyte);
    content.copy(expected, at);
    await disk.write(at, content);
  }
  let waited = 0;
  for (let round = 0; round < 12; round += 1) {
    await overwrite(rig, disk, expected, sizeBytes / 8);
    if (disk.volume.statistics().publishingWaits !== null) waited += 1;
  }
  t.equal(waited, 0, 'nobody had to wait for space');
  t.ok(disk.volume.statistics().movedBytes > mebibyte, 'something was moved');
  t.ok((await disk.read(0, sizeBytes)).equals(expected), 'content');
  const { freeBytes, totalBytes } = await store.space();
  t.ok(freeBytes > 0, `${freeBytes} of ${totalBytes} bytes are free`);
  await disk.close();
  t.same((await checkVolume(rig.context, id, quiet)).findings, []);
});

t.test('N7 a damaged document of a snapshot keeps all it may hold, and stops nobody', async (t) => {
  const rig = await rigOn(t, openMemoryStore());
  const sizeBytes = 8 * mebibyte;
  const id = await rig.create('/v', { sizeBytes, journalBytes: 16 * mebibyte });
  const disk = await rig.open(id);
  const fill = async (): Promise<Buffer> => {
    const content = bytesFrom(rig.random, sizeBytes);
    await disk.write(0, content);
    await disk.volume.publishAll();
    return content;
  };
  for (let round = 0; round < 4; round += 1) await fill();
  const before = await storedBytes(rig, id);
  t.ok(before < 4 * sizeBytes, 'what died was given back');
  const { log } = (await requireHead(rig.context, id)).value;
  const key = snapshotKey(log, asSnapshotName('held'));
  await rig.store.putIfAbsent(rig.context.scope, `${key}/000000000001`, [
    Buffer.from('{"format":1}'),
  ]);
  let expected = await fill();
  for (let round = 0; round < 3; round += 1) expected = await fill();
  t.equal(disk.volume.statistics().readOnlyReason, null, 'the volume takes writes');
  t.ok((await storedBytes(rig, id)) >= before + 4 * sizeBytes, 'nothing was given back');
  t.ok((await disk.read(0, sizeBytes)).equals(expected), 'content');
});

t.test('G1 what guests write while a segment is read for moving stays', async (t) => {
  const rig = await rigOn(t, openMemoryStore());
  const id = await rig.create('/v', { sizeBytes: 16 * mebibyte, journalBytes: 32 * mebibyte });
  const disk = await rig.open(id);
  const expected = bytesFrom(rig.random, 6 * mebibyte);
  await disk.write(0, expected);
  await disk.volume.publishAll();
  const even = Buffer.alloc(piece, 7);
  for (let at = 0; at < expected.byteLength; at += 2 * piece) {
    even.copy(expected, at);
    await disk.write(at, even);
  }
  for (let round = 0; round < 2; round += 1) await disk.volume.publishAll();
  const { log } = (await requireHead(rig.context, id)).value;
  const gate = Promise.withResolvers<void>();
  let held = 0;
  rig.process.doors.store = (call, key) => {
    if (call !== 'read' || key !== segmentKey(log, 1)) return;
    held += 1;
    // Header and index are read; the blocks have been chosen.
    return held > 2 ? gate.promise : undefined;
  };
  rig.process.timers.fire(2000);
  while (held < 3) await new Promise((resolve) => setImmediate(resolve));
  const late = bytesFrom(rig.random, 3 * mebibyte);
  late.copy(expected, mebibyte);
  await disk.write(mebibyte, late);
  await disk.volume.publishAll();
  gate.resolve();
  const lateMs = performance.now() + 60_000;
  while (disk.volume.statistics().movedBytes === 0 && performance.now() < lateMs)
    await new Promise((resolve) => setImmediate(resolve));
  t.ok(disk.volume.statistics().movedBytes > 0, 'the rest was moved');
  t.ok((await disk.read(0, expected.byteLength)).equals(expected), 'content');
  await rig.restart();
  const again = await rig.open(id);
  t.ok((await again.read(0, expected.byteLength)).equals(expected), 'and after a kill');
  await again.close();
  t.same((await checkVolume(rig.context, id, quiet)).findings, []);
});

/** Time that stands still but for what a test or a pause takes. */
class FakeTime implements Clock, Timers {
  nowMs = 0;
  pausedMs = 0;
  wallMs = (): number => this.nowMs;
  monotonicMs = (): number => this.nowMs;
  defer = (task: () => void): void => queueMicrotask(task);
  after(delayMs: number, task: () => void): { cancel: () => void } {
    this.nowMs += delayMs;
    this.pausedMs += delayMs;
    queueMicrotask(task);
    return { cancel: () => {} };
  }
}

/** 200 steps of 10 ms; requests take `aloneMs`, beside a step `besideMs`. @returns the share of time that was worked */
async function worked(aloneMs: number, besideMs: number, requests: number): Promise<number> {
  const time = new FakeTime();
  const foreground = new Foreground(time, time);
  const { signal } = new AbortController();
  const request = (takesMs: number): void => {
    const done = foreground.timed('write', () => {});
    const before = time.nowMs;
    time.nowMs += takesMs;
    done();
    time.nowMs = before;
  };
  for (let i = 0; i < 200; i += 1) {
    await foreground.step(async () => {
      for (let k = 0; k < requests; k += 1) request(besideMs);
      time.nowMs += 10;
    });
    time.nowMs += 0.01;
    for (let k = 0; k < requests; k += 1) request(aloneMs);
    await foreground.pause(signal);
  }
  return 2000 / (2000 + time.pausedMs);
}

t.test('B-43 background work takes the share of time that guests do not notice', async (t) => {
  const slow = await worked(1, 3, 16);
  t.ok(slow < 0.15, `three times as slow beside the work: ${slow.toFixed(2)}`);
  const fine = await worked(1, 1.05, 16);
  t.ok(fine > 0.8, `hardly slower: ${fine.toFixed(2)}`);
  t.equal(await worked(1, 3, 0), 1, 'without guests there is no pause');
});

t.test('small segments in front do not keep a large one out of a pass', async (t) => {
  const row = (blocks: number, live: number) => ({
    bytes: blocks * 4096,
    live,
    liveBytes: live * 4096,
    death: 0,
  });
  const table = new SegmentTable(
    new Map([
      [1, row(48, 18)],
      [2, row(55, 24)],
      [3, row(8206, 4537)],
      [4, row(8206, 4600)],
    ]),
  );
  const found = cleaningCandidates(table, { positions: [], livePercentMax: 70 });
  t.same(found, [1, 2, 3, 4]);
  t.same(passOf(table, found, 4096), [1, 2, 3]);
  t.same(passOf(table, [1, 2], 4096), [], 'alone they give back too little');
});

t.test('a hole is plugged only between runs that are longer', async (t) => {
  const blocks = (...runs: [number, number][]): { block: number }[] =>
    runs.flatMap(([first, count]) =>
      Array.from({ length: count }, (_, i) => ({ block: first + i })),
    );
  t.same(holesBetween(blocks([0, 4], [6, 4])), [4, 5]);
  t.same(holesBetween(blocks([0, 4], [7, 9])), [], 'three blocks are no small hole');
  t.same(holesBetween(blocks([0, 1], [2, 1], [4, 1])), [], 'scattered blocks stay scattered');
  t.same(holesBetween(blocks([0, 4], [5, 2])), [4]);
});

t.test('G2 isHeld finds a position between birth and death among many', async (t) => {
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.integer({ min: 1, max: 12 }), { maxLength: 6 }),
      fc.integer({ min: 1, max: 12 }),
      fc.integer({ min: 0, max: 12 }),
      (positions, birth, death) => {
        const sorted = positions.toSorted((a, b) => a - b);
        const wanted = positions.some((each) => birth <= each && (death === 0 || each < death));
        return isHeld(birth, death, sorted) === wanted;
      },
    ),
    { numRuns: 1000 },
  );
  t.pass('as the definition says');
});
