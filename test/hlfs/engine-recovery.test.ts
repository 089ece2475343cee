/** Opening again, whatever happened: kills, copies, cut and damaged files, late publishes, takeovers of recovery itself. */
// limit: 120 s
import {
  cpSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import {
  DvceError,
  limits,
  type OpenFile,
  type Random,
  seededRandom,
  type VolumeId,
} from '../../src/base/index.ts';
import {
  checkVolume,
  getVolume,
  growHead,
  renameVolume,
  requireHead,
  segmentKey,
  shrinkHead,
} from '../../src/hlfs/index.ts';
import {
  align,
  chainStart,
  decodeRecordHeader,
  journalFileHeaderBytes,
} from '../../src/hlfs/journal-format.ts';
import { type JournalFile, readFileHeader, walkJournal } from '../../src/hlfs/journal-walk.ts';
import { segmentFlags } from '../../src/hlfs/segment-format.ts';
import { listSegments, readHeader } from '../../src/hlfs/segments.ts';
import { bytesFrom, type Disk, Rig } from '../support/engine-rig.ts';

t.setTimeout(300_000);
const unused = (): undefined => undefined;

async function rigFor(t: Test): Promise<Rig> {
  const rig = await Rig.make();
  t.teardown(() => rig.end());
  return rig;
}

type Ending = 'nothing' | 'flush' | 'publish' | 'kill' | 'close';

/** Do that to the volume. @returns it, open */
async function end(rig: Rig, disk: Disk, how: Ending): Promise<Disk> {
  if (how === 'nothing') return disk;
  if (how === 'flush') await disk.flush();
  else if (how === 'publish') await disk.volume.publishAll();
  else if (how === 'close') await disk.close();
  else await rig.restart();
  return how === 'kill' || how === 'close' ? rig.open(disk.volume.id) : disk;
}

/** Every file below a directory. */
const filesBelow = (directory: string): string[] =>
  readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));

const segmentPath = async (rig: Rig, id: VolumeId, number: number): Promise<string> => {
  const { value } = await requireHead(rig.context, id);
  return `${rig.directory}/store/${segmentKey(value.log, number)}`;
};

const segmentsOf = async (rig: Rig, id: VolumeId): Promise<number[]> => {
  const { value } = await requireHead(rig.context, id);
  return listSegments(rig.store, value.log);
};

t.test(
  'B-01 the newest state is found without time stamps, also in a copy of the store',
  async (t) => {
    for (const stamp of ['equal', 'reversed', 'random'] as const) {
      const rig = await rigFor(t);
      const id = await rig.create('/v');
      const disk = await rig.open(id);
      const expected = Buffer.alloc(64 * 4096);
      for (let round = 0; round < 10; round += 1) {
        for (let i = 0; i < 20; i += 1) {
          const block = rig.random.below(64);
          const bytes = bytesFrom(rig.random, 4096);
          bytes.copy(expected, block * 4096);
          await disk.write(block * 4096, bytes);
        }
        await disk.volume.publishAll();
      }
      await rig.process.kill();
      const all = filesBelow(`${rig.directory}/store`).sort();
      all.forEach((path, i) => {
        const seconds = { equal: 1e9, reversed: 1e9 - i, random: 1e9 + rig.random.below(1e6) }[
          stamp
        ];
        utimesSync(path, seconds, seconds);
      });
      const other = await rig.copy();
      t.teardown(() => other.end());
      const again = await other.open(id);
      t.ok((await again.read(0, expected.byteLength)).equals(expected), stamp);
    }
  },
);

t.test('B-04 the last write of a fresh volume is there after kill and after close', async (t) => {
  const sizeBytes = (1 << 20) + 4096;
  for (const how of ['flush and kill', 'kill', 'close'] as const) {
    const rig = await rigFor(t);
    const id = await rig.create('/v', { sizeBytes });
    const disk = await rig.open(id);
    const bytes = bytesFrom(rig.random, 4096);
    await disk.write(sizeBytes - 4096, bytes);
    if (how === 'flush and kill') await disk.flush();
    if (how === 'close') await disk.close();
    await rig.restart();
    const again = await rig.open(id);
    t.ok((await again.read(sizeBytes - 4096, 4096)).equals(bytes), how);
  }
});

