/**
 * What a segment or a journal file says, for people and tools: reading only, on whatever bytes are given. Damage is a finding
 * and the dump goes on where it can; nothing of the content is believed before it was checked, and nothing here throws because
 * of it.
 */
import { crc32c, toDvceError } from '../base/index.ts';
import {
  align,
  chainStart,
  decodeFileHeader,
  decodeRecordHeader,
  fileHeaderUsedBytes,
  headerBytesFor,
  journalFileHeaderBytes,
  payloadFits,
  recordHeaderBytes,
} from './journal-format.ts';
import { blockBytes } from './pointer.ts';
import { decodeRoot } from './root-format.ts';
import {
  chunkBytes,
  decodeSegmentHeader,
  type SegmentHeader,
  segmentDataOffset,
  segmentFlags,
  segmentHeaderBytes,
} from './segment-format.ts';
import { decodeIndex, type IndexRun } from './segment-index.ts';

export interface DumpedRun {
  readonly kind: IndexRun['kind'];
  /** First block of the volume, or the record of a flush mark. */
  readonly block: number;
  readonly count: number;
  /** Where its blocks or pages begin in the segment; null where there are none. */
  readonly offset: number | null;
}

export interface DumpedSegment {
  readonly kind: 'segment';
  readonly bytes: number;
  readonly header: (SegmentHeader & { readonly flagNames: readonly string[] }) | null;
  readonly runs: readonly DumpedRun[];
  readonly runCount: number;
  readonly root: Readonly<Record<string, unknown>> | null;
  /** Numbers of 1 MiB chunks that do not fit their checksums. */
  readonly badChunks: readonly number[];
  /** What is wrong; empty: nothing. */
  readonly findings: readonly string[];
}

/** Run `read`; a failure is a finding. */
function tried<T>(findings: string[], read: () => T): T | null {
  try {
    return read();
  } catch (error) {
    findings.push(toDvceError(error).message);
    return null;
  }
}

export function dumpSegment(bytes: Buffer, name: string, limit: number): DumpedSegment {
  const findings: string[] = [];
  const header =
    tried(findings, () => decodeSegmentHeader(bytes, name)) ??
    tried(findings, () =>
      decodeSegmentHeader(bytes.subarray(Math.max(0, bytes.length - segmentHeaderBytes)), name),
    );
  if (header === null) {
    const nothing = { header: null, runs: [], runCount: 0, root: null, badChunks: [] };
    return { kind: 'segment', bytes: bytes.length, ...nothing, findings: [...new Set(findings)] };
  }
  if (header.totalBytes !== bytes.length)
    findings.push(`it has ${bytes.length} bytes, its header says ${header.totalBytes}`);
  const part = (offset: number, length: number, checksum: number, what: string): Buffer | null => {
    const found = bytes.subarray(offset, offset + length);
    if (found.length === length && crc32c(found) === checksum) return found;
    findings.push(`its ${what} does not fit its checksum`);
    return null;
  };
  const { indexOffset, indexBytes, indexChecksum, rootOffset, rootBytes, rootChecksum } = header;
  const index = part(indexOffset, indexBytes, indexChecksum, 'index');
  const runs = index === null ? [] : (tried(findings, () => decodeIndex(index, name)) ?? []);
  const hasRoot = (header.flags & segmentFlags.root) !== 0 && rootBytes > 0;
  const rootPart = hasRoot ? part(rootOffset, rootBytes, rootChecksum, 'root') : null;
  const root = rootPart === null ? null : tried(findings, () => rootOf(rootPart, name));
  return {
    kind: 'segment',
    bytes: bytes.length,
    header: { ...header, flagNames: flagNames(header.flags) },
    runs: runs.slice(0, limit).map(dumpRun),
    runCount: runs.length,
    root,
    badChunks: badChunks(bytes, header, findings),
    findings,
  };
}

const flagNames = (flags: number): string[] =>
  Object.entries(segmentFlags).flatMap(([name, bit]) => ((flags & bit) === 0 ? [] : [name]));

function rootOf(bytes: Buffer, name: string): Readonly<Record<string, unknown>> {
  const { facts, table } = decodeRoot(bytes, name);
  return { ...facts, segments: table.size };
}

function dumpRun(run: IndexRun): DumpedRun {
  switch (run.kind) {
    case 'hole':
    case 'zero':
      return { kind: run.kind, block: run.block, count: run.count, offset: null };
    case 'flushMark':
      return { kind: run.kind, block: run.seq, count: 1, offset: null };
    case 'pages':
      return {
        kind: run.kind,
        block: run.keys[0] ?? 0,
        count: run.keys.length,
        offset: run.offset,
      };
    default:
      return {
        kind: run.kind,
        block: run.block,
        count: run.checksums.length,
        offset: run.offset,
      };
  }
}

