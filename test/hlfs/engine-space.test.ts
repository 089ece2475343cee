/** Snapshots, cleaning and space: what is kept, what is given back, what reading changes, and who may write after whom. */
// limit: 120 s
import { readdirSync } from 'node:fs';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import {
  asLogId,
  crc32c,
  type DvceError,
  type LogId,
  limits,
  systemTimers,
  type VolumeId,
} from '../../src/base/index.ts';
import { cleaningCandidates } from '../../src/hlfs/cleaning-policy.ts';
import {
  checkVolume,
  cloneVolume,
  currentRoot,
  deleteSnapshot,
  deleteVolume,
  diffRoots,
  findSnapshot,
  getVolume,
  listSnapshots,
  listVolumes,
  openSnapshot,
  readRanges,
  reap,
  reclaimLog,
  requireHead,
  rollbackVolume,
  type SegmentStore,
  segmentKey,
} from '../../src/hlfs/index.ts';
import { applyRuns } from '../../src/hlfs/log-apply.ts';
import { BlockMap } from '../../src/hlfs/map.ts';
import { encodeSegment, segmentDataOffset, segmentFlags } from '../../src/hlfs/segment-format.ts';
import { encodeIndex } from '../../src/hlfs/segment-index.ts';
import { SegmentTable } from '../../src/hlfs/segment-table.ts';
import { listSegments, readHeader, readIndex, SegmentReader } from '../../src/hlfs/segments.ts';
import { openMemoryStore } from '../../src/stores/index.ts';
import { bytesFrom, type Disk, Reader, Rig } from '../support/engine-rig.ts';

t.setTimeout(300_000);
const mebibyte = 1 << 20;
const quiet = { signal: new AbortController().signal, onProgress: () => {} };
const unused = (): undefined => undefined;

async function rigFor(test: Test): Promise<Rig> {
  const rig = await Rig.make();
  test.teardown(() => rig.end());
  return rig;
}

async function age(rig: Rig): Promise<void> {
  rig.process.timers.fire(limits.batchAgeMs);
  await rig.process.quiet();
}

/** Two roots and the cleaner, until nothing moves any more. */
async function clean(rig: Rig, disk: Disk): Promise<void> {
  for (let round = 0; round < 3; round += 1) {
    await disk.volume.publishAll();
    rig.process.timers.fire(limits.reclaimDelayMs);
    await rig.process.quiet();
  }
}

const isSame = async (reader: Reader, expected: Buffer): Promise<boolean> =>
  (await reader.read(0, expected.byteLength)).equals(expected);

async function storedBytes(rig: Rig, id: VolumeId): Promise<number> {
  let sum = 0;
  for (const log of (await requireHead(rig.context, id)).value.logs)
    for (const number of await listSegments(rig.store, log))
      sum += (await rig.store.stat(segmentKey(log, number)))?.lengthBytes ?? 0;
  return sum;
}

async function relocations(rig: Rig, id: VolumeId): Promise<number> {
  const { log } = (await requireHead(rig.context, id)).value;
  let count = 0;
  for (const number of await listSegments(rig.store, log)) {
    const header = await readHeader(rig.store, log, number);
    if (header === undefined) continue;
    for (const run of await readIndex(rig.store, header))
      if (run.kind === 'relocation') count += run.checksums.length;
  }
  return count;
}

/** Write `bytes` into the volume and the expectation. */
async function put(disk: Disk, expected: Buffer, at: number, bytes: Buffer): Promise<void> {
  await disk.write(at, bytes);
  bytes.copy(expected, at);
}

t.test(
  'B-07 a snapshot holds every write acknowledged before it and none sent after it resolved',
  async (t) => {
    const rig = await rigFor(t);
    const disk = await rig.open(await rig.create('/v'));
    for (let round = 0; round < 10; round += 1) {
      await disk.write(round * 4096, Buffer.alloc(4096, 50 + round));
      const document = await disk.snapshot(`s${round}`);
      await disk.write(round * 4096, Buffer.alloc(4096, 150 + round));
      const reader = new Reader(await openSnapshot(rig.context, document, 4096));
      t.equal((await reader.read(round * 4096, 1))[0], 50 + round);
    }
  },
);

