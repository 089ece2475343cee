/**
 * The HTTP server of the API: validation by schema, errors as problem documents, the OpenAPI description.
 *
 * Bodies are checked as they are; query strings, which are texts, are turned into numbers and booleans first. An unknown
 * field of a body is an error.
 */
import type { RequestListener } from 'node:http';
import fastifySwagger from '@fastify/swagger';
import { Ajv } from 'ajv';
import { type FastifyHttpOptions, fastify, type RawServerDefault } from 'fastify';
import { namedSchemas } from '../api/schema/index.ts';
import { type Logger, limits } from '../base/index.ts';
import type { Agent } from './agent.ts';
import { emitChanges } from './change-events.ts';
import { planDryRuns } from './dry-run.ts';
import type { Doors } from './http/doors.ts';
import { compareTags } from './http/entity-tags.ts';
import { answerErrors, refuseConnection, refuseUrl } from './http/errors.ts';
import { guard, isVisible } from './http/guard.ts';
import { replayAnswers } from './http/idempotency.ts';
import { shapeAnswers } from './http/lists.ts';
import { auditChanges, recordRequests } from './http/records.ts';
import { waitForBlockd } from './http/waiting.ts';
import { accessRoutes } from './routes/access.ts';
import { configRoutes } from './routes/config.ts';
import { eventRoutes } from './routes/events.ts';
import { healthRoutes } from './routes/health.ts';
import { imageExportRoutes } from './routes/image-exports.ts';
import { imageRoutes } from './routes/images.ts';
import { networkRoutes } from './routes/networks.ts';
import { operationRoutes } from './routes/operations.ts';
import { scheduleRoutes } from './routes/schedules.ts';
import {
  contentRoutes,
  exportRoutes,
  pointRoutes,
  quotaRoutes,
  scrubRoutes,
  trashRoutes,
} from './routes/storage.ts';
import { systemRoutes } from './routes/system.ts';
import { treeRoutes } from './routes/tree.ts';
import type { Server } from './routes/types.ts';
import { usageRoutes } from './routes/usage.ts';
import { vmLifeRoutes } from './routes/vm-life.ts';
import { vmSnapshotRoutes } from './routes/vm-snapshots.ts';
import { vmRoutes } from './routes/vms.ts';
import { snapshotRoutes, volumeRoutes } from './routes/volumes.ts';
import { fillVmDefaults } from './vm-defaults.ts';

const pathCharactersMax = 2000;

export interface ServerOptions {
  /** How requests come in; without it only `inject` does. */
  readonly doors?: Doors | undefined;
  /** File for the name of every request's operation; for tests. */
  readonly accessLog?: string | undefined;
}

export async function buildServer(
  agent: Agent,
  logger: Logger,
  release: string,
  { doors, accessLog }: ServerOptions = {},
): Promise<Server> {
  const options: FastifyHttpOptions<RawServerDefault> = {
    ...(doors === undefined
      ? {}
      : { serverFactory: (handler: RequestListener) => doors.server('admin', handler) }),
    clientErrorHandler: refuseConnection,
    frameworkErrors: refuseUrl,
    bodyLimit: limits.apiBodyBytesMax,
    exposeHeadRoutes: false,
    forceCloseConnections: true,
    logger: false,
    routerOptions: { maxParamLength: pathCharactersMax },
  };
  const server: Server = fastify(options);
  const strict = new Ajv({ strict: false, allErrors: false });
  const texts = new Ajv({ strict: false, coerceTypes: true, useDefaults: true });
  server.setValidatorCompiler(({ schema, httpPart }) =>
    (httpPart === 'body' ? strict : texts).compile(schema as object),
  );
  for (const schema of namedSchemas) server.addSchema(schema);
  answerErrors(server, logger);
  guard(server, agent, doors?.identify);
  if (accessLog !== undefined) recordRequests(server, accessLog, logger);
  waitForBlockd(server, agent);
  auditChanges(server, agent.audit, agent.clock);
  shapeAnswers(server, isVisible);
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
        { name: 'schedules', description: 'Snapshots at times' },
        { name: 'images', description: 'Disks to clone from' },
        { name: 'vms', description: 'Virtual machines' },
        { name: 'networks', description: 'Bridges of the host with addresses for VMs' },
        { name: 'operations', description: 'Work that takes longer than one answer' },
        { name: 'events', description: 'What changes' },
        { name: 'access', description: 'Tokens, and who did what' },
        { name: 'host', description: 'This host' },
      ],
    },
    refResolver: {
      buildLocalReference: (json, _, __, index) => String(json['$id'] ?? `def-${index}`),
    },
  });
  replayAnswers(server, agent.keys, agent.clock);
  compareTags(server, agent.timers);
  emitChanges(server, agent.events);
  fillVmDefaults(server, agent.settings);
  planDryRuns(server, agent);
  volumeRoutes(server, agent);
  treeRoutes(server, agent);
  snapshotRoutes(server, agent);
  trashRoutes(server, agent);
  pointRoutes(server, agent);
  quotaRoutes(server, agent);
  scrubRoutes(server, agent);
  exportRoutes(server, agent);
  contentRoutes(server, agent);
  scheduleRoutes(server, agent);
  imageRoutes(server, agent);
  imageExportRoutes(server, agent);
  vmRoutes(server, agent);
  vmLifeRoutes(server, agent);
  vmSnapshotRoutes(server, agent);
  networkRoutes(server, agent);
  operationRoutes(server, agent);
  eventRoutes(server, agent);
  accessRoutes(server, agent);
  systemRoutes(server, agent);
  configRoutes(server, agent);
  usageRoutes(server, agent);
  healthRoutes(server, agent);
  server.get('/v1/openapi.json', { schema: { hide: true } }, async () => server.swagger());
  await server.ready();
  return server;
}