t.test(
  'B-05 B-06 odd lengths at odd places, two in one block, with every end between them',
  async (t) => {
    const sizeBytes = (1 << 20) + 512;
    const rig = await rigFor(t);
    const id = await rig.create('/v', { sizeBytes, blockBytes: 512 });
    let disk = await rig.open(id);
    const expected = Buffer.alloc(sizeBytes);
    const between = ['nothing', 'flush', 'publish', 'kill', 'close'] as const;
    let turn = 0;
    for (const length of [1, 511, 512, 513, 4095])
      for (const offset of [0, 1, 511, 40_000, sizeBytes - length]) {
        const bytes = bytesFrom(rig.random, length);
        await disk.write(offset, bytes);
        bytes.copy(expected, offset);
        const how = between[turn++ % between.length] ?? 'nothing';
        disk = await end(rig, disk, how);
        if (!(await disk.read(0, sizeBytes)).equals(expected))
          t.fail(`${length} bytes at ${offset}, then ${how}`);
      }
    await rig.restart();
    disk = await rig.open(id);
    t.ok((await disk.read(0, sizeBytes)).equals(expected), 'after all of them');
  },
);

// ---- the journal ----------------------------------------------------------------------------------------------------

/** A journal file in memory. */
const memoryFile = (bytes: Buffer): OpenFile => ({
  path: 'memory',
  writevSync: () => 0,
  writev: async () => 0,
  readSync: (target, position) =>
    position >= bytes.length ? 0 : bytes.copy(target, 0, position, position + target.byteLength),
  read: () => {},
  dataSync: () => {},
  sizeSync: () => bytes.length,
  closeSync: () => {},
});

interface JournalPicture {
  readonly path: string;
  readonly bytes: Buffer;
  /** Start of each record, and the end of the last. */
  readonly starts: readonly number[];
}

function picture(directory: string): JournalPicture {
  for (const name of readdirSync(directory).sort()) {
    if (!name.startsWith('slot-')) continue;
    const path = `${directory}/${name}`;
    const bytes = readFileSync(path);
    const header = readFileHeader(memoryFile(bytes));
    if (header === undefined) continue;
    const starts = [journalFileHeaderBytes];
    let chain = chainStart(header.salt);
    for (;;) {
      const at = starts.at(-1) ?? 0;
      const record = decodeRecordHeader(bytes.subarray(at), chain);
      if (record === undefined) return { path, bytes, starts };
      chain = record.checksum;
      starts.push(at + record.headerBytes + align(record.payloadBytes));
    }
  }
  throw new Error('no journal file is in use');
}

/** Ten small writes, the first seven flushed, then a kill. */
async function journalOfTen(
  rig: Rig,
): Promise<{ id: VolumeId; writes: { offset: number; bytes: Buffer }[] }> {
  const id = await rig.create('/v', { journalBytes: 16 << 20, blockBytes: 512 });
  const disk = await rig.open(id);
  const writes: { offset: number; bytes: Buffer }[] = [];
  for (let i = 0; i < 10; i += 1) {
    const write = { offset: i * 5000, bytes: bytesFrom(rig.random, 60 + i * 7) };
    writes.push(write);
    await disk.write(write.offset, write.bytes);
    if (i === 6) await disk.flush();
  }
  await rig.process.kill();
  return { id, writes };
}

