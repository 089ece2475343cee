/**
 * The documents of a volume against each other: head, name, logs, pins, scopes. A check changes them only to repair, and only so
 * that more is held than before, or something that nobody can use any more goes: see check-repair.ts.
 *
 * Others change documents at the same time. So each disagreement is looked at a second time, and what two documents that
 * are written one after the other may say for a moment is no finding.
 */
import { asSnapshotName, DvceError, type LogId } from '../base/index.ts';
import {
  headKey,
  logKey,
  nameKey,
  partToName,
  pinKey,
  pinsPrefix,
  readHead,
  readIntent,
  readLog,
  readName,
  readPin,
  readSnapshot,
  snapshotsPrefix,
  writersPrefix,
} from './catalog-documents.ts';
import type { Findings } from './check-findings.ts';
import type { HlfsContext } from './context.ts';
import { isAt } from './heads.ts';
import { cutsOf } from './pins.ts';
import { readRanges } from './roots.ts';
import type { HeadDocument, LogDocument, PinDocument, SnapshotDocument } from './schema.ts';
import { segmentKey } from './schema.ts';
import { lastPart } from './scopes.ts';

export interface DocumentCheck {
  readonly context: HlfsContext;
  readonly findings: Findings;
}

/** A pin that a log of the volume needs and does not have. */
export interface MissingPin {
  readonly log: LogId;
  readonly cut: number;
  readonly document: LogDocument;
}

export interface LeftScope {
  readonly scope: string;
  /** Unfinished uploads in it. */
  readonly uploads: number;
  /** It still can be published through, and the volume does not name it. */
  readonly isOpen: boolean;
}

/** A damaged document is a finding, anything else is thrown on. */
export async function unlessDamaged<T>(
  { findings }: DocumentCheck,
  read: () => Promise<T>,
): Promise<T | undefined> {
  try {
    return await read();
  } catch (error) {
    if (!(error instanceof DvceError) || error.code !== 'DOCUMENT_DAMAGED') throw error;
    findings.add('CHECK_BAD_DOCUMENT', String(error.context['name'] ?? ''), error.message);
    return undefined;
  }
}

/** Snapshot documents of a log; a damaged one is a finding and does not hide the others. */
export async function snapshotsOf(check: DocumentCheck, log: LogId): Promise<SnapshotDocument[]> {
  const found: SnapshotDocument[] = [];
  for (const part of await check.context.documents.names(snapshotsPrefix(log))) {
    const name = partToName(part);
    if (name === undefined) continue;
    const read = () => readSnapshot(check.context, log, asSnapshotName(name));
    const snapshot = await unlessDamaged(check, read);
    if (snapshot !== undefined) found.push(snapshot.value);
  }
  return found;
}

/** Pins in a log, likewise. */
export async function pinsOf(check: DocumentCheck, log: LogId): Promise<PinDocument[]> {
  const found: PinDocument[] = [];
  for (const who of await check.context.documents.names(pinsPrefix(log))) {
    const pin = await unlessDamaged(check, () => readPin(check.context, log, who));
    if (pin !== undefined) found.push(pin.value);
  }
  return found;
}

/** The name under which the volume is found is the one that its head says (N1). */
export async function checkName(check: DocumentCheck, head: HeadDocument): Promise<void> {
  const { context, findings } = check;
  const isWrong = async (): Promise<boolean> => {
    const entry = await readName(context, head.parent, head.name);
    return entry?.value.kind !== 'volume' || entry.value.volume !== head.volume;
  };
  if (!(await isWrong())) return;
  const now = await readHead(context, head.volume);
  if (now === undefined || !isAt(now.value, head) || !(await isWrong())) return;
  const detail = `${headKey(head.volume)} says that it is named here`;
  findings.add('CHECK_DISAGREES', nameKey(head.parent, head.name), detail);
}

