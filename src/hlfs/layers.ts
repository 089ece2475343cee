/**
 * Reading through the layers of a volume: active overlay, frozen batches newest first, map.
 *
 * Invariant: which copy of a block a read returns is decided in one turn, from all layers at once; what is in memory or in
 * the journal is copied in that turn, what lies in segments is immutable and read afterwards. So a read sees each block
 * either before or after any write, and never a mixture of layers of different times.
 */
import { DvceError, toDvceError } from '../base/index.ts';
import type { BlockSource } from './block-source.ts';
import { GrowingRun } from './growing-run.ts';
import type { BlockMap } from './map.ts';
import type { Lookup } from './map-page.ts';
import { type Entry, Overlay, type PartialBlock } from './overlay.ts';
import { blockBytes } from './pointer.ts';

export interface Layers {
  /** Newest first. */
  readonly overlays: () => readonly Overlay[];
  readonly map: BlockMap;
  readonly source: BlockSource;
}

type Done = (error: DvceError | null) => void;

interface Run {
  /** In the target. */
  readonly start: number;
  readonly stored: GrowingRun;
}

/** A read of whole blocks in progress. */
interface Plan {
  readonly target: Buffer;
  /** Blocks that hold data; the others were filled with zeros. */
  dataBlocks: number;
  /** Of which some or all lie in the journal. */
  journalBlocks: number;
  readonly runs: Run[];
  readonly patches: {
    readonly at: number;
    readonly block: number;
    readonly below: number;
    readonly bytes: Buffer;
    readonly ranges: readonly number[];
  }[];
}

/** How often a read starts over because map pages were missing or a segment was cleaned away under it. */
const triesMax = 16;

/**
 * Read `count` blocks from `block` into `target`.
 * @param done told how many of the blocks held data; 0 means that all of it is zeros
 */
export function readLayers(
  layers: Layers,
  block: number,
  count: number,
  target: Buffer,
  done: (error: DvceError | null, dataBlocks: number) => void,
  from = 0,
  attempt = 0,
): void {
  if (count === 1 && from === 0) {
    const dataBlocks = readAtOnce(layers, block, target);
    if (dataBlocks >= 0) {
      done(null, dataBlocks);
      return;
    }
  }
  let plan: Plan | number;
  try {
    plan = makePlan(layers, block, count, target, from);
  } catch (error) {
    done(toDvceError(error), 0);
    return;
  }
  const again = (): void => readLayers(layers, block, count, target, done, from, attempt + 1);
  if (typeof plan === 'number') {
    if (attempt >= triesMax) {
      done(tooOften(), 0);
      return;
    }
    loadLeaves(layers.map, plan, block + count).then(again, (error: unknown) =>
      done(toDvceError(error), 0),
    );
    return;
  }
  const { dataBlocks } = plan;
  runPlan(layers, plan, (error) => {
    // The cleaner may have moved a block and deleted its segment after the plan was made: the map knows the new place.
    if (error?.code === 'SEGMENT_MISSING' && attempt < 2) again();
    else done(error, dataBlocks);
  });
}

/**
 * The usual case, without a plan: one block that is in no overlay and can be had in this turn.
 * @returns how many blocks held data; -1 when it takes more than that, or something is wrong
 */
function readAtOnce({ overlays, map, source }: Layers, block: number, target: Buffer): number {
  if (findLayer(overlays(), block, 0) !== undefined) return -1;
  const found = map.find(block);
  if (found === undefined) return -1;
  if (found.kind !== 'block') {
    target.fill(0, 0, blockBytes);
    source.counts.zero += 1;
    return 0;
  }
  const { segment, offset, length, checksum } = found;
  if (source.cached(segment, offset, checksum, target)) return 1;
  const checksums = [checksum];
  const lengths = length === blockBytes ? undefined : [length];
  return source.readNow({ segment, offset, checksums, lengths }, target) ? 1 : -1;
}

/** A block as the map has it. */
export const readMapped = (
  layers: Pick<Layers, 'map' | 'source'>,
  block: number,
  target: Buffer,
): Promise<void> =>
  new Promise((resolve, reject) => {
    readLayers({ ...layers, overlays: () => [] }, block, 1, target, (error) =>
      error ? reject(error) : resolve(),
    );
  });

const tooOften = (): DvceError =>
  new DvceError('INTERNAL', { reason: 'map pages were evicted as fast as they were loaded' });

/** Load every leaf of the range that is missing, from the first missing one on. */
async function loadLeaves(map: BlockMap, first: number, end: number): Promise<void> {
  const leaves: Promise<void>[] = [];
  for (let block = first; block < end; block = (Math.floor(block / 256) + 1) * 256)
    if (map.find(block) === undefined) leaves.push(map.load(block));
  await Promise.all(leaves);
}

