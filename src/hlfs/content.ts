/** Where the content of a root is: for each range whether there is data, and in which segment. */

import type { LogId } from '../base/index.ts';
import { limits } from '../base/index.ts';
import type { HlfsContext } from './context.ts';
import type { BlockMap } from './map.ts';
import { blockBytes } from './pointer.ts';
import { openRoot, type RootPosition } from './roots.ts';
import { rangeOf } from './segments.ts';

export interface ContentExtent {
  readonly offset: number;
  readonly length: number;
  readonly kind: 'data' | 'hole' | 'zero';
  /** Of data. */
  readonly log?: LogId;
  readonly segment?: number;
  readonly segmentOffset?: number;
}

type Found = Pick<ContentExtent, 'kind' | 'log' | 'segment' | 'segmentOffset'>;

/**
 * Extents from `offset` on, at most `limit`; neighbours that lie one behind the other in the same segment are one extent. The
 * work of one call is bounded: `next` says where to go on, null at the end.
 */
export async function listContent(
  context: HlfsContext,
  position: RootPosition,
  options: { readonly offset: number; readonly limit: number; readonly signal: AbortSignal },
): Promise<{ sizeBytes: number; extents: ContentExtent[]; next: number | null }> {
  const { map, ranges, sizeBytes } = await openRoot(context, position.log, position.rootSegment);
  const extents: ContentExtent[] = [];
  let at = Math.floor(options.offset / blockBytes) * blockBytes;
  /** Where the last one ends in its segment. */
  let storedEnd: number | undefined;
  for (let looked = 0; at < sizeBytes && looked < blocksPerCall; looked += 1) {
    options.signal.throwIfAborted();
    const {
      kind,
      segment,
      offset,
      stored = 0,
      blocks,
    } = await lookUp(map, Math.floor(at / blockBytes));
    const length = Math.min(blocks * blockBytes, sizeBytes - at);
    const log = segment === undefined ? undefined : rangeOf(ranges, segment)?.log;
    const found: Found =
      log === undefined || segment === undefined || offset === undefined
        ? { kind }
        : { kind, log, segment, segmentOffset: offset };
    const last = extents.at(-1);
    const isNext = last !== undefined && continues(last, found) && storedEnd === offset;
    if (isNext) extents[extents.length - 1] = { ...last, length: last.length + length };
    else if (extents.length >= options.limit) return { sizeBytes, extents, next: at };
    else extents.push({ offset: at, length, ...found });
    at += length;
    storedEnd = offset === undefined ? undefined : offset + stored;
  }
  return { sizeBytes, extents, next: at < sizeBytes ? at : null };
}

/** A look is some microseconds where the page is in memory; 256 share one page that is read. */
const blocksPerCall = limits.extentBlocksMax;

const continues = (last: ContentExtent, found: Found): boolean =>
  last.kind === found.kind && last.log === found.log && last.segment === found.segment;

async function lookUp(
  map: BlockMap,
  block: number,
): Promise<{
  kind: ContentExtent['kind'];
  segment?: number;
  offset?: number;
  /** Bytes that it takes in the segment. */
  stored?: number;
  blocks: number;
}> {
  for (let attempt = 0; ; attempt += 1) {
    const span = map.uniformSpan(block);
    if (span !== undefined) return span;
    const found = map.find(block);
    if (found?.kind === 'block')
      return {
        kind: 'data',
        segment: found.segment,
        offset: found.offset,
        stored: found.length,
        blocks: 1,
      };
    if (found !== undefined) return { kind: found.kind, blocks: 1 };
    // The map keeps a bounded number of pages; what was loaded is looked at at once.
    if (attempt >= loadsMax) throw new Error(`block ${block} of the map cannot be kept in memory`);
    await map.load(block);
  }
}

const loadsMax = 16;
