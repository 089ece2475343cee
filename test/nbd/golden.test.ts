/** Byte transcripts of options and commands, both directions, written from the protocol text. */
import t from 'tap';
import { MemoryBackend } from '../support/memory-backend.ts';
import {
  clientFlagsHex,
  contextData,
  enter,
  greetingHex,
  hex,
  infoData,
  type Mode,
  option,
  request,
  startServer,
  text,
  type WireClient,
} from '../support/nbd-wire.ts';

const sizeBytes = 0x0123_4567_8000; // needs both words of an offset

async function expectBytes(
  t: { equal(found: string, wanted: string, message: string): boolean },
  client: WireClient,
  expected: string,
  name: string,
): Promise<void> {
  const bytes = hex(expected);
  t.equal((await client.read(bytes.length)).toString('hex'), bytes.toString('hex'), name);
}

const ack = (number: string): string => `0003e889045565a9 ${number} 00000001 00000000`;

t.test('options', async (t) => {
  const backend = new MemoryBackend({ sizeBytes });
  const { connect, stop } = await startServer({
    open: async () => ({ backend, name: 'disk', description: 'two words', release: () => {} }),
    list: async () => [{ name: 'disk', description: 'two words' }, { name: 'b' }],
  });
  t.teardown(stop);
  const client = await connect();
  await expectBytes(t, client, greetingHex, 'greeting');
  client.send(clientFlagsHex);

  client.send(option(3));
  await expectBytes(
    t,
    client,
    `0003e889045565a9 00000003 00000002 00000011 00000004 6469736b 74776f20776f726473
     0003e889045565a9 00000003 00000002 00000005 00000001 62 ${ack('00000003')}`,
    'LIST',
  );
  client.send(option(6, infoData('disk', [3, 2, 1])));
  // flags: HAS_FLAGS FLUSH FUA TRIM WRITE_ZEROES MULTI_CONN FAST_ZERO
  const info = (number: string, flags: string): string => `
    0003e889045565a9 ${number} 00000003 0000000c 0000 0000012345678000 ${flags}
    0003e889045565a9 ${number} 00000003 00000006 0001 6469736b
    0003e889045565a9 ${number} 00000003 0000000b 0002 74776f20776f726473
    0003e889045565a9 ${number} 00000003 0000000e 0003 00000001 00001000 02000000 ${ack(number)}`;
  await expectBytes(t, client, info('00000006', '096d'), 'INFO, compact flags');
  client.send(option(8));
  await expectBytes(t, client, ack('00000008'), 'STRUCTURED_REPLY');
  client.send(option(9, contextData('disk', [])));
  await expectBytes(
    t,
    client,
    `0003e889045565a9 00000009 00000004 00000013 00000000 626173653a616c6c6f636174696f6e ${ack('00000009')}`,
    'LIST_META_CONTEXT: id 0',
  );
  client.send(option(10, contextData('disk', ['base:allocation', 'other:x', 'base:'])));
  await expectBytes(
    t,
    client,
    `0003e889045565a9 0000000a 00000004 00000013 00000001 626173653a616c6c6f636174696f6e ${ack('0000000a')}`,
    'SET_META_CONTEXT',
  );
  client.send(option(4, 'deadbeef'));
  const unsupported = '74686973206f7074696f6e206973206e6f7420737570706f72746564';
  await expectBytes(
    t,
    client,
    `0003e889045565a9 00000004 80000001 0000001c ${unsupported}`,
    'unknown option',
  );
  client.send(option(11));
  await expectBytes(t, client, ack('0000000b'), 'EXTENDED_HEADERS');
  client.send(option(10, contextData('disk', ['base:allocation'])));
  await client.read(20 + 19 + 20);
  client.send(option(7, infoData('disk', [3, 2, 1])));
  // DF and BLOCK_STATUS_PAYLOAD join
  await expectBytes(t, client, info('00000007', '19ed'), 'GO, extended flags, no padding');
  client.send('21e41c71 0000 0002 0000000000000007 0000000000000000 0000000000000000');
  t.equal((await client.end()).length, 0, 'DISC has no reply');
});