t.test(
  'B-10 G2 B-11 cleaning to exhaustion with snapshots and clones keeps every root',
  async (t) => {
    const rig = await rigFor(t);
    const id = await rig.create('/v', { sizeBytes: 16 * mebibyte });
    const disk = await rig.open(id);
    const expected = Buffer.alloc(16 * mebibyte);
    const kept: { name: string; content: Buffer }[] = [];
    let moved = 0;
    for (let round = 0; round < 6; round += 1) {
      await put(disk, expected, round * 2 * mebibyte, bytesFrom(rig.random, 3 * mebibyte));
      await age(rig);
      for (let block = 0; block < 768; block += 2)
        await put(disk, expected, round * 2 * mebibyte + block * 4096, bytesFrom(rig.random, 4096));
      if (round === 1 || round === 3) {
        await disk.snapshot(`s${round}`);
        kept.push({ name: `s${round}`, content: Buffer.from(expected) });
      }
      await clean(rig, disk);
      moved += await relocations(rig, id);
    }
    t.ok(moved > 0, `${moved} blocks were moved`);
    // What only the snapshots hold from here on.
    await put(disk, expected, 0, bytesFrom(rig.random, 16 * mebibyte));
    await clean(rig, disk);
    const source = await getVolume(rig.context, '/v');
    for (const { name, content } of kept) {
      const { value } = await findSnapshot(rig.context, id, name);
      t.ok(await isSame(new Reader(await openSnapshot(rig.context, value, 4096)), content), name);
      const clone = await cloneVolume(
        rig.context,
        source,
        value,
        `/${name}`,
        { journalBytes: 16 * mebibyte },
        readRanges,
      );
      const copy = await rig.open(clone.id);
      t.ok(await isSame(copy, content), `clone of ${name}`);
      await copy.close();
    }
    t.ok(await isSame(disk, expected), 'the volume');
    await rig.restart();
    t.ok(await isSame(await rig.open(id), expected), 'the volume after a kill');
    t.same((await checkVolume(rig.context, id, quiet)).findings, []);
  },
);

t.test(
  'B-13 a segment with a larger live share is never cleaned before one with a smaller, and none above the threshold',
  async (t) => {
    const row = fc.record({
      blocks: fc.integer({ min: 1, max: 9000 }),
      live: fc.nat({ max: 9000 }),
      isDead: fc.boolean(),
    });
    fc.assert(
      fc.property(
        fc.array(row, { maxLength: 40 }),
        fc.array(fc.nat({ max: 50 }), { maxLength: 3 }),
        (rows, positions) => {
          const table = new SegmentTable(
            new Map(
              rows.map(({ blocks, live, isDead }, i) => [
                i + 1,
                {
                  bytes: blocks * 4096 + 5000,
                  live: isDead ? 0 : Math.min(live, blocks),
                  liveBytes: isDead ? 0 : Math.min(live, blocks) * 4096,
                  death: isDead ? i + 2 : 0,
                },
              ]),
            ),
          );
          const chosen = cleaningCandidates(table, {
            positions: positions.toSorted((a, b) => a - b),
            livePercentMax: limits.cleanLivePercent,
          });
          const share = (number: number): number => {
            const found = table.rows.get(number);
            return ((found?.live ?? 0) * 4096) / (found?.bytes ?? 1);
          };
          chosen.forEach((number, i) => {
            if (share(number) * 100 >= limits.cleanLivePercent)
              throw new Error('above the threshold');
            if (i > 0 && share(chosen[i - 1] ?? 0) > share(number)) throw new Error('out of order');
            if (positions.some((position) => position >= number)) throw new Error('still needed');
          });
        },
      ),
    );
    t.pass('threshold and order');
  },
);

