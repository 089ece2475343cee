/**
 * Snapshots of a volume: documents in the logs that the volume has had, and the tree that they form.
 *
 * Invariants:
 * - a name is used once among all logs of a volume;
 * - the tree follows from positions: a snapshot's parent is the newest living snapshot before it in its log, else the one
 *   that the log was forked from, and so on through the logs. The `parent` in a document is a copy of that for other
 *   readers; it is set right before a snapshot goes, so that it never names one that is gone (B-09);
 * - deletion (G3): `deleting` is set, then the pins are listed. A fork writes its pins, then looks at the state. So either
 *   the deletion sees the pin and takes itself back, or the fork sees `deleting` and gives up. Removal is a compare-and-swap
 *   from the version that says `deleting`; any process may finish or revert the deletion of another.
 *
 * A fork within the same volume (rollback) does not hold its snapshot's name back: its pin keeps the segments.
 */
import {
  asSnapshotName,
  DvceError,
  type LogId,
  limits,
  randomUuid,
  type SnapshotName,
  type VolumeId,
} from '../base/index.ts';
import {
  partToName,
  readLog,
  readSnapshot,
  snapshotKey,
  snapshotsPrefix,
} from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import type { Versioned } from './documents.ts';
import { changedTooOften, checkLabels, requireHead } from './heads.ts';
import { listPins } from './pins.ts';
import type { HeadDocument, PinDocument, SetReference, SnapshotDocument } from './schema.ts';
import { storeFormatVersion } from './schema.ts';

export interface SnapshotRecord {
  readonly document: SnapshotDocument;
  /** Id of the nearest living snapshot that it descends from, within the volume. */
  readonly parent: string | null;
  /** The volume's current content descends from it. */
  readonly current: boolean;
  /** Other volumes that start from it. */
  readonly clones: readonly VolumeId[];
}

/** One log of a volume with its living snapshots, oldest first. */
interface Line {
  readonly log: LogId;
  /** Where in another log of the same volume it starts. */
  readonly base: {
    readonly log: LogId;
    readonly cut: number;
    readonly snapshotId: string;
    /** The log that wrote the segment at the cut: another one when nothing had been written since an earlier fork. */
    readonly writtenBy: LogId | undefined;
  } | null;
  readonly snapshots: readonly SnapshotDocument[];
}

/** All snapshot documents of a log, whatever their state. */
export async function snapshotsIn(
  context: HlfsContext,
  log: LogId,
): Promise<Versioned<SnapshotDocument>[]> {
  const found: Versioned<SnapshotDocument>[] = [];
  for (const part of await context.documents.names(snapshotsPrefix(log))) {
    const name = partToName(part);
    if (name === undefined) continue;
    const snapshot = await readSnapshot(context, log, asSnapshotName(name));
    if (snapshot !== undefined) found.push(snapshot);
  }
  return found;
}

/** Snapshots at one position (nothing was written between them) follow each other by their parents. */
function ordered(snapshots: readonly SnapshotDocument[]): SnapshotDocument[] {
  const byId = new Map(snapshots.map((snapshot) => [snapshot.id, snapshot]));
  const rank = (snapshot: SnapshotDocument): number => {
    let depth = 0;
    let above = byId.get(snapshot.parent ?? '');
    while (above?.rootSegment === snapshot.rootSegment && depth < snapshots.length) {
      depth += 1;
      above = byId.get(above.parent ?? '');
    }
    return depth;
  };
  return snapshots.toSorted(
    (a, b) => a.rootSegment - b.rootSegment || rank(a) - rank(b) || a.createdAtMs - b.createdAtMs,
  );
}

/** The logs of a volume, the current one first. */
export async function linesOf(context: HlfsContext, head: HeadDocument): Promise<Line[]> {
  const lines: Line[] = [];
  for (const log of head.logs) {
    const base = (await readLog(context, log))?.value.base ?? null;
    const all = await snapshotsIn(context, log);
    const living = all.map(({ value }) => value).filter(({ state }) => state === 'live');
    lines.push({
      log,
      base:
        base?.snapshot.volume === head.volume
          ? {
              log: base.snapshot.log,
              cut: base.rootSegment,
              snapshotId: base.snapshot.id,
              writtenBy: base.ranges.at(-1)?.log,
            }
          : null,
      snapshots: ordered(living),
    });
  }
  return lines;
}

