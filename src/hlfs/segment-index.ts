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
 *   7 data          as 1, with compressed blocks among them: checksum, stored bytes
 *   8 relocation    as 4, with compressed blocks among them: checksum, old segment, old offset, stored bytes
 *
 * Blocks of a run lie one behind the other: raw ones take 4096 bytes, compressed ones fewer. A segment with a run of kind 7 or 8
 * has the feature `packed` in its header.
 */
import { DvceError } from '../base/index.ts';
import { readU64, writeU64 } from './bytes.ts';
import { blockBytes, type StoredBlocks } from './pointer.ts';

export type IndexRun =
  | ({ readonly kind: 'data'; readonly block: number } & StoredBlocks)
  | { readonly kind: 'hole' | 'zero'; readonly block: number; readonly count: number }
  | ({
      readonly kind: 'relocation';
      readonly block: number;
      readonly oldSegments: readonly number[];
      readonly oldOffsets: readonly number[];
    } & StoredBlocks)
  | {
      readonly kind: 'flushMark';
      readonly seq: number;
      readonly wallMs: number;
      /** Of the volume at that time. */
      readonly sizeBytes: number;
    }
  | { readonly kind: 'pages'; readonly offset: number; readonly keys: readonly number[] };

/** By their numbers on the medium less one. The last column of a packed run is the stored bytes of each block. */
const forms = [
  { kind: 'data', words: 1, isPacked: false },
  { kind: 'hole', words: 0, isPacked: false },
  { kind: 'zero', words: 0, isPacked: false },
  { kind: 'relocation', words: 3, isPacked: false },
  { kind: 'flushMark', words: 0, isPacked: false },
  { kind: 'pages', words: 1, isPacked: false },
  { kind: 'data', words: 2, isPacked: true },
  { kind: 'relocation', words: 4, isPacked: true },
] as const;
type Form = (typeof forms)[number];
const runHeaderBytes = 32;

/** Does it name compressed blocks? */
export const isPackedRun = (run: IndexRun): boolean =>
  (run.kind === 'data' || run.kind === 'relocation') && run.lengths !== undefined;

const formOf = (run: IndexRun): number =>
  forms.findIndex((form) => form.kind === run.kind && form.isPacked === isPackedRun(run));

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
    case 'relocation': {
      const { block, offset, checksums, lengths } = run;
      const columns: (readonly number[])[] = [checksums];
      if (run.kind === 'relocation') columns.push(run.oldSegments, run.oldOffsets);
      if (lengths !== undefined) columns.push(lengths);
      return { block, offset, count: checksums.length, words: interleaved(columns) };
    }
    case 'hole':
    case 'zero':
      return { ...run, offset: 0, words: [] };
    case 'flushMark':
      return { offset: 0, block: run.seq, count: run.wallMs, words: [], sizeBytes: run.sizeBytes };
    case 'pages':
      return { ...run, block: 0, count: run.keys.length, words: run.keys };
  }
}

/** The words of each block beside each other. */
function interleaved(columns: readonly (readonly number[])[]): readonly number[] {
  const [first = []] = columns;
  if (columns.length === 1) return first;
  return first.flatMap((_, i) => columns.map((column) => column[i] ?? 0));
}

function fromRaw(
  { kind, words: width, isPacked }: Form,
  { offset, block, count, words, sizeBytes = 0 }: RawRun,
): IndexRun {
  const column = (at: number): number[] => words.filter((_, i) => i % width === at);
  switch (kind) {
    case 'data':
    case 'relocation': {
      const checksums = width === 1 ? words : column(0);
      const stored = {
        block,
        offset,
        checksums,
        ...(isPacked ? { lengths: column(width - 1) } : {}),
      };
      if (kind === 'data') return { kind, ...stored };
      return { kind, ...stored, oldSegments: column(1), oldOffsets: column(2) };
    }
    case 'hole':
    case 'zero':
      return { kind, block, count };
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
    out[at] = formOf(runs[i] as IndexRun) + 1; // as many as there are raws
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
    const form = forms[(bytes[at] ?? 0) - 1];
    if (form === undefined) throw damaged(`the index has a run of the unknown kind ${bytes[at]}`);
    const count = readU64(bytes, at + 16);
    const wordCount = count * form.words;
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
    const run = fromRaw(form, raw);
    if (isPackedRun(run) && !lengthsFit(run)) throw damaged('a stored length is not possible');
    runs.push(run);
    at += runHeaderBytes + 4 * wordCount;
  }
  return runs;
}

/** No block is stored in more bytes than it has, or in none. */
const lengthsFit = (run: IndexRun): boolean =>
  'lengths' in run && run.lengths?.every((length) => length > 0 && length <= blockBytes) === true;
