/**
 * Recovery of the journal's tail from its files (J2, J3, J7).
 *
 * The walk is strict: record after record, each seeded by the one before. Where it ends, one of three things is true, and
 * they must not be confused:
 *   end      nothing was ever written there, or it was lost unsynced by a power failure: the tail ends here;
 *   damage   a record that had been flushed cannot be read: a later record of the same chain or file says so
 *            (`flushedSeq`), or the record becomes whole when one single bit is turned back. The volume is not opened for
 *            writing, because acknowledged and flushed writes would vanish silently.
 *
 * A record that the segments cover is not needed: where it is damaged but its header can be read, the walk goes on behind it. So
 * that this never leads to records which an earlier walk gave up (their numbers are used again), the place where a walk ended
 * at a damaged record is made unreadable before anything new is journaled (`gaveUp`, J2).
 *
 * Several incarnations may be present. A later incarnation's first sequence number ends every earlier one: at its open the
 * earlier files had been synced and walked, so the walk of today ends where it ended then (J2, J4).
 */
import { crc32c, type OpenFile } from '../base/index.ts';
import { type ByteError, byteErrors, isOneBit } from './byte-errors.ts';
import {
  align,
  chainStart,
  type DecodedHeader,
  decodeFileHeader,
  decodeRecordHeader,
  fileHeaderUsedBytes,
  headerBytesFor,
  headerFields,
  type JournalFileHeader,
  journalFileHeaderBytes,
  payloadFits,
  recordHeaderBytes,
  recordMagic,
} from './journal-format.ts';
import { blockBytes } from './pointer.ts';

export interface TailRecord {
  readonly header: DecodedHeader;
  /** Slot index and byte offset of the payload. */
  readonly slot: number;
  readonly payloadAt: number;
}

export interface JournalFile {
  readonly slot: number;
  readonly file: OpenFile;
  readonly header: JournalFileHeader;
  /** The file's header became readable only when one bit was turned back. */
  readonly isRepaired: boolean;
}

export interface Walk {
  /** Records after `covered`, without a gap. */
  readonly tail: readonly TailRecord[];
  /** Last sequence number of the tail, `covered` when it is empty. */
  readonly lastSeq: number;
  /** Highest flushedSeq any record names. */
  readonly flushedSeq: number;
  /** Why the tail cannot be trusted to hold every flushed write, or null. */
  readonly damage: string | null;
  /** Records at which the walk of a file ended although their header can be read. */
  readonly gaveUp: readonly GivenUp[];
}

export interface GivenUp {
  readonly file: OpenFile;
  /** Where its header lies. */
  readonly at: number;
}

/** More than a record of the largest payload has; a larger number is not believed. */
const checksumsMax = 1 << 10;

const readAt = (file: OpenFile, offset: number, length: number): Buffer => {
  const target = Buffer.alloc(length);
  const read = file.readSync(target, offset);
  return target.subarray(0, read);
};

/** The header of a journal file; one wrong bit in it is found, and reported as damage by the walk. */
export function readFileHeader(
  file: OpenFile,
): (JournalFileHeader & { readonly isRepaired: boolean }) | undefined {
  const bytes = readAt(file, 0, fileHeaderUsedBytes);
  const header = decodeFileHeader(bytes);
  if (header !== undefined) return { ...header, isRepaired: false };
  if (bytes.every((byte) => byte === 0)) return undefined;
  const repaired = withOneBitTurned(bytes, 0, (turned) => {
    try {
      return decodeFileHeader(turned);
    } catch {
      return undefined; // a version or feature that does not exist: not this bit
    }
  });
  return repaired === undefined ? undefined : { ...repaired, isRepaired: true };
}

/** Try every bit of `bytes` from byte `from` on; the first that makes `attempt` succeed. `bytes` is left as it was. */
function withOneBitTurned<T>(
  bytes: Buffer,
  from: number,
  attempt: (turned: Buffer) => T | undefined,
): T | undefined {
  for (let bit = from * 8; bit < bytes.length * 8; bit += 1) {
    const at = bit >>> 3;
    bytes[at] = (bytes[at] ?? 0) ^ (1 << (bit & 7));
    const result = attempt(bytes);
    bytes[at] = (bytes[at] ?? 0) ^ (1 << (bit & 7));
    if (result !== undefined) return result;
  }
  return undefined;
}

type Step =
  | {
      readonly kind: 'record';
      readonly header: DecodedHeader;
      readonly payloadAt: number;
      readonly next: number;
    }
  | { readonly kind: 'end' }
  | {
      readonly kind: 'bad';
      readonly header: DecodedHeader | undefined;
      readonly next: number;
      readonly isRot: boolean;
    };

