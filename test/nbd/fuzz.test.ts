/** Random, truncated and mutated streams of both phases: no unhandled failure, no growth, other clients undisturbed. */
import t from 'tap';
import { MiB, type Random, seededRandom } from '../../src/base/index.ts';
import { MemoryBackend } from '../support/memory-backend.ts';
import {
  clientFlagsHex,
  contextData,
  enter,
  hex,
  infoData,
  type Mode,
  option,
  readAnswer,
  request,
  startServer,
  until,
} from '../support/nbd-wire.ts';

const modes = ['compact', 'structured', 'extended'] as const;
const pick = <T>(random: Random, list: readonly T[]): T => list[random.below(list.length)] as T;

function validStream(random: Random): Buffer {
  const mode: Mode = pick(random, modes);
  const parts = [hex(clientFlagsHex)];
  if (mode !== 'compact') parts.push(option(mode === 'extended' ? 11 : 8));
  for (let i = random.below(4); i > 0; i -= 1)
    parts.push(
      option(
        random.below(14),
        pick(random, [Buffer.alloc(0), infoData('', [3]), contextData('', ['base:allocation'])]),
      ),
    );
  parts.push(option(7, infoData('')));
  for (let i = random.below(30); i > 0; i -= 1) {
    const type = random.below(9);
    const length = random.below(20_000);
    const carries = type === 1;
    const flags = (carries && mode === 'extended' ? 32 : 0) | pick(random, [0, 0, 1, 2, 4, 8, 16]);
    parts.push(
      request(mode, {
        type,
        flags,
        cookie: BigInt(i),
        offset: random.below(3 * MiB),
        length,
        payload: carries ? random.bytes(length) : Buffer.alloc(0),
      }),
    );
  }
  return Buffer.concat(parts);
}

function mutate(stream: Buffer, random: Random): Buffer {
  const out = Buffer.from(stream);
  for (let i = random.below(6); i > 0; i -= 1) {
    const at = random.below(out.length);
    if (random.below(2) === 0) out[at] = random.below(256);
    else out.fill(pick(random, [0, 0xff]), at, Math.min(out.length, at + random.below(9)));
  }
  return out.subarray(0, random.below(3) === 0 ? random.below(out.length) : out.length);
}

const seed = 20_260_401;
t.test(`seed ${seed}`, async (t) => {
  const random = seededRandom(seed);
  const backend = new MemoryBackend({ sizeBytes: 2 * MiB });
  let opened = 0;
  let released = 0;
  const running = await startServer({
    open: async () => {
      opened += 1;
      return {
        backend,
        release: () => {
          released += 1;
        },
      };
    },
    list: async () => [{ name: '' }],
  });
  t.teardown(running.stop);
  const failures: unknown[] = [];
  const onFailure = (error: unknown): void => void failures.push(error);
  process.on('unhandledRejection', onFailure);
  t.teardown(() => process.removeListener('unhandledRejection', onFailure));
  const steady = await running.connect();
  await enter(steady, 'structured');
  for (let round = 0; round < 400; round += 1) {
    const client = await running.connect();
    client.socket.resume();
    const stream =
      round % 4 === 0 ? random.bytes(random.below(3000)) : mutate(validStream(random), random);
    for (let at = 0; at < stream.length; ) {
      const count = 1 + random.below(random.below(4) === 0 ? 7 : 30_000);
      client.send(stream.subarray(at, at + count));
      at += count;
      if (random.below(3) === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    if (random.below(2) === 0) client.socket.destroy();
    else client.socket.end();
    await client.end();
    steady.send(
      request('structured', { type: 0, cookie: BigInt(round), offset: 512, length: 512 }),
    );
    t.equal(
      (await readAnswer(steady, 'structured', { offset: 512, length: 512 })).cookie,
      BigInt(round),
    );
  }
  await until(() => running.server.connections.size === 1, 'only the steady client is left');
  t.same(failures, []);
  t.equal(opened - released, 1, 'every other export was released');
  t.ok(opened > 100, `${opened} streams reached an export`);
});
