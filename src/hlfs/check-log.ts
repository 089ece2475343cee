/**
 * A log as a whole: which segments must be there, whether each follows the one before, what the table of the newest root says of
 * them.
 *
 * Online the log changes underneath. What makes a look at it right all the same is the order: the root first, then the list of
 * segments, then the positions that hold some back; and whatever is missed is looked for once more before it is a finding.
 */
import type { LogId } from '../base/index.ts';
import { logDirectory, readLog } from './catalog-documents.ts';
import { pinsOf, snapshotsOf } from './check-documents.ts';
import type { CheckCode, Findings } from './check-findings.ts';
import { blocksIn, type ExaminedSegment, examineSegment } from './check-segments.ts';
import type { HlfsContext } from './context.ts';
import { newestRootNow } from './current-root.ts';
import type { SegmentRow } from './root-format.ts';
import { segmentKey } from './schema.ts';
import { type SegmentHeader, segmentFlags } from './segment-format.ts';
import { isHeld } from './segment-table.ts';
import { listSegments, openEnd, type Root } from './segments.ts';

export interface LogCheck extends TableCheck {
  readonly signal: AbortSignal;
  readonly onBytes: (bytes: number) => void | Promise<void>;
}

export interface TableCheck {
  readonly context: HlfsContext;
  readonly findings: Findings;
}

/** A position that holds segments, and whose it is. */
interface Holder {
  readonly position: number;
  readonly of: string;
}

/** @returns how many segments the log has, and its newest root that can be read */
export async function checkLog(
  check: LogCheck,
  log: LogId,
  isCurrent: boolean,
): Promise<{ readonly segments: number; readonly root: Root | null }> {
  const { root, numbers } = await checkNeeded(check, log, isCurrent);
  await examineAll(check, log, numbers, isCurrent ? (root?.header.number ?? 0) : openEnd);
  if (isCurrent) await checkEnd(check, log, root, numbers);
  return { segments: numbers.length, root };
}

/** What must be there, by the table of the newest root. */
export async function checkNeeded(
  check: TableCheck,
  log: LogId,
  isCurrent: boolean,
): Promise<{ readonly root: Root | null; readonly numbers: readonly number[] }> {
  const { root } = await newestRootNow(check.context, log);
  const numbers = await listSegments(check.context.store, log);
  const holders = await holdersOf(check, log);
  if (root !== null) await checkTable(check, log, root, numbers, isCurrent, holders);
  return { root, numbers };
}

async function holdersOf(check: TableCheck, log: LogId): Promise<Holder[]> {
  return [
    ...(await snapshotsOf(check, log)).map(({ name, rootSegment }) => ({
      position: rootSegment,
      of: `snapshot ${name}`,
    })),
    ...(await pinsOf(check, log)).map(({ cut, who, kind }) => ({
      position: cut,
      of: kind === 'fork' ? `log ${who}` : `reader ${who}`,
    })),
  ];
}

/** The table of the root against the objects. Live counts against the map are compared by the caller. */
async function checkTable(
  check: TableCheck,
  log: LogId,
  root: Root,
  numbers: readonly number[],
  isCurrent: boolean,
  holders: readonly Holder[],
): Promise<void> {
  const { context, findings } = check;
  const present = new Set(numbers);
  const missed: number[] = [];
  for (const [number, row] of root.table) {
    const { isNeeded } = needOf(number, row, holders, isCurrent);
    if (isNeeded && !present.has(number)) missed.push(number);
    const isDead = row.live === 0;
    if (isDead !== (row.death !== 0) || row.death > root.header.number)
      findings.add(
        'CHECK_WRONG_COUNT',
        segmentKey(log, number),
        `${row.live} units are noted, and ${row.death} as the number at which it died`,
      );
  }
  if (missed.length > 0) await lookAgain(check, log, missed, isCurrent);
  const first = await firstNumberOf(context, log);
  for (const number of numbers)
    if (number >= first && number < root.header.number && !root.table.has(number))
      findings.add('CHECK_UNREACHABLE', segmentKey(log, number), 'no table knows it');
}

function needOf(
  number: number,
  { live, death }: SegmentRow,
  holders: readonly Holder[],
  isCurrent: boolean,
): { readonly isNeeded: boolean; readonly holding: readonly Holder[] } {
  const holding = holders.filter(({ position }) => isHeld(number, death, [position]));
  return { isNeeded: holding.length > 0 || (isCurrent && live > 0), holding };
}

/**
 * The root may have been an old one when the segments were listed: what was live in it can have died and gone rightly since, and a
 * snapshot made after that seems to hold it. A root and positions that are read after the segment was seen to be gone know.
 */
