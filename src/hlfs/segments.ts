/**
 * Reading segments: which log a number lives in (range table), headers, roots, and verified blocks.
 *
 * Invariant 7: every byte that leaves this file was checked against the checksum of the pointer or header that led to it.
 * A missing segment is an error, never zeros (G3).
 */
import { crc32c, crc32cJoined, DvceError, type LogId, limits, toDvceError } from '../base/index.ts';
import { blockBytes } from './pointer.ts';
import { decodeRoot, type RootFacts, type SegmentRow } from './root-format.ts';
import { type LogRange, segmentKey } from './schema.ts';
import {
  chunkBytes,
  decodeSegmentHeader,
  type SegmentHeader,
  segmentDataOffset,
  segmentHeaderBytes,
} from './segment-format.ts';
import { decodeIndex, type IndexRun } from './segment-index.ts';
import type { SegmentStore } from './store.ts';

/** A read as a promise. */
export function readExactly(
  store: SegmentStore,
  key: string,
  offset: number,
  length: number,
): Promise<Buffer> {
  const target = Buffer.allocUnsafe(length);
  return new Promise((resolve, reject) => {
    store.read(key, offset, target, (error) => (error ? reject(error) : resolve(target)));
  });
}

/** The range that holds `number`, by binary search over ranges sorted by `first`. */
export function rangeOf(ranges: readonly LogRange[], number: number): LogRange | undefined {
  let low = 0;
  let high = ranges.length - 1;
  while (low <= high) {
    const middle = (low + high) >>> 1;
    const range = ranges[middle];
    if (range === undefined) return undefined;
    if (number < range.first) high = middle - 1;
    else if (number > range.last) low = middle + 1;
    else return range;
  }
  return undefined;
}

/** Segments `first..` of the newest range are open-ended while the log is written. */
export const openEnd = 0xffff_ffff;

export class SegmentReader {
  readonly store: SegmentStore;
  ranges: readonly LogRange[];
  /** Keys of recently read segments: building the text costs as much as the read. */
  readonly #keys = new Map<number, string>();

  constructor(store: SegmentStore, ranges: readonly LogRange[]) {
    this.store = store;
    this.ranges = ranges;
  }

  /** @throws SEGMENT_DAMAGED when the number lies outside of the log */
  key(number: number): string {
    const key = this.keyIfAny(number);
    if (key !== undefined) return key;
    throw new DvceError('SEGMENT_DAMAGED', {
      name: String(number),
      reason: 'a pointer names a segment outside of the log',
    });
  }

