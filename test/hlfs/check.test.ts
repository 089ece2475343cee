/**
 * `volume check` against real files that were damaged: each kind of damage is found under its code, with exactly the ranges of
 * exactly the contents that it concerns; a volume that is well has no findings, however busy it is; repair puts right what it
 * names and changes no byte of content.
 */
import { copyFileSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { DvceError, type LogId, limits, type VolumeId } from '../../src/base/index.ts';
import {
  type CheckOptions,
  type CheckResult,
  checkTable,
  checkVolume,
  cloneVolume,
  deleteSnapshot,
  type Finding,
  findSnapshot,
  getVolume,
  openDocuments,
  readRanges,
  requireHead,
  type SegmentStore,
} from '../../src/hlfs/index.ts';
import { newestRoot } from '../../src/hlfs/log-recovery.ts';
import { listSegments, readIndex, readRoot } from '../../src/hlfs/segments.ts';
import { bytesFrom, type Disk, Rig } from '../support/engine-rig.ts';
import { flip, rewriteTable, type SegmentFile, segmentFile } from '../support/segment-surgery.ts';

t.setTimeout(120_000);
const mebibyte = 2 ** 20;
const block = 4096;

const plain: CheckOptions = { signal: new AbortController().signal, onProgress: () => {} };

/** A volume of three writes, each in a segment of its own, with a snapshot behind the first and a clone of that. */
class Host {
  readonly rig: Rig;
  readonly id: VolumeId;
  readonly log: LogId;
  /** Numbers of the data segments, in the order of the writes. */
  readonly data: number[] = [];
  readonly found = new Set<string>();

  private constructor(rig: Rig, id: VolumeId, log: LogId) {
    this.rig = rig;
    this.id = id;
    this.log = log;
  }

  static async make(t: Test): Promise<Host> {
    const rig = await Rig.make();
    t.teardown(() => rig.end());
    const id = await rig.create('/v');
    const { log } = (await requireHead(rig.context, id)).value;
    const host = new Host(rig, id, log);
    const disk = await rig.open(id);
    await host.#put(disk, 0, 16);
    await disk.snapshot('one');
    await host.#put(disk, 4 * mebibyte, 8);
    await host.#put(disk, 2 * block, 1);
    await disk.close();
    const source = await getVolume(rig.context, '/v');
    const { value } = await findSnapshot(rig.context, id, 'one');
    await cloneVolume(rig.context, source, value, '/c', {}, readRanges);
    return host;
  }

  async #put(disk: Disk, offset: number, blocks: number): Promise<void> {
    const before = await this.numbers();
    await disk.write(offset, bytesFrom(this.rig.random, blocks * block));
    await disk.volume.publishAll();
    const [made] = (await this.numbers()).filter((number) => !before.includes(number));
    this.data.push(made ?? 0);
  }

  numbers(): Promise<number[]> {
    return listSegments(this.rig.store, this.log);
  }

  segment(number: number, log = this.log): SegmentFile {
    return segmentFile(`${this.rig.directory}/store`, log, number);
  }

  /** The segment of the n-th write. */
  dataSegment(write: number): SegmentFile {
    return this.segment(this.data[write] ?? 0);
  }

  async newest(): Promise<SegmentFile> {
    const root = await newestRoot(this.rig.store, this.log, await this.numbers());
    return this.segment(root?.header.number ?? 0);
  }

  /** Every finding that must be there, and that there is no other. */
  async check(options: Partial<CheckOptions> = {}): Promise<CheckResult> {
    // Another process: nothing of it is cached.
    await this.rig.restart();
    const pathOf = async (id: VolumeId): Promise<string> => (id === this.id ? '/v' : '/c');
    return checkVolume(this.rig.context, this.id, { ...plain, pathOf, ...options });
  }
}

