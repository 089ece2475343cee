/** What is known of a block that was journaled and is not in the map yet. */
import { limits } from '../base/index.ts';
import { blockBytes } from './pointer.ts';

export interface PartialBlock {
  readonly bytes: Buffer;
  /** Valid byte ranges, sorted, disjoint: [start, end, start, end, ...]. */
  ranges: number[];
  /** What the rest of the block is: the layer below, zeros, or a full block in the journal. */
  readonly under:
    | { readonly kind: 'below' }
    | { readonly kind: 'zero' }
    | { readonly kind: 'journal'; address: number; readonly checksum: number };
}

export interface Tombstone {
  readonly block: number;
  readonly count: number;
  readonly kind: 'hole' | 'zero';
}

/** A payload that is still in memory, and the journal's address of its first byte. */
export interface KeptPayload {
  readonly bytes: Buffer;
  readonly address: number;
}

/** What the overlay says of a block. */
export type Entry =
  | {
      readonly kind: 'journal';
      readonly address: number;
      readonly checksum: number;
      readonly kept: KeptPayload | null;
    }
  | { readonly kind: 'hole' }
  | { readonly kind: 'zero' }
  | { readonly kind: 'partial'; readonly partial: PartialBlock };

/** The tombstone that a range becomes; null when each of its blocks gets an entry. */
export function tombstoneOf(
  kind: Tombstone['kind'],
  { offset, length }: { readonly offset: number; readonly length: number },
): Tombstone | null {
  const block = Math.ceil(offset / blockBytes);
  const count = Math.floor((offset + length) / blockBytes) - block;
  return count > limits.tombstoneBlocksMin ? { block, count, kind } : null;
}
