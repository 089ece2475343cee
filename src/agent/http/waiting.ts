/**
 * An agent that started while blockd was away serves what it can: its own state, and whatever blockd answers by then. Until what is
 * kept and what runs were brought together, VMs are neither shown, which could only be wrong, nor is anything changed (N7).
 */
import type { FastifyRequest } from 'fastify';
import { DvceError } from '../../base/index.ts';
import type { Server } from '../routes/types.ts';

/** Tags of the routes that say nothing right before then. */
const ofGuests = new Set(['vms']);
/** And of those that change what VMs are made of. */
const ofContent = new Set(['volumes', 'snapshots', 'schedules', 'images', 'networks']);

export function waitForBlockd(server: Server, agent: { readonly isWaiting: boolean }): void {
  server.addHook('preHandler', async (request) => {
    if (agent.isWaiting && hasToWait(request))
      throw new DvceError('BLOCKD_UNAVAILABLE', {
        where: 'this host',
        reason: 'it has not answered since the agent started; guests that run are left as they are',
        advice:
          'The agent goes on as soon as blockd answers. What is in its way: dvce status, dvce doctor, its log.',
      });
  });
}

function hasToWait(request: FastifyRequest): boolean {
  const { tags = [] } = (request.routeOptions.schema ?? {}) as { tags?: readonly string[] };
  const isChange = request.method !== 'GET';
  return tags.some((tag) => ofGuests.has(tag) || (isChange && ofContent.has(tag)));
}
