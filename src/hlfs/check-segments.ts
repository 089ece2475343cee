/**
 * What a segment says about itself, part by part: both copies of its header, index, root record, table of chunks, and on request
 * every chunk. Used by the check (parts of all segments) and by the scrub (all bytes).
 *
 * Nothing here needs a map: damage is told as bytes of the object. Which bytes of which volume that concerns, the pointers of
 * the roots say (check-content.ts); for segments that no root covers yet their own index does.
 */
import { crc32c, DvceError, type LogId } from '../base/index.ts';
import type { CheckCode } from './check-findings.ts';
import { blockBytes, type StoredBlocks } from './pointer.ts';
import { segmentKey } from './schema.ts';
import {
  chunkBytes,
  decodeSegmentHeader,
  type SegmentHeader,
  segmentDataOffset,
  segmentFlags,
  segmentHeaderBytes,
} from './segment-format.ts';
import type { IndexRun } from './segment-index.ts';
import { readExactly, readIndex, readRoot } from './segments.ts';
import type { SegmentStore } from './store.ts';

export interface SegmentProblem {
  readonly code: CheckCode;
  readonly detail: string;
}

export interface ExaminedSegment {
  /** null: neither copy can be believed. */
  readonly header: SegmentHeader | null;
  readonly runs: readonly IndexRun[] | null;
  readonly problems: readonly SegmentProblem[];
  /** Chunks that do not fit, as bytes of the object; only when they were asked for. */
  readonly badChunks: readonly { readonly offset: number; readonly length: number }[];
}

export interface ExamineOptions {
  /** Read every chunk, not only the table. */
  readonly chunks: boolean;
  /** Before that many bytes are read; it may wait. */
  readonly onRead: (bytes: number) => void | Promise<void>;
}

/** @returns undefined when the segment does not exist (any more) */
export async function examineSegment(
  store: SegmentStore,
  log: LogId,
  number: number,
  options: ExamineOptions,
): Promise<ExaminedSegment | undefined> {
  const examination = new Examination(store, log, number, options);
  try {
    return await examination.run();
  } catch (error) {
    // Deleted while it was being read: not there is what is true now.
    if (error instanceof DvceError && error.code === 'SEGMENT_MISSING') {
      if ((await store.stat(segmentKey(log, number))) === undefined) return undefined;
    }
    throw error;
  }
}

class Examination {
  readonly #store: SegmentStore;
  readonly #log: LogId;
  readonly #number: number;
  readonly #key: string;
  readonly #options: ExamineOptions;
  readonly #problems: SegmentProblem[] = [];
  readonly #badChunks: { offset: number; length: number }[] = [];

  constructor(store: SegmentStore, log: LogId, number: number, options: ExamineOptions) {
    this.#store = store;
    this.#log = log;
    this.#number = number;
    this.#key = segmentKey(log, number);
    this.#options = options;
  }

  async run(): Promise<ExaminedSegment | undefined> {
    const stat = await this.#store.stat(this.#key);
    if (stat === undefined) return undefined;
    const header = await this.#header(stat.lengthBytes);
    if (header === null) return this.#result(null, null);
    const runs = await this.#part('CHECK_BAD_INDEX', () => readIndex(this.#store, header));
    if ((header.flags & segmentFlags.root) !== 0)
      await this.#part('CHECK_OLDER_ROOT', () => readRoot(this.#store, this.#log, this.#number));
    await this.#chunks(header);
    return this.#result(header, runs);
  }

  #result(header: SegmentHeader | null, runs: readonly IndexRun[] | null): ExaminedSegment {
    return { header, runs, problems: this.#problems, badChunks: this.#badChunks };
  }

