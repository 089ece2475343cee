/** Large payloads go from the socket to where they stay; whatever way input is cut, every write is what was sent. */
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { KiB, MiB, seededRandom } from '../../src/base/index.ts';
import { commands, magics, requestBytes } from '../../src/nbd/constants.ts';
import { intoMemory } from '../../src/nbd/input-memory.ts';
import { RequestParser } from '../../src/nbd/request-parser.ts';

const random = seededRandom(0x10);
const noise = random.bytes(3 * MiB);
const lengths = [100, 4096, 40 * KiB, MiB, 32 * KiB, 3 * MiB - 64, 5000, 70 * KiB, 2 * MiB];

const someBytes = (length: number): Buffer => {
  const from = random.below(noise.byteLength - length);
  return noise.subarray(from, from + length);
};

function request(payload: Buffer): Buffer {
  const header = Buffer.alloc(requestBytes);
  header.writeUInt32BE(magics.request, 0);
  header.writeUInt16BE(commands.write, 6);
  header.writeUInt32BE(payload.byteLength, 24);
  return Buffer.concat([header, payload]);
}

/** A parser that keeps what was written. */
function parserOf(written: Buffer[]): RequestParser {
  const rules = {
    mode: 'structured',
    blockStatus: false,
    readOnly: false,
    sizeBytes: 8 * MiB,
  } as const;
  const fail = (): never => {
    throw new Error('the stream is right');
  };
  return new RequestParser('structured', {
    rules: () => rules,
    admit: () => true,
    request: (_, payload) => payload !== null && written.push(payload),
    refused: fail,
    disconnect: fail,
    lost: fail,
  });
}

t.test('a large payload is read to where it stays', async (t) => {
  for (const length of [40 * KiB, MiB, 3 * MiB - 64]) {
    const payload = someBytes(length);
    const sent = request(payload);
    const written: Buffer[] = [];
    const parser = parserOf(written);
    const first = requestBytes + 1000;
    parser.feed(sent.subarray(0, first));
    let at = first;
    let room = parser.payloadRoom;
    const [memory] = [room?.buffer];
    while (room !== null) {
      const count = Math.min(room.byteLength, 1 + random.below(300 * KiB));
      sent.copy(room, 0, at, at + count);
      parser.feed(room.subarray(0, count));
      at += count;
      room = parser.payloadRoom;
    }
    parser.feed(sent.subarray(at));
    t.equal(written.length, 1);
    t.ok(written[0]?.equals(payload));
    t.equal(written[0]?.buffer, memory);
  }
});

t.test('input of an accepted socket arrives as it was sent, in memory of ours', async (t) => {
  const written: Buffer[] = [];
  const parser = parserOf(written);
  const payloads = [...lengths, ...lengths.toReversed()].map(someBytes);
  const ended = Promise.withResolvers<void>();
  let inPlace = 0;
  let accepted: Socket | undefined;
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    accepted = intoMemory(socket, {
      room: () => parser.payloadRoom,
      received: (bytes) => {
        if (bytes.buffer === parser.payloadRoom?.buffer) inPlace += bytes.byteLength;
        parser.feed(bytes);
      },
    });
    t.not(accepted, socket, 'this Node lets it');
    accepted.on('end', () => accepted?.end());
    accepted.on('close', () => ended.resolve());
  });
  const path = join(tmpdir(), `dvce-input-${process.pid}.sock`);
  await new Promise<void>((resolve) => void server.listen(path, resolve));
  const client = connect(path);
  client.resume();
  const sent = Buffer.concat(payloads.map(request));
  for (let at = 0; at < sent.byteLength; ) {
    const count = 1 + random.below(600 * KiB);
    await new Promise((resolve) => client.write(sent.subarray(at, at + count), resolve));
    if (random.below(4) === 0) {
      accepted?.pause();
      setImmediate(() => accepted?.resume());
    }
    at += count;
  }
  client.end();
  await ended.promise;
  server.close();
  t.equal(written.length, payloads.length);
  t.ok(written.every((each, i) => each.equals(payloads[i] ?? Buffer.alloc(0))));
  t.ok(inPlace > sent.byteLength / 4, `${inPlace} of ${sent.byteLength} bytes were not copied`);
});
