/**
 * Promote: a clone takes over what it was cloned from, and its former parent becomes a clone of it (G4, DD-0018).
 *
 *   before   parent: log P, snapshots a b c      clone: log C, based on (P, b)
 *   after    parent: log P2, based on (P, end), snapshot c      clone: logs C and P, snapshots a b
 *
 * Nothing is copied. The logs that both have in common go to the clone, which has the right to delete them from then on; a parent
 * that was writing one of them goes on in a new log that begins at its end. Snapshots at or before the branching point are the
 * clone's; which volume a snapshot in a common log belongs to is said by its own document.
 *
 *   intent -> clone `promoting` -> new log with its pins -> parent: one compare-and-swap (`promoting`, its new logs): decided
 *   -> the clone has the logs -> documents of logs, pins and snapshots say so -> other clones' origins -> neither is `promoting`
 *
 * Invariants:
 * - the parent's head decides: before it changed everything is undone, afterwards all the rest is done, by this process or by the
 *   next one that finds the intent. Each step is repeatable;
 * - `promoting` keeps both volumes from being deleted, promoted, flattened or given snapshots meanwhile;
 * - pins come before the change that needs them, and none goes: who needed a segment before has its pin afterwards. A common log is
 *   in the head of at most one of the two, and in between in none, so that nobody deletes from it (G2).
 */
import { asLogId, DvceError, type LogId, randomUuid, type VolumeId } from '../base/index.ts';
import type { VolumeTarget } from './catalog.ts';
import { logKey, readHead, readLog, readSnapshot } from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import type { ReadRanges } from './forks.ts';
import {
  type InUse,
  isKept,
  raiseEpoch,
  refuseImage,
  refuseInUse,
  refusePromoting,
  requireHead,
  updateHead,
  withFeature,
} from './heads.ts';
import { settleIntent, underIntent, writeIntent } from './intents.ts';
import { cutsOf, writePins } from './pins.ts';
import type { HeadDocument, LogDocument, LogRange, Promotion, SnapshotDocument } from './schema.ts';
import { promotedFeature, storeFormatVersion } from './schema.ts';
import { snapshotsIn } from './snapshot-index.ts';
import { listSnapshots } from './snapshots.ts';

export interface PromotionReaders {
  readonly readRanges: ReadRanges;
  /** The root at the end of the log of a closed volume. @throws CONFLICT when it was not closed cleanly */
  readonly readEnd: (context: HlfsContext, head: HeadDocument) => Promise<number>;
}

interface Plan {
  readonly target: VolumeTarget;
  readonly head: HeadDocument;
  readonly parent: HeadDocument;
  readonly snapshot: SnapshotDocument;
  readonly ranges: readonly LogRange[];
  /** Logs that go from the parent to the clone, the newest first. */
  readonly moved: readonly LogId[];
}

/** What a promote would do now. */
export interface PromotionPlan {
  readonly parent: VolumeId;
  /** Where it branched off. */
  readonly snapshot: string;
  /** Names of the snapshots that go over to the clone. */
  readonly snapshots: readonly string[];
  /** The parent goes on in a new log, for which it must not be in use. */
  readonly parentMoves: boolean;
}

/** @throws NOT_ALLOWED, ALREADY_EXISTS, CONFLICT, NOT_FOUND */
export async function planPromotion(
  context: HlfsContext,
  target: VolumeTarget,
): Promise<PromotionPlan> {
  const plan = await makePlan(context, target);
  const { parent, snapshot, moved } = plan;
  const snapshots = (await goingOver(context, plan)).map(({ name }) => name);
  const parentMoves = moved.includes(parent.log);
  return { parent: parent.volume, snapshot: snapshot.name, snapshots, parentMoves };
}

/**
 * @param inUse asked about the parent
 * @throws as `planPromotion`; IN_USE while the parent is open or attached
 */