t.test(
  'B-14 B-49 space stays bounded under overwriting and is given back by TRIM and WRITE_ZEROES',
  async (t) => {
    const rig = await rigFor(t);
    const id = await rig.create('/v', { sizeBytes: 8 * mebibyte });
    const disk = await rig.open(id);
    const expected = Buffer.alloc(8 * mebibyte);
    let most = 0;
    for (let round = 0; round < 20; round += 1) {
      await put(disk, expected, 0, bytesFrom(rig.random, 8 * mebibyte));
      await disk.volume.publishAll();
      rig.process.timers.fire(limits.reclaimDelayMs);
      await rig.process.quiet();
      most = Math.max(most, await storedBytes(rig, id));
    }
    t.ok(
      most <= 4 * 8 * mebibyte,
      `at most ${(most / mebibyte).toFixed(1)} MiB stored for 8 MiB written 20 times`,
    );
    t.ok(await isSame(disk, expected));
    await clean(rig, disk);
    t.equal(disk.volume.statistics().mappedBytes, 8 * mebibyte, 'allocated');
    await disk.trim(0, 3 * mebibyte);
    await disk.zero(3 * mebibyte, mebibyte, false);
    await disk.zero(4 * mebibyte, mebibyte, true);
    await clean(rig, disk);
    expected.fill(0, 0, 5 * mebibyte);
    const { mappedBytes, storedBytes: claimed } = disk.volume.statistics();
    t.equal(mappedBytes, 3 * mebibyte, 'what was cleared is not allocated');
    const stored = await storedBytes(rig, id);
    t.ok(stored < 4 * mebibyte, `${(stored / mebibyte).toFixed(1)} MiB are left`);
    t.equal(claimed, stored, 'B-40 the figure agrees with the store');
    t.ok(await isSame(disk, expected));
  },
);

t.test('B-16 deleting a snapshot in the middle frees what only it held', async (t) => {
  const rig = await rigFor(t);
  const id = await rig.create('/v');
  const disk = await rig.open(id);
  const expected = Buffer.alloc(2 * mebibyte);
  const contents: Buffer[] = [];
  for (let i = 0; i < 3; i += 1) {
    await put(disk, expected, 0, bytesFrom(rig.random, 2 * mebibyte));
    await disk.snapshot(`s${i}`);
    contents.push(Buffer.from(expected));
  }
  await put(disk, expected, 0, bytesFrom(rig.random, 2 * mebibyte));
  await clean(rig, disk);
  const before = await storedBytes(rig, id);
  await deleteSnapshot(rig.context, id, 's1');
  await disk.write(0, expected.subarray(0, 4096));
  await clean(rig, disk);
  const after = await storedBytes(rig, id);
  t.ok(before - after >= 2 * mebibyte, `${before - after} bytes were given back`);
  for (const i of [0, 2]) {
    const { value } = await findSnapshot(rig.context, id, `s${i}`);
    t.ok(
      await isSame(
        new Reader(await openSnapshot(rig.context, value, 4096)),
        contents[i] ?? Buffer.alloc(0),
      ),
      `s${i}`,
    );
  }
  t.ok(await isSame(disk, expected));
});

t.test(
  'B-17 a segment with the largest number of scattered blocks, half dead, keeps its live half',
  async (t) => {
    const rig = await rigFor(t);
    const id = await rig.create('/v', { sizeBytes: 1 << 30, journalBytes: 192 * mebibyte });
    const disk = await rig.open(id);
    const count = limits.segmentDataBytes / 4096;
    const stamp = (block: number, round: number): Buffer =>
      Buffer.alloc(4096, `${block}/${round};`);
    const place = (i: number): number => i * 17 * 4096;
    for (let i = 0; i < count; i += 64) {
      const writes: Promise<void>[] = [];
      for (let k = i; k < i + 64; k += 1) writes.push(disk.write(place(k), stamp(k, 0)));
      await Promise.all(writes);
    }
    await disk.volume.publishAll();
    const largest = Math.max(...[...(await sizes(rig, id)).values()]);
    t.ok(largest > limits.segmentDataBytes, 'one segment holds them all');
    for (let i = 0; i < count; i += 2) await disk.write(place(i), stamp(i, 1));
    await clean(rig, disk);
    t.ok((await relocations(rig, id)) >= count / 2, 'the live half was moved');
    let wrong = 0;
    for (let i = 0; i < count; i += 1)
      if (!(await disk.read(place(i), 4096)).equals(stamp(i, i % 2 === 0 ? 1 : 0))) wrong += 1;
    t.equal(wrong, 0);
  },
);

