import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import t, { type Test } from 'tap';
import { ApiClient, fromProblem, HttpClient, segment, toProblem } from '../../src/api/index.ts';
import { DvceError, type ErrorCode, errorTable } from '../../src/base/index.ts';

/** A server on a unix socket that answers as the test says. */
async function serve(t: Test, listener: RequestListener): Promise<string> {
  const directory = mkdtempSync('/tmp/dvce-api-');
  const socketPath = `${directory}/s`;
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
    rmSync(directory, { recursive: true });
  });
  return socketPath;
}

t.test('every error of the table survives the wire', async (t) => {
  for (const code of Object.keys(errorTable) as ErrorCode[]) {
    const sent = new DvceError(code, { name: '/a', kind: 'volume', reason: 'so', pid: 7, ms: 1 });
    const problem = toProblem(sent);
    const got = fromProblem(JSON.parse(JSON.stringify(problem)));
    t.equal(got.code, code);
    t.equal(got.message, sent.message);
    t.equal(got.advice, sent.advice);
    t.equal(problem.status, sent.httpStatus);
    t.equal(problem.type, `urn:dvce:error:${code}`);
  }
});

t.test('a code of a newer agent keeps its text', async (t) => {
  const problem = { ...toProblem(new DvceError('INTERNAL')), code: 'NEW_CODE', detail: 'why' };
  const error = fromProblem(problem);
  t.equal(error.code, 'PROTOCOL');
  t.match(error.message, /NEW_CODE: why/);
});

t.test('a path of a volume is one segment of the URL', async (t) => {
  t.equal(segment('/prod/shop/db'), 'prod%2Fshop%2Fdb');
  t.equal(segment('a b'), 'a%20b');
});

t.test('requests carry JSON, answers are parsed', async (t) => {
  const seen: string[] = [];
  const socketPath = await serve(t, async (request, response) => {
    let body = '';
    for await (const part of request) body += String(part);
    seen.push(`${request.method} ${request.url} ${request.headers['content-type']} ${body}`);
    response.writeHead(201, { 'content-type': 'application/json', location: '/v1/volumes/a%2Fb' });
    response.end('{"path":"/a/b"}');
  });
  const answer = await new HttpClient(socketPath).request('POST', '/v1/volumes', {
    body: { path: '/a/b' },
    query: { x: 1, y: undefined, z: 'p q' },
  });
  t.strictSame(seen, ['POST /v1/volumes?x=1&z=p+q application/json {"path":"/a/b"}']);
  t.strictSame(answer, { status: 201, location: '/v1/volumes/a%2Fb', body: { path: '/a/b' } });
});

t.test('a problem is thrown as the error that it was', async (t) => {
  const socketPath = await serve(t, (_, response) => {
    const error = new DvceError('NOT_FOUND', { kind: 'volume', name: '/x' });
    response.writeHead(404, { 'content-type': 'application/problem+json' });
    response.end(JSON.stringify(toProblem(error)));
  });
  const api = new ApiClient(socketPath);
  await t.rejects(api.volumes.get('/x'), {
    code: 'NOT_FOUND',
    message: 'volume /x does not exist',
  });
});

t.test('an answer that is no problem document and no JSON is a broken protocol', async (t) => {
  const socketPath = await serve(t, (request, response) => {
    if (request.url === '/v1/html') {
      response.writeHead(502, { 'content-type': 'text/html' });
      response.end('<h1>no</h1>');
    } else {
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end('{"path":');
    }
  });
  const client = new HttpClient(socketPath);
  await t.rejects(client.request('GET', '/v1/html'), { code: 'PROTOCOL' });
  await t.rejects(client.request('GET', '/v1/half'), { code: 'PROTOCOL' });
});

t.test('an agent that is not there is told with where it was looked for', async (t) => {
  const api = new ApiClient('/tmp/dvce-api-nothing/agent.sock');
  await t.rejects(api.status(), {
    code: 'AGENT_UNAVAILABLE',
    message: /nothing\/agent\.sock: its socket does not exist/,
  });
});

t.test('an agent that closes the connection before its answer', async (t) => {
  const socketPath = await serve(t, (request) => request.socket.destroy());
  await t.rejects(new ApiClient(socketPath).status(), { code: 'AGENT_UNAVAILABLE' });
});

t.test('every request has a deadline and obeys its signal', async (t) => {
  const socketPath = await serve(t, () => {}); // never answers
  const client = new HttpClient(socketPath);
  await t.rejects(client.request('GET', '/v1/status', { timeoutMs: 30 }), { code: 'TIMED_OUT' });
  const abort = new AbortController();
  const waiting = client.request('GET', '/v1/status', { signal: abort.signal });
  const reason = new DvceError('INTERRUPTED', { what: 'it', advice: '' });
  abort.abort(reason);
  await t.rejects(waiting, { code: 'INTERRUPTED' });
});

t.test(
  'waiting for an operation asks again until it has ended, or until its time is over',
  async (t) => {
    let asked = 0;
    const socketPath = await serve(t, (request, response) => {
      asked += 1;
      t.match(request.url, /^\/v1\/operations\/x\?wait=\d+ms$/);
      response.writeHead(200, { 'content-type': 'application/json' });
      const status = asked >= 3 && request.url !== undefined ? 'succeeded' : 'running';
      response.end(JSON.stringify({ id: 'x', kind: 'vm.start', status }));
    });
    const api = new ApiClient(socketPath);
    const seen: string[] = [];
    const ended = await api.operations.wait('x', { onProgress: ({ status }) => seen.push(status) });
    t.equal(ended.status, 'succeeded');
    t.strictSame(seen, ['running', 'running', 'succeeded']);
    asked = -1000;
    await t.rejects(api.operations.wait('x', { timeoutMs: 20 }), { code: 'TIMED_OUT' });
  },
);

t.test('an upgrade that is refused tells the problem', async (t) => {
  const socketPath = await serve(t, (_, response) => {
    const error = new DvceError('NOT_FOUND', { kind: 'vm', name: 'x' });
    response.writeHead(404, { 'content-type': 'application/problem+json' });
    response.end(JSON.stringify(toProblem(error)));
  });
  await t.rejects(new ApiClient(socketPath).vms.console('x'), { code: 'NOT_FOUND' });
});
