/**
 * The front door of blockd for the agent and for tools: the control protocol, its client, and the start of a blockd on a
 * host without systemd. Cheap to import: the engine, the stores and NBD are loaded only by the process itself (main.ts).
 */
export type { CallOptions } from './calls.ts';
export { BlockdClient, type BlockdClientOptions } from './client.ts';
export { type DataDirectory, dataDirectory } from './data-directory.ts';
export { blockdEntry, type EnsureBlockdOptions, ensureBlockd } from './ensure.ts';
export * from './protocol.ts';
