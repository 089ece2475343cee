// limit: 240 s
/**
 * Volumes as an operator uses them day by day, through the real program: deleted and had back, limited, exported, mapped, and
 * snapshots taken at times. blockd and the agent are killed in the middle.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, globSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { exitCodes } from '../../src/base/index.ts';
import type { VolumeSpace } from '../../src/hlfs/index.ts';
import { until } from '../support/blockd-process.ts';
import { type Dvce, freshDvce } from '../support/dvce.ts';
import { RawNbd } from '../support/nbd-raw.ts';
import { blockBytes, readStamp, stamp } from '../support/stamped-load.ts';

interface Named {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
}

async function fails(t: Test, dvce: Dvce, line: string, code: number, text: RegExp) {
  const outcome = await dvce.cli(line);
  t.equal(outcome.code, code, `${line}: ${outcome.stderr}`);
  t.match(outcome.stderr, text, line);
}

const snapshotsOf = async (dvce: Dvce, path: string): Promise<string[]> =>
  (await dvce.json<Named[]>(`snapshot list ${path}`)).map(({ name }) => name);

function kill(dvce: Dvce, lock: 'agent.lock' | 'lock'): void {
  const pid = dvce.holder(lock);
  if (pid === undefined) throw new Error(`nobody holds ${lock}`);
  process.kill(pid, 'SIGKILL');
}

async function killBlockd(dvce: Dvce): Promise<void> {
  kill(dvce, 'lock');
  await until('blockd to be back', async () => (await dvce.cli('volume list')).code === 0);
}

/** `2026-11-21T02:00:00.000Z` as it stands in the name of a snapshot. */
const inName = (time: Date): string => time.toISOString().replace(/[-:]|\.\d+/g, '');

/** A schedule that comes due while no agent runs. @returns when */
async function missOne(dvce: Dvce): Promise<Date> {
  // On a busy host the agent may still be there when it is due; then it was not missed, and there is more time next time.
  for (let aheadMs = 3000; ; aheadMs *= 2) {
    const due = new Date(Date.now() + aheadMs);
    const calendar = `*-*-* ${due.toISOString().slice(11, 19)} UTC`;
    const words = ['schedule', 'create', 'missed', '--volumes', '/prod/a', '--keep', '3'];
    const { code, stderr } = await dvce.run([...words, '--every', calendar]);
    if (code !== 0) throw new Error(stderr);
    kill(dvce, 'agent.lock');
    await until('the end of the agent', () => dvce.holder('agent.lock') === undefined);
    const wasThere = Date.now() >= Math.floor(due.getTime() / 1000) * 1000;
    await until('the due time to be over', () => Date.now() > due.getTime() + 1000, aheadMs * 2);
    await dvce.ok('up');
    if (!wasThere) return due;
    await dvce.ok('schedule delete missed --yes');
  }
}

interface Written {
  readonly count: number;
  readonly seconds: number;
}

/** Writes that a client gets done with so many in flight that its own pauses cost nothing. */
async function writeFor(client: RawNbd, forMs: number): Promise<Written> {
  const from = performance.now();
  let count = 0;
  let last = from;
  const one = async (index: number): Promise<void> => {
    while (performance.now() < from + forMs) {
      await client.write(index * blockBytes, stamp(index, 1));
      count += 1;
      last = performance.now();
    }
  };
  await Promise.all(Array.from({ length: 64 }, (_, index) => one(index)));
  return { count, seconds: (last - from) / 1000 };
}