async function sizes(rig: Rig, id: VolumeId): Promise<Map<number, number>> {
  const { log } = (await requireHead(rig.context, id)).value;
  const found = new Map<number, number>();
  for (const number of await listSegments(rig.store, log))
    found.set(number, (await rig.store.stat(segmentKey(log, number)))?.lengthBytes ?? 0);
  return found;
}

t.test(
  'B-40 the figures of a large sparse volume agree with independently computed ones',
  async (t) => {
    const rig = await rigFor(t);
    const id = await rig.create('/v', { sizeBytes: 5 * 2 ** 40 });
    const disk = await rig.open(id);
    const blocks = new Set<number>();
    for (let i = 0; i < 500; i += 1) {
      const block = rig.random.below(5 * 2 ** 28);
      blocks.add(block);
      await disk.write(block * 4096, bytesFrom(rig.random, 4096));
    }
    t.equal(disk.volume.statistics().mappedBytes, blocks.size * 4096, 'before publishing');
    await disk.volume.publishAll();
    await rig.process.quiet();
    const { mappedBytes, storedBytes: stored, segments } = disk.volume.statistics();
    t.equal(mappedBytes, blocks.size * 4096, 'and after');
    const all = await sizes(rig, id);
    t.equal(segments, all.size);
    t.equal(
      stored,
      [...all.values()].reduce((sum, bytes) => sum + bytes, 0),
    );
  },
);

t.test('G1 a moved block is applied only where the map still has the old pointer', async (t) => {
  const store = openMemoryStore();
  const log = asLogId('0f1e2d3c-4b5a-4987-8655-443322110011');
  const hooks = { onRelease: () => {}, onRetain: () => {} };
  const map = new BlockMap(
    new SegmentReader(store, [{ first: 1, last: 99, log, store: 'main' }]),
    null,
    0,
    hooks,
  );
  await applyRuns(
    map,
    1,
    [{ kind: 'data', block: 10, offset: 4096, checksums: [1, 2, 3, 4] }],
    systemTimers,
  );
  await applyRuns(
    map,
    2,
    [
      { kind: 'data', block: 11, offset: 4096, checksums: [22] },
      { kind: 'hole', block: 12, count: 1 },
    ],
    systemTimers,
  );
  const relocation = {
    kind: 'relocation',
    block: 10,
    offset: 8192,
    checksums: [1, 2, 3, 4],
    oldSegments: [1, 1, 1, 1],
    oldOffsets: [4096, 8192, 12_288, 16_384],
  } as const;
  await applyRuns(map, 3, [relocation], systemTimers);
  const at = [10, 11, 12, 13].map((block) => {
    const found = map.find(block);
    return found?.kind === 'block' ? `${found.segment}:${found.offset}` : found?.kind;
  });
  t.same(at, ['3:8192', '2:4096', 'hole', '3:20480']);
  await applyRuns(map, 3, [relocation], systemTimers);
  t.equal(map.mappedBlocks, 3, 'L4: applying it again changes nothing');
});

// ---- reading changes nothing --------------------------------------------------------------------------------------------

