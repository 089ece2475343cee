/**
 * Cleaning: copying the live blocks of segments that are mostly dead to the end of the log, so that the segments die whole.
 *
 *   chosen segments -> index -> blocks that the map still finds there -> read in large windows -> a *move*
 *   move -> one segment of its own -> applied to the map like any other, where it still fits
 *
 * Invariants:
 * - a moved block is an index entry (block, old pointer, new pointer) that is applied, live and in recovery, only where the
 *   map still holds the old pointer (G1): a write that came between is never undone. So a move may be gathered while
 *   guests write, and be published whenever it is its turn;
 * - gathering changes nothing: it reads segments and the map; only `finishMove`, in the publisher's turn, touches pages;
 * - what survived cleaning lies in segments of its own, in order of blocks, so hot and cold do not mix, and what survived
 *   before is not mixed with what survives now (`generation`);
 * - blocks are moved as they are stored: a compressed one stays compressed, whatever the volume is set to by now (B-11);
 * - a segment in which cleaning meets damage is left as it is, for `volume check` to name.
 *
 * A hole of at most `cleanPlugBlocks` between two moved runs is moved along (LSVD's hole plugging), when the runs are longer than
 * the hole: what was written in one piece is read in one piece again.
 */
import { crc32c, DvceError, limits } from '../base/index.ts';
import type { HlfsContext } from './context.ts';
import type { StoredBlock } from './growing-run.ts';
import type { LogWriter } from './log-writer.ts';
import { fanout } from './map-page.ts';
import { blockBytes, type StoredBlocks } from './pointer.ts';
import { segmentDataOffset } from './segment-format.ts';
import type { IndexRun } from './segment-index.ts';
import { readHeader, readIndex } from './segments.ts';

/** A block where the map found it. */
interface Place extends StoredBlock {
  readonly block: number;
}

type Moved = Place & { readonly bytes: Buffer };

/** Live content of segments, read and on its way. */
export interface Move {
  /** Segments that nothing lives in afterwards but map pages, which the next root moves. */
  readonly emptied: readonly number[];
  readonly moved: readonly Moved[];
  /** Map pages that lie in them. */
  readonly pages: readonly { readonly segment: number; readonly keys: readonly number[] }[];
  readonly generation: number;
}

export interface GatherOptions {
  readonly context: HlfsContext;
  readonly writer: LogWriter;
  /** Segments to be emptied. */
  readonly numbers: readonly number[];
  readonly generation: number;
  /** Positions of snapshots and forks, ascending. */
  readonly positions: readonly number[];
  readonly damaged: Set<number>;
  /** Runs one short piece of work, and lets others run before the next. */
  readonly step: <T>(work: () => Promise<T>) => Promise<T>;
}

/** @returns null when nothing lives there */
export async function gatherMove(options: GatherOptions): Promise<Move | null> {
  const moved: Moved[] = [];
  const pages: Move['pages'][number][] = [];
  const emptied: number[] = [];
  for (const number of options.numbers) {
    const found = await readUndamaged(options, number);
    if (found === null) continue;
    for (const each of found.moved) moved.push(each);
    if (found.keys.length > 0) pages.push({ segment: number, keys: found.keys });
    emptied.push(number);
  }
  if (moved.length === 0 && pages.length === 0) return null;
  moved.sort((a, b) => a.block - b.block);
  const plugs = await options.step(() => readPlugs(options, moved));
  if (plugs.length > 0) moved.push(...plugs);
  if (plugs.length > 0) moved.sort((a, b) => a.block - b.block);
  return { emptied, moved, pages, generation: options.generation };
}

/** Blocks wherever the map finds them, as far as they lie in segments that are wanted. @throws SEGMENT_DAMAGED */
export async function gatherBlocks(
  writer: LogWriter,
  blocks: readonly number[],
  isWanted: (segment: number) => boolean,
  step: GatherOptions['step'],
): Promise<Move['moved']> {
  const places = new Map<number, Place[]>();
  for (const block of blocks) {
    // A page may be evicted as soon as it is there; what cannot be told is found another time.
    for (let tries = 0; tries < 3 && writer.map.find(block) === undefined; tries += 1)
      await writer.map.load(block);
    const now = writer.map.find(block);
    if (now?.kind !== 'block' || !isWanted(now.segment)) continue;
    const present = places.get(now.segment);
    if (present === undefined) places.set(now.segment, [{ block, ...now }]);
    else present.push({ block, ...now });
  }
  const moved: Moved[] = [];
  for (const each of places.values())
    for (const window of windowsOf(each.sort((a, b) => a.offset - b.offset)))
      moved.push(...(await step(() => readWindow(writer, window))));
  return moved.sort((a, b) => a.block - b.block);
}