async function limitsHold(t: Test, dvce: Dvce, front: { readonly path: string }): Promise<void> {
  /** Never more than the rate and the tenth of a second that a rest allows; not much less. */
  const isNear = ({ count, seconds }: Written, rate: number, what: string): void => {
    const text = `${what}: ${count} in ${seconds.toFixed(2)} s at ${rate}`;
    t.ok(count <= rate * (seconds + 0.1) + 1, text);
    t.ok(count >= rate * seconds * 0.95 - 1, text);
  };
  await fails(t, dvce, 'volume create /rate/a --size 16MiB --iops 1', exitCodes.usage, /10 to/);
  await dvce.ok('volume create /rate/a --size 16MiB --write-iops 200');
  const client = await RawNbd.connect(front, '/rate/a');
  isNear(await writeFor(client, 1500), 200, 'as made');
  const meanwhile = writeFor(client, 2000);
  await dvce.ok('volume update /rate/a --write-iops 400 --burst write-iops=1000/2s');
  await dvce.ok('volume update /rate/a --burst write-iops=none');
  await meanwhile;
  isNear(await writeFor(client, 1000), 400, 'changed under the same client');
  const before = await Promise.all([client.read(0, blockBytes), client.read(0, blockBytes)]);
  t.equal(before.length, 2, 'reads are not limited');
  const during = writeFor(client, 60_000).catch(() => 'lost');
  await dvce.ok('volume rename /rate/a /rate/b');
  await killBlockd(dvce);
  t.equal(await during, 'lost');
  const again = await RawNbd.connect(front, '/rate/b');
  isNear(await writeFor(again, 1000), 400, 'after a kill and under another name');
  t.match(await dvce.json('volume show /rate/b'), {
    limits: { writeIops: { perSecond: 400 } },
    open: { throttledRequests: Number, throttledMs: Number },
  });
  await dvce.ok('volume clone /rate/b /rate/c');
  t.match(
    await dvce.ok('volume show /rate/c'),
    /limits +write-iops 400/,
    'a clone takes them along',
  );
  await dvce.ok('volume update /rate/b --no-limits');
  const { count, seconds } = await writeFor(again, 500);
  t.ok(count > 600 * seconds, `without limits: ${count} in ${seconds.toFixed(2)} s`);
  await again.disconnect();
}

const mebibyte = 256 * blockBytes;

/** A MiB of one write. */
const stamped = (piece: number, value: number): Buffer =>
  Buffer.concat(Array.from({ length: 256 }, (_, i) => stamp(piece * 256 + i, value)));

const valuesIn = (found: Buffer, piece: number): number[] => [
  ...new Set(
    Array.from({ length: 256 }, (_, i) =>
      readStamp(found.subarray(i * blockBytes, (i + 1) * blockBytes), piece * 256 + i),
    ),
  ),
];

/** B-11: a volume that compresses, with blockd killed while it writes, and set otherwise afterwards. */
async function compressionHolds(t: Test, dvce: Dvce, front: { readonly path: string }) {
  await fails(
    t,
    dvce,
    'volume create /zip/a --size 1GiB --compression lz',
    exitCodes.usage,
    /zstd/,
  );
  await dvce.ok('volume create /zip/a --size 64MiB --compression zstd');
  const client = await RawNbd.connect(front, '/zip/a');
  const noise = randomBytes(mebibyte);
  for (let piece = 0; piece < 12; piece += 1)
    await client.write(piece * mebibyte, piece % 4 === 3 ? noise : stamped(piece, 1));
  await dvce.ok('snapshot create /zip/a@full');
  let acknowledged = -1;
  const writing = async (): Promise<void> => {
    for (let round = 2; ; round += 1)
      for (const piece of [0, 1, 2]) {
        await client.write(piece * mebibyte, stamped(piece, round));
        acknowledged = Math.max(acknowledged, piece === 2 ? round : -1);
      }
  };
  const writes = writing().catch(() => 'lost');
  await until('some rounds', () => acknowledged > 3);
  const published = dvce.cli('snapshot create /zip/a@more');
  await until('more rounds', () => acknowledged > 8);
  await killBlockd(dvce);
  await published;
  t.equal(await writes, 'lost');
  const again = await RawNbd.connect(front, '/zip/a');
  for (let piece = 0; piece < 12; piece += 1) {
    const found = await again.read(piece * mebibyte, mebibyte);
    if (piece % 4 === 3) t.ok(found.equals(noise), 'what cannot be compressed');
    else if (piece > 2) t.ok(found.equals(stamped(piece, 1)), `piece ${piece}`);
    else {
      // A write under way may be there in part: each block has the value that was acknowledged last, or a later one.
      const values = valuesIn(found, piece);
      t.ok(Math.min(...values) >= acknowledged, `piece ${piece}: ${values} of ${acknowledged}`);
      t.ok(Math.max(...values) <= acknowledged + 2, `piece ${piece}: ${values}`);
    }
  }
  await again.disconnect();
  await dvce.ok('snapshot create /zip/a@cut');
  t.match(await dvce.ok('volume show /zip/a'), /compression +zstd: 12MiB in .*, \d+\.\d\d to 1/);
  const { space } = await dvce.json<{ space: VolumeSpace }>('volume show /zip/a');
  t.ok(
    space.mappedStoredBytes < 5 * mebibyte,
    `${space.mappedStoredBytes} of ${space.mappedBytes}`,
  );
  await dvce.ok('volume clone /zip/a@cut /zip/b');
  t.match(await dvce.json('volume show /zip/b'), { compression: 'zstd' }, 'a clone inherits it');
  await dvce.ok('volume update /zip/a --compression none');
  const last = await RawNbd.connect(front, '/zip/a');
  await last.write(13 * mebibyte, stamped(13, 5));
  await last.disconnect();
  await dvce.ok('volume check /zip/a');
  t.match(await dvce.json('volume show /zip/a'), { compression: 'none' });
}

