/** What volumes say that they take is what the store holds, whatever was done to them. */
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { asVolumeId } from '../../src/base/index.ts';
import {
  cloneVolume,
  closedVolumeSpace,
  deleteSnapshot,
  deleteVolume,
  findSnapshot,
  getVolume,
  listVolumes,
  readRanges,
  reap,
  reclaimLog,
  rollbackVolume,
  type VolumeSpace,
} from '../../src/hlfs/index.ts';
import { bytesFrom, type Disk, Rig } from '../support/engine-rig.ts';

t.setTimeout(300_000);
const mebibyte = 1 << 20;
const sizeBytes = 8 * mebibyte;
const unused = (): undefined => undefined;

/** Bytes of all segments, as the file system has them. */
function segmentBytes(rig: Rig): number {
  const store = join(rig.directory, 'store');
  return readdirSync(store, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.parentPath.includes('/seg/'))
    .reduce((sum, entry) => sum + statSync(join(entry.parentPath, entry.name)).size, 0);
}

/** The sums that hold for one volume; its `stored`. */
function judge(space: VolumeSpace | null, what: string): number {
  if (space === null) throw new Error(`${what} is not there`);
  const { uniqueBytes, sharedBytes, borrowedBytes, pinnedBytes, garbageBytes, storedBytes } = space;
  const sum = uniqueBytes + (sharedBytes - borrowedBytes) + pinnedBytes + garbageBytes;
  if (sum !== storedBytes) throw new Error(`${what}: ${sum} in classes, ${storedBytes} stored`);
  const negative = Object.entries(space).filter(([, bytes]) => bytes < 0);
  if (negative.length > 0) throw new Error(`${what}: ${negative.join(' ')}`);
  return storedBytes;
}

t.test('the sum over all volumes is what the segments take, open and closed', async (t) => {
  const rig = await Rig.make({ seed: 11 });
  t.teardown(() => rig.end());
  const { random } = rig;
  const open = new Map<string, Disk>();
  const opened = async (path: string): Promise<Disk> => {
    const present = open.get(path);
    if (present !== undefined) return present;
    const disk = await rig.open((await getVolume(rig.context, path)).id);
    open.set(path, disk);
    return disk;
  };
  const close = async (path: string): Promise<void> => {
    await open.get(path)?.close();
    open.delete(path);
  };
  const pick = async (): Promise<string> => {
    const all = await listVolumes(rig.context);
    return all[random.below(all.length)]?.path ?? '/v';
  };
  const snapshotOf = new Map<string, string>();
  let made = 0;
  await rig.create('/v', { sizeBytes });
  const acts: Record<string, () => Promise<void>> = {
    async write() {
      const disk = await opened(await pick());
      const length = (1 + random.below(256)) * 4096;
      await disk.write(random.below((sizeBytes - length) / 4096) * 4096, bytesFrom(random, length));
    },
    async trim() {
      const disk = await opened(await pick());
      await disk.trim(random.below(1024) * 4096, 1024 * 4096);
    },
    async publish() {
      await (await opened(await pick())).volume.publishAll();
    },
    async clean() {
      for (const disk of open.values()) await disk.volume.publishAll();
      rig.process.timers.fire(2000);
      await rig.process.quiet();
    },
    async snapshot() {
      const path = await pick();
      made += 1;
      await (await opened(path)).snapshot(`s${made}`);
      snapshotOf.set(path, `s${made}`);
    },
    async dropSnapshot() {
      const path = await pick();
      const name = snapshotOf.get(path);
      if (name === undefined) return;
      await deleteSnapshot(rig.context, (await getVolume(rig.context, path)).id, name).catch(
        unused,
      );
      snapshotOf.delete(path);
    },
    async clone() {
      const path = await pick();
      const name = snapshotOf.get(path);
      if (name === undefined || made > 60) return;
      const record = await getVolume(rig.context, path);
      const { value } = await findSnapshot(rig.context, record.id, name);
      made += 1;
      const options = { journalBytes: 16 * mebibyte };
      await cloneVolume(rig.context, record, value, `/c${made}`, options, readRanges);
    },
    async rollback() {
      const path = await pick();
      const name = snapshotOf.get(path);
      if (name === undefined) return;
      await close(path);
      await rollbackVolume(
        rig.context,
        await getVolume(rig.context, path),
        name,
        readRanges,
        unused,
      );
    },
    async remove() {
      const all = await listVolumes(rig.context);
      const path = await pick();
      if (all.length < 3) return;
      await close(path);
      await deleteVolume(rig.context, path, unused).catch(unused);
      snapshotOf.delete(path);
    },
  };
  const names = [...Object.keys(acts), 'write', 'write', 'write', 'write'];
  const seen = { borrowed: 0, lent: 0, pinned: 0, garbage: 0 };
  const judgeAll = async (what: string): Promise<void> => {
    for (const disk of open.values()) await disk.volume.publishAll();
    await rig.process.quiet();
    await reap(rig.context, reclaimLog);
    let sum = 0;
    for (const { path, id } of await listVolumes(rig.context)) {
      const space =
        (await open.get(path)?.volume.space()) ?? (await closedVolumeSpace(rig.context, id));
      sum += judge(space, `${what}: ${path}`);
      if (space === null) continue;
      seen.borrowed += space.borrowedBytes;
      seen.lent += space.sharedBytes - space.borrowedBytes;
      seen.pinned += space.pinnedBytes;
      seen.garbage += space.garbageBytes;
    }
    // Deleted ones of which clones still need segments.
    const named = new Set((await listVolumes(rig.context)).map(({ id }) => id));
    for (const id of (await rig.context.documents.names('volumes')).map(asVolumeId))
      if (!named.has(id)) sum += judge(await closedVolumeSpace(rig.context, id), `${what}: ${id}`);
    if (sum !== segmentBytes(rig))
      t.fail(`${what}: ${sum} bytes are told, the store has ${segmentBytes(rig)}`);
  };
  for (let round = 0; round < 8; round += 1) {
    for (let i = 0; i < 12; i += 1) await acts[names[random.below(names.length)] ?? 'write']?.();
    await judgeAll(`round ${round}`);
    if (round % 3 === 2) {
      await rig.restart();
      open.clear();
      await judgeAll(`round ${round}, after a kill`);
    }
  }
  t.ok(
    Object.values(seen).every((bytes) => bytes > 0),
    `every class was seen: ${JSON.stringify(seen)}`,
  );
  for (const path of [...open.keys()]) await close(path);
  for (const { path } of await listVolumes(rig.context))
    await deleteVolume(rig.context, path, unused);
  await reap(rig.context, reclaimLog);
  t.equal(segmentBytes(rig), 0, 'deleting everything leaves nothing');
});