function headerAt(file: OpenFile, at: number): Buffer {
  const head = readAt(file, at, recordHeaderBytes);
  if (head.length < recordHeaderBytes) return head;
  const bytes = headerBytesFor(Math.min(head.readUInt32LE(12), checksumsMax));
  return bytes === recordHeaderBytes ? head : readAt(file, at, bytes);
}

function stepAt(file: OpenFile, at: number, chain: number): Step {
  const head = headerAt(file, at);
  const header = decodeRecordHeader(head, chain);
  if (header === undefined) {
    const repaired = repairedHeader(file, at, chain);
    return repaired === undefined
      ? { kind: 'end' }
      : { kind: 'bad', header: repaired, next: nextOf(repaired, at), isRot: true };
  }
  const payload = readAt(file, at + header.headerBytes, header.payloadBytes);
  const next = nextOf(header, at);
  if (payload.length === header.payloadBytes && payloadFits(header, payload))
    return { kind: 'record', header, payloadAt: at + header.headerBytes, next };
  return { kind: 'bad', header, next, isRot: payloadHasSingleBitError(header, payload) };
}

const nextOf = (header: DecodedHeader, at: number): number =>
  at + header.headerBytes + align(header.payloadBytes);

/**
 * The header with one byte put right that makes it continue the chain; undefined when there is none. A byte, not only a bit:
 * unlike a damaged payload a damaged header hides all that follows it, and with it the records that know of flushes.
 */
function repairedHeader(file: OpenFile, at: number, chain: number): DecodedHeader | undefined {
  // The number of checksums, and so the header's length, may be what was damaged.
  const bytes = readAt(file, at, headerBytesFor(checksumsMax));
  if (bytes.length < recordHeaderBytes || bytes.every((byte) => byte === 0)) return undefined;
  for (const { at: i, change } of suspects(bytes, chain)) {
    bytes[i] = (bytes[i] ?? 0) ^ change;
    const header = decodeRecordHeader(bytes, chain);
    if (header !== undefined) return header;
    bytes[i] = (bytes[i] ?? 0) ^ change;
  }
  return undefined;
}

/** Every single byte whose change might put a header right. */
function suspects(bytes: Buffer, chain: number): ByteError[] {
  const { checksumAt, coveredFrom, countAt } = headerFields;
  const wrongMagic = wrongBytes(bytes, 0, recordMagic);
  if (wrongMagic.length > 0) return wrongMagic.length === 1 ? wrongMagic : [];
  const found: ByteError[] = [];
  const end = headerBytesFor(bytes.readUInt32LE(countAt));
  if (end <= bytes.length) {
    const computed = crc32c(bytes.subarray(coveredFrom, end), chain);
    const difference = (computed ^ bytes.readUInt32LE(checksumAt)) >>> 0;
    for (const { at, change } of byteErrors(difference, end - coveredFrom))
      found.push({ at: at + coveredFrom, change });
    const wrongSum = wrongBytes(bytes, checksumAt, computed);
    if (wrongSum.length === 1) found.push(...wrongSum);
  }
  // A wrong number of checksums is a wrong length of what the checksum covers: each is tried.
  for (let at = countAt; at < countAt + 4; at += 1)
    for (let change = 1; change < 256; change += 1) found.push({ at, change });
  return found;
}

/** Bytes of the little-endian number at `at` that differ from `expected`. */
function wrongBytes(bytes: Buffer, at: number, expected: number): ByteError[] {
  const wrong: ByteError[] = [];
  for (let i = 0; i < 4; i += 1) {
    const change = (bytes[at + i] ?? 0) ^ ((expected >>> (8 * i)) & 0xff);
    if (change !== 0) wrong.push({ at: at + i, change });
  }
  return wrong;
}

/** True when exactly one piece differs, and by one bit: rot, not a write that the disk never saw. */
function payloadHasSingleBitError(header: DecodedHeader, payload: Buffer): boolean {
  if (payload.length !== header.payloadBytes) return false;
  let at = 0;
  let room = blockBytes - (header.offset % blockBytes);
  for (const expected of header.checksums) {
    const piece = payload.subarray(at, at + room);
    const difference = crc32c(piece) ^ expected;
    if (difference !== 0)
      return byteErrors(difference, piece.length).some(({ change }) => isOneBit(change));
    at += room;
    room = blockBytes;
  }
  return false;
}