/** What lives in a segment; null when it is damaged, or gone meanwhile. */
async function readUndamaged(
  options: GatherOptions,
  number: number,
): Promise<{ moved: Moved[]; keys: number[] } | null> {
  const { writer, damaged, context, step } = options;
  const moved: Moved[] = [];
  try {
    const { places, keys } = await step(() => livePart(options, number));
    for (const window of windowsOf(places))
      for (const each of await step(() => readWindow(writer, window))) moved.push(each);
    return { moved, keys };
  } catch (error) {
    if (!isDamage(error)) throw error;
    if (!writer.table.rows.has(number)) return null;
    const facts = { segment: number, reason: error.message };
    context.logger.error(facts, 'cleaning leaves a damaged segment');
    damaged.add(number);
    return null;
  }
}

/**
 * Publish a gathered move and apply it, in the publisher's turn; in several segments when its blocks touch more map pages
 * than a batch may. @returns the numbers of its segments
 */
export async function finishMove(writer: LogWriter, move: Move): Promise<number[]> {
  for (const { segment, keys } of move.pages) await rewritePages(writer, segment, keys);
  // What was overwritten since it was read would be dead at birth.
  const moved = move.moved.filter((each) => isThere(writer, each) !== false);
  const numbers: number[] = [];
  for (const part of partsOf(moved, writer.map.batchPagesMax)) {
    const covered = writer.state.coveredSeq;
    const data = part.map(({ bytes }) => bytes);
    await writer.publishBatch({ data, runs: relocationRuns(part) }, covered + 1, covered);
    numbers.push(writer.state.next - 1);
  }
  return numbers;
}

/** Each page makes those above it dirty too, of which the upper two levels have few. */
const pagesEach = 3;

async function rewritePages(
  writer: LogWriter,
  segment: number,
  keys: readonly number[],
): Promise<void> {
  const { map, rootFacts } = writer;
  const perSlice = Math.max(1, Math.floor(map.batchPagesMax / pagesEach));
  for (let at = 0; at < keys.length; at += perSlice) {
    const slice = keys.slice(at, at + perSlice);
    const isFull = map.dirtyPages + slice.length * pagesEach > map.batchPagesMax;
    if (isFull && map.dirtyPages > 0 && rootFacts !== null) await writer.publishRoot(rootFacts());
    await map.rewritePagesOf(segment, slice);
  }
}

/** Parts whose blocks lie in at most so many pages. */
function partsOf(moved: readonly Moved[], pagesMax: number): Moved[][] {
  const parts: Moved[][] = [];
  let pages = 0;
  let last = -1;
  for (const each of moved) {
    const leaf = Math.floor(each.block / fanout);
    if (leaf !== last) pages += pagesEach;
    if (parts.length === 0 || (leaf !== last && pages > pagesMax)) {
      parts.push([]);
      pages = pagesEach;
    }
    last = leaf;
    parts.at(-1)?.push(each);
  }
  return parts;
}

/** The blocks and pages of a segment that the map still finds there. */
async function livePart(
  { context, writer }: GatherOptions,
  number: number,
): Promise<{ places: Place[]; keys: number[] }> {
  const places: Place[] = [];
  const keys: number[] = [];
  const header = await readHeader(context.store, writer.state.log, number);
  if (header === undefined) return { places, keys };
  for (const run of await readIndex(context.store, header)) {
    if (run.kind === 'pages') keys.push(...run.keys);
    if (run.kind !== 'data' && run.kind !== 'relocation') continue;
    for (const place of placesOf(number, run)) {
      if (await isFoundThere(writer, place)) places.push(place);
    }
  }
  return { places: places.sort((a, b) => a.offset - b.offset), keys };
}

function placesOf(segment: number, run: StoredBlocks & { readonly block: number }): Place[] {
  let next = run.offset;
  return run.checksums.map((checksum, i) => {
    const length = run.lengths?.[i] ?? blockBytes;
    const offset = next;
    next += length;
    return { block: run.block + i, segment, offset, length, checksum };
  });
}

async function isFoundThere(writer: LogWriter, place: Place): Promise<boolean> {
  // A page may be evicted as soon as it is there; what cannot be told is moved another time.
  for (let tries = 0; tries < 3 && isThere(writer, place) === undefined; tries += 1)
    await writer.map.load(place.block);
  return isThere(writer, place) === true;
}

/** Does the map say that the block lies there? undefined when a page has to be loaded first. */
function isThere(writer: LogWriter, { block, segment, offset }: Place): boolean | undefined {
  const now = writer.map.find(block);
  if (now === undefined) return undefined;
  return now.kind === 'block' && now.segment === segment && now.offset === offset;
}

