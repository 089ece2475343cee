/** The way of a write: one sync for many, no reads, order, faults of the journal's files, held and dropped requests. */
// limit: 120 s
import { readdirSync } from 'node:fs';
import t, { type Test } from 'tap';
import { DvceError, limits, type VolumeId } from '../../src/base/index.ts';
import {
  checkVolume,
  cloneVolume,
  getVolume,
  openSnapshot,
  readRanges,
  requireHead,
} from '../../src/hlfs/index.ts';
import { bytesFrom, type Disk, Reader, Rig, type RigOptions } from '../support/engine-rig.ts';

t.setTimeout(300_000);

async function rigFor(test: Test, seed = 1, options: RigOptions = {}): Promise<Rig> {
  const rig = await Rig.make({ seed, ...options });
  test.teardown(() => rig.end());
  return rig;
}

const eio = (): Error => Object.assign(new Error('EIO: i/o error'), { code: 'EIO' });
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const code = async (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => 'done',
    (error: unknown) => (error instanceof DvceError ? error.code : String(error)),
  );

async function until(condition: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

t.test('B-20 one flush after a hundred scattered writes is one fdatasync', async (t) => {
  const rig = await rigFor(t);
  const disk = await rig.open(await rig.create('/v', { sizeBytes: 1 << 30 }));
  const before = rig.process.counted('file', 'dataSync');
  const writesBefore = rig.process.counted('file', 'write');
  const writes: Promise<void>[] = [];
  for (let i = 0; i < 100; i += 1)
    writes.push(disk.write(((i * 7919) % 200_000) * 4096, bytesFrom(rig.random, 4096)));
  await Promise.all(writes);
  await disk.flush();
  t.equal(rig.process.counted('file', 'dataSync') - before, 1);
  t.ok(
    rig.process.counted('file', 'write') - writesBefore <= 2,
    'all of one turn go out in one write',
  );
});

t.test('B-50 an aligned write of whole blocks reads nothing', async (t) => {
  const rig = await rigFor(t);
  const id = await rig.create('/v');
  let disk = await rig.open(id);
  await disk.write(0, bytesFrom(rig.random, 1 << 20));
  await disk.close();
  disk = await rig.open(id);
  await rig.process.quiet();
  const reads = (): number =>
    rig.process.counted('store', 'read') + rig.process.counted('file', 'read');
  const before = reads();
  for (let i = 0; i < 16; i += 1) await disk.write(i * 8192, bytesFrom(rig.random, 8192));
  await disk.flush();
  t.equal(reads(), before);
});

t.test('B-51 the largest request against the smallest journal and batch', async (t) => {
  const rig = await rigFor(t);
  const id = await rig.create('/v', { sizeBytes: 64 << 20, journalBytes: 16 << 20 });
  let disk = await rig.open(id);
  const large = bytesFrom(rig.random, limits.requestBytesMax);
  await disk.write(4096 * 3 + 17, large);
  t.ok((await disk.read(4096 * 3 + 17, large.byteLength)).equals(large), 'read back whole');
  await disk.flush();
  await rig.restart();
  disk = await rig.open(id);
  t.ok((await disk.read(4096 * 3 + 17, large.byteLength)).equals(large), 'and after a kill');
});

/** Blocks that are not all of one write. */
function mixedBlocks(bytes: Buffer): number {
  let mixed = 0;
  for (let at = 0; at < bytes.byteLength; at += 4096)
    if (!bytes.subarray(at, at + 4096).every((byte) => byte === bytes[at])) mixed += 1;
  return mixed;
}

t.test(
  'B-52 J1 each block of a read is as it was before or after a write that overlaps it',
  async (t) => {
    const rig = await rigFor(t);
    const disk = await rig.open(await rig.create('/v'));
    const blocks = 32;
    let torn = 0;
    const reads: Promise<void>[] = [];
    for (let round = 1; round <= 300; round += 1) {
      const first = rig.random.below(blocks);
      const count = 1 + rig.random.below(blocks - first);
      const written = disk.write(first * 4096, Buffer.alloc(count * 4096, round % 256));
      reads.push(
        disk.read(0, blocks * 4096).then((bytes) => {
          torn += mixedBlocks(bytes);
        }),
      );
      if (round % 10 === 0) await written;
      if (round % 50 === 0) void disk.volume.publishAll();
    }
    await Promise.all(reads);
    t.equal(torn, 0);
  },
);

const stamp = (block: number, round: number): Buffer => {
  const bytes = Buffer.alloc(4096, round & 0xff);
  bytes.writeUInt32LE(block, 0);
  bytes.writeUInt32LE(round, 4);
  return round === 0 ? Buffer.alloc(4096) : bytes;
};

/** Blocks of `bytes` that are not of these rounds. */
const notOf = (rounds: Uint32Array, bytes: Buffer): number[] =>
  [...rounds.keys()].filter((block) => {
    const part = bytes.subarray(block * 4096, (block + 1) * 4096);
    return !part.equals(stamp(block, rounds[block] ?? 0));
  });

/** Now and then something that runs beside the writes. */
async function disturb(rig: Rig, disk: Disk, what: number): Promise<void> {
  if (what === 100) await disk.flush();
  if (what === 200) await disk.volume.publishAll();
  if (what === 300) rig.process.timers.fire(limits.reclaimDelayMs);
}

t.test(
  'B-21 blocks that are rewritten while they are flushed, published, snapshotted and cleaned read back',
  async (t) => {
    const rig = await rigFor(t);
    const id = await rig.create('/v');
    const disk = await rig.open(id);
    const newest = new Uint32Array(64);
    let wrong = 0;
    const background = new Set<Promise<unknown>>();
    const start = (promise: Promise<unknown>): void => {
      background.add(promise);
      promise.finally(() => background.delete(promise)).catch(() => {});
    };
    const snapshots: {
      name: string;
      content: Uint32Array;
      taken: Awaited<ReturnType<Disk['snapshot']>>;
    }[] = [];
    for (let round = 1; round <= 10_000; round += 1) {
      const block = rig.random.below(64);
      const written = disk.write(block * 4096, stamp(block, round));
      newest[block] = round;
      const what = round % 500;
      start(disturb(rig, disk, what));
      if (what === 400 && snapshots.length < 5) {
        await written;
        const content = Uint32Array.from(newest);
        const name = `s${round}`;
        snapshots.push({ name, content, taken: await disk.snapshot(name) });
      }
      if (round % 16 !== 0) continue;
      await written;
      const look = rig.random.below(64);
      const bytes = await disk.read(look * 4096, 4096);
      const round0 = newest[look] ?? 0;
      if (!bytes.equals(stamp(look, round0))) wrong += 1;
    }
    await Promise.all(background);
    await disk.flush();
    t.equal(wrong, 0);
    for (const { name, content, taken } of snapshots) {
      const reader = new Reader(await openSnapshot(rig.context, taken, 4096));
      const bytes = await reader.read(0, 64 * 4096);
      t.same(notOf(content, bytes), [], name);
    }
  },
);

const gib = 2 ** 30;
t.test(
  'B-23 J9 blocks up to the end of the largest volume survive reopen, snapshot, clone and trims around them',
  async (t) => {
    const rig = await rigFor(t);
    const sizeBytes = 16 * 1024 * gib;
    const id = await rig.create('/v', { sizeBytes });
    let disk = await rig.open(id);
    const places = [
      0,
      8 * gib - 4096,
      8 * gib,
      8 * gib + 4096,
      9 * gib,
      1024 * gib,
      8 * 1024 * gib - 4096,
      sizeBytes - 4096,
    ];
    const stamps = places.map(() => bytesFrom(rig.random, 4096));
    const verify = async (reader: Reader, what: string): Promise<void> => {
      for (const [i, place] of places.entries())
        if (!(await reader.read(place, 4096)).equals(stamps[i] ?? Buffer.alloc(0)))
          t.fail(`${what}: ${place}`);
      for (const place of [4096, 8 * gib + 8192, 12 * 1024 * gib]) {
        const bytes = await reader.read(place, 4096);
        if (!bytes.equals(Buffer.alloc(4096))) t.fail(`${what}: nothing was written at ${place}`);
      }
    };
    for (const [i, place] of places.entries())
      await disk.write(place, stamps[i] ?? Buffer.alloc(0));
    await verify(disk, 'at once');
    await disk.flush();
    await rig.restart();
    disk = await rig.open(id);
    await verify(disk, 'after a kill');
    const before = rig.process.counted('file', 'write');
    await disk.trim(8 * gib + 8192, gib - 8192);
    await disk.zero(9 * gib + 4096, 1000 * gib, true);
    await disk.trim(1024 * gib + 4096, 6 * 1024 * gib);
    t.ok(rig.process.counted('file', 'write') - before <= 3, 'a large trim is one record');
    await verify(disk, 'after trims around them');
    const document = await disk.snapshot('s');
    await verify(new Reader(await openSnapshot(rig.context, document, 4096)), 'the snapshot');
    const clone = await cloneVolume(
      rig.context,
      await getVolume(rig.context, '/v'),
      document,
      '/c',
      { journalBytes: 32 << 20 },
      readRanges,
    );
    const copy = await rig.open(clone.id);
    await verify(copy, 'the clone');
    await disk.close();
    disk = await rig.open(id);
    await verify(disk, 'after a close');
    const { findings } = await checkVolume(rig.context, id, {
      signal: new AbortController().signal,
      onProgress: () => {},
    });
    t.same(findings, []);
  },
);

t.test('J9 TRIM leaves partial blocks alone, WRITE_ZEROES does not', async (t) => {
  const rig = await rigFor(t);
  const disk = await rig.open(await rig.create('/v'));
  await disk.write(0, Buffer.alloc(5 * 4096, 1));
  await disk.trim(100, 3 * 4096);
  const expected = Buffer.alloc(5 * 4096, 1).fill(0, 4096, 3 * 4096);
  t.ok((await disk.read(0, 5 * 4096)).equals(expected), 'trim');
  await disk.zero(3 * 4096 + 50, 4096, false);
  expected.fill(0, 3 * 4096 + 50, 4 * 4096 + 50);
  t.ok((await disk.read(0, 5 * 4096)).equals(expected), 'zeroes');
});

// ---- faults of the journal --------------------------------------------------------------------------------------------

t.test(
  'J5 B-24 a failed fdatasync is not tried again on that file: what it held goes to another one',
  async (t) => {
    for (const end of ['go on', 'kill'] as const) {
      const rig = await rigFor(t);
      const id = await rig.create('/v');
      let disk = await rig.open(id);
      const written = bytesFrom(rig.random, 50_000);
      await disk.write(1000, written);
      const paths: string[] = [];
      let failures = 1;
      rig.process.doors.sync = (path) => {
        if (!path.includes('slot-')) return null;
        paths.push(path);
        failures -= 1;
        return failures >= 0 ? eio() : null;
      };
      await disk.flush();
      t.ok(paths.length >= 2, 'another sync followed');
      t.not(paths[1], paths[0], 'of another file');
      if (end === 'go on') {
        await disk.write(100_000, written);
        await disk.flush();
        t.notOk(paths.slice(1).includes(paths[0] ?? ''), 'the first file is never used again');
        t.ok((await disk.read(100_000, 50_000)).equals(written));
      }
      await rig.restart();
      disk = await rig.open(id);
      t.ok((await disk.read(1000, 50_000)).equals(written), end);
    }
  },
);

t.test('J5 EIO of a sync, and the process dies before anybody saw it', async (t) => {
  const rig = await rigFor(t);
  const id = await rig.create('/v');
  const disk = await rig.open(id);
  const written = bytesFrom(rig.random, 9000);
  await disk.write(5, written);
  rig.process.doors.sync = () => {
    rig.process.isAlive = false;
    return eio();
  };
  disk.flush().catch(() => {});
  await until(() => !rig.process.isAlive, 'death');
  await rig.restart();
  t.ok((await (await rig.open(id)).read(5, 9000)).equals(written));
});

t.test(
  'J5 with every sync failing flushes fail, the volume is read-only and says so; reads go on',
  async (t) => {
    const rig = await rigFor(t);
    const id = await rig.create('/v');
    const disk = await rig.open(id);
    const written = bytesFrom(rig.random, 9000);
    await disk.write(5, written);
    rig.process.doors.sync = () => eio();
    t.equal(await code(disk.flush()), 'IO_FAILED');
    t.equal(await code(disk.write(0, Buffer.alloc(4096))), 'IO_FAILED');
    t.equal(await code(disk.flush()), 'IO_FAILED');
    t.ok((await disk.read(5, 9000)).equals(written));
    t.type(disk.volume.statistics().readOnlyReason, 'string');
    await disk.close();
    rig.process.doors.sync = () => null;
    await rig.restart();
    t.ok(
      (await (await rig.open(id)).read(5, 9000)).equals(written),
      'B-24: acknowledged, so it is there',
    );
  },
);

t.test('J5 J6 short writes are completed, failing ones go to another file', async (t) => {
  const rig = await rigFor(t);
  const id = await rig.create('/v');
  let disk = await rig.open(id);
  const expected = Buffer.alloc(400_000);
  const write = async (at: number, length: number): Promise<void> => {
    const bytes = bytesFrom(rig.random, length);
    bytes.copy(expected, at);
    await disk.write(at, bytes);
  };
  await write(0, 10_000);
  let limit = 1;
  rig.process.doors.file = (call, path) => {
    if (call !== 'write' || !path.includes('slot-')) return undefined;
    limit += 97;
    return limit;
  };
  await write(10_000, 60_000);
  await write(70_001, 513);
  let failures = 2;
  rig.process.doors.file = (call, path) => {
    if (call !== 'write' || !path.includes('slot-') || failures === 0) return undefined;
    failures -= 1;
    throw eio();
  };
  // Two files fail in a row; the second one while the tail is being moved ends the journal.
  const outcome = await code(write(100_000, 4096));
  if (outcome !== 'done') t.equal(outcome, 'IO_FAILED');
  await rig.restart();
  disk = await rig.open(id);
  t.ok(
    (await disk.read(0, 70_514)).equals(expected.subarray(0, 70_514)),
    'all that was acknowledged',
  );
  failures = 1;
  rig.process.doors.file = (call, path) => {
    if (call !== 'write' || !path.includes('slot-') || failures === 0) return undefined;
    failures -= 1;
    throw eio();
  };
  await write(200_000, 20_000);
  rig.process.doors.file = () => undefined;
  await write(300_000, 20_000);
  await disk.flush();
  t.ok(
    (await disk.read(200_000, 20_000)).equals(expected.subarray(200_000, 220_000)),
    'moved to another file',
  );
  await rig.restart();
  disk = await rig.open(id);
  t.ok(
    (await disk.read(200_000, 120_000)).equals(expected.subarray(200_000, 320_000)),
    'and after a kill',
  );
});

// ---- a store that is away or full -------------------------------------------------------------------------------------

const awayError = (): DvceError =>
  new DvceError('STORE_UNAVAILABLE', { where: 'the store', reason: 'test' });

t.test(
  'J8 the journal stays in its quota, holds writes and drops nothing while the store is away',
  async (t) => {
    const rig = await rigFor(t);
    const id = await rig.create('/v', { sizeBytes: 64 << 20, journalBytes: 16 << 20 });
    let disk = await rig.open(id);
    rig.process.doors.store = (call, key) => {
      if (call === 'put' && key.includes('/seg/')) throw awayError();
    };
    const expected = Buffer.alloc(64 << 20);
    let acknowledged = 0;
    const writes: Promise<void>[] = [];
    for (let i = 0; i < 32; i += 1) {
      const bytes = bytesFrom(rig.random, 1 << 20);
      bytes.copy(expected, i << 20);
      writes.push(
        disk.write(i << 20, bytes).then(() => {
          acknowledged += 1;
        }),
      );
    }
    await until(() => acknowledged > 3, 'the first writes');
    for (let seen = -1; seen !== acknowledged; ) {
      seen = acknowledged;
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
    const held = acknowledged;
    t.ok(held < 16, `${held} MiB were taken`);
    const { journalBytes, journalQuotaBytes } = disk.volume.statistics();
    t.equal(journalQuotaBytes, 16 << 20);
    t.ok(
      journalBytes <=
        (journalQuotaBytes * limits.journalHoldPercent) / 100 + limits.journalFileBytesMin,
      `${journalBytes} used`,
    );
    t.equal(
      readdirSync(rig.journalOf(id)).filter((name) => name.startsWith('slot-')).length,
      4,
      'no more files',
    );
    await disk.flush();
    t.ok((await disk.read(0, held << 20)).equals(expected.subarray(0, held << 20)), 'reads go on');
    rig.process.doors.store = () => {};
    await Promise.all(writes);
    t.ok(
      (await disk.read(0, 32 << 20)).equals(expected.subarray(0, 32 << 20)),
      'all of it in the end',
    );
    await rig.restart();
    disk = await rig.open(id);
    t.ok((await disk.read(0, 32 << 20)).equals(expected.subarray(0, 32 << 20)), 'and after a kill');
  },
);

t.test('N6 a held write of a connection that died does not land on newer data', async (t) => {
  const rig = await rigFor(t);
  const id = await rig.create('/v', { sizeBytes: 64 << 20, journalBytes: 16 << 20 });
  const disk = await rig.open(id);
  rig.process.doors.store = (call, key) => {
    if (call === 'put' && key.includes('/seg/')) throw awayError();
  };
  const fill: Promise<void>[] = [];
  for (let i = 0; i < 20; i += 1) fill.push(disk.write((8 + i) << 20, Buffer.alloc(1 << 20, 1)));
  const origin = { alive: true };
  const held = code(disk.write(0, Buffer.alloc(4096, 0xdd), { fua: false, origin }));
  await turn();
  await new Promise((resolve) => setTimeout(resolve, 100));
  origin.alive = false;
  // The client comes back and writes again what was not answered, then something newer.
  const again = disk
    .write(0, Buffer.alloc(4096, 0xdd))
    .then(() => disk.write(0, Buffer.alloc(4096, 0xee)));
  rig.process.doors.store = () => {};
  await Promise.all([...fill, again]);
  t.equal(await held, 'CANCELLED');
  t.equal((await disk.read(0, 1))[0], 0xee);
});

t.test(
  'S9 a full store holds guest writes before its reserve, fails them late, serves reads, and recovers',
  async (t) => {
    // Ten seconds of holding pass in half a one.
    const clock = { wallMs: () => 1_750_000_000_000, monotonicMs: () => performance.now() * 20 };
    const rig = await rigFor(t, 1, { clock });
    const id = await rig.create('/v', { sizeBytes: 64 << 20, journalBytes: 16 << 20 });
    const disk = await rig.open(id);
    await disk.write(0, Buffer.alloc(1 << 20, 1));
    await disk.volume.publishAll();
    let isFull = true;
    const { store } = rig.context;
    store.space = async () => ({
      freeBytes: isFull ? limits.storeReserveBytes : 2 ** 40,
      totalBytes: 2 ** 40,
    });
    let dataPuts = 0;
    rig.process.doors.put = (_scope, key, body) => {
      const bytes = body.reduce((sum, part) => sum + part.byteLength, 0);
      if (key.includes('/seg/') && bytes > 64 << 10) dataPuts += 1;
      return undefined;
    };
    const outcomes: Promise<string>[] = [];
    for (let i = 1; i < 20; i += 1)
      outcomes.push(code(disk.write(i << 20, Buffer.alloc(1 << 20, i))));
    await new Promise((resolve) => setTimeout(resolve, 500));
    t.equal(dataPuts, 0, 'the reserve is not touched');
    t.equal((await disk.read(0, 1))[0], 1, 'reads go on');
    const results = await Promise.all(outcomes);
    const failed = results.filter((result) => result === 'NO_SPACE').length;
    t.ok(failed > 0 && failed < 19, `${failed} of 19 failed with ENOSPC`);
    await disk.trim(0, 1 << 20);
    isFull = false;
    await disk.volume.publishAll();
    await disk.write(0, Buffer.alloc(4096, 9));
    results.forEach((result, i) => {
      if (result !== 'done' && result !== 'NO_SPACE') t.fail(`write ${i}: ${result}`);
    });
    for (const [i, result] of results.entries())
      if (result === 'done')
        t.equal(
          (await disk.read((i + 1) << 20, 1))[0],
          i + 1,
          `B-24: write ${i + 1} was acknowledged`,
        );
  },
);

t.test('S5 the journal keeps what the store did not confirm', async (t) => {
  const rig = await rigFor(t);
  const id = await rig.create('/v');
  const disk = await rig.open(id);
  const bytes = bytesFrom(rig.random, 20_000);
  await disk.write(0, bytes);
  const kept: string[] = [];
  // Accepted, but no copy is confirmed: and it is lost with its only disk.
  rig.process.doors.put = (_scope, key) => {
    if (!key.includes('/seg/')) return undefined;
    kept.push(key);
    return { outcome: 'created', replicas: 0 };
  };
  // Enough to come round to the first file again, were it free.
  const rounds = 14;
  for (let round = 0; round < rounds; round += 1) {
    await disk.write(1 << 20, Buffer.alloc(1 << 20, round));
    rig.process.timers.fire(limits.batchAgeMs);
    await rig.process.quiet();
  }
  t.ok(kept.length >= rounds);
  await rig.restart();
  const again = await rig.open(id);
  t.ok((await again.read(0, 20_000)).equals(bytes), 'it is read from the journal');
  t.equal((await again.read(1 << 20, 1))[0], rounds - 1);
});

t.test(
  'B-31 close in the middle of everything: nothing follows it, all that was acknowledged is there',
  async (t) => {
    for (const during of ['write', 'flush', 'publish', 'snapshot', 'reclaim'] as const) {
      const rig = await rigFor(t);
      const id = await rig.create('/v');
      const disk = await rig.open(id);
      const acknowledged: number[] = [];
      const running: Promise<unknown>[] = [];
      for (let i = 0; i < 40; i += 1)
        running.push(
          code(
            disk.write(i * 20_000, Buffer.alloc(20_000, i + 1)).then(() => acknowledged.push(i)),
          ),
        );
      const start = {
        write: () => code(disk.write(0, Buffer.alloc(10))),
        flush: () => code(disk.flush()),
        publish: () => code(disk.volume.publishAll()),
        snapshot: () => code(disk.snapshot('s')),
        reclaim: async () => rig.process.timers.fire(limits.reclaimDelayMs),
      };
      running.push(start[during]());
      for (let i = 0; i < 3; i += 1) await turn();
      await disk.close();
      await Promise.all(running);
      await rig.process.quiet();
      const open = [...rig.process.openFiles]
        .map((file) => file.path)
        .filter((path) => path.includes('slot-'));
      t.same(open, [], `${during}: no journal file is open`);
      const calls = (): number =>
        [...rig.process.counts.file.values(), ...rig.process.counts.store.values()].reduce(
          (a, b) => a + b,
          0,
        );
      const before = calls();
      await new Promise((resolve) => setTimeout(resolve, 30));
      t.equal(calls(), before, `${during}: no I/O after close`);
      t.equal(await code(disk.write(0, Buffer.alloc(10))), 'VOLUME_CLOSED');
      const again = await rig.open(id);
      for (const i of acknowledged)
        if ((await again.read(i * 20_000 + 10, 1))[0] !== i + 1)
          t.fail(`${during}: write ${i} is lost`);
    }
  },
);

t.test('B-31 a close while the store is away and a sync hangs answers every request', async (t) => {
  const rig = await rigFor(t);
  const id = await rig.create('/v');
  const disk = await rig.open(id);
  rig.process.doors.store = (call) => {
    if (call === 'put') throw awayError();
  };
  await disk.write(0, Buffer.alloc(4096, 3));
  let release = (): void => {};
  rig.process.doors.sync = () =>
    new Promise((resolve) => {
      release = () => resolve(null);
    });
  const flushing = code(disk.flush());
  await turn();
  await turn();
  const closing = disk.close();
  await turn();
  rig.process.timers.fire(limits.closeMs);
  await new Promise((resolve) => setTimeout(resolve, 50));
  release();
  await closing;
  t.match(await flushing, /VOLUME_CLOSED|done/, 'the flush is answered');
  rig.process.doors.store = () => {};
  rig.process.doors.sync = () => null;
  await rig.restart();
  t.equal((await (await rig.open(id)).read(0, 1))[0], 3);
});

t.test(
  'B-34 B-15 every call of the store fails once, while writing, publishing, cleaning and opening',
  async (t) => {
    const codes = new Map<string, number>();
    let struck = 0;
    for (let at = 1; at < 400; at += at < 20 ? 2 : 17) {
      const rig = await rigFor(t, at);
      const id = await rig.create('/v', { journalBytes: 16 << 20 });
      const { process } = rig;
      process.timeScale = 0.05;
      let calls = 0;
      process.doors.store = () => {
        calls += 1;
        if (calls === at) throw awayError();
      };
      const expected = Buffer.alloc(2 << 20);
      const outcome = await code(storm(rig, id, expected));
      codes.set(outcome, (codes.get(outcome) ?? 0) + 1);
      process.doors.store = () => {};
      await rig.restart();
      const again = await rig.open(id);
      if (!(await again.read(0, expected.byteLength)).equals(expected))
        t.fail(`call ${at}: content`);
      await again.close();
      const { findings } = await checkVolume(rig.context, id, {
        signal: new AbortController().signal,
        onProgress: () => {},
      });
      const serious = findings.filter(({ severity }) => severity === 'error');
      if (serious.length > 0) t.fail(`call ${at}: ${JSON.stringify(serious)}`);
      await rig.end();
      if (calls < at) break;
      struck += 1;
    }
    t.ok(struck > 15, `${struck} failures: ${JSON.stringify([...codes])}`);
    for (const outcome of codes.keys())
      t.match(outcome, /^(done|STORE_UNAVAILABLE|FENCED|CONFLICT)$/);
  },
);

/** Acknowledged writes go into `expected`; the first error ends it. */
async function storm(rig: Rig, id: VolumeId, expected: Buffer): Promise<void> {
  const disk = await rig.open(id);
  for (let round = 0; round < 6; round += 1) {
    for (let i = 0; i < 8; i += 1) {
      const at = rig.random.below(expected.byteLength - 200_000);
      const bytes = bytesFrom(rig.random, 1 + rig.random.below(200_000));
      await disk.write(at, bytes);
      bytes.copy(expected, at);
    }
    if (round % 2 === 0) await disk.volume.publishAll();
    if (round === 3) await disk.snapshot('s');
    rig.process.timers.fire(limits.reclaimDelayMs);
  }
  await disk.close();
  await (await rig.open(id)).close();
}

t.test('B-24 every call on a file fails once: an error, or the data is there', async (t) => {
  let struck = 0;
  const codes = new Map<string, number>();
  for (let at = 1; at < 300; at += at < 20 ? 2 : 19) {
    const rig = await rigFor(t, at);
    const id = await rig.create('/v', { journalBytes: 16 << 20 });
    const { process } = rig;
    process.timeScale = 0.05;
    let calls = 0;
    const strike = (): boolean => {
      calls += 1;
      return calls === at;
    };
    process.doors.file = () => {
      if (strike()) throw eio();
      return undefined;
    };
    process.doors.sync = () => (strike() ? eio() : null);
    const expected = Buffer.alloc(2 << 20);
    const outcome = await code(storm(rig, id, expected));
    codes.set(outcome, (codes.get(outcome) ?? 0) + 1);
    await rig.restart();
    const again = await rig.open(id);
    const content = await again.read(0, expected.byteLength);
    // The write that was answered with an error may be there in part.
    if (outcome === 'done' && !content.equals(expected)) t.fail(`call ${at}: content`);
    await rig.end();
    if (calls < at) break;
    struck += 1;
  }
  t.ok(struck > 15, `${struck} failures: ${JSON.stringify([...codes])}`);
});

t.test(
  'B-33 volumes with different geometry in one process do not disturb each other',
  async (t) => {
    const rig = await rigFor(t);
    const shapes = [
      { sizeBytes: 1 << 20, blockBytes: 512, journalBytes: 16 << 20 },
      { sizeBytes: 8 << 20, blockBytes: 4096, journalBytes: 64 << 20 },
      { sizeBytes: 2 ** 44, blockBytes: 4096, journalBytes: 16 << 20 },
    ] as const;
    const disks: { disk: Disk; expected: Buffer; id: VolumeId }[] = [];
    for (const [i, shape] of shapes.entries()) {
      const id = await rig.create(`/v${i}`, shape);
      const open = i === 1 ? { mapCacheBytes: 1 } : {};
      disks.push({ id, disk: await rig.open(id, open), expected: Buffer.alloc(1 << 20) });
    }
    for (let round = 0; round < 300; round += 1) {
      const each = disks[round % 3];
      if (each === undefined) continue;
      const unit = round % 3 === 0 ? 512 : 4096;
      const at = rig.random.below((1 << 20) / unit - 16) * unit;
      const bytes = bytesFrom(rig.random, unit * (1 + rig.random.below(15)));
      await each.disk.write(at, bytes);
      bytes.copy(each.expected, at);
      if (round % 40 === 0) await each.disk.volume.publishAll();
    }
    for (const { disk, expected } of disks) t.ok((await disk.read(0, 1 << 20)).equals(expected));
    await rig.restart();
    for (const { id, expected } of disks) {
      const disk = await rig.open(id);
      t.ok((await disk.read(0, 1 << 20)).equals(expected));
      await disk.close();
    }
  },
);

t.test('B-42 every accepted geometry works, every other is refused', async (t) => {
  const rig = await rigFor(t);
  for (const [sizeBytes, blockBytes] of [
    [1 << 20, 4096],
    [1 << 20, 512],
    [(1 << 20) + 512, 512],
    [(1 << 20) + 4096, 4096],
    [2 ** 44, 512],
  ] as const) {
    const id = await rig.create(`/g${sizeBytes}-${blockBytes}`, {
      sizeBytes,
      blockBytes,
      journalBytes: 1,
    });
    let disk = await rig.open(id);
    const bytes = bytesFrom(rig.random, blockBytes);
    await disk.write(sizeBytes - blockBytes, bytes);
    await disk.close();
    disk = await rig.open(id);
    t.ok(
      (await disk.read(sizeBytes - blockBytes, blockBytes)).equals(bytes),
      `${sizeBytes}/${blockBytes}`,
    );
    await disk.close();
  }
  for (const [sizeBytes, blockBytes] of [
    [0, 4096],
    [-4096, 4096],
    [4096, 4096],
    [(1 << 20) + 512, 4096],
    [2 ** 44 + 4096, 4096],
    [2 ** 60, 4096],
    [1.5 * 2 ** 20 + 0.5, 512],
  ] as const)
    await t.rejects(rig.create('/bad', { sizeBytes, blockBytes }), { code: 'INVALID_SIZE' });
  await t.rejects(rig.create('/bad', { blockBytes: 8192 as 4096 }), { code: 'INVALID_ARGUMENT' });
  t.equal((await requireHead(rig.context, await rig.create('/good'))).value.blockBytes, 4096);
});