t.test(
  'B-02 J3 J7 a journal cut anywhere or with any byte flipped holds every flushed write or is refused',
  async (t) => {
    const rig = await rigFor(t);
    const { id } = await journalOfTen(rig);
    const { bytes, starts } = picture(rig.journalOf(id));
    const flushed = 7;
    t.equal(starts.length, 11, 'ten records');
    const end = starts.at(-1) ?? 0;
    const walk = (changed: Buffer): { lastSeq: number; damage: string | null } => {
      const file = memoryFile(changed);
      const header = readFileHeader(file);
      const files: JournalFile[] =
        header === undefined ? [] : [{ slot: 0, file, header, isRepaired: header.isRepaired }];
      return walkJournal(files, 0);
    };
    t.match(walk(bytes), { lastSeq: 10, damage: null }, 'untouched');
    const outcomes = { refused: 0, shorter: 0, whole: 0 };
    const judge = (changed: Buffer, what: string): void => {
      const { lastSeq, damage } = walk(changed);
      if (damage !== null) outcomes.refused += 1;
      else if (lastSeq === 10) outcomes.whole += 1;
      else outcomes.shorter += 1;
      // A record behind the last flush may be lost in a power failure; one before it never silently.
      if (damage === null && lastSeq < flushed)
        t.fail(`${what}: ends at ${lastSeq} without a word`);
    };
    const copy = Buffer.from(bytes.subarray(0, end + 4096));
    for (let at = starts[5] ?? 0; at < end; at += 1) {
      // Flushed records that are zeroed cannot be told from a disk that lies; what follows them can.
      if (at >= (starts[flushed] ?? 0)) {
        const cut = Buffer.from(copy).fill(0, at);
        judge(cut, `cut at ${at}`);
      }
      const was = copy[at] ?? 0;
      for (const mask of [1 << (at % 8), 0xff]) {
        copy[at] = was ^ mask;
        // A whole byte of the last flushed record: nothing after it says that it was flushed, unless a later record does.
        judge(copy, `byte ${at} ^ ${mask}`);
        copy[at] = was;
      }
    }
    t.ok(outcomes.refused > 100 && outcomes.shorter > 50, JSON.stringify(outcomes));
  },
);

t.test(
  'B-02 the same on a whole volume: a prefix with every flushed write, or JOURNAL_DAMAGED',
  async (t) => {
    const rig = await rigFor(t);
    const { id, writes } = await journalOfTen(rig);
    const { path, bytes, starts } = picture(rig.journalOf(id));
    const name = path.slice(path.lastIndexOf('/') + 1);
    const variants: [string, (changed: Buffer) => void, number][] = [];
    for (const record of [7, 8, 9]) {
      const at = starts[record] ?? 0;
      variants.push([`cut before record ${record + 1}`, (b) => b.fill(0, at), record]);
      variants.push([`cut inside of record ${record + 1}`, (b) => b.fill(0, at + 70), record]);
      variants.push([
        `four bytes of record ${record + 1}`,
        (b) => b.fill(0xa5, at + 84, at + 88),
        record,
      ]);
    }
    variants.push([
      'a bit of a flushed record',
      (b) => {
        b[(starts[3] ?? 0) + 90]! ^= 4;
      },
      -1,
    ]);
    variants.push([
      'bytes of a flushed record',
      (b) => b.fill(0x5a, (starts[3] ?? 0) + 84, (starts[3] ?? 0) + 90),
      -1,
    ]);
    for (const [what, change, least] of variants) {
      const other = await rig.copy();
      const changed = Buffer.from(bytes);
      change(changed);
      writeFileSync(`${other.journalOf(id)}/${name}`, changed);
      try {
        const disk = await other.open(id);
        t.not(least, -1, `${what}: opened`);
        for (const [i, write] of writes.entries()) {
          const is = await disk.read(write.offset, write.bytes.byteLength);
          const expected = i < least ? write.bytes : Buffer.alloc(write.bytes.byteLength);
          t.ok(is.equals(expected), `${what}: write ${i + 1}`);
        }
      } catch (error) {
        t.match(error, { code: 'JOURNAL_DAMAGED' }, what);
        // The operator's word goes past it, and what was given up is told.
        if (least !== -1) t.fail(`${what} was refused`);
        const disk = await other.open(id, { acceptLoss: true });
        t.ok(
          (await disk.read(0, 60)).equals(writes[0]?.bytes ?? Buffer.alloc(0)),
          `${what}: what is before it`,
        );
      } finally {
        await other.end();
      }
    }
  },
);

