/**
 * Finding the end of a log: newest good root, then segments in number order while the chain is unbroken (L2).
 *
 * Invariants:
 * - only what is chained to the root is applied: previous checksum, and (epoch, incarnation) that never fall;
 * - a root that cannot be read costs no data: the one before it is taken and the segments above are rolled forward (L3);
 * - a data segment that cannot be read ends recovery with an error, because what it held was flushed;
 * - segments beyond a gap are reported and left alone, never applied. The volume is read-only then;
 * - nothing is written here, and a crash at any point changes nothing (L4).
 */
import { DvceError, type LogId } from '../base/index.ts';
import { readLog } from './catalog-documents.ts';
import type { LogState, WriterOptions } from './log-state.ts';
import { LogWriter } from './log-writer.ts';
import { type LogDocument, segmentKey } from './schema.ts';
import { type SegmentHeader, segmentFlags } from './segment-format.ts';
import { chunksFit, listSegments, type Root, readHeader, readIndex, readRoot } from './segments.ts';
import type { SegmentStore } from './store.ts';

export interface RecoveredLog {
  readonly writer: LogWriter;
  readonly sizeBytes: number | null;
  readonly wasClean: boolean;
  readonly flushMark: { readonly seq: number; readonly wallMs: number } | null;
  /** Numbers beyond a gap. */
  readonly quarantined: readonly number[];
}

export async function recoverLog(log: LogId, options: WriterOptions): Promise<RecoveredLog> {
  const { context } = options;
  const base = await readBase(context, log);
  const firstNumber = base === null ? 1 : base.rootSegment + 1;
  const numbers = await listSegments(context.store, log);
  const root = await newestRoot(context.store, log, numbers);
  const start = root ?? (await readBaseRoot(context.store, base));
  const state: LogState = {
    log,
    // A root of a flattened log names none any more.
    baseRanges: root?.facts.ranges.filter((range) => range.log !== log) ?? base?.ranges ?? [],
    firstNumber,
    newestRoot: root?.header.number ?? base?.rootSegment ?? 0,
    olderRoot: root?.facts.previousRoot ?? 0,
    rows: root?.table ?? new Map(),
    sinceRoot: 0,
    points: root?.facts.points,
    ...(start === null ? emptyLog(firstNumber) : continueFrom(start)),
    // Epochs and incarnations of the log that this one was forked from mean nothing here.
    ...(root === null ? { coveredEpoch: 0, coveredIncarnation: 0 } : {}),
  };
  await fillSizes(options, state);
  const writer = new LogWriter(state, options);
  const last = await rollForward(writer, options, numbers, start?.header ?? null);
  const quarantined = numbers.filter((number) => number >= state.next);
  if (root === null) await refuseLostRoots(context.store, log, firstNumber, quarantined);
  const mark = start?.facts.flushMark ?? null;
  return {
    writer,
    sizeBytes: start === null ? null : Number(start.facts.sizeBytes),
    wasClean: last !== null && (last.flags & segmentFlags.clean) !== 0,
    flushMark: mark === null ? null : { seq: Number(mark.seq), wallMs: Number(mark.wallMs) },
    quarantined,
  };
}

/**
 * No root of the log can be read, and not every segment is there: those that are missing were dead in a root. What is left
 * would be an old content full of holes, so it is an error, also for reading.
 */
async function refuseLostRoots(
  store: SegmentStore,
  log: LogId,
  firstNumber: number,
  quarantined: readonly number[],
): Promise<void> {
  const last = quarantined.at(-1);
  if (last === undefined) return;
  const header = await unlessDamaged(readHeader(store, log, last));
  if (header !== undefined && header.rootSegment < firstNumber) return;
  throw new DvceError('SEGMENT_DAMAGED', {
    name: segmentKey(log, header?.rootSegment ?? last),
    reason: 'no root of the log can be read any more',
  });
}

