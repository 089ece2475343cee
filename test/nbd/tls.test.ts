/** STARTTLS: modes, forgotten state, injection, client certificates. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import t from 'tap';
import { systemTimers } from '../../src/base/index.ts';
import { connectNbd, type NbdServerOptions, type PeerFacts } from '../../src/nbd/index.ts';
import { makeCertificates } from '../support/certificates.ts';
import { MemoryBackend } from '../support/memory-backend.ts';
import {
  ask,
  clientFlagsHex,
  contextData,
  hex,
  infoData,
  option,
  type RunningServer,
  readReply,
  request,
  startServer,
  WireClient,
} from '../support/nbd-wire.ts';

const directory = mkdtempSync(join(tmpdir(), 'nbd-tls-'));
t.teardown(() => rmSync(directory, { recursive: true, force: true }));
const pems = makeCertificates(directory);
const skip = pems === null ? 'openssl is not installed' : false;
const TLS_REQD = 0x80000005;
const INVALID = 0x80000003;

type Mode = 'optional' | 'required';
async function start(
  mode: Mode,
  withClients = false,
): Promise<RunningServer & { peers: PeerFacts[] }> {
  if (pems === null) throw new Error('unreachable: the tests are skipped');
  const peers: PeerFacts[] = [];
  const tls: NonNullable<NbdServerOptions['tls']> = {
    mode,
    certificate: pems.serverCertificate,
    key: pems.serverKey,
    ...(withClients ? { clientAuthority: pems.authority } : {}),
  };
  const backend = new MemoryBackend({ sizeBytes: 1 << 20 });
  const exports = {
    open: async (name: string, peer: PeerFacts) => {
      peers.push(peer);
      return { backend, tlsRequired: name === 'secret', release: () => {} };
    },
    list: async () => [{ name: 'open' }, { name: 'secret', tlsRequired: true }],
  };
  return { ...(await startServer(exports, { tls })), peers };
}

async function greeted({ connect }: RunningServer): Promise<WireClient> {
  const client = await connect();
  await client.read(18);
  client.send(clientFlagsHex);
  return client;
}

async function secure(client: WireClient): Promise<WireClient> {
  t.equal((await ask(client, 5)).at(-1)?.type, 1);
  client.socket.removeAllListeners('data');
  const socket: TLSSocket = connectTls({ socket: client.socket, rejectUnauthorized: false });
  const secured = new WireClient(socket);
  await new Promise((resolve, reject) => {
    socket.once('secureConnect', resolve);
    socket.once('error', reject);
  });
  return secured;
}

t.test('required: only STARTTLS and ABORT without TLS', { skip }, async (t) => {
  const running = await start('required');
  t.teardown(running.stop);
  const client = await greeted(running);
  for (const number of [3, 6, 7, 8, 9, 10, 11, 99])
    t.equal(
      (await ask(client, number, infoData('open'))).at(-1)?.type,
      TLS_REQD,
      `option ${number}`,
    );
  client.send(option(2));
  t.equal((await readReply(client)).type, 1, 'ABORT');
  const old = await greeted(running);
  old.send(option(1, Buffer.from('open')));
  t.equal((await old.end()).length, 0, 'EXPORT_NAME: dropped');
  t.same(running.peers, [], 'no export was opened');
  const secured = await secure(await greeted(running));
  t.equal((await ask(secured, 7, infoData('open'))).at(-1)?.type, 1);
  t.equal(running.peers[0]?.tls, true);
  secured.send(request('compact', { type: 0, length: 4 }));
  t.equal((await secured.read(20)).toString('hex', 16), '00000000');
  secured.send(request('compact', { type: 2 }));
  await secured.end();
});

t.test('optional: per export, and hidden from LIST before TLS', { skip }, async (t) => {
  const running = await start('optional');
  t.teardown(running.stop);
  const client = await greeted(running);
  t.same(
    (await ask(client, 3)).map(({ body }) => body.toString('utf8', 4)),
    ['open', ''],
  );
  t.equal((await ask(client, 7, infoData('secret'))).at(-1)?.type, TLS_REQD);
  const secured = await secure(client);
  t.same(
    (await ask(secured, 3)).map(({ body }) => body.toString('utf8', 4)),
    ['open', 'secret', ''],
  );
  t.equal((await ask(secured, 5)).at(-1)?.type, INVALID, 'a second STARTTLS');
  t.equal((await ask(secured, 7, infoData('secret'))).at(-1)?.type, 1);
  const plain = await greeted(running);
  t.equal((await ask(plain, 7, infoData('open'))).at(-1)?.type, 1, 'plain text still works');
});

t.test('everything negotiated before STARTTLS is forgotten', { skip }, async (t) => {
  const running = await start('optional');
  t.teardown(running.stop);
  const client = await greeted(running);
  await ask(client, 8);
  await ask(client, 11);
  await ask(client, 10, contextData('open', ['base:allocation']));
  const secured = await secure(client);
  t.equal(
    (await ask(secured, 10, contextData('open', []))).at(-1)?.type,
    INVALID,
    'no structured replies',
  );
  const [info] = await ask(secured, 7, infoData('open'));
  t.equal((info?.body.readUInt16BE(10) ?? 0) & 0x1080, 0, 'neither DF nor BLOCK_STATUS_PAYLOAD');
  secured.send(request('compact', { type: 3, cookie: 9n }));
  t.equal(
    (await secured.read(16)).toString('hex'),
    '67446698000000000000000000000009',
    'compact mode',
  );
});

t.test('plain text behind STARTTLS ends the connection', { skip }, async (t) => {
  const running = await start('optional');
  t.teardown(running.stop);
  const client = await greeted(running);
  client.send(Buffer.concat([option(5), option(7, infoData('secret'))]));
  t.equal((await client.end()).length, 0, 'not even an ACK');
  t.same(running.peers, []);
});

t.test('a failed TLS handshake closes', { skip }, async (t) => {
  const running = await start('optional');
  t.teardown(running.stop);
  const client = await greeted(running);
  await ask(client, 5);
  client.send(hex('00'.repeat(64)));
  await client.end();
  t.same(running.peers, []);
});

t.test('client certificates: required, verified, known to the provider', { skip }, async (t) => {
  if (pems === null) return;
  const running = await start('required', true);
  t.teardown(running.stop);
  const base = { address: { path: running.path }, exportName: 'open', timers: systemTimers };
  const tls = { authority: pems.authority, serverName: 'localhost' };
  await t.rejects(connectNbd({ ...base, tls }), 'without a certificate');
  await t.rejects(connectNbd({ ...base }), { code: 'NOT_ALLOWED' }, 'without TLS');
  const own = { certificate: pems.clientCertificate, key: pems.clientKey };
  const remote = await connectNbd({ ...base, tls: { ...tls, ...own } });
  t.equal(running.peers.at(-1)?.certificate?.subject, 'CN=client');
  await remote.close();
  const wrongDirectory = mkdtempSync(join(tmpdir(), 'nbd-tls-'));
  const others = makeCertificates(wrongDirectory);
  rmSync(wrongDirectory, { recursive: true, force: true });
  if (others === null) return;
  const stranger = { certificate: others.clientCertificate, key: others.clientKey };
  await t.rejects(connectNbd({ ...base, tls: { ...tls, ...stranger } }), 'signed by somebody else');
  await t.rejects(
    connectNbd({ ...base, tls: { ...tls, ...own, authority: others.authority } }),
    'the client does not know the server',
  );
});
