/** The generated pages of docs/reference are those of the code, and name everything that the code has. */
import { readFileSync } from 'node:fs';
import t from 'tap';
import { cliPage } from '../../scripts/reference/cli.ts';
import { configPage, configSchemaDocument } from '../../scripts/reference/config.ts';
import { openApiDocument } from '../../scripts/reference/openapi.ts';
import { errorsPage, findingsPage, limitsPage } from '../../scripts/reference/tables.ts';
import { namedSchemas } from '../../src/api/schema/index.ts';
import { errorTable, exitCodes, limitTable } from '../../src/base/index.ts';
import { nouns, singles } from '../../src/cli/tree/index.ts';

const read = (name: string): string =>
  readFileSync(new URL(`../../docs/reference/${name}`, import.meta.url), 'utf8');
const hint = 'out of date: node scripts/reference.ts';

t.test('the pages are up to date', async (t) => {
  t.equal(read('cli.md'), cliPage(), hint);
  t.equal(read('config.md'), configPage(), hint);
  t.equal(read('dvce-config.schema.json'), configSchemaDocument(), hint);
  t.equal(read('errors.md'), errorsPage(), hint);
  t.equal(read('findings.md'), findingsPage(), hint);
  t.equal(read('limits.md'), limitsPage(), hint);
  t.equal(read('openapi.json'), await openApiDocument(), hint);
});

/** Names in the first column of the tables of a page. */
const names = (page: string): string[] =>
  [...page.matchAll(/^\| (?:<a id="\w+"><\/a>)?`(\w+)` \|/gm)].map((match) => match[1] ?? '');

t.test(
  'errors both ways: each code of the table is on the page, each on the page is in the table',
  async (t) => {
    const page = read('errors.md');
    t.strictSame(names(page), Object.keys(errorTable));
    const codes = [...page.matchAll(/^\| (\d+) \|/gm)].map((match) => Number(match[1]));
    t.strictSame(codes, Object.values(exitCodes));
  },
);

t.test('limits both ways', async (t) => {
  t.strictSame(names(read('limits.md')), Object.keys(limitTable));
});

t.test('commands both ways', async (t) => {
  const sections = [...read('cli.md').matchAll(/^### (dvce .*)$/gm)].map((match) => match[1]);
  t.strictSame(sections, [
    ...nouns.flatMap(({ name, commands }) => commands.map((one) => `dvce ${name} ${one.name}`)),
    ...singles.filter(({ hidden }) => hidden !== true).map(({ name }) => `dvce ${name}`),
  ]);
});

t.test(
  'the OpenAPI document names every resource, and every route has a name and an error',
  async (t) => {
    const document = JSON.parse(read('openapi.json')) as {
      openapi: string;
      components: { schemas: Record<string, unknown> };
      paths: Record<string, Record<string, { operationId?: string; responses: object }>>;
    };
    t.match(document.openapi, /^3\.1\./);
    t.strictSame(
      Object.keys(document.components.schemas).sort(),
      namedSchemas.map((schema) => String(Object(schema)['$id'])).sort(),
    );
    const ids = new Set<string>();
    for (const [path, methods] of Object.entries(document.paths))
      for (const [method, { operationId, responses }] of Object.entries(methods)) {
        t.ok(
          operationId !== undefined && !ids.has(operationId),
          `${method} ${path} has its own id`,
        );
        ids.add(operationId ?? '');
        t.ok('default' in responses, `${method} ${path} answers problems`);
      }
    const text = JSON.stringify(document);
    for (const match of text.matchAll(/"\$ref":"([^"]*)"/g))
      t.match(match[1], /^#\/components\/schemas\/\w+$/, 'references stay inside of the document');
  },
);
