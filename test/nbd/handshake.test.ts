/** The option phase: refusals, state, limits. TLS has a file of its own. */
import t from 'tap';
import { DvceError, limits } from '../../src/base/index.ts';
import type { ExportProvider } from '../../src/nbd/index.ts';
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
  text,
  until,
  type WireClient,
} from '../support/nbd-wire.ts';

const UNSUP = 0x80000001;
const POLICY = 0x80000002;
const INVALID = 0x80000003;
const UNKNOWN = 0x80000006;
const SHUTDOWN = 0x80000007;
const TOO_BIG = 0x80000009;
const EXT_HEADER_REQD = 0x8000000a;

interface Counted extends ExportProvider {
  opened: number;
  released: number;
}

function twoExports(): Counted {
  const backend = new MemoryBackend({ sizeBytes: 1 << 20 });
  const provider: Counted = {
    opened: 0,
    released: 0,
    async open(name) {
      if (name === 'locked')
        return new DvceError('IN_USE', { kind: 'volume', name, reason: 'VM web runs on it' });
      if (name !== 'a' && name !== 'b') return new DvceError('NOT_FOUND', { kind: 'volume', name });
      provider.opened += 1;
      return {
        backend,
        release: async () => {
          provider.released += 1;
        },
      };
    },
    list: async () => [{ name: 'a' }, { name: 'b' }],
  };
  return provider;
}

async function greeted({ connect }: RunningServer): Promise<WireClient> {
  const client = await connect();
  await client.read(18);
  client.send(clientFlagsHex);
  return client;
}
const types = (replies: readonly { type: number }[]): number[] => replies.map(({ type }) => type);
const INFO_ACK = [3, 3, 1];

t.test('refusals are answers with text, and the connection goes on', async (t) => {
  const provider = twoExports();
  const running = await startServer(provider);
  t.teardown(running.stop);
  const client = await greeted(running);
  const one = async (number: number, data: Buffer | string = ''): Promise<number> =>
    (await ask(client, number, data)).at(-1)?.type ?? 0;
  t.equal(await one(77, Buffer.alloc(5000)), UNSUP, 'unknown option, its data consumed');
  t.equal(await one(3, 'aa'), INVALID, 'LIST with data');
  t.equal(await one(5, ''), POLICY, 'STARTTLS without TLS configured');
  t.equal(await one(5, '00'), INVALID, 'STARTTLS with data');
  t.equal(await one(7, ''), INVALID, 'GO without data');
  t.equal(await one(7, '00000005 61'), INVALID, 'GO: name longer than the data');
  t.equal(await one(7, '00000001 61 0001'), INVALID, 'GO: fewer requests than said');
  t.equal(await one(7, '00000001 61 0000 00'), INVALID, 'GO: bytes left over');
  t.equal(await one(7, '00000001 00 0000'), INVALID, 'GO: NUL in the name');
  t.equal(await one(7, '00000002 c328 0000'), INVALID, 'GO: no UTF-8');
  t.equal(await one(7, infoData('nowhere')), UNKNOWN);
  const [locked] = await ask(client, 7, infoData('locked'));
  t.equal(locked?.type, POLICY);
  t.equal(
    locked?.body.toString(),
    'volume locked is in use: VM web runs on it',
    'the reason reaches the client',
  );
  t.equal(await one(8, '01'), INVALID, 'STRUCTURED_REPLY with data');
  t.equal(await one(11, '01'), INVALID, 'EXTENDED_HEADERS with data');
  t.equal(
    await one(10, contextData('a', [])),
    INVALID,
    'SET_META_CONTEXT before structured replies',
  );
  t.equal(await one(77, Buffer.alloc(limits.nbdOptionBytesMax + 1)), TOO_BIG, 'too long: drained');
  t.equal(await one(8), 1);
  t.equal(await one(8), INVALID, 'a second STRUCTURED_REPLY');
  t.equal(
    await one(10, `${text('a').toString('hex')} 00000001 000000ff 61`),
    INVALID,
    'query beyond the data',
  );
  t.equal(await one(10, contextData('nowhere', [])), UNKNOWN);
  t.equal(
    await one(
      9,
      contextData(
        'a',
        Array.from({ length: 65 }, () => 'base:x'),
      ),
    ),
    TOO_BIG,
  );
  t.equal(await one(11), 1);
  t.equal(await one(11), INVALID, 'a second EXTENDED_HEADERS');
  t.equal(await one(8), EXT_HEADER_REQD, 'STRUCTURED_REPLY after EXTENDED_HEADERS');
  t.same(
    types(await ask(client, 6, infoData('a', [3, 3, 99]))),
    INFO_ACK,
    'unknown and double infos',
  );
  t.same(types(await ask(client, 7, infoData('a'))), INFO_ACK, 'and GO still works');
});

t.test(
  'INFO then GO give the same answers; one export is opened once and released once',
  async (t) => {
    const provider = twoExports();
    const running = await startServer(provider);
    t.teardown(running.stop);
    const client = await greeted(running);
    await ask(client, 8);
    await ask(client, 10, contextData('a', ['base:allocation']));
    const info = await ask(client, 6, infoData('a', [3]));
    const go = await ask(client, 7, infoData('a', [3]));
    t.same(
      go.map(({ body }) => body),
      info.map(({ body }) => body),
    );
    t.equal(provider.opened, 1);
    t.equal(provider.released, 0);
    client.socket.destroy();
    await until(() => provider.released === 1, 'released');
  },
);

