/** The QMP client against a hypervisor whose every word is scripted. */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { type DvceError, limits, systemTimers } from '../../src/base/index.ts';
import { QmpClient, type QmpEvent } from '../../src/vm/qmp.ts';

interface Command {
  execute: string;
  id: number;
}

interface Scripted {
  readonly path: string;
  readonly commands: string[];
  readonly sockets: Socket[];
  /** What is said to each command; undefined: nothing. */
  answer: (command: Command) => string | undefined;
  greeting: string | null;
}

const greeting = '{"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": ["oob"]}}\r\n';

async function scripted(t: Test): Promise<Scripted> {
  const directory = mkdtempSync('/tmp/dvce-qmp-');
  const script: Scripted = {
    path: join(directory, 'q.sock'),
    commands: [],
    sockets: [],
    answer: ({ id }) => `{"return": {}, "id": ${id}}\r\n`,
    greeting,
  };
  const server: Server = createServer((socket) => {
    script.sockets.push(socket);
    socket.on('error', () => {}); // the client hangs up in the middle of some tests
    if (script.greeting !== null) socket.write(script.greeting);
    let rest = '';
    socket.on('data', (bytes: Buffer) => {
      const lines = (rest + bytes.toString()).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        const command = JSON.parse(line) as Command;
        script.commands.push(command.execute);
        const answer = script.answer(command);
        if (answer !== undefined) socket.write(answer);
      }
    });
  });
  await new Promise<void>((listening) => server.listen(script.path, listening));
  t.teardown(() => {
    for (const socket of script.sockets) socket.destroy();
    server.close();
    rmSync(directory, { recursive: true, force: true });
  });
  return script;
}

interface Connected {
  readonly client: QmpClient;
  readonly events: QmpEvent[];
  readonly closed: Promise<DvceError>;
}

async function connect(t: Test, script: Scripted): Promise<Connected> {
  const events: QmpEvent[] = [];
  const ended = Promise.withResolvers<DvceError>();
  const client = await QmpClient.connect({
    path: script.path,
    vm: 'guest',
    timers: systemTimers,
    connectMs: 2000,
    onEvent: (event) => events.push(event),
    onClose: ended.resolve,
  });
  t.teardown(() => client.close());
  return { client, events, closed: ended.promise };
}

const status = (id: number, word: string): string =>
  `{"return": {"status": "${word}", "running": true}, "id": ${id}}\r\n`;

t.test('the handshake comes first, answers go to who asked', async (t) => {
  const script = await scripted(t);
  script.answer = ({ execute, id }) => {
    if (execute === 'query-status') return undefined; // answered below, in the other order
    return `{"return": {}, "id": ${id}}\r\n`;
  };
  const { client, events } = await connect(t, script);
  t.same(script.commands, ['qmp_capabilities']);
  const first = client.execute('query-status');
  const second = client.execute('query-status');
  await client.execute('cont');
  const [socket] = script.sockets;
  // Out of order, two messages and an event in one chunk, one message in two.
  socket?.write(`${status(3, 'paused')}{"event": "STOP", "timestamp": {"seconds": 1}}\r\n{"retu`);
  socket?.write('rn": {"status": "running", "running": true}, "id": 2}\r\n');
  t.match(await first, { status: 'running' });
  t.match(await second, { status: 'paused' });
  t.same(events, [{ event: 'STOP', data: {} }]);
});

t.test('an error of the hypervisor names VM, command and reason', async (t) => {
  const script = await scripted(t);
  const { client } = await connect(t, script);
  script.answer = ({ id }) =>
    `{"error": {"class": "GenericError", "desc": "Resetting is required"}, "id": ${id}}\r\n`;
  await t.rejects(client.execute('cont'), {
    code: 'HYPERVISOR_FAILED',
    message: /VM guest.*cont: Resetting is required/,
  });
});

t.test('an answer of an unknown form is refused', async (t) => {
  const script = await scripted(t);
  const { client } = await connect(t, script);
  script.answer = ({ id }) => `{"return": {"status": 7}, "id": ${id}}\r\n`;
  await t.rejects(client.execute('query-status'), { code: 'PROTOCOL' });
});

