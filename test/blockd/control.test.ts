/** The control protocol over a real socket: framing, limits, versions, cancel, progress, reconnects. */
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { DvceError, limits, silentLogger, systemTimers } from '../../src/base/index.ts';
import { type ControlHandlers, ControlServer } from '../../src/blockd/control-server.ts';
import { BlockdClient } from '../../src/blockd/index.ts';
import { decodeMessage, encodeMessage, LineSplitter } from '../../src/blockd/lines.ts';
import { checkParams, controlMethodNames } from '../../src/blockd/schemas.ts';

const refuse = (): Promise<never> =>
  Promise.reject(new DvceError('NOT_FOUND', { kind: 'volume', name: '/x' }));

/** Handlers that refuse everything, but for those given. */
function handlers(some: Partial<ControlHandlers>): ControlHandlers {
  const all = Object.fromEntries(controlMethodNames.map((name) => [name, refuse]));
  return { ...all, ...some } as ControlHandlers;
}

interface Rig {
  readonly socketPath: string;
  readonly server: ControlServer;
  readonly client: BlockdClient;
}

async function start(t: Test, some: Partial<ControlHandlers>, version?: number): Promise<Rig> {
  const directory = mkdtempSync('/tmp/dvce-control-');
  const socketPath = join(directory, 'c.sock');
  const server = new ControlServer({
    socketPath,
    handlers: handlers(some),
    logger: silentLogger,
    timers: systemTimers,
    release: '0.0.1',
    ...(version === undefined ? {} : { version }),
  });
  await server.listen();
  const client = new BlockdClient({ socketPath, timers: systemTimers });
  t.teardown(async () => {
    client.close();
    await server.close();
    rmSync(directory, { recursive: true, force: true });
  });
  return { socketPath, server, client };
}

/** A raw connection: what it sends is up to the test. */
class Raw {
  readonly socket: Socket;
  readonly lines: Record<string, unknown>[] = [];
  ended = false;
  #wake: () => void = () => {};

  constructor(socketPath: string) {
    const splitter = new LineSplitter('blockd');
    this.socket = createConnection(socketPath);
    this.socket.on('data', (chunk: Buffer) => {
      for (const line of splitter.push(chunk))
        this.lines.push({ ...decodeMessage(line, 'blockd') });
      this.#wake();
    });
    this.socket.on('error', () => {});
    this.socket.on('close', () => {
      this.ended = true;
      this.#wake();
    });
  }
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => (this.#wake = resolve));
  }
  send(...messages: object[]): void {
    this.socket.write(Buffer.concat(messages.map((message) => encodeMessage(message))));
  }
}

t.test('lines come out whole however the bytes arrive', async (t) => {
  const text = Buffer.from('{"a":"é"}\n{"b":2}\n\n{"c":3');
  for (let size = 1; size <= text.length; size += 1) {
    const splitter = new LineSplitter('x');
    const lines: string[] = [];
    for (let at = 0; at < text.length; at += size)
      lines.push(...splitter.push(text.subarray(at, at + size)));
    t.strictSame(lines, ['{"a":"é"}', '{"b":2}', '']);
  }
});

t.test('a line beyond the limit is refused before it is kept', async (t) => {
  const splitter = new LineSplitter('x', 10);
  t.strictSame(splitter.push(Buffer.from('0123456789\n')), ['0123456789']);
  t.throws(() => splitter.push(Buffer.from('01234567890\n')), { code: 'PROTOCOL' });
  const pieces = new LineSplitter('x', 10);
  pieces.push(Buffer.from('012345'));
  t.throws(() => pieces.push(Buffer.from('678901')), { code: 'PROTOCOL' });
  t.throws(() => encodeMessage({ text: 'x'.repeat(20) }, 10), { code: 'TOO_LARGE' });
  for (const bad of ['', '1', 'null', '[]', '{'])
    t.throws(() => decodeMessage(bad, 'x'), { code: 'PROTOCOL' });
});

t.test('results, errors and the mode of the socket', async (t) => {
  const { client, socketPath } = await start(t, {
    'volume.list': async ({ prefix }) => {
      throw new DvceError('NOT_FOUND', { kind: 'volume', name: String(prefix) });
    },
    'volume.delete': async () => ({ trash: null }),
  });
  t.equal(statSync(socketPath).mode & 0o777, 0o660);
  t.match(await client.hello(), { version: 1, release: '0.0.1', pid: process.pid });
  t.strictSame(await client.call('volume.delete', { path: '/a' }), { trash: null });
  await t.rejects(client.call('volume.list', { prefix: '/p' }), {
    code: 'NOT_FOUND',
    message: 'volume /p does not exist',
    advice: 'List what exists with: dvce volume list',
  });
});

