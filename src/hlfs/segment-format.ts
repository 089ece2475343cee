/**
 * The segment, format version 1 (docs/format/segment.md has the byte tables).
 *
 *   0            header, 256 bytes, padded with zeros to 4096
 *   4096         blocks and map pages, each 4096 bytes and aligned to 4096; compressed blocks are shorter, and what follows
 *                them is not aligned
 *   indexOffset  index: runs of block entries
 *   rootOffset   root record (root segments only)
 *   chunkOffset  CRC-32C of every 1 MiB chunk of what lies before, 4 bytes each
 *   end - 256    footer: a copy of the header
 *
 * Invariants:
 * - the header's checksum covers the checksums of index, root and chunk table, and so all content; it is the value that the
 *   next segment repeats as `previous` (S6, L2);
 * - the header is there twice, so that one damaged page does not hide what the segment was (L3);
 * - every length and offset read from a header is checked against the object's length before it is used.
 */
import { assert, crc32c, crc32cJoined, DvceError, type LogId, MiB } from '../base/index.ts';
import { readU64, readUuid, writeU64, writeUuid } from './bytes.ts';
import { blockBytes } from './pointer.ts';

export const segmentFormatVersion = 1;
export const segmentHeaderBytes = 256;
export const segmentDataOffset = 4096;
export const chunkBytes = MiB;
const magic = 0x47534c48; // "HLSG"

export const segmentFlags = {
  /** Carries a root record. */
  root: 1,
  /** First segment of an epoch: no segment of an earlier epoch is accepted above it (T8). */
  barrier: 2,
  /** The volume was closed cleanly after this root: no journal tail exists. */
  clean: 4,
} as const;

/** Incompatible features: a reader that does not know one of them refuses the segment. */
export const segmentFeatures = {
  /** Its index names compressed blocks, or the map of its root leads to some. */
  packed: 1,
} as const;
const knownFeatures = segmentFeatures.packed;

export interface SegmentHeader {
  readonly log: LogId;
  readonly number: number;
  /** Checksum of the segment before, 0 for the first of a log that has no base. */
  readonly previous: number;
  /** 128 random bits, hex: chunk identity is (log, number, nonce). */
  readonly nonce: string;
  readonly epoch: number;
  readonly incarnation: number;
  /** Journal records covered: all up to lastSeq are in this segment or before it. */
  readonly firstSeq: number;
  readonly lastSeq: number;
  readonly flags: number;
  /** Newest root at or before this segment; its own number in a root segment, 0 when there is none in this log. */
  readonly rootSegment: number;
  /** Wall clock, for people and for opening by time. */
  readonly wallMs: number;
  readonly totalBytes: number;
  readonly indexOffset: number;
  readonly indexBytes: number;
  readonly indexChecksum: number;
  readonly rootOffset: number;
  readonly rootBytes: number;
  readonly rootChecksum: number;
  readonly chunkOffset: number;
  readonly chunkChecksum: number;
  /** Encryption key id; 0: none. */
  readonly keyId: number;
  /** Incompatible features. */
  readonly features: number;
  /** CRC-32C of the header itself. */
  readonly checksum: number;
}

/**
 * Encode the header. Layout (little-endian): 0 magic u32, 4 version u16, 6 header bytes u16, 8 log uuid, 24 number u32,
 * 28 previous u32, 32 nonce 16, 48 epoch u64, 56 incarnation u64, 64 firstSeq u64, 72 lastSeq u64, 80 flags u32,
 * 84 rootSegment u32, 88 wallMs u64, 96 totalBytes u32, 100 indexOffset u32, 104 indexBytes u32, 108 indexChecksum u32,
 * 112 rootOffset u32, 116 rootBytes u32, 120 rootChecksum u32, 124 chunkOffset u32, 128 chunkChecksum u32, 132 keyId u32,
 * 136 incompatible features u32, 140 reserved zeros, 252 checksum u32.
 */