t.test('metadata contexts: selection, replacement, other export', async (t) => {
  const running = await startServer(twoExports());
  t.teardown(running.stop);
  const outcome = async (...steps: [number, Buffer][]): Promise<number> => {
    const client = await greeted(running);
    await ask(client, 8);
    for (const [number, data] of steps) await ask(client, number, data);
    await ask(client, 7, infoData('a'));
    client.send(request('structured', { type: 7, length: 512 }));
    return (await client.read(20)).readUInt16BE(6);
  };
  const ok = 5;
  const error = 0x8001;
  const set = (name: string, ...queries: string[]): [number, Buffer] => [
    10,
    contextData(name, queries),
  ];
  t.equal(await outcome(set('a', 'base:allocation')), ok);
  t.equal(await outcome(set('a', 'x:y', 'base:allocation')), ok, 'unknown namespaces are ignored');
  t.equal(await outcome(), error, 'nothing selected');
  t.equal(await outcome(set('a')), error, 'no query selects nothing');
  t.equal(await outcome(set('a', 'base:')), error, 'no wildcard in SET');
  t.equal(await outcome(set('b', 'base:allocation')), error, 'selected for another export');
  t.equal(
    await outcome(set('a', 'base:allocation'), set('nowhere', 'base:allocation')),
    error,
    'a failed SET replaces too',
  );
  t.equal(
    await outcome(set('a', 'base:allocation'), [10, hex('00')]),
    error,
    'a malformed SET replaces too',
  );
  const client = await greeted(running);
  t.same(types(await ask(client, 9, contextData('a', ['base:']))), [4, 1], 'wildcard in LIST');
  t.same(types(await ask(client, 9, contextData('a', ['base:none']))), [1]);
});

t.test('hard disconnects', async (t) => {
  const running = await startServer(twoExports());
  t.teardown(running.stop);
  const dropped = async (bytes: Buffer, name: string): Promise<void> => {
    const client = await running.connect();
    await client.read(18);
    client.send(bytes);
    await client.end();
    t.pass(name);
  };
  const flags = hex(clientFlagsHex);
  await dropped(hex('00000007'), 'a client flag not offered');
  await dropped(hex('80000003'), 'an unknown client flag');
  await dropped(Buffer.concat([flags, Buffer.alloc(16)]), 'wrong option magic');
  await dropped(
    Buffer.concat([flags, option(1, Buffer.from('nowhere'))]),
    'EXPORT_NAME of an unknown export',
  );
  await dropped(
    Buffer.concat([flags, option(11), option(1, Buffer.from('a'))]),
    'EXPORT_NAME after EXTENDED_HEADERS',
  );
  await dropped(Buffer.concat([hex('00000000'), option(3)]), 'an option without fixed newstyle');
  await dropped(
    Buffer.concat([flags, hex('49484156454f5054 0000004d 00200000')]),
    'absurd option length',
  );
  const many = Array.from({ length: limits.nbdOptionsMax + 1 }, () => option(77));
  await dropped(Buffer.concat([flags, ...many]), 'too many options');
});

t.test('deadline and number of half-open connections', async (t) => {
  const tasks: (() => void)[] = [];
  const timers = {
    after: (_delayMs: number, task: () => void) => {
      tasks.push(task);
      return { cancel: () => void tasks.splice(tasks.indexOf(task), 1) };
    },
    defer: (task: () => void) => void setImmediate(task),
  };
  const running = await startServer(twoExports(), { timers });
  t.teardown(running.stop);
  const silent = await running.connect();
  await silent.read(18);
  t.equal(tasks.length, 1);
  tasks[0]?.();
  await silent.end();
  const chosen = await greeted(running);
  await ask(chosen, 7, infoData('a'));
  t.equal(tasks.length, 0, 'no deadline once an export is chosen');
  const clients: WireClient[] = [];
  for (let i = 0; i < limits.nbdHalfOpenMax + 1; i += 1) clients.push(await running.connect());
  await clients[0]?.end();
  t.equal(clients[1]?.closed, false, 'only the oldest made room');
  chosen.send(request('compact', { type: 3 }));
  t.equal((await chosen.read(16)).readUInt32BE(4), 0, 'the one in use is untouched');
});

t.test(
  'shutting down: ERR_SHUTDOWN for options while others finish, ABORT still works',
  async (t) => {
    const backend = new MemoryBackend({ sizeBytes: 1 << 20 });
    const running = await startServer(backend);
    t.teardown(running.stop);
    const busy = await greeted(running);
    await ask(busy, 7, infoData(''));
    backend.hold = true;
    busy.send(request('compact', { type: 1, length: 2, payload: Buffer.from('ab') }));
    await until(() => backend.heldCount === 1, 'the write is in the backend');
    const late = await greeted(running);
    t.equal((await ask(late, 77)).at(-1)?.type, UNSUP);
    const closed = running.server.close({ graceful: true });
    t.equal((await ask(late, 7, infoData(''))).at(-1)?.type, SHUTDOWN);
    late.send(option(2));
    t.equal((await readReply(late)).type, 1);
    backend.hold = false;
    backend.release();
    t.equal((await busy.read(16)).readUInt32BE(4), 0, 'what was read is answered');
    await busy.end();
    await closed;
    t.equal(backend.content(0, 2).toString(), 'ab');
    t.equal(backend.flushes, 1, 'made stable');
  },
);
