/**
 * Snapshots of a volume: documents in the logs that the volume has had. The tree that they form is in snapshot-tree.ts.
 *
 * Invariants:
 * - a name is used once among all logs of a volume, and the logs of others that have snapshots of it (DD-0018);
 * - the `parent` in a document is set right before a snapshot goes, so that it never names one that is gone (B-09);
 * - where the process remembers snapshots (`context.snapshots`), nothing here but `listSnapshots` reads more documents because a
 *   volume has many of them;
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
import { readLog, readSnapshot, snapshotKey } from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import type { Versioned } from './documents.ts';
import { changedTooOften, checkLabels, refusePromoting, requireHead } from './heads.ts';
import { listPins } from './pins.ts';
import type { HeadDocument, PinDocument, SetReference, SnapshotDocument } from './schema.ts';
import { snapshotLogsOf, storeFormatVersion } from './schema.ts';
import { readSnapshots, several } from './snapshot-index.ts';
import {
  descentOf,
  type Line,
  type ListPlace,
  type LivingOfLog,
  listedAfter,
  newestOf,
  parentAt,
  parentOf,
  type SnapshotFacts,
  type SnapshotsOfLog,
} from './snapshot-tree.ts';

/** Where a snapshot is found. */
export interface SnapshotFollowed {
  readonly log: LogId;
  readonly name: SnapshotName;
}

export interface SnapshotRecord {
  readonly document: SnapshotDocument;
  /** Id of the nearest living snapshot that it descends from, within the volume. */
  readonly parent: string | null;
  readonly parentName: string | null;
  /** The volume's current content descends from it. */
  readonly current: boolean;
  /** Other volumes that start from it. */
  readonly clones: readonly VolumeId[];
}

/** The snapshots of a log, from what is remembered of them where that is done. */
export const snapshotsOfLog = (
  context: HlfsContext,
  log: LogId,
): Promise<SnapshotsOfLog<SnapshotFacts>> =>
  context.snapshots === undefined ? readSnapshots(context, log) : context.snapshots.of(log);

/** The logs of a volume, the current one first. */
export const linesOf = (context: HlfsContext, head: HeadDocument): Promise<Line[]> =>
  linesWith(context, head, snapshotsOfLog);

async function linesWith<Each extends SnapshotFacts>(
  context: HlfsContext,
  head: HeadDocument,
  read: (context: HlfsContext, log: LogId) => Promise<SnapshotsOfLog<Each>>,
): Promise<Line<Each>[]> {
  const lines: Line<Each>[] = [];
  const logs = snapshotLogsOf(head);
  for (const log of logs) {
    const base = (await readLog(context, log))?.value.base ?? null;
    const { living, byTime } = ownOf(head, await read(context, log));
    const isOwn =
      base !== null && (base.snapshot.volume === head.volume || logs.includes(base.snapshot.log));
    lines.push({
      log,
      base: isOwn
        ? {
            log: base.snapshot.log,
            cut: base.rootSegment,
            snapshotId: base.snapshot.id,
            writtenBy: base.ranges.at(-1)?.log,
          }
        : null,
      living,
      byTime,
    });
  }
  return lines;
}

/** In a log that volumes have in common each sees its own (DD-0018); in any other all are. */
function ownOf<Each extends SnapshotFacts>(
  { snapshotLogs, volume }: HeadDocument,
  { living, byTime }: LivingOfLog<Each>,
): LivingOfLog<Each> {
  if (snapshotLogs === undefined) return { living, byTime };
  const isOwn = (each: Each): boolean => each.volume === volume;
  return { living: living.filter(isOwn), byTime: byTime.filter(isOwn) };
}

/** What a list shows of some of the volume's snapshots. */
async function recordsOf(
  context: HlfsContext,
  head: HeadDocument,
  lines: readonly Line[],
  documents: readonly SnapshotDocument[],
): Promise<SnapshotRecord[]> {
  const isCurrent = descentOf(lines, head);
  const clones = new Map<string, VolumeId[]>();
  for (const log of new Set(documents.map((document) => document.log)))
    for (const { kind, volume, snapshot } of await listPins(context, log))
      if (kind === 'fork' && volume !== head.volume)
        clones.set(snapshot, [...(clones.get(snapshot) ?? []), volume]);
  return documents.map((document) => {
    const parent = parentOf(lines, document);
    return {
      document,
      parent: parent?.id ?? null,
      parentName: parent?.name ?? null,
      current: isCurrent(document),
      clones: clones.get(document.id) ?? [],
    };
  });
}

