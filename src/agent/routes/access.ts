/** Routes of tokens and of the audit log: for administrators only. */
import Type from 'typebox';
import { urls } from '../../api/index.ts';
import {
  AuditList,
  ref,
  Token,
  TokenCreate,
  TokenList,
  TokenSecret,
} from '../../api/schema/index.ts';
import { limits } from '../../base/index.ts';
import type { Agent } from '../agent.ts';
import { answers, nameParams, none, type Server } from './types.ts';

const admin = { role: 'admin' } as const;

export function accessRoutes(server: Server, { tokens, audit }: Agent): void {
  server.get(
    '/v1/tokens',
    {
      config: admin,
      schema: {
        operationId: 'listTokens',
        tags: ['access'],
        summary: 'List tokens',
        response: answers({ 200: ref(TokenList) }),
      },
    },
    async () => ({ tokens: tokens.list() }),
  );

  server.post(
    '/v1/tokens',
    {
      config: { ...admin, secretAnswer: true },
      schema: {
        operationId: 'createToken',
        tags: ['access'],
        summary: 'Make a token; its secret is only in this answer',
        body: TokenCreate,
        response: answers({ 201: ref(TokenSecret) }),
      },
    },
    async ({ body }, reply) => {
      const made = await tokens.create(body);
      return reply.code(201).header('location', urls.token(made.token.name)).send(made);
    },
  );

  server.get(
    '/v1/tokens/:name',
    {
      config: admin,
      schema: {
        operationId: 'getToken',
        tags: ['access'],
        summary: 'Show a token, without its secret',
        params: nameParams,
        response: answers({ 200: ref(Token) }),
      },
    },
    async ({ params }) => tokens.get(params.name),
  );

  server.delete(
    '/v1/tokens/:name',
    {
      config: admin,
      schema: {
        operationId: 'revokeToken',
        tags: ['access'],
        summary: 'Revoke a token; it is refused from now on',
        params: nameParams,
        response: answers({ 204: none }),
      },
    },
    async ({ params }, reply) => {
      await tokens.revoke(params.name);
      return reply.code(204).send(null);
    },
  );

  server.get(
    '/v1/audit',
    {
      config: admin,
      schema: {
        operationId: 'listAudit',
        tags: ['access'],
        summary: `The newest ${limits.auditListMax} changes and refusals, newest first`,
        querystring: Type.Object({}),
        response: answers({ 200: ref(AuditList) }),
      },
    },
    async () => ({ entries: await audit.list(limits.auditListMax) }),
  );
}