const codes = ({ findings }: CheckResult): string[] => findings.map(({ code }) => code);
const only = (t: Test, result: CheckResult, code: keyof typeof checkTable): Finding => {
  t.same(codes(result), [code], JSON.stringify(result.findings));
  const [finding] = result.findings;
  if (finding === undefined) throw new Error('no finding');
  seen.add(code);
  t.equal(finding.severity, checkTable[code].severity);
  t.equal(finding.advice, checkTable[code].advice);
  return finding;
};
/** Codes that some test has seen alone. */
const seen = new Set<string>();

t.test('a volume that is well has no findings; progress rises to its end', async (t) => {
  const host = await Host.make(t);
  const done: number[] = [];
  const result = await host.check({ onProgress: (bytes) => done.push(bytes) });
  t.same(result.findings, []);
  t.equal(result.bytes, 25 * block, 'what the snapshot and the content share is read once');
  t.same(
    done,
    done.toSorted((a, b) => a - b),
  );
  t.equal(done.at(-1), result.bytes);
  const stop = new AbortController();
  await t.rejects(
    host.check({ signal: stop.signal, onProgress: () => stop.abort() }),
    { name: 'AbortError' },
    'it can be cancelled',
  );
});

t.test('a damaged block: its range, in every content that has it and in no other', async (t) => {
  const host = await Host.make(t);
  const segment = host.dataSegment(0);
  flip(segment, 4096 + 5 * block + 77, 4096 + 2 * block);
  const result = await host.check();
  const finding = only(t, result, 'CHECK_BAD_CHECKSUM');
  const at = (of: string, number: number) => ({ of, offset: number * block, length: block });
  // Block 2 was overwritten in the volume: only the past has the damaged one.
  t.same(finding.ranges, [
    at('current', 5),
    at('snapshot one', 2),
    at('snapshot one', 5),
    at('clone /c', 2),
    at('clone /c', 5),
  ]);
  t.same(finding.concerns, ['current', 'snapshot one', 'clone /c']);
  const disk = await host.rig.open(host.id);
  await t.rejects(disk.read(5 * block, block), { code: 'SEGMENT_DAMAGED' });
  t.ok(await disk.read(0, 5 * block), 'EIO for that range only');
  t.ok(await disk.read(6 * block, 10 * block));
  await disk.close();
});

t.test('a missing segment: exactly its ranges', async (t) => {
  const host = await Host.make(t);
  rmSync(host.dataSegment(1).path);
  const finding = only(t, await host.check(), 'CHECK_MISSING');
  t.match(finding.ranges, [{ of: 'current', offset: 4 * mebibyte, length: 8 * block }]);
  t.same(finding.concerns, ['current']);
  const other = await Host.make(t);
  rmSync(other.dataSegment(0).path);
  const { ranges } = only(t, await other.check(), 'CHECK_MISSING');
  const whole = { offset: 0, length: 16 * block };
  t.same(
    ranges.filter(({ of }) => of !== 'current'),
    [
      { of: 'snapshot one', ...whole },
      { of: 'clone /c', ...whole },
    ],
  );
  t.equal(
    ranges.reduce((sum, { of, length }) => sum + (of === 'current' ? length : 0), 0),
    15 * block,
    'without the block that was overwritten',
  );
});

t.test('a read that the disk refuses: that range only', async (t) => {
  const host = await Host.make(t);
  await host.rig.restart();
  const key = host.dataSegment(1).path.split('/store/')[1];
  const { store } = host.rig.context;
  const { read } = store;
  const refusing = {
    ...store,
    read: (...[name, offset, target, done]: Parameters<typeof read>) => {
      const end = offset + target.length;
      const isBad = name === key && offset < 4096 + 4 * block && end > 4096 + 3 * block;
      if (isBad) done(new DvceError('IO_FAILED', { what: 'a read', where: name, reason: 'EIO' }));
      else read(name, offset, target, done);
    },
  };
  const result = await checkVolume({ ...host.rig.context, store: refusing }, host.id, plain);
  const finding = only(t, result, 'CHECK_UNREADABLE');
  t.same(finding.ranges, [{ of: 'current', offset: 4 * mebibyte + 3 * block, length: block }]);
});

