/**
 * The journal's files at open: which of them hold records of this volume's writer, and the tail behind the log (J2, J7).
 *
 * Files whose records lie beyond the end of the tail are made unreadable before anything new is journaled.
 *
 * Without mirrors the own tail is the longest there is (R4); it is published before the volume serves writes (R5, J4).
 *
 * A journal that cannot be trusted to hold every flushed write is refused: a record or file that is damaged, a file that is
 * shorter than it was, a journal that ends before a flush which the newest root remembers. Only the operator's word
 * (`acceptLoss`) goes past that.
 */
import {
  DvceError,
  dataSync,
  limits,
  type OpenFile,
  toDvceError,
  writeFully,
} from '../base/index.ts';
import type { HlfsContext } from './context.ts';
import type { Appended } from './journal.ts';
import { journalFileHeaderBytes, recordHeaderBytes } from './journal-format.ts';
import { openSlots } from './journal-open.ts';
import type { Slot } from './journal-slot.ts';
import { carriedBase } from './journal-slot.ts';
import {
  type JournalFile,
  readFileHeader,
  type TailRecord,
  type Walk,
  walkJournal,
} from './journal-walk.ts';
import type { HeadDocument } from './schema.ts';

export interface Tail {
  readonly walk: Walk;
  readonly slots: Slot[];
  readonly fileBytes: number;
}

export interface TailOptions {
  readonly head: HeadDocument;
  /** Records up to here are in the log, the newest of them from this epoch. */
  readonly coveredSeq: number;
  readonly coveredEpoch: number;
  /** Newest flush that the newest root remembers. */
  readonly flushedSeq: number;
  /** The journal was closed cleanly and holds nothing. */
  readonly isClean: boolean;
  readonly fileBytes: number;
  readonly acceptLoss: boolean;
}

export async function readTail(context: HlfsContext, options: TailOptions): Promise<Tail> {
  const { head, fileBytes, isClean, acceptLoss } = options;
  const slots = await openSlots(context, head.volume, {
    quotaBytes: Number(head.journal.quotaBytes),
    fileBytes,
    mayReplace: isClean || acceptLoss,
  });
  const files = isClean ? [] : filesOf(options, slots);
  const walk = walkJournal(files, options.coveredSeq);
  const damage = walk.damage ?? (isClean ? null : staleness(walk, options.flushedSeq));
  if (damage !== null && !acceptLoss) {
    for (const slot of slots) slot.file.closeSync();
    throw new DvceError('JOURNAL_DAMAGED', { name: head.volume, reason: damage });
  }
  await blankBeyond(files, walk);
  for (const { slot, header } of walk.tail) {
    const home = slots[slot];
    if (home === undefined) continue;
    home.state = 'full';
    home.lastSeq = Math.max(home.lastSeq, header.seq);
    home.syncedSeq = home.lastSeq;
  }
  return { walk, slots, fileBytes };
}

/**
 * A power failure may lose the end of one file and keep the next one: its records lie beyond a gap and are not taken, and the
 * numbers of the gap are given out again. Once segments cover those, the kept file would look like what follows them, because
 * the files of this incarnation may be lost with their header when the power fails again. So it is made unreadable for good (J2).
 */
async function blankBeyond(files: readonly JournalFile[], walk: Walk): Promise<void> {
  for (const { file, header } of files) {
    if (header.firstSeq <= walk.lastSeq + 1) continue;
    await blank(file, 0, journalFileHeaderBytes);
  }
  // The same within a file: what follows a damaged record is given up with it, also when segments cover its number one day.
  for (const { file, at } of walk.gaveUp) await blank(file, at, recordHeaderBytes);
}

async function blank(file: OpenFile, at: number, bytes: number): Promise<void> {
  try {
    await writeFully(file, [Buffer.alloc(bytes)], at);
    await dataSync(file);
  } catch (error) {
    throw toDvceError(error, file.path);
  }
}

/** J7: the newest root remembers the last flush; a journal that ends before it is an old copy. */
const staleness = (walk: Walk, flushedSeq: number): string | null =>
  flushedSeq > walk.lastSeq
    ? `it ends at record ${walk.lastSeq}; record ${flushedSeq} was flushed`
    : null;

function filesOf({ head, coveredEpoch }: TailOptions, slots: readonly Slot[]): JournalFile[] {
  const files: JournalFile[] = [];
  // Each shrink raises the epoch of a volume that may have been killed before: its tail is still this node's own, unless
  // a later epoch has published since.
  const oldestEpoch = head.trimFrom === null ? Number(head.epoch) : coveredEpoch;
  for (const slot of slots) {
    const header = readFileHeader(slot.file);
    const fits =
      header?.volume === head.volume && header.log === head.log && header.epoch >= oldestEpoch;
    if (header !== undefined && fits)
      files.push({ slot: slot.index, file: slot.file, header, isRepaired: header.isRepaired });
  }
  return files;
}

/** Eight files to the quota, of at least two of the largest records. */
export const fileBytesFor = (quotaBytes: number): number => {
  const eighth =
    Math.floor(quotaBytes / 8 / limits.journalFileStepBytes) * limits.journalFileStepBytes;
  return Math.max(limits.journalFileBytesMin, Math.min(limits.journalFileBytes, eighth));
};

/** The tail's records one by one, each with its payload in memory only while it is looked at. */
export function* tailRecords(
  tail: readonly TailRecord[],
  slots: readonly Slot[],
  fileBytes: number,
): Generator<Appended> {
  for (const { header, slot, payloadAt } of tail) {
    const file: OpenFile | undefined = slots[slot]?.file;
    const payload = header.kind === 'write' ? Buffer.alloc(header.payloadBytes) : null;
    if (payload !== null) file?.readSync(payload, payloadAt);
    const { kind, offset, length, wallMs, seq, checksums } = header;
    const address = carriedBase + slot * fileBytes + payloadAt;
    yield { entry: { kind, offset, length, payload, wallMs }, seq, address, checksums };
  }
}
