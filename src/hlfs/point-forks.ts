/**
 * A point in time, opened: a fork whose content is the volume as it was at one flush (DD-0013). It becomes a clone, or a
 * snapshot of the same volume, which is read, exported, compared, cloned and rolled back to like every other.
 *
 * The new log continues the old one right before the segment in which the flush is. The map is that of the newest root before
 * it, with the segments between rolled forward; of the segment itself the part up to the flush is copied, and the new log
 * begins with it. So a fork needs of its base what the base's content at that position needs, and nothing else (G2).
 *
 * G3: the pins are written, then the floor is read again. Whoever deletes has a root with the new floor first and lists the
 * pins then. Meanwhile more is read than the pins hold; what goes in that time is an error, not another content.
 */
import {
  asLogId,
  asSnapshotName,
  asVolumeId,
  crc32c,
  DvceError,
  type LogId,
  limits,
  randomUuid,
  type SnapshotName,
} from '../base/index.ts';
import { BlockSource } from './block-source.ts';
import { makeVolume, type VolumeTarget } from './catalog.ts';
import { logKey, readLog, snapshotKey } from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import type { CloneOptions } from './forks.ts';
import { refuseImage, requireHead, updateHead } from './heads.ts';
import type { Mark } from './history.ts';
import { underIntent, writeIntent } from './intents.ts';
import { readMapped } from './layers.ts';
import { applyRuns, ascendingBlocks } from './log-apply.ts';
import { LogWriter } from './log-writer.ts';
import { BlockMap } from './map.ts';
import type { VolumeRecord } from './names.ts';
import { cutsOf, writePins } from './pins.ts';
import { blockBytes } from './pointer.ts';
import { type FoundPoint, type LogPoints, openPoints, type PointChoice } from './points.ts';
import {
  type HeadDocument,
  type LogDocument,
  type LogRange,
  pointsFeature,
  type SnapshotDocument,
  storeFormatVersion,
} from './schema.ts';
import { segmentDataOffset } from './segment-format.ts';
import type { IndexRun } from './segment-index.ts';
import { type Root, readIndex, readRoot, SegmentReader } from './segments.ts';
import { checkSnapshotName, findSnapshot } from './snapshots.ts';

const timeText = (ms: number): string => new Date(ms).toISOString();

const describeMark = ({ seq, wallMs }: Mark): string => `flush ${seq} of ${timeText(wallMs)}`;

const describeChoice = (choice: PointChoice): string => {
  if ('timeMs' in choice) return `at ${timeText(choice.timeMs)}`;
  return 'flush' in choice ? `flush ${choice.flush}` : `before flush ${choice.beforeFlush}`;
};

/** @throws POINT_NOT_KEPT, with what is kept instead */
export async function findPoint(
  context: HlfsContext,
  { id, path }: VolumeTarget,
  choice: PointChoice,
): Promise<{ readonly points: LogPoints; readonly found: FoundPoint }> {
  const { value: head } = await requireHead(context, id);
  const points = await openPoints(context, head.log);
  const found = await points?.find(choice);
  if (points !== undefined && found !== undefined) return { points, found };
  const { oldest, newest } = (await points?.ends()) ?? { oldest: null, newest: null };
  const kept =
    oldest === null || newest === null
      ? 'no flush is kept'
      : `the oldest that is kept is ${describeMark(oldest)}, the newest ${describeMark(newest)}`;
  throw new DvceError('POINT_NOT_KEPT', { name: path, what: describeChoice(choice), reason: kept });
}

/** Where the new log begins. */
interface Start {
  readonly document: LogDocument;
  /** null: nothing was written before. */
  readonly root: Root | null;
  /** First number of the new log: right behind what it shares. */
  readonly first: number;
  readonly previous: number;
}

interface Fork extends Start {
  readonly head: HeadDocument;
  readonly found: FoundPoint;
  readonly source: LogPoints;
  readonly snapshot: SnapshotName;
}

