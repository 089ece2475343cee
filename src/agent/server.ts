/**
 * The HTTP server of the API: validation by schema, errors as problem documents, the OpenAPI description.
 *
 * Bodies are checked as they are; query strings, which are texts, are turned into numbers and booleans first. An unknown
 * field of a body is an error.
 */
import fastifySwagger from '@fastify/swagger';
import { Ajv, type ErrorObject } from 'ajv';
import { type FastifyError, fastify } from 'fastify';
import { problemType, toProblem } from '../api/index.ts';
import { namedSchemas } from '../api/schema/index.ts';
import { DvceError, type Logger, limits, toDvceError } from '../base/index.ts';
import type { Agent } from './agent.ts';
import { emitChanges } from './change-events.ts';
import { planDryRuns } from './dry-run.ts';
import { eventRoutes } from './routes/events.ts';
import { healthRoutes } from './routes/health.ts';
import { imageRoutes } from './routes/images.ts';
import { operationRoutes } from './routes/operations.ts';
import { contentRoutes, exportRoutes, quotaRoutes, trashRoutes } from './routes/storage.ts';
import { systemRoutes } from './routes/system.ts';
import type { Server } from './routes/types.ts';
import { vmRoutes } from './routes/vms.ts';
import { snapshotRoutes, volumeRoutes } from './routes/volumes.ts';

const pathCharactersMax = 2000;

export async function buildServer(agent: Agent, logger: Logger, release: string): Promise<Server> {
  const server: Server = fastify({
    bodyLimit: limits.apiBodyBytesMax,
    exposeHeadRoutes: false,
    forceCloseConnections: true,
    logger: false,
    routerOptions: { maxParamLength: pathCharactersMax },
  });
  const strict = new Ajv({ strict: false, allErrors: false });
  const texts = new Ajv({ strict: false, coerceTypes: true, useDefaults: true });
  server.setValidatorCompiler(({ schema, httpPart }) =>
    (httpPart === 'body' ? strict : texts).compile(schema as object),
  );
  for (const schema of namedSchemas) server.addSchema(schema);
  server.setErrorHandler((error: FastifyError, request, reply) => {
    const known = explain(error);
    const level = known.httpStatus >= 500 ? 'error' : 'info';
    logger[level]({ err: known, method: request.method, url: request.url }, 'a request failed');
    return reply
      .code(known.httpStatus)
      .type(problemType)
      .serializer((value: unknown) => JSON.stringify(value))
      .send(toProblem(known));
  });
  server.setNotFoundHandler((request) => {
    throw new DvceError('INVALID_ARGUMENT', {
      what: `the request ${request.method} ${request.url}`,
      reason: 'the API has no such route',
      advice: 'See docs/reference/openapi.json, or GET /v1/openapi.json.',
    });
  });
  await server.register(fastifySwagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'dvce',
        version: release,
        description:
          'Virtual machines on log-structured volumes. Served on the unix socket DATA/run/agent.sock; errors are problem documents (RFC 9457).',
      },
      tags: [
        { name: 'volumes', description: 'Virtual disks' },
        { name: 'snapshots', description: 'Named states of volumes' },
        { name: 'images', description: 'Disks to clone from' },
        { name: 'vms', description: 'Virtual machines' },
        { name: 'operations', description: 'Work that takes longer than one answer' },
        { name: 'events', description: 'What changes' },
        { name: 'host', description: 'This host' },
      ],
    },
    refResolver: {
      buildLocalReference: (json, _, __, index) => String(json['$id'] ?? `def-${index}`),
    },
  });
  emitChanges(server, agent.events);
  planDryRuns(server, agent);
  volumeRoutes(server, agent);
  snapshotRoutes(server, agent);
  trashRoutes(server, agent);
  quotaRoutes(server, agent);
  exportRoutes(server, agent);
  contentRoutes(server, agent);
  imageRoutes(server, agent);
  vmRoutes(server, agent);
  operationRoutes(server, agent);
  eventRoutes(server, agent);
  systemRoutes(server, agent);
  healthRoutes(server, agent);
  server.get('/v1/openapi.json', { schema: { hide: true } }, async () => server.swagger());
  await server.ready();
  return server;
}

/** What fastify or a handler threw, as an error of the table. */
function explain(error: FastifyError): DvceError {
  const [first] = (error.validation ?? []) as ErrorObject[];
  if (first !== undefined)
    return new DvceError(
      'INVALID_ARGUMENT',
      {
        what: `${fieldOf(first, error.validationContext ?? 'request')}`,
        reason: reasonOf(first),
        advice: 'See docs/reference/openapi.json.',
      },
      error,
    );
  const reasons: Readonly<Record<string, string>> = {
    FST_ERR_CTP_INVALID_JSON_BODY: 'it is not JSON',
    FST_ERR_CTP_EMPTY_JSON_BODY: 'it is empty',
    FST_ERR_CTP_INVALID_MEDIA_TYPE: 'it is not application/json',
    FST_ERR_CTP_INVALID_CONTENT_LENGTH: 'its length is not what was announced',
  };
  const reason = reasons[error.code];
  if (reason !== undefined || error instanceof SyntaxError)
    return new DvceError(
      'INVALID_ARGUMENT',
      { what: 'the body', reason: reason ?? 'it is not JSON', advice: 'Send a JSON object.' },
      error,
    );
  if (error.code === 'FST_ERR_CTP_BODY_TOO_LARGE')
    return new DvceError(
      'TOO_LARGE',
      { what: 'the body', reason: `at most ${limits.apiBodyBytesMax} bytes`, advice: '' },
      error,
    );
  return toDvceError(error);
}

/** `memoryBytes` of the body, `/disks/0/path` when it lies deeper. */
function fieldOf({ instancePath, params, keyword }: ErrorObject, context: string): string {
  const missing: unknown = params['missingProperty'] ?? params['additionalProperty'];
  const parts = instancePath.split('/').slice(1);
  if (typeof missing === 'string') parts.push(missing);
  if (parts.length === 0)
    return keyword === 'type' ? `the ${context}` : `a field of the ${context}`;
  return `the field ${parts.join('.')} of the ${context}`;
}

function reasonOf({ keyword, message, params }: ErrorObject): string {
  if (keyword === 'required') return 'it is missing';
  if (keyword === 'additionalProperties') return 'it is not known here';
  if (keyword === 'enum')
    return `it is none of ${(params['allowedValues'] as unknown[]).join(', ')}`;
  return `it ${message ?? 'does not fit'}`;
}