t.test(
  'J2 R1 the incarnation rises with every open, and no record number is given twice',
  async (t) => {
    const rig = await rigFor(t);
    const id = await rig.create('/v');
    const incarnations: number[] = [];
    let highest = 0;
    for (let round = 0; round < 5; round += 1) {
      const disk = await rig.open(id);
      const [line = ''] = readFileSync(`${rig.journalOf(id)}/state`, 'utf8').split('\n');
      incarnations.push(JSON.parse(line).incarnation);
      await disk.write(0, bytesFrom(rig.random, 4096));
      await disk.flush();
      const first = firstSeqOf(rig.journalOf(id), incarnations.at(-1) ?? 0);
      t.ok(first > highest, `incarnation ${round + 1} starts at record ${first}`);
      highest = first;
      if (round === 2) await disk.close();
      await rig.restart();
    }
    t.same(
      incarnations,
      [...new Set(incarnations)].sort((a, b) => a - b),
    );
  },
);

/** First record number of an incarnation, by the headers of the journal's files. */
function firstSeqOf(directory: string, incarnation: number): number {
  const firsts = readdirSync(directory)
    .filter((name) => name.startsWith('slot-'))
    .map((name) => readFileHeader(memoryFile(readFileSync(`${directory}/${name}`))))
    .filter((header) => header?.incarnation === incarnation)
    .map((header) => header?.firstSeq ?? 0);
  return Math.min(...firsts);
}

t.test('R1 the incarnation is durable before the store is changed', async (t) => {
  const rig = await rigFor(t);
  const id = await rig.create('/v');
  await (await rig.open(id)).write(0, Buffer.alloc(4096, 1));
  await rig.restart();
  const state = `${rig.journalOf(id)}/state`;
  const before = JSON.parse(readFileSync(state, 'utf8').split('\n')[0] ?? '').incarnation;
  let seen = 0;
  rig.process.doors.store = (call) => {
    if (!['put', 'sweepScope', 'probeScope', 'createScope'].includes(call) || seen !== 0) return;
    seen = JSON.parse(readFileSync(state, 'utf8').split('\n')[0] ?? '').incarnation;
  };
  await rig.open(id);
  t.equal(seen, before + 1);
});

t.test(
  'J4 R4 R5 R6 nothing of an earlier incarnation is written over before its tail is in the store',
  async (t) => {
    const rig = await rigFor(t);
    const id = await rig.create('/v');
    const first = await rig.open(id);
    const old = bytesFrom(rig.random, 8192);
    await first.write(4096, old);
    await first.flush();
    await rig.restart();
    const { path, bytes } = picture(rig.journalOf(id));
    rig.process.doors.store = (call, key) => {
      if (call === 'put' && key.includes('/seg/'))
        throw new DvceError('STORE_UNAVAILABLE', { where: 'the store', reason: 'test' });
    };
    const disk = await rig.open(id);
    let isWritten = false;
    const writing = disk.write(0, Buffer.alloc(4096, 9)).then(() => {
      isWritten = true;
    });
    t.ok((await disk.read(4096, 8192)).equals(old), 'reads are served');
    await new Promise((resolve) => setTimeout(resolve, 300));
    t.notOk(isWritten, 'writes wait');
    t.ok(readFileSync(path).equals(bytes), 'the file is untouched');
    rig.process.doors.store = () => {};
    await writing;
    await rig.restart();
    const again = await rig.open(id);
    t.ok((await again.read(4096, 8192)).equals(old));
    t.equal((await again.read(0, 1))[0], 9);
  },
);

t.test('J7 an old copy of the journal is refused', async (t) => {
  const rig = await rigFor(t);
  const id = await rig.create('/v');
  const disk = await rig.open(id);
  await disk.write(0, Buffer.alloc(4096, 1));
  await disk.flush();
  cpSync(rig.journalOf(id), `${rig.directory}/old`, { recursive: true });
  await disk.write(0, Buffer.alloc(4096, 2));
  await disk.flush();
  await disk.volume.publishAll();
  await disk.write(8192, Buffer.alloc(4096, 3));
  await disk.flush();
  await rig.restart();
  await (await rig.open(id)).volume.publishAll();
  await rig.restart();
  cpSync(`${rig.directory}/old`, rig.journalOf(id), { recursive: true });
  await t.rejects(rig.open(id), { code: 'JOURNAL_DAMAGED' });
  const forced = await rig.open(id, { acceptLoss: true });
  t.equal((await forced.read(0, 1))[0], 2);
  t.equal((await forced.read(8192, 1))[0], 3);
});

