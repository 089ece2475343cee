/**
 * A small NBD client of the tests' own, written from the protocol text and knowing nothing of src/nbd: fixed newstyle, GO,
 * compact requests, simple replies, as the Linux kernel speaks.
 */
import { createConnection, type Socket } from 'node:net';

const optionMagic = Buffer.from('IHAVEOPT');
const replyMagic = 0x3e889045565a9n;

export const command = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  writeZeroes: 6,
} as const;
export const fua = 1;

/** The server refused the export; `type` is the NBD option reply. */
export class Refused extends Error {
  override readonly name = 'Refused';
  readonly type: number;
  constructor(type: number, text: string) {
    super(text);
    this.type = type;
  }
}

/** The connection ended before the answer came. */
export class Lost extends Error {
  override readonly name = 'Lost';
}

/** The server answered a request with this errno. */
export class Failed extends Error {
  override readonly name = 'Failed';
  readonly errno: number;
  constructor(errno: number) {
    super(`NBD error ${errno}`);
    this.errno = errno;
  }
}

interface Waiting {
  readonly bytes: number;
  readonly resolve: (data: Buffer) => void;
  readonly reject: (error: Error) => void;
}

export class RawNbd {
  readonly #socket: Socket;
  #chunks: Buffer[] = [];
  #buffered = 0;
  #wake: (() => void) | undefined;
  #ended = false;
  #cookie = 0n;
  readonly #waiting = new Map<bigint, Waiting>();
  sizeBytes = 0;
  flags = 0;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#buffered += chunk.length;
      this.#wake?.();
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      this.#ended = true;
      this.#wake?.();
      for (const waiting of this.#waiting.values()) waiting.reject(new Lost('connection lost'));
      this.#waiting.clear();
    });
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** Throws Refused, or Lost when nobody listens or the server goes away. */
  static async connect(
    where: { readonly path: string } | { readonly host: string; readonly port: number },
    exportName: string,
  ): Promise<RawNbd> {
    const client = new RawNbd(createConnection(where));
    try {
      await client.#handshake(Buffer.from(exportName));
    } catch (error) {
      client.destroy();
      throw error;
    }
    void client.#receive();
    return client;
  }

  async #take(count: number): Promise<Buffer> {
    while (this.#buffered < count) {
      if (this.#ended) throw new Lost('connection lost');
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
    const all = Buffer.concat(this.#chunks);
    this.#chunks = [all.subarray(count)];
    this.#buffered -= count;
    return all.subarray(0, count);
  }

  async #handshake(name: Buffer): Promise<void> {
    const greeting = await this.#take(18);
    if (greeting.toString('latin1', 0, 16) !== 'NBDMAGICIHAVEOPT') throw new Error('no NBD server');
    // FIXED_NEWSTYLE and NO_ZEROES.
    const flags = Buffer.alloc(4);
    flags.writeUInt32BE(3);
    const header = Buffer.alloc(12);
    header.writeUInt32BE(7, 0); // GO
    header.writeUInt32BE(name.length + 6, 4);
    header.writeUInt32BE(name.length, 8);
    this.#socket.write(Buffer.concat([flags, optionMagic, header, name, Buffer.alloc(2)]));
    for (;;) {
      const reply = await this.#take(20);
      if (reply.readBigUInt64BE(0) !== replyMagic) throw new Error('bad option reply');
      const type = reply.readUInt32BE(12);
      const data = await this.#take(reply.readUInt32BE(16));
      if (type === 1) return;
      if (type >= 0x8000_0000) throw new Refused(type, data.toString('utf8'));
      if (type === 3 && data.readUInt16BE(0) === 0) {
        this.sizeBytes = Number(data.readBigUInt64BE(2));
        this.flags = data.readUInt16BE(10);
      }
    }
  }

  async #receive(): Promise<void> {
    try {
      for (;;) {
        const reply = await this.#take(16);
        if (reply.readUInt32BE(0) !== 0x67446698) throw new Error('bad reply magic');
        const errno = reply.readUInt32BE(4);
        const cookie = reply.readBigUInt64BE(8);
        const waiting = this.#waiting.get(cookie);
        if (waiting === undefined) throw new Error('reply to nothing');
        const data = errno === 0 ? await this.#take(waiting.bytes) : Buffer.alloc(0);
        this.#waiting.delete(cookie);
        if (errno === 0) waiting.resolve(data);
        else waiting.reject(new Failed(errno));
      }
    } catch {
      this.destroy();
    }
  }

  #request(
    type: number,
    flags: number,
    offset: number,
    length: number,
    data?: Buffer,
  ): Promise<Buffer> {
    if (this.#ended) return Promise.reject(new Lost('connection lost'));
    this.#cookie += 1n;
    const header = Buffer.alloc(28);
    header.writeUInt32BE(0x25609513, 0);
    header.writeUInt16BE(flags, 4);
    header.writeUInt16BE(type, 6);
    header.writeBigUInt64BE(this.#cookie, 8);
    header.writeBigUInt64BE(BigInt(offset), 16);
    header.writeUInt32BE(length, 24);
    const bytes = type === command.read ? length : 0;
    const answer = new Promise<Buffer>((resolve, reject) => {
      this.#waiting.set(this.#cookie, { bytes, resolve, reject });
    });
    this.#socket.write(data === undefined ? header : Buffer.concat([header, data]));
    return answer;
  }

  read(offset: number, length: number): Promise<Buffer> {
    return this.#request(command.read, 0, offset, length);
  }
  async write(offset: number, data: Buffer, flags = 0): Promise<void> {
    await this.#request(command.write, flags, offset, data.length, data);
  }
  async flush(): Promise<void> {
    await this.#request(command.flush, 0, 0, 0);
  }
  /** Polite end: DISC, then the server closes. */
  async disconnect(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#socket.once('close', () => resolve()));
    void this.#request(command.disconnect, 0, 0, 0).catch(() => {});
    if (!this.#ended) await closed;
  }
  destroy(): void {
    this.#socket.destroy();
  }
  /** RST instead of FIN, where the transport knows it. */
  reset(): void {
    this.#socket.resetAndDestroy();
  }
  /** Bytes as they are, for half-written requests. */
  raw(bytes: Buffer): void {
    this.#socket.write(bytes);
  }
}
