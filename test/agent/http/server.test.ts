/** What HTTP itself asks of the API: problems for everything, pages, tags, keys, roles; by requests through the whole server. */
import t from 'tap';
import { type Identity, localAdmin } from '../../../src/agent/access.ts';
import { Doors } from '../../../src/agent/http/doors.ts';
import { buildServer } from '../../../src/agent/index.ts';
import { DvceError, limits, silentLogger } from '../../../src/base/index.ts';
import { servedAgentOnFakes } from '../../support/agent-on-fakes.ts';

const alive = setInterval(() => {}, 1000);
t.teardown(() => clearInterval(alive));

type Method = 'GET' | 'POST' | 'PATCH' | 'DELETE' | 'PUT';
const json = { 'content-type': 'application/json' };
const size = 1024 ** 2;

t.test('every refusal of HTTP is a problem document', async (t) => {
  const { server } = await servedAgentOnFakes(t);
  const cases: readonly (readonly [Method, string, Record<string, string>, string, number])[] = [
    ['GET', '/', {}, '', 404],
    ['GET', '/v1/nothing/at/all', {}, '', 404],
    ['PUT', '/v1/volumes', json, '{}', 405],
    ['DELETE', '/v1/status', {}, '', 405],
    ['POST', '/v1/volumes', { 'content-type': 'text/plain' }, 'x', 415],
    ['POST', '/v1/volumes', { 'content-type': 'application/xml' }, '<a/>', 415],
    ['POST', '/v1/volumes', json, '{"a":', 400],
    ['POST', '/v1/volumes', json, '', 400],
    ['POST', '/v1/volumes', json, '{"__proto__":{"x":1}}', 400],
    ['POST', '/v1/volumes', json, `"${'x'.repeat(limits.apiBodyBytesMax)}"`, 413],
    ['GET', '/v1/volumes', { accept: 'text/html' }, '', 406],
    ['GET', '/v1/volumes/%zz', {}, '', 400],
    ['GET', '/v1/volumes?unknown=1', {}, '', 400],
    ['GET', '/v1/volumes?limit=0', {}, '', 400],
    ['GET', '/v1/volumes?limit=x', {}, '', 400],
    ['GET', '/v1/volumes?fields=nothing', {}, '', 400],
    ['GET', '/v1/volumes?cursor=x', {}, '', 400],
    ['GET', '/v1/events?since=-1', {}, '', 400],
    ['GET', '/v1/events?types=cats.*', {}, '', 400],
    ['GET', '/v1/events?since=7', {}, '', 410],
    ['GET', '/v1/events', { 'last-event-id': '../1' }, '', 400],
  ];
  for (const [method, url, headers, payload, status] of cases) {
    const answer = await server.inject({
      method,
      url,
      headers,
      ...(payload === '' ? {} : { payload }),
    });
    t.equal(answer.statusCode, status, `${method} ${url} ${payload.slice(0, 40)}`);
    t.match(answer.headers['content-type'], /^application\/problem\+json/, url);
    t.match(answer.json(), { status, type: /^urn:dvce:error:/, code: String, detail: String });
    if (status === 405) t.match(answer.headers.allow, /GET/);
  }
});

t.test('lists come in pages, objects in parts', async (t) => {
  const { server, blockd } = await servedAgentOnFakes(t);
  for (const name of ['c', 'a', 'b'])
    blockd.add(`/${name}`, { tier: name === 'b' ? 'gold' : 'tin' });
  const get = async (url: string) => (await server.inject({ method: 'GET', url })).json();
  const first = await get('/v1/volumes?limit=2&fields=path');
  t.strictSame(first.volumes, [{ path: '/a' }, { path: '/b' }]);
  const second = await get(`/v1/volumes?limit=2&fields=path&cursor=${first.next}`);
  t.strictSame(second, { volumes: [{ path: '/c' }] });
  t.equal((await get('/v1/volumes')).volumes.length, 3, 'all, without a limit');
  t.strictSame(await get('/v1/volumes?filter=labels.tier=gold&fields=path,kind'), {
    volumes: [{ path: '/b', kind: 'volume' }],
  });
  t.strictSame(await get('/v1/volumes/a?fields=path,protected'), { path: '/a', protected: false });
});