t.test('G6 two shrinks after a kill keep the journal tail', async (t) => {
  const rig = await rigFor(t);
  const id = await rig.create('/v', { sizeBytes: 16 << 20 });
  const disk = await rig.open(id);
  const bytes = bytesFrom(rig.random, 5000);
  await disk.write(10_000, bytes);
  await disk.flush();
  await rig.restart();
  await shrinkHead(rig.context, { id, path: '/v' }, 12 << 20, unused);
  await shrinkHead(rig.context, { id, path: '/v' }, 8 << 20, unused);
  t.ok((await (await rig.open(id)).read(10_000, 5000)).equals(bytes));
});

t.test('G6 what a shrink cut off is zeros after growing, whenever the process dies', async (t) => {
  const rig = await rigFor(t);
  const id = await rig.create('/v', { sizeBytes: 8 << 20 });
  const disk = await rig.open(id);
  await disk.write(0, Buffer.alloc(8 << 20, 7));
  await disk.close();
  await shrinkHead(rig.context, { id, path: '/v' }, 3 << 20, unused);
  // Die at each publish of the open that clears the rest.
  for (let death = 1; death < 6; death += 1) {
    let puts = 0;
    const { process } = rig;
    process.doors.store = (call) => {
      if (call !== 'put') return;
      puts += 1;
      if (puts === death) process.isAlive = false;
    };
    const opening = rig.open(id).then(() => 'open');
    const late = new Promise((resolve) => setTimeout(resolve, 400, 'dead'));
    if ((await Promise.race([opening, late])) === 'open' && death === 1)
      t.fail('it opened without clearing');
    await rig.restart();
  }
  await growHead(rig.context, { id, path: '/v' }, 8 << 20);
  const again = await rig.open(id);
  t.ok((await again.read(0, 3 << 20)).equals(Buffer.alloc(3 << 20, 7)), 'what was kept');
  t.ok((await again.read(3 << 20, 5 << 20)).equals(Buffer.alloc(5 << 20)), 'what was cut off');
});

// ---- segments -------------------------------------------------------------------------------------------------------

t.test(
  'B-02 B-25 a segment that is cut or flipped anywhere is an error, never wrong data',
  async (t) => {
    const rig = await rigFor(t);
    const id = await rig.create('/v');
    const disk = await rig.open(id);
    const expected = Buffer.alloc(48 * 4096);
    for (let round = 0; round < 2; round += 1) {
      const bytes = bytesFrom(rig.random, expected.byteLength / 2);
      bytes.copy(expected, round * bytes.byteLength);
      await disk.write(round * bytes.byteLength, bytes);
      await disk.volume.publishAll();
    }
    await disk.write(0, expected.subarray(0, 4096));
    await disk.close();
    const numbers = await segmentsOf(rig, id);
    const random = seededRandom(3);
    const outcomes = { refused: 0, unreadable: 0, intact: 0 };
    for (const number of numbers) {
      const path = await segmentPath(rig, id, number);
      const whole = readFileSync(path);
      const places = [
        0,
        1,
        255,
        256,
        4095,
        4096,
        whole.length - 257,
        whole.length - 256,
        whole.length - 1,
      ];
      for (let i = 0; i < 3; i += 1) places.push(random.below(whole.length));
      for (const at of places)
        for (const how of ['cut', 'flip'] as const) {
          writeFileSync(path, damaged(whole, how, at, random));
          outcomes[await readBack(rig, id, expected, t, `segment ${number}, ${how} at ${at}`)] += 1;
        }
      writeFileSync(path, whole);
    }
    t.ok(outcomes.refused >= 10 && outcomes.unreadable >= 10, JSON.stringify(outcomes));
    t.equal(await readBack(rig, id, expected, t, 'put right'), 'intact');
  },
);

function damaged(whole: Buffer, how: 'cut' | 'flip', at: number, random: Random): Buffer {
  if (how === 'cut') return whole.subarray(0, at);
  const changed = Buffer.from(whole);
  changed[at] = (changed[at] ?? 0) ^ (1 << random.below(8));
  return changed;
}

