/** The API by its routes: validation, problem documents, answers that fit their schemas. */
import { mkdtempSync, rmSync } from 'node:fs';
import { Ajv } from 'ajv';
import t, { type Test } from 'tap';
import { Agent, agentLayout, buildServer } from '../../src/agent/index.ts';
import { namedSchemas } from '../../src/api/schema/index.ts';
import {
  DvceError,
  nodeFileSystem,
  silentLogger,
  systemClock,
  systemRandom,
  systemTimers,
} from '../../src/base/index.ts';
import { FakeBlockd, FakeHypervisor } from '../support/fake-host.ts';

const alive = setInterval(() => {}, 1000);
t.teardown(() => clearInterval(alive));

const ajv = new Ajv({ strict: false, schemas: [...namedSchemas] });
const fits = (name: string, value: unknown): string => {
  ajv.validate(name, value);
  return ajv.errorsText();
};

async function api(t: Test) {
  const root = mkdtempSync('/tmp/dvce-srv-');
  const blockd = new FakeBlockd();
  const driver = new FakeHypervisor();
  let stops = 0;
  const agent = await Agent.open({
    layout: agentLayout(root),
    release: '1.2.3',
    blockd,
    driver,
    files: nodeFileSystem,
    clock: systemClock,
    timers: systemTimers,
    random: systemRandom,
    logger: silentLogger,
    onStop: () => {
      stops += 1;
    },
  });
  const server = await buildServer(agent, silentLogger, '1.2.3');
  t.teardown(async () => {
    await server.close();
    await agent.close();
    rmSync(root, { recursive: true, force: true });
  });
  const send = async (method: 'GET' | 'POST' | 'PATCH' | 'DELETE', url: string, body?: object) => {
    const answer = await server.inject({ method, url, ...(body ? { payload: body } : {}) });
    return {
      status: answer.statusCode,
      type: String(answer.headers['content-type']),
      location: answer.headers['location'],
      body: answer.body === '' ? undefined : answer.json(),
    };
  };
  return { blockd, driver, agent, server, send, stops: () => stops };
}

t.test('bad requests are refused with the field and the reason, and reach nobody', async (t) => {
  const { send, blockd } = await api(t);
  const size = 1024 ** 2;
  const cases: readonly (readonly [
    'POST' | 'PATCH' | 'GET',
    string,
    object | undefined,
    RegExp,
  ])[] = [
    ['POST', '/v1/volumes', {}, /field path of the body is not valid: it is missing/],
    [
      'POST',
      '/v1/volumes',
      { path: '/a' },
      /field sizeBytes of the body is not valid: it is missing/,
    ],
    ['POST', '/v1/volumes', { path: '/a', sizeBytes: '1' }, /sizeBytes .* must be integer/],
    ['POST', '/v1/volumes', { path: '/a', sizeBytes: -1 }, /sizeBytes .* must be >= 0/],
    [
      'POST',
      '/v1/volumes',
      { path: '/a', sizeBytes: size, sise: 1 },
      /sise .* it is not known here/,
    ],
    ['POST', '/v1/volumes', { path: '/a/../b', sizeBytes: size }, /"\.\." is not allowed/],
    [
      'POST',
      '/v1/volumes',
      { path: '/a\u0007b', sizeBytes: size },
      /a character that is not allowed/,
    ],
    ['POST', '/v1/volumes', { path: '/', sizeBytes: size }, /an empty part/],
    ['POST', '/v1/volumes', { path: '/a', sizeBytes: size, blockBytes: 1 }, /none of 512, 4096/],
    ['POST', '/v1/volumes', { path: '/a', sizeBytes: size, labels: { 'a b': 'c' } }, /labels/],
    ['PATCH', '/v1/volumes/a', {}, /body/],
    ['GET', '/v1/volumes/a%2F..%2Fb', undefined, /"\.\." is not allowed/],
    ['GET', '/v1/volumes/a%00b', undefined, /a character that is not allowed/],
    ['GET', `/v1/volumes/${'a%2F'.repeat(20)}a`, undefined, /more than 16 parts/],
    ['POST', '/v1/volumes/a/snapshots', { name: 'x y' }, /a character that is not allowed/],
    ['POST', '/v1/vms', { name: 'a', cpus: 0 }, /cpus .* must be >= 1/],
    ['POST', '/v1/images', { name: 'a', source: 'relative.raw' }, /neither an absolute path/],
    ['POST', '/v1/images', { name: 'a', source: 'ftp://x/y' }, /neither an absolute path/],
    ['POST', '/v1/images', { name: 'a/b', source: '/x' }, /a character that is not allowed/],
    ['POST', '/v1/images', { name: 'a', source: '/x', sha256: 'zz' }, /sha256/],
    ['GET', '/v1/nothing', undefined, /no such route/],
    ['GET', '/v1/vms/x/console', undefined, /no header Upgrade/],
  ];
  for (const [method, url, body, reason] of cases) {
    const answer = await send(method, url, body);
    const status = url === '/v1/nothing' ? 404 : 400;
    t.equal(answer.status, status, `${method} ${url} ${JSON.stringify(body)}`);
    t.match(answer.type, /^application\/problem\+json/);
    t.match(answer.body.detail, reason);
    t.equal(fits('Problem', answer.body), 'No errors');
  }
  t.strictSame(blockd.calls, []);
});

