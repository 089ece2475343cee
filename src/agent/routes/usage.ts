/** Route of the counters. */
import { usageAnswer } from '../../api/schema/index.ts';
import type { Agent } from '../agent.ts';
import { usageOf } from '../usage.ts';
import { answers, type Server } from './types.ts';

export function usageRoutes(server: Server, agent: Agent): void {
  server.get(
    '/v1/usage',
    {
      schema: {
        operationId: 'getUsage',
        tags: ['host'],
        summary: 'What VMs and open volumes have used so far',
        response: answers(usageAnswer),
      },
    },
    async () => usageOf(agent),
  );
}