/** Open a volume of which something is damaged and read it. Nothing is published by it. */
async function readBack(
  rig: Rig,
  id: VolumeId,
  expected: Buffer,
  t: Test,
  what: string,
): Promise<'refused' | 'unreadable' | 'intact'> {
  await rig.restart();
  let disk: Disk;
  try {
    disk = await rig.open(id);
  } catch (error) {
    t.match(error, { code: /SEGMENT_DAMAGED|SEGMENT_MISSING/ }, what);
    return 'refused';
  }
  let outcome: 'unreadable' | 'intact' = 'intact';
  for (let at = 0; at < expected.byteLength; at += 4096)
    try {
      if (!(await disk.read(at, 4096)).equals(expected.subarray(at, at + 4096)))
        t.fail(`${what}: wrong data at ${at}`);
    } catch (error) {
      t.match(error, { code: 'SEGMENT_DAMAGED' }, what);
      outcome = 'unreadable';
    }
  return outcome;
}

t.test('L2 L3 a damaged newest root costs nothing: the one before it is taken', async (t) => {
  const rig = await rigFor(t);
  const id = await rig.create('/v');
  const disk = await rig.open(id);
  const expected = Buffer.alloc(32 * 4096);
  for (let round = 0; round < 6; round += 1) {
    for (let i = 0; i < 8; i += 1) {
      const block = rig.random.below(32);
      const bytes = bytesFrom(rig.random, 4096);
      bytes.copy(expected, block * 4096);
      await disk.write(block * 4096, bytes);
    }
    await disk.volume.publishAll();
  }
  const last = bytesFrom(rig.random, 4096);
  last.copy(expected, 0);
  await disk.write(0, last);
  await disk.flush();
  await rig.process.kill();
  await rig.start();
  const { value } = await requireHead(rig.context, id);
  const roots: number[] = [];
  for (const number of await listSegments(rig.store, value.log)) {
    const header = await readHeader(rig.store, value.log, number);
    if (header !== undefined && (header.flags & segmentFlags.root) !== 0) roots.push(number);
  }
  t.ok(roots.length >= 2, `two roots are kept: ${roots.join(' ')}`);
  const damage = async (number: number): Promise<void> => {
    const path = await segmentPath(rig, id, number);
    const header = await readHeader(rig.store, value.log, number);
    const bytes = readFileSync(path);
    const at = (header?.rootOffset ?? 0) + 20;
    bytes[at] = (bytes[at] ?? 0) ^ 1;
    writeFileSync(path, bytes);
  };
  await damage(roots.at(-1) ?? 0);
  const one = await rig.copy();
  t.teardown(() => one.end());
  const again = await one.open(id);
  t.ok((await again.read(0, expected.byteLength)).equals(expected), 'the newest root damaged');
  await again.close();
  // With both gone nothing can be trusted: an error, never zeros.
  await damage(roots.at(-2) ?? 0);
  const two = await rig.copy();
  t.teardown(() => two.end());
  try {
    const opened = await two.open(id);
    const is = await opened.read(0, expected.byteLength);
    t.ok(is.equals(expected), 'both roots damaged, and it reads');
  } catch (error) {
    t.match(error, { code: 'SEGMENT_DAMAGED' }, 'both roots damaged');
  }
});

t.test('L2 segments beyond a gap are reported and never applied', async (t) => {
  const rig = await rigFor(t);
  const id = await rig.create('/v');
  const disk = await rig.open(id);
  for (let round = 1; round < 4; round += 1) {
    await disk.write(0, Buffer.alloc(4096, round));
    await disk.volume.publishAll();
  }
  await rig.process.kill();
  await rig.start();
  const { value } = await requireHead(rig.context, id);
  const numbers = await listSegments(rig.store, value.log);
  const lost = numbers.at(-2) ?? 0;
  renameSync(await segmentPath(rig, id, lost), `${rig.directory}/lost`);
  const newest = numbers.at(-1) ?? 0;
  const header = await readHeader(rig.store, value.log, newest);
  t.ok(header !== undefined && (header.flags & segmentFlags.root) !== 0, 'the last one is a root');
  // The root at the end needs the missing one: reading is an error, writing is refused, check says so.
  try {
    const again = await rig.open(id);
    await t.rejects(again.read(0, 4096), { code: /SEGMENT_MISSING|SEGMENT_DAMAGED/ });
  } catch (error) {
    t.match(error, { code: /SEGMENT_MISSING|SEGMENT_DAMAGED|CONFLICT|JOURNAL_DAMAGED/ });
  }
  const { findings } = await checkVolume(rig.context, id, {
    signal: new AbortController().signal,
    onProgress: () => {},
  });
  t.ok(
    findings.some(({ severity }) => severity === 'error'),
    JSON.stringify(findings.map(({ code }) => code)),
  );
});

