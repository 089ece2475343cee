/**
 * Every command x range x access x flags x mode against the table of docs/reference/nbd.md. After each request the
 * connection must still be in step: a marker request is answered with its own cookie.
 */
import t from 'tap';
import { MiB } from '../../src/base/index.ts';
import { MemoryBackend } from '../support/memory-backend.ts';
import {
  enter,
  type Mode,
  readAnswer,
  request,
  startServer,
  type WireClient,
} from '../support/nbd-wire.ts';

const sizeBytes = 80 * MiB;
const max = 32 * MiB;
const EPERM = 1;
const EINVAL = 22;
const ENOSPC = 28;
const FUA = 1;
const PAYLOAD = 32;

interface Range {
  readonly name: string;
  readonly offset: bigint;
  readonly length: bigint;
  readonly beyond?: true;
}
const ranges: readonly Range[] = [
  { name: 'in range', offset: 4096n, length: 4096n },
  { name: 'unaligned', offset: 4097n, length: 4099n },
  { name: 'one byte', offset: 12345n, length: 1n },
  { name: 'at the end', offset: BigInt(sizeBytes - 512), length: 512n },
  { name: 'length 0', offset: 512n, length: 0n },
  { name: 'length 0 at the end', offset: BigInt(sizeBytes), length: 0n },
  { name: 'length 0 beyond the end', offset: BigInt(sizeBytes + 1), length: 0n, beyond: true },
  { name: 'one beyond', offset: BigInt(sizeBytes - 511), length: 512n, beyond: true },
  { name: 'far beyond', offset: BigInt(sizeBytes) * 4n, length: 512n, beyond: true },
  { name: 'wrap-around', offset: 0xffff_ffff_ffff_fe00n, length: 1024n, beyond: true },
  { name: 'above 2^53', offset: 0x0020_0000_0000_0001n, length: 1n, beyond: true },
];
const commands = {
  READ: 0,
  WRITE: 1,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  ZERO: 6,
  STATUS: 7,
  RESIZE: 8,
  UNKNOWN: 999,
};

/** The table: what a request with fitting flags is answered. */
function expected(type: number, range: Range, readOnly: boolean, mode: Mode): number {
  const writes = type === 1 || type === 4 || type === 6;
  if (type > 7) return EINVAL;
  if (type === 3) return range.offset === 0n && range.length === 0n ? 0 : EINVAL;
  if (writes && readOnly) return EPERM;
  if (range.beyond) return type === 1 || type === 6 ? ENOSPC : EINVAL;
  if (type === 7 && (mode === 'compact' || range.length === 0n)) return EINVAL;
  return 0;
}

let cookie = 100n;
async function roundTrip(
  client: WireClient,
  mode: Mode,
  fields: { type: number; flags: number; offset: bigint; length: bigint },
): Promise<{ errno: number; inStep: boolean }> {
  cookie += 2n;
  const carries = mode === 'extended' ? (fields.flags & PAYLOAD) !== 0 : fields.type === 1;
  const payload = carries ? Buffer.alloc(Number(fields.length), 0x5a) : Buffer.alloc(0);
  client.send(request(mode, { ...fields, cookie, payload }));
  client.send(request(mode, { type: 3, cookie: cookie + 1n }));
  const read = fields.type === 0;
  const asked = { offset: Number(fields.offset), length: read ? Number(fields.length) : 0 };
  const answer = await readAnswer(client, mode, asked);
  const marker = await readAnswer(client, mode);
  const chunked = mode === 'extended' || (mode === 'structured' && read);
  const shape = answer.types.length > 0 === chunked || answer.errno !== 0 || fields.type === 7;
  const inStep = answer.cookie === cookie && marker.cookie === cookie + 1n && shape;
  return { errno: answer.errno, inStep };
}

for (const mode of ['compact', 'structured', 'extended'] as const)
  for (const readOnly of [false, true])
    t.test(`${mode}, ${readOnly ? 'read-only' : 'writable'}`, async (t) => {
      const backend = new MemoryBackend({ sizeBytes, caps: { readOnly } });
      const { connect, stop } = await startServer(backend);
      t.teardown(stop);
      const client = await connect();
      await enter(client, mode);
      for (const [name, type] of Object.entries(commands))
        for (const range of ranges) {
          const flags = type === 1 && mode === 'extended' ? PAYLOAD : 0;
          for (const fua of [0, FUA]) {
            const { offset, length } = range;
            const result = await roundTrip(client, mode, {
              type,
              flags: flags | fua,
              offset,
              length,
            });
            const want = { errno: expected(type, range, readOnly, mode), inStep: true };
            t.same(result, want, `${name} ${range.name}${fua ? ' FUA' : ''}`);
          }
        }
      t.same(
        (await roundTrip(client, mode, { type: 3, flags: 0, offset: 0n, length: 0n })).errno,
        0,
      );
    });

