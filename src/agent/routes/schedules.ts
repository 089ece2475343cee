/** Routes of schedules. */
import Type from 'typebox';
import {
  ref,
  Schedule,
  ScheduleCreate,
  ScheduleList,
  SchedulePreview,
} from '../../api/schema/index.ts';
import { limits } from '../../base/index.ts';
import type { Agent } from '../agent.ts';
import { operationAnswer, startedOperation } from './operations.ts';
import { answers, nameParams, none, type Server } from './types.ts';

export function scheduleRoutes(server: Server, { schedules }: Agent): void {
  const tags = ['schedules'];
  server.get(
    '/v1/schedules',
    {
      schema: {
        operationId: 'listSchedules',
        tags,
        summary: 'List schedules of snapshots',
        response: answers({ 200: ref(ScheduleList) }),
      },
    },
    () => schedules.list(),
  );

  server.post(
    '/v1/schedules',
    {
      schema: {
        operationId: 'createSchedule',
        tags,
        summary: 'Take snapshots at times, and keep some of them',
        body: ScheduleCreate,
        response: answers({ 201: ref(Schedule) }),
      },
    },
    async ({ body }, reply) => {
      const made = await schedules.create(body);
      return reply.code(201).header('location', `/v1/schedules/${made.name}`).send(made);
    },
  );

  server.get(
    '/v1/schedules/:name',
    {
      schema: {
        operationId: 'getSchedule',
        tags,
        summary: 'Show a schedule',
        params: nameParams,
        response: answers({ 200: ref(Schedule) }),
      },
    },
    ({ params }) => schedules.get(params.name),
  );

  server.delete(
    '/v1/schedules/:name',
    {
      schema: {
        operationId: 'deleteSchedule',
        tags,
        summary: 'Delete a schedule; its snapshots stay',
        params: nameParams,
        response: answers({ 204: none }),
      },
    },
    async ({ params }, reply) => {
      await schedules.delete(params.name);
      return reply.code(204).send(null);
    },
  );

  for (const [word, paused] of [
    ['pause', true],
    ['resume', false],
  ] as const)
    server.post(
      `/v1/schedules/:name/${word}`,
      {
        schema: {
          operationId: `${word}Schedule`,
          tags,
          summary: paused
            ? 'Let a schedule rest'
            : 'Let a schedule go on; what was due meanwhile is not made up for',
          params: nameParams,
          response: answers({ 200: ref(Schedule) }),
        },
      },
      ({ params }) => schedules.pause(params.name, paused),
    );

  server.post(
    '/v1/schedules/:name/run',
    {
      schema: {
        operationId: 'runSchedule',
        tags,
        summary: 'Run a schedule now, beside its due times',
        params: nameParams,
        response: answers(operationAnswer),
      },
    },
    async ({ params }, reply) => startedOperation(reply, await schedules.run(params.name)),
  );

  server.get(
    '/v1/schedules/:name/preview',
    {
      schema: {
        operationId: 'previewSchedule',
        tags,
        summary: 'Show the next due times and what each run would delete',
        params: nameParams,
        querystring: Type.Object({
          count: Type.Optional(
            Type.Integer({ minimum: 1, maximum: limits.schedulePreviewMax, description: 'Runs.' }),
          ),
        }),
        response: answers({ 200: ref(SchedulePreview) }),
      },
    },
    ({ params, query: { count = 5 } }) => schedules.preview(params.name, count),
  );
}