t.test('parts of segments that hold no content', async (t) => {
  for (const [what, code, places] of [
    ['the first header', 'CHECK_BAD_COPY', () => [60]],
    ['the second header', 'CHECK_BAD_COPY', ({ totalBytes }) => [totalBytes - 100]],
    ['both headers', 'CHECK_BAD_INDEX', ({ totalBytes }) => [60, totalBytes - 100]],
    ['the index', 'CHECK_BAD_INDEX', ({ indexOffset }) => [indexOffset + 9]],
    ['the table of chunks', 'CHECK_BAD_CHUNK', ({ chunkOffset }) => [chunkOffset + 1]],
  ] as const satisfies readonly [
    string,
    keyof typeof checkTable,
    (header: SegmentFile['header']) => readonly number[],
  ][]) {
    const host = await Host.make(t);
    const segment = host.dataSegment(1);
    flip(segment, ...places(segment.header));
    const finding = only(t, await host.check(), code);
    t.match(finding, { object: segment.path.split('/store/')[1], ranges: [] }, what);
  }
});

t.test('roots: one that is spare, one that a snapshot needs, a map page', async (t) => {
  const host = await Host.make(t);
  const newest = await host.newest();
  flip(newest, newest.header.rootOffset + 20);
  const spare = await host.check();
  t.ok(codes(spare).includes('CHECK_OLDER_ROOT'), JSON.stringify(spare.findings));
  t.ok(spare.findings.every(({ severity }) => severity === 'warning'));
  seen.add('CHECK_OLDER_ROOT');
  const disk = await host.rig.open(host.id);
  t.ok(await disk.read(0, mebibyte), 'older root and roll forward');
  await disk.close();

  const other = await Host.make(t);
  const { value } = await findSnapshot(other.rig.context, other.id, 'one');
  const root = other.segment(value.rootSegment);
  flip(root, root.header.rootOffset + 20);
  const needed = await other.check();
  const bad = needed.findings.find(({ code }) => code === 'CHECK_BAD_ROOT');
  t.same(bad?.concerns, ['snapshot one']);
  seen.add('CHECK_BAD_ROOT');

  const third = await Host.make(t);
  const { value: one } = await findSnapshot(third.rig.context, third.id, 'one');
  const { facts } = await readRoot(third.rig.store, third.log, one.rootSegment);
  const { header, path } = third.segment(facts.top?.[0] ?? 0);
  const runs = await readIndex(third.rig.store, header);
  const pageRun = runs.find(({ kind }) => kind === 'pages');
  if (pageRun?.kind !== 'pages') throw new Error('no pages');
  flip({ path }, pageRun.offset + pageRun.keys.indexOf(0) * block + 10);
  const pages = await third.check();
  const found = pages.findings.find(({ code }) => code === 'CHECK_BAD_CHECKSUM');
  t.same(found?.ranges, [
    { of: 'snapshot one', offset: 0, length: mebibyte },
    { of: 'clone /c', offset: 0, length: mebibyte },
  ]);
  t.notOk(found?.concerns.includes('current'), 'the current map has pages of its own');
});