/** Names directly below a directory of the store, which may not be there. */
function namesIn(dvce: Dvce, directory: string): string[] {
  const path = join(dvce.data, 'store', directory);
  return existsSync(path) ? readdirSync(path) : [];
}

/** Bytes of all segments, as the file system has them. */
function segmentBytes(dvce: Dvce): number {
  let sum = 0;
  // Directories may go while they are looked at; a glob passes over them.
  for (const file of globSync('logs/*/seg/*/*', { cwd: join(dvce.data, 'store') }))
    if (/\/\d+$/.test(file))
      sum += statSync(join(dvce.data, 'store', file), { throwIfNoEntry: false })?.size ?? 0;
  return sum;
}

/** What is told fits what is stored; with everything deleted, blockd killed in the middle, nothing is left. */
async function spaceHolds(t: Test, dvce: Dvce, front: { readonly path: string }): Promise<void> {
  await dvce.ok('volume create /space/a --size 16MiB');
  const writer = await RawNbd.connect(front, '/space/a');
  for (let block = 0; block < 64; block += 1)
    await writer.write(block * blockBytes, stamp(block, 1));
  await dvce.ok('volume clone /space/a /space/b');
  for (let block = 0; block < 32; block += 1)
    await writer.write(block * blockBytes, stamp(block, 2));
  await writer.disconnect();
  await killBlockd(dvce);
  const space = async (path: string): Promise<VolumeSpace> =>
    (await dvce.json<{ space: VolumeSpace }>(`volume show ${path}`)).space;
  const clone = await space('/space/b');
  t.match(clone, { mappedBytes: 64 * blockBytes, borrowedBytes: 64 * blockBytes, uniqueBytes: 0 });
  t.match(
    await dvce.ok('volume show /space/b'),
    /shared +256KiB \(256KiB of it stored by others\)/,
  );
  const paths = async (): Promise<string[]> =>
    (await dvce.json<{ path: string }[]>('volume list')).map(({ path }) => path);
  await until('the sum to be what is stored', async () => {
    const before = segmentBytes(dvce);
    let sum = 0;
    for (const path of await paths()) sum += (await space(path)).storedBytes;
    return sum === before && before === segmentBytes(dvce);
  });
  t.ok(segmentBytes(dvce) > 64 * blockBytes, 'something is stored');
  const deleting = (await paths()).map((path) => dvce.cli(`volume delete ${path} --yes --now`));
  await Promise.race(deleting);
  await killBlockd(dvce);
  await Promise.all(deleting);
  for (const path of await paths()) await dvce.ok(`volume delete ${path} --yes --now`);
  for (const directory of ['logs', 'volumes', 'intents'])
    await until(`nothing to be left in ${directory}`, () => namesIn(dvce, directory).length === 0);
  t.equal(segmentBytes(dvce), 0, 'the store is empty');
}