export async function promoteVolume(
  context: HlfsContext,
  target: VolumeTarget,
  readers: PromotionReaders,
  inUse: InUse,
): Promise<HeadDocument> {
  const plan = await makePlan(context, target);
  const { parent, moved, snapshot } = plan;
  const fork = moved.includes(parent.log) ? await newLog(context, plan, readers) : null;
  const log = fork?.log ?? asLogId(randomUuid(context.random));
  const promotion = await describe(context, plan, fork);
  const pinned = [...cutsOf(fork?.base?.ranges ?? []).keys()];
  const facts = { kind: 'promote', volume: target.id, log, pinned, path: target.path } as const;
  const intent = await writeIntent(context, { ...facts, promotion });
  await underIntent(context, intent, async () => {
    await updateHead(context, target.id, (head) => begin(head, plan.head, log));
    if (fork !== null) {
      await context.documents.create(context.scope, logKey(log), fork);
      const pin = { who: log, kind: 'fork', volume: parent.volume, snapshot: snapshot.id } as const;
      await writePins(context, fork.base?.ranges ?? [], pin);
    }
    await refuseTaken(context, plan);
    await updateHead(context, parent.volume, (head) => {
      if (head.promoting === log) return head;
      refusePromoting(head);
      if (fork !== null) refuseInUse(head, inUse, head.name);
      if (head.log !== parent.log || head.epoch !== parent.epoch) throw changed(head);
      return handOver(head, promotion, fork, log);
    });
  });
  // Neither may stay `promoting` because a store was away for a moment.
  const { value: head } = await requireHead(context, target.id);
  if (head.promoting === log) await settleIntent(context, intent);
  return (await requireHead(context, target.id)).value;
}

function begin(head: HeadDocument, planned: HeadDocument, log: LogId): HeadDocument {
  if (head.promoting === log) return head;
  refusePromoting(head);
  if (head.log !== planned.log) throw changed(head);
  return { ...head, promoting: log };
}

const changed = ({ name }: HeadDocument): DvceError =>
  new DvceError('CONFLICT', { kind: 'volume', name, reason: 'it was changed meanwhile' });

/** The parent without what it has in common with the clone: the change that decides. */
function handOver(
  { flattened: _waits, ...head }: HeadDocument,
  { moved, origin }: Promotion,
  fork: LogDocument | null,
  promoting: LogId,
): HeadDocument {
  const rest = head.logs.filter((log) => !moved.includes(log));
  const known = new Set([...(head.snapshotLogs ?? []), ...moved]);
  const features = withFeature(head.features, promotedFeature);
  const next: HeadDocument = { ...head, features, origin, snapshotLogs: [...known], promoting };
  if (fork === null) return { ...next, logs: rest };
  return { ...raiseEpoch(next), log: fork.log, logs: [fork.log, ...rest] };
}

function notAllowed(path: string, reason: string, advice: string): DvceError {
  return new DvceError('NOT_ALLOWED', { what: `promoting ${path}`, reason, advice });
}

async function makePlan(context: HlfsContext, target: VolumeTarget): Promise<Plan> {
  const { path } = target;
  const { value: head } = await requireHead(context, target.id);
  refuseImage(head, path);
  refusePromoting(head);
  const ranges = (await readLog(context, head.log))?.value.base?.ranges ?? [];
  if (head.origin === null || ranges.length === 0 || head.flattened === head.log)
    throw notAllowed(
      path,
      head.origin === null ? 'it has no origin' : 'its content needs nothing of its origin',
      'Only a clone takes over what it was cloned from.',
    );
  const snapshot = await originOf(context, head, ranges);
  const parent = snapshot && (await readHead(context, snapshot.volume))?.value;
  if (snapshot === undefined || parent === undefined || !isKept(parent) || parent.trash)
    throw notAllowed(
      path,
      'the snapshot that it was cloned from is gone, in the trash, or was a point in time',
      `To make it need nothing of it: dvce volume flatten ${path}`,
    );
  refuseParent(parent, path);
  const logs = [...cutsOf(ranges).keys()].reverse();
  const moved = logs.filter((log) => parent.logs.includes(log));
  const plan = { target, head, parent, snapshot, ranges, moved };
  await refuseTaken(context, plan);
  return plan;
}