t.test('params are checked before a handler sees them', async (t) => {
  const { client, socketPath } = await start(t, {});
  const bad: readonly [string, unknown][] = [
    ['volume.create', { path: '/a' }],
    ['volume.create', { path: '/a', sizeBytes: -1 }],
    ['volume.create', { path: '/a', sizeBytes: 1.5 }],
    ['volume.create', { path: '/a', sizeBytes: 1048576, blockBytes: 1024 }],
    ['volume.create', { path: '/a', sizeBytes: 1048576, blokBytes: 512 }],
    ['volume.create', { path: 'x'.repeat(2000), sizeBytes: 1048576 }],
    ['volume.attach', { path: '/a', attachId: 'a b', vm: 'v' }],
    ['image.publish', { path: '/a', digest: 'md5:1', source: '', format: 'raw', sourceBytes: 1 }],
    ['snapshot.diff', { path: '/a', from: 'a' }],
    ['volume.update', { path: '/a', labels: { 'bad key': 'x' } }],
    ['shutdown', {}],
    ['status', { more: 1 }],
    ['status', []],
  ];
  const raw = new Raw(socketPath);
  raw.send({ id: 1, method: 'hello', params: { version: 1 } });
  raw.send(...bad.map(([method, params], index) => ({ id: 10 + index, method, params })));
  await raw.until(() => raw.lines.length === bad.length + 1);
  for (const line of raw.lines.slice(1))
    t.match(line, { error: { code: 'INVALID_ARGUMENT' } }, JSON.stringify(line));
  raw.send(
    { id: 50, method: 'volume.explode', params: {} },
    { id: 51, method: 'toString', params: {} },
  );
  await raw.until(() => raw.lines.length === bad.length + 3);
  t.match(raw.lines.at(-1), { error: { code: 'UNSUPPORTED' } });
  t.match(raw.lines.at(-2), { error: { code: 'UNSUPPORTED' } });
  raw.socket.destroy();
  await t.rejects(client.call('volume.get', { path: '/x' }), { code: 'NOT_FOUND' });
  t.throws(() => checkParams('volume.get', undefined), { code: 'INVALID_ARGUMENT' });
});

t.test('nothing is answered before hello; broken framing ends the connection', async (t) => {
  const { socketPath } = await start(t, { status: refuse });
  const early = new Raw(socketPath);
  early.send({ id: 1, method: 'status', params: {} });
  await early.until(() => early.lines.length === 1);
  t.match(early.lines[0], { id: 1, error: { code: 'PROTOCOL' } });
  early.socket.destroy();
  for (const text of [
    'no json\n',
    '[]\n',
    '{"id":"1","method":"hello"}\n',
    '{"method":"hello"}\n',
  ]) {
    const raw = new Raw(socketPath);
    raw.socket.write(text);
    await raw.until(() => raw.ended);
    t.match(raw.lines, [{ id: 0, error: { code: 'PROTOCOL' } }], text);
  }
  const large = new Raw(socketPath);
  large.socket.write(Buffer.alloc(limits.controlMessageBytesMax + 1, 0x20));
  await large.until(() => large.ended);
  t.pass('a message beyond the limit ends the connection');
});

t.test('versions: each side speaks its own and the one before', async (t) => {
  // [server, client, works]
  const cases: readonly [number, number, boolean][] = [
    [1, 1, true],
    [2, 1, true],
    [1, 2, true],
    [3, 1, false],
    [1, 3, false],
    [5, 4, true],
  ];
  for (const [serverVersion, clientVersion, works] of cases) {
    const { socketPath } = await start(t, {}, serverVersion);
    const client = new BlockdClient({ socketPath, timers: systemTimers, version: clientVersion });
    const name = `server ${serverVersion}, client ${clientVersion}`;
    if (works) {
      t.equal((await client.hello()).version, Math.min(serverVersion, clientVersion), name);
      await t.rejects(client.call('status', {}), { code: 'NOT_FOUND' }, name);
    } else await t.rejects(client.call('status', {}), { code: 'UNSUPPORTED' }, name);
    client.close();
  }
});