/** A clone is flattened, with blockd killed in the middle, until its origin can go and gives its space back (G4). */
async function flattenHolds(t: Test, dvce: Dvce, front: { readonly path: string }): Promise<void> {
  const blocks = 16_384;
  const many = 256;
  await dvce.ok('volume create /flat/a --size 128MiB');
  const writer = await RawNbd.connect(front, '/flat/a');
  for (let at = 0; at < blocks; at += many) {
    const stamps = Array.from({ length: many }, (_, index) => stamp(at + index, 1));
    await writer.write(at * blockBytes, Buffer.concat(stamps));
  }
  await writer.disconnect();
  await dvce.ok('volume clone /flat/a /flat/b');
  const guest = await RawNbd.connect(front, '/flat/b');
  await guest.write(7 * blockBytes, stamp(7, 2));
  await guest.flush();
  await dvce.ok('snapshot create /flat/b@before');
  t.match(await dvce.json('volume flatten /flat/b --dry-run'), {
    dryRun: true,
    steps: [{ detail: '64.0MiB are copied' }],
    warnings: [/ before$/],
  });
  const id = (await dvce.ok('volume flatten /flat/b --no-wait')).trim();
  await killBlockd(dvce);
  t.match(await dvce.json(`op show ${id}`), { kind: 'volume.flatten', status: 'failed' });
  t.match(await dvce.ok('volume flatten /flat/b'), /stays in the store for: before/);
  t.match(await dvce.ok('volume show /flat/b'), /origin held by +before/);
  await dvce.ok('snapshot delete /flat/b@before --yes');
  await until('the origin to be let go of', async () => {
    const { origin } = await dvce.json<{ origin: unknown }>('volume show /flat/b');
    return origin === null;
  });
  const stored = segmentBytes(dvce);
  await dvce.ok('volume delete /flat/a --yes --now');
  await until('its space to be given back', () => segmentBytes(dvce) < stored - 60 * 1_048_576);
  await killBlockd(dvce);
  t.match(await dvce.json('volume check /flat/b'), { findings: [] });
  t.match(await dvce.json('volume flatten /flat/b'), { copiedBytes: 0, heldBy: null });
  const reader = await RawNbd.connect(front, '/flat/b');
  for (let at = 0; at < blocks; at += many) {
    const bytes = await reader.read(at * blockBytes, many * blockBytes);
    for (let index = 0; index < many; index += 1) {
      const found = bytes.subarray(index * blockBytes, (index + 1) * blockBytes);
      const number = readStamp(found, at + index);
      if (number !== (at + index === 7 ? 2 : 1)) t.fail(`block ${at + index} has ${number}`);
    }
  }
  await reader.disconnect();
  await fails(t, dvce, 'volume flatten /flat/none', exitCodes.notFound, /does not exist/);
}

/** A clone takes the place of its parent, which goes, and blockd is killed in between (G4). */
async function promoteHolds(t: Test, dvce: Dvce, front: { readonly path: string }): Promise<void> {
  const put = async (path: string, index: number, number: number): Promise<void> => {
    const client = await RawNbd.connect(front, path);
    await client.write(index * blockBytes, stamp(index, number));
    await client.flush();
    await client.disconnect();
  };
  await dvce.ok('volume create /heir/a --size 16MiB');
  await put('/heir/a', 1, 1);
  await dvce.ok('snapshot create /heir/a@one');
  await put('/heir/a', 1, 2);
  await dvce.ok('snapshot create /heir/a@two');
  await dvce.ok('volume clone /heir/a@one /heir/b');
  await put('/heir/b', 2, 3);
  await fails(t, dvce, 'volume promote /heir/a', exitCodes.notAllowed, /no origin/);
  t.match(await dvce.ok('volume promote /heir/b --dry-run'), /a clone of \/heir\/b@one/);
  const promoting = dvce.cli('volume promote /heir/b');
  await killBlockd(dvce);
  await promoting;
  // Done or undone, whole: what it left is settled by the blockd that came.
  await until('it to be promoted', async () => {
    const { code } = await dvce.cli('volume promote /heir/b');
    return code === 0 || (await snapshotsOf(dvce, '/heir/b')).includes('one');
  });
  t.same(await snapshotsOf(dvce, '/heir/b'), ['one']);
  t.same(await snapshotsOf(dvce, '/heir/a'), ['two']);
  t.match(await dvce.ok('volume show /heir/a'), /cloned from +\/heir\/b@one/);
  await fails(t, dvce, 'snapshot delete /heir/b@one --yes', exitCodes.conflict, /\/heir\/a/);
  await dvce.ok('volume delete /heir/a --yes --now');
  const reader = await RawNbd.connect(front, '/heir/b');
  t.equal(readStamp(await reader.read(blockBytes, blockBytes), 1), 1);
  t.equal(readStamp(await reader.read(2 * blockBytes, blockBytes), 2), 3);
  await reader.disconnect();
  t.match(await dvce.json('volume check /heir/b'), { findings: [] });
}

