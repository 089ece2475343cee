/** Volumes of one thread share its turns: a flood on one does not keep the request of another waiting. */
import t, { type Test } from 'tap';
import { KiB, limits, MiB, systemTimers } from '../../src/base/index.ts';
import { ThreadTurns, type TurnShare } from '../../src/nbd/index.ts';
import { MemoryBackend } from '../support/memory-backend.ts';
import {
  enter,
  readAnswer,
  request,
  startServer,
  until,
  type WireClient,
} from '../support/nbd-wire.ts';

const read = 0;
const trim = 4;
const lengthBytes = 4 * KiB;

function shares(count: number) {
  const clock = { nowMs: 1000, wallMs: () => 0, monotonicMs: () => clock.nowMs };
  let turns: (() => void)[] = [];
  const timers = {
    after: () => ({ cancel: () => {} }),
    defer: (task: () => void) => void turns.push(task),
  };
  const thread = new ThreadTurns(clock, timers);
  const list = Array.from({ length: count }, () => thread.share());
  const turn = (): void => {
    const now = turns;
    turns = [];
    for (const task of now) task();
  };
  return { clock, list, turn, waiting: () => turns.length };
}

/** All are used, and counted. */
function useAll(clock: { nowMs: number }, list: readonly TurnShare[]): void {
  for (const share of list) share.begin();
  clock.nowMs += limits.turnCountMs;
  for (const share of list) share.begin();
}

t.test('a volume alone is not limited, whatever it does; beside another it is', async (t) => {
  const { clock, list, turn, waiting } = shares(3);
  const [a, b, c] = list as [TurnShare, TurnShare, TurnShare];
  useAll(clock, [a]);
  for (let i = 0; i < 100; i += 1) a.request(read, MiB);
  t.same([a.isUsedUp, waiting()], [false, 0]);
  useAll(clock, [a, b]);
  a.input(limits.turnBytes / 2);
  t.same([a.isUsedUp, b.isUsedUp, waiting()], [true, false, 1]);
  turn();
  t.equal(a.isUsedUp, false, 'the next turn');
  useAll(clock, [a, b, c]);
  a.input(limits.turnBytes / 2);
  turn();
  a.input(limits.turnBytes / 3);
  t.equal(a.isUsedUp, true, 'three share it');
  clock.nowMs += limits.turnUsedMs + 1;
  a.begin();
  t.equal(a.isUsedUp, false, 'the others did nothing for a second');
});

t.test('requests have a price, and many volumes still get on', async (t) => {
  const { clock, list, turn } = shares(50);
  const [a] = list as [TurnShare];
  useAll(clock, list);
  let requests = 0;
  while (!a.isUsedUp) {
    a.request(trim, 1024 * MiB);
    requests += 1;
  }
  t.equal(requests, 1, 'trims are limited, too');
  turn();
  for (requests = 0; !a.isUsedUp; requests += 1) a.request(read, lengthBytes);
  t.equal(requests, limits.turnBytesMin / (8 * KiB));
});

t.test('who had to stop goes on in turn, and nobody is forgotten', async (t) => {
  const { clock, list, turn, waiting } = shares(2);
  const [a] = list as [TurnShare];
  useAll(clock, list);
  const order: number[] = [];
  const connection = (id: number): void => {
    order.push(id);
    a.input(limits.turnBytes / 4);
    if (order.length < 12) a.wait(() => connection(id));
  };
  a.input(limits.turnBytes);
  for (const id of [1, 2, 3]) a.wait(() => connection(id));
  for (let i = 0; i < 20; i += 1) turn();
  t.same(order.slice(0, 12), [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3]);
  t.equal(waiting(), 0, 'and then it is quiet');
});

