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
export { NbdClient } from './client.ts';
export { connectNbd, type NbdClientOptions } from './client-connect.ts';
export type { Connection } from './connection.ts';
export * from './exports.ts';
export { activatedSocket, type UnixSocketOptions } from './listen.ts';
export {
  type RequestFigures,
  type RequestLatency,
  RequestMeter,
  requestBoundsSeconds,
  sumOfFigures,
} from './request-meter.ts';
export * from './server.ts';
export type { ServerTls } from './server-tls.ts';
export { Throttle, type ThrottleFigures } from './throttle.ts';
export { ThreadTurns, type TurnShare } from './turns.ts';
export { CopyOnWriteBackend } from './wrappers/copy-on-write.ts';
export { DelayBackend } from './wrappers/delay.ts';
export { ErrorBackend, type ErrorRule } from './wrappers/error.ts';
export { LogBackend } from './wrappers/log.ts';
export { ReadOnlyBackend } from './wrappers/read-only.ts';
export { StatsBackend } from './wrappers/stats.ts';
