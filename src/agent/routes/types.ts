/** The server's type, with static types of bodies and parameters taken from their schemas. */
import type {
  FastifyBaseLogger,
  FastifyInstance,
  FastifyReply,
  FastifyTypeProvider,
  RawReplyDefaultExpression,
  RawRequestDefaultExpression,
  RawServerDefault,
} from 'fastify';
import Type, { type Static, type TSchema } from 'typebox';
import { nameText, Plan, type PlanStep, Problem, pathText, ref } from '../../api/schema/index.ts';

interface SchemaTypes extends FastifyTypeProvider {
  readonly validator: this['schema'] extends TSchema ? Static<this['schema']> : unknown;
  readonly serializer: this['schema'] extends TSchema ? Static<this['schema']> : unknown;
}

export type Server = FastifyInstance<
  RawServerDefault,
  RawRequestDefaultExpression,
  RawReplyDefaultExpression,
  FastifyBaseLogger,
  SchemaTypes
>;

const problem = {
  description: 'Any error.',
  content: { 'application/problem+json': { schema: ref(Problem) } },
} as const;

/** The answers of a route: the good one, and the problem that every route may answer. */
export const answers = <S extends Record<number, unknown>>(good: S) =>
  ({ ...good, default: problem }) as S & { default: unknown };

export const none = Type.Null({ description: 'Done.' });

export const pathParams = Type.Object({
  path: pathText('Path of the volume, percent-encoded: prod%2Fdb.'),
});
export const snapshotParams = Type.Object({
  path: pathText('Path of the volume, percent-encoded.'),
  name: nameText('Name of the snapshot.'),
});
export const nameParams = Type.Object({ name: nameText('Name.') });

/** Query of a mutation that can be tried: with `dryRun=true` it checks everything, answers its plan and changes nothing. */
export const dryRunQuery = {
  dryRun: Type.Optional(
    Type.Boolean({ description: 'Answer what would be done (200, a Plan) and change nothing.' }),
  ),
} as const;

/** The answer of a tried mutation, beside the good ones: `answers({ 201: ref(Vm), ...planAnswer })`. */
export const planAnswer = { 200: ref(Plan) } as const;

/** Answer a dry run: `if (query.dryRun) return planned(reply, [{ action: 'create', resource, detail }])`. */
export const planned = (
  reply: FastifyReply,
  steps: readonly PlanStep[],
  warnings: readonly string[] = [],
) =>
  reply
    .code(200)
    .type('application/json; charset=utf-8')
    .serializer((value: unknown) => JSON.stringify(value))
    .send({ dryRun: true, steps: [...steps], warnings: [...warnings] });
