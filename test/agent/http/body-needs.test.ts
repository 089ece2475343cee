/** Every text that a body of the API may hold is judged: what it names needs a role. */
import { readFileSync } from 'node:fs';
import t from 'tap';
import { kindOfField, needsOfBody, needsOfCollection } from '../../../src/agent/http/body-needs.ts';

interface Schema {
  readonly $ref?: string;
  readonly type?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly items?: Schema;
  readonly anyOf?: readonly Schema[];
  readonly oneOf?: readonly Schema[];
  readonly allOf?: readonly Schema[];
}

const { paths, components } = JSON.parse(
  readFileSync(new URL('../../../docs/reference/openapi.json', import.meta.url), 'utf8'),
) as {
  paths: Record<
    string,
    Record<
      string,
      { operationId?: string; requestBody?: { content: Record<string, { schema: Schema }> } }
    >
  >;
  components: { schemas: Record<string, Schema> };
};

/** Where a body may hold texts, as the table names the places; labels name nothing. */
function textsIn(schema: Schema, at = ''): string[] {
  const name = schema.$ref?.split('/').at(-1);
  if (name !== undefined) {
    const found = components.schemas[name];
    if (found === undefined) throw new Error(`no schema ${name}`);
    return textsIn(found, at);
  }
  const { properties = {}, items, anyOf = [], oneOf = [], allOf = [] } = schema;
  return [
    ...(schema.type === 'string' ? [at] : []),
    ...[...anyOf, ...oneOf, ...allOf].flatMap((part) => textsIn(part, at)),
    ...(items === undefined ? [] : textsIn(items, `${at}[]`)),
    ...Object.entries(properties).flatMap(([key, inner]) =>
      key === 'labels' ? [] : textsIn(inner, at === '' ? key : `${at}.${key}`),
    ),
  ];
}

const bodies = Object.values(paths)
  .flatMap((path) => Object.values(path))
  .flatMap(({ operationId = '', requestBody }) =>
    Object.values(requestBody?.content ?? {}).map(({ schema }) => ({ operationId, schema })),
  );

t.test('every text of every body has its line in the table', async (t) => {
  let count = 0;
  for (const { operationId, schema } of bodies)
    for (const field of new Set(textsIn(schema))) {
      count += 1;
      t.ok(kindOfField(operationId, field), `${operationId}: ${field}`);
    }
  t.ok(count > 50, `${count} texts`);
});

t.test('what a text looks like is not said to be nothing', async (t) => {
  // Grants are judged as a whole: whoever makes tokens is administrator of everything.
  for (const { operationId, schema } of bodies)
    for (const field of new Set(textsIn(schema)))
      if (/(path|source|to|bridge|image|volumes)(\[\])?$/i.test(field) && !/grants/.test(field))
        t.not(kindOfField(operationId, field), 'plain', `${operationId}: ${field}`);
});

const needsAsTexts = (operationId: string, body: object): string[] =>
  needsOfCollection(operationId, 'POST', body, 'operator').map(
    ({ role, path }) => `${role} ${path}`,
  );

t.test('what bodies need', async (t) => {
  const id = '73abe460-7c95-4319-aab9-ce7e259acb4a';
  const cases: readonly (readonly [string, object, readonly string[]])[] = [
    ['createSnapshotSet', { name: 's', volumes: ['/a', '/b/c'] }, ['operator /a', 'operator /b/c']],
    ['createSnapshotSet', { name: 's', volumes: [] }, ['operator /']],
    ['restoreVolume', { what: '/a', to: '/b' }, ['operator /a', 'operator /b']],
    ['restoreVolume', { what: id, to: '/b' }, ['operator /', 'operator /b']],
    ['emptyTrash', { what: '/a' }, ['operator /a']],
    ['emptyTrash', {}, ['operator /']],
    ['createExport', { path: '/a', snapshot: 's' }, ['operator /a']],
    [
      'createSchedule',
      { name: 'n', volumes: '/a/**', every: 'daily' },
      ['operator /', 'operator /'],
    ],
    ['createNetwork', { name: 'n', bridge: 'br0' }, ['operator /networks/n', 'operator /']],
    ['cloneVm', { name: 'b' }, ['operator /vms/b']],
    [
      'createVm',
      {
        name: 'w',
        image: 'i',
        disks: [{ path: '/d' }],
        nics: [{ kind: 'network', network: 'lan' }],
        cpuModel: 'host',
        onCrash: 'hold',
        labels: { file: '/etc/passwd' },
      },
      ['operator /vms/w', 'viewer /images/i', 'operator /d', 'viewer /networks/lan'],
    ],
    ['importImage', { name: 'i', source: 'https://example.org/x' }, ['operator /images/i']],
    ['somethingNew', { text: 'x' }, ['operator /']],
    ['somethingNew', { text: '/etc/shadow' }, ['admin /', 'operator /']],
  ];
  for (const [operationId, body, needs] of cases)
    t.strictSame(needsAsTexts(operationId, body), needs, `${operationId} ${JSON.stringify(body)}`);
  t.strictSame(needsOfCollection('listVolumes', 'GET', undefined, 'viewer'), []);
});

t.test('what only this host can reach is not for other hosts', async (t) => {
  const needs = (source: string) =>
    needsOfBody('importImage', 'POST', { name: 'i', source }, 'operator').map(({ role }) => role);
  for (const source of [
    '/etc/passwd',
    'file:///etc/passwd',
    'nbd+unix:///x?socket=/run/x',
    'NBD+UNIX:///x?socket=/run/x',
    'nbd://localhost/x',
    'nbd://127.0.0.1:10809/x',
    'http://[::1]:8080/x',
    'http://user@127.1/x',
    'http://0.0.0.0/x',
  ])
    t.ok(needs(source).includes('admin'), source);
  for (const source of ['https://example.org/a', 'nbd://10.0.0.1/x', 'http://localhost.example/x'])
    t.strictSame(needs(source), ['operator'], source);
});

t.test('names are checked before they are compared', async (t) => {
  for (const path of ['/a/../b', '//a', '/a/'])
    t.throws(() => needsOfBody('createExport', 'POST', { path }, 'operator'), {
      code: 'INVALID_NAME',
    });
});