export function encodeSegmentHeader(header: Omit<SegmentHeader, 'checksum'>): Buffer {
  const out = Buffer.alloc(segmentHeaderBytes);
  out.writeUInt32LE(magic, 0);
  out.writeUInt16LE(segmentFormatVersion, 4);
  out.writeUInt16LE(segmentHeaderBytes, 6);
  writeUuid(out, header.log, 8);
  out.writeUInt32LE(header.number, 24);
  out.writeUInt32LE(header.previous, 28);
  out.write(header.nonce, 32, 16, 'hex');
  writeU64(out, header.epoch, 48);
  writeU64(out, header.incarnation, 56);
  writeU64(out, header.firstSeq, 64);
  writeU64(out, header.lastSeq, 72);
  out.writeUInt32LE(header.flags, 80);
  out.writeUInt32LE(header.rootSegment, 84);
  writeU64(out, header.wallMs, 88);
  out.writeUInt32LE(header.totalBytes, 96);
  out.writeUInt32LE(header.indexOffset, 100);
  out.writeUInt32LE(header.indexBytes, 104);
  out.writeUInt32LE(header.indexChecksum, 108);
  out.writeUInt32LE(header.rootOffset, 112);
  out.writeUInt32LE(header.rootBytes, 116);
  out.writeUInt32LE(header.rootChecksum, 120);
  out.writeUInt32LE(header.chunkOffset, 124);
  out.writeUInt32LE(header.chunkChecksum, 128);
  out.writeUInt32LE(header.keyId, 132);
  out.writeUInt32LE(header.features, 136);
  out.writeUInt32LE(crc32c(out.subarray(0, 252)), 252);
  return out;
}

const damaged = (name: string, reason: string): DvceError =>
  new DvceError('SEGMENT_DAMAGED', { name, reason });

/** Decode and check a header; `name` is for the message. */
export function decodeSegmentHeader(bytes: Buffer, name: string): SegmentHeader {
  if (bytes.length < segmentHeaderBytes) throw damaged(name, 'the header is cut short');
  if (bytes.readUInt32LE(0) !== magic) throw damaged(name, 'the header has no magic number');
  const checksum = bytes.readUInt32LE(252);
  if (crc32c(bytes.subarray(0, 252)) !== checksum)
    throw damaged(name, 'the header does not fit its checksum');
  const version = bytes.readUInt16LE(4);
  const features = bytes.readUInt32LE(136);
  if (version > segmentFormatVersion || (features & ~knownFeatures) !== 0)
    throw new DvceError('FORMAT_TOO_NEW', {
      what: `segment ${name}`,
      found: version,
      known: segmentFormatVersion,
    });
  const header: SegmentHeader = {
    log: readUuid(bytes, 8) as LogId,
    number: bytes.readUInt32LE(24),
    previous: bytes.readUInt32LE(28),
    nonce: bytes.toString('hex', 32, 48),
    epoch: readU64(bytes, 48),
    incarnation: readU64(bytes, 56),
    firstSeq: readU64(bytes, 64),
    lastSeq: readU64(bytes, 72),
    flags: bytes.readUInt32LE(80),
    rootSegment: bytes.readUInt32LE(84),
    wallMs: readU64(bytes, 88),
    totalBytes: bytes.readUInt32LE(96),
    indexOffset: bytes.readUInt32LE(100),
    indexBytes: bytes.readUInt32LE(104),
    indexChecksum: bytes.readUInt32LE(108),
    rootOffset: bytes.readUInt32LE(112),
    rootBytes: bytes.readUInt32LE(116),
    rootChecksum: bytes.readUInt32LE(120),
    chunkOffset: bytes.readUInt32LE(124),
    chunkChecksum: bytes.readUInt32LE(128),
    keyId: bytes.readUInt32LE(132),
    features,
    checksum,
  };
  const fits =
    header.indexOffset >= segmentDataOffset &&
    header.indexOffset + header.indexBytes <= header.rootOffset &&
    header.rootOffset + header.rootBytes <= header.chunkOffset &&
    header.chunkOffset + segmentHeaderBytes <= header.totalBytes;
  if (!fits) throw damaged(name, 'the header names parts that do not fit into the object');
  return header;
}

