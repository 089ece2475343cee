/**
 * Implementations of `SegmentStore` (src/hlfs/store.ts): where segments and documents are kept.
 *
 * - memory: in this process; gone with it
 * - local: a directory of this host; the embedded default
 *
 * Each keeps the invariants that SegmentStore states; test/contract/segment-store.ts proves them for all.
 */
export * from './local.ts';
export * from './memory.ts';
