/**
 * The journal's files and records, format version 1 (docs/format/journal.md has the byte tables).
 *
 * A journal is a set of preallocated files of one size ("slots"), recycled whole. Each use of a file starts with a header
 * that has a serial number and 128 random bits of salt; the checksum of every record is seeded with the checksum of the
 * record before it, the first one's with the salt (J3). So a record of an earlier use, or guest data that imitates a record,
 * never continues the chain, and recovery walks strictly from record to record.
 *
 * A write's payload is covered by one CRC-32C for each 4 KiB block of the volume that it touches. Those stand in the record
 * header, are covered by its checksum, and go on into the segment's index: data is summed once on its way to the store.
 *
 * File header, 4096 bytes: 0 magic u32 "HLJF", 4 version u16, 8 volume uuid, 24 log uuid, 40 epoch u64, 48 incarnation u64,
 * 56 serial u64, 64 firstSeq u64, 72 salt 16, 88 features u32, 252 checksum u32, zeros.
 *
 * Record header, 64 bytes + 4 for each checksum, padded with zeros to 16: 0 magic u32 "HLJR", 4 checksum u32 (of what
 * follows, up to the end of the padding), 8 kind u8, 9 flags u8, 10 zeros u16, 12 checksums u32, 16 seq u64, 24 offset u64,
 * 32 length u64, 40 flushedSeq u64, 48 wallMs u64, 56 zeros u64. Then the payload (writes only), padded with zeros to 16.
 */
import { crc32c, DvceError } from '../base/index.ts';
import { readU64, readUuid, writeU64, writeUuid } from './bytes.ts';
import { blockBytes } from './pointer.ts';

export const journalFormatVersion = 1;
export const journalFileHeaderBytes = 4096;
/** The part of the file header that its checksum covers, and the checksum; the rest of the page is zeros. */
export const fileHeaderUsedBytes = 256;
export const recordHeaderBytes = 64;
const fileMagic = 0x464a_4c48;
export const recordMagic = 0x524a_4c48;
/** Where in a record header a search for damage looks; the checksum covers everything behind itself. */
export const headerFields = { checksumAt: 4, coveredFrom: 8, countAt: 12 } as const;
const alignment = 16;

export const align = (bytes: number): number => Math.ceil(bytes / alignment) * alignment;

export interface JournalFileHeader {
  readonly volume: string;
  readonly log: string;
  readonly epoch: number;
  readonly incarnation: number;
  /** Rises with every use of any file of this journal within an incarnation. */
  readonly serial: number;
  readonly firstSeq: number;
  readonly salt: Buffer;
}

export function encodeFileHeader(header: JournalFileHeader): Buffer {
  const out = Buffer.alloc(journalFileHeaderBytes);
  out.writeUInt32LE(fileMagic, 0);
  out.writeUInt16LE(journalFormatVersion, 4);
  writeUuid(out, header.volume, 8);
  writeUuid(out, header.log, 24);
  writeU64(out, header.epoch, 40);
  writeU64(out, header.incarnation, 48);
  writeU64(out, header.serial, 56);
  writeU64(out, header.firstSeq, 64);
  header.salt.copy(out, 72, 0, 16);
  out.writeUInt32LE(crc32c(out.subarray(0, 252)), 252);
  return out;
}

/** @returns undefined for a file that never had a header (all zeros) or whose header was torn */
export function decodeFileHeader(bytes: Buffer): JournalFileHeader | undefined {
  if (bytes.length < 256 || bytes.readUInt32LE(0) !== fileMagic) return undefined;
  if (crc32c(bytes.subarray(0, 252)) !== bytes.readUInt32LE(252)) return undefined;
  const version = bytes.readUInt16LE(4);
  if (version > journalFormatVersion || bytes.readUInt32LE(88) !== 0)
    throw new DvceError('FORMAT_TOO_NEW', {
      what: 'the journal',
      found: version,
      known: journalFormatVersion,
    });
  return {
    volume: readUuid(bytes, 8),
    log: readUuid(bytes, 24),
    epoch: readU64(bytes, 40),
    incarnation: readU64(bytes, 48),
    serial: readU64(bytes, 56),
    firstSeq: readU64(bytes, 64),
    salt: Buffer.from(bytes.subarray(72, 88)),
  };
}

/** What the first record's checksum is seeded with. */
export const chainStart = (salt: Uint8Array): number => crc32c(salt);

/** `flush` is there only in volumes that keep points in time (DD-0013): a flush that was asked for at this place. */
export type RecordKind = 'write' | 'hole' | 'zero' | 'mark' | 'flush';
const kindNumbers: Readonly<Record<RecordKind, number>> = {
  write: 1,
  hole: 2,
  zero: 3,
  mark: 4,
  flush: 5,
};
const kindNames: readonly (RecordKind | undefined)[] = [
  undefined,
  'write',
  'hole',
  'zero',
  'mark',
  'flush',
];

