/** The open table: crash safety of its file (N3) and how crashes are charged (N4). */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import {
  asVolumeId,
  type Clock,
  type FileSystem,
  limits,
  nodeFileSystem,
  silentLogger,
} from '../../src/base/index.ts';
import { isFaultSignal, readCrash, recordCrashSync } from '../../src/blockd/crash-record.ts';
import { OpenTable, type OpenTableOptions } from '../../src/blockd/open-table.ts';

const one = asVolumeId('11111111-1111-4111-8111-111111111111');
const two = asVolumeId('22222222-2222-4222-8222-222222222222');
const attachment = { volume: one, path: '/a', attachId: 'x', vm: 'v', epoch: '1' };

interface World extends OpenTableOptions {
  nowMs: number;
}

function world(t: Test, files: FileSystem = nodeFileSystem): World {
  const directory = t.testdir();
  const made = {
    files,
    path: join(directory, 'open.json'),
    crashPath: join(directory, 'crash.json'),
    logger: silentLogger,
    nowMs: 1_000_000_000,
    clock: {} as Clock,
  };
  made.clock = { wallMs: () => made.nowMs, monotonicMs: () => made.nowMs };
  return made;
}

/** Counts the steps of a file system and dies before the one with the number `failAt`. */
function dying(failAt: number): { files: FileSystem; steps: string[] } {
  const steps: string[] = [];
  const step = (name: string): void => {
    if (steps.length === failAt) throw new Error(`died before ${name}`);
    steps.push(name);
  };
  const base = nodeFileSystem;
  const files: FileSystem = {
    ...base,
    openSync(path, mode) {
      if (mode === 'create') step('create');
      const file = base.openSync(path, mode);
      return {
        path: file.path,
        writevSync: (buffers, position) => file.writevSync(buffers, position),
        async writev(buffers, position) {
          step('write');
          return file.writev(buffers, position);
        },
        readSync: (target, position) => file.readSync(target, position),
        read: (target, position, done) => file.read(target, position, done),
        dataSync(done) {
          step('fdatasync');
          file.dataSync(done);
        },
        sizeSync: () => file.sizeSync(),
        closeSync: () => file.closeSync(),
      };
    },
    async remove(path) {
      step('remove');
      await base.remove(path);
    },
    async rename(source, target) {
      step('rename');
      await base.rename(source, target);
    },
    async syncDirectory(path) {
      step('fsync directory');
      await base.syncDirectory(path);
    },
  };
  return { files, steps };
}

t.test('N3 what was attached is attached after a restart, until it is detached', async (t) => {
  const options = world(t);
  const table = await OpenTable.load(options);
  t.strictSame(table.attached, []);
  await table.attach(attachment);
  await Promise.all([
    table.attach({ ...attachment, volume: two, attachId: 'y' }),
    table.attach({ ...attachment, epoch: '2' }),
  ]);
  const again = await OpenTable.load(options);
  t.strictSame(again.find(one), { ...attachment, epoch: '2' });
  t.match(again.find(two), { attachId: 'y' });
  await again.detach(one);
  t.strictSame(
    (await OpenTable.load(options)).attached.map(({ volume }) => volume),
    [two],
  );
});

t.test(
  'N3 the file is replaced whole, synced before it is renamed, the name synced after',
  async (t) => {
    const { files, steps } = dying(-1);
    const options = world(t, files);
    const table = await OpenTable.load(options);
    steps.length = 0;
    await table.attach(attachment);
    t.strictSame(steps, ['create', 'write', 'fdatasync', 'rename', 'fsync directory']);
  },
);

