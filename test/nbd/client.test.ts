/** The client as a BlockBackend against the server, in all modes, and against a server that misbehaves. */

import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import {
  type DvceError,
  MiB,
  seededRandom,
  systemClock,
  systemTimers,
} from '../../src/base/index.ts';
import {
  type BlockBackend,
  connectNbd,
  type Extent,
  type NbdClient,
  StatsBackend,
} from '../../src/nbd/index.ts';
import { MemoryBackend } from '../support/memory-backend.ts';
import { greetingHex, hex, startServer } from '../support/nbd-wire.ts';

const sizeBytes = 8 * MiB;
/** Short, for the limit of socket paths. */
const directory = mkdtempSync(join(tmpdir(), 'nbd-client-'));
t.teardown(() => rmSync(directory, { recursive: true, force: true }));
let sockets = 0;
function socketPath(): string {
  sockets += 1;
  return join(directory, String(sockets));
}
const options = { fua: false, noHole: false, origin: { alive: true } };

const settle = (act: (done: (error: DvceError | null) => void) => void): Promise<void> =>
  new Promise((resolve, reject) => act((error) => (error === null ? resolve() : reject(error))));
const readAll = (backend: BlockBackend, offset: number, length: number): Promise<Buffer> =>
  new Promise((resolve, reject) =>
    backend.read(offset, length, (error, parts) => {
      if (error !== null) reject(error);
      else
        resolve(
          Buffer.concat(
            parts.map((part) => (typeof part === 'number' ? Buffer.alloc(part) : part)),
          ),
        );
    }),
  );

const modes = {
  compact: { structured: false, extended: false },
  structured: { structured: true, extended: false },
  extended: { structured: true, extended: true },
} as const;
for (const [mode, wishes] of Object.entries(modes))
  t.test(`${mode}: random requests give the content of a plain buffer`, async (t) => {
    const running = await startServer(new MemoryBackend({ sizeBytes }));
    t.teardown(running.stop);
    const remote = await connectNbd({
      address: { path: running.path },
      exportName: '',
      timers: systemTimers,
      ...wishes,
    });
    t.equal(remote.facts.mode, mode);
    t.equal(remote.sizeBytes, sizeBytes);
    const random = seededRandom(11);
    const model = Buffer.alloc(sizeBytes);
    for (let i = 0; i < 150; i += 1) {
      const offset = random.below(sizeBytes - 100_000);
      const length = 1 + random.below(100_000);
      const kind = random.below(3);
      if (kind === 0) {
        const payload = Buffer.alloc(length, 1 + random.below(255));
        payload.copy(model, offset);
        await settle((done) =>
          remote.write(offset, payload, { ...options, fua: i % 2 === 0 }, done),
        );
      } else if (kind === 1) {
        model.fill(0, offset, offset + length);
        await settle((done) => remote.writeZeroes(offset, length, options, done));
      } else if (
        !(await readAll(remote, offset, length)).equals(model.subarray(offset, offset + length))
      )
        t.fail(`read ${i}`);
    }
    await settle((done) => remote.flush(done));
    await settle((done) => remote.trim(0, MiB, options, done));
    const extents = await new Promise<readonly Extent[]>((resolve, reject) =>
      remote.extents(0, MiB, (error, found) => (error === null ? resolve(found) : reject(error))),
    );
    t.equal(
      extents[0]?.hole,
      mode !== 'compact',
      'the trimmed range is a hole where it can be asked',
    );
    await t.rejects(readAll(remote, sizeBytes, 512), { code: 'INVALID_ARGUMENT' });
    await t.rejects(
      settle((done) => remote.write(sizeBytes, Buffer.alloc(1), options, done)),
      { code: 'NO_SPACE' },
    );
    await remote.close();
    await t.rejects(readAll(remote, 0, 1), { code: 'IO_FAILED' }, 'after close');
  });

t.test('B-48 the front end reports the size and passes every flush on', async (t) => {
  const backend = new StatsBackend(new MemoryBackend({ sizeBytes: 3 * MiB + 512 }), systemClock);
  const running = await startServer(backend);
  t.teardown(running.stop);
  const remote = await connectNbd({
    address: { path: running.path },
    exportName: '',
    timers: systemTimers,
  });
  t.equal(remote.sizeBytes, 3 * MiB + 512);
  await settle((done) => remote.write(0, Buffer.alloc(512, 1), options, done));
  const before = backend.stats.flush.requests;
  for (let i = 0; i < 3; i += 1) await settle((done) => remote.flush(done));
  t.equal(backend.stats.flush.requests, before + 3);
  await remote.close();
});