t.test('the log: gap, foreign segment, what no table knows, wrong counts', async (t) => {
  const host = await Host.make(t);
  const disk = await host.rig.open(host.id);
  for (let round = 0; round < 4; round += 1) {
    await disk.write(round * mebibyte, bytesFrom(host.rig.random, block));
    disk.process.timers.fire(limits.batchAgeMs);
    await disk.process.quiet(40);
  }
  await host.rig.process.kill();
  const newest = await host.newest();
  const tail = (await host.numbers()).filter((number) => number > newest.header.number);
  t.ok(tail.length >= 3, `${tail.length} segments behind the root`);
  const second = host.segment(tail[1] ?? 0);
  const copy = `${host.rig.directory}/copy`;
  copyFileSync(second.path, copy);
  rmSync(second.path);
  t.match(only(t, await host.check(), 'CHECK_GAP'), { object: second.path.split('/store/')[1] });
  copyFileSync(host.segment(tail[0] ?? 0).path, second.path);
  const foreign = await host.check();
  t.ok(codes(foreign).includes('CHECK_BROKEN_CHAIN'), JSON.stringify(foreign.findings));
  seen.add('CHECK_BROKEN_CHAIN');
  copyFileSync(copy, second.path);
  flip(second, 4096 + 100);
  const torn = await host.check();
  t.match(torn.findings.find(({ code }) => code === 'CHECK_BAD_CHECKSUM')?.ranges, [
    { of: 'current', offset: mebibyte, length: block },
  ]);
  copyFileSync(copy, second.path);
  t.same((await host.check()).findings, []);

  const counts = await Host.make(t);
  const before = await counts.newest();
  rewriteTable(before, (table) => {
    const row = table.get(counts.data[1] ?? 0);
    if (row === undefined) throw new Error('no row');
    row.live -= 3;
  });
  const wrong = only(t, await counts.check(), 'CHECK_WRONG_COUNT');
  t.match(wrong, { detail: /5 units are noted, 8 are live/, repair: 'possible' });
  t.equal(only(t, await counts.check({ repair: true }), 'CHECK_WRONG_COUNT').repair, 'done');
  t.same((await counts.check()).findings, [], 'a new root says what is true');
  const opened = await counts.rig.open(counts.id);
  t.ok(await opened.read(4 * mebibyte, 8 * block));
  await opened.close();

  const known = await Host.make(t);
  rewriteTable(await known.newest(), (table) => void table.delete(known.data[1] ?? 0));
  t.match(only(t, await known.check(), 'CHECK_UNREACHABLE'), {
    object: known.dataSegment(1).path.split('/store/')[1],
  });
});

t.test('a count is not repaired while anything is damaged', async (t) => {
  const host = await Host.make(t);
  rewriteTable(await host.newest(), (table) => {
    const row = table.get(host.data[1] ?? 0);
    if (row !== undefined) row.live += 1;
  });
  flip(host.dataSegment(0), 4096);
  const result = await host.check({ repair: true });
  const wrong = result.findings.find(({ code }) => code === 'CHECK_WRONG_COUNT');
  t.equal(wrong?.repair, 'none');
});

t.test('what writers leave behind: found, named, and taken away only when asked', async (t) => {
  const host = await Host.make(t);
  const { store } = host.rig;
  const head = (await requireHead(host.rig.context, host.id)).value;
  const left = `logs/${host.log}/w/${head.epoch}-${'ab'.repeat(16)}`;
  await store.createScope(left);
  only(t, await host.check(), 'CHECK_LEAKED_SCOPE');
  await store.fence(left);
  t.same((await host.check()).findings, [], 'one that was taken away is no finding');
  const upload = `${host.rig.directory}/store/${left}.fenced/00-1.tmp`;
  writeFileSync(upload, Buffer.alloc(1000));
  t.equal(only(t, await host.check(), 'CHECK_LEAKED_UPLOAD').repair, 'possible');
  t.same(readdirSync(`${host.rig.directory}/store/${left}.fenced`), ['00-1.tmp'], 'a check looks');
  t.equal(only(t, await host.check({ repair: true }), 'CHECK_LEAKED_UPLOAD').repair, 'done');
  t.same((await host.check()).findings, []);
});