/** The snapshot that a log of the volume starts from: itself, or when it is gone its nearest living ancestor. */
function startOf(lines: readonly Line[], log: LogId): SnapshotDocument | undefined {
  let at = log;
  for (let steps = 0; steps < lines.length; steps += 1) {
    const base = lines.find((line) => line.log === at)?.base;
    if (base === undefined || base === null) return undefined;
    const below =
      lines.find((line) => line.log === base.log) ??
      lines.find((line) => line.log === base.writtenBy);
    const found =
      below?.snapshots.find(({ id }) => id === base.snapshotId) ??
      below?.snapshots.findLast(({ rootSegment }) => rootSegment <= base.cut);
    if (below === undefined || found !== undefined) return found;
    at = below.log;
  }
  return undefined;
}

/** Where the snapshots of a line stand: with many of them, looking each one up by going through all takes minutes. */
const places = new WeakMap<Line, ReadonlyMap<string, number>>();

function placeIn(line: Line, id: string): number {
  let known = places.get(line);
  if (known === undefined) {
    known = new Map(line.snapshots.map((snapshot, index) => [snapshot.id, index]));
    places.set(line, known);
  }
  return known.get(id) ?? -1;
}

export function parentOf(
  lines: readonly Line[],
  snapshot: SnapshotDocument,
): SnapshotDocument | undefined {
  const line = lines.find(({ log }) => log === snapshot.log);
  const index = line === undefined ? -1 : placeIn(line, snapshot.id);
  return index > 0 ? line?.snapshots[index - 1] : startOf(lines, snapshot.log);
}

/** The newest snapshot that the current content descends from. */
const newestOf = (lines: readonly Line[], log: LogId): SnapshotDocument | undefined =>
  lines.find((line) => line.log === log)?.snapshots.at(-1) ?? startOf(lines, log);

/** Living snapshots of a volume, parents before children. */
export async function listSnapshots(
  context: HlfsContext,
  volume: VolumeId,
): Promise<SnapshotRecord[]> {
  const { value: head } = await requireHead(context, volume);
  const lines = await linesOf(context, head);
  const current = new Set<string>();
  let above = newestOf(lines, head.log);
  while (above !== undefined && !current.has(above.id)) {
    current.add(above.id);
    above = parentOf(lines, above);
  }
  const records: SnapshotRecord[] = [];
  for (const line of lines.toReversed()) {
    const pins = await listPins(context, line.log);
    for (const document of line.snapshots) {
      const blocking = pins.filter((pin) => pin.kind === 'fork' && blocks(pin, document));
      records.push({
        document,
        parent: parentOf(lines, document)?.id ?? null,
        current: current.has(document.id),
        clones: blocking.map((pin) => pin.volume),
      });
    }
  }
  return records;
}

/** @throws NOT_FOUND; CONFLICT while it is being deleted */
export async function findSnapshot(
  context: HlfsContext,
  volume: VolumeId,
  name: string,
): Promise<Versioned<SnapshotDocument>> {
  const checked = asSnapshotName(name);
  const { value: head } = await requireHead(context, volume);
  for (const log of head.logs) {
    const found = await readSnapshot(context, log, checked);
    if (found === undefined || found.value.state === 'pending') continue;
    if (found.value.state === 'live') return found;
    throw new DvceError('CONFLICT', { kind: 'snapshot', name, reason: 'it is being deleted' });
  }
  throw new DvceError('NOT_FOUND', { kind: 'snapshot', name });
}