interface FileWalk {
  readonly records: readonly TailRecord[];
  readonly endSeq: number;
  readonly flushedSeq: number;
  readonly damage: string | null;
  readonly gaveUp: GivenUp | null;
}

/** Walk one file. `firstSeq - 1` when it has no record. @param covered records up to here need not be whole */
function walkFile({ slot, file, header }: JournalFile, covered: number): FileWalk {
  const records: TailRecord[] = [];
  let chain = chainStart(header.salt);
  let at = journalFileHeaderBytes;
  let seq = header.firstSeq - 1;
  let flushedSeq = 0;
  for (;;) {
    const step = stepAt(file, at, chain);
    if (step.kind === 'record' && step.header.seq === seq + 1) {
      seq = step.header.seq;
      flushedSeq = Math.max(flushedSeq, step.header.flushedSeq);
      records.push({ header: step.header, slot, payloadAt: step.payloadAt });
      chain = step.header.checksum;
      at = step.next;
      continue;
    }
    if (step.kind === 'bad' && step.header?.seq === seq + 1 && step.header.seq <= covered) {
      seq = step.header.seq;
      flushedSeq = Math.max(flushedSeq, step.header.flushedSeq);
      chain = step.header.checksum;
      at = step.next;
      continue;
    }
    const damage = step.kind === 'bad' ? judgeBad(file, step, seq + 1) : null;
    const gaveUp = step.kind === 'bad' ? { file, at } : null;
    return { records, endSeq: seq, flushedSeq, damage, gaveUp };
  }
}

/** Was the record at which the walk ended flushed? Follow its chain: a later record knows. */
function judgeBad(file: OpenFile, step: Step & { kind: 'bad' }, seq: number): string | null {
  if (step.isRot) return `record ${seq} has one wrong bit or byte`;
  if (step.header === undefined) return null;
  let chain = step.header.checksum;
  let at = step.next;
  for (;;) {
    const header = decodeRecordHeader(headerAt(file, at), chain);
    if (header === undefined) return null;
    if (header.flushedSeq >= seq) return `record ${seq} was flushed and cannot be read`;
    chain = header.checksum;
    at = nextOf(header, at);
  }
}

/**
 * The tail behind `covered`.
 * @param files of this volume, log and epoch, in any order
 */
export function walkJournal(files: readonly JournalFile[], covered: number): Walk {
  const sorted = [...files].sort(
    (a, b) => a.header.incarnation - b.header.incarnation || a.header.serial - b.header.serial,
  );
  const state = {
    tail: [] as TailRecord[],
    end: covered,
    flushedSeq: 0,
    damage: null as string | null,
    gaveUp: [] as GivenUp[],
  };
  sorted.forEach((file, i) => {
    const later = sorted.find((other) => other.header.incarnation > file.header.incarnation);
    const limit = later === undefined ? Number.POSITIVE_INFINITY : later.header.firstSeq;
    const next = sorted[i + 1];
    // Everything in it is covered when the next file of the same incarnation starts at or before the first record needed.
    const sameIncarnation = next?.header.incarnation === file.header.incarnation;
    if (next !== undefined && sameIncarnation && next.header.firstSeq <= covered + 1) return;
    takeFile(state, file, limit, covered);
  });
  const damage =
    state.damage ??
    (state.flushedSeq > state.end ? `record ${state.end + 1} was flushed and is missing` : null);
  const { tail, end: lastSeq, flushedSeq, gaveUp } = state;
  return { tail, lastSeq, flushedSeq, damage, gaveUp };
}

function takeFile(
  state: {
    tail: TailRecord[];
    end: number;
    flushedSeq: number;
    damage: string | null;
    gaveUp: GivenUp[];
  },
  file: JournalFile,
  limit: number,
  covered: number,
): void {
  const walk = walkFile(file, covered);
  if (walk.gaveUp !== null) state.gaveUp.push(walk.gaveUp);
  if (file.isRepaired && walk.endSeq > state.end)
    state.damage ??= 'the header of a file has one wrong bit';
  // A record at or above the limit was cut off by a later incarnation; what it says of flushes counts all the same below it.
  state.flushedSeq = Math.max(state.flushedSeq, Math.min(walk.flushedSeq, limit - 1));
  if (walk.damage !== null && walk.endSeq >= state.end && walk.endSeq + 1 < limit)
    state.damage ??= walk.damage;
  for (const record of walk.records) {
    const { seq } = record.header;
    if (seq >= limit) return;
    if (seq === state.end + 1) {
      state.tail.push(record);
      state.end = seq;
    } else if (seq > state.end + 1) return; // beyond a gap: never applied (J7)
  }
}
