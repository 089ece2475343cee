/**
 * Intents: how a volume or log that was half made is found and undone (N2). The maker writes `intents/<log>` first and
 * removes it last; in between it makes the log, its pins, the head, the name. What decides is the head alone: once it is
 * active (new volume) or names the log (rollback), the thing exists and only the intent is left to remove; else
 * everything that the intent lists is taken away. Of a flatten the log's document decides: once it has no base, the pins in the
 * base are taken away; else nothing was done. Age decides nothing; the intent of a process that may still be at work is
 * left alone.
 */
import {
  asLogId,
  isUuid,
  type LogId,
  limits,
  toDvceError,
  type VolumeId,
  type VolumePath,
} from '../base/index.ts';
import {
  headKey,
  intentKey,
  readHead,
  readIntent,
  readLog,
  readName,
} from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import { changedTooOften, isKept } from './heads.ts';
import { dropEntry, pruneAbove } from './names.ts';
import { releasePins } from './pins.ts';
import { finishPromotion, isPromoted, undoPromotion } from './promotion-steps.ts';
import { removeHead, removeLog } from './removal.ts';
import type { HeadDocument, IntentDocument } from './schema.ts';
import { storeFormatVersion } from './schema.ts';
import { scopeIsAlive } from './scopes.ts';

export async function writeIntent(
  context: HlfsContext,
  intent: Pick<IntentDocument, 'kind' | 'volume' | 'log' | 'pinned' | 'path' | 'promotion'>,
): Promise<IntentDocument> {
  const document: IntentDocument = {
    format: storeFormatVersion,
    ...intent,
    node: context.node,
    scope: context.scope,
    createdAtMs: context.clock.wallMs(),
  };
  await context.documents.create(context.scope, intentKey(intent.log), document);
  return document;
}

/**
 * Run the steps that an intent announces, then remove the intent. When a step fails, the head tells whether the last one
 * took place all the same; if not, everything is undone and the failure goes on to the caller.
 */
export async function underIntent(
  context: HlfsContext,
  intent: IntentDocument,
  steps: () => Promise<void>,
): Promise<void> {
  try {
    await steps();
  } catch (error) {
    if ((await trySettle(context, intent)) !== 'kept') throw error;
    return;
  }
  await trySettle(context, intent);
}

/** A failure leaves the intent for the next start of this node. */
async function trySettle(
  context: HlfsContext,
  intent: IntentDocument,
): Promise<'kept' | 'undone' | 'unknown'> {
  try {
    return await settleIntent(context, intent);
  } catch (error) {
    const { code, message } = toDvceError(error);
    context.logger.warn({ log: intent.log, code }, `an intent is left for later: ${message}`);
    return 'unknown';
  }
}

export async function settleIntent(
  context: HlfsContext,
  intent: IntentDocument,
): Promise<'kept' | 'undone'> {
  const isKept = await settlers[intent.kind](context, intent);
  await context.documents.purge(intentKey(intent.log));
  return isKept ? 'kept' : 'undone';
}

/** @returns true when the volume exists */
async function settleVolume(context: HlfsContext, intent: IntentDocument): Promise<boolean> {
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const head = await readHead(context, intent.volume);
    if (head !== undefined && isKept(head.value)) return true;
    // Deleted since, or an undoing that was cut short: the reaper has it.
    if (head?.value.state === 'deleting') return false;
    if (head !== undefined) {
      const deleting = { ...head.value, state: 'deleting' } as const;
      const key = headKey(intent.volume);
      if (!(await context.documents.replace(context.scope, key, head.version, deleting))) continue;
      await dropName(context, head.value);
    }
    await releasePins(context, intent.pinned, intent.log);
    await removeLog(context, intent.log);
    if (head !== undefined) await removeHead(context, intent.volume);
    if (intent.path !== null) await pruneAbove(context, intent.path as VolumePath);
    return false;
  }
  throw changedTooOften('volume', intent.volume);
}

