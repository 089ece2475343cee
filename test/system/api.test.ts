// limit: 120 s
/** The API from outside, against real processes: other hosts, events over a kill of the agent, keys, tags, pages, slow clients. */
import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import * as http from 'node:http';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { connect as tlsConnect } from 'node:tls';
import t from 'tap';
import { limits } from '../../src/base/index.ts';
import { until } from '../support/blockd-process.ts';
import { type Dvce, freshDvce } from '../support/dvce.ts';

interface Reply {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  readonly body: string;
}

/** A request as a client of another make sends it. */
function ask(
  dvce: Dvce,
  method: string,
  path: string,
  options: { body?: object; headers?: Record<string, string>; socket?: string } = {},
): Promise<Reply> {
  const { body, headers = {}, socket = 'agent.sock' } = options;
  return new Promise((resolve, reject) => {
    const request = http.request(
      {
        socketPath: join(dvce.data, 'run', socket),
        method,
        path,
        agent: false,
        headers: { ...headers, ...(body ? { 'content-type': 'application/json' } : {}) },
      },
      (response) => {
        let text = '';
        response.on('data', (part: Buffer) => {
          text += part.toString();
        });
        response.on('end', () =>
          resolve({ status: response.statusCode ?? 0, headers: response.headers, body: text }),
        );
      },
    );
    request.on('error', reject);
    request.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

/** The event stream of a listener that keeps what it hears. */
function listen(dvce: Dvce, headers: Record<string, string> = {}) {
  const heard = { text: '', status: 0, ended: false };
  const request = http.request(
    { socketPath: join(dvce.data, 'run/agent.sock'), path: '/v1/events', agent: false, headers },
    (response) => {
      heard.status = response.statusCode ?? 0;
      response.on('data', (part: Buffer) => {
        heard.text += part.toString();
      });
      response.on('error', () => {});
      response.on('close', () => {
        heard.ended = true;
      });
    },
  );
  request.on('error', () => {
    heard.ended = true;
  });
  request.end();
  const ids = (): number[] =>
    [...heard.text.matchAll(/^id: (\d+)\nevent/gm)].map((m) => Number(m[1]));
  return { heard, ids, stop: () => request.destroy() };
}

const freePort = (): Promise<number> =>
  new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() =>
        resolve(typeof address === 'object' && address !== null ? address.port : 0),
      );
    });
  });

