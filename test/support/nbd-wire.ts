/**
 * A raw NBD peer for tests: bytes as hex text, taken from the protocol text and never from the code under test.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLogger, systemTimers } from '../../src/base/index.ts';
import {
  type BlockBackend,
  type ExportProvider,
  fixedExport,
  NbdServer,
  type NbdServerOptions,
} from '../../src/nbd/index.ts';

const deadlineMs = 5000;

/** Bytes of a hex text; blanks are for the reader. */
export const hex = (text: string): Buffer => Buffer.from(text.replace(/\s+/g, ''), 'hex');

/** A socket that only tests control. */
export class WireClient {
  readonly socket: Socket;
  closed = false;
  error: Error | null = null;
  #chunks: Buffer[] = [];
  #receivedBytes = 0;
  #wake: (() => void) | null = null;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (bytes: Buffer) => {
      this.#chunks.push(bytes);
      this.#receivedBytes += bytes.length;
      this.#wake?.();
    });
    socket.on('error', (error) => {
      this.error = error;
    });
    socket.on('close', () => {
      this.closed = true;
      this.#wake?.();
    });
  }

  static async open(address: { path: string } | { port: number }): Promise<WireClient> {
    const socket = connect({ host: '127.0.0.1', ...address });
    const client = new WireClient(socket);
    await new Promise((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    return client;
  }

  send(bytes: Buffer | string): void {
    this.socket.write(typeof bytes === 'string' ? hex(bytes) : bytes);
  }

  /** Exactly `count` bytes; rejects when the connection ends or the deadline passes first. */
  async read(count: number): Promise<Buffer> {
    const timer = setTimeout(() => this.socket.destroy(), deadlineMs);
    try {
      while (this.#receivedBytes < count) {
        if (this.closed)
          throw new Error(`connection ended after ${this.#receivedBytes} of ${count} bytes`);
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    } finally {
      clearTimeout(timer);
    }
    const all = Buffer.concat(this.#chunks);
    this.#chunks = [all.subarray(count)];
    this.#receivedBytes -= count;
    return all.subarray(0, count);
  }

  /** The server closes; what it still sent comes back. */
  async end(): Promise<Buffer> {
    const timer = setTimeout(
      () => this.socket.destroy(new Error('not closed in time')),
      deadlineMs,
    );
    while (!this.closed)
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    clearTimeout(timer);
    if (this.error?.message === 'not closed in time') throw this.error;
    return Buffer.concat(this.#chunks);
  }
}

/** Greeting, client flags 3, and one option with its replies cut by the caller. */
export const greetingHex = '4e42444d41474943 49484156454f5054 0003';
export const clientFlagsHex = '00000003';
export const option = (number: number, data: Buffer | string = ''): Buffer => {
  const bytes = typeof data === 'string' ? hex(data) : data;
  const head = hex('49484156454f5054 00000000 00000000');
  head.writeUInt32BE(number, 8);
  head.writeUInt32BE(bytes.length, 12);
  return Buffer.concat([head, bytes]);
};

export interface OptionReply {
  readonly option: number;
  readonly type: number;
  readonly body: Buffer;
}

export async function readReply(client: WireClient): Promise<OptionReply> {
  const head = await client.read(20);
  if (head.toString('hex', 0, 8) !== '0003e889045565a9')
    throw new Error('wrong option reply magic');
  const body = await client.read(head.readUInt32BE(16));
  return { option: head.readUInt32BE(8), type: head.readUInt32BE(12), body };
}

/** All replies to one option, up to ACK or an error. */
export async function ask(
  client: WireClient,
  number: number,
  data: Buffer | string = '',
): Promise<OptionReply[]> {
  client.send(option(number, data));
  const replies: OptionReply[] = [];
  for (;;) {
    const reply = await readReply(client);
    replies.push(reply);
    if (reply.type === 1 || reply.type >= 0x80000000) return replies;
  }
}

/** `u32 length, text` as the options carry it. */
export const text = (value: string): Buffer => {
  const bytes = Buffer.from(value);
  const out = Buffer.alloc(4 + bytes.length);
  out.writeUInt32BE(bytes.length, 0);
  bytes.copy(out, 4);
  return out;
};

export const infoData = (name: string, infos: readonly number[] = []): Buffer => {
  const tail = Buffer.alloc(2 + 2 * infos.length);
  tail.writeUInt16BE(infos.length, 0);
  infos.forEach((info, i) => {
    tail.writeUInt16BE(info, 2 + 2 * i);
  });
  return Buffer.concat([text(name), tail]);
};

export const contextData = (name: string, queries: readonly string[]): Buffer => {
  const count = Buffer.alloc(4);
  count.writeUInt32BE(queries.length);
  return Buffer.concat([text(name), count, ...queries.map(text)]);
};

export type Mode = 'compact' | 'structured' | 'extended';

/** Handshake up to the transmission phase, with base:allocation where the mode can carry it. */
export async function enter(client: WireClient, mode: Mode, name = ''): Promise<void> {
  await client.read(18);
  client.send(clientFlagsHex);
  if (mode === 'structured') await ask(client, 8);
  if (mode === 'extended') await ask(client, 11);
  if (mode !== 'compact') await ask(client, 10, contextData(name, ['base:allocation']));
  const replies = await ask(client, 7, infoData(name));
  if (replies.at(-1)?.type !== 1) throw new Error(`GO refused: ${replies.at(-1)?.body}`);
}

export interface RequestFields {
  readonly type: number;
  readonly flags?: number;
  readonly cookie?: bigint;
  readonly offset?: bigint | number;
  readonly length?: bigint | number;
  readonly payload?: Buffer;
}

/** A request of the compact (28 bytes) or extended (32 bytes) form. */
export function request(mode: Mode, fields: RequestFields): Buffer {
  const extended = mode === 'extended';
  const head = Buffer.alloc(extended ? 32 : 28);
  head.writeUInt32BE(extended ? 0x21e41c71 : 0x25609513, 0);
  head.writeUInt16BE(fields.flags ?? 0, 4);
  head.writeUInt16BE(fields.type, 6);
  head.writeBigUInt64BE(fields.cookie ?? 1n, 8);
  head.writeBigUInt64BE(BigInt(fields.offset ?? 0), 16);
  if (extended) head.writeBigUInt64BE(BigInt(fields.length ?? 0), 24);
  else head.writeUInt32BE(Number(fields.length ?? 0), 24);
  return Buffer.concat([head, fields.payload ?? Buffer.alloc(0)]);
}

export interface Answer {
  readonly cookie: bigint;
  readonly errno: number;
  readonly text: string;
  readonly content: Buffer;
  /** Chunk types in order; empty for a simple reply. */
  readonly types: readonly number[];
}

async function readChunkBody(client: WireClient, mode: Mode, start: Buffer): Promise<Buffer> {
  const magic = mode === 'extended' ? 0x6e8a278c : 0x668e33ef;
  if (start.readUInt32BE(0) !== magic) throw new Error('wrong reply magic');
  const rest = await client.read(mode === 'extended' ? 16 : 4);
  return client.read(rest.readUInt32BE(rest.length - 4));
}

/** One whole reply: a simple one, or all its chunks; `asked` is the READ it answers. */
export async function readAnswer(
  client: WireClient,
  mode: Mode,
  asked: { readonly offset: number; readonly length: number } = { offset: 0, length: 0 },
): Promise<Answer> {
  const answer = {
    cookie: 0n,
    errno: 0,
    text: '',
    content: Buffer.alloc(asked.length) as Buffer,
    types: [] as number[],
  };
  for (;;) {
    const start = await client.read(16);
    answer.cookie = start.readBigUInt64BE(8);
    if (start.readUInt32BE(0) === 0x67446698) {
      answer.errno = start.readUInt32BE(4);
      if (answer.errno === 0) answer.content = await client.read(asked.length);
      return answer;
    }
    const body = await readChunkBody(client, mode, start);
    const type = start.readUInt16BE(6);
    answer.types.push(type);
    if (type === 1) body.copy(answer.content, Number(body.readBigUInt64BE(0)) - asked.offset, 8);
    if (type === 0x8001) {
      answer.errno = body.readUInt32BE(0);
      answer.text = body.toString('utf8', 6);
    }
    if ((start.readUInt16BE(4) & 1) !== 0) return answer;
  }
}

export interface RunningServer {
  readonly server: NbdServer;
  readonly path: string;
  readonly directory: string;
  connect(): Promise<WireClient>;
  /** Over TCP on the loopback, without TLS. */
  connectTcp(): Promise<WireClient>;
  stop(): Promise<void>;
}

export async function startServer(
  exports: BlockBackend | ExportProvider,
  options: Partial<NbdServerOptions> = {},
): Promise<RunningServer> {
  const directory = mkdtempSync(join(tmpdir(), 'nbd-'));
  const path = join(directory, 's');
  const server = new NbdServer({
    exports: 'read' in exports ? fixedExport(exports) : exports,
    timers: systemTimers,
    logger: silentLogger,
    ...options,
  });
  await server.listenUnix(path, { mode: 0o600 });
  const clients: WireClient[] = [];
  let port: number | null = null;
  const open = async (address: { path: string } | { port: number }): Promise<WireClient> => {
    const client = await WireClient.open(address);
    clients.push(client);
    return client;
  };
  return {
    server,
    path,
    directory,
    connect: () => open({ path }),
    async connectTcp() {
      port ??= await server.listenTcp('127.0.0.1', 0, { allowPlainText: true });
      return open({ port });
    },
    async stop() {
      for (const client of clients) client.socket.destroy();
      await server.close({ graceful: false });
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** Poll until true; the deadline is a failure of the test. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  const end = performance.now() + deadlineMs;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`did not happen: ${what}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}
