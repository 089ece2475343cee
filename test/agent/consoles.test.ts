/** Consoles against a real unix socket that serves one client, as the hypervisor's does. */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { type Duplex, duplexPair } from 'node:stream';
import t, { type Test } from 'tap';
import { Consoles } from '../../src/agent/consoles.ts';
import { limits, silentLogger } from '../../src/base/index.ts';
import { until } from '../support/blockd-process.ts';

async function guest(t: Test) {
  const directory = mkdtempSync('/tmp/dvce-con-');
  const path = `${directory}/console`;
  const sockets: Socket[] = [];
  let typed = '';
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on('data', (bytes: Buffer) => {
      typed += bytes.toString();
    });
    socket.on('error', () => {});
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const consoles = new Consoles(silentLogger);
  t.teardown(() => {
    consoles.close();
    for (const socket of sockets) socket.destroy();
    server.close();
    rmSync(directory, { recursive: true });
  });
  const view = async (): Promise<{ near: Duplex; far: Duplex; text: () => string }> => {
    const join = await consoles.open(path, 'web1');
    const [near, far] = duplexPair();
    let text = '';
    near.on('data', (bytes: Buffer) => {
      text += bytes.toString();
    });
    join(far);
    return { near, far, text: () => text };
  };
  return { path, consoles, sockets, view, typed: () => typed };
}

t.test(
  'all viewers see the guest, and the guest hears all of them, over one connection',
  async (t) => {
    const { view, sockets, typed } = await guest(t);
    const [a, b] = [await view(), await view()];
    await until('the connection', () => sockets.length === 1);
    sockets[0]?.write('login: ');
    await until('both see it', () => a.text() === 'login: ' && b.text() === 'login: ');
    a.near.write('ro');
    await until('first', () => typed() === 'ro');
    b.near.write('ot\n');
    await until('second', () => typed() === 'root\n');
    t.equal(sockets.length, 1);
    a.near.end();
    sockets[0]?.write('x');
    await until('the other stays', () => b.text() === 'login: x');
    b.near.end();
    await until('the last one closes the connection', () => sockets[0]?.destroyed === true);
  },
);

t.test('the end of the guest ends its viewers', async (t) => {
  const { view, sockets } = await guest(t);
  const { near } = await view();
  await until('the connection', () => sockets.length === 1);
  const ended = new Promise<void>((resolve) => near.on('end', resolve));
  sockets[0]?.destroy();
  await ended;
  t.pass('it ended');
});

t.test('viewers are counted, and one that does not read is dropped', async (t) => {
  const { view, sockets, consoles, path } = await guest(t);
  const first = await view();
  for (let count = 1; count < limits.apiConsolesPerVm; count += 1) await view();
  await t.rejects(
    consoles.open(path, 'web1').then((join) => join(duplexPair()[0])),
    { code: 'IN_USE' },
  );
  await until('the connection', () => sockets.length === 1);
  first.near.pause();
  const flood = Buffer.alloc(64 * 1024, 'x');
  for (let count = 0; count < 64; count += 1) sockets[0]?.write(flood);
  await until('it is dropped', () => first.far.destroyed);
  t.equal(sockets[0]?.destroyed, false, 'the others stay connected');
});

t.test('a console that nobody serves', async (t) => {
  await t.rejects(new Consoles(silentLogger).open('/tmp/dvce-none/console', 'web1'), {
    code: 'HYPERVISOR_FAILED',
  });
});
