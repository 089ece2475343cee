/** Routes of the host: status, doctor, shutdown, the API's own description. */
import { Doctor, ref, Shutdown, Status } from '../../api/schema/index.ts';
import type { Agent } from '../agent.ts';
import { answers, none, type Server } from './types.ts';

export function systemRoutes(server: Server, agent: Agent): void {
  server.get(
    '/v1/status',
    {
      schema: {
        operationId: 'getStatus',
        tags: ['host'],
        summary: 'Whether this host is well, and why not',
        response: answers({ 200: ref(Status) }),
      },
    },
    async () => agent.status(),
  );

  server.get(
    '/v1/doctor',
    {
      schema: {
        operationId: 'getDoctor',
        tags: ['host'],
        summary: 'Check what this host needs',
        response: answers({ 200: ref(Doctor) }),
      },
    },
    async () => agent.doctor(),
  );

  server.post(
    '/v1/shutdown',
    {
      config: { role: 'admin' },
      schema: {
        operationId: 'shutdown',
        tags: ['host'],
        summary: 'Stop the agent and blockd; refused while VMs run',
        body: Shutdown,
        response: answers({ 204: none }),
      },
    },
    async ({ body }, reply) => {
      await agent.prepareShutdown(body);
      reply.raw.once('close', () => agent.requestStop());
      return reply.code(204).send(null);
    },
  );
}