function refuseParent(parent: HeadDocument, path: string): void {
  refusePromoting(parent);
  if (parent.kind === 'image')
    throw notAllowed(
      path,
      'it was cloned from an image, whose content stays its own',
      `To make it need nothing of the image: dvce volume flatten ${path}`,
    );
  if ((parent.retainMs ?? null) !== null)
    throw notAllowed(
      path,
      `its parent ${parent.name} keeps points in time, which would be lost`,
      'Give them up with: dvce volume update PARENT --retain off',
    );
}

/** The snapshot that a volume was cloned from. */
async function originOf(
  context: HlfsContext,
  { origin, volume }: HeadDocument,
  ranges: readonly LogRange[],
): Promise<SnapshotDocument | undefined> {
  if (origin === null) return undefined;
  for (const { log, last } of ranges.toReversed()) {
    const found = (await readSnapshot(context, log, origin.snapshot))?.value;
    if (found?.state !== 'live' || found.volume === volume || found.rootSegment > last) continue;
    return found;
  }
  return undefined;
}

/** Snapshots of the parent at or before the branching point. */
async function goingOver(
  context: HlfsContext,
  { ranges, parent }: Pick<Plan, 'ranges' | 'parent'>,
): Promise<SnapshotDocument[]> {
  const found: SnapshotDocument[] = [];
  for (const [log, cut] of cutsOf(ranges))
    for (const { value } of await snapshotsIn(context, log))
      if (value.volume === parent.volume && value.rootSegment <= cut) found.push(value);
  return found;
}

/** Two snapshots of one volume never have the same name. */
async function refuseTaken(context: HlfsContext, plan: Plan): Promise<void> {
  const own = await listSnapshots(context, plan.target.id);
  const names = new Set<string>(own.map(({ document }) => document.name));
  const taken = (await goingOver(context, plan)).filter(({ name }) => names.has(name));
  if (taken.length === 0) return;
  const name = taken.map((one) => `${plan.target.path}@${one.name}`).join(', ');
  throw new DvceError('ALREADY_EXISTS', { kind: 'snapshot', name });
}

/** The parent goes on where it ended. */
async function newLog(
  context: HlfsContext,
  { parent, target, snapshot }: Plan,
  { readRanges, readEnd }: PromotionReaders,
): Promise<LogDocument> {
  const rootSegment = await readEnd(context, parent);
  const { ranges, checksum } = await readRanges(context, parent.log, rootSegment);
  const { log, id, name } = snapshot;
  return {
    format: storeFormatVersion,
    log: asLogId(randomUuid(context.random)),
    volume: parent.volume,
    base: { ranges, rootSegment, checksum, snapshot: { volume: target.id, log, id, name } },
    createdAtMs: context.clock.wallMs(),
  };
}

/** All that is to be done once it is decided. */
async function describe(
  context: HlfsContext,
  plan: Plan,
  fork: LogDocument | null,
): Promise<Promotion> {
  const { target, head, parent, ranges, moved, snapshot } = plan;
  const cuts = [...cutsOf(ranges)].map(([log, cut]) => ({ log, cut }));
  const now = fork ?? (await readLog(context, parent.log))?.value;
  const branch = await branchOf(context, plan, now?.base?.ranges ?? []);
  const named = branch ?? snapshot;
  const former = await originOf(context, parent, ranges);
  return {
    parent: parent.volume,
    moved,
    cuts,
    scope: fork === null ? null : parent.scope,
    origin: { volume: target.id, path: target.path, snapshot: named.name },
    formerOrigin: parent.origin,
    pins: [
      { log: named.log, who: now?.log ?? parent.log, snapshot: named.id },
      ...(former === undefined ? [] : [{ log: former.log, who: head.log, snapshot: former.id }]),
    ],
  };
}

/** The newest snapshot that goes over and that the parent's content descends from. */
async function branchOf(
  context: HlfsContext,
  plan: Plan,
  parentRanges: readonly LogRange[],
): Promise<SnapshotDocument | undefined> {
  const reached = cutsOf(parentRanges);
  const common = (await goingOver(context, plan)).filter(
    ({ log, rootSegment }) => rootSegment <= (reached.get(log) ?? -1),
  );
  if (common.some(({ id }) => id === plan.snapshot.id)) return plan.snapshot;
  return common.toSorted((a, b) => a.rootSegment - b.rootSegment).at(-1);
}