t.test('N3 a crash at any step leaves the old table or the new one', async (t) => {
  for (let failAt = 0; failAt < 5; failAt += 1) {
    const options = world(t);
    const before = await OpenTable.load(options);
    await before.attach(attachment);
    const { files } = dying(failAt + 5);
    // The first five steps write the table at its load.
    const table = await OpenTable.load({ ...options, files });
    await t.rejects(table.attach({ ...attachment, volume: two }), /died before/);
    t.equal(table.find(two), undefined, 'a failed attach is not in memory');
    const after = (await OpenTable.load(options)).attached.map(({ volume }) => volume);
    t.ok(after.length === 1 || after.length === 2, `died at step ${failAt}: ${after.join()}`);
    t.equal(after[0], one);
    t.equal(existsSync(`${options.path}.damaged`), false);
    const retried = await OpenTable.load(options);
    await retried.attach({ ...attachment, volume: two });
    t.equal(
      (await OpenTable.load(options)).attached.length,
      2,
      'the left temp file is no obstacle',
    );
  }
});

t.test('N7 a damaged table is set aside, one of a newer format is refused', async (t) => {
  const options = world(t);
  await (await OpenTable.load(options)).attach(attachment);
  const text = readFileSync(options.path, 'utf8');
  writeFileSync(options.path, text.slice(0, 40));
  t.strictSame((await OpenTable.load(options)).attached, []);
  t.equal(readFileSync(`${options.path}.damaged`, 'utf8'), text.slice(0, 40));
  writeFileSync(options.path, text.replace('"format": 1', '"format": 2'));
  await t.rejects(OpenTable.load(options), { code: 'FORMAT_TOO_NEW' });
  t.match(readFileSync(options.path, 'utf8'), '"format": 2', 'and left alone');
});

t.test('N4 three crashes while a volume opens make it read-only, not the others', async (t) => {
  const options = world(t);
  for (let crash = 1; crash <= limits.crashLoopCount; crash += 1) {
    const table = await OpenTable.load(options);
    t.equal(table.crashLoop(one), null);
    t.equal(table.openOneByOne, crash > 1);
    // The first start opens both at once; after that one by one, and `one` is the culprit.
    if (crash === 1) await Promise.all([table.opening(one), table.opening(two)]);
    else await table.opening(one);
    recordCrashSync(options.crashPath, { reason: `bad ${crash}`, atMs: 0, volume: null });
    options.nowMs += 1000;
  }
  const table = await OpenTable.load(options);
  t.match(table.crashLoop(one), {
    reason: /crashed 3 times with it, last: bad 3/,
    hopeless: false,
  });
  t.equal(table.crashLoop(two), null);
  t.equal(existsSync(options.crashPath), false, 'a crash is charged once');
  await table.opening(one);
  recordCrashSync(options.crashPath, { reason: 'again', atMs: 0, volume: null });
  t.match((await OpenTable.load(options)).crashLoop(one), { hopeless: true });
  options.nowMs += limits.crashLoopWindowMs;
  t.equal((await OpenTable.load(options)).crashLoop(one), null, 'and forgotten after the window');
});

t.test(
  'N4 a crash outside of an open is charged to the one volume of the worker; a kill to nobody',
  async (t) => {
    const options = world(t);
    const table = await OpenTable.load(options);
    await table.opening(one);
    await table.opened(one);
    recordCrashSync(options.crashPath, { reason: 'bad', atMs: 0, volume: two });
    t.equal((await OpenTable.load(options)).openOneByOne, true);
    // Killed from outside in the middle of an open: no crash record.
    const fresh = { ...world(t), path: `${options.path}2`, crashPath: `${options.path}3` };
    for (let kill = 0; kill < 5; kill += 1) await (await OpenTable.load(fresh)).opening(one);
    t.equal((await OpenTable.load(fresh)).crashLoop(one), null);
    t.strictSame(['SIGKILL', 'SIGTERM', 'SIGSEGV', 'SIGABRT', null].map(isFaultSignal), [
      false,
      false,
      true,
      true,
      false,
    ]);
    writeFileSync(options.crashPath, '{"rea');
    t.match(
      readCrash(nodeFileSystem, options.crashPath),
      { reason: 'unknown' },
      'half a record is a crash',
    );
  },
);
