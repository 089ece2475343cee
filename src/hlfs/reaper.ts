/**
 * The reaper: what deletion, rollback and crashes leave to do. It may run at any time, in any process, and be cut short
 * anywhere: each step is repeatable, and the document that leads to the rest goes last (N2).
 *
 * For a log that is no volume's current one it computes the *retained positions*: the roots of living snapshots and the cuts
 * of pins, in this order. A fork writes its pins, then looks at the snapshot; so once the snapshots are gone, every fork that
 * went through has its pin in the list. With no position left the log goes as a whole: segments first, then the pins that it
 * held in its own base logs, which may set those free in turn. Absence alone is never a reason to delete (N7): a log goes
 * because its volume's head says `deleting`, or names another log as the current one.
 */
import { type DvceError, type LogId, toDvceError, type VolumeId } from '../base/index.ts';
import { releaseBase } from './base-release.ts';
import { headKey, readHead } from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import { isTrashed, updateHead, volumeIds } from './heads.ts';
import { dropName, reapIntents } from './intents.ts';
import { sweepNames } from './names-walk.ts';
import { listPins, reapReaderPins } from './pins.ts';
import { removeHead, removeHeadless, removeLog } from './removal.ts';
import { type HeadDocument, snapshotLogsOf } from './schema.ts';
import { dropSnapshots, settleDeletions } from './snapshot-deletion.ts';
import { snapshotsIn } from './snapshot-index.ts';
import { dropUndecided, finishSets } from './snapshot-sets.ts';

/**
 * Delete the segments of a log that none of these positions needs; the engine provides it. It must be repeatable.
 * @returns true when the log has no segment left
 */
export type ReclaimLog = (
  context: HlfsContext,
  log: LogId,
  positions: readonly number[],
) => Promise<boolean>;

/** Positions of a log whose content is still needed, ascending (G2, G3). */
export async function retainedPositions(context: HlfsContext, log: LogId): Promise<number[]> {
  const snapshots = await snapshotsIn(context, log);
  const pins = await listPins(context, log);
  const positions = [
    ...snapshots.map(({ value }) => value.rootSegment),
    ...pins.map(({ cut }) => cut),
  ];
  return [...new Set(positions)].sort((a, b) => a - b);
}

/**
 * Go through everything once, and again as long as that set something free. A failure on one volume does not keep the others
 * from being looked at; the first one is thrown at the end.
 */
export async function reap(context: HlfsContext, reclaimLog: ReclaimLog): Promise<void> {
  await reapIntents(context);
  await sweepNames(context);
  await finishSets(context);
  let failure: DvceError | undefined;
  // Each round but the last removes a log, a volume or a base, so their number bounds the rounds.
  for (let isFreed = true; isFreed && failure === undefined; ) {
    isFreed = false;
    for (const volume of await volumeIds(context)) {
      try {
        if (await reapVolume(context, volume, reclaimLog)) isFreed = true;
      } catch (error) {
        const known = toDvceError(error);
        context.logger.warn({ volume, code: known.code }, `reaping failed: ${known.message}`);
        failure ??= known;
      }
    }
  }
  if (failure !== undefined) throw failure;
}

/** @returns true when a log or the whole volume went, or a log let go of its base */
export async function reapVolume(
  context: HlfsContext,
  volume: VolumeId,
  reclaimLog: ReclaimLog,
): Promise<boolean> {
  const head = (await readHead(context, volume))?.value;
  if (head === undefined) await removeHeadless(context, volume);
  // A volume that is being made is its intent's business; one in the trash is kept as it is.
  if (head === undefined || head.state === 'creating' || isTrashed(head)) return false;
  const isDeleting = head.state === 'deleting';
  if (isDeleting) await prepareDeleted(context, head);
  else {
    await dropUndecided(context, head);
    await settleDeletions(context, head);
  }
  let isFreed = !isDeleting && (await releaseIfFlattened(context, head));
  // The current log comes first: what goes frees its base logs for the same round.
  for (const log of head.logs) {
    await reapReaderPins(context, log);
    if (!isDeleting && log === head.log) continue;
    // The next writer fences the pending scopes (T3); were their directory removed under it, it could not.
    const mustStay = !isDeleting && head.pending.some((left) => left.log === log);
    if (!(await reapLog(context, log, reclaimLog, mustStay))) continue;
    isFreed = true;
    await forgetLog(context, head, log);
  }
  const now = (await readHead(context, volume))?.value;
  if (now?.state !== 'deleting' || now.logs.length > 0) return isFreed;
  await removeHead(context, volume);
  context.logger.info({ volume }, 'a deleted volume is gone');
  return true;
}

/** What needed the base of a flattened log may have gone (DD-0018). */
const releaseIfFlattened = async (context: HlfsContext, head: HeadDocument): Promise<boolean> =>
  head.flattened === head.log &&
  head.promoting === undefined &&
  (await releaseBase(context, head.volume)) === null;

/** A deleted volume: no name, no writer whose request may still arrive (S1), no snapshot to fork from. */
async function prepareDeleted(context: HlfsContext, head: HeadDocument): Promise<void> {
  await dropName(context, head);
  // Those of a log that is gone went with it: fencing them would make its directory anew.
  for (const { scope, log } of head.pending)
    if (scope !== null && head.logs.includes(log)) await context.store.fence(scope);
  for (const log of snapshotLogsOf(head)) await dropSnapshots(context, log, head.volume);
}

/** @returns true when the log is gone */
async function reapLog(
  context: HlfsContext,
  log: LogId,
  reclaimLog: ReclaimLog,
  mustStay: boolean,
): Promise<boolean> {
  const positions = await retainedPositions(context, log);
  const isEmpty = await reclaimLog(context, log, positions);
  if (mustStay || positions.length > 0 || !isEmpty) return false;
  await removeLog(context, log);
  context.logger.info({ log }, 'a log is gone');
  return true;
}

async function forgetLog(context: HlfsContext, head: HeadDocument, log: LogId): Promise<void> {
  const without = (now: HeadDocument): HeadDocument =>
    now.logs.includes(log) ? { ...now, logs: now.logs.filter((other) => other !== log) } : now;
  if (head.state !== 'deleting') {
    await updateHead(context, head.volume, without);
    return;
  }
  const now = await readHead(context, head.volume);
  // Losing to another reaper is fine: the next round sees what is left.
  if (now !== undefined)
    await context.documents.replace(
      context.scope,
      headKey(head.volume),
      now.version,
      without(now.value),
    );
}