const isDamage = (error: unknown): error is DvceError =>
  error instanceof DvceError &&
  (error.code === 'SEGMENT_DAMAGED' || error.code === 'SEGMENT_MISSING');

/** Places that are read at once: close to each other, in order of their offsets. */
function windowsOf(places: readonly Place[]): Place[][] {
  const windows: Place[][] = [];
  let start = 0;
  let end = Number.NEGATIVE_INFINITY;
  for (const place of places) {
    const isNear = place.offset - end <= limits.cleanGapBytes;
    if (!isNear || place.offset + place.length - start > limits.cleanStepBytes) {
      windows.push([]);
      start = place.offset;
    }
    windows.at(-1)?.push(place);
    end = place.offset + place.length;
  }
  return windows;
}

/** One read past every cache; each block is checked against its checksum, what lies between them is looked at no further. */
async function readWindow(writer: LogWriter, window: readonly Place[]): Promise<Moved[]> {
  const [first] = window;
  const last = window.at(-1);
  if (first === undefined || last === undefined) return [];
  const { store } = writer.reader;
  const key = writer.reader.key(first.segment);
  const bytes = Buffer.allocUnsafe(last.offset + last.length - first.offset);
  await new Promise<void>((resolve, reject) => {
    store.read(key, first.offset, bytes, (error) => (error ? reject(error) : resolve()));
  });
  // Only what is moved is kept until the segment is written.
  const kept = Buffer.allocUnsafeSlow(window.reduce((sum, { length }) => sum + length, 0));
  let next = 0;
  return window.map((place) => {
    const at = place.offset - first.offset;
    const block = kept.subarray(next, next + place.length);
    next += place.length;
    bytes.copy(block, 0, at, at + place.length);
    if (crc32c(block) === place.checksum) return { ...place, bytes: block };
    throw new DvceError('SEGMENT_DAMAGED', {
      name: key,
      reason: `the block at offset ${place.offset} does not fit its checksum`,
    });
  });
}

/** The blocks of small holes between moved runs, where the map has them in segments that may be emptied. */
async function readPlugs(options: GatherOptions, moved: readonly Moved[]): Promise<Moved[]> {
  const { writer, positions } = options;
  const plugs: Moved[] = [];
  for (const block of holesBetween(moved)) {
    const now = writer.map.find(block);
    if (now?.kind !== 'block' || now.segment < writer.state.firstNumber) continue;
    const isNeeded = writer.table.isNeeded(now.segment, positions);
    if (isNeeded || options.damaged.has(now.segment)) continue;
    try {
      plugs.push(...(await readWindow(writer, [{ block, ...now }])));
    } catch (error) {
      if (!isDamage(error)) throw error; // it stays where it is
    }
  }
  return plugs;
}

/** Blocks of holes that are short, and shorter than the moved runs on both sides. Exported for its test. */
export function holesBetween(moved: readonly { readonly block: number }[]): number[] {
  const runs: { first: number; end: number }[] = [];
  for (const { block } of moved) {
    const last = runs.at(-1);
    if (last?.end === block) last.end += 1;
    else runs.push({ first: block, end: block + 1 });
  }
  const blocks: number[] = [];
  runs.forEach(({ first, end }, i) => {
    const before = runs[i - 1];
    if (before === undefined) return;
    const hole = first - before.end;
    const shorter = Math.min(end - first, before.end - before.first);
    if (hole > limits.cleanPlugBlocks || hole * 2 > shorter) return;
    for (let block = before.end; block < first; block += 1) blocks.push(block);
  });
  return blocks;
}

function relocationRuns(moved: readonly Place[]): IndexRun[] {
  const runs: {
    kind: 'relocation';
    block: number;
    offset: number;
    checksums: number[];
    lengths: number[];
    oldSegments: number[];
    oldOffsets: number[];
  }[] = [];
  let next = segmentDataOffset;
  for (const { block, segment, offset, length, checksum } of moved) {
    let run = runs.at(-1);
    if (run === undefined || run.block + run.checksums.length !== block) {
      const columns = { checksums: [], lengths: [], oldSegments: [], oldOffsets: [] };
      run = { kind: 'relocation', block, offset: next, ...columns };
      runs.push(run);
    }
    run.checksums.push(checksum);
    run.lengths.push(length);
    run.oldSegments.push(segment);
    run.oldOffsets.push(offset);
    next += length;
  }
  return runs.map(({ lengths, ...run }) =>
    lengths.every((length) => length === blockBytes) ? run : { ...run, lengths },
  );
}