  /** The header that can be believed; a copy that cannot is a problem of its own. */
  async #header(lengthBytes: number): Promise<SegmentHeader | null> {
    const copies: SegmentHeader[] = [];
    const reasons: string[] = [];
    for (const [what, at] of [
      ['first', 0],
      ['second', lengthBytes - segmentHeaderBytes],
    ] as const) {
      const copy = await this.#copy(at, lengthBytes);
      if (typeof copy === 'string') reasons.push(`the ${what} copy: ${copy}`);
      else copies.push(copy);
    }
    const [header, other] = copies;
    if (header === undefined) {
      this.#problems.push({ code: 'CHECK_BAD_INDEX', detail: reasons.join('; ') });
      return null;
    }
    if (other === undefined)
      this.#problems.push({ code: 'CHECK_BAD_COPY', detail: reasons.join('; ') });
    else if (other.checksum !== header.checksum)
      this.#problems.push({ code: 'CHECK_BAD_COPY', detail: 'the copies of its header differ' });
    return header;
  }

  async #copy(at: number, lengthBytes: number): Promise<SegmentHeader | string> {
    if (at < 0) return 'it is cut short';
    try {
      const bytes = await readExactly(this.#store, this.#key, at, segmentHeaderBytes);
      const header = decodeSegmentHeader(bytes, this.#key);
      if (header.log !== this.#log || header.number !== this.#number)
        return `it says it is segment ${header.number} of log ${header.log}`;
      if (header.totalBytes !== lengthBytes)
        return `it says ${header.totalBytes} bytes, the object has ${lengthBytes}`;
      return header;
    } catch (error) {
      if (!isDamage(error)) throw error;
      return error.message;
    }
  }

  async #part<T>(code: CheckCode, read: () => Promise<T>): Promise<T | null> {
    try {
      return await read();
    } catch (error) {
      if (!isDamage(error)) throw error;
      const unreadable = error.code === 'IO_FAILED';
      this.#problems.push({ code: unreadable ? 'CHECK_UNREADABLE' : code, detail: error.message });
      return null;
    }
  }

  async #chunks(header: SegmentHeader): Promise<void> {
    const end = header.totalBytes - segmentHeaderBytes;
    const table = await this.#part('CHECK_BAD_CHUNK', () =>
      readExactly(this.#store, this.#key, header.chunkOffset, end - header.chunkOffset),
    );
    if (table === null) return;
    if (crc32c(table) !== header.chunkChecksum) {
      const detail = 'its table of chunks does not fit its checksum';
      this.#problems.push({ code: 'CHECK_BAD_CHUNK', detail });
      return;
    }
    if (!this.#options.chunks) return;
    for (let at = segmentDataOffset; at < header.chunkOffset; at += chunkBytes)
      await this.#chunk(at, Math.min(chunkBytes, header.chunkOffset - at), table);
  }

  async #chunk(at: number, length: number, table: Buffer): Promise<void> {
    await this.#options.onRead(length);
    const number = (at - segmentDataOffset) / chunkBytes;
    const bytes = await this.#part('CHECK_UNREADABLE', () =>
      readExactly(this.#store, this.#key, at, length),
    );
    if (bytes !== null && crc32c(bytes) === table.readUInt32LE(number * 4)) return;
    this.#badChunks.push({ offset: at, length });
    if (bytes !== null)
      this.#problems.push({
        code: 'CHECK_BAD_CHUNK',
        detail: `chunk ${number} (bytes ${at} to ${at + length - 1}) does not fit its checksum`,
      });
  }
}

type Damage = DvceError & { readonly code: 'SEGMENT_DAMAGED' | 'IO_FAILED' };
const isDamage = (error: unknown): error is Damage =>
  error instanceof DvceError && (error.code === 'SEGMENT_DAMAGED' || error.code === 'IO_FAILED');

/** Blocks of the volume whose bytes a segment's index puts into this part of the object. */
export function* blocksIn(
  runs: readonly IndexRun[],
  part: { readonly offset: number; readonly length: number },
): Generator<{ readonly offset: number; readonly length: number }> {
  const end = part.offset + part.length;
  for (const run of runs) {
    if (run.kind !== 'data' && run.kind !== 'relocation') continue;
    const { first, last } = blocksBetween(run, part.offset, end);
    if (last > first)
      yield { offset: (run.block + first) * blockBytes, length: (last - first) * blockBytes };
  }
}

/** The blocks of a run, `first` to before `last`, of which some bytes lie between `start` and `end`. */
function blocksBetween(
  { offset, checksums, lengths }: StoredBlocks,
  start: number,
  end: number,
): { readonly first: number; readonly last: number } {
  if (lengths === undefined)
    return {
      first: Math.max(0, Math.floor((start - offset) / blockBytes)),
      last: Math.min(checksums.length, Math.ceil((end - offset) / blockBytes)),
    };
  let first = 0;
  let last = 0;
  let at = offset;
  for (const length of lengths) {
    if (at >= end) break;
    last += 1;
    at += length;
    if (at <= start) first = last;
  }
  return { first, last };
}
