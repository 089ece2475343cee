/**
 * The tree that the snapshots of a volume form, and the order in which they are listed.
 *
 * Invariants:
 * - the tree follows from positions: a snapshot's parent is the newest living snapshot before it in its log, else the one
 *   that the log was forked from, and so on through the logs. The `parent` in a document is a copy of that for other readers;
 * - lists are in the order of (time to the millisecond, name), which no change of another snapshot moves; so a page begins
 *   behind the last one of the page before, whatever was taken or deleted meanwhile;
 * - nothing here costs more with many snapshots than finding a place in an array, but what says so.
 */
import type { LogId } from '../base/index.ts';
import type { HeadDocument, SnapshotDocument } from './schema.ts';

/** What the tree and the order need to know of a snapshot. */
export type SnapshotFacts = Pick<
  SnapshotDocument,
  | 'id'
  | 'name'
  | 'volume'
  | 'log'
  | 'state'
  | 'rootSegment'
  | 'createdAtMs'
  | 'parent'
  | 'protected'
>;

/** The living snapshots of a log. */
export interface LivingOfLog<Each extends SnapshotFacts> {
  /** By position, oldest first. */
  readonly living: readonly Each[];
  /** The same in the order of lists. */
  readonly byTime: readonly Each[];
}

/** The snapshots of one log. */
export interface SnapshotsOfLog<Each extends SnapshotFacts> extends LivingOfLog<Each> {
  /** Those that are being made or deleted. */
  readonly unsettled: readonly Each[];
}

/** What is remembered of the snapshots of a store (snapshot-index.ts). */
export interface RememberedSnapshots {
  of(log: LogId): Promise<SnapshotsOfLog<SnapshotFacts>>;
}

/** One log of a volume with its living snapshots. */
export interface Line<Each extends SnapshotFacts = SnapshotFacts> extends LivingOfLog<Each> {
  readonly log: LogId;
  /** Where in another log of the same volume it starts. */
  readonly base: {
    readonly log: LogId;
    readonly cut: number;
    readonly snapshotId: string;
    /** The log that wrote the segment at the cut: another one when nothing had been written since an earlier fork. */
    readonly writtenBy: LogId | undefined;
  } | null;
}

/** Snapshots at one position (nothing was written between them) follow each other by their parents. Looks at all of them. */
export function ordered<Each extends SnapshotFacts>(snapshots: readonly Each[]): Each[] {
  const depths = depthsOf(snapshots);
  const depthOf = ({ id }: Each): number => depths.get(id) ?? 0;
  return snapshots.toSorted(
    (a, b) =>
      a.rootSegment - b.rootSegment || depthOf(a) - depthOf(b) || a.createdAtMs - b.createdAtMs,
  );
}

/** How many of those at the same position come before it, by their parents; only of those that are not alone there. */
function depthsOf(snapshots: readonly SnapshotFacts[]): ReadonlyMap<string, number> {
  const counts = new Map<number, number>();
  for (const { rootSegment } of snapshots)
    counts.set(rootSegment, (counts.get(rootSegment) ?? 0) + 1);
  const together = snapshots.filter(({ rootSegment }) => (counts.get(rootSegment) ?? 0) > 1);
  const byId = new Map(together.map((snapshot) => [snapshot.id, snapshot]));
  const depths = new Map<string, number>();
  for (const snapshot of together) {
    const chain: SnapshotFacts[] = [];
    let at: SnapshotFacts | undefined = snapshot;
    // Parents that name each other in a circle are damage; it ends here.
    while (at?.rootSegment === snapshot.rootSegment && !depths.has(at.id)) {
      depths.set(at.id, 0);
      chain.push(at);
      at = byId.get(at.parent ?? '');
    }
    let depth = at?.rootSegment === snapshot.rootSegment ? (depths.get(at.id) ?? 0) + 1 : 0;
    for (const each of chain.toReversed()) {
      depths.set(each.id, depth);
      depth += 1;
    }
  }
  return depths;
}

/** The time as lists show it. */
const shownMs = ({ createdAtMs }: Pick<SnapshotFacts, 'createdAtMs'>): number =>
  Math.trunc(createdAtMs);

/** A place in the order of lists: behind the snapshot with this time and name. */
export interface ListPlace {
  readonly createdAtMs: number;
  readonly name: string;
}

export function compareListed(a: ListPlace, b: ListPlace): number {
  const between = shownMs(a) - shownMs(b);
  if (between !== 0) return between;
  return a.name < b.name ? -1 : Number(a.name > b.name);
}