t.test('loss of the connection fails what is in flight and what follows', async (t) => {
  const backend = new MemoryBackend({ sizeBytes });
  const running = await startServer(backend);
  t.teardown(running.stop);
  const remote = await connectNbd({
    address: { path: running.path },
    exportName: '',
    timers: systemTimers,
  });
  backend.hold = true;
  const inFlight = readAll(remote, 0, 512);
  const closed = running.server.close({ graceful: false });
  await t.rejects(inFlight, { code: 'IO_FAILED' });
  backend.release();
  await closed;
  await t.rejects(readAll(remote, 0, 512), { code: 'IO_FAILED' });
  await t.rejects(
    connectNbd({ address: { path: running.path }, exportName: '', timers: systemTimers }),
    { code: 'IO_FAILED' },
  );
});

/** A server that answers the handshake and then says `answer` to the first request. */
async function liar(t: { teardown(end: () => void): void }, answer: string): Promise<NbdClient> {
  const path = socketPath();
  const ack = (number: string): string => `0003e889045565a9 ${number} 00000001 00000000`;
  const script: readonly [number, string][] = [
    [4 + 16, '0003e889045565a9 0000000b 80000001 00000000'],
    [16, ack('00000008')],
    [16 + 27, ack('0000000a')],
    [
      16 + 10,
      `0003e889045565a9 00000007 00000003 0000000c 0000 0000000000100000 00ed ${ack('00000007')}`,
    ],
    [28, answer],
  ];
  const accepted: Socket[] = [];
  const server = createServer((socket) => {
    accepted.push(socket);
    let step = 0;
    let received = 0;
    socket.write(hex(greetingHex));
    socket.on('error', () => {});
    socket.on('data', (bytes: Buffer) => {
      received += bytes.length;
      const [need, reply] = script[step] ?? [Number.POSITIVE_INFINITY, ''];
      if (received < need) return;
      received -= need;
      step += 1;
      socket.write(hex(reply));
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  t.teardown(() => {
    for (const socket of accepted) socket.destroy();
    server.close();
  });
  return connectNbd({ address: { path }, exportName: '', timers: systemTimers });
}

t.test('a server that breaks the protocol is never believed', async (t) => {
  const cookie = '0000000000000001';
  const lies: Record<string, string> = {
    'wrong magic': `deadbeef 00000000 ${cookie}`,
    'unknown cookie': '67446698 00000000 0000000000000099',
    'simple reply with content': `67446698 00000000 ${cookie} ${'00'.repeat(512)}`,
    'content before the request': `668e33ef 0001 0001 ${cookie} 0000000c 0000000000000000 01020304`,
    'content too long': `668e33ef 0001 0001 ${cookie} 00000209 0000000000000200 ${'01'.repeat(513)}`,
    'content missing': `668e33ef 0001 0001 ${cookie} 0000000c 0000000000000200 01020304`,
    'hole too long': `668e33ef 0001 0002 ${cookie} 0000000c 0000000000000200 00000201`,
    'error text beyond its chunk': `668e33ef 0001 8001 ${cookie} 00000006 00000005 0009`,
  };
  for (const [name, answer] of Object.entries(lies))
    await t.test(name, async (t) => {
      const remote = await liar(t, answer);
      await t.rejects(readAll(remote, 512, 512), { code: 'PROTOCOL' });
    });
  const honest = await liar(t, `668e33ef 0001 0002 ${cookie} 0000000c 0000000000000200 00000200`);
  t.same(await readAll(honest, 512, 512), Buffer.alloc(512), 'the script itself is sound');
});

t.test('a silent server is given up after the deadline', async (t) => {
  const path = socketPath();
  const server = createServer(() => {});
  await new Promise<void>((resolve) => server.listen(path, resolve));
  t.teardown(() => server.close());
  const timers = {
    ...systemTimers,
    after: (_delayMs: number, task: () => void) => systemTimers.after(20, task),
  };
  await t.rejects(connectNbd({ address: { path }, exportName: '', timers }), { code: 'TIMED_OUT' });
  const abort = new AbortController();
  const connecting = connectNbd({
    address: { path },
    exportName: '',
    timers: systemTimers,
    signal: abort.signal,
  });
  abort.abort();
  await t.rejects(connecting, { code: 'CANCELLED' });
});
