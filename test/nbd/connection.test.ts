/** What happens to requests when connections stall, break or are closed. */
import t from 'tap';
import { DvceError, KiB, MiB } from '../../src/base/index.ts';
import type { ReadDone } from '../../src/nbd/backend.ts';
import { MemoryBackend } from '../support/memory-backend.ts';
import { enter, readAnswer, request, startServer, until } from '../support/nbd-wire.ts';

const sizeBytes = 64 * MiB;
const write = (offset: number, payload: Buffer, cookie = 1n): Buffer =>
  request('compact', { type: 1, cookie, offset, length: payload.length, payload });

t.test(
  'B-35 everything acknowledged is there after DISC, close, RST and a half-written request',
  async (t) => {
    const backend = new MemoryBackend({ sizeBytes });
    const running = await startServer(backend);
    t.teardown(running.stop);
    const endings = ['disc', 'close', 'reset', 'half header', 'half payload'] as const;
    for (const [i, ending] of endings.entries()) {
      const client = await running.connectTcp();
      await enter(client, 'compact');
      const at = i * MiB;
      client.send(write(at, Buffer.alloc(8192, i + 1)));
      t.equal((await readAnswer(client, 'compact')).errno, 0);
      const torn = write(at + 4096, Buffer.alloc(200 * KiB, 0xee));
      if (ending === 'disc') client.send(request('compact', { type: 2 }));
      if (ending === 'half header') client.send(torn.subarray(0, 20));
      if (ending === 'half payload') client.send(torn.subarray(0, torn.length - 1));
      if (ending === 'reset') client.socket.resetAndDestroy();
      else if (ending !== 'disc') client.socket.end();
      await client.end();
      await until(() => running.server.connections.size === 0, 'the server let go');
      t.same(
        backend.content(at, 8192),
        Buffer.alloc(8192, i + 1),
        `${ending}: what was acknowledged`,
      );
      t.same(
        backend.content(at + 8192, 200 * KiB),
        Buffer.alloc(200 * KiB),
        `${ending}: nothing half applied`,
      );
    }
  },
);

t.test('DISC with requests in flight: they are finished', async (t) => {
  const backend = new MemoryBackend({ sizeBytes });
  const running = await startServer(backend);
  t.teardown(running.stop);
  const client = await running.connect();
  await enter(client, 'compact');
  backend.hold = true;
  client.send(
    Buffer.concat([
      write(0, Buffer.from('kept')),
      request('compact', { type: 2 }),
      write(0, Buffer.from('lost')),
    ]),
  );
  client.socket.end();
  await until(() => backend.heldCount === 1, 'one write in the backend');
  await new Promise((resolve) => setImmediate(resolve));
  backend.release();
  await client.end();
  t.equal(backend.content(0, 4).toString(), 'kept');
});

t.test('N6 requests of a dead connection are dropped, a resent write stays', async (t) => {
  const backend = new MemoryBackend({ sizeBytes });
  const running = await startServer(backend, { inFlightPerConnection: 2 });
  t.teardown(running.stop);
  const blocks = Array.from({ length: 40 }, (_, i) => i * 4096);
  const dying = await running.connect();
  await enter(dying, 'compact');
  backend.hold = true;
  // Two reach the backend and are held there; the others, more than one chunk of input, wait in the server.
  const old = Buffer.alloc(4096, 'old!');
  dying.send(Buffer.concat(blocks.map((at) => write(at, old))));
  await until(() => backend.heldCount === 2, 'two held');
  t.same(
    backend.options.map(({ origin }) => origin.alive),
    [true, true],
  );
  dying.socket.end();
  await until(() => backend.options[0]?.origin.alive === false, 'the end is seen behind the input');
  backend.hold = false;
  const again = await running.connect();
  await enter(again, 'compact');
  for (const at of blocks) {
    again.send(write(at, Buffer.from('new!')));
    t.equal((await readAnswer(again, 'compact')).errno, 0);
  }
  backend.release();
  t.ok(blocks.every((at) => backend.content(at, 8).toString() === 'new!\0\0\0\0'));
  t.equal(backend.options.length, 42, 'what waited in the server never reached the backend');
});

t.test('the export is released only after its last request left the backend', async (t) => {
  const backend = new MemoryBackend({ sizeBytes });
  let released = 0;
  const running = await startServer({
    open: async () => ({
      backend,
      release: () => {
        released += 1;
      },
    }),
    list: async () => [],
  });
  t.teardown(running.stop);
  const client = await running.connect();
  await enter(client, 'compact');
  backend.hold = true;
  client.send(write(0, Buffer.from('x')));
  await until(() => backend.heldCount === 1, 'held');
  client.socket.destroy();
  await until(() => backend.options[0]?.origin.alive === false, 'seen dead');
  const closed = running.server.close({ graceful: false });
  t.equal(released, 0);
  backend.release();
  await closed;
  t.equal(released, 1);
});

