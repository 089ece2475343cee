/**
 * The end of a flatten: a log that needs nothing of its base lets go of it (G4, DD-0018).
 *
 *   holders   the newest two roots (L3), snapshots of the log with an older root, points in time from before
 *   none      intent -> the log's document says `base: null` -> the pins in the base go -> the head has no origin -> intent gone
 *   some      the head notes it (`flattened`), and the reaper looks again when they may have gone
 *
 * Invariants:
 * - the log's document is what decides: before it says so nothing has gone; afterwards all the rest is done, by this process or
 *   by the next one that finds the intent (intents.ts). Each step is repeatable;
 * - once the newest root says that the log has no base, no snapshot with another root comes into being (flatten.ts), so the list
 *   of snapshots read here may only be too long. Forks and readers of such snapshots have pins of their own in the base (G3).
 */
import { DvceError, type LogId, limits, type SnapshotName, type VolumeId } from '../base/index.ts';
import { logKey, readLog } from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import { newestRootNow } from './current-root.ts';
import { changedTooOften, refusePromoting, requireHead, updateHead } from './heads.ts';
import { settleReleased, underIntent, writeIntent } from './intents.ts';
import type { HeadDocument, LogDocument } from './schema.ts';
import { type Root, readRoot } from './segments.ts';
import { snapshotsIn } from './snapshot-index.ts';
import type { BaseUse } from './volume-api.ts';

/** @returns what holds the base; null when nothing does (any more) */
export async function releaseBase(context: HlfsContext, volume: VolumeId): Promise<BaseUse | null> {
  const { value: head } = await requireHead(context, volume);
  refusePromoting(head);
  const document = (await readLog(context, head.log))?.value;
  const base = document?.base ?? null;
  if (base === null || document === undefined) {
    // Another log of the volume may have been what it had an origin for.
    await settleReleased(context, volume);
    return null;
  }
  const use = await baseUse(context, head.log);
  if (use !== null) {
    if (!use.roots) await updateHead(context, volume, (now) => noteFlattened(now, head.log));
    return use;
  }
  await release(context, head, base);
  return null;
}

const noteFlattened = (head: HeadDocument, log: LogId): HeadDocument =>
  head.log !== log || head.flattened === log ? head : { ...head, flattened: log };

async function release(
  context: HlfsContext,
  { volume, log }: HeadDocument,
  { ranges }: NonNullable<LogDocument['base']>,
): Promise<void> {
  const pinned = [...new Set(ranges.map((range) => range.log))];
  const intent = await writeIntent(context, { kind: 'flatten', volume, log, pinned, path: null });
  await underIntent(context, intent, () => dropBase(context, log));
}

/** The one change that decides. */
async function dropBase(context: HlfsContext, log: LogId): Promise<void> {
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const found = await readLog(context, log);
    if (found === undefined)
      throw new DvceError('DOCUMENT_DAMAGED', { name: logKey(log), reason: 'it is missing' });
    if (found.value.base === null) return;
    const next: LogDocument = { ...found.value, base: null };
    if (await context.documents.replace(context.scope, logKey(log), found.version, next)) return;
  }
  throw changedTooOften('log', log);
}

/** What the base of a log is needed for; null: for nothing. */
export async function baseUse(context: HlfsContext, log: LogId): Promise<BaseUse | null> {
  const needed = { roots: true, snapshots: [], areMore: false, points: false };
  const { root } = await newestRootNow(context, log);
  if (root === null || !isOwn(root, log)) return needed;
  // One that the writer, going on, has deleted since is not known to be: the next look sees a newer one.
  const older = await rootOrNone(context, log, root.facts.previousRoot);
  if (older === null || !isOwn(older, log)) return needed;
  const floor = root.facts.points?.bases[0]?.root;
  const first = floor === undefined ? older : await rootOrNone(context, log, floor);
  const points = first === null || !isOwn(first, log);
  const snapshots = await snapshotsWithBase(context, log);
  if (!points && snapshots.names.length === 0) return null;
  return { roots: false, snapshots: snapshots.names, areMore: snapshots.areMore, points };
}

/** Does this root say that all of its numbers are of its own log? */
const isOwn = ({ facts }: Root, log: LogId): boolean =>
  facts.ranges.every((range) => range.log === log);

async function rootOrNone(context: HlfsContext, log: LogId, number: number): Promise<Root | null> {
  try {
    return await readRoot(context.store, log, number);
  } catch (error) {
    if (error instanceof DvceError && error.code === 'SEGMENT_MISSING') return null;
    throw error;
  }
}

/** Snapshots of the log whose root names the base, oldest first, as many as are told. Usually they come before all others. */
export async function snapshotsWithBase(
  context: HlfsContext,
  log: LogId,
): Promise<{ readonly names: readonly SnapshotName[]; readonly areMore: boolean }> {
  const all = (await snapshotsIn(context, log)).map(({ value }) => value);
  all.sort((a, b) => a.rootSegment - b.rootSegment);
  const names: SnapshotName[] = [];
  for (const { name, rootSegment } of all) {
    // One that went meanwhile, with its snapshot, is taken for one that does: the next look does not see it.
    const root = await rootOrNone(context, log, rootSegment);
    if (root !== null && isOwn(root, log)) continue;
    if (names.length === limits.holdersListed) return { names, areMore: true };
    names.push(name);
  }
  return { names, areMore: false };
}
