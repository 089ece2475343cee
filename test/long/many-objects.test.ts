// limit: 1500 s
/**
 * 100,000 snapshots on one volume and 10,000 volumes in one store: what a command costs with them, beside the same with few. The
 * documents are written as the engine writes them, but not one by one through it, which would take hours; the volumes are made
 * anew for every size. Figures are printed; what must hold is that they do not grow with the number where they should not.
 *
 *   node test/long/many-objects.test.ts                       both
 *   DVCE_SNAPSHOTS=1000,20000 DVCE_VOLUMES=500 node test/long/many-objects.test.ts
 */
import { randomUUID } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { SnapshotInfo, VolumeInfo } from '../../src/blockd/index.ts';
import { decodeDocument, encodeDocument } from '../../src/hlfs/document-format.ts';
import type { HeadDocument, LogDocument, SnapshotDocument } from '../../src/hlfs/index.ts';
import { rootDirectory } from '../../src/hlfs/index.ts';
import { until } from '../support/blockd-process.ts';
import { type Dvce, freshDvce } from '../support/dvce.ts';

const sizesOf = (name: string, sizes: string): number[] =>
  (process.env[name] ?? sizes).split(',').map(Number);

const firstVersion = '000000000001';

function writeDocument(store: string, key: string, value: object): void {
  const { body } = encodeDocument(key, value, 'a test', []);
  mkdirSync(join(store, key), { recursive: true });
  writeFileSync(join(store, key, firstVersion), body);
}

function readDocument<T>(store: string, key: string): T {
  const newest = readdirSync(join(store, key)).sort().at(-1) ?? '';
  return decodeDocument(key, readFileSync(join(store, key, newest))).value as T;
}

const onlyName = (directory: string): string => {
  const [name, other] = readdirSync(directory);
  if (name === undefined || other !== undefined) throw new Error(`${directory} has not one entry`);
  return name;
};

/** Resident memory of a process, in MiB. */
function memoryMib(pid: number | undefined): { now: number; most: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const mib = (field: string): number =>
    Math.round(Number(new RegExp(`${field}:\\s+(\\d+)`).exec(status)?.[1]) / 1024);
  return { now: mib('VmRSS'), most: mib('VmHWM') };
}

async function timed<T>(run: () => Promise<T>): Promise<{ ms: number; value: T }> {
  const from = performance.now();
  const value = await run();
  return { ms: Math.round(performance.now() - from), value };
}

/** The middle one of several. */
async function median(times: number, run: (at: number) => Promise<unknown>): Promise<number> {
  const all: number[] = [];
  for (let at = 0; at < times; at += 1) all.push((await timed(() => run(at))).ms);
  return all.sort((a, b) => a - b)[Math.floor(times / 2)] ?? 0;
}

/** Stop everything, let `change` write below the store, start again. @returns how long the start took */
async function offline(dvce: Dvce, change: (store: string) => void): Promise<number> {
  await dvce.ok('down');
  change(join(dvce.data, 'store'));
  return (await timed(() => dvce.ok('up'))).ms;
}

/** Snapshots behind the one that is there: one each second, each the child of the one before. */
function addSnapshots(store: string, count: number): void {
  const log = onlyName(join(store, 'logs'));
  const first = readDocument<SnapshotDocument>(store, `logs/${log}/snap/first@`);
  let parent = first.id;
  for (let at = 1; at < count; at += 1) {
    const name = `s${String(at).padStart(6, '0')}`;
    const id = randomUUID();
    const createdAtMs = first.createdAtMs - (count - at) * 1000;
    const document = { ...first, id, name, parent, createdAtMs };
    writeDocument(store, `logs/${log}/snap/${name}@`, document);
    parent = id;
  }
}

type Figures = Readonly<Record<string, number>>;

async function withSnapshots(t: Test, count: number): Promise<Figures> {
  const dvce = freshDvce(t);
  await dvce.ok('up');
  await dvce.ok('volume create /v --size 1GiB');
  await dvce.ok('snapshot create /v@first');
  const start = await offline(dvce, (store) => addSnapshots(store, count));
  // All are read once; on a slow machine that takes longer than a command waits.
  const firstShow = (
    await timed(() =>
      until(
        'the first answer',
        async () => (await dvce.cli('volume show /v -o json')).code === 0,
        600_000,
      ),
    )
  ).ms;
  const show = await median(5, () => dvce.ok('volume show /v -o json'));
  const create = await median(9, (at) => dvce.ok(`snapshot create /v@new${at}`));
  const page = await median(5, () => dvce.ok('snapshot list /v --limit 1000 -o name'));
  const all = await timed(() => dvce.ok('snapshot list /v -o name'));
  const names = all.value.trimEnd().split('\n');
  t.equal(names.length, count + 9, 'all are listed');
  t.equal(new Set(names).size, names.length, 'each once');
  const remove = await median(9, (at) => dvce.ok(`snapshot delete /v@new${at} --yes`));
  const snapshots = await dvce.json<SnapshotInfo[]>('snapshot list /v --limit 3');
  t.match(snapshots[2], { name: 's000003', parent: 's000002' });
  const blockd = memoryMib(dvce.holder('lock'));
  const agent = memoryMib(dvce.agentPid());
  return {
    'start ms': start,
    'first show ms': firstShow,
    'show ms': show,
    'create ms': create,
    'page of 1,000 ms': page,
    'whole list ms': all.ms,
    'delete ms': remove,
    'blockd MiB': blockd.now,
    'blockd most MiB': blockd.most,
    'agent MiB': agent.now,
    'agent most MiB': agent.most,
  };
}

