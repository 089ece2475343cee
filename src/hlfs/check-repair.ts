/**
 * What `volume check --repair` does: only what loses nothing, whatever else is wrong.
 *
 *   unfinished uploads, scopes nobody names   taken away: no writer that the head names can miss them (S1, S8)
 *   a pin that is needed and not there        written: it only holds more back (G3)
 *   wrong counts in the segment table         counted anew from the map while this process is the writer, and rooted; never
 *                                             while anything of the content or of the documents is damaged, for then the map
 *                                             that would be counted may not be whole
 *
 * It never deletes a segment, a root, a snapshot, a pin or a document, never changes content, and never gives any up: for
 * that there are a backup, `snapshot delete` and `volume recover --accept-loss`.
 */
import { logKey, pinKey } from './catalog-documents.ts';
import type { LeftScope, MissingPin } from './check-documents.ts';
import type { Findings } from './check-findings.ts';
import type { HlfsContext } from './context.ts';
import { writePins } from './pins.ts';
import type { HeadDocument } from './schema.ts';
import { openVolume } from './volume-open.ts';

/** What could be put right. */
export interface Repairs {
  readonly pins: MissingPin[];
  readonly scopes: LeftScope[];
  recount: boolean;
}

/** Name what can be put right as findings, and put it right when asked to. */
export async function applyRepairs(
  part: { readonly context: HlfsContext; readonly findings: Findings },
  head: HeadDocument,
  repairs: Repairs,
  isDone: boolean,
): Promise<void> {
  const { context, findings } = part;
  for (const { log, cut, document } of repairs.pins) {
    if (isDone) await writePin(context, head, log, cut, document);
    const detail = `${logKey(document.log)} reads it up to segment ${cut}`;
    findings.addRepair('CHECK_MISSING_PIN', pinKey(log, document.log), detail, isDone);
  }
  for (const left of repairs.scopes) await takeAway(part, left, isDone);
  if (!repairs.recount || !isCountable(findings)) return;
  if (isDone) await recountVolume(context, head);
  for (const object of findings.objects('CHECK_WRONG_COUNT'))
    findings.addRepair('CHECK_WRONG_COUNT', object, '', isDone);
}

async function takeAway(
  { context, findings }: { readonly context: HlfsContext; readonly findings: Findings },
  { scope, uploads, isOpen }: LeftScope,
  isDone: boolean,
): Promise<void> {
  if (isDone) {
    await context.store.fence(scope);
    await context.store.sweepScope(scope);
  }
  if (isOpen)
    findings.addRepair('CHECK_LEAKED_SCOPE', scope, 'it is open, and no head names it', isDone);
  if (uploads > 0)
    findings.addRepair('CHECK_LEAKED_UPLOAD', scope, `${uploads} unfinished uploads`, isDone);
}

async function writePin(
  context: HlfsContext,
  { volume }: HeadDocument,
  log: MissingPin['log'],
  cut: number,
  { log: who, base }: MissingPin['document'],
): Promise<void> {
  if (base === null) return;
  const range = { first: 1, last: cut, log, store: 'main' };
  await writePins(context, [range], { who, kind: 'fork', volume, snapshot: base.snapshot.id });
}

/** With damage around, a count could be too low, and a count that is too low costs data later. */
const isCountable = (findings: Findings): boolean =>
  findings
    .list()
    .every(({ severity, code }) => severity === 'warning' && code !== 'CHECK_OLDER_ROOT');

/** As its writer: count, and root what was counted. The caller keeps everybody else from opening the volume. */
async function recountVolume(context: HlfsContext, { volume }: HeadDocument): Promise<void> {
  const opened = await openVolume(context, volume, { recount: true });
  try {
    await opened.publishAll();
  } finally {
    await opened.close();
  }
}