t.test('a change is made to what its author looked at', async (t) => {
  const { server, blockd } = await servedAgentOnFakes(t);
  blockd.add('/a');
  const url = '/v1/volumes/a';
  const tag = async (): Promise<string> =>
    String((await server.inject({ method: 'GET', url })).headers.etag);
  const first = await tag();
  t.match(first, /^"[\w-]{22}"$/);
  t.equal(await tag(), first, 'it stays while nothing changes');
  const unchanged = await server.inject({
    method: 'GET',
    url,
    headers: { 'if-none-match': first },
  });
  t.match(unchanged, { statusCode: 304, body: '' });
  const remove = (match: string) =>
    server.inject({ method: 'DELETE', url, headers: { 'if-match': match } });
  const volume = blockd.volumes.get('/a');
  if (volume === undefined) throw new Error('it is there');
  blockd.volumes.set('/a', { ...volume, labels: { a: 'b' } });
  t.not(await tag(), first);
  const stale = await remove(first);
  t.match(stale.json(), { status: 412, code: 'CONFLICT' });
  t.match((await remove('"nonsense"')).json(), { status: 412 });
  t.ok(blockd.volumes.has('/a'), 'nothing was deleted');
  t.equal((await remove(`"x", ${await tag()}`)).statusCode, 200);
  t.match((await remove('*')).json(), { status: 412, code: 'CONFLICT' }, 'it is gone');
});

t.test('of many changes with the same tag one is made', async (t) => {
  const { server, blockd } = await servedAgentOnFakes(t);
  blockd.add('/a');
  const url = '/v1/volumes/a';
  const { etag } = (await server.inject({ method: 'GET', url })).headers;
  const answers = await Promise.all(
    Array.from({ length: 8 }, () =>
      server.inject({ method: 'DELETE', url, headers: { 'if-match': String(etag) } }),
    ),
  );
  const statuses = answers.map(({ statusCode }) => statusCode).sort();
  t.strictSame(statuses, [200, ...Array.from({ length: 7 }, () => 412)]);
});

t.test('a key gives the first answer again, also after a restart of the agent', async (t) => {
  const first = await servedAgentOnFakes(t);
  const create = (server: typeof first.server, key: string, path: string) =>
    server.inject({
      method: 'POST',
      url: '/v1/volumes',
      headers: { 'idempotency-key': key },
      payload: { path, sizeBytes: size },
    });
  const made = await create(first.server, 'k1', '/a');
  t.equal(made.statusCode, 201);
  const again = await create(first.server, 'k1', '/a');
  t.equal(again.statusCode, 201);
  t.equal(again.body, made.body);
  t.equal(again.headers.location, made.headers.location);
  t.equal(again.headers['idempotency-replayed'], 'true');
  t.equal(first.blockd.calls.filter((call) => call === 'volume.create /a').length, 1);
  t.match((await create(first.server, 'k1', '/b')).json(), { status: 422, code: 'CONFLICT' });
  t.equal(
    (await create(first.server, 'k2', '/a')).statusCode,
    409,
    'another key is another request',
  );
  const bad = await create(first.server, 'two words', '/c');
  t.equal(bad.statusCode, 400);
  // A failure is not kept: the same key may try again.
  first.blockd.failures.set(
    'volume.create',
    new DvceError('NO_SPACE', { where: 's', reason: 'r' }),
  );
  t.equal((await create(first.server, 'k3', '/d')).statusCode, 507);
  t.equal((await create(first.server, 'k3', '/d')).statusCode, 201);
  const duplicates = await Promise.all(
    Array.from({ length: 10 }, () => create(first.server, 'k4', '/e')),
  );
  t.ok(duplicates.every(({ statusCode }) => statusCode === 201));
  t.equal(first.blockd.calls.filter((call) => call === 'volume.create /e').length, 1);
  await first.close();
  const second = await servedAgentOnFakes(t, { root: first.root });
  t.match(await create(second.server, 'k1', '/a'), { statusCode: 201, body: made.body });
  t.strictSame(second.blockd.calls, [], 'nothing ran again');
});