t.test('E-07 other hosts, events, keys, tags and pages over a killed agent', async (t) => {
  const port = await freePort();
  const dvce = freshDvce(t, { DVCE_API_LISTEN: `127.0.0.1:${port}` });
  await dvce.ok('up');
  for (const path of ['/prod/a', '/prod/b', '/other/c'])
    await dvce.ok(`volume create ${path} --size 1MiB`);

  await t.test('tokens by path, over TLS, by the command line', async (t) => {
    await dvce.ok(
      'token create --name ci --role operator --path /prod --expires 1h --out ci.token',
    );
    const secret = readFileSync(join(dvce.directory, 'ci.token'), 'utf8').trim();
    t.equal(statSync(join(dvce.directory, 'ci.token')).mode & 0o777, 0o600);
    t.equal((await dvce.cli('token create --name ci --role viewer')).code, 3);
    t.equal((await dvce.cli('token create --name x --role viewer --path /a/../b')).code, 64);
    const { door } = await dvce.json<{ door: { fingerprint: string } }>(
      'token create --name eye --role viewer --expires 1h',
    );
    const url = `https://127.0.0.1:${port}`;
    await dvce.ok(
      `context add h --url ${url} --token-file ci.token --fingerprint ${door.fingerprint}`,
    );
    t.equal(statSync(join(dvce.directory, 'config/dvce/contexts.json')).mode & 0o777, 0o600);
    t.equal(await dvce.ok('--context h volume list -o name'), '/prod/a\n/prod/b\n');
    t.match(await dvce.ok('--context h volume create /prod/d --size 1MiB'), /prod\/d/);
    const refused = await dvce.cli('--context h volume delete /other/c --yes');
    t.equal(refused.code, 7);
    t.match(refused.stderr, /token:ci is not (operator|viewer) of \/other\/c/);
    t.equal((await dvce.cli('--context h down')).code, 7);
    t.equal((await dvce.cli('--context nothing status')).code, 5);
    // Nothing is said to a host with another certificate, least of all the token.
    await dvce.ok(
      `context add bad --url ${url} --token-file ci.token --fingerprint ${'0'.repeat(64)}`,
    );
    t.equal((await dvce.cli('--context bad volume list')).code, 2);
    await dvce.ok(`context add own --url ${url} --token-file ci.token`);
    t.match((await dvce.cli('--context own volume list')).stderr, /signs itself/);
    const authority = join(dvce.data, 'state/tls/api.crt');
    await dvce.ok(`context add file --url ${url} --token-file ci.token --ca-file ${authority}`);
    t.equal((await dvce.cli('--context file volume list')).code, 0);
    t.equal(statSync(join(dvce.data, 'state/tls/api.key')).mode & 0o777, 0o600);
    t.equal(statSync(join(dvce.data, 'state/tokens.json')).mode & 0o777, 0o600);
    await dvce.ok('context remove own');
    t.equal((await dvce.json<unknown[]>('context list')).length, 3);
    // The secret is in no file of the agent: state, logs, audit.
    const found = spawnSync('grep', ['-rlF', secret.split('_').at(-1) ?? '', dvce.data]);
    t.equal(String(found.stdout), '');
    t.match(await dvce.ok('token show ci'), /operator:\/prod/);
  });

  await t.test('the socket for looking only', async (t) => {
    const viewer = { socket: 'agent-readonly.sock' };
    t.equal((await ask(dvce, 'GET', '/v1/volumes', viewer)).status, 200);
    t.equal((await ask(dvce, 'DELETE', '/v1/volumes/other%2Fc', viewer)).status, 403);
    t.equal((await ask(dvce, 'POST', '/v1/shutdown', { ...viewer, body: {} })).status, 403);
    t.equal((await ask(dvce, 'GET', '/v1/tokens', viewer)).status, 403);
    t.equal(statSync(join(dvce.data, 'run/agent-readonly.sock')).mode & 0o777, 0o660);
  });

  const key = { 'idempotency-key': 'd290f1ee-6c54-4b01-90e6-d701748f0851' };
  const wanted = { path: '/prod/once', sizeBytes: 1024 ** 2 };
  const made = await ask(dvce, 'POST', '/v1/volumes', { body: wanted, headers: key });
  t.equal(made.status, 201);
  const first = listen(dvce);
  await until('the stream', () => first.heard.text.includes('listening'));
  await dvce.ok('volume update /prod/a --label tier=gold');
  await until('an event', () => first.ids().length >= 1);
  const [seen = 0] = first.ids();
  await dvce.ok('volume update /prod/a --label tier=tin');
  await until('the next event', () => first.ids().length >= 2);
  first.stop();

  await t.test('a listener that comes back gets what it missed', async (t) => {
    const again = listen(dvce, { 'last-event-id': String(seen) });
    await until('what was missed', () => again.ids().length >= 1);
    t.equal(again.ids()[0], seen + 1);
    t.match(
      again.heard.text,
      /event: volume\.changed\ndata: .*"resource":"\/v1\/volumes\/prod%2Fa"/,
    );
    process.kill(dvce.agentPid(), 'SIGKILL');
    await until('the end of the stream', () => again.heard.ended);
  });

  await until('the end of the agent', () => dvce.holder('agent.lock') === undefined);
  await dvce.ok('up');

  await t.test(
    'after a kill of the agent nothing is silently missed and nothing made twice',
    async (t) => {
      const late = listen(dvce, { 'last-event-id': String(seen) });
      await until('an answer', () => late.heard.status !== 0);
      t.equal(late.heard.status, 410, 'list again: events of the last agent are gone');
      const again = await ask(dvce, 'POST', '/v1/volumes', { body: wanted, headers: key });
      t.equal(again.status, 201);
      t.equal(again.body, made.body);
      t.equal(again.headers['idempotency-replayed'], 'true');
      const other = { ...wanted, path: '/prod/other' };
      t.equal((await ask(dvce, 'POST', '/v1/volumes', { body: other, headers: key })).status, 422);
      t.equal(
        await dvce.ok('--context h volume list -o name --filter path=/prod/once'),
        '/prod/once\n',
      );
      await dvce.ok('token revoke ci --yes');
      t.equal((await dvce.cli('--context h volume list')).code, 7, 'revoked');
      t.equal((await dvce.json<{ name: string }[]>('token list')).length, 1);
    },
  );

  await t.test('pages, parts, tags', async (t) => {
    const page = JSON.parse((await ask(dvce, 'GET', '/v1/volumes?limit=2&fields=path')).body);
    t.equal(page.volumes.length, 2);
    const rest = `/v1/volumes?limit=10&fields=path&cursor=${page.next}`;
    t.strictSame(
      JSON.parse((await ask(dvce, 'GET', rest)).body).volumes.map(
        ({ path }: { path: string }) => path,
      ),
      ['/prod/b', '/prod/d', '/prod/once'],
    );
    const url = '/v1/volumes/prod%2Fb';
    const { headers } = await ask(dvce, 'GET', url);
    const match = { 'if-match': String(headers.etag) };
    t.equal(
      (await ask(dvce, 'GET', url, { headers: { 'if-none-match': match['if-match'] } })).status,
      304,
    );
    const body = { labels: { a: 'b' } };
    t.equal((await ask(dvce, 'PATCH', url, { body, headers: match })).status, 200);
    const stale = await ask(dvce, 'PATCH', url, { body: { labels: {} }, headers: match });
    t.equal(stale.status, 412);
    t.match(JSON.parse(stale.body), { code: 'CONFLICT', status: 412 });
    t.match(await dvce.ok('volume show /prod/b'), /a=b/);
  });

  await t.test('operations keep a log', async (t) => {
    const id = (await dvce.ok('volume check /prod/a --no-wait')).trim();
    await dvce.ok(`op wait ${id}`);
    const { body } = await ask(dvce, 'GET', `/v1/operations/${id}/log`);
    t.match(body, /started by local: \/v1\/volumes\/prod%2Fa\n/);
    t.match(body, /succeeded\n$/);
    const ended = await ask(dvce, 'GET', '/v1/operations?status=succeeded&kind=volume.check');
    t.match(JSON.parse(ended.body), { operations: [{ id, requestedBy: 'local' }] });
  });

  await t.test('what is no request, too large or too slow ends with an answer', async (t) => {
    const say = (text: string): Promise<string> =>
      new Promise((resolve, reject) => {
        const socket = connect(join(dvce.data, 'run/agent.sock'), () => socket.write(text));
        let answer = '';
        socket.on('data', (part) => {
          answer += part.toString();
        });
        socket.on('error', reject);
        socket.on('close', () => resolve(answer));
      });
    const smuggled =
      'POST /v1/volumes HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n';
    t.match(await say(smuggled), /^HTTP\/1.1 400 /);
    t.match(await say('nonsense\r\n\r\n'), /^HTTP\/1.1 400 [\s\S]*problem\+json/);
    const large = `GET /v1/status HTTP/1.1\r\nhost: x\r\nx-a: ${'a'.repeat(20_000)}\r\n\r\n`;
    t.match(await say(large), /^HTTP\/1.1 431 /);
    // Neither a whole header nor silence keeps a connection.
    const [slow, silent] = await Promise.all([
      say('GET /v1/status HTTP/1.1\r\nhost: x\r\nx-a'),
      say(''),
    ]);
    t.match(slow, /^HTTP\/1.1 408 /);
    t.match(silent, /^(HTTP\/1.1 408 |$)/);
    t.equal((await ask(dvce, 'GET', '/v1/status')).status, 200);
  });

  await t.test('a slow client of another host is cut off, whatever it stops in', async (t) => {
    /** What the door answers to this, until it closes; after a deadline of the test that is an answer, too. */
    const say = (text: string | null, ms: number): Promise<string> =>
      new Promise((resolve) => {
        const socket =
          text === null
            ? connect(port, '127.0.0.1')
            : tlsConnect({ port, host: '127.0.0.1', rejectUnauthorized: false }, () =>
                socket.write(text),
              );
        let answer = '';
        const late = setTimeout(() => {
          answer = 'not cut off';
          socket.destroy();
        }, ms);
        socket.on('data', (part: Buffer) => {
          answer += part.toString();
        });
        socket.on('error', () => {}); // reset: cut off as well
        socket.on('close', () => {
          clearTimeout(late);
          resolve(answer);
        });
      });
    const begin = performance.now();
    const head = 'POST /v1/volumes HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n';
    const [noHandshake, noHeaders, noBody] = await Promise.all([
      say(null, 2 * limits.apiHeadersMs),
      say('GET /v1/status HTTP/1.1\r\nhost: x\r\nauthoriz', 2 * limits.apiHeadersMs),
      say(`${head}content-length: 100\r\n\r\n{"path":`, 2 * limits.apiHeadersMs),
    ]);
    t.equal(noHandshake, '', 'silence in place of a handshake');
    t.match(noHeaders, /^HTTP\/1.1 408 /);
    t.match(noBody, /^HTTP\/1.1 401 /, 'without a token nobody waits for its body');
    t.ok(performance.now() - begin < 2 * limits.apiHeadersMs);
    t.equal((await ask(dvce, 'GET', '/v1/status')).status, 200);
  });

  await t.test('who did what is written down, and survived the kill', async (t) => {
    const entries =
      await dvce.json<{ requestor: string; method: string; path: string; status: number }[]>(
        'audit list',
      );
    const has = (requestor: string, method: string, path: string, status: number): boolean =>
      entries.some(
        (one) =>
          one.requestor === requestor &&
          one.method === method &&
          one.path === path &&
          one.status === status,
      );
    t.ok(has('local', 'POST', '/v1/tokens', 201));
    t.ok(has('token:ci', 'POST', '/v1/volumes', 201));
    t.ok(
      has('token:ci', 'GET', '/v1/volumes/other%2Fc', 403) ||
        has('token:ci', 'DELETE', '/v1/volumes/other%2Fc', 403),
    );
    t.ok(has('local-viewer', 'DELETE', '/v1/volumes/other%2Fc', 403));
    t.ok(has('local', 'PATCH', '/v1/volumes/prod%2Fb', 412));
    t.equal(statSync(join(dvce.data, 'log/audit.log')).mode & 0o777, 0o600);
  });

  await t.test('other routes answer as well', async (t) => {
    for (const path of ['/v1/tokens/eye', '/v1/openapi.json', '/v1/doctor'])
      t.equal((await ask(dvce, 'GET', path)).status, 200, path);
    writeFileSync(join(dvce.directory, 'empty'), '');
    t.equal((await dvce.cli(`context add e --url https://x:1 --token-file empty`)).code, 64);
    t.equal(execFileSync('test', ['-S', join(dvce.data, 'run/agent.sock')]).length, 0);
  });
});