async function planFork(
  context: HlfsContext,
  target: VolumeTarget,
  choice: PointChoice,
  volume: LogDocument['volume'],
): Promise<Fork> {
  const { value: head } = await requireHead(context, target.id);
  refuseImage(head, target.path);
  const { points, found } = await findPoint(context, target, choice);
  const snapshot = asSnapshotName(`at-flush-${found.seq}`);
  const base = (await readLog(context, points.log))?.value.base ?? null;
  const root = await rootBefore(context, points, found, base);
  const first = found.segment?.number ?? points.floor + 1;
  const previous = found.segment?.previous ?? root?.header.checksum ?? 0;
  const own = (base?.rootSegment ?? 0) + 1;
  const ranges: LogRange[] = [...(base?.ranges ?? [])];
  if (first > own) ranges.push({ first: own, last: first - 1, log: points.log, store: 'main' });
  const document: LogDocument = {
    format: storeFormatVersion,
    log: asLogId(randomUuid(context.random)),
    volume,
    base:
      ranges.length === 0
        ? null
        : {
            ranges,
            rootSegment: first - 1,
            checksum: previous,
            snapshot: {
              volume: target.id,
              log: points.log,
              id: randomUuid(context.random),
              name: snapshot,
            },
          },
    createdAtMs: context.clock.wallMs(),
  };
  return { document, root, first, previous, head, found, source: points, snapshot };
}

/** The newest root before the point's segment: its own log's, or the one that the log was forked from. */
async function rootBefore(
  context: HlfsContext,
  points: LogPoints,
  { segment }: FoundPoint,
  base: LogDocument['base'],
): Promise<Root | null> {
  const number = segment?.rootSegment ?? points.floor;
  if (number === 0) return null;
  const isOwn = number > (base?.rootSegment ?? 0);
  const log = isOwn ? points.log : base?.ranges.at(-1)?.log;
  return log === undefined ? null : await readRoot(context.store, log, number);
}

/** G3: the pins are there; is the point still behind the floor? */
async function recheck(context: HlfsContext, target: VolumeTarget, fork: Fork): Promise<void> {
  const now = await openPoints(context, fork.source.log);
  const from = fork.root?.header.number ?? 0;
  if (now !== undefined && now.floor <= from) return;
  throw new DvceError('POINT_NOT_KEPT', {
    name: target.path,
    what: describeMark(fork.found),
    reason: 'its window has just ended',
  });
}

/** Write the new log, up to a root that is the point. @returns the root */
async function writeFork(
  context: HlfsContext,
  fork: Fork,
): Promise<{ readonly number: number; readonly checksum: number }> {
  const { document, root, first, previous, found } = fork;
  const scope = `logs/${document.log}/w/0-${context.random.bytes(16).toString('hex')}`;
  await context.store.createScope(scope);
  const writer = new LogWriter(
    {
      log: document.log,
      baseRanges: document.base?.ranges ?? [],
      firstNumber: first,
      next: first,
      previous,
      newestRoot: first - 1,
      olderRoot: 0,
      coveredEpoch: 0,
      coveredIncarnation: 0,
      coveredSeq: Number(root?.facts.covered.seq ?? 0),
      rows: new Map(),
      top: root?.facts.top ?? null,
      mappedBlocks: Number(root?.facts.mappedBlocks ?? 0),
      storedBytes:
        root?.facts.storedBytes === undefined ? undefined : Number(root.facts.storedBytes),
      sinceRoot: 0,
    },
    // Epoch 0 is before that of every writer, so whoever opens the log continues it (L2).
    { context, scope, epoch: 0, incarnation: 0, retainMs: null, recoveredSeq: 0 },
  );
  const facts = { sizeBytes: found.sizeBytes, flushMark: { seq: found.seq, wallMs: found.wallMs } };
  await rollTo(context, fork, writer, () => writer.publishRoot(facts));
  if (found.segment !== null) await copyPart(context, fork, writer);
  writer.reach(found.seq);
  const made = await writer.publishRoot(facts);
  await context.store.fence(scope);
  return made;
}

