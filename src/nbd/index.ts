/**
 * NBD server and client, and the `BlockBackend` interface between them and whatever holds the blocks.
 *
 * Purpose: speak the whole current protocol to every client, knowing nothing of volumes.
 * Invariants: an acknowledged write was acknowledged by the backend; nothing of a half-received request is applied;
 * nothing held reaches the backend after its connection died (rule N6); memory is bounded per connection and per server.
 *
 *   socket -> Connection -> Handshake (option-data, export-cache)          names, TLS, what is negotiated
 *                        -> Transmission -> RequestParser -> BlockBackend  requests, in place
 *                                        <- ReplyEncoder, ReplyWriter <-   replies, one write per turn
 */
export * from './backend.ts';
export type { Connection } from './connection.ts';
export * from './exports.ts';
export { activatedSocket, checkUnixPath, type UnixSocketOptions } from './listen.ts';
export * from './server.ts';
export type { ServerTls } from './server-tls.ts';
