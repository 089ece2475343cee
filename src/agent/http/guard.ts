/**
 * Who asks, and may they? The first thing that happens to a request, before its body is read.
 *
 *   socket or token --> identity --> need of the route (role, path of the object) --> body: objects that it names --> handler
 *
 * Deny by default: an identity with the role on `/` may do what the role may; one with a narrower grant only what needsOf* knows how to
 * judge. A route that they do not know needs the role on `/`, and so does a body that names things in fields that they do not know.
 */
import type { IncomingMessage } from 'node:http';
import type { FastifyRequest } from 'fastify';
import { DvceError } from '../../base/index.ts';
import {
  demand,
  type Identity,
  localAdmin,
  may,
  mayEverywhere,
  maySee,
  type Need,
  pathOf,
  type Role,
} from '../access.ts';
import type { Operations } from '../operations.ts';
import { inTheNameOf } from '../requestor.ts';
import type { Server } from '../routes/types.ts';
import { isJudged, needsOfBody, needsOfCollection } from './body-needs.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** What the route needs; viewer for GET, operator for the rest when not given. */
    role?: Role;
    /** For everybody, without a token: it tells nothing of what is on this host. */
    isOpen?: boolean;
    /** The answer has a secret in it: it is kept nowhere. */
    secretAnswer?: boolean;
  }
}

/** What is looked up to judge a request. */
interface Asked {
  readonly operations: Pick<Operations, 'get'>;
}

/** By which door a request came, and who that makes of it. */
export type Identify = (request: IncomingMessage) => Identity;

const identities = new WeakMap<FastifyRequest, Identity>();

export function identityOf(request: FastifyRequest): Identity {
  const identity = identities.get(request);
  if (identity === undefined)
    throw new DvceError('INTERNAL', { reason: 'a request has not been identified' });
  return identity;
}

/** The same where it may be that the request failed before. */
export const nameOf = (request: FastifyRequest): string =>
  identities.get(request)?.name ?? 'unknown';

export const roleOfRoute = (request: FastifyRequest): Role =>
  request.routeOptions.config?.role ?? (request.method === 'GET' ? 'viewer' : 'operator');

export function guard(server: Server, agent: Asked, identify: Identify = () => localAdmin): void {
  server.addHook('onRequest', async (request) => {
    if (request.routeOptions.config?.isOpen === true) return;
    const identity = identify(request.raw);
    identities.set(request, identity);
    const pattern = request.routeOptions.url;
    if (pattern === undefined || mayEverywhere(identity, roleOfRoute(request))) return;
    const need = needOfUrl(pattern, request);
    if (need !== 'the items decide') demand(identity, need, whatOf(request));
  });
  server.addHook('preHandler', (request, _reply, done) => {
    if (request.routeOptions.config?.isOpen === true) {
      done();
      return;
    }
    const identity = identityOf(request);
    try {
      refuse(request, identity, agent);
    } catch (error) {
      done(error as Error);
      return;
    }
    inTheNameOf(identity, done);
  });
}

export const operationOf = (request: FastifyRequest): string =>
  ((request.routeOptions.schema ?? {}) as { operationId?: string }).operationId ?? '';

const whatOf = ({ method, url }: FastifyRequest): string => `${method} ${url.split('?', 1)[0]}`;

/** What the URL alone says. */
function needOfUrl(pattern: string, request: FastifyRequest): Need | 'the items decide' {
  const role = roleOfRoute(request);
  const [, , noun = '', parameter = ''] = pattern.split('/');
  const params = Object(request.params) as Record<string, string>;
  // Judged when it is known which objects they are about: in the list hook, the body, the stream, the operation.
  if (noun === 'operations' || noun === 'events' || noun === 'openapi.json')
    return 'the items decide';
  if (!parameter.startsWith(':')) {
    const isListed = parameter === '' && ['volumes', 'vms', 'images', 'networks'].includes(noun);
    const isSplit = request.method === 'GET' ? isListed : isJudged(operationOf(request));
    return isSplit ? 'the items decide' : { role, path: '/' };
  }
  return { role, path: pathOf(noun, params[parameter.slice(1)] ?? '') };
}

/** What the operation and the body say. */
function refuse(request: FastifyRequest, identity: Identity, agent: Asked): void {
  const role = roleOfRoute(request);
  const pattern = request.routeOptions.url;
  if (pattern === undefined || (mayEverywhere(identity, role) && !identity.remote)) return;
  if (pattern.startsWith('/v1/operations/:id')) {
    const { id = '' } = Object(request.params) as { id?: string };
    demandOperation(agent, identity, id, role, whatOf(request));
    return;
  }
  const judge = /^\/v1\/[^/]+\/:/.test(pattern) ? needsOfBody : needsOfCollection;
  for (const need of judge(operationOf(request), request.method, request.body, role))
    demand(identity, need, whatOf(request));
}

function demandOperation(
  agent: Asked,
  identity: Identity,
  id: string,
  role: Role,
  what: string,
): void {
  const { resources } = agent.operations.get(id);
  // One that may not be seen does not exist, so that ids cannot be tried.
  if (!maySee(identity, resources)) throw new DvceError('NOT_FOUND', { kind: 'op', name: id });
  const paths = resources.length === 0 ? ['/'] : resources.map(pathOfResource);
  for (const path of paths) demand(identity, { role, path }, what);
}

const pathOfResource = (url: string): string => {
  const [, , noun = '', encoded = ''] = url.split('/');
  return pathOf(noun, decodeURIComponent(encoded));
};

/** Whether an item of a list is shown to who asks. */
export function isVisible(
  request: FastifyRequest,
  property: string,
  item: Readonly<Record<string, unknown>>,
): boolean {
  const identity = identityOf(request);
  if (mayEverywhere(identity, 'viewer')) return true;
  if (property === 'operations') return maySee(identity, item['resources'] as readonly string[]);
  const name = String(property === 'volumes' ? item['path'] : item['name']);
  // Lists below an object, and lists of what has no place of its own, were judged by their URL.
  if (!['volumes', 'vms', 'images', 'networks'].includes(property)) return true;
  return may(identity, { role: 'viewer', path: pathOf(property, name) });
}
