/** NBD server and client, and the `BlockBackend` interface between them and the volume engine. */
export * from './backend.ts';