t.test('B-03 B-47 looking at a live volume makes no call that changes the store', async (t) => {
  const rig = await rigFor(t);
  const id = await rig.create('/v');
  const disk = await rig.open(id);
  await disk.write(0, bytesFrom(rig.random, mebibyte));
  await disk.snapshot('one');
  await disk.write(5000, bytesFrom(rig.random, mebibyte));
  await disk.volume.publishAll();
  await rig.process.quiet();
  const writer = rig.process;
  const reader = await rig.start();
  const before = reader.mutations;
  await getVolume(rig.context, '/v');
  await listVolumes(rig.context);
  await listSnapshots(rig.context, id);
  const { value } = await findSnapshot(rig.context, id, 'one');
  const old = new Reader(await openSnapshot(rig.context, value, 4096));
  await old.read(0, mebibyte);
  await old.extents(0, mebibyte);
  const root = await currentRoot(rig.context, value.log);
  if (root !== null)
    await diffRoots(rig.context, value, root, { limit: 100, signal: quiet.signal });
  t.same((await checkVolume(rig.context, id, quiet)).findings, []);
  t.equal(
    reader.mutations,
    before,
    [...reader.counts.store].map(([call, count]) => `${call} ${count}`).join(', '),
  );
  const refused = await new Promise<DvceError | null>((resolve) => {
    old.volume.write(0, Buffer.alloc(10), { fua: false, origin: { alive: true } }, resolve);
  });
  t.equal(refused?.code, 'READ_ONLY', 'B-49 a snapshot is read-only');
  t.ok(writer.isAlive);
  await disk.write(0, Buffer.alloc(10));
  await disk.close();
});

t.test('B-28 unknown and impossible snapshot names are errors of the table', async (t) => {
  const rig = await rigFor(t);
  const id = await rig.create('/v');
  const disk = await rig.open(id);
  await t.rejects(findSnapshot(rig.context, id, 'nothing'), { code: 'NOT_FOUND' });
  for (const name of ['', 'x'.repeat(64), 'a/b', 'a\nb', '@@##$$', '\ud800']) {
    await t.rejects(findSnapshot(rig.context, id, name), { code: 'INVALID_NAME' });
    await t.rejects(async () => disk.snapshot(name), { code: 'INVALID_NAME' });
    await t.rejects(deleteSnapshot(rig.context, id, name), { code: 'INVALID_NAME' });
    await t.rejects(rollbackVolume(rig.context, { id, path: '/v' }, name, readRanges, unused), {
      code: 'INVALID_NAME',
    });
  }
  await disk.snapshot('one');
  await t.rejects(disk.snapshot('one'), { code: 'ALREADY_EXISTS' });
  await t.rejects(rollbackVolume(rig.context, { id, path: '/v' }, 'nothing', readRanges, unused), {
    code: 'NOT_FOUND',
  });
});

/** A store in which a log has `count` segments of one block, each made when it is looked at. */
function pretendSegments(store: SegmentStore, log: LogId, count: number): void {
  const checksums = [0];
  const encode = (number: number): Buffer => {
    const block = Buffer.alloc(4096, `segment ${number};`);
    const { body, header } = encodeSegment({
      header: {
        log,
        number,
        previous: checksums[number - 1] ?? 0,
        nonce: number.toString(16).padStart(32, '0'),
        epoch: 1,
        incarnation: 1,
        firstSeq: number,
        lastSeq: number,
        flags: 0,
        rootSegment: 0,
        wallMs: 1,
        keyId: 0,
        features: 0,
      },
      data: [block],
      index: encodeIndex([
        { kind: 'data', block: number * 7, offset: segmentDataOffset, checksums: [crc32c(block)] },
      ]),
      root: Buffer.alloc(0),
    });
    checksums[number] = header.checksum;
    return Buffer.concat(body);
  };
  for (let number = 1; number <= count; number += 1) encode(number);
  const prefix = `logs/${log}/seg/`;
  const numberOf = (key: string): number | undefined => {
    const number = Number(key.slice(-10));
    return key.startsWith(prefix) && number <= count ? number : undefined;
  };
  const { list, stat, read } = store;
  store.list = async (at, after, limit) => {
    if (!`${at}/`.startsWith(prefix)) return list(at, after, limit);
    const real = await list(at, undefined, 2000);
    const keys = new Map(real.map((entry) => [entry.key, entry]));
    for (let number = 1; number <= count; number += 1) {
      const key = segmentKey(log, number);
      const shown = `${at}/` === prefix ? key.slice(0, key.lastIndexOf('/')) : key;
      if (key.startsWith(`${at}/`)) keys.set(shown, { key: shown, isDirectory: shown !== key });
    }
    const sorted = [...keys.values()].sort((a, b) => (a.key < b.key ? -1 : 1));
    return sorted.filter(({ key }) => after === undefined || key > after).slice(0, limit);
  };
  store.stat = async (key) => {
    const number = numberOf(key);
    return number === undefined ? stat(key) : { lengthBytes: encode(number).length };
  };
  store.read = (key, offset, target, done) => {
    const number = numberOf(key);
    if (number === undefined) return read(key, offset, target, done);
    encode(number).copy(target, 0, offset, offset + target.length);
    queueMicrotask(() => done(null));
  };
}