async function lookAgain(
  check: TableCheck,
  log: LogId,
  missed: readonly number[],
  isCurrent: boolean,
): Promise<void> {
  const { context, findings } = check;
  const gone: number[] = [];
  for (const number of missed)
    if (await isGone(context, segmentKey(log, number))) gone.push(number);
  if (gone.length === 0) return;
  const { root } = await newestRootNow(context, log);
  const holders = await holdersOf(check, log);
  for (const number of gone) {
    const row = root?.table.get(number);
    if (row === undefined) continue;
    const { isNeeded, holding } = needOf(number, row, holders, isCurrent);
    if (!isNeeded) continue;
    const key = segmentKey(log, number);
    const detail = 'it is needed and is not there';
    findings.add('CHECK_MISSING', key, detail);
    for (const { of } of holding) findings.addConcern('CHECK_MISSING', key, detail, of);
  }
}

async function firstNumberOf(context: HlfsContext, log: LogId): Promise<number> {
  const base = (await readLog(context, log))?.value.base ?? null;
  return base === null ? 1 : base.rootSegment + 1;
}

const isGone = async (context: HlfsContext, key: string): Promise<boolean> =>
  (await context.store.stat(key)) === undefined;

/** Above the newest root a segment has to be rolled forward: what is wrong with it ends the log there. */
const severeAbove: ReadonlySet<CheckCode> = new Set(['CHECK_BAD_INDEX', 'CHECK_UNREADABLE']);

/** Every segment, part by part. @param usedRoot no root leads to the content of what is above it */
async function examineAll(
  check: LogCheck,
  log: LogId,
  numbers: readonly number[],
  usedRoot: number,
): Promise<void> {
  const { context, findings, signal } = check;
  let before: { number: number; checksum: number } | null = null;
  for (const number of numbers) {
    signal.throwIfAborted();
    const options = { chunks: number > usedRoot, onRead: check.onBytes };
    const examined = await examineSegment(context.store, log, number, options);
    if (examined === undefined) continue; // deleted meanwhile; one that is needed is missed elsewhere
    const key = segmentKey(log, number);
    if (number > usedRoot) tellAbove(findings, key, examined, usedRoot);
    else for (const { code, detail } of examined.problems) findings.add(code, key, detail);
    const { header } = examined;
    if (header !== null && before?.number === number - 1 && header.previous !== before.checksum)
      findings.add('CHECK_BROKEN_CHAIN', key, `it does not continue segment ${number - 1}`);
    before = header === null ? null : { number, checksum: header.checksum };
  }
}

function tellAbove(
  findings: Findings,
  key: string,
  examined: ExaminedSegment,
  usedRoot: number,
): void {
  const { header, problems } = examined;
  for (const { code, detail } of problems)
    findings.add(severeAbove.has(code) ? 'CHECK_BROKEN_CHAIN' : code, key, detail);
  nameBlocks(findings, key, examined);
  if (problems.length > 0 && header !== null && isRoot(header))
    findings.add('CHECK_OLDER_ROOT', key, `the root before it is used: ${usedRoot}`);
}

const isRoot = ({ flags }: SegmentHeader): boolean => (flags & segmentFlags.root) !== 0;

function nameBlocks(findings: Findings, key: string, { runs, badChunks }: ExaminedSegment): void {
  for (const chunk of badChunks)
    for (const range of blocksIn(runs ?? [], chunk))
      findings.addRange('CHECK_BAD_CHECKSUM', key, 'a chunk does not fit its checksum', {
        of: 'current',
        ...range,
      });
}

/** From the root on the numbers have no gap (L2). */
async function checkEnd(
  { context, findings }: LogCheck,
  log: LogId,
  root: Root | null,
  numbers: readonly number[],
): Promise<void> {
  let next = root === null ? await firstNumberOf(context, log) : root.header.number;
  for (const number of numbers) {
    if (number < next) continue;
    // The list was made while segments were added: one may be in it whose predecessor is not.
    while (next < number && !(await isGone(context, segmentKey(log, next)))) next += 1;
    if (next < number) {
      // Below a root that came since, segments may die and go.
      const { root: newer } = await newestRootNow(context, log);
      if (newer !== null && newer.header.number > next) return;
      const quarantined = numbers.filter((other) => other > next).length;
      findings.add(
        'CHECK_GAP',
        segmentKey(log, next),
        `it is missing; ${quarantined} segments of ${logDirectory(log)} lie beyond it`,
      );
      return;
    }
    next = number + 1;
  }
}
