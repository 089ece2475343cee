/** Routes of networks. */
import { urls } from '../../api/index.ts';
import { Network, NetworkCreate, NetworkList, ref } from '../../api/schema/index.ts';
import type { Agent } from '../agent.ts';
import { answers, nameParams, none, type Server } from './types.ts';

export function networkRoutes(server: Server, { networks }: Agent): void {
  server.get(
    '/v1/networks',
    {
      schema: {
        operationId: 'listNetworks',
        tags: ['networks'],
        summary: 'List networks',
        response: answers({ 200: ref(NetworkList) }),
      },
    },
    async () => ({ networks: await networks.list() }),
  );

  server.post(
    '/v1/networks',
    {
      schema: {
        operationId: 'createNetwork',
        tags: ['networks'],
        summary: 'Define a network',
        body: NetworkCreate,
        response: answers({ 201: ref(Network) }),
      },
    },
    async ({ body }, reply) => {
      const network = await networks.create(body);
      return reply.code(201).header('location', urls.network(network.name)).send(network);
    },
  );

  server.get(
    '/v1/networks/:name',
    {
      schema: {
        operationId: 'getNetwork',
        tags: ['networks'],
        summary: 'Show a network and its leases',
        params: nameParams,
        response: answers({ 200: ref(Network) }),
      },
    },
    async ({ params }) => networks.get(params.name),
  );

  server.delete(
    '/v1/networks/:name',
    {
      schema: {
        operationId: 'deleteNetwork',
        tags: ['networks'],
        summary: 'Delete a network that no VM uses',
        params: nameParams,
        response: answers({ 204: none }),
      },
    },
    async ({ params }, reply) => {
      await networks.delete(params.name);
      return reply.code(204).send(null);
    },
  );
}