/** @returns the pins that the log needs in the logs that it starts from, and that are not there */
export async function checkLogDocument(
  check: DocumentCheck,
  head: HeadDocument,
  log: LogId,
): Promise<MissingPin[]> {
  const { context, findings } = check;
  const document = (await unlessDamaged(check, () => readLog(context, log)))?.value;
  if (document === undefined) {
    findings.add('CHECK_BAD_DOCUMENT', logKey(log), 'it is missing');
    return [];
  }
  if (document.volume !== head.volume)
    findings.add('CHECK_DISAGREES', logKey(log), `it says it belongs to ${document.volume}`);
  const missing: MissingPin[] = [];
  for (const [other, cut] of cutsOf(document.base?.ranges ?? [])) {
    const pin = (await unlessDamaged(check, () => readPin(context, other, log)))?.value;
    if (pin !== undefined && pin.cut >= cut) continue;
    if (!(await readHead(context, head.volume))?.value.logs.includes(log)) continue;
    missing.push({ log: other, cut, document });
  }
  return missing;
}

/** Pins in a log whose holder is gone or does not read it. @param scopes names of the processes that may be at work */
export async function checkPins(
  check: DocumentCheck,
  log: LogId,
  scopes: ReadonlySet<string>,
): Promise<void> {
  const { context, findings } = check;
  for (const pin of await pinsOf(check, log)) {
    const isRead = pin.kind === 'reader' && scopes.has(pin.who.slice(0, pin.who.indexOf('.')));
    const fault = pin.kind === 'fork' ? await forkFault(check, log, pin) : 'its reader is gone';
    if (isRead || fault === undefined) continue;
    // It may have been taken away while its holder was looked for.
    if ((await readPin(context, log, pin.who)) === undefined) continue;
    findings.add('CHECK_LEAKED_PIN', pinKey(log, pin.who), fault);
  }
}

async function forkFault(
  check: DocumentCheck,
  log: LogId,
  { who }: PinDocument,
): Promise<string | undefined> {
  const { context } = check;
  const fork = who as LogId; // pins of forks are named by the log that they are for
  const document = (await unlessDamaged(check, () => readLog(context, fork)))?.value;
  if (document?.base?.ranges.some((range) => range.log === log) === true) return undefined;
  // Being made or unmade at this moment: its intent says so.
  if ((await readIntent(context, fork)) !== undefined) return undefined;
  return document === undefined ? `log ${who} does not exist` : `log ${who} does not read this one`;
}

/** Publishing scopes of a log that were left behind, and what lies in them. */
export async function leftScopes(
  context: HlfsContext,
  head: HeadDocument,
  log: LogId,
): Promise<LeftScope[]> {
  const prefix = writersPrefix(log);
  const names = await context.documents.names(prefix);
  // Read after the list: a writer names its scope in the head after making it.
  const now = (await readHead(context, head.volume))?.value ?? head;
  const used = new Set(
    [now.scope, ...now.pending.map(({ scope }) => scope)].flatMap((scope) =>
      scope === null ? [] : [lastPart(scope)],
    ),
  );
  const left: LeftScope[] = [];
  for (const scope of new Set(names.flatMap((name) => scopePattern.exec(name)?.[0] ?? []))) {
    // One of a writer that is about to take over is named by the head in a moment.
    const isComing = BigInt(scope.slice(0, scope.indexOf('-'))) > BigInt(now.epoch);
    if (used.has(scope) || isComing) continue;
    const key = `${prefix}/${scope}`;
    const uploads = await context.store.unfinished(key);
    // What a store keeps in the place of a scope that was taken away has another name.
    const isOpen = names.includes(scope);
    if (isOpen || uploads > 0) left.push({ scope: key, uploads, isOpen });
  }
  return left;
}

const scopePattern = /^[0-9]+-[0-9a-f]{32}/;

/** The segment at a snapshot's position is the one that it was taken at, and says the same size. */
export async function checkSnapshot(
  { context, findings }: DocumentCheck,
  snapshot: SnapshotDocument,
): Promise<void> {
  const { log, rootSegment, name } = snapshot;
  const root = await readRanges(context, log, rootSegment).catch((error: unknown) => {
    // Reading its content says what is wrong with it.
    if (error instanceof DvceError) return undefined;
    throw error;
  });
  if (root === undefined) return;
  const object = segmentKey(log, rootSegment);
  const of = `snapshot ${name}`;
  if (root.checksum !== snapshot.checksum)
    findings.addConcern('CHECK_DISAGREES', object, `it is not the segment of ${of}`, of);
  else if (String(root.sizeBytes) !== snapshot.sizeBytes)
    findings.addConcern(
      'CHECK_DISAGREES',
      object,
      `it says ${root.sizeBytes} bytes, ${of} says ${snapshot.sizeBytes}`,
      of,
    );
}
