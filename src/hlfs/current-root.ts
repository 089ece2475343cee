/** Where the published content of a log is now, also while its writer goes on. */
import { DvceError, type LogId, limits } from '../base/index.ts';
import { readLog } from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import { changedTooOften } from './heads.ts';
import { readJournalState } from './journal-open.ts';
import { newestRoot } from './log-recovery.ts';
import type { RootPosition } from './roots.ts';
import type { HeadDocument } from './schema.ts';
import { listSegments, type Root } from './segments.ts';

/**
 * The newest root of a log and the segments that were there right before it was looked for. The writer deletes meanwhile what
 * two newer roots do not need, and with it perhaps the root that was found: then there is a newer one.
 */
export async function newestRootNow(
  { store }: HlfsContext,
  log: LogId,
): Promise<{ readonly root: Root | null; readonly numbers: readonly number[] }> {
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const numbers = await listSegments(store, log);
    try {
      const root = await newestRoot(store, log, numbers);
      if (root !== null || numbers.length === 0) return { root, numbers };
      // None, or all that was listed has gone: what is there now tells.
      const [now] = await listSegments(store, log);
      if (now === numbers[0]) return { root, numbers };
    } catch (error) {
      if (!(error instanceof DvceError) || error.code !== 'SEGMENT_MISSING') throw error;
    }
  }
  throw changedTooOften('log', log);
}

/** The root at the end of the log of a volume that is closed (promotion.ts). @throws CONFLICT unless it was closed cleanly */
export async function readEnd(context: HlfsContext, head: HeadDocument): Promise<number> {
  const { log, volume, name } = head;
  const { root, numbers } = await newestRootNow(context, log);
  const journal = await readJournalState(context, volume);
  const hasTail = journal?.log === log && !journal.clean;
  if (root !== null && numbers.at(-1) === root.header.number && !hasTail) return root.header.number;
  const reason = 'it was not closed cleanly, or has been opened again';
  throw new DvceError('CONFLICT', { kind: 'volume', name, reason });
}

/** The newest root of a log, of its base while it has none of its own; null for a log that nobody ever wrote. */
export async function currentRoot(context: HlfsContext, log: LogId): Promise<RootPosition | null> {
  const { root } = await newestRootNow(context, log);
  if (root !== null) return { log, rootSegment: root.header.number };
  const base = (await readLog(context, log))?.value.base ?? null;
  const last = base?.ranges.at(-1);
  return base === null || last === undefined
    ? null
    : { log: last.log, rootSegment: base.rootSegment };
}