/** All living snapshots of a volume, parents before children. Reads every document. */
export async function listSnapshots(
  context: HlfsContext,
  volume: VolumeId,
): Promise<SnapshotRecord[]> {
  const { value: head } = await requireHead(context, volume);
  const lines = await linesWith(context, head, readSnapshots);
  const documents = lines.toReversed().flatMap(({ living }) => living);
  return recordsOf(context, head, lines, documents);
}

/** How many living snapshots a volume has. */
export async function countSnapshots(context: HlfsContext, head: HeadDocument): Promise<number> {
  let count = 0;
  for (const log of snapshotLogsOf(head))
    count += ownOf(head, await snapshotsOfLog(context, log)).living.length;
  return count;
}

/** Living snapshots in the order of lists, behind `after`. */
export async function snapshotPage(
  context: HlfsContext,
  volume: VolumeId,
  after: ListPlace | undefined,
  limit: number,
): Promise<{ readonly records: SnapshotRecord[]; readonly next: ListPlace | null }> {
  const { value: head } = await requireHead(context, volume);
  const lines = await linesOf(context, head);
  const listed = listedAfter(lines, after, limit);
  const found = new Map<string, SnapshotDocument>();
  await several(listed, async ({ log, name, id }) => {
    const now = (await readSnapshot(context, log, name))?.value;
    // It may have gone since.
    if (now?.id === id && now.state === 'live') found.set(id, now);
  });
  const documents = listed.flatMap(({ id }) => found.get(id) ?? []);
  const records = await recordsOf(context, head, lines, documents);
  return { records, next: listed.length < limit ? null : (listed.at(-1) ?? null) };
}

/** One living snapshot, as a list shows it. @throws NOT_FOUND; CONFLICT while it is being deleted */
export async function snapshotRecord(
  context: HlfsContext,
  volume: VolumeId,
  name: string,
): Promise<SnapshotRecord> {
  const { value: document } = await findSnapshot(context, volume, name);
  const { value: head } = await requireHead(context, volume);
  const lines = await linesOf(context, head);
  const [record] = await recordsOf(context, head, lines, [document]);
  if (record === undefined) throw new DvceError('NOT_FOUND', { kind: 'snapshot', name });
  return record;
}

/** The snapshot that the next one of the volume will follow: where the content of its current log comes from. */
export async function newestSnapshot(
  context: HlfsContext,
  head: HeadDocument,
): Promise<SnapshotFollowed | null> {
  const newest = newestOf(await linesOf(context, head), head.log);
  return newest === undefined ? null : { log: newest.log, name: newest.name };
}

/** @throws NOT_FOUND; CONFLICT while it is being deleted */
export async function findSnapshot(
  context: HlfsContext,
  volume: VolumeId,
  name: string,
): Promise<Versioned<SnapshotDocument>> {
  const checked = asSnapshotName(name);
  const { value: head } = await requireHead(context, volume);
  for (const log of snapshotLogsOf(head)) {
    const found = await readSnapshot(context, log, checked);
    if (found?.value.volume !== volume || found.value.state === 'pending') continue;
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
  refusePromoting(head);
  if (!(await isNameTaken(context, head, checked))) return checked;
  throw new DvceError('ALREADY_EXISTS', { kind: 'snapshot', name });
}

/** Also by one that is being made or deleted. */
export async function isNameTaken(
  context: HlfsContext,
  head: HeadDocument,
  name: SnapshotName,
): Promise<boolean> {
  for (const log of snapshotLogsOf(head))
    if ((await readSnapshot(context, log, name))?.value.volume === head.volume) return true;
  return false;
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
  follows: SnapshotFollowed | null | undefined,
): Promise<string | null> {
  if (follows === null) return null;
  if (follows !== undefined) {
    const probable = (await readSnapshot(context, follows.log, follows.name))?.value;
    const isBefore = follows.log !== made.log || (probable?.rootSegment ?? 0) <= made.rootSegment;
    if (probable?.state === 'live' && isBefore) return probable.id;
  }
  return parentAt(await linesOf(context, head), made.log, made.rootSegment)?.id ?? null;
}

/**
 * The last step of a snapshot: once its root is durable, its document makes it exist.
 * @param scope the writer's publishing scope: a writer that was fenced makes no snapshots
 * @param follows what is probably the newest snapshot before it, null for none: then not all of them have to be read
 */
export async function createSnapshotDocument(
  context: HlfsContext,
  scope: string,
  volume: VolumeId,
  made: NewSnapshot,
  follows?: SnapshotFollowed | null,
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
    parent: await parentOfNew(context, head, made, follows),
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
