/**
 * Scenario 2: a writer sleeps with a publish and a head version under way, another one takes the volume over, publishes far
 * beyond that place, prunes and cleans; then the sleeper's requests arrive. They must change nothing.
 *
 * Both writers live on one simulated host with one store; each has a journal of its own, as two nodes have.
 */
import { asNodeId, MiB, silentLogger, type VolumeId } from '../../src/base/index.ts';
import {
  createVolume,
  getVolume,
  type HlfsContext,
  type OpenVolume,
  openDocuments,
  openProcessScope,
  openVolume,
  reap,
  reclaimLog,
  requireHead,
  updateVolume,
} from '../../src/hlfs/index.ts';
import { openLocalStore } from '../../src/stores/index.ts';
import { FaultyStore } from './faulty-store.ts';
import { SimFileSystem } from './file-system.ts';
import { Oracle, sectorBytes, stamp } from './oracle.ts';
import { SimProcess } from './scheduler.ts';
import { SimHost } from './world.ts';

const sizeBytes = MiB;
const sectors = sizeBytes / sectorBytes;
const sleepMs = 600_000;

interface Writer {
  readonly context: HlfsContext;
  readonly store: FaultyStore;
}

async function startWriter(host: SimHost, number: number): Promise<Writer> {
  const { scheduler } = host;
  const process = new SimProcess(`writer ${number}`);
  const files = new SimFileSystem(scheduler, host.disk, process, host.log);
  const { random } = scheduler;
  const journalDirectory = `/node-${number}`;
  await files.makeDirectory(journalDirectory);
  const local = await openLocalStore({ root: '/store', files, random, create: true });
  const store = new FaultyStore({ store: local, scheduler, process, delayMs: 2 });
  const documents = openDocuments(store);
  const node = asNodeId(`${number}1111111-1111-4111-8111-111111111111`);
  const scope = await openProcessScope(store, documents, node, random);
  const clock = scheduler.clock();
  const timers = scheduler.timers(process);
  return {
    store,
    context: {
      store,
      documents,
      files,
      clock,
      timers,
      random,
      logger: silentLogger,
      node,
      scope,
      journalDirectory,
    },
  };
}

const write = (volume: OpenVolume, first: number, count: number, value: number): Promise<boolean> =>
  new Promise((resolve) => {
    const options = { fua: true, origin: { alive: true } };
    volume.write(first * sectorBytes, stamp(first, count, value), options, (error) =>
      resolve(error === null),
    );
  });

function readValues(volume: OpenVolume): Promise<Int32Array> {
  return new Promise((resolve, reject) => {
    volume.read(0, sizeBytes, (error, parts) => {
      if (error) return reject(error);
      const bytes = parts.map((part) => (typeof part === 'number' ? Buffer.alloc(part) : part));
      return resolve(new Oracle(sectors).decode(Buffer.concat(bytes)));
    });
  });
}

export type Sleeper = 'segment' | 'head';

/** One compare-and-swap, as a writer does it who believes that the head is still its own. */
async function replaceHead(context: HlfsContext, id: VolumeId): Promise<boolean> {
  const { version, value } = await requireHead(context, id);
  const larger = { ...value, sizeBytes: String(2 * MiB) };
  return context.documents.replace(value.scope ?? context.scope, headKey(id), version, larger);
}

const headKey = (id: VolumeId): string => `volumes/${id}/head`;

/** @returns what is wrong, or undefined */
export async function lateRename(seed: number, sleeper: Sleeper): Promise<string | undefined> {
  const host = new SimHost(seed);
  return host.scheduler.complete(run(host, sleeper));
}

async function run(host: SimHost, sleeper: Sleeper): Promise<string | undefined> {
  const { random, scheduler } = host;
  const a = await startWriter(host, 1);
  const { id } = await createVolume(a.context, '/disk', {
    sizeBytes,
    blockBytes: 512,
    journalBytes: 16 * MiB,
  });
  const first = await openVolume(a.context, id);
  for (let i = 1; i <= 3; i += 1) await write(first, 8 * random.below(64), 8, i);
  await first.publishAll();

  // A's next publish, or its next head version, goes to sleep on its way to the store.
  let isAsleep = false;
  let hasArrived = false;
  a.store.plan = (operation, key) => {
    const isIt = key.includes(sleeper === 'segment' ? '/seg/' : '/head/');
    if (operation !== 'putIfAbsent' || !isIt || isAsleep) return undefined;
    isAsleep = true;
    return { kind: 'lateRequest', delayMs: sleepMs };
  };
  await write(first, 0, 64, 900);
  const late: Promise<unknown> =
    sleeper === 'segment' ? first.publishAll() : replaceHead(a.context, id);
  const lateEnd = late.then(
    (won) => (won === false ? undefined : 'it succeeded'),
    () => undefined,
  );
  void lateEnd.then(() => {
    hasArrived = true;
  });
  await new Promise<void>((resolve) => {
    scheduler.after(1000, resolve);
  });
  if (!isAsleep) return 'nothing went to sleep';

  const b = await startWriter(host, 2);
  const second = await openVolume(b.context, id, { takeover: true, acceptLoss: true });
  const content = await readValues(second);
  for (let i = 0; i < 40; i += 1) {
    const at = 8 * random.below(sectors / 8 - 8);
    const value = 1000 + i;
    if (!(await write(second, at, 64, value))) return `a write of the taker failed`;
    content.fill(value, at, at + 64);
    await second.publishAll();
  }
  // The head version after the sleeper's is pruned meanwhile.
  for (let i = 0; i < 4; i += 1)
    await updateVolume(b.context, '/disk', { labels: { round: String(i) } });
  await reap(b.context, reclaimLog);
  if (hasArrived) return 'the sleeper woke too early';
  const outcome = await lateEnd;
  if (outcome !== undefined) return `a late ${sleeper}: ${outcome}`;

  const found = await readValues(second);
  const wrong = found.findIndex((value, sector) => value !== content[sector]);
  if (wrong >= 0) return `sector ${wrong} has write ${found[wrong]} instead of ${content[wrong]}`;
  await second.close();
  const head = await getVolume(b.context, '/disk');
  if (Number(head.head.sizeBytes) !== sizeBytes) return 'the head of the sleeper was taken';
  const again = await openVolume(b.context, id);
  const kept = await readValues(again);
  const lost = kept.findIndex((value, sector) => value !== content[sector]);
  return lost < 0
    ? undefined
    : `sector ${lost} was lost: write ${kept[lost]} instead of ${content[lost]}`;
}
