/** The committed description of the API is a valid OpenAPI 3.1 document. */
import { readFileSync } from 'node:fs';
import { Validator } from '@seriousme/openapi-schema-validator';
import t from 'tap';

const read = (): Record<string, unknown> =>
  JSON.parse(readFileSync('docs/reference/openapi.json', 'utf8')) as Record<string, unknown>;

t.test('docs/reference/openapi.json is valid', async (t) => {
  const validator = new Validator();
  const { valid, errors } = await validator.validate(read());
  t.ok(valid, JSON.stringify(errors));
  t.equal(validator.version, '3.1');
});

t.test('a document that is not valid is found', async (t) => {
  const broken = { ...read(), paths: { '/v1/x': { get: { responses: 'none' } } } };
  t.notOk((await new Validator().validate(broken)).valid);
});
