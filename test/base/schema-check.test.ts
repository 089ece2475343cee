// Schemas say yes and no to the same values as with Ajv, of which blockd's threads would have to hold a copy each.
import { Ajv } from 'ajv';
import t from 'tap';
import {
  type JsonSchema,
  type Random,
  schemaCheck,
  seededRandom,
  Type,
} from '../../src/base/index.ts';
import { paramSchemas } from '../../src/blockd/schemas.ts';

const closedPair = Type.Object({ one: Type.Integer() });
const ajv = new Ajv({ strict: false, meta: false, validateSchema: false });

/** Every word, each with values on both sides of it. */
const single: Readonly<Record<string, JsonSchema>> = {
  integer: Type.Integer({ minimum: 0, maximum: 9 }),
  number: Type.Number({ exclusiveMinimum: 0 }),
  literals: Type.Union([Type.Literal(512), Type.Literal('x'), Type.Null()]),
  enum: Type.Enum(['a', 'b']),
  text: Type.String({ minLength: 1, maxLength: 3 }),
  pattern: Type.String({ pattern: '^[a-z]{2}$' }),
  list: Type.Array(Type.Integer(), { minItems: 1, maxItems: 2 }),
  open: Type.Object({ a: Type.Integer(), b: Type.Optional(Type.String()) }),
  closed: Type.Object({ a: Type.Optional(Type.Integer()) }, { additionalProperties: false }),
  record: Type.Record(Type.String({ pattern: '^a' }), Type.String({ maxLength: 4 }), {
    maxProperties: 2,
    additionalProperties: false,
  }),
  anything: Type.Unknown(),
};

const scraps: readonly unknown[] = [
  ...[
    null,
    true,
    0,
    1,
    -1,
    5,
    9,
    10,
    512,
    0.5,
    1e300,
    '',
    'a',
    'ab',
    'abcd',
    'x',
    '/a/b',
    '\u{1f600}\u{1f600}',
  ],
  ...[
    '00000000-0000-4000-8000-000000000001',
    '2026-01-01T00:00:00Z',
    [],
    {},
    [1],
    [1, 2, 3],
    ['a'],
  ],
  ...[
    { a: 1 },
    { a: 'x', b: 1 },
    { b: 'x' },
    { a: 1, b: 'x', c: 2 },
    { aa: 'x', ab: 'y', ac: 'z' },
  ],
  ...[{ '': 1 }, JSON.parse('{"__proto__":1}'), { constructor: 1 }, { toString: 'x' }],
];

const pick = <T>(random: Random, all: readonly T[]): T => all[random.below(all.length)] as T;

/** A value that fits `schema` mostly, and somewhere does not now and then. */
function someOf(schema: JsonSchema, random: Random): unknown {
  if (random.below(12) === 0) return pick(random, scraps);
  if ('const' in schema) return schema['const'];
  if ('enum' in schema) return pick(random, schema['enum'] as unknown[]);
  if ('anyOf' in schema) return someOf(pick(random, schema['anyOf'] as JsonSchema[]), random);
  if (schema['type'] === 'array')
    return Array.from({ length: random.below(4) }, () =>
      someOf(schema['items'] as JsonSchema, random),
    );
  if (schema['type'] === 'object') {
    const members = Object.entries((schema['properties'] ?? {}) as Record<string, JsonSchema>)
      .filter(() => random.below(20) > 0)
      .map(([name, member]) => [name, someOf(member, random)]);
    if (random.below(10) === 0)
      members.push([pick(random, ['x', 'abc', '']), pick(random, scraps)]);
    return Object.fromEntries(members);
  }
  const fitting = scraps.filter((one) => ajv.validate(schema, one));
  return fitting.length > 0 ? pick(random, fitting) : null;
}

t.test('the verdict is that of Ajv', async (t) => {
  const random = seededRandom(7);
  const verdicts = { good: 0, bad: 0 };
  for (const [name, schema] of [...Object.entries(single), ...Object.entries(paramSchemas)]) {
    const theirs = ajv.compile(schema);
    const ours = schemaCheck(schema);
    const values = [...scraps, ...Array.from({ length: 300 }, () => someOf(schema, random))];
    for (const value of values) {
      const isGood = theirs(value);
      verdicts[isGood ? 'good' : 'bad'] += 1;
      if ((ours(value) === undefined) !== isGood)
        t.fail(`${name}: ${JSON.stringify(value)}: Ajv says ${isGood}`, { found: ours(value) });
    }
  }
  t.ok(verdicts.good > 3000 && verdicts.bad > 3000, `both were met: ${JSON.stringify(verdicts)}`);
});

t.test('a complaint names the member and what is wrong', async (t) => {
  const check = schemaCheck(
    Type.Object({ 'a/b': Type.Array(closedPair) }, { additionalProperties: false }),
  );
  t.equal(check({ 'a/b': [{ one: 1 }] }), undefined);
  t.strictSame(check({ 'a/b': [{ one: 1 }, { one: '1' }] }), {
    path: '/a~1b/1/one',
    reason: 'must be integer',
  });
  t.strictSame(check({ 'a/b': [{}] }), {
    path: '/a~1b/0',
    reason: "must have required property 'one'",
  });
  t.strictSame(check({ 'a/b': [], more: 1 }), {
    path: '',
    reason: 'must NOT have additional properties: more',
  });
});

t.test('a word that is not known is refused', async (t) => {
  t.throws(() => schemaCheck({ type: 'string', format: 'date' })('2026-01-01'), /word format/);
  t.throws(() => schemaCheck({ type: 'text' })('x'), /type text/);
});