  keyIfAny(number: number): string | undefined {
    const known = this.#keys.get(number);
    if (known !== undefined) return known;
    const range = rangeOf(this.ranges, number);
    if (range === undefined) return undefined;
    const key = segmentKey(range.log, number);
    if (this.#keys.size >= limits.segmentKeysMax) this.#keys.clear();
    this.#keys.set(number, key);
    return key;
  }

  /**
   * Fill `target` with whole blocks that lie one behind the other in a segment and check each against its checksum.
   * @param checksums one for each 4 KiB of `target`
   */
  readBlocks(
    segment: number,
    offset: number,
    checksums: readonly number[],
    target: Buffer,
    done: (error: DvceError | null) => void,
  ): void {
    let key: string;
    try {
      key = this.key(segment);
    } catch (error) {
      done(toDvceError(error));
      return;
    }
    this.store.read(key, offset, target, (error) => {
      if (error) done(error);
      else if (crc32c(target) === joinChecksums(checksums)) done(null);
      else done(damagedBlock(key, offset, checksums, target));
    });
  }

  /** As `readBlocks`, in this turn; false when that has to wait, or when anything is wrong: `readBlocks` says what. */
  readNow(segment: number, offset: number, checksums: readonly number[], target: Buffer): boolean {
    const { store } = this;
    const key = this.keyIfAny(segment);
    if (store.readNow === undefined || key === undefined) return false;
    return store.readNow(key, offset, target) && crc32c(target) === joinChecksums(checksums);
  }
}

/**
 * The checksum of blocks one behind the other, from the checksums of each. It fits exactly when the sum of all deviations, each
 * moved on by its distance from the end, is zero: one damaged block is always found as if it were checked alone, and several
 * cancel each other out no more often than one fits by chance (1 in 2^32).
 */
export function joinChecksums(checksums: readonly number[]): number {
  let sum = checksums[0] ?? 0;
  for (let i = 1; i < checksums.length; i += 1) sum = crc32cJoined(sum, checksums[i] ?? 0);
  return sum;
}

function damagedBlock(
  key: string,
  offset: number,
  checksums: readonly number[],
  content: Buffer,
): DvceError {
  const bad = checksums.findIndex(
    (sum, i) => crc32c(content.subarray(i * blockBytes, (i + 1) * blockBytes)) !== sum,
  );
  return new DvceError('SEGMENT_DAMAGED', {
    name: key,
    reason: `the block at offset ${offset + Math.max(0, bad) * blockBytes} does not fit its checksum`,
  });
}

/**
 * Read and check a segment's header; when the first copy is damaged the one at the end is taken.
 * @returns undefined when the segment does not exist
 */
export async function readHeader(
  store: SegmentStore,
  log: LogId,
  number: number,
): Promise<SegmentHeader | undefined> {
  const key = segmentKey(log, number);
  const stat = await store.stat(key);
  if (stat === undefined) return undefined;
  const check = (bytes: Buffer): SegmentHeader => {
    const header = decodeSegmentHeader(bytes, key);
    if (header.log !== log || header.number !== number || header.totalBytes !== stat.lengthBytes)
      throw new DvceError('SEGMENT_DAMAGED', {
        name: key,
        reason: `it says it is segment ${header.number} of log ${header.log} with ${header.totalBytes} bytes, and has ${stat.lengthBytes}`,
      });
    return header;
  };
  if (stat.lengthBytes < 2 * segmentHeaderBytes)
    throw new DvceError('SEGMENT_DAMAGED', { name: key, reason: 'it is cut short' });
  try {
    return check(await readExactly(store, key, 0, segmentHeaderBytes));
  } catch (error) {
    if (!(error instanceof DvceError) || error.code !== 'SEGMENT_DAMAGED') throw error;
    const at = stat.lengthBytes - segmentHeaderBytes;
    return check(await readExactly(store, key, at, segmentHeaderBytes));
  }
}

async function readPart(
  store: SegmentStore,
  key: string,
  part: { offset: number; bytes: number; checksum: number; what: string },
): Promise<Buffer> {
  if (part.bytes === 0) return Buffer.alloc(0);
  const bytes = await readExactly(store, key, part.offset, part.bytes);
  if (crc32c(bytes) !== part.checksum)
    throw new DvceError('SEGMENT_DAMAGED', {
      name: key,
      reason: `its ${part.what} does not fit its checksum`,
    });
  return bytes;
}

/** The index runs of a segment whose header is at hand. */
export async function readIndex(store: SegmentStore, header: SegmentHeader): Promise<IndexRun[]> {
  const key = segmentKey(header.log, header.number);
  const bytes = await readPart(store, key, {
    offset: header.indexOffset,
    bytes: header.indexBytes,
    checksum: header.indexChecksum,
    what: 'index',
  });
  return decodeIndex(bytes, key);
}

export interface Root {
  readonly header: SegmentHeader;
  readonly facts: RootFacts;
  readonly table: Map<number, SegmentRow>;
}

/** Read the root that segment `number` of `log` carries. */
export async function readRoot(store: SegmentStore, log: LogId, number: number): Promise<Root> {
  const key = segmentKey(log, number);
  const header = await readHeader(store, log, number);
  if (header === undefined) throw new DvceError('SEGMENT_MISSING', { name: key });
  const bytes = await readPart(store, key, {
    offset: header.rootOffset,
    bytes: header.rootBytes,
    checksum: header.rootChecksum,
    what: 'root record',
  });
  return { header, ...decodeRoot(bytes, key) };
}

/** Does all content of a segment fit its chunk table? */
export async function chunksFit(store: SegmentStore, header: SegmentHeader): Promise<boolean> {
  const key = segmentKey(header.log, header.number);
  const bytes = header.totalBytes - segmentHeaderBytes - header.chunkOffset;
  const table = await readExactly(store, key, header.chunkOffset, bytes);
  if (crc32c(table) !== header.chunkChecksum) return false;
  for (let at = segmentDataOffset; at < header.chunkOffset; at += chunkBytes) {
    const length = Math.min(chunkBytes, header.chunkOffset - at);
    const chunk = await readExactly(store, key, at, length);
    const sum = table.readUInt32LE(((at - segmentDataOffset) / chunkBytes) * 4);
    if (crc32c(chunk) !== sum) return false;
  }
  return true;
}

/** Numbers of the segments of a log that exist, ascending. */
export async function listSegments(store: SegmentStore, log: LogId): Promise<number[]> {
  const numbers: number[] = [];
  const prefix = `logs/${log}/seg`;
  for await (const shard of listAll(store, prefix))
    for await (const entry of listAll(store, shard)) {
      const number = Number(entry.slice(entry.lastIndexOf('/') + 1));
      if (Number.isSafeInteger(number)) numbers.push(number);
    }
  return numbers.sort((a, b) => a - b);
}

/** Every key directly below a prefix, page by page. */
export async function* listAll(store: SegmentStore, prefix: string): AsyncGenerator<string> {
  let after: string | undefined;
  for (;;) {
    const page = await store.list(prefix, after, limits.listPageEntries);
    for (const entry of page) yield entry.key;
    after = page.at(-1)?.key;
    if (page.length < limits.listPageEntries || after === undefined) return;
  }
}
