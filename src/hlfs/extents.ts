/** Allocation of a range, for NBD block status: what is data, what reads as zeros, what is not allocated at all. */
import { type DvceError, limits, toDvceError } from '../base/index.ts';
import type { Layers } from './layers.ts';
import { blockBytes } from './pointer.ts';
import type { Extent, ExtentsDone } from './volume-api.ts';

interface Kind {
  readonly hole: boolean;
  readonly zero: boolean;
}
const data: Kind = { hole: false, zero: false };
const hole: Kind = { hole: true, zero: true };
const zero: Kind = { hole: false, zero: true };

/**
 * At least one extent from `offset` on. The work of one call is bounded: the answer may cover less than was asked, the
 * client asks on from there.
 */
export function listExtents(
  layers: Layers,
  sizeBytes: number,
  offset: number,
  length: number,
  done: ExtentsDone,
): void {
  collect(layers, offset, Math.min(length, sizeBytes - offset)).then(
    (extents) => done(null, extents),
    (error: unknown) => done(toDvceError(error) satisfies DvceError, []),
  );
}

async function collect(layers: Layers, offset: number, length: number): Promise<Extent[]> {
  const end = offset + length;
  const extents: { lengthBytes: number; hole: boolean; zero: boolean }[] = [];
  let at = offset;
  let looked = 0;
  while (at < end && looked < limits.extentBlocksMax && extents.length < limits.extentsMax) {
    const block = Math.floor(at / blockBytes);
    const { kind, blocks } = await kindAt(layers, block);
    looked += 1;
    const next = Math.min(end, (block + blocks) * blockBytes);
    const last = extents.at(-1);
    if (last !== undefined && last.hole === kind.hole && last.zero === kind.zero)
      last.lengthBytes += next - at;
    else extents.push({ lengthBytes: next - at, ...kind });
    at = next;
  }
  return extents;
}

/** Kind of a block and how many blocks from it on certainly are the same. */
async function kindAt(layers: Layers, block: number): Promise<{ kind: Kind; blocks: number }> {
  for (const overlay of layers.overlays()) {
    const entry = overlay.find(block);
    if (entry !== undefined) return { kind: kindOf(entry.kind), blocks: 1 };
  }
  const span = layers.map.uniformSpan(block);
  if (span !== undefined) {
    const isClear = layers.overlays().every((overlay) => !overlay.touches(block, span.blocks));
    return { kind: kindOf(span.kind), blocks: isClear ? span.blocks : 1 };
  }
  let found = layers.map.find(block);
  for (let attempt = 0; found === undefined && attempt < triesMax; attempt += 1) {
    await layers.map.load(block);
    found = layers.map.find(block);
  }
  return { kind: kindOf(found?.kind ?? 'block'), blocks: 1 };
}

const triesMax = 16;
const kindOf = (kind: string): Kind => (kind === 'hole' ? hole : kind === 'zero' ? zero : data);