t.test(
  'a command that is not answered ends at its deadline, and a late answer is dropped',
  async (t) => {
    const script = await scripted(t);
    const { client } = await connect(t, script);
    script.answer = () => undefined;
    await t.rejects(client.execute('query-status', 30), { code: 'TIMED_OUT' });
    script.sockets[0]?.write(status(2, 'running'));
    script.answer = ({ id }) => status(id, 'io-error');
    t.match(await client.execute('query-status'), { status: 'io-error' });
  },
);

t.test('when the connection ends, waiting commands fail and later ones are refused', async (t) => {
  const script = await scripted(t);
  const { client, closed } = await connect(t, script);
  script.answer = () => undefined;
  const waiting = client.execute('query-status');
  script.sockets[0]?.destroy();
  await t.rejects(waiting, { code: 'PROTOCOL' });
  t.match(await closed, { code: 'PROTOCOL' });
  t.equal(client.open, false);
  await t.rejects(client.execute('cont'), { code: 'PROTOCOL' });
});

t.test('closing tells nobody and refuses later commands', async (t) => {
  const script = await scripted(t);
  const { client, closed } = await connect(t, script);
  client.close();
  await t.rejects(client.execute('cont'), { code: 'HYPERVISOR_FAILED' });
  const told = await Promise.race([
    closed.then(() => true),
    new Promise((done) => setTimeout(done, 50, false)),
  ]);
  t.equal(told, false);
});

t.test('at most so many commands wait at once', async (t) => {
  const script = await scripted(t);
  const { client } = await connect(t, script);
  script.answer = () => undefined;
  const waiting = Array.from({ length: limits.qmpInFlightMax }, () => client.execute('cont'));
  await t.rejects(client.execute('cont'), { message: /too many/ });
  script.sockets[0]?.destroy();
  for (const command of waiting) await t.rejects(command);
});

const connectQuickly = (path: string): Promise<QmpClient> =>
  QmpClient.connect({
    path,
    vm: 'guest',
    timers: systemTimers,
    connectMs: 100,
    onEvent: () => {},
    onClose: () => {},
  });

t.test('no greeting: the deadline ends it', async (t) => {
  const script = await scripted(t);
  script.greeting = null;
  await t.rejects(connectQuickly(script.path), { code: 'TIMED_OUT' });
});

t.test('a peer that hangs up instead of greeting', async (t) => {
  const script = await scripted(t);
  script.greeting = null;
  const connecting = connectQuickly(script.path);
  while (script.sockets.length === 0) await new Promise((turn) => setImmediate(turn));
  script.sockets[0]?.end();
  await t.rejects(connecting, { code: 'PROTOCOL' });
});

t.test('nobody listens', async (t) => {
  await t.rejects(connectQuickly(`/tmp/dvce-none-${process.pid}.sock`), {
    code: 'PROTOCOL',
    message: /ENOENT/,
  });
});

for (const [what, bytes] of [
  ['text', 'hello\r\n'],
  ['a number', '7\r\n'],
  ['half an object', '{"event": \r\n'],
] as const)
  t.test(`a line that is no object ends the connection: ${what}`, async (t) => {
    const script = await scripted(t);
    const { closed } = await connect(t, script);
    script.sockets[0]?.write(bytes);
    t.match(await closed, { code: 'PROTOCOL', message: /no JSON object/ });
  });

t.test('a message without an end is not kept', async (t) => {
  const script = await scripted(t);
  const { closed } = await connect(t, script);
  const block = Buffer.alloc(1024 * 1024, 'x');
  const blocks = limits.qmpMessageBytesMax / block.length + 1;
  for (let sent = 0; sent < blocks; sent += 1) script.sockets[0]?.write(block);
  t.match(await closed, { code: 'PROTOCOL', message: /too long/ });
});

t.test('unknown messages, keys and events of a newer hypervisor are no error', async (t) => {
  const script = await scripted(t);
  const { client, events } = await connect(t, script);
  script.sockets[0]?.write('{"news": 1}\r\n\r\n{"event": "NEVER_SEEN", "data": {"a": [1]}}\r\n');
  t.match(await client.execute('cont'), {});
  t.same(events, [{ event: 'NEVER_SEEN', data: { a: [1] } }]);
});