t.test('the classes of a clone, its parent, and of a volume that was rolled back', async (t) => {
  const rig = await Rig.make();
  t.teardown(() => rig.end());
  const id = await rig.create('/v', { sizeBytes });
  const disk = await rig.open(id);
  await disk.write(0, bytesFrom(rig.random, 4 * mebibyte));
  await disk.snapshot('s');
  await disk.write(0, bytesFrom(rig.random, mebibyte));
  await disk.volume.publishAll();
  const alone = await disk.volume.space();
  const near = (bytes: number, wanted: number): boolean => Math.abs(bytes - wanted) < 64 * 1024;
  t.equal(alone.mappedBytes, 4 * mebibyte);
  t.equal(alone.sharedBytes, 0);
  t.ok(near(alone.uniqueBytes, 4 * mebibyte), `unique ${alone.uniqueBytes}`);
  t.ok(near(alone.pinnedBytes, mebibyte), `pinned ${alone.pinnedBytes}`);
  const { value } = await findSnapshot(rig.context, id, 's');
  const source = await getVolume(rig.context, '/v');
  const options = { journalBytes: 16 * mebibyte };
  const made = await cloneVolume(rig.context, source, value, '/c', options, readRanges);
  const clone = await rig.open(made.id);
  await clone.write(0, bytesFrom(rig.random, 2 * mebibyte));
  await clone.volume.publishAll();
  const mine = await clone.volume.space();
  t.equal(mine.borrowedBytes, 2 * mebibyte, 'what it did not overwrite');
  t.equal(mine.sharedBytes, mine.borrowedBytes);
  t.ok(near(mine.uniqueBytes, 2 * mebibyte), `unique ${mine.uniqueBytes}`);
  const parent = await disk.volume.space();
  t.ok(near(parent.sharedBytes, 3 * mebibyte), `shared ${parent.sharedBytes}`);
  t.ok(near(parent.uniqueBytes, mebibyte), `unique ${parent.uniqueBytes}`);
  await disk.close();
  await rollbackVolume(rig.context, source, 's', readRanges, unused);
  const back = (await closedVolumeSpace(rig.context, id)) as VolumeSpace;
  t.equal(back.mappedBytes, 4 * mebibyte);
  t.equal(back.borrowedBytes, 0, 'its own earlier log is not another volume');
  judge(back, 'after the rollback');
});