/** CRC-32C of every 1 MiB chunk of what it is given, one behind the other. */
class ChunkSums {
  readonly #sums: number[] = [];
  #sum = 0;
  #filled = 0;

  addBytes(part: Uint8Array): void {
    let at = 0;
    while (at < part.byteLength) {
      const take = Math.min(part.byteLength - at, chunkBytes - this.#filled);
      this.#sum = crc32c(part.subarray(at, at + take), this.#sum);
      at += take;
      this.#add(take);
    }
  }

  /** A block of which the checksum is known: its bytes are not looked at again. */
  addBlock(sum: number): void {
    this.#sum = crc32cJoined(this.#sum, sum);
    this.#add(blockBytes);
  }

  #add(bytes: number): void {
    this.#filled += bytes;
    if (this.#filled < chunkBytes) return;
    this.#sums.push(this.#sum);
    this.#sum = 0;
    this.#filled = 0;
  }

  table(): Buffer {
    const sums = this.#filled > 0 ? [...this.#sums, this.#sum] : this.#sums;
    const out = Buffer.alloc(sums.length * 4);
    sums.forEach((value, i) => {
      out.writeUInt32LE(value, i * 4);
    });
    return out;
  }
}

/** The chunk table of `parts`, one behind the other, behind blocks of which the checksums are known. */
export function chunkTable(parts: readonly Uint8Array[], sums: readonly number[] = []): Buffer {
  const chunks = new ChunkSums();
  for (const sum of sums) chunks.addBlock(sum);
  for (const part of parts) chunks.addBytes(part);
  return chunks.table();
}

export interface SegmentParts {
  readonly header: Omit<
    SegmentHeader,
    | 'checksum'
    | 'totalBytes'
    | 'indexOffset'
    | 'indexBytes'
    | 'indexChecksum'
    | 'rootOffset'
    | 'rootBytes'
    | 'rootChecksum'
    | 'chunkOffset'
    | 'chunkChecksum'
  >;
  /** Blocks and map pages. */
  readonly data: readonly Uint8Array[];
  /** CRC-32C of each 4096 bytes of `data`; without them they are computed, as where compressed blocks are among them. */
  readonly sums?: readonly number[] | undefined;
  readonly index: Buffer;
  readonly root: Buffer;
}

export interface EncodedSegment {
  readonly body: readonly Uint8Array[];
  readonly header: SegmentHeader;
}

/** Put a whole segment together. The header goes first in the object and is computed last. */
export function encodeSegment({ header, data, sums, index, root }: SegmentParts): EncodedSegment {
  const dataBytes = data.reduce((sum, part) => sum + part.byteLength, 0);
  const indexOffset = segmentDataOffset + dataBytes;
  const rootOffset = indexOffset + index.byteLength;
  const chunkOffset = rootOffset + root.byteLength;
  // The chunk table covers everything between the header page and itself; the header has its own checksum.
  assert(
    sums === undefined || sums.length * blockBytes === dataBytes,
    'every block of a segment has its checksum',
  );
  const chunks =
    sums === undefined ? chunkTable([...data, index, root]) : chunkTable([index, root], sums);
  const totalBytes = chunkOffset + chunks.byteLength + segmentHeaderBytes;
  const facts = {
    ...header,
    totalBytes,
    indexOffset,
    indexBytes: index.byteLength,
    indexChecksum: crc32c(index),
    rootOffset,
    rootBytes: root.byteLength,
    rootChecksum: crc32c(root),
    chunkOffset,
    chunkChecksum: crc32c(chunks),
  };
  const encoded = encodeSegmentHeader(facts);
  const padding = Buffer.alloc(segmentDataOffset - segmentHeaderBytes);
  return {
    body: [encoded, padding, ...data, index, root, chunks, encoded],
    header: { ...facts, checksum: encoded.readUInt32LE(252) },
  };
}
