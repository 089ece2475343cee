/**
 * Deletion of snapshots (G3): `deleting` is set, then the pins are listed; a fork writes its pins, then looks at the state. So
 * one of the two sees the other. Removal is a compare-and-swap from the version that says `deleting`; any process may finish or
 * revert the deletion of another.
 */
import { DvceError, type LogId, limits, type VolumeId } from '../base/index.ts';
import { readSnapshot, snapshotKey } from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import { readTrashed } from './deletion.ts';
import type { Versioned } from './documents.ts';
import { changedTooOften, requireHead } from './heads.ts';
import { listNames } from './names-walk.ts';
import { listPins } from './pins.ts';
import type { HeadDocument, PinDocument, SnapshotDocument } from './schema.ts';
import { snapshotLogsOf } from './schema.ts';
import { snapshotsIn } from './snapshot-index.ts';
import { misplaced } from './snapshot-tree.ts';
import { blocks, findSnapshot, linesOf, replaceSnapshot, snapshotsOfLog } from './snapshots.ts';

/**
 * Delete a snapshot, wherever it is in the tree (G3).
 * @param reapFirst runs the reaper when something holds the snapshot: a clone that was just deleted does so until it is reaped
 * @throws PROTECTED, IN_USE naming the clones, NOT_FOUND
 */
export async function deleteSnapshot(
  context: HlfsContext,
  volume: VolumeId,
  name: string,
  reapFirst?: () => Promise<void>,
): Promise<void> {
  let reapOnce = reapFirst;
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const { version, value } = await findSnapshot(context, volume, name);
    if (value.protected) throw new DvceError('PROTECTED', { kind: 'snapshot', name });
    const deleting = { ...value, state: 'deleting' } as const;
    if (!(await replaceSnapshot(context, value, version, deleting))) continue;
    const outcome = await finishDeletion(context, { version: version + 1, value: deleting });
    if (outcome === 'gone') return;
    if (outcome === 'changed') continue;
    if (reapOnce === undefined) throw await inUse(context, name, outcome);
    await reapOnce();
    reapOnce = undefined;
  }
  throw changedTooOften('snapshot', name);
}

async function inUse(
  context: HlfsContext,
  name: string,
  pins: readonly PinDocument[],
): Promise<DvceError> {
  const volumes = await listNames(context, '/');
  const users: string[] = [];
  for (const pin of pins) {
    const found = volumes.find((record) => record.id === pin.volume);
    const trashed = found === undefined ? await readTrashed(context, pin.volume) : undefined;
    if (pin.kind === 'reader') users.push('a reader');
    else if (found !== undefined) users.push(`its clone ${found.path}`);
    else if (trashed !== undefined)
      users.push(`its clone ${trashed.trash.path} in the trash (dvce trash empty ${trashed.id})`);
    else users.push(`the deleted volume ${pin.volume}`);
  }
  return new DvceError('IN_USE', {
    kind: 'snapshot',
    name,
    reason: [...new Set(users)].sort().join(', '),
    advice: 'Delete its clones first, and close what reads it.',
  });
}

/**
 * From `deleting` to gone, or back to live when a pin is there.
 * @returns the pins that stand against it; `changed` when somebody else finished or reverted it
 */
async function finishDeletion(
  context: HlfsContext,
  { version, value }: Versioned<SnapshotDocument>,
): Promise<'gone' | 'changed' | readonly PinDocument[]> {
  const pins = (await listPins(context, value.log)).filter((pin) => blocks(pin, value));
  if (pins.length > 0) {
    const reverted = await replaceSnapshot(context, value, version, { ...value, state: 'live' });
    return reverted ? pins : 'changed';
  }
  await repairParents(context, value.volume);
  const key = snapshotKey(value.log, value.name);
  if (await context.documents.delete(context.scope, key, version)) return 'gone';
  const now = await readSnapshot(context, value.log, value.name);
  return now?.value.id === value.id ? 'changed' : 'gone';
}

/** Set every `parent` of a volume's living snapshots to what their positions say; deleted ones no longer count (B-09). */
async function repairParents(context: HlfsContext, volume: VolumeId): Promise<void> {
  const { value: head } = await requireHead(context, volume);
  for (const { snapshot, parent } of misplaced(await linesOf(context, head))) {
    const present = await readSnapshot(context, snapshot.log, snapshot.name);
    if (present?.value.id !== snapshot.id || present.value.state !== 'live') continue;
    // Losing is harmless: the tree follows from positions.
    await replaceSnapshot(context, present.value, present.version, { ...present.value, parent });
  }
}

/** Finish or revert deletions that a process left behind. */
export async function settleDeletions(context: HlfsContext, head: HeadDocument): Promise<void> {
  for (const log of snapshotLogsOf(head))
    for (const { name, id, state, volume } of (await snapshotsOfLog(context, log)).unsettled) {
      const isOwn = state === 'deleting' && volume === head.volume;
      const snapshot = isOwn ? await readSnapshot(context, log, name) : undefined;
      if (snapshot?.value.id !== id || snapshot.value.state !== 'deleting') continue;
      const outcome = await finishDeletion(context, snapshot);
      if (outcome === 'gone' || outcome === 'changed') continue;
      await repairParents(context, head.volume);
    }
}

/** Take the snapshots of a deleted volume away, so that no fork can start from them any more. */
export async function dropSnapshots(
  context: HlfsContext,
  log: LogId,
  volume: VolumeId,
): Promise<void> {
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const all = await snapshotsIn(context, log);
    const present = all.filter(({ value }) => value.volume === volume);
    if (present.length === 0) return;
    for (const { version, value } of present)
      await context.documents.delete(context.scope, snapshotKey(log, value.name), version);
  }
  throw changedTooOften('log', log);
}
