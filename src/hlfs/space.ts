/**
 * What a volume takes in the store, exactly: every byte of every segment that the volume's logs have is in one class.
 *
 *   unique    what only this volume's content needs
 *   shared    what its content has in common with other volumes, wherever it lies; the part of it that lies in segments of
 *             other volumes is *borrowed*
 *   pinned    what its content needs no more, and snapshots, clones, readers, points in time or its own earlier logs still do
 *   garbage   what nothing needs; cleaning gives it back. What frames the content (headers, indexes) counts here too
 *
 *   stored = unique + (shared - borrowed) + pinned + garbage = the bytes of its segments in the store
 *
 * A segment is counted with the volume whose log wrote it, so the sum of `stored` over all volumes (also those in the trash, and
 * deleted ones that clones need) is what all segments take. Nothing is read but documents, the list of segments, and inner pages
 * of the map (of a clone).
 */
import type { LogId, VolumeId } from '../base/index.ts';
import { readHead } from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import { newestRoot, recoverLog } from './log-recovery.ts';
import type { LogWriter } from './log-writer.ts';
import { listPins } from './pins.ts';
import { blockBytes, pointerLength } from './pointer.ts';
import { type HeadDocument, type LogRange, segmentKey } from './schema.ts';
import { isHeld, liveBytes } from './segment-table.ts';
import { listSegments, rangeOf } from './segments.ts';
import { snapshotsIn } from './snapshot-index.ts';

export interface VolumeSpace {
  /** Size that the guest sees. */
  readonly logicalBytes: number;
  /** Bytes of blocks that the published content has; the rest are holes. */
  readonly mappedBytes: number;
  /** What those blocks take in the store, wherever they lie: fewer where some are compressed. */
  readonly mappedStoredBytes: number;
  readonly uniqueBytes: number;
  readonly sharedBytes: number;
  readonly borrowedBytes: number;
  readonly pinnedBytes: number;
  readonly garbageBytes: number;
  readonly storedBytes: number;
}

type Classes = Record<'unique' | 'lent' | 'pinned' | 'garbage', number>;

/** Which segments of own earlier logs other volumes read too; of logs that some do. */
type Lent = Map<LogId, (segment: number) => boolean>;

/** Of a volume that is not open. @returns null when there is no such volume */
export async function closedVolumeSpace(
  context: HlfsContext,
  volume: VolumeId,
): Promise<VolumeSpace | null> {
  const head = (await readHead(context, volume))?.value;
  if (head === undefined) return null;
  if (head.state === 'deleting') return deletedSpace(context, head);
  // Recovery writes nothing; nothing is published by this writer.
  const nobody = { context, scope: '', epoch: 0, incarnation: 0, recoveredSeq: 0, retainMs: null };
  const { writer } = await recoverLog(head.log, nobody);
  return volumeSpace(context, head, writer);
}

/** A deleted volume has no content any more; what is left of it is there for clones. */
async function deletedSpace(context: HlfsContext, head: HeadDocument): Promise<VolumeSpace> {
  const classes: Classes = { unique: 0, lent: 0, pinned: 0, garbage: 0 };
  for (const log of head.logs) await addEarlierLog(context, head, log, classes, new Map());
  const nothing = { logicalBytes: 0, mappedBytes: 0, mappedStoredBytes: 0, borrowedBytes: 0 };
  return spaceOf(classes, nothing);
}

/** @param writer of the volume's current log, live or as recovered */
export async function volumeSpace(
  context: HlfsContext,
  head: HeadDocument,
  writer: LogWriter,
): Promise<VolumeSpace> {
  const classes: Classes = { unique: 0, lent: 0, pinned: 0, garbage: 0 };
  const lent: Lent = new Map();
  for (const log of head.logs)
    if (log !== head.log) await addEarlierLog(context, head, log, classes, lent);
  const inherited = await inheritedBytes(head, writer, lent);
  // Content in own earlier logs is kept by the pin of the current one.
  const ownInherited = Math.min(inherited.own, classes.pinned);
  classes.pinned -= ownInherited;
  classes.unique += ownInherited;
  const lentInherited = Math.min(inherited.lent, classes.pinned);
  classes.pinned -= lentInherited;
  classes.lent += lentInherited;
  await addCurrentLog(context, head, writer, classes);
  return spaceOf(classes, {
    logicalBytes: Number(head.sizeBytes),
    mappedBytes: writer.map.mappedBlocks * blockBytes,
    mappedStoredBytes: writer.map.storedBytes,
    borrowedBytes: inherited.foreign,
  });
}

const spaceOf = (
  { unique, lent, pinned, garbage }: Classes,
  content: Pick<
    VolumeSpace,
    'logicalBytes' | 'mappedBytes' | 'mappedStoredBytes' | 'borrowedBytes'
  >,
): VolumeSpace => ({
  ...content,
  uniqueBytes: unique,
  sharedBytes: lent + content.borrowedBytes,
  pinnedBytes: pinned,
  garbageBytes: garbage,
  storedBytes: unique + lent + pinned + garbage,
});