/** @returns the first block whose map page has to be loaded, or the plan */
function makePlan(
  layers: Layers,
  block: number,
  count: number,
  target: Buffer,
  from: number,
): Plan | number {
  const plan: Plan = { target, dataBlocks: 0, journalBlocks: 0, runs: [], patches: [] };
  const overlays = layers.overlays();
  const { counts } = layers.source;
  const looksInCache = layers.source.looksInCache(count);
  let zeros = 0;
  for (let i = 0; i < count; i += 1) {
    const each = block + i;
    const at = i * blockBytes;
    const layer = findLayer(overlays, each, from);
    // Where the rest of a block lies below its page must be here, because all layers are looked at in this one turn.
    if (layer !== undefined && !planOverlay(plan, layer, each, at)) continue;
    const found = layers.map.find(each);
    if (found === undefined) return each;
    if (layer !== undefined) continue;
    if (found.kind !== 'block') {
      target.fill(0, at, at + blockBytes);
      zeros += 1;
    } else planFound(plan, layers.source, found, at, looksInCache);
  }
  // Counted at the end: a plan that is given up is made again.
  counts.zero += zeros;
  counts.journal += plan.journalBlocks;
  return plan;
}

type FoundBlock = Lookup & { kind: 'block' };

function planFound(
  plan: Plan,
  source: BlockSource,
  found: FoundBlock,
  at: number,
  looksInCache: boolean,
): void {
  // Decoding a compressed block costs more than a look.
  const isWorthIt = looksInCache || found.length < blockBytes;
  if (!isWorthIt || !fromCache(plan, source, found, at)) planBlock(plan, found, at);
}

/** What is in the cache is copied in this turn. */
function fromCache(plan: Plan, source: BlockSource, found: FoundBlock, at: number): boolean {
  const { segment, offset, checksum } = found;
  const slice = plan.target.subarray(at, at + blockBytes);
  if (!source.cached(segment, offset, checksum, slice)) return false;
  plan.dataBlocks += 1;
  return true;
}

/** Blocks that lie one behind the other in a segment are read at once. */
function planBlock(plan: Plan, found: FoundBlock, at: number): void {
  plan.dataBlocks += 1;
  const run = plan.runs.at(-1);
  const isNext = run !== undefined && run.start + targetBytes(run) === at;
  if (!isNext || !run.stored.add(found))
    plan.runs.push({ start: at, stored: new GrowingRun(found) });
}

const targetBytes = ({ stored }: Run): number => stored.checksums.length * blockBytes;

interface FoundLayer {
  readonly overlay: Overlay;
  readonly entry: Entry;
  readonly index: number;
}

function findLayer(
  overlays: readonly Overlay[],
  block: number,
  from: number,
): FoundLayer | undefined {
  for (let index = from; index < overlays.length; index += 1) {
    const overlay = overlays[index];
    const entry = overlay?.find(block);
    if (overlay !== undefined && entry !== undefined) return { overlay, entry, index };
  }
  return undefined;
}

/** @returns true when a layer below has to be read as well */
function planOverlay(
  plan: Plan,
  { overlay, entry, index }: FoundLayer,
  block: number,
  at: number,
): boolean {
  if (entry.kind === 'journal' || entry.kind === 'partial') {
    plan.dataBlocks += 1;
    plan.journalBlocks += 1;
  }
  const slice = plan.target.subarray(at, at + blockBytes);
  if (overlay.fill(entry, slice)) return false;
  // Only a part was written and the rest lies below: keep what is valid now, lay it over what comes.
  const { partial } = entry as { partial: PartialBlock };
  plan.patches.push({
    at,
    block,
    below: index + 1,
    bytes: Buffer.from(partial.bytes),
    ranges: [...partial.ranges],
  });
  return true;
}

function runPlan(layers: Layers, plan: Plan, done: Done): void {
  let open = 1;
  let failure: DvceError | null = null;
  const ended = (error: DvceError | null): void => {
    failure ??= error;
    open -= 1;
    if (open === 0) done(failure);
  };
  for (const run of plan.runs) {
    open += 1;
    const slice = plan.target.subarray(run.start, run.start + targetBytes(run));
    layers.source.read(run.stored, slice, ended);
  }
  for (const patch of plan.patches) {
    open += 1;
    const slice = plan.target.subarray(patch.at, patch.at + blockBytes);
    const whole = {
      bytes: patch.bytes,
      ranges: [...patch.ranges],
      under: { kind: 'below' as const },
    };
    readLayers(
      layers,
      patch.block,
      1,
      slice,
      (error) => {
        if (!error) Overlay.overlayPartial(whole, slice);
        ended(error);
      },
      patch.below,
      triesMax, // never starts over by itself: the whole read does
    );
  }
  ended(null);
}
