/**
 * The entries of a map page. The form of an entry is that of a block pointer (pointer.ts); in an inner page it
 * points to the stored child page.
 */
import { pointerLength, pointerOffset, pointerWord1, specialZero } from './pointer.ts';

export const fanout = 256;
export const pageBytes = 4096;
export const topLevel = 3;

export type TopPointer = readonly [number, number, number, number];

/** What is known of a block: a pointer, or nothing stored. */
export type Lookup =
  | {
      readonly kind: 'block';
      readonly segment: number;
      readonly offset: number;
      /** Bytes that it takes there. */
      readonly length: number;
      readonly checksum: number;
    }
  | { readonly kind: 'hole' }
  | { readonly kind: 'zero' };

export const holeLookup: Lookup = { kind: 'hole' };
const zeroLookup: Lookup = { kind: 'zero' };

export const levelStep = 0x1000_0000;
export const keyOf = (level: number, index: number): number => level * levelStep + index;

export const hasPage = (words: Uint32Array, child: number): boolean =>
  (words[child * 4] ?? 0) !== 0;

export function holds(
  words: Uint32Array,
  at: number,
  condition: { readonly segments: readonly number[]; readonly offsets: readonly number[] },
  i: number,
): boolean {
  return (
    words[at] === condition.segments[i] &&
    pointerOffset(words[at + 1] ?? 0) === condition.offsets[i]
  );
}

export function readEntry(words: Uint32Array, child: number): Lookup {
  const at = child * 4;
  const segment = words[at] ?? 0;
  if (segment === 0) return words[at + 1] === specialZero ? zeroLookup : holeLookup;
  return {
    kind: 'block',
    segment,
    offset: pointerOffset(words[at + 1] ?? 0),
    length: pointerLength(words[at + 2] ?? 0),
    checksum: words[at + 3] ?? 0,
  };
}

/** Make the entry at `at` the pointer of a block. */
export function writeEntry(
  words: Uint32Array,
  at: number,
  { segment, offset, length, checksum }: Omit<Lookup & { kind: 'block' }, 'kind'>,
): void {
  words[at] = segment;
  words[at + 1] = pointerWord1(offset, length);
  words[at + 2] = length;
  words[at + 3] = checksum;
}

/** Who walks over a map. */
export interface MapVisitor {
  /** A stored page; answer 'skip' to leave its subtree out. */
  page?(
    level: number,
    index: number,
    pointer: TopPointer,
  ): Promise<'skip' | undefined> | 'skip' | undefined;
  /** The 256 pointers of a leaf, first block first. */
  leaf?(firstBlock: number, words: Uint32Array): Promise<void> | void;
}