/** Positions in a log: of all that hold it, and of forks of other volumes. Ascending. */
async function positionsIn(
  context: HlfsContext,
  volume: VolumeId,
  log: LogId,
): Promise<{ all: number[]; foreign: number[] }> {
  const snapshots = await snapshotsIn(context, log);
  const pins = await listPins(context, log);
  const foreign = pins.filter((pin) => pin.kind === 'fork' && pin.volume !== volume);
  const sorted = (positions: number[]): number[] => positions.sort((a, b) => a - b);
  return {
    all: sorted([
      ...snapshots.map(({ value }) => value.rootSegment),
      ...pins.map(({ cut }) => cut),
    ]),
    foreign: sorted(foreign.map(({ cut }) => cut)),
  };
}

async function addCurrentLog(
  context: HlfsContext,
  head: HeadDocument,
  { table }: LogWriter,
  classes: Classes,
): Promise<void> {
  const { all, foreign } = await positionsIn(context, head.volume, head.log);
  for (const number of await listSegments(context.store, head.log)) {
    const row = table.rows.get(number);
    const bytes = row?.bytes || (await sizeOf(context, head.log, number));
    const live = row === undefined ? 0 : Math.min(bytes, liveBytes({ ...row, bytes }));
    const death = row?.death ?? number;
    if (isHeld(number, death, foreign)) classes.lent += live;
    else classes.unique += live;
    const isPinned = isHeld(number, death, all) || table.isOfPoints(number, death);
    if (isPinned) classes.pinned += bytes - live;
    else classes.garbage += bytes - live;
  }
}

/** A log that the volume left by a rollback, or took over: what is there is there for somebody, or waits to be removed. */
async function addEarlierLog(
  context: HlfsContext,
  head: HeadDocument,
  log: LogId,
  classes: Classes,
  lent: Lent,
): Promise<void> {
  const { all, foreign } = await positionsIn(context, head.volume, log);
  const numbers = await listSegments(context.store, log);
  const root = await newestRoot(context.store, log, numbers);
  if (foreign.length > 0)
    lent.set(log, (segment) => isHeld(segment, root?.table.get(segment)?.death ?? 0, foreign));
  for (const number of numbers) {
    const row = root?.table.get(number);
    const bytes = row?.bytes || (await sizeOf(context, log, number));
    if (isHeld(number, row?.death ?? 0, all)) classes.pinned += bytes;
    else classes.garbage += bytes;
  }
}

/** 0 when it went meanwhile. */
const sizeOf = async (context: HlfsContext, log: LogId, number: number): Promise<number> =>
  (await context.store.stat(segmentKey(log, number)))?.lengthBytes ?? 0;

/** Bytes of blocks that the content has from the logs it was forked from: this volume's own earlier ones, and others. */
async function inheritedBytes(
  head: HeadDocument,
  writer: LogWriter,
  lent: Lent,
): Promise<{ own: number; lent: number; foreign: number }> {
  const { baseRanges } = writer.state;
  const isOwn = ({ log }: LogRange): boolean => head.logs.includes(log);
  if (baseRanges.length === 0) return { own: 0, lent: 0, foreign: 0 };
  const isMixed = baseRanges.some(isOwn) && !baseRanges.every(isOwn);
  if (isMixed || baseRanges.some(({ log }) => lent.has(log)))
    return countBlocks(writer, isOwn, lent);
  const bytes = await bytesBelow(writer);
  return baseRanges.every(isOwn)
    ? { own: bytes, lent: 0, foreign: 0 }
    : { own: 0, lent: 0, foreign: bytes };
}

/** Blocks that lie below the log's own first number: all that are mapped, without those that its own segments count. */
export async function bytesBelow({ map, state, table }: LogWriter): Promise<number> {
  let ownPages = 0;
  await map.walk({
    page: (level, _index, [segment]) => {
      if (segment >= state.firstNumber) ownPages += 1;
      return level === 0 ? 'skip' : undefined;
    },
  });
  const rootRecords = state.newestRoot >= state.firstNumber ? 1 : 0;
  const ownBytes = table.liveBytes - (ownPages + rootRecords) * blockBytes;
  return Math.max(0, map.storedBytes - ownBytes);
}

/** Blocks of one's own, lent ones and foreign ones together: each is looked at. */
async function countBlocks(
  { map, state }: LogWriter,
  isOwn: (range: LogRange) => boolean,
  lent: Lent,
): Promise<{ own: number; lent: number; foreign: number }> {
  const count = { own: 0, lent: 0, foreign: 0 };
  const classOf = (range: LogRange, segment: number): keyof typeof count => {
    if (!isOwn(range)) return 'foreign';
    return lent.get(range.log)?.(segment) === true ? 'lent' : 'own';
  };
  await map.walk({
    leaf: (_block, words) => {
      for (let at = 0; at < words.length; at += 4) {
        const segment = words[at] ?? 0;
        if (segment === 0 || segment >= state.firstNumber) continue;
        const range = rangeOf(state.baseRanges, segment);
        const bytes = pointerLength(words[at + 2] ?? 0);
        if (range !== undefined) count[classOf(range, segment)] += bytes;
      }
    },
  });
  return count;
}