t.test('EXPORT_NAME and ABORT', async (t) => {
  const { connect, stop } = await startServer(new MemoryBackend({ sizeBytes }));
  t.teardown(stop);
  for (const [flags, zeroes] of [
    ['00000003', 0],
    ['00000001', 124],
    ['00000000', 124],
  ] as const) {
    const client = await connect();
    await client.read(18);
    client.send(flags);
    client.send(option(1, Buffer.from('any')));
    await expectBytes(
      t,
      client,
      `0000012345678000 096d ${'00'.repeat(zeroes)}`,
      `client flags ${flags}`,
    );
    client.send(request('compact', { type: 2 }));
    t.equal((await client.end()).length, 0);
  }
  const client = await connect();
  await client.read(18);
  client.send(clientFlagsHex);
  client.send(option(2, 'ffff'));
  t.equal((await client.end()).toString('hex'), hex(ack('00000002')).toString('hex'), 'ABORT');
});

const cookie = 'fedcba9876543210';
const commandHead = (
  mode: Mode,
  flags: string,
  type: string,
  offset: string,
  length: string,
): string =>
  mode === 'extended'
    ? `21e41c71 ${flags} ${type} ${cookie} ${offset} 00000000${length}`
    : `25609513 ${flags} ${type} ${cookie} ${offset} ${length}`;

/** Success of anything but READ with content. */
const success: Record<Mode, (offset: string) => string> = {
  compact: () => `67446698 00000000 ${cookie}`,
  structured: () => `67446698 00000000 ${cookie}`,
  extended: (offset) => `6e8a278c 0001 0000 ${cookie} ${offset} 0000000000000000`,
};
const chunk = (mode: Mode, flags: string, type: string, offset: string, body: string): string => {
  const length = hex(body).length.toString(16).padStart(8, '0');
  return mode === 'extended'
    ? `6e8a278c ${flags} ${type} ${cookie} ${offset} 00000000${length} ${body}`
    : `668e33ef ${flags} ${type} ${cookie} ${length} ${body}`;
};

for (const mode of ['compact', 'structured', 'extended'] as const)
  t.test(`commands, ${mode}`, async (t) => {
    const backend = new MemoryBackend({ sizeBytes });
    const { connect, stop } = await startServer(backend);
    t.teardown(stop);
    const client = await connect();
    await enter(client, mode);
    const at = '0000012345670ffe'; // two bytes before a 4 KiB boundary
    const payloadFlag = mode === 'extended' ? '0021' : '0001';

    client.send(`${commandHead(mode, payloadFlag, '0001', at, '00000002')} abcd`);
    await expectBytes(t, client, success[mode](at), 'WRITE with FUA');
    t.same(backend.options[0]?.fua, true, 'FUA reached the backend');
    client.send(commandHead(mode, '0000', '0003', '0000000000000000', '00000000'));
    await expectBytes(t, client, success[mode]('0000000000000000'), 'FLUSH');

    client.send(commandHead(mode, '0000', '0000', at, '00000004'));
    const pieces =
      chunk(mode, '0000', '0001', at, `${at} abcd`) +
      chunk(mode, '0001', '0002', at, '0000012345671000 00000002');
    await expectBytes(
      t,
      client,
      mode === 'compact' ? `67446698 00000000 ${cookie} abcd0000` : pieces,
      'READ over data and a hole',
    );
    if (mode !== 'compact') {
      client.send(commandHead(mode, '0004', '0000', at, '00000004'));
      await expectBytes(
        t,
        client,
        chunk(mode, '0001', '0001', at, `${at} abcd0000`),
        'READ with DF',
      );
      client.send(commandHead(mode, '0000', '0000', at, '00000000'));
      await expectBytes(t, client, chunk(mode, '0001', '0000', at, ''), 'READ of length 0');
    }

    client.send(commandHead(mode, '0000', '0004', at, '00001004'));
    await expectBytes(t, client, success[mode](at), 'TRIM');
    client.send(commandHead(mode, '0000', '0005', at, '00000004'));
    await expectBytes(t, client, success[mode](at), 'CACHE');
    client.send(commandHead(mode, '0013', '0006', at, '00000004'));
    const notFast = mode === 'compact' ? `67446698 0000005f ${cookie}` : '';
    if (notFast) await expectBytes(t, client, notFast, 'WRITE_ZEROES FAST_ZERO NO_HOLE: ENOTSUP');
    else {
      const head = await client.read(mode === 'extended' ? 32 : 20);
      t.equal(head.readUInt16BE(6), 0x8001, 'ENOTSUP as an error chunk');
      const body = await client.read(head.readUInt32BE(head.length - 4));
      t.equal(body.readUInt32BE(0), 95);
      t.equal(body.readUInt16BE(4), body.length - 6);
    }
    client.send(commandHead(mode, '0010', '0006', at, '00000004'));
    await expectBytes(t, client, success[mode](at), 'WRITE_ZEROES FAST_ZERO');

    client.send(commandHead(mode, '0000', '0002', '0000000000000000', '00000000'));
    t.equal((await client.end()).length, 0, 'DISC');
  });

