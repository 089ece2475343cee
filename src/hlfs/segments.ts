/**
 * Reading segments: which log a number lives in (range table), headers, roots, and verified blocks.
 *
 * Invariant 7: every byte that leaves this file was checked against the checksum of the pointer or header that led to it.
 * A missing segment is an error, never zeros (G3).
 */
import {
  crc32c,
  crc32cJoined,
  DvceError,
  type LogId,
  limits,
  type Timers,
  toDvceError,
} from '../base/index.ts';
import { unpackBlock } from './codec.ts';
import { blockBytes, type StoredRun, storedBytes } from './pointer.ts';
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
  readonly #timers: Timers | undefined;

  /** @param timers let others have their turn within a long run of compressed blocks */
  constructor(store: SegmentStore, ranges: readonly LogRange[], timers?: Timers) {
    this.store = store;
    this.ranges = ranges;
    this.#timers = timers;
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

  /** Fill `target` with whole blocks, each checked against its checksum: 4 KiB for each of the run. */
  readBlocks(run: StoredRun, target: Buffer, done: (error: DvceError | null) => void): void {
    let key: string;
    try {
      key = this.key(run.segment);
    } catch (error) {
      done(toDvceError(error));
      return;
    }
    if (run.lengths !== undefined) {
      const stored = Buffer.allocUnsafe(storedBytes(run));
      this.store.read(key, run.offset, stored, (error) => {
        if (error) done(error);
        else this.#unpack(new PackedBlocks(key, run, stored, target), done);
      });
      return;
    }
    this.store.read(key, run.offset, target, (error) => {
      if (error) done(error);
      else if (crc32c(target) === joinChecksums(run.checksums)) done(null);
      else done(damagedBlock(key, run, target));
    });
  }

  /** As `readBlocks`, in this turn; false when that has to wait, or when anything is wrong: `readBlocks` says what. */
  readNow(run: StoredRun, target: Buffer): boolean {
    const { store } = this;
    const key = this.keyIfAny(run.segment);
    if (store.readNow === undefined || key === undefined) return false;
    if (run.lengths === undefined)
      return (
        store.readNow(key, run.offset, target) && crc32c(target) === joinChecksums(run.checksums)
      );
    if (run.lengths.length > unpackedPerTurn) return false;
    const stored = Buffer.allocUnsafe(storedBytes(run));
    if (!store.readNow(key, run.offset, stored)) return false;
    return new PackedBlocks(key, run, stored, target).unpackSome() === null;
  }

  /** A slice in each turn, so that a long read of one guest does not hold up those of others. */
  #unpack(packed: PackedBlocks, done: (error: DvceError | null) => void): void {
    const error = packed.unpackSome();
    if (error !== null || packed.isDone) done(error);
    else this.#defer(() => this.#unpack(packed, done));
  }

  #defer(task: () => void): void {
    if (this.#timers === undefined) task();
    else this.#timers.defer(task);
  }
}

/** Some tenths of a millisecond. */
const unpackedPerTurn = 32;

/** Blocks as they were read, some of them compressed, on their way to `target`. */
class PackedBlocks {
  readonly #key: string;
  readonly #run: StoredRun;
  readonly #stored: Buffer;
  readonly #target: Buffer;
  #block = 0;
  #at = 0;

  constructor(key: string, run: StoredRun, stored: Buffer, target: Buffer) {
    this.#key = key;
    this.#run = run;
    this.#stored = stored;
    this.#target = target;
  }

  get isDone(): boolean {
    return this.#block === this.#run.checksums.length;
  }

  /** Check and decode the next ones. @returns what is wrong */
  unpackSome(): DvceError | null {
    const { offset, checksums, lengths = [] } = this.#run;
    const end = Math.min(checksums.length, this.#block + unpackedPerTurn);
    for (; this.#block < end; this.#block += 1) {
      const length = lengths[this.#block] ?? blockBytes;
      const bytes = this.#stored.subarray(this.#at, this.#at + length);
      const start = this.#block * blockBytes;
      const reason =
        crc32c(bytes) === checksums[this.#block]
          ? unpackBlock(bytes, this.#target.subarray(start, start + blockBytes))
          : 'does not fit its checksum';
      if (reason !== null)
        return new DvceError('SEGMENT_DAMAGED', {
          name: this.#key,
          reason: `the block at offset ${offset + this.#at} ${reason}`,
        });
      this.#at += length;
    }
    return null;
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

function damagedBlock(key: string, { offset, checksums }: StoredRun, content: Buffer): DvceError {
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
