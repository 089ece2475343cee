/**
 * Input of a connection that cannot be parsed yet, in order. Reading goes on for a while, to see the end of a dead connection
 * behind it (rule N6); at limits.nbdHeldInputBytes it has to stop.
 */
import { limits } from '../base/index.ts';

export class HeldInput {
  #pieces: Buffer[] = [];
  #bytes = 0;

  get isEmpty(): boolean {
    return this.#pieces.length === 0;
  }
  get isFull(): boolean {
    return this.#bytes >= limits.nbdHeldInputBytes;
  }

  /** Behind everything; `bytes` may be overwritten afterwards. */
  add(bytes: Buffer): void {
    this.#pieces.push(Buffer.from(bytes));
    this.#bytes += bytes.length;
  }

  /** What is left of a piece, before everything; one that was held is no one else's. */
  putBack(rest: Buffer, wasHeld: boolean): void {
    if (rest.length === 0) return;
    this.#pieces.unshift(wasHeld ? rest : Buffer.from(rest));
    this.#bytes += rest.length;
  }

  /** The first piece; nothing when there is none. */
  take(): Buffer {
    const first = this.#pieces.shift() ?? nothing;
    this.#bytes -= first.length;
    return first;
  }

  clear(): void {
    this.#pieces = [];
    this.#bytes = 0;
  }
}

const nothing = Buffer.alloc(0);
