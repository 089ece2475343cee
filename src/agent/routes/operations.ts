/** Routes of operations, and how every other route answers with one. */
import type { FastifyReply } from 'fastify';
import Type from 'typebox';
import type { Operation as OperationResource } from '../../api/index.ts';
import { urls } from '../../api/index.ts';
import { Operation, OperationList, ref, word } from '../../api/schema/index.ts';
import { limits, parseDuration } from '../../base/index.ts';
import type { Agent } from '../agent.ts';
import { answers, type Server } from './types.ts';

export const operationAnswer = { 202: ref(Operation) } as const;

/** 202 with the place where its progress is. */
export const startedOperation = (reply: FastifyReply, operation: OperationResource) =>
  reply.code(202).header('location', urls.operation(operation.id)).send(operation);

const params = Type.Object({ id: Type.String({ minLength: 1, maxLength: 64 }) });

export function operationRoutes(server: Server, { operations }: Agent): void {
  server.get(
    '/v1/operations',
    {
      schema: {
        operationId: 'listOperations',
        tags: ['operations'],
        summary: 'List operations, newest first',
        querystring: Type.Object({
          status: Type.Optional(
            word(['running', 'succeeded', 'failed', 'cancelled'], 'Only those in this state.'),
          ),
          kind: Type.Optional(Type.String({ maxLength: 64, description: 'Only this kind.' })),
        }),
        response: answers({ 200: ref(OperationList) }),
      },
    },
    async ({ query: { status, kind } }) => ({
      operations: operations
        .list()
        .filter(
          (one) =>
            (status === undefined || one.status === status) &&
            (kind === undefined || one.kind === kind),
        ),
    }),
  );

  server.get(
    '/v1/operations/:id',
    {
      schema: {
        operationId: 'getOperation',
        tags: ['operations'],
        summary: 'Show an operation; ?wait=30s answers when it has ended, or after that time',
        params,
        querystring: Type.Object({
          wait: Type.Optional(
            Type.String({ description: `At most ${limits.operationWaitMs / 1000}s.` }),
          ),
        }),
        response: answers({ 200: ref(Operation) }),
      },
    },
    async ({ params: { id }, query: { wait }, raw }) => {
      if (wait === undefined) return operations.get(id);
      const gone = new AbortController();
      raw.socket.once('close', () => gone.abort());
      const waitMs = Math.min(parseDuration(wait), limits.operationWaitMs);
      return operations.wait(id, waitMs, gone.signal);
    },
  );

  server.get(
    '/v1/operations/:id/log',
    {
      schema: {
        operationId: 'getOperationLog',
        tags: ['operations'],
        summary: 'What an operation said, line by line, kept with it',
        params,
        response: answers({
          200: { content: { 'text/plain': { schema: Type.String() } } },
        }),
      },
    },
    async ({ params: { id } }, reply) => {
      const lines = await operations.lines(id);
      return reply
        .type('text/plain; charset=utf-8')
        .send(lines.map((line) => `${line}\n`).join(''));
    },
  );

  server.delete(
    '/v1/operations/:id',
    {
      schema: {
        operationId: 'cancelOperation',
        tags: ['operations'],
        summary: 'Cancel an operation; it has stopped when its status says so',
        params,
        response: answers(operationAnswer),
      },
    },
    async ({ params: { id } }, reply) => startedOperation(reply, operations.cancel(id)),
  );
}
