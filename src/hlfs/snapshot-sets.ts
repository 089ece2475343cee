/**
 * Snapshots of several volumes that exist together or not at all (G5).
 *
 *   all volumes cut at one instant (cuts.ts) -> each writes its snapshot document, `pending`, through its own writer's scope
 *     -> `sets/<id>` is put: from here on all of them exist -> each says `live` itself -> `sets/<id>` goes
 *
 * Invariants
 * - the set's document is the commit point; readers take a pending member for live as soon as it is there (readSnapshot);
 * - a writer that was fenced meanwhile cannot write its member, so the set is given up;
 * - whoever finds a pending member asks first whether the process that decides still may (its scope), and only then for the
 *   set's document: absent then means that it never comes, and the member goes.
 */
import type { LogId } from '../base/index.ts';
import {
  readSet,
  readStoredSnapshot,
  setKey,
  setsPrefix,
  snapshotKey,
} from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import type { Versioned } from './documents.ts';
import type { HeadDocument, SetDocument, SetReference, SnapshotDocument } from './schema.ts';
import { storeFormatVersion } from './schema.ts';
import { scopeIsAlive } from './scopes.ts';
import { replaceSnapshot, snapshotsOfLog } from './snapshots.ts';

/**
 * All members are written: make them exist. @throws FENCED, NO_SPACE, and what else keeps the document from being written; after
 * anything but NO_SPACE it may exist all the same
 */
export async function commitSet(
  context: HlfsContext,
  { id }: SetReference,
  members: readonly SnapshotDocument[],
): Promise<void> {
  const document: SetDocument = {
    format: storeFormatVersion,
    id,
    scope: context.scope,
    members: members.map(({ log, name }) => ({ log, name })),
    createdAtMs: context.clock.wallMs(),
  };
  await context.documents.create(context.scope, setKey(id), document);
  try {
    await finishSet(context, document);
  } catch (error) {
    // They exist. What is left is tidied by the reaper of the next process.
    context.logger.warn({ err: error, set: id }, 'a committed set is not tidied yet');
  }
}

/** Sets whose process died behind the commit. */
export async function finishSets(context: HlfsContext): Promise<void> {
  for (const id of await context.documents.names(setsPrefix)) {
    const set = await readSet(context, id);
    if (set !== undefined && !(await scopeIsAlive(context, set.value.scope)))
      await finishSet(context, set.value);
  }
}

/** Let the members say `live` themselves; then the document is no longer needed. */
async function finishSet(context: HlfsContext, { id, members }: SetDocument): Promise<void> {
  for (const { log, name } of members) {
    const found = await readStoredSnapshot(context, log, name);
    if (found?.value.state !== 'pending' || found.value.set?.id !== id) continue;
    const live = { ...found.value, state: 'live' } as const;
    // Who changes it at the same time wrote `live`, because that is what readers see.
    await replaceSnapshot(context, found.value, found.version, live);
  }
  await context.documents.purge(setKey(id));
}

/** The set is given up before it was committed: take a member away that was written. */
export async function dropMember(
  context: HlfsContext,
  member: Pick<SnapshotDocument, 'log' | 'name'>,
  set: SetReference,
): Promise<void> {
  const found = await readStoredSnapshot(context, member.log, member.name);
  if (found?.value.state !== 'pending' || found.value.set?.id !== set.id) return;
  await context.documents.delete(
    context.scope,
    snapshotKey(member.log, member.name),
    found.version,
  );
}

/** Members that a process left that died before the commit. */
export async function dropUndecided(context: HlfsContext, head: HeadDocument): Promise<void> {
  for (const log of head.logs)
    for (const { name, state } of (await snapshotsOfLog(context, log)).unsettled) {
      const found = state === 'pending' ? await readStoredSnapshot(context, log, name) : undefined;
      if (found?.value.state === 'pending') await settleMember(context, log, found);
    }
}

async function settleMember(
  context: HlfsContext,
  log: LogId,
  found: Versioned<SnapshotDocument>,
): Promise<void> {
  const { set, name } = found.value;
  // In this order: afterwards no document can come any more (see above).
  if (set === undefined || (await scopeIsAlive(context, set.scope))) return;
  if ((await readSet(context, set.id)) !== undefined) return;
  await context.documents.delete(context.scope, snapshotKey(log, name), found.version);
}