/** Two servers on this thread, and how many reads of A were served when the one of B came to its backend. */
async function flood(t: Test, isShared: boolean) {
  const clock = { nowMs: 1000, wallMs: () => 0, monotonicMs: () => clock.nowMs };
  const turns = new ThreadTurns(clock, systemTimers);
  const counts = { a: 0, aWhenB: -1 };
  const backends = ['a', 'b'].map(() => new MemoryBackend({ sizeBytes: 64 * MiB }));
  const [a, b] = backends as [MemoryBackend, MemoryBackend];
  const servers = await Promise.all(
    [a, b].map((backend) => startServer(backend, isShared ? { share: turns.share() } : {})),
  );
  for (const server of servers) t.teardown(server.stop);
  const [forA, forB] = servers as [(typeof servers)[0], (typeof servers)[0]];
  const clients: WireClient[] = [];
  for (let i = 0; i < 4; i += 1) clients.push(await forA.connect());
  const lone = await forB.connect();
  const one = request('compact', { type: read, cookie: 1n, offset: 0, length: lengthBytes });
  const asked = { offset: 0, length: lengthBytes };
  for (const client of [...clients, lone]) {
    await enter(client, 'compact');
    client.send(one);
    await readAnswer(client, 'compact', asked);
  }
  clock.nowMs += limits.turnCountMs;
  const [readA, readB] = [a.read.bind(a), b.read.bind(b)];
  a.read = (...args) => {
    counts.a += 1;
    readA(...args);
  };
  b.read = (...args) => {
    counts.aWhenB = counts.a;
    readB(...args);
  };
  const many = Buffer.concat(Array.from({ length: 150 }, () => one));
  for (const client of clients) client.send(many);
  lone.send(one);
  await readAnswer(lone, 'compact', asked);
  for (const client of clients)
    for (let i = 0; i < 150; i += 1) await readAnswer(client, 'compact', asked);
  return counts;
}

t.test('a request of a quiet volume waits for one share of a flooded one', async (t) => {
  const perTurn = limits.turnBytes / 2 / (8 * KiB);
  const { a, aWhenB } = await flood(t, true);
  t.equal(a, 600, 'all of them were served');
  t.ok(aWhenB <= 2 * perTurn + 2, `${aWhenB} of the flood before it`);
  const alone = await flood(t, false);
  t.ok(alone.aWhenB > 400, `without shares ${alone.aWhenB}: the test can fail`);
});

t.test('N6 the end of a dead connection is seen behind what waits for its turn', async (t) => {
  const clock = { nowMs: 1000, wallMs: () => 0, monotonicMs: () => clock.nowMs };
  const deferred: (() => void)[] = [];
  const turns = new ThreadTurns(clock, {
    ...systemTimers,
    defer: (task) => void deferred.push(task),
  });
  const backend = new MemoryBackend({ sizeBytes: MiB });
  const [share, other] = [turns.share(), turns.share()];
  const running = await startServer(backend, { share });
  t.teardown(running.stop);
  const dying = await running.connect();
  await enter(dying, 'compact');
  other.begin();
  share.begin();
  clock.nowMs += limits.turnCountMs;
  const write = (i: number): Buffer =>
    request('compact', {
      type: 1,
      cookie: BigInt(i),
      offset: i * lengthBytes,
      length: lengthBytes,
      payload: Buffer.alloc(lengthBytes, 'old!'),
    });
  dying.send(Buffer.concat(Array.from({ length: 40 }, (_, i) => write(i))));
  await until(() => deferred.length > 0, 'the share is used up');
  const before = backend.options.length;
  t.ok(before > 0 && before < 40, `${before} of 40 writes in the first turn`);
  dying.socket.end();
  await until(() => running.server.connections.size === 0, 'the end is seen');
  for (const task of deferred.splice(0)) task();
  t.equal(backend.options.length, before, 'nothing more of it reached the backend');
});

t.test('input that waits stays in order, however it was cut', async (t) => {
  const clock = { nowMs: 1000, wallMs: () => 0, monotonicMs: () => clock.nowMs };
  const turns = new ThreadTurns(clock, systemTimers);
  const backend = new MemoryBackend({ sizeBytes: 4 * MiB });
  const [share, other] = [turns.share(), turns.share()];
  const running = await startServer(backend, { share });
  t.teardown(running.stop);
  const client = await running.connect();
  await enter(client, 'compact');
  other.begin();
  share.begin();
  clock.nowMs += limits.turnCountMs;
  // Lengths that never end where a piece does.
  const payloads = Array.from({ length: 500 }, (_, i) => Buffer.alloc(700 + i, i));
  const places = payloads.map((_, i) => i * 4096);
  client.send(
    Buffer.concat(
      payloads.map((payload, i) => {
        const { length } = payload;
        return request('compact', { type: 1, offset: places[i] ?? 0, length, payload });
      }),
    ),
  );
  let failed = 0;
  for (const _ of payloads) failed += (await readAnswer(client, 'compact')).errno;
  t.equal(failed, 0);
  const isThere = (payload: Buffer, i: number): boolean =>
    backend.content(places[i] ?? 0, payload.length).equals(payload);
  t.ok(payloads.every(isThere), 'every byte at its place');
});
