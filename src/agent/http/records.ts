/**
 * What is written down of requests: changes in the audit log, and for the end-to-end tests every request with the name of its API
 * operation in the file that DVCE_ACCESS_LOG names (scripts/check-api-coverage.ts reads it).
 */
import { appendFile } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { type Clock, type Logger, toDvceError } from '../../base/index.ts';
import type { AuditLog } from '../audit.ts';
import type { Server } from '../routes/types.ts';
import { nameOf, operationOf } from './guard.ts';

/** `/v1/operations/ID`, when the answer says that one has begun. */
function startedOperation(reply: FastifyReply): string | null {
  const location = reply.getHeader('location');
  const found = typeof location === 'string' ? /^\/v1\/operations\/([^/]+)$/.exec(location) : null;
  return found?.[1] ?? null;
}

const isDryRun = ({ query }: FastifyRequest): boolean => Object(query).dryRun === true;

export function auditChanges(server: Server, audit: AuditLog, clock: Clock): void {
  server.addHook('onResponse', async (request: FastifyRequest, reply: FastifyReply) => {
    const { statusCode } = reply;
    const refused = statusCode === 401 || statusCode === 403;
    if (!refused && ['GET', 'HEAD', 'OPTIONS'].includes(request.method)) return;
    audit.add({
      at: new Date(clock.wallMs()).toISOString(),
      requestor: nameOf(request),
      from: request.raw.socket.remoteAddress ?? null,
      method: request.method,
      // Without its query: none holds a secret, and whoever puts one there shall not find it here.
      path: (request.url.split('?', 1)[0] ?? '').slice(0, 1200),
      operationId: operationOf(request) || null,
      dryRun: isDryRun(request),
      status: statusCode,
      operation: startedOperation(reply),
    });
  });
}

export function recordRequests(server: Server, path: string, logger: Logger): void {
  server.addHook('onRequest', async (request, reply) => {
    const record = (): void => {
      // Who only asks what a change would do has not asked for the change.
      const name = isDryRun(request) ? '-' : operationOf(request) || '-';
      append(path, logger, request.method, name, reply.statusCode);
    };
    reply.raw.once('close', record);
  });
}

function append(path: string, logger: Logger, method: string, name: string, status: number): void {
  appendFile(path, `${method} ${name} ${status}\n`, (error) => {
    if (error !== null) logger.warn({ err: toDvceError(error, path) }, 'no access log');
  });
}

export type RecordConsole = (request: IncomingMessage, requestor: string, status: number) => void;

/** Consoles are no requests of the server any more when they are answered. Who types into a guest changes it: audited as a change. */
export const recordConsoles =
  (audit: AuditLog, clock: Clock, accessLog: string | undefined, logger: Logger): RecordConsole =>
  ({ method = 'GET', url = '', socket }, requestor, status) => {
    const operationId = 'openVmConsole';
    audit.add({
      at: new Date(clock.wallMs()).toISOString(),
      requestor,
      from: socket.remoteAddress ?? null,
      method,
      path: (url.split('?', 1)[0] ?? '').slice(0, 1200),
      operationId,
      dryRun: false,
      status,
      operation: null,
    });
    if (accessLog !== undefined) append(accessLog, logger, method, operationId, status);
  };
