/**
 * The root record: everything from which a log can be continued (L1). It lies in a root segment.
 *
 *   0   u32 magic "HLRT", u16 version, u16 form of the rows: 0 of 16 bytes, 1 of 20
 *   8   u32 bytes of the JSON part, u32 rows of the segment table
 *   16  JSON part (RootFacts; 64-bit numbers as strings)
 *   ..  segment table: per segment of this log that still exists: number u32, bytes u32, live u32, death u32, and in rows of
 *       20 bytes live bytes u32
 *
 * live  4 KiB units (blocks and map pages) of the segment that the map of this root refers to
 * live bytes  that those units take in the segment; rows of 16 bytes, where none is compressed: 4096 each
 * death 0 while something is live; else the number of the segment whose application killed the last unit. A snapshot or
 *       fork at position p needs the segment exactly when number <= p < death (G2)
 */
import { DvceError } from '../base/index.ts';
import { blockBytes } from './pointer.ts';
import type { LogRange } from './schema.ts';

const magic = 0x5452_4c48;
const version = 1;

export interface RootFacts {
  readonly sizeBytes: string;
  /** Map: pointer of the top page as four words, or null when nothing is mapped. */
  readonly top: readonly [number, number, number, number] | null;
  readonly mappedBlocks: string;
  /** Bytes that the mapped blocks take in segments; absent where none is compressed. */
  readonly storedBytes?: string;
  /** Segments 1..this one, oldest first; the last range is this log's own. */
  readonly ranges: readonly LogRange[];
  /** Journal records up to here are covered: (epoch, incarnation, seq). */
  readonly covered: { readonly epoch: string; readonly incarnation: string; readonly seq: string };
  /** First number this log may use next (S2). */
  readonly nextSegment: number;
  /** The root before this one in the same log, 0 if none: the fallback of L3. */
  readonly previousRoot: number;
  /** Newest acknowledged flush at that time. */
  readonly flushMark: { readonly seq: string; readonly wallMs: string } | null;
  /** Nodes that granted the writer's lease; empty without mirrors. */
  readonly leaseGranters: readonly string[];
  /** Absent where no points in time are kept (retention.ts). */
  readonly points?: PointFacts;
}

/** A restorable point: a flush, by its record in the journal. */
export interface PointText {
  readonly seq: string;
  readonly wallMs: number;
  readonly sizeBytes: string;
  /** Age of the log when it was applied: milliseconds in which the log was open. */
  readonly agedMs: number;
}

export interface PointFacts {
  readonly retainMs: number;
  /** Milliseconds in which this log was open, by a clock that nobody sets. */
  readonly agedMs: number;
  readonly last: PointText | null;
  /** Roots from which points are rebuilt, oldest first; the first is the floor. */
  readonly bases: readonly {
    readonly root: number;
    readonly seq: string;
    /** Age of the log when it was written. */
    readonly agedMs: number;
    /** The oldest point that can be rebuilt from it. */
    readonly first: PointText | null;
    /** Earliest and latest time of the points behind it and not behind the next, or null when there is none. */
    readonly times: readonly [number, number] | null;
  }[];
}

export interface SegmentRow {
  bytes: number;
  live: number;
  liveBytes: number;
  death: number;
}

const rowBytesMin = 16;
const rowBytesMax = 20;

export function encodeRoot(facts: RootFacts, table: ReadonlyMap<number, SegmentRow>): Buffer {
  const json = Buffer.from(JSON.stringify(facts));
  const isLong = [...table.values()].some((row) => row.liveBytes !== row.live * blockBytes);
  const rowBytes = isLong ? rowBytesMax : rowBytesMin;
  const out = Buffer.alloc(16 + json.length + rowBytes * table.size);
  out.writeUInt32LE(magic, 0);
  out.writeUInt16LE(version, 4);
  out.writeUInt16LE(isLong ? 1 : 0, 6);
  out.writeUInt32LE(json.length, 8);
  out.writeUInt32LE(table.size, 12);
  json.copy(out, 16);
  let at = 16 + json.length;
  for (const [number, row] of table) {
    out.writeUInt32LE(number, at);
    out.writeUInt32LE(row.bytes, at + 4);
    out.writeUInt32LE(row.live, at + 8);
    out.writeUInt32LE(row.death, at + 12);
    if (isLong) out.writeUInt32LE(row.liveBytes, at + 16);
    at += rowBytes;
  }
  return out;
}

/** The caller has verified the record's checksum; this checks that it can be used. */
export function decodeRoot(
  bytes: Buffer,
  name: string,
): { facts: RootFacts; table: Map<number, SegmentRow> } {
  const bad = (reason: string): DvceError => new DvceError('SEGMENT_DAMAGED', { name, reason });
  if (bytes.length < 16 || bytes.readUInt32LE(0) !== magic) throw bad('it has no root record');
  const found = bytes.readUInt16LE(4);
  if (found > version)
    throw new DvceError('FORMAT_TOO_NEW', { what: `root ${name}`, found, known: version });
  const form = bytes.readUInt16LE(6);
  if (form > 1) throw bad(`the rows of its table have the unknown form ${form}`);
  const rowBytes = form === 1 ? rowBytesMax : rowBytesMin;
  const jsonBytes = bytes.readUInt32LE(8);
  const rows = bytes.readUInt32LE(12);
  if (16 + jsonBytes + rows * rowBytes !== bytes.length)
    throw bad('the root record has a wrong length');
  const facts: RootFacts = JSON.parse(bytes.toString('utf8', 16, 16 + jsonBytes));
  const table = new Map<number, SegmentRow>();
  for (let i = 0; i < rows; i += 1) {
    const at = 16 + jsonBytes + i * rowBytes;
    const live = bytes.readUInt32LE(at + 8);
    table.set(bytes.readUInt32LE(at), {
      bytes: bytes.readUInt32LE(at + 4),
      live,
      liveBytes: form === 1 ? bytes.readUInt32LE(at + 16) : live * blockBytes,
      death: bytes.readUInt32LE(at + 12),
    });
  }
  return { facts, table };
}