export interface RecordFacts {
  readonly kind: RecordKind;
  readonly seq: number;
  /** Bytes of the volume. */
  readonly offset: number;
  readonly length: number;
  readonly flushedSeq: number;
  readonly wallMs: number;
}

/** Blocks of the volume that `offset..offset+length` touches. */
export const blocksTouched = (offset: number, length: number): number =>
  length === 0
    ? 0
    : Math.floor((offset + length - 1) / blockBytes) - Math.floor(offset / blockBytes) + 1;

/** CRC-32C of each piece of `payload` that falls into one block of the volume. */
export function pieceChecksums(offset: number, payload: Uint8Array): number[] {
  const sums: number[] = [];
  let at = 0;
  let room = blockBytes - (offset % blockBytes);
  while (at < payload.byteLength) {
    const end = Math.min(at + room, payload.byteLength);
    sums.push(crc32c(payload.subarray(at, end)));
    at = end;
    room = blockBytes;
  }
  return sums;
}

export const headerBytesFor = (checksums: number): number =>
  align(recordHeaderBytes + 4 * checksums);

/** Bytes that a record takes in the file. */
export const recordBytes = (kind: RecordKind, offset: number, length: number): number =>
  kind === 'write'
    ? headerBytesFor(blocksTouched(offset, length)) + align(length)
    : recordHeaderBytes;

/**
 * Encode a record header into `out` (zeroed, exactly headerBytesFor(checksums.length) long).
 * @param chain the checksum of the record before, or chainStart
 * @returns the record's checksum, the next one's chain
 */
export function encodeRecordHeader(
  out: Buffer,
  facts: RecordFacts,
  checksums: readonly number[],
  chain: number,
): number {
  out.writeUInt32LE(recordMagic, 0);
  out[8] = kindNumbers[facts.kind];
  out.writeUInt32LE(checksums.length, 12);
  writeU64(out, facts.seq, 16);
  writeU64(out, facts.offset, 24);
  writeU64(out, facts.length, 32);
  writeU64(out, facts.flushedSeq, 40);
  writeU64(out, facts.wallMs, 48);
  for (let i = 0; i < checksums.length; i += 1)
    out.writeUInt32LE(checksums[i] ?? 0, recordHeaderBytes + 4 * i);
  const checksum = crc32c(out.subarray(8), chain);
  out.writeUInt32LE(checksum, 4);
  return checksum;
}

export interface DecodedHeader extends RecordFacts {
  readonly checksums: readonly number[];
  readonly checksum: number;
  readonly headerBytes: number;
  readonly payloadBytes: number;
}

/**
 * Decode the record header at the start of `bytes`.
 * @returns undefined when there is none that continues `chain`
 */
export function decodeRecordHeader(bytes: Buffer, chain: number): DecodedHeader | undefined {
  if (bytes.length < recordHeaderBytes || bytes.readUInt32LE(0) !== recordMagic) return undefined;
  const count = bytes.readUInt32LE(12);
  const headerBytes = headerBytesFor(count);
  if (headerBytes > bytes.length) return undefined;
  const checksum = bytes.readUInt32LE(4);
  if (crc32c(bytes.subarray(8, headerBytes), chain) !== checksum) return undefined;
  const kind = kindNames[bytes[8] ?? 0];
  const offset = readU64(bytes, 24);
  const length = readU64(bytes, 32);
  if (kind === undefined || bytes[9] !== 0)
    throw new DvceError('FORMAT_TOO_NEW', {
      what: 'a journal record',
      found: bytes[8] ?? 0,
      known: kindNumbers.flush,
    });
  if (count !== (kind === 'write' ? blocksTouched(offset, length) : 0)) return undefined;
  const checksums: number[] = [];
  for (let i = 0; i < count; i += 1) checksums.push(bytes.readUInt32LE(recordHeaderBytes + 4 * i));
  return {
    kind,
    seq: readU64(bytes, 16),
    offset,
    length,
    flushedSeq: readU64(bytes, 40),
    wallMs: readU64(bytes, 48),
    checksums,
    checksum,
    headerBytes,
    payloadBytes: kind === 'write' ? length : 0,
  };
}

/** True when the payload fits the checksums of its header. */
export function payloadFits(header: DecodedHeader, payload: Uint8Array): boolean {
  const sums = pieceChecksums(header.offset, payload);
  return (
    sums.length === header.checksums.length && sums.every((sum, i) => sum === header.checksums[i])
  );
}
