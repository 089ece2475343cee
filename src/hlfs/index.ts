/** HLFS: log-structured volumes over a `SegmentStore`. */
export * from './store.ts';