t.test('planned restart: what was read is answered, nothing else, no error', async (t) => {
  const backend = new MemoryBackend({ sizeBytes });
  const running = await startServer(backend, { inFlightPerConnection: 2 });
  t.teardown(running.stop);
  const client = await running.connect();
  await enter(client, 'compact');
  backend.hold = true;
  client.send(
    Buffer.concat([1, 2, 3, 4].map((i) => write(i * 512, Buffer.alloc(512, i), BigInt(i)))),
  );
  await until(() => backend.heldCount === 2, 'two held');
  const closed = running.server.close({ graceful: true });
  backend.hold = false;
  backend.release();
  const rest = await client.end();
  await closed;
  t.equal(
    rest.toString('hex'),
    '67446698000000000000000000000001' + '67446698000000000000000000000002',
  );
  t.equal(backend.flushes, 1);
  t.equal(backend.options.length, 2, 'the others are asked again after the restart');
});

t.test(
  'planned restart: a volume that closes under a request is no error for the guest',
  async (t) => {
    const backend = new MemoryBackend({ sizeBytes });
    const running = await startServer(backend);
    t.teardown(running.stop);
    const client = await running.connect();
    await enter(client, 'compact');
    backend.hold = true;
    backend.failures.set('write', new DvceError('VOLUME_CLOSED', { name: 'disk' }));
    client.send(write(0, Buffer.from('x')));
    await until(() => backend.heldCount === 1, 'held');
    const closed = running.server.close({ graceful: true });
    backend.release();
    t.equal((await client.end()).length, 0, 'closed without a reply');
    await closed;
  },
);

t.test('memory of a read is given back once, and not before its bytes have left', async (t) => {
  const memory = new MemoryBackend({ sizeBytes });
  const returned = new Map<number, number>();
  let asked = 0;
  // As the engine does: the memory is used for something else from that moment on.
  const backend = Object.create(memory, {
    read: {
      value: (offset: number, length: number, done: ReadDone) => {
        asked += 1;
        const bytes = Buffer.alloc(length, 1 + offset / MiB);
        done(null, [bytes], () => {
          returned.set(offset, (returned.get(offset) ?? 0) + 1);
          bytes.fill(0xee);
        });
      },
    },
  }) as MemoryBackend; // all but read is the backend's own
  const running = await startServer(backend);
  t.teardown(running.stop);
  const client = await running.connect();
  await enter(client, 'compact');
  const lengths = [MiB, 4 * KiB, 2 * MiB, 16 * KiB, 100 * KiB, 3 * MiB, 512];
  client.socket.pause();
  client.send(
    Buffer.concat(
      lengths.map((length, i) =>
        request('compact', { type: 0, cookie: BigInt(i), offset: i * 4 * MiB, length }),
      ),
    ),
  );
  await until(() => asked === lengths.length, 'all were asked of the backend');
  await new Promise((resolve) => setImmediate(resolve));
  t.ok(returned.size < lengths.length, 'what nobody has read yet is still lent');
  client.socket.resume();
  for (const [i, length] of lengths.entries()) {
    const answer = await readAnswer(client, 'compact', { offset: 0, length });
    t.ok(answer.content.equals(Buffer.alloc(length, 1 + i * 4)), `read ${i}`);
  }
  await until(() => returned.size === lengths.length, 'everything came back');
  t.same(
    [...returned.values()],
    lengths.map(() => 1),
  );
});

t.test('a slow reader is not read from any more, others go on', async (t) => {
  const backend = new MemoryBackend({ sizeBytes });
  backend.put(0, Buffer.alloc(MiB, 7));
  backend.record = true;
  const running = await startServer(backend, { bytesPerConnection: 4 * MiB });
  t.teardown(running.stop);
  const slow = await running.connect();
  await enter(slow, 'compact');
  slow.socket.pause();
  const wanted = 200;
  slow.send(
    Buffer.concat(
      Array.from({ length: wanted }, (_, i) =>
        request('compact', { type: 0, cookie: BigInt(i), length: MiB }),
      ),
    ),
  );
  let seen = -1;
  await until(() => {
    const same = seen === backend.calls.length && seen > 0;
    seen = backend.calls.length;
    return same;
  }, 'reading stops');
  const other = await running.connect();
  await enter(other, 'compact');
  other.send(request('compact', { type: 0, length: 512 }));
  t.equal((await readAnswer(other, 'compact', { offset: 0, length: 512 })).errno, 0);
  const inBackend = backend.calls.filter((call) => call.startsWith('read 0+1048576')).length;
  t.ok(inBackend < 20, `${inBackend} of ${wanted} MiB were read ahead of the client`);
  slow.socket.resume();
  for (let i = 0; i < wanted; i += 1) {
    const answer = await readAnswer(slow, 'compact', { offset: 0, length: MiB });
    if (answer.cookie !== BigInt(i) || answer.content[12345] !== 7) t.fail(`reply ${i}`);
  }
  t.pass('all replies arrive once it reads');
});

