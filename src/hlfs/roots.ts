/** What can be done with a root that is at rest: read it as a volume, compare two, give a log's dead segments back. */
import { DvceError, type LogId } from '../base/index.ts';
import { BlockSource } from './block-source.ts';
import type { HlfsContext } from './context.ts';
import { listExtents } from './extents.ts';
import type { RootRanges } from './forks.ts';
import { LayerReader } from './layer-reader.ts';
import type { Layers } from './layers.ts';
import { newestRoot } from './log-recovery.ts';
import { BlockMap } from './map.ts';
import { blockBytes } from './pointer.ts';
import type { LogRange, SnapshotDocument } from './schema.ts';
import { segmentKey } from './schema.ts';
import { isHeld } from './segment-table.ts';
import { listSegments, rangeOf, readRoot, SegmentReader } from './segments.ts';
import type { BlockReader, Done, ExtentsDone, ReadDone } from './volume-api.ts';

/** The ranges, size and checksum of the root at a position; what a fork starts from. */
export async function readRanges(
  context: HlfsContext,
  log: LogId,
  rootSegment: number,
): Promise<RootRanges> {
  const { header, facts } = await readRoot(context.store, log, rootSegment);
  return { ranges: facts.ranges, checksum: header.checksum, sizeBytes: Number(facts.sizeBytes) };
}

const nothing = { onRelease: () => {}, onRetain: () => {} };

/** The map of a root, for reading only. */
export async function openRoot(
  context: HlfsContext,
  log: LogId,
  rootSegment: number,
): Promise<{
  map: BlockMap;
  reader: SegmentReader;
  ranges: readonly LogRange[];
  sizeBytes: number;
}> {
  const { facts } = await readRoot(context.store, log, rootSegment);
  const reader = new SegmentReader(context.store, facts.ranges, context.timers);
  const map = new BlockMap(reader, facts.top, Number(facts.mappedBlocks), nothing);
  return { map, reader, ranges: facts.ranges, sizeBytes: Number(facts.sizeBytes) };
}

/** A snapshot as a read-only device. The caller keeps the snapshot from being deleted (a pin, or its own knowledge). */
export async function openSnapshot(
  context: HlfsContext,
  snapshot: SnapshotDocument,
  logicalBlockBytes: 512 | 4096,
): Promise<BlockReader> {
  const root = await openRoot(context, snapshot.log, snapshot.rootSegment);
  const source = new BlockSource(root.reader, context.reads);
  const layers: Layers = { overlays: () => [], map: root.map, source };
  return new SnapshotReader(layers, root.sizeBytes, snapshot.name, logicalBlockBytes);
}

class SnapshotReader implements BlockReader {
  readonly sizeBytes: number;
  readonly caps: BlockReader['caps'];
  readonly #layers: Layers;
  readonly #reader: LayerReader;
  readonly #name: string;

  constructor(layers: Layers, sizeBytes: number, name: string, logicalBlockBytes: 512 | 4096) {
    this.sizeBytes = sizeBytes;
    this.#name = name;
    this.caps = {
      readOnly: true,
      blockBytes: logicalBlockBytes,
      multiConn: true,
      cache: false,
      rotational: false,
    };
    this.#layers = layers;
    this.#reader = new LayerReader(layers);
  }