t.test(
  'B-32 a volume of 20,000 segments is listed, opened and checked in bounded memory',
  async (t) => {
    const rig = await rigFor(t);
    const id = await rig.create('/v', { sizeBytes: 1 << 30, journalBytes: 16 * mebibyte });
    const { log } = (await requireHead(rig.context, id)).value;
    const count = 20_000;
    pretendSegments(rig.context.store, log, count);
    t.equal((await listSegments(rig.context.store, log)).length, count, 'listed');
    const before = process.memoryUsage().rss;
    const disk = await rig.open(id, { mapCacheBytes: mebibyte });
    for (const number of [1, 1023, 1024, 1025, count])
      t.ok(
        (await disk.read(number * 7 * 4096, 4096)).equals(Buffer.alloc(4096, `segment ${number};`)),
        `block of ${number}`,
      );
    await disk.volume.publishAll();
    const { findings, segments } = await checkVolume(rig.context, id, quiet);
    t.same(findings, [], 'checked');
    t.ok(segments > count, `${segments} segments`);
    t.ok(process.memoryUsage().rss - before < 400 * mebibyte, 'memory');
  },
);

// ---- takeover -----------------------------------------------------------------------------------------------------------

t.test(
  'T1 T2 T3 T8 T10 B-18 a takeover raises the epoch, fences the old writer and starts with a barrier',
  async (t) => {
    const rig = await rigFor(t);
    const id = await rig.create('/v');
    const old = await rig.open(id);
    const first = rig.process;
    await old.write(0, Buffer.alloc(4096, 1));
    await old.volume.publishAll();
    await old.write(4096, Buffer.alloc(4096, 2));
    await old.flush();
    const before = (await requireHead(rig.context, id)).value;
    const taker = await rig.start(1);
    await t.rejects(rig.open(id), { code: 'IN_USE' }, 'not without being asked');
    await t.rejects(
      rig.open(id, { takeover: true }),
      { code: 'JOURNAL_DAMAGED' },
      'T5: not without the journal of the other node',
    );
    const fenced: string[] = [];
    taker.doors.store = (call, key) => {
      if (call === 'fence') fenced.push(key);
    };
    const mine = await rig.open(id, { takeover: true, acceptLoss: true });
    const after = (await requireHead(rig.context, id)).value;
    t.ok(Number(after.epoch) > Number(before.epoch), `epoch ${before.epoch} to ${after.epoch}`);
    t.not(after.scope, before.scope, 'T1 a scope of its own');
    t.match(after, { state: 'active', pending: [], writer: rig.nodes[1] }, 'T10');
    t.notOk(await rig.store.probeScope(before.scope ?? ''), 'T3 the old scope is fenced');
    const numbers = await listSegments(rig.store, after.log);
    const headers = await Promise.all(
      numbers.map((number) => readHeader(rig.store, after.log, number)),
    );
    const barrier = headers.find((header) => ((header?.flags ?? 0) & segmentFlags.barrier) !== 0);
    t.equal(barrier?.epoch, Number(after.epoch), 'T8 a barrier of the new epoch');
    t.equal((await mine.read(0, 1))[0], 1, 'what was published');
    t.equal(
      (await mine.read(4096, 1))[0],
      0,
      'what only the old node had is lost, as was accepted',
    );
    await mine.write(8192, Buffer.alloc(4096, 3));
    await mine.volume.publishAll();
    // The old writer wakes up.
    t.ok(first.isAlive);
    await t.rejects(old.volume.publishAll(), { code: 'FENCED' });
    await t.rejects(old.write(0, Buffer.alloc(4096, 9)), { code: 'FENCED' });
    await t.rejects(old.snapshot('late'));
    t.equal((await mine.read(0, 1))[0], 1);
    await mine.close();
    t.same((await checkVolume(rig.context, id, quiet)).findings, []);
    await first.kill();
    await taker.kill();
    await rig.start(0);
    await t.rejects(rig.open(id), { code: 'IN_USE' });
    const back = await rig.open(id, { takeover: true });
    t.equal((await back.read(8192, 1))[0], 3, 'a clean close can be taken over without loss');
    t.equal((await back.read(4096, 1))[0], 0, 'the old tail of this node does not come back');
  },
);