t.test('requests in flight are bounded by not reading further', async (t) => {
  const backend = new MemoryBackend({ sizeBytes });
  const running = await startServer(backend, { inFlightPerConnection: 8 });
  t.teardown(running.stop);
  const client = await running.connect();
  await enter(client, 'compact');
  backend.hold = true;
  const count = 100;
  client.send(
    Buffer.concat(
      Array.from({ length: count }, (_, i) => write(i * 512, Buffer.alloc(512, i), BigInt(i))),
    ),
  );
  await until(() => backend.heldCount === 8, 'eight in the backend');
  const done = (async () => {
    for (let i = 0; i < count; i += 1)
      t.equal((await readAnswer(client, 'compact')).cookie, BigInt(i));
  })();
  let most = 0;
  while (backend.options.length < count || backend.heldCount > 0) {
    most = Math.max(most, backend.heldCount);
    backend.release(1);
    await new Promise((resolve) => setImmediate(resolve));
  }
  await done;
  t.equal(most, 8);
  t.same(backend.content(99 * 512, 512), Buffer.alloc(512, 99));
});

t.test('payload handed to the backend stays as it is', async (t) => {
  const backend = new MemoryBackend({ sizeBytes });
  const kept: Buffer[] = [];
  const running = await startServer(
    Object.assign(Object.create(backend) as MemoryBackend, {
      sizeBytes,
      caps: backend.caps,
      write: (_offset: number, payload: Buffer, _options: unknown, done: (error: null) => void) => {
        kept.push(payload);
        done(null);
      },
      read: backend.read.bind(backend),
      flush: backend.flush.bind(backend),
    }),
  );
  t.teardown(running.stop);
  const client = await running.connect();
  await enter(client, 'compact');
  const lengths = [1, 7, 512, 4096, 5000, 16 * KiB, 16 * KiB + 1, 300 * KiB];
  for (let round = 0; round < 20; round += 1)
    for (const length of lengths) client.send(write(0, Buffer.alloc(length, round)));
  for (let i = 0; i < 20 * lengths.length; i += 1) await readAnswer(client, 'compact');
  for (const [i, payload] of kept.entries()) {
    const want = Buffer.alloc(
      lengths[i % lengths.length] as number,
      Math.floor(i / lengths.length),
    );
    if (!payload.equals(want)) t.fail(`payload ${i} changed`);
  }
  t.equal(kept.length, 20 * lengths.length);
});

t.test(
  'a flush on one connection covers completed writes of another; cookies may repeat',
  async (t) => {
    const backend = new MemoryBackend({ sizeBytes });
    const running = await startServer(backend);
    t.teardown(running.stop);
    const [a, b] = [await running.connect(), await running.connect()];
    await enter(a, 'compact');
    await enter(b, 'structured');
    a.send(Buffer.concat([write(0, Buffer.from('aa'), 5n), write(2, Buffer.from('bb'), 5n)]));
    t.equal((await readAnswer(a, 'compact')).cookie, 5n);
    t.equal((await readAnswer(a, 'compact')).cookie, 5n);
    b.send(request('structured', { type: 3 }));
    await readAnswer(b, 'structured');
    b.send(request('structured', { type: 0, length: 4 }));
    t.equal(
      (await readAnswer(b, 'structured', { offset: 0, length: 4 })).content.toString(),
      'aabb',
    );
  },
);

t.test('errors of the backend carry their text where the mode can', async (t) => {
  const backend = new MemoryBackend({ sizeBytes });
  const running = await startServer(backend);
  t.teardown(running.stop);
  const long = new DvceError('IO_FAILED', { what: 'ä'.repeat(5000), where: 'x', reason: 'y' });
  for (const mode of ['compact', 'structured', 'extended'] as const) {
    const client = await running.connect();
    await enter(client, mode);
    for (const [type, kind] of [
      [0, 'read'],
      [3, 'flush'],
      [4, 'trim'],
      [5, 'cache'],
    ] as const) {
      backend.failures.set(kind, long);
      client.send(request(mode, { type, length: type === 3 ? 0 : 512 }));
      const answer = await readAnswer(client, mode);
      t.equal(answer.errno, 5, `${mode} ${kind}`);
      const bytes = Buffer.byteLength(answer.text);
      t.ok(
        mode === 'compact'
          ? bytes === 0
          : bytes > 4090 && bytes <= 4096 && !answer.text.includes('\ufffd'),
      );
    }
  }
});
