/**
 * What watches over this host from outside asks here: is it alive, can it work, what does it count.
 *
 * `/livez` and `/readyz` answer everybody (no token), so they tell names of checks and reasons, never names of volumes or VMs.
 */
import Type from 'typebox';
import { limits, loopFigures } from '../../base/index.ts';
import type { Agent } from '../agent.ts';
import type { Looked } from '../health.ts';
import { metricsType } from '../metrics.ts';
import { answers, type Server } from './types.ts';

const text = (description: string) => ({
  description,
  content: { 'text/plain': { schema: Type.String() } },
});

interface Check {
  readonly name: string;
  /** Why it failed, or null. */
  readonly failure: string | null;
}

/** What has to be so before this host can do its work. */
export function readinessOf({ blockd, causes }: Looked, lagMs: number): Check[] {
  const codes = new Set(causes.map(({ code }) => code));
  const isFull = codes.has('STORE_FULL') ? 'it is full' : null;
  const isAway = codes.has('STORE_UNAVAILABLE') ? 'it does not take what is written' : null;
  return [
    { name: 'blockd', failure: 'failure' in blockd ? 'it does not answer' : null },
    { name: 'store', failure: isFull ?? isAway },
    { name: 'parts', failure: codes.has('CHECK_FAILED') ? 'one cannot be looked at' : null },
    {
      name: 'event-loop',
      failure: lagMs > limits.readyLagMs ? `tasks wait for ${Math.round(lagMs)} ms` : null,
    },
  ];
}

export function healthRoutes(server: Server, agent: Agent): void {
  agent.metrics.observe(server);
  // The log names a request by it.
  server.addHook('onRequest', async ({ id }, reply) => {
    reply.header('x-request-id', id);
  });

  server.get(
    '/livez',
    {
      config: { isOpen: true },
      schema: {
        operationId: 'getLiveness',
        tags: ['host'],
        summary: 'Whether the agent runs; needs no token',
        response: answers({ 200: text('It does.') }),
      },
    },
    async (_, reply) => reply.type('text/plain').send('ok\n'),
  );

  server.get(
    '/readyz',
    {
      config: { isOpen: true },
      schema: {
        operationId: 'getReadiness',
        tags: ['host'],
        summary: 'Whether this host can work; ?verbose names every check; needs no token',
        querystring: Type.Object({
          verbose: Type.Optional(Type.String({ description: 'Name every check.' })),
        }),
        response: answers({ 200: text('It can.'), 503: text('It cannot.') }),
      },
    },
    async ({ query: { verbose } }, reply) => {
      const { clock, timers } = agent;
      const [looked, { lagSeconds }] = await Promise.all([
        agent.health.look(),
        loopFigures('main', clock, timers),
      ]);
      const checks = readinessOf(looked, lagSeconds * 1000);
      const failed = checks.filter(({ failure }) => failure !== null);
      const shown = verbose === undefined ? failed : checks;
      const lines = shown.map(({ name, failure }) =>
        failure === null ? `[+]${name} ok` : `[-]${name} failed: ${failure}`,
      );
      const last = failed.length === 0 ? 'ok' : 'not ready';
      return reply
        .code(failed.length === 0 ? 200 : 503)
        .type('text/plain')
        .send(`${[...lines, last].join('\n')}\n`);
    },
  );

  server.get(
    '/metrics',
    {
      config: { role: 'viewer' },
      schema: {
        operationId: 'getMetrics',
        tags: ['host'],
        summary: 'Metrics in the Prometheus text format',
        response: answers({ 200: text('docs/reference/metrics.md explains each.') }),
      },
    },
    async (_, reply) => reply.type(metricsType).send(await agent.metrics.read()),
  );
}
