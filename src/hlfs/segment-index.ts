/**
 * The index of a segment: what its application does to the map, as runs in the order in which they are applied.
 *
 * A run is a header of 32 bytes and u32 words behind it (little-endian):
 *   0 kind u8, zeros, 4 offset u32 (bytes, of the first unit in the segment), 8 block u64, 16 count u64, 24 zeros
 *
 *   kind            words for each of `count`
 *   1 data          checksum
 *   2 hole, 3 zero  none (zero: reads as zeros and stays allocated)
 *   4 relocation    checksum, old segment, old offset: applied only where the map still says so (G1)
 *   5 flush mark    none; block = journal record flushed, count = wall time in ms; at 24 u64: bytes of the volume then
 *   6 pages         level << 28 | index: map pages of this segment; nothing to apply, the cleaner reads it
 */
import { DvceError } from '../base/index.ts';
import { readU64, writeU64 } from './bytes.ts';

export type IndexRun =
  | {
      readonly kind: 'data';
      readonly block: number;
      readonly offset: number;
      readonly checksums: readonly number[];
    }
  | { readonly kind: 'hole' | 'zero'; readonly block: number; readonly count: number }
  | {
      readonly kind: 'relocation';
      readonly block: number;
      readonly offset: number;
      readonly checksums: readonly number[];
      readonly oldSegments: readonly number[];
      readonly oldOffsets: readonly number[];
    }
  | {
      readonly kind: 'flushMark';
      readonly seq: number;
      readonly wallMs: number;
      /** Of the volume at that time. */
      readonly sizeBytes: number;
    }
  | { readonly kind: 'pages'; readonly offset: number; readonly keys: readonly number[] };

const kinds = ['data', 'hole', 'zero', 'relocation', 'flushMark', 'pages'] as const;
const runHeaderBytes = 32;
const wordsEach: Readonly<Record<IndexRun['kind'], number>> = {
  data: 1,
  hole: 0,
  zero: 0,
  relocation: 3,
  flushMark: 0,
  pages: 1,
};

interface RawRun {
  readonly offset: number;
  readonly block: number;
  readonly count: number;
  readonly words: readonly number[];
  readonly sizeBytes?: number;
}

function toRaw(run: IndexRun): RawRun {
  switch (run.kind) {
    case 'data':
      return { ...run, count: run.checksums.length, words: run.checksums };
    case 'hole':
    case 'zero':
      return { ...run, offset: 0, words: [] };
    case 'relocation': {
      const words = run.checksums.flatMap((checksum, i) => [
        checksum,
        run.oldSegments[i] ?? 0,
        run.oldOffsets[i] ?? 0,
      ]);
      return { ...run, count: run.checksums.length, words };
    }
    case 'flushMark':
      return { offset: 0, block: run.seq, count: run.wallMs, words: [], sizeBytes: run.sizeBytes };
    case 'pages':
      return { ...run, block: 0, count: run.keys.length, words: run.keys };
  }
}

function fromRaw(
  kind: IndexRun['kind'],
  { offset, block, count, words, sizeBytes = 0 }: RawRun,
): IndexRun {
  switch (kind) {
    case 'data':
      return { kind, block, offset, checksums: words };
    case 'hole':
    case 'zero':
      return { kind, block, count };
    case 'relocation': {
      const column = (at: number): number[] => words.filter((_, i) => i % 3 === at);
      return {
        kind,
        block,
        offset,
        checksums: column(0),
        oldSegments: column(1),
        oldOffsets: column(2),
      };
    }
    case 'flushMark':
      return { kind, seq: block, wallMs: count, sizeBytes };
    case 'pages':
      return { kind, offset, keys: words };
  }
}

export function encodeIndex(runs: readonly IndexRun[]): Buffer {
  const raws = runs.map(toRaw);
  const out = Buffer.alloc(
    raws.reduce((sum, raw) => sum + runHeaderBytes + 4 * raw.words.length, 0),
  );
  let at = 0;
  raws.forEach((raw, i) => {
    out[at] = kinds.indexOf(runs[i]?.kind ?? 'data') + 1;
    out.writeUInt32LE(raw.offset, at + 4);
    writeU64(out, raw.block, at + 8);
    writeU64(out, raw.count, at + 16);
    writeU64(out, raw.sizeBytes ?? 0, at + 24);
    at += runHeaderBytes;
    for (const word of raw.words) at = out.writeUInt32LE(word, at);
  });
  return out;
}

/** Decode the index of segment `name`; the caller has verified its checksum. */
export function decodeIndex(bytes: Buffer, name: string): IndexRun[] {
  const damaged = (reason: string): DvceError => new DvceError('SEGMENT_DAMAGED', { name, reason });
  const runs: IndexRun[] = [];
  let at = 0;
  while (at < bytes.length) {
    if (at + runHeaderBytes > bytes.length) throw damaged('the index is cut short');
    const kind = kinds[(bytes[at] ?? 0) - 1];
    if (kind === undefined) throw damaged(`the index has a run of the unknown kind ${bytes[at]}`);
    const count = readU64(bytes, at + 16);
    const wordCount = count * wordsEach[kind];
    if (at + runHeaderBytes + 4 * wordCount > bytes.length) throw damaged('the index is cut short');
    const words = new Array<number>(wordCount);
    for (let i = 0; i < wordCount; i += 1)
      words[i] = bytes.readUInt32LE(at + runHeaderBytes + 4 * i);
    const raw = {
      offset: bytes.readUInt32LE(at + 4),
      block: readU64(bytes, at + 8),
      count,
      words,
      sizeBytes: readU64(bytes, at + 24),
    };
    runs.push(fromRaw(kind, raw));
    at += runHeaderBytes + 4 * wordCount;
  }
  return runs;
}