/** Command, flags: every single bit that the table does not allow. */
function illegal(mode: Mode): { type: number; flags: number }[] {
  const legal: Readonly<Record<number, number>> = {
    0: mode === 'compact' ? 0 : 4,
    1: 0,
    3: 0,
    4: 0,
    5: 0,
    6: 2 | 16,
    7: 8,
  };
  const bits = [2, 4, 8, 16, 32, 64, 0x8000].filter(
    (bit) => mode !== 'extended' || bit !== PAYLOAD,
  );
  return Object.entries(legal).flatMap(([type, allowed]) =>
    bits
      .filter((bit) => (allowed & bit) === 0)
      .map((bit) => ({
        type: Number(type),
        flags: bit | (type === '1' && mode === 'extended' ? PAYLOAD : 0),
      })),
  );
}

for (const mode of ['compact', 'structured', 'extended'] as const)
  t.test(`flags that do not fit, ${mode}`, async (t) => {
    const backend = new MemoryBackend({ sizeBytes });
    const { connect, stop } = await startServer(backend);
    t.teardown(stop);
    const client = await connect();
    await enter(client, mode);
    backend.record = true;
    for (const { type, flags } of illegal(mode)) {
      const fields = { type, flags, offset: 0n, length: type === 3 ? 0n : 512n };
      const result = await roundTrip(client, mode, fields);
      t.same(result, { errno: EINVAL, inStep: true }, `command ${type} flags ${flags}`);
    }
    const reached = backend.calls.filter((call) => !call.startsWith('flush'));
    t.same(reached, [], 'nothing reached the backend');
  });

t.test('extended: payloads where none belongs, and a WRITE without one', async (t) => {
  const backend = new MemoryBackend({ sizeBytes });
  const { connect, stop } = await startServer(backend);
  t.teardown(stop);
  const client = await connect();
  await enter(client, 'extended');
  for (const type of [0, 3, 4, 5, 6, 8]) {
    const fields = { type, flags: PAYLOAD, offset: 0n, length: 600n };
    t.same(await roundTrip(client, 'extended', { ...fields, type: type === 0 ? 4 : type }), {
      errno: EINVAL,
      inStep: true,
    });
  }
  t.same(await roundTrip(client, 'extended', { type: 1, flags: 0, offset: 0n, length: 600n }), {
    errno: EINVAL,
    inStep: true,
  });
  for (const length of [8n, 11n, 16n, 8192n]) {
    const fields = { type: 7, flags: PAYLOAD, offset: 0n, length };
    t.same(
      await roundTrip(client, 'extended', fields),
      { errno: EINVAL, inStep: true },
      `BLOCK_STATUS payload ${length}`,
    );
  }
  t.same(
    await roundTrip(client, 'extended', { type: 4, flags: 0, offset: 0n, length: 1n << 40n }),
    { errno: EINVAL, inStep: true },
  );
  client.send(request('extended', { type: 4, flags: PAYLOAD, length: max + 1 }));
  t.equal((await client.end()).length, 0, 'more payload than the maximum: dropped');
});

t.test('maximum sizes', async (t) => {
  const backend = new MemoryBackend({ sizeBytes });
  const { connect, stop } = await startServer(backend);
  t.teardown(stop);
  const client = await connect();
  await enter(client, 'structured');
  const go = (type: number, length: number): Promise<{ errno: number; inStep: boolean }> =>
    roundTrip(client, 'structured', { type, flags: 0, offset: 0n, length: BigInt(length) });
  t.same(await go(1, max), { errno: 0, inStep: true }, 'WRITE of 32 MiB');
  t.same(
    await go(1, max + 1),
    { errno: EINVAL, inStep: true },
    'WRITE above: consumed and refused',
  );
  t.same(await go(0, max), { errno: 0, inStep: true }, 'READ of 32 MiB');
  t.same(await go(0, max + 1), { errno: EINVAL, inStep: true }, 'READ above');
  t.same(await go(4, sizeBytes), { errno: 0, inStep: true }, 'TRIM of everything');
  t.same(await go(6, sizeBytes), { errno: 0, inStep: true }, 'WRITE_ZEROES of everything');
  client.send(request('structured', { type: 1, length: 64 * MiB + 1 }));
  t.equal((await client.end()).length, 0, 'far above: dropped');
});
