/** HLFS: log-structured volumes over a `SegmentStore`. */
export * from './context.ts';
export * from './documents.ts';
export * from './schema.ts';
export * from './store.ts';