/** Apply the segments behind the root and before the point's own, while they are chained (L2). */
async function rollTo(
  context: HlfsContext,
  { source, root, first, previous, found }: Fork,
  writer: LogWriter,
  relieve: () => Promise<unknown>,
): Promise<void> {
  if (found.segment === null) return;
  let chain = root?.header.checksum ?? 0;
  for (let number = (root?.header.number ?? 0) + 1; number < first; number += 1) {
    const header = await source.header(number);
    requireChain(header.previous, chain, number);
    chain = header.checksum;
    const runs = await readIndex(context.store, header);
    // The pages that are dirty are bounded like those of an open volume.
    if (!writer.map.hasRoomFor(ascendingBlocks(runs))) await relieve();
    await applyRuns(writer.map, number, runs, context.timers);
  }
  requireChain(previous, chain, first);
}

function requireChain(previous: number, chain: number, number: number): void {
  if (previous === chain) return;
  throw new DvceError('SEGMENT_DAMAGED', {
    name: String(number),
    reason: 'it does not continue the segment before it',
  });
}

/** What the point's segment says up to the flush, as the first segment of the new log. */
async function copyPart(
  context: HlfsContext,
  { source: points, found }: Fork,
  writer: LogWriter,
): Promise<void> {
  if (found.segment === null) return;
  const { number } = found.segment;
  const all = await readIndex(context.store, found.segment);
  const end = all.findIndex((run) => run.kind === 'flushMark' && run.seq === found.seq);
  const part = all.slice(0, end);
  const range = { first: number, last: number, log: points.log, store: 'main' };
  const reader = new SegmentReader(context.store, [range], context.timers);
  const map = new BlockMap(reader, null, 0, { onRelease: () => {}, onRetain: () => {} });
  await applyRuns(map, number, part, context.timers);
  const source = new BlockSource(reader, context.reads);
  const empty = part.filter((run) => run.kind === 'hole' || run.kind === 'zero');
  const data: Buffer[] = [];
  const runs: { kind: 'data'; block: number; offset: number; checksums: number[] }[] = [];
  for (const block of blocksOf(part)) {
    if (map.find(block)?.kind !== 'block') continue;
    const target = Buffer.allocUnsafeSlow(blockBytes);
    await readMapped({ map, source }, block, target);
    let run = runs.at(-1);
    if (run === undefined || run.block + run.checksums.length !== block) {
      const offset = segmentDataOffset + data.length * blockBytes;
      run = { kind: 'data', block, offset, checksums: [] };
      runs.push(run);
    }
    run.checksums.push(crc32c(target));
    data.push(target);
  }
  if (data.length === 0 && empty.length === 0) return;
  const { coveredSeq } = writer.state;
  await writer.publishBatch({ data, runs: [...empty, ...runs] }, coveredSeq + 1, found.seq);
}

function blocksOf(runs: readonly IndexRun[]): Float64Array {
  const blocks = new Set<number>();
  for (const run of runs)
    if (run.kind === 'data')
      for (let i = 0; i < run.checksums.length; i += 1) blocks.add(run.block + i);
  return Float64Array.from(blocks).sort();
}

/** A new volume with the content of a point. Exists whole or not at all (B-27). @throws POINT_NOT_KEPT, ALREADY_EXISTS */
export async function clonePoint(
  context: HlfsContext,
  target: VolumeTarget,
  choice: PointChoice,
  path: string,
  options: CloneOptions,
): Promise<{ readonly record: VolumeRecord; readonly point: Mark }> {
  const volume = asVolumeId(randomUuid(context.random));
  const fork = await planFork(context, target, choice, volume);
  const { head, found, document, snapshot } = fork;
  const roCompat = head.features.roCompat.filter((feature) => feature !== pointsFeature);
  const record = await makeVolume(
    context,
    path,
    {
      ...options,
      sizeBytes: found.sizeBytes,
      blockBytes: head.blockBytes,
      compression: head.compression ?? 'none',
    },
    {
      document,
      features: { ...head.features, roCompat },
      origin: { volume: target.id, path: target.path, snapshot },
      recheck: async () => {
        await recheck(context, target, fork);
        await writeFork(context, fork);
      },
    },
  );
  return { record, point: found };
}

