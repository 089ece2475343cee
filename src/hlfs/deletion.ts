/**
 * Deleting volumes, and the trash.
 *
 * A volume that is deleted loses its name at once. Into the *trash* it goes by one compare-and-swap of its head to `trashed`.
 * Its epoch, scope, logs, snapshots and pins stay as they are, so clones live on and nothing has to be brought back; above all
 * its journal stays its own, whose tail may hold acknowledged writes of a blockd that was killed (a raised epoch would end
 * it). The end of a volume raises the epoch like a takeover (N2): no writer of before changes it any more. From the trash
 * - `restoreVolume` claims a name and switches the head to `active`, in the order of a rename (N1): cut short before the
 *   switch, the claim means nothing and is dropped by whoever meets it, after a touch of the head, so that the switch fails;
 * - `discardVolume` switches it to `deleting`, and the reaper does the rest. Exactly one of the two wins the head.
 *
 * When it expires is written in the head. The clock decides only about what its owner deleted, and only after the time that
 * was promised; whoever calls `discardVolume` looks at it.
 */
import { asVolumePath, DvceError, limits, type VolumeId, type VolumePath } from '../base/index.ts';
import { undoClaim } from './catalog.ts';
import { headKey, readHead } from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import type { Versioned } from './documents.ts';
import {
  changedTooOften,
  type InUse,
  isAt,
  isTrashed,
  isUsable,
  raiseEpoch,
  refuseInUse,
  refusePromoting,
  updateHead,
  volumeIds,
} from './heads.ts';
import { dropName } from './intents.ts';
import {
  checkFree,
  claimName,
  dropIfStale,
  makePlace,
  noSuchVolume,
  pruneAbove,
  resolve,
  type VolumeRecord,
} from './names.ts';
import type { HeadDocument, TrashFacts } from './schema.ts';
import { linesOf } from './snapshots.ts';

/** A volume in the trash. */
export interface TrashedVolume {
  readonly id: VolumeId;
  readonly head: HeadDocument;
  readonly trash: TrashFacts;
}

/**
 * Delete a volume for good: its name is free at once; its logs go when nothing needs them any more (reaper.ts), so clones
 * live on (B-26).
 * @throws NOT_FOUND, PROTECTED (also because of a protected snapshot), IN_USE (B-39)
 */
export async function deleteVolume(
  context: HlfsContext,
  path: string,
  inUse: InUse,
): Promise<VolumeId> {
  const head = await takeAway(context, path, inUse, (now) => ({
    ...raiseEpoch(now),
    state: 'deleting',
  }));
  return head.volume;
}

/** Put a volume into the trash for `keepMs`. Refused like a deletion. */
export async function trashVolume(
  context: HlfsContext,
  path: string,
  inUse: InUse,
  keepMs: number,
): Promise<TrashedVolume> {
  const atMs = context.clock.wallMs();
  const trash: TrashFacts = { path: asVolumePath(path), atMs, untilMs: atMs + keepMs };
  const head = await takeAway(context, path, inUse, (now) => ({ ...now, state: 'trashed', trash }));
  return { id: head.volume, head, trash };
}

async function takeAway(
  context: HlfsContext,
  path: string,
  inUse: InUse,
  change: (head: HeadDocument) => HeadDocument,
): Promise<HeadDocument> {
  const checked = asVolumePath(path);
  const found = await resolve(context, checked);
  if (found === undefined) throw noSuchVolume(path);
  const { record, place } = found;
  for (const { living } of await linesOf(context, record.head))
    for (const snapshot of living)
      if (snapshot.protected)
        throw new DvceError('PROTECTED', { kind: 'snapshot', name: `${path}@${snapshot.name}` });
  const { value } = await updateHead(context, record.id, (head) => {
    if (!isAt(head, place) || !isUsable(head)) throw noSuchVolume(path);
    if (head.protected) throw new DvceError('PROTECTED', { kind: 'volume', name: path });
    refusePromoting(head);
    refuseInUse(head, inUse, path);
    return change(head);
  });
  // One in the trash may come back under the same name meanwhile: that name is dropped only while the head disagrees with it.
  if (!isTrashed(value)) await dropName(context, value);
  await dropIfStale(context, place);
  await pruneAbove(context, checked);
  return value;
}

/** The trash, what was deleted last first. Reads every head. */
export async function listTrash(context: HlfsContext): Promise<TrashedVolume[]> {
  const found: TrashedVolume[] = [];
  for (const id of await volumeIds(context)) {
    const one = await readTrashed(context, id);
    if (one !== undefined) found.push(one);
  }
  return found.sort((a, b) => b.trash.atMs - a.trash.atMs);
}

/** undefined when the volume is not in the trash. */
export async function readTrashed(
  context: HlfsContext,
  id: VolumeId,
): Promise<TrashedVolume | undefined> {
  const head = await readHead(context, id);
  return head === undefined || !isTrashed(head.value) ? undefined : trashedOf(head.value);
}

function trashedOf(head: HeadDocument): TrashedVolume {
  // Written with the state; a head that lost it is kept for ever rather than taken for expired (N7).
  const trash = head.trash ?? {
    path: `/${head.name}`,
    atMs: head.createdAtMs,
    untilMs: Number.MAX_SAFE_INTEGER,
  };
  return { id: head.volume, head, trash };
}

async function requireTrashed(
  context: HlfsContext,
  id: VolumeId,
): Promise<Versioned<HeadDocument>> {
  const head = await readHead(context, id);
  if (head === undefined || !isTrashed(head.value))
    throw new DvceError('NOT_FOUND', { kind: 'trash', name: id });
  return head;
}

/**
 * Take a volume out of the trash, as it was, to the path that it had or to another one.
 * @throws NOT_FOUND when it is not in the trash (any more), ALREADY_EXISTS when the name is taken
 */
export async function restoreVolume(
  context: HlfsContext,
  id: VolumeId,
  to?: string,
): Promise<VolumeRecord> {
  const target = asVolumePath(
    to ?? trashedOf((await requireTrashed(context, id)).value).trash.path,
  );
  await checkFree(context, target);
  try {
    return await switchBack(context, id, target);
  } catch (error) {
    await undoClaim(context, target, error);
    throw error;
  }
}

async function switchBack(
  context: HlfsContext,
  id: VolumeId,
  path: VolumePath,
): Promise<VolumeRecord> {
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const place = await makePlace(context, path);
    // Read before claiming: whoever drops a claim rewrites the head first, and this switch then fails.
    const { version, value } = await requireTrashed(context, id);
    if (!(await claimName(context, place, id))) continue;
    const { parent, name } = place;
    const head: HeadDocument = { ...value, parent, name, state: 'active', trash: null };
    if (await context.documents.replace(context.scope, headKey(id), version, head))
      return { path, id, version: version + 1, head };
  }
  throw changedTooOften('volume', path);
}

/** From the trash to the reaper. @returns false when it is not in the trash (any more) */
export async function discardVolume(context: HlfsContext, id: VolumeId): Promise<boolean> {
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const head = await readHead(context, id);
    if (head === undefined || !isTrashed(head.value)) return false;
    const deleting: HeadDocument = { ...raiseEpoch(head.value), state: 'deleting' };
    if (await context.documents.replace(context.scope, headKey(id), head.version, deleting))
      return true;
  }
  throw changedTooOften('volume', id);
}
