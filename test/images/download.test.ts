/** Downloads from a server that misbehaves in every way the importer promises to survive. */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import t, { type Test } from 'tap';
import { limits, systemTimers, type Timers } from '../../src/base/index.ts';
import { type Download, openDownload, parseUrl } from '../../src/images/download.ts';

const alive = setInterval(() => {}, 60_000); // the project's timers keep no process alive
t.teardown(() => clearInterval(alive));

type Handler = (request: IncomingMessage, response: ServerResponse) => void;

async function serve(t: Test, handler: Handler): Promise<string> {
  const server = createServer(handler);
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const never = new AbortController().signal;
const open = (url: string, timers = systemTimers, signal = never): Promise<Download> =>
  openDownload(url, timers, signal);

async function read(download: Download): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of download.chunks) chunks.push(chunk);
  return Buffer.concat(chunks);
}

const body = Buffer.from('an image, or so '.repeat(10_000));

t.test('a body arrives whole, with and without an announced length', async (t) => {
  const base = await serve(t, (request, response) => {
    if (request.url === '/known') response.setHeader('content-length', body.length);
    response.write(body); // with `end` alone the length would be announced by itself
    response.end();
  });
  for (const [path, totalBytes] of [
    ['/known', body.length],
    ['/unknown', null],
  ] as const) {
    const download = await open(base + path);
    t.equal(download.totalBytes, totalBytes);
    const sum = createHash('sha256')
      .update(await read(download))
      .digest('hex');
    t.equal(sum, createHash('sha256').update(body).digest('hex'));
  }
});

t.test('redirects are followed, as far as the limit', async (t) => {
  const base = await serve(t, (request, response) => {
    const left = Number(request.url?.slice(1));
    if (left === 0) return response.end(body);
    response.writeHead(left % 2 === 0 ? 302 : 307, { location: `/${left - 1}` });
    return response.end('moved');
  });
  t.ok((await read(await open(`${base}/${limits.redirectsMax}`))).equals(body));
  await t.rejects(open(`${base}/${limits.redirectsMax + 1}`), {
    code: 'DOWNLOAD_FAILED',
    message: /more than 5 times/,
  });
});

for (const location of [
  'file:///etc/passwd',
  'ftp://127.0.0.1/x',
  'http://user:secret@127.0.0.1/x',
])
  t.test(`a redirect is not followed to ${location}`, async (t) => {
    const base = await serve(t, (_, response) => {
      response.writeHead(302, { location });
      response.end();
    });
    const refused = await open(base).catch((error: Error) => error);
    t.match(refused, { code: 'INVALID_ARGUMENT' });
    t.notMatch((refused as Error).message, 'secret');
  });

t.test('a body shorter than announced is an error', async (t) => {
  const base = await serve(t, (_, response) => {
    response.writeHead(200, { 'content-length': body.length });
    response.write(body.subarray(0, 1000));
    setTimeout(() => response.destroy(), 20);
  });
  await t.rejects(open(base).then(read), {
    code: 'DOWNLOAD_FAILED',
    message: /broke after 1000 bytes/,
  });
});

t.test('a body without length that breaks off is an error', async (t) => {
  const base = await serve(t, (_, response) => {
    response.write(body.subarray(0, 1000)); // in chunks, whose end is told
    setTimeout(() => response.destroy(), 20);
  });
  await t.rejects(open(base).then(read), { code: 'DOWNLOAD_FAILED' });
});

/** Deadlines run a thousand times as fast. */
const fast: Timers = {
  ...systemTimers,
  after: (delayMs, task) => systemTimers.after(delayMs / 1000, task),
};

t.test('a server that never answers, or stops in the middle, is given up', async (t) => {
  const base = await serve(t, (request, response) => {
    if (request.url === '/stops') response.write(body.subarray(0, 1000));
  });
  await t.rejects(open(`${base}/silent`, fast), { code: 'TIMED_OUT' });
  await t.rejects(open(`${base}/stops`, fast).then(read), { code: 'TIMED_OUT' });
});

t.test('a reader that takes its time is not taken for a slow server', async (t) => {
  const base = await serve(t, (_, response) => response.end(body));
  const download = await open(base, fast);
  let total = 0;
  for await (const chunk of download.chunks) {
    total += chunk.length;
    await new Promise((done) => setTimeout(done, 60)); // twice the fast deadline
  }
  t.equal(total, body.length);
});

t.test('what is no image is refused', async (t) => {
  const base = await serve(t, (request, response) => {
    if (request.url === '/missing') response.writeHead(404);
    if (request.url === '/zip') response.setHeader('content-encoding', 'gzip');
    if (request.url === '/huge') response.setHeader('content-length', limits.downloadBytesMax + 1);
    if (request.url === '/nowhere') response.writeHead(302);
    response.end();
  });
  await t.rejects(open(`${base}/missing`), { code: 'DOWNLOAD_FAILED', message: /answered 404/ });
  await t.rejects(open(`${base}/zip`), { code: 'DOWNLOAD_FAILED', message: /encoded as gzip/ });
  await t.rejects(open(`${base}/huge`), { code: 'TOO_LARGE' });
  await t.rejects(open(`${base}/nowhere`), { code: 'DOWNLOAD_FAILED', message: /answered 302/ });
});

t.test('nobody listens', async (t) => {
  await t.rejects(open('http://127.0.0.1:1/'), {
    code: 'DOWNLOAD_FAILED',
    message: /ECONNREFUSED/,
  });
});

t.test('a cancelled download ends, before and after the answer', async (t) => {
  const base = await serve(t, (request, response) => {
    if (request.url === '/stops') response.write(body.subarray(0, 1000));
  });
  for (const path of ['/silent', '/stops']) {
    const cancelling = new AbortController();
    const reading = open(base + path, systemTimers, cancelling.signal).then(read);
    setTimeout(() => cancelling.abort(new Error('enough')), 50);
    await t.rejects(reading);
  }
});

t.test('addresses', async (t) => {
  for (const bad of ['http://', 'ftp://x/', 'file:///x', 'http://u@x/', 'http://:p@x/', 'data:x'])
    t.throws(() => parseUrl(bad), { code: 'INVALID_ARGUMENT' }, bad);
  t.equal(parseUrl('https://x/y').href, 'https://x/y');
  t.equal(parseUrl('../z', new URL('http://x/a/b')).href, 'http://x/z');
});
