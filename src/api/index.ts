/**
 * The HTTP API seen from outside: typed client over the agent's unix socket, resource types, errors on the wire.
 *
 * Shape: `ApiClient` (routes.ts: one typed call per route) over `HttpClient` (client.ts: one request, deadline, problem to
 * error). Schemas have a door of their own, `schema/index.ts`, because the command line must not load them: its start
 * time is a promise.
 *
 * Invariants: a failed call throws a `DvceError` of the table and nothing else (an aborted one: the signal's reason); every
 * call ends by its deadline.
 */
export { type Answer, HttpClient, type Method, Planned } from './client.ts';
export { fromProblem, problemType, toProblem } from './problem.ts';
export { parseFingerprint, parseRemoteUrl, type Remote } from './remote.ts';
export { ApiClient, consoleProtocol, segment, urls, type WaitOptions } from './routes.ts';
export { sse } from './sse.ts';
export type * from './types.ts';
