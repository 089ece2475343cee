/** DD-0013: every flush of the window can be had back, exactly as it was, whatever happens in between. */
// limit: 120 s
import t, { type Test } from 'tap';
import { limits, seededRandom, type VolumeId } from '../../src/base/index.ts';
import {
  checkVolume,
  clonePoint,
  deleteSnapshot,
  getVolume,
  growHead,
  openPoints,
  openSnapshot,
  type PointChoice,
  readRanges,
  reap,
  reclaimLog,
  requireHead,
  rollbackVolume,
  segmentKey,
  shrinkHead,
  snapshotPoint,
  updateVolume,
} from '../../src/hlfs/index.ts';
import { listSegments } from '../../src/hlfs/segments.ts';
import { openMemoryStore } from '../../src/stores/index.ts';
import { type Disk, Reader, Rig, type RigOptions } from '../support/engine-rig.ts';
import { ModelDevice } from './model.ts';

t.setTimeout(300_000);
const mebibyte = 1 << 20;
const hour = 3_600_000;
const quiet = { signal: new AbortController().signal, onProgress: () => {} };
const unused = (): undefined => undefined;

async function rigFor(test: Test, options: RigOptions = {}): Promise<Rig> {
  const rig = await Rig.make(options);
  test.teardown(() => rig.end());
  return rig;
}

/** All points of a volume, oldest first. */
async function pointsOf(rig: Rig, id: VolumeId): Promise<{ seq: number; wallMs: number }[]> {
  const { log } = (await requireHead(rig.context, id)).value;
  const points = await openPoints(rig.context, log);
  if (points === undefined) return [];
  const all: { seq: number; wallMs: number }[] = [];
  let before = Number.POSITIVE_INFINITY;
  for (let more = true; more; ) {
    const page = await points.list({ before, limit: 7 }, quiet.signal);
    all.push(...page.points);
    more = page.more;
    before = all.at(-1)?.seq ?? 0;
  }
  return all.reverse();
}

async function open(rig: Rig, path: string, choice: PointChoice): Promise<Reader> {
  const record = await getVolume(rig.context, path);
  const { snapshot } = await snapshotPoint(rig.context, record, choice, {});
  return new Reader(await openSnapshot(rig.context, snapshot, 4096));
}

async function drop(rig: Rig, path: string, seq: number): Promise<void> {
  const { id } = await getVolume(rig.context, path);
  await deleteSnapshot(rig.context, id, `at-flush-${seq}`);
}

/** A volume that numbers its flushes in its first bytes, and the model of each. */
class Story {
  readonly path = '/v';
  readonly rig: Rig;
  readonly id: VolumeId;
  readonly flushed = new Map<number, ModelDevice>();
  /** Sent and perhaps not acknowledged. */
  readonly tried = new Map<number, ModelDevice>();
  disk: Disk;
  model: ModelDevice;
  #count = 0;
  #random: ReturnType<typeof seededRandom>;

  private constructor(rig: Rig, id: VolumeId, disk: Disk, seed: number) {
    this.rig = rig;
    this.id = id;
    this.disk = disk;
    this.model = new ModelDevice(disk.sizeBytes);
    this.#random = seededRandom(seed);
  }

  static async begin(rig: Rig, seed: number): Promise<Story> {
    const sizeBytes = 12 * mebibyte;
    const id = await rig.create('/v', { sizeBytes, journalBytes: 16 * mebibyte, retainMs: hour });
    return new Story(rig, id, await rig.open(id), seed);
  }

  below(bound: number): number {
    return this.#random.bytes(4).readUInt32LE(0) % bound;
  }

  async write(): Promise<void> {
    const isAligned = this.below(2) === 0;
    const unit = isAligned ? 4096 : 1;
    const lengths = isAligned ? [4096, 8192, 65_536, 4096] : [1, 700, 5000, 4096];
    const length = lengths[this.below(4)] ?? 1;
    const room = Math.floor((this.model.sizeBytes - length - 4096) / unit);
    // Few places, so that blocks are written again and again.
    const at = 4096 + (this.below(3) === 0 ? this.below(room) : this.below(16)) * unit;
    const bytes = Buffer.alloc(length, this.below(255) + 1);
    this.model.write(at, bytes);
    await this.disk.write(at, bytes);
  }

