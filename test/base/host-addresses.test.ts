// What is this host, in whatever notation, and that no name leads to it unasked.
import { lookup } from 'node:dns/promises';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { networkInterfaces } from 'node:os';
import t from 'tap';
import { isHostThis, lookupElsewhere, systemTimers } from '../../src/base/index.ts';
import { openDownload } from '../../src/images/download.ts';

t.test('every notation of an address of this host is seen', async (t) => {
  for (const host of [
    ...[
      'localhost',
      'LocalHost.',
      'a.localhost',
      '127.0.0.1',
      '127.1',
      '0x7f.1',
      '2130706433',
      '017700000001',
    ],
    ...[
      '0.0.0.0',
      '0',
      '[::1]',
      '[::]',
      '[::ffff:127.0.0.1]',
      '[::ffff:7f00:1]',
      '169.254.169.254',
      '[fe80::1]',
    ],
    ...['user@127.0.0.1', 'a b', ''],
  ])
    t.ok(isHostThis(host), JSON.stringify(host));
  for (const host of [
    'example.org',
    'localhost.example',
    '10.0.0.1',
    '128.0.0.1',
    '[2001:db8::1]',
    '[::ffff:10.0.0.1]',
  ])
    t.notOk(isHostThis(host), host);
});

const isNamed = await lookup('localhost').then(
  () => true,
  () => false,
);
const unnamed = isNamed ? false : 'localhost has no address here';

t.test('a name that leads to this host is not followed', { skip: unnamed }, async (t) => {
  const socket = connect({ host: 'localhost', port: 1, lookup: lookupElsewhere });
  const [error] = await once(socket, 'error');
  t.match(error, { code: 'DOWNLOAD_FAILED', message: /leads back to this host/ });
});

const outer = Object.values(networkInterfaces())
  .flat()
  .find((each) => each?.family === 'IPv4' && !isHostThis(each.address))?.address;

t.test(
  'a redirect to this host is not followed, unless it was asked from the beginning',
  { skip: outer === undefined ? 'this host has no other address' : false },
  async (t) => {
    const asked: (string | undefined)[] = [];
    const server = createServer((request, response) => {
      asked.push(request.url);
      const { port } = server.address() as AddressInfo;
      if (request.url === '/secret') response.end('secret');
      else response.writeHead(302, { location: `http://127.1:${port}/secret` }).end();
    });
    server.listen(0, '0.0.0.0');
    await once(server, 'listening');
    t.teardown(() => server.close());
    const { port } = server.address() as AddressInfo;
    const { signal } = new AbortController();
    await t.rejects(openDownload(`http://${outer}:${port}/`, systemTimers, signal), {
      code: 'DOWNLOAD_FAILED',
      message: /leads back to this host/,
    });
    t.strictSame(asked, ['/'], 'nobody asked for the secret');
    const download = await openDownload(`http://127.0.0.1:${port}/`, systemTimers, signal);
    download.close();
    t.strictSame(asked, ['/', '/', '/secret']);
  },
);