for (const mode of ['compact', 'structured', 'extended'] as const)
  t.test(`BLOCK_STATUS, ${mode}`, async (t) => {
    const backend = new MemoryBackend({ sizeBytes });
    backend.put(0x0123_4567_0000, Buffer.alloc(4096));
    const { connect, stop } = await startServer(backend);
    t.teardown(stop);
    const client = await connect();
    await enter(client, mode);
    client.send(commandHead(mode, '0000', '0007', '0000012345670000', '00002000'));
    if (mode === 'structured')
      await expectBytes(
        t,
        client,
        chunk(mode, '0001', '0005', '', '00000001 00001000 00000000 00001000 00000003'),
        'BLOCK_STATUS',
      );
    if (mode === 'extended') {
      await expectBytes(
        t,
        client,
        chunk(
          mode,
          '0001',
          '0006',
          '0000012345670000',
          '00000001 00000002 0000000000001000 0000000000000000 0000000000001000 0000000000000003',
        ),
        'BLOCK_STATUS, wide',
      );
      client.send(
        `21e41c71 0020 0007 ${cookie} 0000012345670000 000000000000000c 0000000000000200 00000001`,
      );
      await expectBytes(
        t,
        client,
        chunk(
          mode,
          '0001',
          '0006',
          '0000012345670000',
          '00000001 00000001 0000000000001000 0000000000000000',
        ),
        'BLOCK_STATUS with payload',
      );
    }
    if (mode === 'compact')
      await expectBytes(t, client, `67446698 00000016 ${cookie}`, 'BLOCK_STATUS: EINVAL');
    else {
      client.send(commandHead(mode, '0008', '0007', '0000012345670000', '00000800'));
      const one =
        mode === 'extended'
          ? '00000001 00000001 0000000000000800 0000000000000000'
          : '00000001 00000800 00000000';
      await expectBytes(
        t,
        client,
        chunk(mode, '0001', mode === 'extended' ? '0006' : '0005', '0000012345670000', one),
        'BLOCK_STATUS with REQ_ONE ends with the request',
      );
    }
  });

t.test('all options of a client in one packet, and byte by byte', async (t) => {
  const backend = new MemoryBackend({ sizeBytes: 1 << 20 });
  const { connect, stop } = await startServer(backend);
  t.teardown(stop);
  const stream = Buffer.concat([
    hex(clientFlagsHex),
    option(99, 'aabb'),
    option(8),
    option(10, contextData('', ['base:allocation'])),
    option(7, Buffer.concat([text(''), hex('0000')])),
    request('structured', { type: 1, offset: 5, length: 3, payload: Buffer.from('xyz') }),
    request('structured', { type: 0, cookie: 2n, offset: 4, length: 5 }),
    request('structured', { type: 2 }),
    Buffer.from('ignored after DISC'),
  ]);
  const transcripts: string[] = [];
  const whole = await connect();
  whole.send(stream);
  transcripts.push((await whole.end()).toString('hex'));
  const slow = await connect();
  for (const byte of stream) {
    slow.send(Buffer.of(byte));
    await new Promise((resolve) => setImmediate(resolve));
  }
  transcripts.push((await slow.end()).toString('hex'));
  t.equal(transcripts[1], transcripts[0], 'the same answers');
  t.match(transcripts[0], hex('0000000000000004 0078797a00').toString('hex'), 'with the content');
  t.equal(backend.content(5, 3).toString(), 'xyz');
});