t.test('S6 segments are chained, their nonces differ', async (t) => {
  const rig = await rigFor(t);
  const id = await rig.create('/v');
  const disk = await rig.open(id);
  for (let round = 0; round < 5; round += 1) {
    await disk.write(round * 4096, Buffer.alloc(4096, round + 1));
    rig.process.timers.fire(limits.batchAgeMs);
    await rig.process.quiet();
  }
  const { value } = await requireHead(rig.context, id);
  let previous = 0;
  const nonces = new Set<string>();
  let covered = 0;
  const numbers = await listSegments(rig.store, value.log);
  for (const number of numbers) {
    const header = await readHeader(rig.store, value.log, number);
    if (header === undefined) throw new Error('missing');
    // Those between were dead and are gone.
    if (numbers.includes(number - 1))
      t.equal(header.previous, previous, `segment ${number} continues the chain`);
    t.equal(header.number, number);
    t.equal(header.log, value.log);
    t.ok(header.lastSeq >= covered, 'records are covered in order');
    covered = header.lastSeq;
    previous = header.checksum;
    nonces.add(header.nonce);
  }
  t.ok(numbers.length >= 5);
  t.equal(nonces.size, numbers.length);
});

t.test(
  'S3 S4 an own late publish at the next number is adopted, a rival stops the writer',
  async (t) => {
    const rig = await rigFor(t);
    const id = await rig.create('/v');
    const first = await rig.open(id);
    const late: { key: string; body: Buffer }[] = [];
    rig.process.doors.put = (_scope, key, body) => {
      if (!key.includes('/seg/')) return undefined;
      late.push({ key, body: Buffer.concat(body.map((part) => Buffer.from(part))) });
      throw new DvceError('STORE_UNAVAILABLE', {
        where: 'the store',
        reason: 'the request is under way',
      });
    };
    const old = bytesFrom(rig.random, 20_000);
    await first.write(4096, old);
    await first.flush();
    first.volume.publishAll().catch(() => {});
    while (late.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    await rig.restart();
    // The request of the dead incarnation arrives between the recovery of the next one and its first publish.
    const [request] = late;
    if (request === undefined) throw new Error('nothing was published');
    let isArrived = false;
    rig.process.doors.store = async (call, key) => {
      if (call !== 'put' || !key.includes('/seg/') || isArrived) return;
      isArrived = true;
      const { scope } = (await requireHead(rig.context, id)).value;
      const put = await rig.store.putIfAbsent(scope ?? '', request.key, [request.body]);
      t.equal(put.outcome, 'created', 'the late request arrives');
    };
    const second = await rig.open(id);
    const more = bytesFrom(rig.random, 5000);
    await second.write(0, more);
    await second.volume.publishAll();
    t.ok(isArrived);
    old.copy(old, 0);
    const expected = Buffer.alloc(4096 + 20_000);
    old.copy(expected, 4096);
    more.copy(expected, 0);
    t.ok((await second.read(0, expected.byteLength)).equals(expected), 'adopted');
    // The same body again, as if a stranger had taken the next number: the chain does not fit.
    rig.process.doors.store = async (call, key) => {
      if (call !== 'put' || !key.includes('/seg/')) return;
      const { scope } = (await requireHead(rig.context, id)).value;
      await rig.store.putIfAbsent(scope ?? '', key, [request.body]);
    };
    await second.write(0, Buffer.alloc(4096, 5));
    await t.rejects(second.volume.publishAll(), { code: /FENCED|SEGMENT_DAMAGED/ }, 'a rival');
    await t.rejects(second.write(0, Buffer.alloc(4096, 6)), { code: /FENCED|SEGMENT_DAMAGED/ });
    t.ok((await second.read(4096, 5000)).equals(expected.subarray(4096, 9096)), 'reads go on');
  },
);

t.test('L4 recovery that is killed at every call can be begun again', async (t) => {
  const rig = await rigFor(t);
  const id = await rig.create('/v', { journalBytes: 16 << 20 });
  const disk = await rig.open(id);
  const expected = Buffer.alloc(64 * 4096);
  for (let round = 0; round < 4; round += 1) {
    const bytes = bytesFrom(rig.random, 30_000);
    bytes.copy(expected, round * 20_000);
    await disk.write(round * 20_000, bytes);
    if (round < 3) await disk.volume.publishAll();
  }
  await disk.flush();
  await rig.process.kill();
  let isOver = false;
  let deaths = 0;
  for (let at = 1; !isOver; at += 1) {
    const process = await rig.start();
    let calls = 0;
    const strike = (): void => {
      calls += 1;
      if (calls === at) process.isAlive = false;
    };
    process.doors.store = strike;
    process.doors.file = (call) => {
      if (!['read', 'stat', 'list', 'open'].includes(call)) strike();
      return undefined;
    };
    const opened = rig.open(id).then(async (again) => {
      await again.volume.publishAll();
      return again;
    });
    const dead = (async (): Promise<'dead'> => {
      while (process.isAlive && !isOver) await new Promise((resolve) => setImmediate(resolve));
      return 'dead';
    })();
    opened.catch(() => {});
    const outcome = await Promise.race([opened, dead]);
    if (outcome === 'dead') {
      deaths += 1;
      await process.kill();
      continue;
    }
    isOver = true;
    process.doors.store = () => {};
    process.doors.file = () => undefined;
    t.ok((await outcome.read(0, expected.byteLength)).equals(expected), `after ${deaths} deaths`);
  }
  t.ok(deaths > 20, `${deaths} deaths`);
});

t.test('B-29 a store that was moved and a volume that was renamed open', async (t) => {
  const rig = await Rig.make();
  const id = await rig.create('/here/a');
  const disk = await rig.open(id);
  const bytes = bytesFrom(rig.random, 9000);
  await disk.write(100, bytes);
  await disk.close();
  await renameVolume(rig.context, '/here/a', '/there/b');
  const other = await rig.copy();
  t.teardown(() => other.end());
  await rig.end();
  const record = await getVolume(other.context, '/there/b');
  t.equal(record.id, id);
  const again = await other.open(record.id);
  t.ok((await again.read(100, 9000)).equals(bytes));
});

t.test(
  'R3 R6 a head that names another writer stops the resume before anything is read',
  async (t) => {
    const rig = await rigFor(t);
    const id = await rig.create('/v');
    const disk = await rig.open(id);
    await disk.write(0, Buffer.alloc(4096, 1));
    await disk.close();
    await rig.process.kill();
    await rig.start(1);
    await t.rejects(rig.open(id), { code: 'IN_USE' }, 'another node asks first');
    t.equal(rig.process.counted('store', 'read') > 0, true, 'it read the head');
    const taken = await rig.open(id, { takeover: true, acceptLoss: true });
    await taken.close();
    await rig.process.kill();
    await rig.start(0);
    await t.rejects(rig.open(id), { code: /IN_USE|FENCED/ });
  },
);

t.test(
  'R2 S8 unfinished uploads of an earlier incarnation go away when the volume is opened',
  async (t) => {
    const rig = await rigFor(t);
    const id = await rig.create('/v');
    await (await rig.open(id)).write(0, Buffer.alloc(4096, 1));
    await rig.restart();
    const { scope } = (await requireHead(rig.context, id)).value;
    const temporary = `${rig.directory}/store/${scope}/0123456789abcdef-1.tmp`;
    writeFileSync(temporary, 'half');
    await rig.open(id);
    t.throws(() => statSync(temporary), { code: 'ENOENT' });
  },
);

t.test('a journal file that was truncated is noticed', async (t) => {
  const rig = await rigFor(t);
  const { id } = await journalOfTen(rig);
  await rig.start();
  truncateSync(picture(rig.journalOf(id)).path, limits.journalFileBytesMin / 2);
  await t.rejects(rig.open(id), { code: 'JOURNAL_DAMAGED' });
});