async function readBase(
  context: WriterOptions['context'],
  log: LogId,
): Promise<LogDocument['base']> {
  const document = await readLog(context, log);
  if (document === undefined)
    throw new DvceError('DOCUMENT_DAMAGED', { name: `logs/${log}/log`, reason: 'it is missing' });
  return document.value.base;
}

async function readBaseRoot(store: SegmentStore, base: LogDocument['base']): Promise<Root | null> {
  const range = base?.ranges.at(-1);
  if (base === null || range === undefined) return null;
  return await readRoot(store, range.log, base.rootSegment);
}

type Continuation = Pick<
  LogState,
  | 'next'
  | 'previous'
  | 'coveredEpoch'
  | 'coveredIncarnation'
  | 'coveredSeq'
  | 'top'
  | 'mappedBlocks'
  | 'storedBytes'
>;

const emptyLog = (firstNumber: number): Continuation => ({
  next: firstNumber,
  previous: 0,
  coveredEpoch: 0,
  coveredIncarnation: 0,
  coveredSeq: 0,
  top: null,
  mappedBlocks: 0,
});

const continueFrom = ({ header, facts }: Root): Continuation => ({
  next: header.number + 1,
  previous: header.checksum,
  coveredEpoch: Number(facts.covered.epoch),
  coveredIncarnation: Number(facts.covered.incarnation),
  coveredSeq: Number(facts.covered.seq),
  top: facts.top,
  mappedBlocks: Number(facts.mappedBlocks),
  storedBytes: facts.storedBytes === undefined ? undefined : Number(facts.storedBytes),
});

/** The size of a root's own segment is not known while the root is written. */
async function fillSizes({ context }: WriterOptions, state: LogState): Promise<void> {
  for (const [number, row] of state.rows)
    if (row.bytes === 0)
      row.bytes = (await context.store.stat(segmentKey(state.log, number)))?.lengthBytes ?? 0;
}

/** The newest root of a log that can be read; null when the log has none of its own. */
export async function newestRoot(
  store: SegmentStore,
  log: LogId,
  numbers: readonly number[],
): Promise<Root | null> {
  const present = new Set(numbers);
  let below = Number.POSITIVE_INFINITY;
  for (const number of numbers.toReversed()) {
    if (number >= below) continue;
    const header = await unlessDamaged(readHeader(store, log, number));
    if (header === undefined || !present.has(header.rootSegment)) continue;
    const root = await unlessDamaged(readRoot(store, log, header.rootSegment));
    // Its map pages too: recovery can make them anew from the root before, a reader later cannot.
    if (root !== undefined && (await chunksFit(store, root.header))) return root;
    below = header.rootSegment;
  }
  return null;
}

/** L3: damage is a reason to look further back; anything else is not. */
async function unlessDamaged<T>(reading: Promise<T>): Promise<T | undefined> {
  try {
    return await reading;
  } catch (error) {
    if (error instanceof DvceError && error.code === 'SEGMENT_DAMAGED') return undefined;
    throw error;
  }
}

/** @returns the header of the last segment taken */
async function rollForward(
  writer: LogWriter,
  { context }: WriterOptions,
  numbers: readonly number[],
  start: SegmentHeader | null,
): Promise<SegmentHeader | null> {
  const { state } = writer;
  const present = new Set(numbers);
  let last = start;
  let epoch = state.coveredEpoch;
  let incarnation = state.coveredIncarnation;
  while (present.has(state.next)) {
    const header = await readHeader(context.store, state.log, state.next);
    if (header === undefined) return last;
    const inOrder =
      header.epoch > epoch || (header.epoch === epoch && header.incarnation >= incarnation);
    if (header.previous !== state.previous || !inOrder) return last;
    epoch = header.epoch;
    incarnation = header.incarnation;
    // A root's own content is not needed to go past it; its pages are made anew from the segments.
    await writer.roll(header, await readIndex(context.store, header));
    last = header;
  }
  return last;
}
