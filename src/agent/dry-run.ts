/**
 * Dry runs in one place: `?dryRun=true` on any change answers a plan and changes nothing.
 *
 * - A route that declares the query itself (`dryRunQuery`) makes its own plan.
 * - Every other route that changes something gets the query here; its plan comes from plans.ts by its operationId, or says, with a
 *   warning, no more than that the request is well formed and its object is there.
 *
 * Invariant: no handler runs for a request with `dryRun=true` that it did not declare, so nothing is changed by accident; a
 * route that only looks refuses the query. Bodies and queries are validated before the plan is made, as for the change itself.
 */
import type { FastifyRequest } from 'fastify';
import { Plan, type PlanStep, ref } from '../api/schema/index.ts';
import { DvceError } from '../base/index.ts';
import type { Agent } from './agent.ts';
import { type Asked, existing, plans } from './plans.ts';
import { dryRunQuery, planned, type Server } from './routes/types.ts';

interface RouteSchema {
  operationId?: string;
  summary?: string;
  querystring?: { properties?: Record<string, unknown>; type?: string };
  response?: Record<string, unknown>;
}

const changes = new Set(['POST', 'PATCH', 'PUT', 'DELETE']);

/** Operation ids of routes that got the query here and not from their own schema. */
type Adopted = Set<string>;

export function planDryRuns(server: Server, agent: Agent): void {
  const adopted: Adopted = new Set();
  server.addHook('onRoute', (route) => {
    const schema = (route.schema ?? {}) as RouteSchema;
    if (!changes.has(String(route.method)) || schema.operationId === undefined) return;
    if (schema.querystring?.properties?.['dryRun'] !== undefined) return;
    adopted.add(schema.operationId);
    const properties = { ...schema.querystring?.properties, ...dryRunQuery };
    route.schema = {
      ...route.schema,
      querystring: { ...schema.querystring, type: 'object', properties },
      response: withPlan(schema.response ?? {}),
    };
  });
  server.addHook('preValidation', async (request) => {
    if ('dryRun' in Object(request.query) && !declares(request)) throw refusal(request);
  });
  server.addHook('preHandler', async (request, reply) => {
    const { operationId = '', summary = '' } = schemaOf(request);
    if (!adopted.has(operationId)) return;
    if (Object(request.query).dryRun !== true) return;
    const make = plans[operationId];
    if (make !== undefined) return planned(reply, await make(agent, askedOf(request)));
    await existing(agent, askedOf(request));
    return planned(reply, [genericStep(request, summary)], [unchecked]);
  });
}

const unchecked =
  'only the request and its object were checked, not whether its state allows the change';

const schemaOf = ({ routeOptions }: FastifyRequest): RouteSchema =>
  (routeOptions.schema ?? {}) as RouteSchema;

const declares = (request: FastifyRequest): boolean =>
  schemaOf(request).querystring?.properties?.['dryRun'] !== undefined;

/** A plan is answered with 200; where that is a good answer already, it is one or the other. */
function withPlan(response: Record<string, unknown>): Record<string, unknown> {
  const good = response['200'];
  return { ...response, 200: good === undefined ? ref(Plan) : { anyOf: [good, ref(Plan)] } };
}

const askedOf = ({ url, params, body, query }: FastifyRequest): Asked => ({
  url: url.split('?')[0] ?? '',
  params: Object(params) as Record<string, string>,
  body: Object(body) as Record<string, unknown>,
  query: Object(query) as Record<string, unknown>,
});

function genericStep({ method, url }: FastifyRequest, summary: string): PlanStep {
  const resource = url.split('?')[0] ?? '';
  const words = summary === '' ? [] : [summary];
  if (method === 'DELETE') return { action: 'delete', resource, detail: words.join('') };
  const creates = method === 'POST' && resource.split('/').length === 3;
  return { action: creates ? 'create' : 'change', resource, detail: words.join('') };
}

const refusal = ({ method, url }: FastifyRequest): DvceError =>
  new DvceError('UNSUPPORTED', {
    what: `a dry run of ${method} ${url.split('?')[0]}`,
    reason: 'this request changes nothing',
    advice: 'Leave dryRun out.',
  });