t.test('volumes of an operator', async (t) => {
  const dvce = freshDvce(t);
  await dvce.ok('up');
  const front = { path: join(dvce.data, 'run/nbd.sock') };

  // trash, with blockd killed while the volume is in it
  await dvce.ok('volume create /prod/a --size 64MiB --label tier=gold --protect');
  const writer = await RawNbd.connect(front, '/prod/a');
  await writer.write(blockBytes, stamp(1, 7));
  await writer.disconnect();
  for (const command of ['journal', 'segment'])
    t.match(await dvce.ok(`${command} dump /prod/a -o json`), /^\[|^\{/, `${command} dump`);
  await fails(t, dvce, 'volume delete /prod/a --yes', exitCodes.notAllowed, /protected/);
  await dvce.ok('volume update /prod/a --no-protect');
  await dvce.ok('snapshot create /prod/a@manual --protect');
  await fails(t, dvce, 'volume delete /prod/a --yes', exitCodes.notAllowed, /--no-protect/);
  await dvce.ok('snapshot update /prod/a@manual --no-protect');
  await dvce.ok('volume delete /prod/a --yes');
  await killBlockd(dvce);
  t.match(await dvce.ok('volume trash list'), /\/prod\/a .*64MiB/);
  await dvce.ok('volume create /prod/a --size 32MiB');
  await fails(t, dvce, 'volume undelete /prod/a', exitCodes.exists, /exists already/);
  await dvce.ok('volume undelete /prod/a --to /prod/old');
  t.same(await snapshotsOf(dvce, '/prod/old'), ['manual'], 'with its snapshots');
  const reader = await RawNbd.connect(front, '/prod/old');
  t.equal(readStamp(await reader.read(blockBytes, blockBytes), 1), 7, 'and with what was written');
  await reader.disconnect();
  await dvce.ok('volume delete /prod/old --yes --now');
  await fails(t, dvce, 'volume undelete /prod/old', exitCodes.notFound, /does not exist/);
  t.equal((await dvce.json<unknown[]>('trash list')).length, 0);

  // quota
  await dvce.ok('quota set /prod --size 1GiB --volumes 9');
  await fails(t, dvce, 'volume create /prod/big --size 2GiB', exitCodes.noSpace, /quota of \/prod/);
  await fails(t, dvce, 'volume resize /prod/a --size 3GiB', exitCodes.noSpace, /quota of \/prod/);
  await fails(t, dvce, 'quota set ../x --size 1GiB', exitCodes.usage, /not valid/);
  await fails(t, dvce, 'quota set /prod', exitCodes.usage, /sets nothing/);

  // many at once, and blockd killed among them: not one volume more than fits
  await dvce.ok('quota set /race --size 300MiB');
  const racing = Array.from({ length: 6 }, (_, index) =>
    dvce.cli(`volume create /race/v${index} --size 100MiB`),
  );
  await Promise.race(racing);
  await killBlockd(dvce);
  const told = (await Promise.all(racing)).filter(({ code }) => code === 0).length;
  const made = (await dvce.json<unknown[]>('volume list /race')).length;
  // One whose answer the kill cut off may have been made.
  t.ok(told <= made && made <= 3, `${made} of six are there, ${told} were told`);
  for (let index = made; index < 3; index += 1)
    await dvce.ok(`volume create /race/w${index} --size 100MiB`);
  await fails(t, dvce, 'volume create /race/x --size 16MiB', exitCodes.noSpace, /quota of \/race/);

  // exports, held over a death of blockd
  await dvce.ok('snapshot create /prod/a@s');
  const id = (await dvce.ok('volume export /prod/a@s -o name')).trim();
  await killBlockd(dvce);
  await fails(t, dvce, 'snapshot delete /prod/a@s --yes', exitCodes.conflict, /is exported as/);
  await fails(t, dvce, 'volume delete /prod/a --yes', exitCodes.conflict, /is exported as/);
  t.match(await dvce.ok('volume exports'), new RegExp(id));
  await dvce.ok(`volume unexport ${id}`);
  // snapshots page by page; between two pages blockd is killed, and the first one of the next page goes
  for (const name of ['p1', 'p2', 'p3']) await dvce.ok(`snapshot create /prod/a@${name}`);
  const page = await dvce.cli('snapshot list /prod/a --limit 2 -o name');
  t.equal(page.stdout, '/prod/a@s\n/prod/a@p1\n');
  const cursor = /--cursor (\S+)/.exec(page.stderr)?.[1];
  await killBlockd(dvce);
  await dvce.ok('snapshot delete /prod/a@p2 --yes');
  const rest = await dvce.cli(`snapshot list /prod/a --limit 2 --cursor ${cursor} -o json`);
  t.match(JSON.parse(rest.stdout), [{ name: 'p3', parent: 'p1', current: true }]);
  t.notMatch(rest.stderr, /--cursor/, 'that was the last page');
  await fails(t, dvce, 'snapshot list /prod/a --cursor x', exitCodes.usage, /cursor/);

  await fails(t, dvce, 'volume export /prod/a --tcp', exitCodes.failed, /does not listen on TCP/);
  t.match(await dvce.ok('volume map /prod/a'), /hole/);

  await limitsHold(t, dvce, front);
  await compressionHolds(t, dvce, front);

  // schedules: a run of eight volumes, with the agent killed in the middle of it
  const paths = Array.from({ length: 8 }, (_, index) => `/prod/v${index}`);
  for (const path of paths) await dvce.ok(`volume create ${path} --size 16MiB`);
  await fails(
    t,
    dvce,
    'schedule create x --volumes /prod/* --every never --keep 1',
    exitCodes.usage,
    /neither a weekday/,
  );
  await fails(t, dvce, 'schedule create x --volumes /p --every daily', exitCodes.usage, /how long/);
  await fails(
    t,
    dvce,
    'schedule create x --every daily --keep 1',
    exitCodes.usage,
    /which volumes/,
  );
  const minutely = ['schedule', 'create', 'often', '--volumes', '/prod/v*', '--keep', '2'];
  const due = new Date(Date.now() + 4000);
  const at = due.toISOString().slice(11, 19);
  const often = await dvce.run([...minutely, '--every', `*-*-* ${at} UTC`]);
  t.equal(often.code, 0, often.stderr);
  await until('the first snapshots of the run', async () => {
    const taken = await snapshotsOf(dvce, '/prod/v0');
    return taken.some((name) => name.startsWith('often-'));
  });
  kill(dvce, 'agent.lock');
  await dvce.ok('up');
  const isDone = async (): Promise<boolean> =>
    (await dvce.json<{ lastRun: unknown }>('schedule show often')).lastRun !== null;
  await until('the run to be finished by the next agent', isDone);
  for (const path of paths)
    t.same(
      (await snapshotsOf(dvce, path)).filter((name) => name.startsWith('often-')),
      [`often-${inName(due)}`],
      `${path}: neither lost nor doubled`,
    );

  // what was due while no agent ran is made up for
  const missed = await missOne(dvce);
  await until('it to be made up for', async () =>
    (await snapshotsOf(dvce, '/prod/a')).includes(`missed-${inName(missed)}`),
  );

  // what is too old goes, by the name that says when it was due
  const brief = ['schedule', 'create', 'brief', '--volumes', '/prod/a', '--every', 'daily'];
  const created = await dvce.run([...brief, '--expire', '1h']);
  t.equal(created.code, 0, created.stderr);
  await dvce.ok('snapshot create /prod/a@brief-20200101T000000Z --label schedule=brief');
  await dvce.ok('schedule run brief');
  const briefs = (await snapshotsOf(dvce, '/prod/a')).filter((name) => name.startsWith('brief-'));
  t.equal(briefs.length, 1, `the old one has expired: ${briefs.join(' ')}`);
  t.notMatch(briefs[0], /2020/);

  // what it keeps, and what it leaves alone
  await dvce.ok('snapshot create /prod/v0@often-20200101T000000Z');
  await dvce.ok('snapshot create /prod/v0@mine');
  for (let run = 0; run < 2; run += 1) {
    await dvce.ok('schedule run often');
    await until('another second', () => Date.now() % 1000 < 100);
  }
  const left = await snapshotsOf(dvce, '/prod/v0');
  t.ok(left.includes('mine') && left.includes('often-20200101T000000Z'), 'those of the operator');
  t.equal(left.length, 4, `two of the schedule: ${left.join(' ')}`);
  t.match(await dvce.json('schedule preview often --count 3'), {
    runs: [{ takes: 8 }, { takes: 8 }, { takes: 8 }],
  });
  await dvce.ok('schedule pause often');
  t.match(await dvce.json('schedule show often'), { state: 'paused', nextDue: null });
  await dvce.ok('schedule resume often');
  await dvce.ok('schedule delete often --yes');
  t.equal((await snapshotsOf(dvce, '/prod/v0')).length, 4, 'its snapshots stay');

  await flattenHolds(t, dvce, front);
  await promoteHolds(t, dvce, front);
  await spaceHolds(t, dvce, front);
});
