// The few schemas that blockd's threads are built with are those that TypeBox would make.
import t from 'tap';
import TypeBox from 'typebox';
import { Type } from '../../src/base/index.ts';

const build = (make: typeof Type): readonly unknown[] => [
  make.Array(make.String(), { minItems: 1 }),
  make.Boolean(),
  make.Enum(['a', 'b']),
  make.Integer({ minimum: 0 }),
  make.Literal('x'),
  make.Literal(5),
  make.Null(),
  make.Number(),
  make.Object({ a: make.Optional(make.String()), b: make.Null() }, { additionalProperties: false }),
  make.Object({}),
  make.Record(make.String(), make.String()),
  make.Record(make.String({ pattern: '^a' }), make.String({ maxLength: 4 }), {
    maxProperties: 3,
    additionalProperties: false,
  }),
  make.Union([make.Null(), make.String({ pattern: 'x' })]),
  make.Unknown(),
];

t.test('every schema has the text that TypeBox gives it', async (t) => {
  const theirs = build(TypeBox as unknown as typeof Type); // takes the same arguments, with narrower types
  for (const [at, schema] of build(Type).entries())
    t.equal(JSON.stringify(schema), JSON.stringify(theirs[at]));
});