/** A snapshot, made afterwards. The same point under the same name again is the same snapshot. */
export async function snapshotPoint(
  context: HlfsContext,
  target: VolumeTarget,
  choice: PointChoice,
  options: { readonly name?: string; readonly labels?: Readonly<Record<string, string>> },
): Promise<{ readonly snapshot: SnapshotDocument; readonly point: Mark }> {
  const { id } = target;
  const fork = await planFork(context, target, choice, id);
  const { document, found, head } = fork;
  const { log } = document;
  const name = options.name ?? fork.snapshot;
  const labels = { ...options.labels, [pointLabel]: String(found.seq) };
  const present = await presentSnapshot(context, target, name);
  if (present?.labels[pointLabel] === labels[pointLabel])
    return { snapshot: present, point: found };
  const checked = await checkSnapshotName(context, head, name);
  const ranges = document.base?.ranges ?? [];
  const pinned = [...cutsOf(ranges).keys()];
  const intent = await writeIntent(context, {
    kind: 'rollback',
    volume: id,
    log,
    pinned,
    path: null,
  });
  await underIntent(context, intent, async () => {
    await context.documents.create(context.scope, logKey(log), document);
    const snapshot = document.base?.snapshot.id ?? randomUuid(context.random);
    await writePins(context, ranges, { who: log, kind: 'fork', volume: id, snapshot });
    await recheck(context, target, fork);
    const root = await writeFork(context, fork);
    const made = snapshotOf(context, fork, { name: checked, labels, root });
    await context.documents.create(context.scope, snapshotKey(log, checked), made);
    await updateHead(context, id, (now) => nameLog(now, log, target.path));
  });
  return { snapshot: (await findSnapshot(context, id, name)).value, point: found };
}

/** The number of the flush that a snapshot was made of. */
const pointLabel = 'flush';

async function presentSnapshot(
  context: HlfsContext,
  { id }: VolumeTarget,
  name: string,
): Promise<SnapshotDocument | undefined> {
  try {
    return (await findSnapshot(context, id, name)).value;
  } catch (error) {
    if (error instanceof DvceError && error.code === 'NOT_FOUND') return undefined;
    throw error;
  }
}

/** Behind the logs that the volume has already: the current one stays the first. */
function nameLog(head: HeadDocument, log: LogId, path: string): HeadDocument {
  if (head.logs.includes(log)) return head;
  if (head.logs.length >= limits.volumeLogsMax)
    throw new DvceError('TOO_LARGE', {
      what: `volume ${path}`,
      reason: `it has ${head.logs.length} logs, of rollbacks and of snapshots made of points in time`,
      advice: 'Delete snapshots of points that are not needed any more.',
    });
  return { ...head, logs: [...head.logs, log] };
}

function snapshotOf(
  context: HlfsContext,
  { document, found, head }: Fork,
  made: {
    readonly name: SnapshotName;
    readonly labels: Readonly<Record<string, string>>;
    readonly root: { readonly number: number; readonly checksum: number };
  },
): SnapshotDocument {
  return {
    format: storeFormatVersion,
    id: randomUuid(context.random),
    name: made.name,
    volume: head.volume,
    log: document.log,
    state: 'live',
    rootSegment: made.root.number,
    checksum: made.root.checksum,
    sizeBytes: String(found.sizeBytes),
    createdAtMs: context.clock.wallMs(),
    parent: null,
    protected: false,
    labels: made.labels,
  };
}