/** The first place at which `isBehind` holds, in an array where it holds from there on. */
export function placeOf<Each>(all: readonly Each[], isBehind: (each: Each) => boolean): number {
  let low = 0;
  let high = all.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const each = all[middle];
    if (each !== undefined && isBehind(each)) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Where a snapshot stands in its line; -1 when it does not. */
export function placeIn(
  all: readonly SnapshotFacts[],
  { id, rootSegment }: Pick<SnapshotFacts, 'id' | 'rootSegment'>,
): number {
  const first = placeOf(all, (each) => each.rootSegment >= rootSegment);
  for (let at = first; all[at]?.rootSegment === rootSegment; at += 1)
    if (all[at]?.id === id) return at;
  return -1;
}

/** The snapshot that a log of the volume starts from: itself, or when it is gone its nearest living ancestor. */
function startOf<Each extends SnapshotFacts>(
  lines: readonly Line<Each>[],
  log: LogId,
): Each | undefined {
  let at = log;
  for (let steps = 0; steps < lines.length; steps += 1) {
    const base = lines.find((line) => line.log === at)?.base;
    if (base === undefined || base === null) return undefined;
    const below =
      lines.find((line) => line.log === base.log) ??
      lines.find((line) => line.log === base.writtenBy);
    if (below === undefined) return undefined;
    const found = atOrBefore(below.living, base);
    if (found !== undefined) return found;
    at = below.log;
  }
  return undefined;
}

/** The snapshot at which a fork starts, or the newest at or before its cut. */
function atOrBefore<Each extends SnapshotFacts>(
  all: readonly Each[],
  { cut, snapshotId }: { readonly cut: number; readonly snapshotId: string },
): Each | undefined {
  const itself = placeIn(all, { id: snapshotId, rootSegment: cut });
  return all[itself < 0 ? placeOf(all, (each) => each.rootSegment > cut) - 1 : itself];
}

export function parentOf<Each extends SnapshotFacts>(
  lines: readonly Line<Each>[],
  snapshot: SnapshotFacts,
): Each | undefined {
  const line = lines.find(({ log }) => log === snapshot.log);
  const index = line === undefined ? -1 : placeIn(line.living, snapshot);
  return index > 0 ? line?.living[index - 1] : startOf(lines, snapshot.log);
}

/** Those whose `parent` is not what their position says, with what it says. Looks at all of them. */
export function* misplaced(lines: readonly Line[]): Generator<{
  readonly snapshot: SnapshotFacts;
  readonly parent: string | null;
}> {
  for (const { log, living } of lines) {
    let before = startOf(lines, log);
    for (const snapshot of living) {
      const parent = before?.id ?? null;
      if (snapshot.parent !== parent) yield { snapshot, parent };
      before = snapshot;
    }
  }
}

/** What a snapshot follows that is taken at a position of a log. */
export function parentAt(
  lines: readonly Line[],
  log: LogId,
  position: number,
): SnapshotFacts | undefined {
  const all = lines.find((line) => line.log === log)?.living ?? [];
  const before = placeOf(all, ({ rootSegment }) => rootSegment > position) - 1;
  return all[before] ?? startOf(lines, log);
}

/** The newest snapshot that the content of a log descends from. */
export const newestOf = (lines: readonly Line[], log: LogId): SnapshotFacts | undefined =>
  parentAt(lines, log, Number.POSITIVE_INFINITY);

/** Does the current content descend from it? */
export function descentOf(
  lines: readonly Line[],
  head: Pick<HeadDocument, 'log'>,
): (snapshot: SnapshotFacts) => boolean {
  /** Up to which place of its line. */
  const reached = new Map<LogId, number>();
  let newest = newestOf(lines, head.log);
  while (newest !== undefined && !reached.has(newest.log)) {
    const { log } = newest;
    const line = lines.find((each) => each.log === log);
    reached.set(log, placeIn(line?.living ?? [], newest));
    newest = startOf(lines, log);
  }
  return (snapshot) => {
    const line = lines.find(({ log }) => log === snapshot.log);
    const place = placeIn(line?.living ?? [], snapshot);
    return place >= 0 && place <= (reached.get(snapshot.log) ?? -1);
  };
}

/** The next snapshots in the order of lists. */
export function listedAfter<Each extends SnapshotFacts>(
  lines: readonly Line<Each>[],
  after: ListPlace | undefined,
  limit: number,
): Each[] {
  const next = lines.flatMap(({ byTime }) => {
    const first =
      after === undefined ? 0 : placeOf(byTime, (each) => compareListed(each, after) > 0);
    return byTime.slice(first, first + limit);
  });
  return next.sort(compareListed).slice(0, limit);
}