t.test('documents: pins, names, snapshots', async (t) => {
  const host = await Host.make(t);
  const clone = await getVolume(host.rig.context, '/c');
  const directory = `${host.rig.directory}/store`;
  const pin = `${directory}/logs/${host.log}/pins/${clone.head.log}`;
  const [name] = readdirSync(pin);
  copyFileSync(`${pin}/${name}`, `${host.rig.directory}/pin`);
  rmSync(pin, { recursive: true });
  await host.rig.restart();
  const asClone = async (repair: boolean): Promise<CheckResult> => {
    await host.rig.restart();
    return checkVolume(host.rig.context, clone.id, { ...plain, repair });
  };
  t.equal(only(t, await asClone(false), 'CHECK_MISSING_PIN').repair, 'possible');
  t.equal(only(t, await asClone(true), 'CHECK_MISSING_PIN').repair, 'done');
  t.same((await asClone(false)).findings, []);
  t.ok(readdirSync(pin).length > 0);

  const log = `${directory}/logs/${clone.head.log}`;
  const away = `${host.rig.directory}/away`;
  mkdirSync(away);
  const { renameSync } = await import('node:fs');
  renameSync(log, `${away}/log`);
  only(t, await host.check(), 'CHECK_LEAKED_PIN');
  renameSync(`${away}/log`, log);

  const entry = `${directory}/names/${clone.head.parent}/v@`;
  renameSync(entry, `${away}/v`);
  t.match(only(t, await host.check(), 'CHECK_DISAGREES'), { object: /^names\// });
  renameSync(`${away}/v`, entry);

  const snapshot = `${directory}/logs/${host.log}/snap/one@`;
  const [version] = readdirSync(snapshot);
  copyFileSync(`${snapshot}/${version}`, `${away}/snapshot`);
  writeFileSync(`${snapshot}/${version}`, 'nothing');
  only(t, await host.check(), 'CHECK_BAD_DOCUMENT');
});

t.test(
  'G2 L3 a busy volume that is written, published, cleaned and loses snapshots has no findings',
  async (t) => {
    const rig = await Rig.make();
    t.teardown(() => rig.end());
    const id = await rig.create('/v', { sizeBytes: 16 * mebibyte });
    const disk = await rig.open(id, { mapCacheBytes: mebibyte });
    const stop = { now: false };
    let rounds = 0;
    const busy = (async (): Promise<void> => {
      while (!stop.now) {
        rounds += 1;
        const at = rig.random.below(12) * mebibyte;
        await disk.write(at + rig.random.below(200) * block, bytesFrom(rig.random, mebibyte));
        if (rounds % 4 === 1) await disk.snapshot(`s${rounds}`);
        else await disk.volume.publishAll();
        if (rounds % 4 === 0)
          await deleteSnapshot(rig.context, id, `s${rounds - 3}`, async () => {});
        disk.process.timers.fire(limits.reclaimDelayMs);
      }
    })();
    // A check that takes long: between its reads the volume goes on by several roots.
    const passed = { reads: 0, missed: 0, round: 0 };
    const slow: SegmentStore = {
      ...rig.context.store,
      read: (key, offset, target, done) => {
        passed.reads += 1;
        if (passed.reads % 40 === 0) passed.round = rounds + 4;
        const go = (): void => {
          if (rounds < passed.round && !stop.now) {
            setTimeout(go, 1);
            return;
          }
          rig.store.read(key, offset, target, (error) => {
            if (error?.code === 'SEGMENT_MISSING') passed.missed += 1;
            done(error);
          });
        };
        go();
      },
    };
    const context = { ...rig.context, store: slow, documents: openDocuments(slow) };
    for (let check = 0; check < 4; check += 1) {
      const result = await checkVolume(context, id, plain);
      t.same(result.findings, [], `check ${check} in round ${rounds}`);
    }
    stop.now = true;
    await busy;
    t.ok(passed.missed > 0, `${passed.missed} reads of segments that had gone rightly`);
    await disk.close();
  },
);

t.test('every code of the table was seen', async (t) => {
  // Roots that come too fast are not made here.
  const elsewhere = ['CHECK_UNSETTLED'];
  const missing = Object.keys(checkTable).filter(
    (code) => !seen.has(code) && !elsewhere.includes(code),
  );
  t.same(missing, []);
});