/** Drop the name of a volume that is on its way out, if it still has it. */
export async function dropName(context: HlfsContext, head: HeadDocument): Promise<void> {
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const entry = await readName(context, head.parent, head.name);
    if (entry?.value.kind !== 'volume' || entry.value.volume !== head.volume) return;
    if (await dropEntry(context, head, entry.version)) return;
  }
  throw changedTooOften('volume', head.name);
}

/** G4: @returns true when the log has no base any more; then the pins in it go, and what the head says of it */
async function settleFlatten(context: HlfsContext, intent: IntentDocument): Promise<boolean> {
  const document = await readLog(context, intent.log);
  if (document !== undefined && document.value.base !== null) return false;
  await releasePins(context, intent.pinned, intent.log);
  await settleReleased(context, intent.volume);
  return true;
}

/** A volume of whose logs none starts in another volume's has no origin. */
export async function settleReleased(context: HlfsContext, volume: VolumeId): Promise<void> {
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const head = await readHead(context, volume);
    if (head === undefined || !isKept(head.value)) return;
    const next = await withoutOrigin(context, head.value);
    if (next === null) return;
    if (await context.documents.replace(context.scope, headKey(volume), head.version, next)) return;
  }
  throw changedTooOften('volume', volume);
}

/** null: the head says already what is so. */
async function withoutOrigin(
  context: HlfsContext,
  { flattened, ...head }: HeadDocument,
): Promise<HeadDocument | null> {
  const isNoted = flattened === head.log && !(await hasBase(context, head.log));
  const hasOrigin = head.origin !== null && (await startsElsewhere(context, head));
  if (!isNoted && (head.origin === null || hasOrigin)) return null;
  const noted = isNoted || flattened === undefined ? {} : { flattened };
  return { ...head, origin: hasOrigin ? head.origin : null, ...noted };
}

const hasBase = async (context: HlfsContext, log: LogId): Promise<boolean> =>
  ((await readLog(context, log))?.value.base ?? null) !== null;

async function startsElsewhere(context: HlfsContext, head: HeadDocument): Promise<boolean> {
  for (const log of head.logs) {
    const ranges = (await readLog(context, log))?.value.base?.ranges ?? [];
    if (ranges.some((range) => !head.logs.includes(range.log))) return true;
  }
  return false;
}

/** @returns true when the volume's head has the log */
async function settleRollback(context: HlfsContext, intent: IntentDocument): Promise<boolean> {
  const head = await readHead(context, intent.volume);
  if (head?.value.logs.includes(intent.log) === true) return true;
  await releasePins(context, intent.pinned, intent.log);
  await removeLog(context, intent.log);
  return false;
}

async function settlePromotion(context: HlfsContext, intent: IntentDocument): Promise<boolean> {
  const { volume, log, promotion } = intent;
  if (promotion !== undefined && (await isPromoted(context, log, promotion))) {
    await finishPromotion(context, volume, log, promotion);
    return true;
  }
  await releasePins(context, intent.pinned, log);
  await removeLog(context, log);
  await undoPromotion(context, volume, log);
  return false;
}

const settlers = {
  volume: settleVolume,
  rollback: settleRollback,
  flatten: settleFlatten,
  promote: settlePromotion,
};

/** At the start of a process, after the scopes of its predecessors were fenced: undo what they left half made. */
export async function reapIntents(context: HlfsContext): Promise<void> {
  for (const name of await context.documents.names('intents')) {
    if (!isUuid(name)) continue;
    const log: LogId = asLogId(name);
    const intent = (await readIntent(context, log))?.value;
    if (intent === undefined) await context.documents.purge(intentKey(log));
    else if (!(await scopeIsAlive(context, intent.scope))) {
      const outcome = await settleIntent(context, intent);
      context.logger.info({ volume: intent.volume, log, outcome }, 'settled an intent');
    }
  }
}