  read(offset: number, length: number, done: ReadDone): void {
    this.#reader.read(offset, length, this.sizeBytes, done);
  }
  write(_offset: number, _data: Buffer, _options: unknown, done: Done): void {
    done(this.#refusal());
  }
  trim(_offset: number, _length: number, _options: unknown, done: Done): void {
    done(this.#refusal());
  }
  writeZeroes(_offset: number, _length: number, _options: unknown, done: Done): void {
    done(this.#refusal());
  }
  flush(done: Done): void {
    done(null);
  }
  cache(_offset: number, _length: number, done: Done): void {
    done(null);
  }
  extents(offset: number, length: number, done: ExtentsDone): void {
    listExtents(this.#layers, this.sizeBytes, offset, length, done);
  }
  close(): Promise<void> {
    this.#reader.close();
    return Promise.resolve();
  }
  #refusal(): DvceError {
    return new DvceError('READ_ONLY', { name: this.#name, reason: 'it is a snapshot' });
  }
}

/**
 * Give back the segments of a log that nobody writes any more (rule G2), by the table of its newest root.
 * @param positions of snapshots and forks; with none, everything goes
 * @returns true when the log has no segment left
 */
export async function reclaimLog(
  context: HlfsContext,
  log: LogId,
  positions: readonly number[],
): Promise<boolean> {
  const { store } = context;
  const numbers = await listSegments(store, log);
  if (positions.length === 0) {
    for (const number of numbers) await store.delete(segmentKey(log, number));
    return true;
  }
  const root = await newestRoot(store, log, numbers);
  if (root === null) return numbers.length === 0;
  for (const number of numbers) {
    const row = root.table.get(number);
    // The newest root itself is the table that the next call reads.
    if (row === undefined || number === root.header.number) continue;
    if (!isHeld(number, row.death, positions)) await store.delete(segmentKey(log, number));
  }
  return false;
}

/** One end of a comparison. */
export interface RootPosition {
  readonly log: LogId;
  readonly rootSegment: number;
}

export interface ChangedRange {
  readonly offset: number;
  readonly length: number;
  readonly kind: 'data' | 'zero';
}

export interface Diff {
  readonly ranges: readonly ChangedRange[];
  readonly changedBytes: number;
  /** There are more than `limit` ranges; `changedBytes` counts all the same. */
  readonly truncated: boolean;
}

interface Side {
  readonly map: BlockMap;
  readonly ranges: readonly LogRange[];
}

/**
 * Blocks in which two roots differ. Subtrees that both share are skipped by their pointers, so the work is proportional to
 * the change. A block that the cleaner moved counts as changed.
 */
export async function diffRoots(
  context: HlfsContext,
  from: RootPosition,
  to: RootPosition,
  options: { readonly limit: number; readonly signal: AbortSignal },
): Promise<Diff> {
  const a = await openRoot(context, from.log, from.rootSegment);
  const b = await openRoot(context, to.log, to.rootSegment);
  const ranges: { offset: number; length: number; kind: 'data' | 'zero' }[] = [];
  const result = { changedBytes: 0, truncated: false };
  const end = Math.max(a.sizeBytes, b.sizeBytes);
  const add = (block: number, kind: 'data' | 'zero'): void => {
    const offset = block * blockBytes;
    const length = Math.min(blockBytes, end - offset);
    if (length <= 0) return;
    result.changedBytes += length;
    const last = ranges.at(-1);
    if (last !== undefined && last.kind === kind && last.offset + last.length === offset)
      last.length += length;
    else if (ranges.length < options.limit) ranges.push({ offset, length, kind });
    else result.truncated = true;
  };
  await diffIn(3, 0, a, b, options.signal, add);
  return { ranges, ...result };
}

const uniform = new Uint32Array(1024);

async function diffIn(
  level: number,
  index: number,
  a: Side,
  b: Side,
  signal: AbortSignal,
  add: (block: number, kind: 'data' | 'zero') => void,
): Promise<void> {
  signal.throwIfAborted();
  const left = (await a.map.words(level, index)) ?? uniform;
  const right = (await b.map.words(level, index)) ?? uniform;
  for (let child = 0; child < 256; child += 1) {
    if (samePointer(left, a.ranges, right, b.ranges, child)) continue;
    if (level > 0) await diffIn(level - 1, index * 256 + child, a, b, signal, add);
    else add(index * 256 + child, (right[child * 4] ?? 0) === 0 ? 'zero' : 'data');
  }
}

/** Same segment of the same log at the same place; or both without a block, which reads as zeros either way. */
function samePointer(
  left: Uint32Array,
  leftRanges: readonly LogRange[],
  right: Uint32Array,
  rightRanges: readonly LogRange[],
  child: number,
): boolean {
  const at = child * 4;
  const segment = left[at] ?? 0;
  if (segment !== right[at]) return false;
  if (segment === 0) return true;
  if (left[at + 1] !== right[at + 1] || left[at + 3] !== right[at + 3]) return false;
  return rangeOf(leftRanges, segment)?.log === rangeOf(rightRanges, segment)?.log;
}