t.test('narrow grants see and change what is theirs, and nothing by another name', async (t) => {
  const { agent, blockd } = await servedAgentOnFakes(t);
  let identity: Identity = localAdmin;
  // A server of the same agent, told who asks.
  const doors = new Doors(agent.tokens, silentLogger);
  Object.defineProperty(doors, 'identify', { value: () => identity });
  const server = await buildServer(agent, silentLogger, '1', { doors });
  t.teardown(() => server.close());
  for (const path of ['/prod/db', '/prod2/db', '/other', '/vms/web1/disk0']) blockd.add(path);
  identity = {
    name: 'token:x',
    remote: true,
    grants: [
      { role: 'operator', path: '/prod' },
      { role: 'viewer', path: '/vms/web1' },
    ],
  };
  const ask = async (method: Method, url: string, payload?: object) =>
    (await server.inject({ method, url, ...(payload ? { payload } : {}) })).statusCode;
  const listed = (await server.inject({ method: 'GET', url: '/v1/volumes' })).json();
  t.strictSame(
    listed.volumes.map(({ path }: { path: string }) => path),
    ['/prod/db', '/vms/web1/disk0'],
  );
  const cases: readonly (readonly [Method, string, object | undefined, number])[] = [
    ['GET', '/v1/volumes/prod%2Fdb', undefined, 200],
    ['GET', '/v1/volumes/prod2%2Fdb', undefined, 403],
    ['GET', '/v1/volumes/prod%2F..%2Fother', undefined, 400],
    ['GET', '/v1/volumes/prod%252Fdb', undefined, 400],
    ['GET', '/v1/volumes/other', undefined, 403],
    ['GET', '/v1/volumes/not-there', undefined, 403],
    ['DELETE', '/v1/volumes/other', undefined, 403],
    ['DELETE', '/v1/volumes/vms%2Fweb1%2Fdisk0', undefined, 403],
    ['POST', '/v1/volumes', { path: '/prod/new', sizeBytes: size }, 201],
    ['POST', '/v1/volumes', { path: '/else', sizeBytes: size }, 403],
    ['POST', '/v1/volumes', { path: '/prod/../else', sizeBytes: size }, 400],
    ['POST', '/v1/clones', { path: '/prod/c', source: '/prod/db@s' }, 201],
    ['POST', '/v1/clones', { path: '/prod/d', source: '/other@s' }, 403],
    ['POST', '/v1/clones', { path: '/else', source: '/prod/db@s' }, 403],
    ['PATCH', '/v1/volumes/prod%2Fdb', { path: '/stolen' }, 403],
    ['POST', '/v1/vms', { name: 'web2' }, 403],
    ['POST', '/v1/vms', { name: 'web1', disks: [{ path: '/other' }] }, 403],
    ['POST', '/v1/images', { name: 'x', source: '/etc/passwd' }, 403],
    ['GET', '/v1/status', undefined, 403],
    ['GET', '/v1/audit', undefined, 403],
    ['GET', '/v1/tokens', undefined, 403],
    ['POST', '/v1/tokens', { name: 'y', grants: [{ role: 'admin', path: '/' }] }, 403],
    ['POST', '/v1/shutdown', {}, 403],
  ];
  for (const [method, url, body, status] of cases)
    t.equal(await ask(method, url, body), status, `${method} ${url} ${JSON.stringify(body)}`);
  identity = { ...identity, grants: [{ role: 'operator', path: '/' }] };
  t.equal(
    await ask('POST', '/v1/images', { name: 'x', source: '/etc/passwd' }),
    403,
    'files of this host are not named from another host',
  );
  t.equal(await ask('POST', '/v1/shutdown', {}), 403);
  t.equal(await ask('GET', '/v1/tokens'), 403);
  identity = { ...identity, grants: [{ role: 'viewer', path: '/' }] };
  t.equal(await ask('DELETE', '/v1/volumes/other'), 403);
  t.equal(await ask('GET', '/v1/volumes/other'), 200);
  t.ok(blockd.volumes.has('/other'));
  const lines = await agent.audit.list(100);
  t.match(lines[0], {
    requestor: 'token:x',
    method: 'DELETE',
    path: '/v1/volumes/other',
    status: 403,
  });
  t.ok(lines.some(({ status, operationId }) => status === 201 && operationId === 'createVolume'));
});
