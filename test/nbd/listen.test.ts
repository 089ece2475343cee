/** Listening: modes, stale sockets, refusals. */

import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { silentLogger, systemTimers } from '../../src/base/index.ts';
import { activatedSocket, connectNbd, fixedExport, NbdServer } from '../../src/nbd/index.ts';
import { MemoryBackend } from '../support/memory-backend.ts';

const directory = mkdtempSync(join(tmpdir(), 'nbd-listen-'));
t.teardown(() => rmSync(directory, { recursive: true, force: true }));
const exports = fixedExport(new MemoryBackend({ sizeBytes: 1 << 20 }));
const make = (): NbdServer =>
  new NbdServer({ exports, timers: systemTimers, logger: silentLogger });
const close = (server: NbdServer): Promise<void> => server.close({ graceful: false });

t.test('unix socket: mode, busy, stale', async (t) => {
  const path = join(directory, 'a');
  const first = make();
  await first.listenUnix(path, { mode: 0o660 });
  t.equal(statSync(path).mode & 0o777, 0o660);
  const second = make();
  await t.rejects(second.listenUnix(path, { mode: 0o600 }), { code: 'ADDRESS_IN_USE' });
  const remote = await connectNbd({ address: { path }, exportName: '', timers: systemTimers });
  await remote.close();
  await close(first);
  const dead =
    "require('node:net').createServer().listen(process.argv[1], () => process.kill(process.pid, 'SIGKILL'))";
  spawnSync(process.execPath, ['-e', dead, path]);
  t.ok(statSync(path).isSocket(), 'a stale socket is there');
  await second.listenUnix(path, { mode: 0o600 });
  t.equal(statSync(path).mode & 0o777, 0o600);
  await close(second);
});

t.test('a file that is no socket is left alone; a path too long is named', async (t) => {
  const path = join(directory, 'file');
  writeFileSync(path, 'precious');
  await t.rejects(make().listenUnix(path, { mode: 0o600 }), { code: 'ADDRESS_IN_USE' });
  t.equal(statSync(path).size, 8);
  chmodSync(path, 0o600);
  const long = join(directory, 'x'.repeat(108 - directory.length - 1));
  t.equal(Buffer.byteLength(long), 108);
  await t.rejects(make().listenUnix(long, { mode: 0o600 }), { code: 'PATH_TOO_LONG' });
});

t.test('TCP: plain text only when asked for, busy port, limit of connections', async (t) => {
  await t.rejects(make().listenTcp('127.0.0.1', 0), { code: 'NOT_ALLOWED' });
  const other = createServer();
  const port = await new Promise<number>((resolve) => {
    other.listen(0, '127.0.0.1', () => {
      const address = other.address();
      resolve(typeof address === 'object' ? (address?.port ?? 0) : 0);
    });
  });
  t.teardown(() => other.close());
  await t.rejects(make().listenTcp('127.0.0.1', port, { allowPlainText: true }), {
    code: 'ADDRESS_IN_USE',
  });
  const server = new NbdServer({
    exports,
    timers: systemTimers,
    logger: silentLogger,
    connectionsMax: 2,
  });
  const own = await server.listenTcp('127.0.0.1', 0, { allowPlainText: true });
  const connect = (): ReturnType<typeof connectNbd> =>
    connectNbd({ address: { host: '127.0.0.1', port: own }, exportName: '', timers: systemTimers });
  const clients = [await connect(), await connect()];
  await t.rejects(connect(), 'a third one is refused');
  for (const client of clients) await client.close();
  await close(server);
});

t.test('socket activation is for this process only', async (t) => {
  t.equal(activatedSocket({ LISTEN_PID: '7', LISTEN_FDS: '1' }, 7), 3);
  t.equal(activatedSocket({ LISTEN_PID: '8', LISTEN_FDS: '1' }, 7), null);
  t.equal(activatedSocket({ LISTEN_PID: '7', LISTEN_FDS: '2' }, 7), null);
  t.equal(activatedSocket({}, 7), null);
});
