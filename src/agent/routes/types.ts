/** The server's type, with static types of bodies and parameters taken from their schemas. */
import type {
  FastifyBaseLogger,
  FastifyInstance,
  FastifyTypeProvider,
  RawReplyDefaultExpression,
  RawRequestDefaultExpression,
  RawServerDefault,
} from 'fastify';
import Type, { type Static, type TSchema } from 'typebox';
import { nameText, Problem, pathText, ref } from '../../api/schema/index.ts';

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