t.test(
  'T2 T3 a taker that dies at any call leaves a volume that the next one can take',
  async (t) => {
    let deaths = 0;
    for (let at = 1; at < 200; at += 3) {
      const rig = await rigFor(t);
      const id = await rig.create('/v', { journalBytes: 16 * mebibyte });
      const old = await rig.open(id);
      await old.write(0, Buffer.alloc(4096, 1));
      await old.volume.publishAll();
      const taker = await rig.start(1);
      let calls = 0;
      taker.doors.store = () => {
        calls += 1;
        if (calls === at) taker.isAlive = false;
      };
      let isOpen = false;
      rig.open(id, { takeover: true, acceptLoss: true }).then(
        () => {
          isOpen = true;
        },
        () => {},
      );
      while (taker.isAlive && !isOpen) await new Promise((resolve) => setImmediate(resolve));
      await taker.kill();
      if (!isOpen) deaths += 1;
      await rig.start(2);
      const next = await rig.open(id, { takeover: true, acceptLoss: true });
      if ((await next.read(0, 1))[0] !== 1) t.fail(`death at call ${at}: content`);
      const head = (await requireHead(rig.context, id)).value;
      if (head.state !== 'active' || head.pending.length > 0)
        t.fail(`death at call ${at}: ${head.state}`);
      await t.rejects(old.volume.publishAll(), { code: 'FENCED' });
      await rig.end();
      if (isOpen) break;
    }
    t.ok(deaths > 5, `${deaths} deaths`);
  },
);

t.test('B-26 deleting a volume and reaping hurts no clone of it', async (t) => {
  const rig = await rigFor(t);
  const id = await rig.create('/v');
  const disk = await rig.open(id);
  const content = bytesFrom(rig.random, 2 * mebibyte);
  await disk.write(0, content);
  let document = await disk.snapshot('s');
  await disk.close();
  let path = '/v';
  const clones: VolumeId[] = [];
  for (let depth = 1; depth <= 4; depth += 1) {
    const clone = await cloneVolume(
      rig.context,
      await getVolume(rig.context, path),
      document,
      `/c${depth}`,
      { journalBytes: 16 * mebibyte },
      readRanges,
    );
    path = `/c${depth}`;
    clones.push(clone.id);
    const copy = await rig.open(clone.id);
    const patch = bytesFrom(rig.random, 4096);
    await put(copy, content, depth * 8192, patch);
    document = await copy.snapshot('s');
    await copy.close();
  }
  const order = ['/v', '/c2', '/c1', '/c3'];
  for (const gone of order) {
    await deleteVolume(rig.context, gone, unused);
    await reap(rig.context, reclaimLog);
    const last = await rig.open(clones.at(-1) ?? id);
    t.ok(await isSame(last, content), `${gone} deleted`);
    await last.close();
  }
  await deleteVolume(rig.context, '/c4', unused);
  await reap(rig.context, reclaimLog);
  const left = readdirSync(`${rig.directory}/store`, {
    recursive: true,
    withFileTypes: true,
  }).filter((entry) => entry.isFile() && entry.parentPath.includes('/seg/'));
  t.equal(left.length, 0, 'with the last one everything goes');
});
