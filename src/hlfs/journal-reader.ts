/**
 * Reading payloads back from the files of an open journal, at once or through the thread pool.
 *
 * Invariant: no file is closed while a read of it is under way (its number would be another file's), so `close` waits.
 */
import { assert, DvceError } from '../base/index.ts';
import { carriedBase, type Slot } from './journal-slot.ts';

export interface JournalReads {
  now(address: number, target: Buffer): void;
  /** Through the thread pool. */
  later(address: number, target: Buffer): Promise<void>;
}

export class JournalReader implements JournalReads {
  readonly #slots: readonly Slot[];
  readonly #fileBytes: number;
  #running = 0;
  #onIdle: () => void = () => {};
  #isClosed = false;

  constructor(slots: readonly Slot[], fileBytes: number) {
    this.#slots = slots;
    this.#fileBytes = fileBytes;
  }

  /** Fill `target` from a payload address. */
  now(address: number, target: Buffer): void {
    const { file } = this.#slotOf(address);
    const read = file.readSync(target, address % this.#fileBytes);
    if (read !== target.byteLength)
      throw new DvceError('IO_FAILED', {
        what: 'a read',
        where: file.path,
        reason: `${read} of ${target.byteLength} bytes`,
      });
  }

  /** The same through the thread pool. */
  async later(address: number, target: Buffer): Promise<void> {
    const { file } = this.#slotOf(address);
    if (this.#isClosed) throw new DvceError('VOLUME_CLOSED', { name: file.path });
    this.#running += 1;
    try {
      const read = await new Promise<number>((resolve, reject) => {
        file.read(target, address % this.#fileBytes, (error, bytes) =>
          error ? reject(error) : resolve(bytes),
        );
      });
      // The rest of a short read says why it is one.
      if (read < target.byteLength) this.now(address + read, target.subarray(read));
    } finally {
      this.#running -= 1;
      if (this.#running === 0) this.#onIdle();
    }
  }

  #slotOf(address: number): Slot {
    const slot = this.#slots[Math.floor(address / this.#fileBytes)];
    assert(slot !== undefined && slot.state !== 'free', 'a journal address outlived its slot');
    return slot;
  }

  /** Nothing is read through the pool any more. */
  async close(): Promise<void> {
    this.#isClosed = true;
    if (this.#running > 0) await new Promise<void>((resolve) => (this.#onIdle = resolve));
  }
}

/** The same with the addresses of a tail, which is read at once: only while it is published. */
export function withTail(
  reads: JournalReads,
  readTail: (address: number, target: Buffer) => void,
): JournalReads {
  const now = (address: number, target: Buffer): void => {
    if (address >= carriedBase) readTail(address - carriedBase, target);
    else reads.now(address, target);
  };
  return {
    now,
    later: async (address, target) => {
      if (address >= carriedBase) now(address, target);
      else await reads.later(address, target);
    },
  };
}
