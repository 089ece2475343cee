/** Where the published content of a log is now. */
import type { LogId } from '../base/index.ts';
import { readLog } from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import { newestRoot } from './log-recovery.ts';
import type { RootPosition } from './roots.ts';
import { listSegments } from './segments.ts';

/** The newest root of a log, of its base while it has none of its own; null for a log that nobody ever wrote. */
export async function currentRoot(context: HlfsContext, log: LogId): Promise<RootPosition | null> {
  const { store } = context;
  const root = await newestRoot(store, log, await listSegments(store, log));
  if (root !== null) return { log, rootSegment: root.header.number };
  const base = (await readLog(context, log))?.value.base ?? null;
  const last = base?.ranges.at(-1);
  return base === null || last === undefined
    ? null
    : { log: last.log, rootSegment: base.rootSegment };
}