t.test('cancel, deadline and progress', async (t) => {
  const aborted: string[] = [];
  const { client } = await start(t, {
    'volume.check': ({ path }, { signal, progress }) => {
      progress({ done: '1', total: '2', unit: 'bytes' });
      return new Promise((_, reject) =>
        signal.addEventListener('abort', () => {
          aborted.push(path);
          reject(signal.reason);
        }),
      );
    },
    status: refuse,
  });
  const controller = new AbortController();
  const seen: object[] = [];
  const call = client.call(
    'volume.check',
    { path: '/one' },
    {
      signal: controller.signal,
      onProgress: (progress) => {
        seen.push(progress);
        controller.abort();
      },
    },
  );
  await t.rejects(call, { code: 'CANCELLED' });
  t.strictSame(seen, [{ done: '1', total: '2', unit: 'bytes' }]);
  await t.rejects(client.call('volume.check', { path: '/two' }, { timeoutMs: 20 }), {
    code: 'TIMED_OUT',
  });
  await t.rejects(client.call('volume.check', { path: '/no' }, { signal: controller.signal }), {
    code: 'CANCELLED',
  });
  // The connection still works, and by the order of lines both cancels have arrived.
  await t.rejects(client.call('status', {}), { code: 'NOT_FOUND' });
  t.strictSame(aborted, ['/one', '/two']);
});

t.test('requests at a time are bounded; a cancel gets through a full connection', async (t) => {
  let running = 0;
  let most = 0;
  const release: (() => void)[] = [];
  const { socketPath, server } = await start(t, {
    'volume.get': (_, { signal }) => {
      running += 1;
      most = Math.max(most, running);
      return new Promise((_, reject) => {
        const end = (): void => {
          running -= 1;
          reject(new DvceError('NOT_FOUND', { kind: 'volume', name: 'x' }));
        };
        signal.addEventListener('abort', end);
        release.push(end);
      });
    },
  });
  const raw = new Raw(socketPath);
  const count = limits.controlInFlightMax + 20;
  raw.send({ id: 1, method: 'hello', params: { version: 1 } });
  for (let id = 2; id < 2 + count; id += 1)
    raw.send({ id, method: 'volume.get', params: { path: '/x' } });
  // The last one waits and the first one runs: both are cancelled although no request may start.
  raw.send({ cancel: 1 + count }, { cancel: 2 });
  await raw.until(() => raw.lines.length >= 3);
  t.match(raw.lines.map((line) => line['id']).sort(), [1, 1 + count, 2].sort());
  t.equal(most, limits.controlInFlightMax);
  while (raw.lines.length < 1 + count) {
    for (const end of release.splice(0)) end();
    const before = raw.lines.length;
    if (before < 1 + count) await raw.until(() => raw.lines.length > before);
  }
  t.equal(most, limits.controlInFlightMax, 'never more at a time');
  raw.socket.destroy();
  await raw.until(() => raw.ended);
  t.equal(server.connections <= 1, true);
});

t.test('an answer that is too long is an error, and the connection goes on', async (t) => {
  const { client } = await start(t, {
    'snapshot.list': async () => ({
      snapshots: Array(100_000).fill({ name: 'x'.repeat(60) }),
      next: null,
    }),
  });
  await t.rejects(client.call('snapshot.list', { path: '/a' }), { code: 'TOO_LARGE' });
  await t.rejects(client.call('status', {}), { code: 'NOT_FOUND' });
});

t.test(
  'a lost connection fails what is under way with BLOCKD_UNAVAILABLE; the next call reconnects',
  async (t) => {
    const { client, server, socketPath } = await start(t, {
      'volume.get': () => new Promise(() => {}),
      status: refuse,
    });
    await t.rejects(client.call('status', {}), { code: 'NOT_FOUND' });
    const hanging = client.call('volume.get', { path: '/x' });
    const lost = t.rejects(hanging, { code: 'BLOCKD_UNAVAILABLE', exitCode: 2 });
    await server.close();
    await lost;
    await t.rejects(client.call('status', {}), { code: 'BLOCKD_UNAVAILABLE' });
    const again = new ControlServer({
      socketPath,
      handlers: handlers({}),
      logger: silentLogger,
      timers: systemTimers,
      release: '0.0.2',
    });
    await again.listen();
    t.match(await client.hello(), { release: '0.0.2' });
    await again.close();
  },
);