function badChunks(bytes: Buffer, header: SegmentHeader, findings: string[]): number[] {
  const { chunkOffset, chunkChecksum } = header;
  const end = Math.min(bytes.length, header.totalBytes) - segmentHeaderBytes;
  const table = bytes.subarray(chunkOffset, Math.max(chunkOffset, end));
  if (crc32c(table) !== chunkChecksum) {
    findings.push('its table of chunks does not fit its checksum');
    return [];
  }
  const bad: number[] = [];
  for (let chunk = 0; chunk * 4 + 4 <= table.length; chunk += 1) {
    const from = segmentDataOffset + chunk * chunkBytes;
    const content = bytes.subarray(from, Math.min(from + chunkBytes, chunkOffset));
    if (crc32c(content) !== table.readUInt32LE(chunk * 4)) bad.push(chunk);
  }
  if (bad.length > 0) findings.push(`${bad.length} chunks do not fit their checksums`);
  return bad;
}

export interface DumpedRecord {
  readonly at: number;
  readonly kind: string;
  readonly seq: number;
  readonly offset: number;
  readonly length: number;
  readonly flushedSeq: number;
  readonly wallMs: number;
  readonly payload: 'fits' | 'damaged' | 'none';
}

export interface DumpedJournalFile {
  readonly kind: 'journal';
  readonly bytes: number;
  readonly header: {
    readonly volume: string;
    readonly log: string;
    readonly epoch: number;
    readonly incarnation: number;
    readonly serial: number;
    readonly firstSeq: number;
  } | null;
  readonly records: readonly DumpedRecord[];
  readonly recordCount: number;
  readonly lastSeq: number | null;
  /** Where the chain ends. Behind it may be what an earlier use of the file left. */
  readonly endAt: number;
  readonly findings: readonly string[];
}

/** More than a record of the largest payload has; a larger number is not believed. */
const checksumsMax = 1 << 10;
const payloadBytesMax = checksumsMax * blockBytes;

/** @param read may answer less than was asked, at the end of the file */
export function dumpJournalFile(
  read: (offset: number, length: number) => Buffer,
  bytes: number,
  limit: number,
): DumpedJournalFile {
  const findings: string[] = [];
  const first = read(0, fileHeaderUsedBytes);
  const header = tried(findings, () => decodeFileHeader(first)) ?? null;
  const records: DumpedRecord[] = [];
  if (header === null) {
    const isUnused = findings.length === 0 && first.every((byte) => byte === 0);
    if (!isUnused && findings.length === 0) findings.push('its header does not fit its checksum');
    const nothing = { header: null, records, recordCount: 0, lastSeq: null, endAt: 0 };
    return { kind: 'journal', bytes, ...nothing, findings };
  }
  const { salt, ...shown } = header;
  const walk = { at: journalFileHeaderBytes, chain: chainStart(salt), count: 0 };
  let lastSeq: number | null = null;
  for (;;) {
    const found = tried(findings, () => recordAt(read, walk.at, walk.chain)) ?? undefined;
    if (found === undefined) break;
    const { record } = found;
    judge(record, lastSeq, findings);
    if (records.length < limit) records.push(record);
    [walk.at, walk.chain, lastSeq] = [found.next, found.checksum, record.seq];
    walk.count += 1;
  }
  return {
    ...{ kind: 'journal', bytes, header: shown, records, recordCount: walk.count },
    ...{ lastSeq, endAt: walk.at, findings: findings.slice(0, limit) },
  };
}

function judge(record: DumpedRecord, lastSeq: number | null, findings: string[]): void {
  if (lastSeq !== null && record.seq !== lastSeq + 1)
    findings.push(`record ${record.seq} follows ${lastSeq}`);
  if (record.payload === 'damaged')
    findings.push(`the payload of record ${record.seq} does not fit its checksums`);
}

function recordAt(
  read: (offset: number, length: number) => Buffer,
  at: number,
  chain: number,
): { record: DumpedRecord; next: number; checksum: number } | undefined {
  const head = read(at, recordHeaderBytes);
  if (head.length < recordHeaderBytes) return undefined;
  const length = headerBytesFor(Math.min(head.readUInt32LE(12), checksumsMax));
  const header = decodeRecordHeader(read(at, length), chain);
  if (header === undefined || header.payloadBytes > payloadBytesMax) return undefined;
  const { kind, seq, offset, flushedSeq, wallMs, payloadBytes } = header;
  const payload = read(at + header.headerBytes, payloadBytes);
  const fits = payload.length === payloadBytes && payloadFits(header, payload);
  const state = payloadBytes === 0 ? 'none' : fits ? 'fits' : 'damaged';
  return {
    record: { at, kind, seq, offset, length: header.length, flushedSeq, wallMs, payload: state },
    next: at + header.headerBytes + align(payloadBytes),
    checksum: header.checksum,
  };
}