const show = (t: Test, what: string, figures: Figures): void => {
  for (const [name, value] of Object.entries(figures)) t.comment(`${what}: ${name} ${value}`);
};

t.test('many snapshots on one volume', { timeout: 1_000_000 }, async (t) => {
  const measured: Figures[] = [];
  for (const count of sizesOf('DVCE_SNAPSHOTS', '1000,100000')) {
    const figures = await withSnapshots(t, count);
    show(t, `${count} snapshots`, figures);
    measured.push(figures);
  }
  const [few = {}, many = {}] = measured;
  // Far from what reading all of them takes, which is seconds; a command alone takes a tenth of one.
  for (const what of ['show ms', 'create ms', 'delete ms', 'page of 1,000 ms'])
    t.ok((many[what] ?? 0) < 3 * (few[what] ?? 0) + 500, `${what}: ${few[what]}, ${many[what]}`);
});

/** Copies of the one volume that is there, in directories of a thousand each. */
function addVolumes(store: string, count: number): void {
  const volume = onlyName(join(store, 'volumes'));
  const head = readDocument<HeadDocument>(store, `volumes/${volume}/head`);
  const log = readDocument<LogDocument>(store, `logs/${head.log}/log`);
  for (let at = 0; at < count - 1; at += 1) {
    const group = Math.floor(at / 1000);
    const parent = `10000000-0000-4000-8000-${String(group).padStart(12, '0')}`;
    if (at % 1000 === 0)
      writeDocument(store, `names/${rootDirectory}/g${group}@`, {
        kind: 'directory',
        directory: parent,
      });
    const [id, ownLog] = [randomUUID(), randomUUID()];
    const name = `v${at}`;
    const own = { ...head, volume: id, log: ownLog, logs: [ownLog], parent, name, scope: null };
    writeDocument(store, `volumes/${id}/head`, own);
    writeDocument(store, `logs/${ownLog}/log`, { ...log, log: ownLog, volume: id });
    writeDocument(store, `names/${parent}/${name}@`, { kind: 'volume', volume: id });
  }
}

async function withVolumes(t: Test, count: number): Promise<Figures> {
  const dvce = freshDvce(t);
  await dvce.ok('up');
  await dvce.ok('volume create /v --size 1GiB');
  const start = await offline(dvce, (store) => addVolumes(store, count));
  const first = await timed(() => dvce.json<VolumeInfo[]>('volume list'));
  t.equal(first.value.length, count, 'all are listed');
  const list = await median(5, () => dvce.ok('volume list -o name'));
  const page = await median(5, () => dvce.ok('api GET /v1/volumes?limit=100'));
  const create = await median(5, (at) => dvce.ok(`volume create /new${at} --size 1GiB`));
  const after = (await timed(() => dvce.ok('volume list -o name'))).ms;
  const blockd = memoryMib(dvce.holder('lock'));
  const agent = memoryMib(dvce.agentPid());
  const pid = dvce.holder('lock') ?? 0;
  process.kill(pid, 'SIGKILL');
  const back = await timed(() =>
    until('blockd to be back', async () => (await dvce.cli('volume show /v')).code === 0, 120_000),
  );
  return {
    'start ms': start,
    'first list ms': first.ms,
    'list ms': list,
    'page of 100 ms': page,
    'create ms': create,
    'list after a change ms': after,
    'back after a kill ms': back.ms,
    'blockd MiB': blockd.now,
    'blockd most MiB': blockd.most,
    'agent MiB': agent.now,
    'agent most MiB': agent.most,
  };
}

t.test('many volumes in one store', { timeout: 1_000_000 }, async (t) => {
  for (const count of sizesOf('DVCE_VOLUMES', '100,10000'))
    show(t, `${count} volumes`, await withVolumes(t, count));
});
