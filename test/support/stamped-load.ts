/**
 * Load whose content proves itself: every block carries its index and a number that rises with each write to it. The load
 * behaves like QEMU or the kernel: requests whose connection died are sent again on a new one, acknowledged ones never.
 *
 * What may be found in a block: the last acknowledged number, or a later one that was sent. Anything older is a lost
 * acknowledged write, anything else is corruption.
 */
import { Failed, Lost, RawNbd, Refused } from './nbd-raw.ts';

export const blockBytes = 4096;

export function stamp(index: number, number: number): Buffer {
  const block = Buffer.alloc(blockBytes, (index * 31 + number) & 0xff);
  block.writeUInt32BE(0x57414d50, 0);
  block.writeUInt32BE(index, 4);
  block.writeUInt32BE(number, 8);
  return block;
}

/** @returns the number, 0 for a block of zeros; throws when the block is neither */
export function readStamp(block: Buffer, index: number): number {
  if (block.every((byte) => byte === 0)) return 0;
  const number = block.readUInt32BE(8);
  if (!block.equals(stamp(index, number)))
    throw new Error(`block ${index} is corrupt: ${block.toString('hex', 0, 16)}`);
  return number;
}

export interface LoadOptions {
  readonly path: string;
  readonly exportName: string;
  readonly blocks: number;
  readonly depth: number;
  /** A flush after so many writes of one lane. */
  readonly flushEvery: number;
}

export class StampedLoad {
  readonly #options: LoadOptions;
  /** Per block: the last number sent, and the last acknowledged. */
  readonly sent: Uint32Array;
  readonly acknowledged: Uint32Array;
  readonly errors: string[] = [];
  reconnects = 0;
  writes = 0;
  #stopping = false;
  #connection: Promise<RawNbd> | undefined;
  #lanes: Promise<void>[] = [];

  constructor(options: LoadOptions) {
    this.#options = options;
    this.sent = new Uint32Array(options.blocks);
    this.acknowledged = new Uint32Array(options.blocks);
  }

  start(): void {
    this.#stopping = false;
    this.#lanes = Array.from({ length: this.#options.depth }, (_, lane) => this.#lane(lane));
  }

  /** Every request that was sent is answered when it resolves. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.all(this.#lanes);
  }

  close(): void {
    void this.#connection?.then(
      (connection) => connection.destroy(),
      () => {},
    );
    this.#connection = undefined;
  }

  /** One lane owns the blocks with index = lane mod depth, so that numbers of a block are written in order. */
  async #lane(lane: number): Promise<void> {
    const { blocks, depth, flushEvery } = this.#options;
    let index = lane;
    for (let count = 1; !this.#stopping && this.errors.length === 0; count += 1) {
      const number = (this.sent[index] ?? 0) + 1;
      this.sent[index] = number;
      await this.#insist((nbd) => nbd.write(index * blockBytes, stamp(index, number)));
      this.acknowledged[index] = number;
      this.writes += 1;
      if (count % flushEvery === 0) await this.#insist((nbd) => nbd.flush());
      // A stride over the lane's blocks that is not in order.
      index = (index + depth * 7) % blocks;
      if (index % depth !== lane) index = lane;
    }
  }

  /** Send it again until it is answered. An error answer is what a guest would see: it is noted and ends the load. */
  async #insist(request: (nbd: RawNbd) => Promise<void>): Promise<void> {
    const deadline = Date.now() + 60_000;
    for (;;) {
      try {
        return await request(await this.#connected());
      } catch (error) {
        const comesBack = error instanceof Lost || error instanceof Refused;
        if (!comesBack || Date.now() > deadline) {
          this.errors.push(error instanceof Failed ? error.message : String(error));
          return;
        }
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    }
  }

  async #connected(): Promise<RawNbd> {
    const { path, exportName } = this.#options;
    const now = this.#connection;
    if (now !== undefined) {
      const connection = await now.catch(() => undefined);
      if (connection !== undefined && !connection.ended) return connection;
      if (this.#connection === now) {
        this.#connection = undefined;
        this.reconnects += 1;
      }
    }
    this.#connection ??= RawNbd.connect({ path }, exportName);
    return this.#connection;
  }

  /** Compare the whole range with what may be there. @returns what is wrong */
  async verify(path: string, exportName: string): Promise<string[]> {
    const nbd = await RawNbd.connect({ path }, exportName);
    const wrong: string[] = [];
    const { blocks } = this.#options;
    const step = 64;
    for (let at = 0; at < blocks; at += step) {
      const count = Math.min(step, blocks - at);
      const data = await nbd.read(at * blockBytes, count * blockBytes);
      for (let i = 0; i < count; i += 1) {
        const index = at + i;
        const found = readStamp(data.subarray(i * blockBytes, (i + 1) * blockBytes), index);
        const least = this.acknowledged[index] ?? 0;
        const most = this.sent[index] ?? 0;
        if (found < least || found > most)
          wrong.push(`block ${index} has ${found}, acknowledged ${least}, sent ${most}`);
      }
    }
    await nbd.disconnect();
    return wrong;
  }
}