t.test('a body that is no JSON, and one that is too large', async (t) => {
  const { server } = await api(t);
  const headers = { 'content-type': 'application/json' };
  const bad = await server.inject({ method: 'POST', url: '/v1/volumes', headers, payload: '{' });
  t.match(bad.json(), { code: 'INVALID_ARGUMENT', status: 400 });
  const text = await server.inject({
    method: 'POST',
    url: '/v1/volumes',
    headers: { 'content-type': 'text/plain' },
    payload: 'x',
  });
  t.match(text.json(), { code: 'INVALID_ARGUMENT', status: 415 });
  const large = await server.inject({
    method: 'POST',
    url: '/v1/volumes',
    headers,
    payload: `"${'x'.repeat(2 * 1024 ** 2)}"`,
  });
  t.match(large.json(), { code: 'TOO_LARGE', status: 413 });
});

t.test('good requests are answered as their schemas say', async (t) => {
  const { send, blockd } = await api(t);
  const created = await send('POST', '/v1/volumes', { path: 'prod/db', sizeBytes: 1024 ** 2 });
  t.match(created, { status: 201, location: '/v1/volumes/prod%2Fdb' });
  t.equal(fits('Volume', created.body), 'No errors');
  t.equal((await send('GET', '/v1/volumes/prod%2Fdb')).body.path, '/prod/db');
  t.equal(fits('VolumeList', (await send('GET', '/v1/volumes?prefix=/prod')).body), 'No errors');
  const vm = await send('POST', '/v1/vms', { name: 'web1', disks: [{ path: '/prod/db' }] });
  t.match(vm, { status: 201, location: '/v1/vms/web1' });
  t.equal(fits('Vm', vm.body), 'No errors');
  const start = await send('POST', '/v1/vms/web1/start', {});
  t.equal(start.status, 202);
  t.equal(start.location, `/v1/operations/${start.body.id}`);
  t.equal(fits('Operation', start.body), 'No errors');
  const ended = await send('GET', `${start.location}?wait=10s`);
  t.match(ended.body, { status: 'succeeded', resources: ['/v1/vms/web1'] });
  t.equal(fits('OperationList', (await send('GET', '/v1/operations')).body), 'No errors');
  t.match(await send('DELETE', '/v1/volumes/prod%2Fdb'), {
    status: 409,
    body: { code: 'IN_USE', context: { reason: 'it is a disk of VM web1' } },
  });
  t.ok(blockd.volumes.has('/prod/db'));
  t.match((await send('GET', '/v1/vms/web1/log')).type, /^text\/plain/);
  t.equal((await send('GET', '/v1/openapi.json')).body.openapi, '3.1.0');
});

t.test('what blockd says reaches the caller unchanged', async (t) => {
  const { send, blockd } = await api(t);
  for (const [error, status] of [
    [new DvceError('NOT_FOUND', { kind: 'volume', name: '/a' }), 404],
    [new DvceError('NO_SPACE', { where: 'the store', reason: 'full' }), 507],
    [new DvceError('BLOCKD_UNAVAILABLE', { where: '/s', reason: 'gone' }), 503],
    [new DvceError('TIMED_OUT', { what: 'volume.get', ms: 1 }), 504],
  ] as const) {
    blockd.failures.set('volume.get', error);
    const answer = await send('GET', '/v1/volumes/a');
    t.match(answer, { status, body: { code: error.code, detail: error.message } });
  }
});

t.test('the status says why it is not well', async (t) => {
  const { send, blockd } = await api(t);
  const unavailable = { where: '/s', reason: 'its socket does not exist' };
  blockd.failures.set('status', new DvceError('BLOCKD_UNAVAILABLE', unavailable));
  const { body } = await send('GET', '/v1/status');
  t.match(body, {
    health: 'critical',
    blockd: null,
    causes: [{ code: 'BLOCKD_DOWN' }],
  });
  t.equal(fits('Status', body), 'No errors');
});

t.test('shutdown is refused while a VM runs, unless it is forced', async (t) => {
  const { send, driver, stops } = await api(t);
  await send('POST', '/v1/vms', { name: 'web1' });
  const start = await send('POST', '/v1/vms/web1/start', {});
  await send('GET', `${start.location}?wait=10s`);
  t.match(await send('POST', '/v1/shutdown', { keepBlockd: true }), {
    status: 409,
    body: { code: 'VM_STATE', advice: /--stop-vms/ },
  });
  t.equal(stops(), 0);
  t.equal(driver.running.size, 1);
  t.equal((await send('POST', '/v1/shutdown', { keepBlockd: true, force: true })).status, 204);
  t.equal(driver.running.size, 1, 'forced: the guest runs on');
  t.equal((await send('POST', '/v1/shutdown', { keepBlockd: true, stopVms: true })).status, 204);
  t.equal(driver.running.size, 0);
});
