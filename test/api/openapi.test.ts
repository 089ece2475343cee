/** The committed description of the API is valid OpenAPI 3.1, and names every operation once. */
import { readFileSync } from 'node:fs';
import { Validator } from '@seriousme/openapi-schema-validator';
import t from 'tap';
import { missingOperations, operationsOf } from '../../scripts/check-api-coverage.ts';

const text = readFileSync(new URL('../../docs/reference/openapi.json', import.meta.url), 'utf8');

t.test('the description is valid', async (t) => {
  const validator = new Validator();
  const { valid, errors } = await validator.validate(JSON.parse(text));
  t.ok(valid, JSON.stringify(errors)?.slice(0, 2000));
  t.equal(validator.version, '3.1');
  const broken = { ...JSON.parse(text), paths: { '/x': { get: { responses: 7 } } } };
  t.notOk((await new Validator().validate(broken)).valid, 'a broken one is not');
});

t.test('every operation has a name of its own', async (t) => {
  const names = operationsOf(JSON.parse(text));
  t.ok(names.length > 40);
  t.equal(new Set(names).size, names.length);
  const methods = Object.values(JSON.parse(text).paths as Record<string, object>).flatMap((path) =>
    Object.keys(path).filter((word) => ['get', 'post', 'patch', 'put', 'delete'].includes(word)),
  );
  t.equal(names.length, methods.length);
});

t.test('E-07 an operation is covered when it worked once', async (t) => {
  const log = 'GET listVms 200\nPOST createVm 409\nGET openVmConsole 101\nGET getVm 304\n';
  t.strictSame(missingOperations(['createVm', 'getVm', 'listVms', 'openVmConsole', 'x'], log), [
    'createVm',
    'x',
  ]);
});