/** @throws ALREADY_EXISTS, INVALID_NAME. The engine asks before it cuts. */
export async function checkSnapshotName(
  context: HlfsContext,
  head: HeadDocument,
  name: string,
): Promise<SnapshotName> {
  const checked = asSnapshotName(name);
  for (const log of head.logs)
    if ((await readSnapshot(context, log, checked)) !== undefined)
      throw new DvceError('ALREADY_EXISTS', { kind: 'snapshot', name });
  return checked;
}

export interface NewSnapshot {
  readonly name: string;
  readonly log: LogId;
  readonly rootSegment: number;
  readonly checksum: number;
  readonly sizeBytes: number;
  readonly labels: Readonly<Record<string, string>>;
  readonly protected: boolean;
  /** Member of this set, and pending until the set's document exists (G5). */
  readonly set?: SetReference | undefined;
}

/** Id of the snapshot that a new one follows. */
async function parentOfNew(
  context: HlfsContext,
  head: HeadDocument,
  made: NewSnapshot,
  newest: string | undefined,
): Promise<string | null> {
  const probable =
    newest === undefined
      ? undefined
      : (await readSnapshot(context, made.log, asSnapshotName(newest)))?.value;
  if (probable?.state === 'live' && probable.rootSegment <= made.rootSegment) return probable.id;
  const lines = await linesOf(context, head);
  const before = lines
    .find(({ log }) => log === made.log)
    ?.snapshots.findLast(({ rootSegment }) => rootSegment <= made.rootSegment);
  return (before ?? startOf(lines, made.log))?.id ?? null;
}

/**
 * The last step of a snapshot: once its root is durable, its document makes it exist.
 * @param scope the writer's publishing scope: a writer that was fenced makes no snapshots
 * @param newest what is probably the newest snapshot of the log before it: then not all of them have to be read
 */
export async function createSnapshotDocument(
  context: HlfsContext,
  scope: string,
  volume: VolumeId,
  made: NewSnapshot,
  newest?: string,
): Promise<SnapshotDocument> {
  checkLabels(made.labels);
  const { value: head } = await requireHead(context, volume);
  const name = await checkSnapshotName(context, head, made.name);
  if (head.log !== made.log)
    throw new DvceError('FENCED', { name: volume, reason: 'its current log is another one' });
  const document: SnapshotDocument = {
    format: storeFormatVersion,
    id: randomUuid(context.random),
    name,
    volume,
    log: made.log,
    state: made.set === undefined ? 'live' : 'pending',
    ...(made.set === undefined ? {} : { set: made.set }),
    rootSegment: made.rootSegment,
    checksum: made.checksum,
    sizeBytes: String(made.sizeBytes),
    createdAtMs: context.clock.wallMs(),
    parent: await parentOfNew(context, head, made, newest),
    protected: made.protected,
    labels: made.labels,
  };
  if (!(await context.documents.create(scope, snapshotKey(made.log, name), document)))
    throw new DvceError('ALREADY_EXISTS', { kind: 'snapshot', name });
  return document;
}

/** Change a snapshot's labels or protection. */
export async function updateSnapshot(
  context: HlfsContext,
  volume: VolumeId,
  name: string,
  change: {
    readonly labels?: Readonly<Record<string, string>>;
    readonly protected?: boolean;
  },
): Promise<SnapshotDocument> {
  if (change.labels !== undefined) checkLabels(change.labels);
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const { version, value } = await findSnapshot(context, volume, name);
    const next = { ...value, ...change };
    if (await replaceSnapshot(context, value, version, next)) return next;
  }
  throw changedTooOften('snapshot', name);
}

export const replaceSnapshot = (
  context: HlfsContext,
  { log, name }: SnapshotDocument,
  version: number,
  next: SnapshotDocument,
): Promise<boolean> =>
  context.documents.replace(context.scope, snapshotKey(log, name), version, next);

/**
 * Does this pin keep the snapshot from being deleted? What starts further down the line needs the segments, not the
 * snapshot; its own pins keep those.
 */
export const blocks = (pin: PinDocument, snapshot: SnapshotDocument): boolean =>
  pin.snapshot === snapshot.id && (pin.kind === 'reader' || pin.volume !== snapshot.volume);