  async clear(): Promise<void> {
    const length = this.below(2) === 0 ? 3 * mebibyte + 5000 : 20_000;
    const at = 4096 + this.below(this.model.sizeBytes - length - 4096);
    if (this.below(2) === 0) {
      this.model.trim(at, length);
      await this.disk.trim(at, length);
    } else {
      this.model.zero(at, length);
      await this.disk.zero(at, length, this.below(2) === 0);
    }
  }

  /** Stamp and flush; or one write that is a flush itself. */
  async flush(): Promise<void> {
    this.#count += 1;
    const stamp = Buffer.alloc(8);
    stamp.writeUInt32LE(this.#count, 0);
    this.model.write(0, stamp);
    this.tried.set(this.#count, this.model.copy());
    const fua = this.below(4) === 0;
    await this.disk.write(0, stamp, { fua, origin: { alive: true } });
    if (!fua) await this.disk.flush();
    this.flushed.set(this.#count, this.model.copy());
  }

  async kill(): Promise<void> {
    if (this.below(2) === 0) {
      // The flush may or may not be there afterwards; what the volume holds then tells.
      const before = this.model.copy();
      this.flush().catch(() => {});
      for (let turns = this.below(6); turns > 0; turns -= 1)
        await new Promise<void>((resolve) => setImmediate(resolve));
      await this.rig.restart();
      this.disk = await this.rig.open(this.id);
      const count = (await this.disk.read(0, 8)).readUInt32LE(0);
      this.model = count === this.#count ? (this.tried.get(count)?.copy() ?? before) : before;
    } else {
      await this.rig.restart();
      this.disk = await this.rig.open(this.id);
    }
  }

  async step(): Promise<void> {
    const { rig } = this;
    const kind = this.below(40);
    if (kind < 20) await this.write();
    else if (kind < 22) await this.clear();
    else if (kind < 31) await this.flush();
    else if (kind < 33) await this.disk.volume.publishAll();
    else if (kind < 34) rig.process.timers.fire(limits.batchAgeMs);
    else if (kind < 35) await this.reclaim();
    else if (kind < 37) await this.kill();
    else if (kind < 38) {
      await this.disk.close();
      if (this.below(2) === 0) await this.resize();
      this.disk = await rig.open(this.id);
    } else await this.disk.snapshot(`s${this.#count}-${this.below(1_000_000)}`);
  }

  async resize(): Promise<void> {
    const record = await getVolume(this.rig.context, this.path);
    const sizeBytes = (10 + this.below(6)) * mebibyte;
    if (sizeBytes >= this.model.sizeBytes) await growHead(this.rig.context, record, sizeBytes);
    else await shrinkHead(this.rig.context, record, sizeBytes, unused);
    this.model.resize(sizeBytes);
  }

  async reclaim(): Promise<void> {
    await this.rig.process.quiet();
    this.rig.process.timers.fire(limits.reclaimDelayMs);
    await this.rig.process.quiet();
  }

  /** Open points and compare them. @returns the numbers of the flushes that the log still has */
  async compare(t: Test, every: number): Promise<Set<number>> {
    await this.disk.volume.publishNew();
    const points = await pointsOf(this.rig, this.id);
    const seen = new Set<number>();
    for (const [i, { seq }] of points.entries()) {
      if (every > 1 && i % every !== 0 && i !== points.length - 1) continue;
      const reader = await open(this.rig, this.path, { flush: seq });
      const count = (await reader.read(0, 8)).readUInt32LE(0);
      const model = this.flushed.get(count) ?? this.tried.get(count);
      seen.add(count);
      if (model === undefined) continue; // the flush of an open or close, before the first of the story
      if (reader.sizeBytes !== model.sizeBytes)
        t.fail(`point ${seq}, flush ${count}: ${reader.sizeBytes} bytes, not ${model.sizeBytes}`);
      const bytes = await reader.read(0, Math.min(reader.sizeBytes, model.sizeBytes));
      if (!bytes.equals(model.read(0, bytes.byteLength))) {
        let at = 0;
        const expected = model.read(0, bytes.byteLength);
        while (bytes[at] === expected[at]) at += 1;
        t.fail(
          `point ${seq} is not flush ${count}: byte ${at} is ${bytes[at]}, not ${expected[at]}`,
        );
      }
      await drop(this.rig, this.path, seq);
    }
    await reap(this.rig.context, reclaimLog);
    return seen;
  }
}

// More with PROPERTY_RUNS=8.
for (let seed = 1; seed <= Number(process.env['PROPERTY_RUNS'] ?? 2); seed += 1)
  t.test(`every flush is a point, through kills and closes: seed ${seed}`, async (t) => {
    const rig = await rigFor(t, { seed, store: openMemoryStore() });
    const story = await Story.begin(rig, seed);
    for (let step = 0; step < 160; step += 1) {
      await story.step();
      if (step % 60 === 59) await story.compare(t, 9);
    }
    const seen = await story.compare(t, 1);
    const lost = [...story.flushed.keys()].filter((count) => !seen.has(count));
    t.same(lost, [], `${story.flushed.size} flushes were acknowledged, ${seen.size} opened`);
    const found = await checkVolume(rig.context, story.id, quiet);
    t.same(found.findings, [], 'volume check finds nothing');
    const live = await story.disk.read(0, story.model.sizeBytes);
    t.ok(live.equals(story.model.read(0, live.byteLength)), 'the volume itself is as it should be');
    await story.disk.close();
  });

/** Time as the test says it is. */
class SetClock {
  wall = 1_750_000_000_000;
  monotonic = 1000;
  wallMs(): number {
    return this.wall;
  }
  monotonicMs(): number {
    return this.monotonic;
  }
  pass(ms: number): void {
    this.wall += ms;
    this.monotonic += ms;
  }
}

/** Roots, deletion and cleaning, until nothing moves any more. */
async function settle(rig: Rig, disk: Disk): Promise<void> {
  for (let round = 0; round < 3; round += 1) {
    await disk.volume.publishAll();
    rig.process.timers.fire(limits.reclaimDelayMs);
    await rig.process.quiet();
  }
}

async function storedBytes(rig: Rig, id: VolumeId): Promise<number> {
  const { log } = (await requireHead(rig.context, id)).value;
  let sum = 0;
  for (const number of await listSegments(rig.store, log))
    sum += (await rig.store.stat(segmentKey(log, number)))?.lengthBytes ?? 0;
  return sum;
}

async function stamp(disk: Disk, count: number): Promise<void> {
  const bytes = Buffer.alloc(mebibyte, count);
  bytes.writeUInt32LE(count, 0);
  await disk.write(0, bytes);
  await disk.flush();
}

const countAt = async (reader: Reader): Promise<number> =>
  (await reader.read(0, 4)).readUInt32LE(0);

t.test(
  'the window moves with time that passed, frees what it left, and no clock moves it',
  async (t) => {
    const clock = new SetClock();
    const rig = await rigFor(t, { clock, store: openMemoryStore() });
    const id = await rig.create('/v', { retainMs: hour });
    const disk = await rig.open(id);
    const times: number[] = [];
    const step = hour / 10;
    const expectWindow = async (what: string): Promise<void> => {
      const oldest = (await pointsOf(rig, id))[0];
      if (oldest === undefined) return void t.fail(`${what}: no point at all`);
      const reader = await open(rig, '/v', { flush: oldest.seq });
      const first = await countAt(reader);
      await drop(rig, '/v', oldest.seq);
      await reap(rig.context, reclaimLog);
      const needed = times.findLastIndex((at) => at <= clock.monotonic - hour);
      t.ok(first <= Math.max(0, needed), `${what}: ${first} is there, ${needed} is needed`);
      t.ok(first >= needed - 2, `${what}: ${first} is not kept longer than its time`);
    };
    for (let count = 0; count < 30; count += 1) {
      await stamp(disk, count);
      times.push(clock.monotonic);
      await settle(rig, disk);
      if (count % 7 === 6) await expectWindow(`after ${count}`);
      clock.pass(step);
    }
    const full = await storedBytes(rig, id);
    t.ok(full < 17 * mebibyte, `${full} bytes for an hour of 10 MiB`);
    const before = await pointsOf(rig, id);
    for (const jump of [10 * 365 * 24 * hour, -20 * 365 * 24 * hour]) {
      clock.wall += jump;
      await stamp(disk, times.length);
      times.push(clock.monotonic);
      await settle(rig, disk);
      const now = await pointsOf(rig, id);
      const early = before.filter(({ seq }) => !now.some((point) => point.seq === seq)).length;
      t.ok(early <= 2, `the clock was set by ${jump} ms: ${early} points are gone`);
      await expectWindow(`after the jump by ${jump}`);
    }
    await disk.close();
    clock.pass(100 * hour);
    const again = await rig.open(id);
    await settle(rig, again);
    t.ok((await pointsOf(rig, id)).length >= 9, 'a volume that is closed does not age');
    clock.pass(2 * hour);
    rig.process.timers.fire(hour);
    for (const due of [hour, hour - 1]) rig.process.timers.fire(due);
    await settle(rig, again);
    const left = await storedBytes(rig, id);
    t.ok(left < 3 * mebibyte, `${left} bytes are left when the window is over`);
    t.equal((await pointsOf(rig, id)).length, 1, 'the last state is the only point');
    t.equal(await countAt(await open(rig, '/v', { timeMs: clock.wall })), times.length - 1);
    await again.close();
  },
);

t.test(
  'by time, before a flush, as a clone, rolled back to, and what is said when it is gone',
  async (t) => {
    const clock = new SetClock();
    const rig = await rigFor(t, { clock, store: openMemoryStore() });
    const id = await rig.create('/v', { retainMs: hour });
    const disk = await rig.open(id);
    const start = clock.wall;
    for (let count = 1; count <= 6; count += 1) {
      await stamp(disk, count);
      if (count === 3) await disk.volume.publishAll();
      clock.pass(1000);
      // Unflushed: in no point.
      await disk.write(0, Buffer.from([99, 0, 0, 0]));
    }
    // Set back: of two points at or before a time the later flush counts.
    clock.wall = start + 1500;
    await stamp(disk, 7);
    await disk.volume.publishNew();
    const points = await pointsOf(rig, id);
    t.equal(points.length, 7);
    const seqs = points.map(({ seq }) => seq);
    const record = await getVolume(rig.context, '/v');
    const at = async (choice: PointChoice): Promise<number> => {
      const { snapshot, point } = await snapshotPoint(rig.context, record, choice, {});
      const count = await countAt(new Reader(await openSnapshot(rig.context, snapshot, 4096)));
      t.equal(seqs.indexOf(point.seq), count - 1, 'it says which point it is');
      return count;
    };
    t.equal(await at({ timeMs: start }), 1, 'exactly at the time');
    t.equal(await at({ timeMs: start + 1499 }), 2);
    t.equal(await at({ timeMs: start + 3500 }), 7, 'the newest flush, not the latest time');
    t.equal(await at({ beforeFlush: seqs[3] ?? 0 }), 3);
    t.equal(await at({ beforeFlush: (seqs[3] ?? 0) + 1 }), 4);
    t.equal(await at({ flush: seqs[4] ?? 0 }), 5);
    t.equal(await at({ flush: seqs[4] ?? 0 }), 5, 'again: the same snapshot');
    for (const choice of [{ timeMs: start - 1 }, { beforeFlush: seqs[0] ?? 0 }, { flush: 1 << 30 }])
      await t.rejects(snapshotPoint(rig.context, record, choice, {}), {
        code: 'POINT_NOT_KEPT',
        message: new RegExp(`flush ${seqs[0]} of .* the newest flush ${seqs[6]} of`),
      });

    const clone = { journalBytes: 32 * mebibyte };
    const { record: made } = await clonePoint(
      rig.context,
      record,
      { flush: seqs[1] ?? 0 },
      '/c',
      clone,
    );
    const copy = await rig.open(made.id);
    t.equal(await countAt(copy), 2);
    await stamp(copy, 50);
    t.equal((await copy.read(mebibyte - 1, 1))[0], 50, 'a clone is written like any volume');
    await copy.close();
    t.equal(await countAt(await rig.open(made.id)), 50);
    t.same((await checkVolume(rig.context, made.id, quiet)).findings, []);

    await disk.close();
    await rollbackVolume(rig.context, record, `at-flush-${seqs[4]}`, readRanges, unused);
    await reap(rig.context, reclaimLog);
    const back = await rig.open(id);
    t.equal(await countAt(back), 5, 'rolled back to a point');
    await stamp(back, 60);
    await back.volume.publishNew();
    await t.rejects(snapshotPoint(rig.context, record, { timeMs: start - 1 }, {}), {
      code: 'POINT_NOT_KEPT',
    });
    t.equal((await pointsOf(rig, id)).length, 1, 'points begin anew with the log');
    t.same((await checkVolume(rig.context, id, quiet)).findings, []);
    await back.close();
  },
);

t.test('turned on and off while the volume is open', async (t) => {
  const clock = new SetClock();
  const rig = await rigFor(t, { clock, store: openMemoryStore() });
  const id = await rig.create('/v');
  const disk = await rig.open(id);
  for (let count = 1; count <= 4; count += 1) await stamp(disk, count);
  t.same(await pointsOf(rig, id), [], 'none is kept');
  await updateVolume(rig.context, '/v', { retainMs: hour });
  disk.volume.retain(hour);
  for (let count = 5; count <= 12; count += 1) await stamp(disk, count);
  await settle(rig, disk);
  const points = await pointsOf(rig, id);
  t.equal(points.length, 8, 'every flush from then on');
  for (const [i, { seq }] of points.entries())
    t.equal(await countAt(await open(rig, '/v', { flush: seq })), 5 + i);
  const held = disk.volume.statistics().points?.heldBytes ?? 0;
  t.ok(held > 7 * mebibyte, `${held} bytes are held by points`);
  t.ok((await requireHead(rig.context, id)).value.features.roCompat.includes('points'));
  for (const { seq } of points) await drop(rig, '/v', seq);
  await reap(rig.context, reclaimLog);
  await updateVolume(rig.context, '/v', { retainMs: null });
  disk.volume.retain(null);
  await settle(rig, disk);
  const left = await storedBytes(rig, id);
  t.ok(left < 2 * mebibyte, `${left} bytes are left`);
  t.same(await pointsOf(rig, id), []);
  t.equal(await countAt(disk), 12);
  await disk.close();
});

t.test('J5 a journal file that fails between two flushes: both are points', async (t) => {
  const rig = await rigFor(t, { store: openMemoryStore() });
  const id = await rig.create('/v', { retainMs: hour });
  const disk = await rig.open(id);
  await stamp(disk, 1);
  const part = Buffer.from('part of a block');
  let failures = 1;
  rig.process.doors.sync = () => {
    failures -= 1;
    return failures === 0 ? new Error('EIO') : null;
  };
  await disk.write(8192, Buffer.alloc(4096, 2));
  await disk.write(8200, part);
  await disk.trim(1 << 21, 3 << 20);
  await stamp(disk, 2);
  await disk.write(2 << 20, Buffer.alloc(4096, 3));
  await stamp(disk, 3);
  t.ok(failures <= 0, 'the sync failed');
  await disk.volume.publishNew();
  const points = await pointsOf(rig, id);
  t.equal(points.length, 3);
  const second = await open(rig, '/v', { flush: points[1]?.seq ?? 0 });
  t.equal(await countAt(second), 2);
  t.ok((await second.read(8200, part.length)).equals(Buffer.alloc(part.length, 2)), 'stamped over');
  t.equal((await second.read(2 << 20, 1))[0], 0);
  const third = await open(rig, '/v', { flush: points[2]?.seq ?? 0 });
  t.equal((await third.read(2 << 20, 1))[0], 3, 'what came after a long trim is there');
  await disk.close();
});
