/**
 * An NBD export that is read or filled by a task that outlives its connection.
 *
 * Invariants: a request is sent again only after its connection was lost, never after the server refused it; so only
 * requests that may run twice are made here (reads; writes of one task to places of its own). A server that stays away for
 * limits.imageReconnectMs fails the task, and so does one that comes back with another size.
 */
import {
  DvceError,
  isHostThis,
  limits,
  lookupElsewhere,
  sleep,
  type Timers,
} from '../base/index.ts';
import { connectNbd, type Extent, type NbdClient, type NbdClientOptions } from '../nbd/index.ts';

export interface NbdPlace {
  readonly address: NbdClientOptions['address'];
  readonly exportName: string;
}

export interface SteadyOptions {
  readonly timers: Timers;
  readonly signal: AbortSignal;
}

type Settle<T> = (error: DvceError | null, value: T) => void;

const origin = { alive: true };
const retryPauseMs = 200;

export class SteadyClient {
  readonly sizeBytes: number;
  readonly #place: NbdPlace;
  readonly #options: SteadyOptions;
  #current: Promise<NbdClient>;

  private constructor(place: NbdPlace, options: SteadyOptions, first: NbdClient) {
    this.#place = place;
    this.#options = options;
    this.#current = Promise.resolve(first);
    this.sizeBytes = first.sizeBytes;
  }

  static async open(place: NbdPlace, options: SteadyOptions): Promise<SteadyClient> {
    const { timers, signal } = options;
    const asked = { ...place, address: asGiven(place.address) };
    const first = await connectNbd({ ...asked, timers, signal });
    return new SteadyClient(asked, options, first);
  }

  /** null: only zeros. */
  async read(offset: number, length: number): Promise<Buffer | null> {
    const parts = await this.#run<readonly (Buffer | number)[]>((client, settle) =>
      client.read(offset, length, settle),
    );
    if (parts.every((part) => typeof part === 'number')) return null;
    const buffers = parts.map((part) => (typeof part === 'number' ? Buffer.alloc(part) : part));
    return buffers.length === 1 && buffers[0] !== undefined ? buffers[0] : Buffer.concat(buffers);
  }

  async write(offset: number, bytes: Buffer): Promise<void> {
    await this.#run<void>((client, settle) =>
      client.write(offset, bytes, { fua: false, origin }, (error) => settle(error)),
    );
  }

  extents(offset: number, length: number): Promise<readonly Extent[]> {
    return this.#run((client, settle) => client.extents(offset, length, settle));
  }

  async flush(): Promise<void> {
    await this.#run<void>((client, settle) => client.flush((error) => settle(error)));
  }

  async close(): Promise<void> {
    try {
      await (await this.#current).close();
    } catch (error) {
      // A connection that is gone needs no goodbye; every request has its answer already.
      if (!(error instanceof DvceError)) throw error;
    }
  }

  async #run<T>(send: (client: NbdClient, settle: Settle<T>) => void): Promise<T> {
    const { timers, signal } = this.#options;
    let late = false;
    const deadline = timers.after(limits.imageReconnectMs, () => {
      late = true;
    });
    try {
      for (;;) {
        signal.throwIfAborted();
        const connection = this.#current;
        const client = await connection;
        const outcome = await exchange(client, send, signal);
        if (!('error' in outcome)) return outcome.value;
        if (client.failure === null || late) throw outcome.error;
        // All requests of a lost connection come here; the first one makes the next connection.
        if (this.#current === connection) this.#current = this.#reconnect();
      }
    } finally {
      deadline.cancel();
    }
  }

  async #reconnect(): Promise<NbdClient> {
    const { timers, signal } = this.#options;
    let late = false;
    const deadline = timers.after(limits.imageReconnectMs, () => {
      late = true;
    });
    try {
      for (;;) {
        const client = await this.#connect(late);
        if (client === undefined) {
          await sleep(timers, retryPauseMs, signal);
          continue;
        }
        if (client.sizeBytes === this.sizeBytes) return client;
        await client.close();
        throw new DvceError('BAD_IMAGE', {
          name: this.#place.exportName,
          reason: 'its size changed while it was read',
          advice: 'Try again.',
        });
      }
    } finally {
      deadline.cancel();
    }
  }

  /** undefined: not yet. */
  async #connect(last: boolean): Promise<NbdClient | undefined> {
    const { timers, signal } = this.#options;
    try {
      return await connectNbd({ ...this.#place, timers, signal });
    } catch (error) {
      if (last || signal.aborted) throw error;
      return undefined;
    }
  }
}

/** A name does not lead to this host, unless it says so. */
const asGiven = (address: NbdPlace['address']): NbdPlace['address'] =>
  'path' in address || isHostThis(address.host) ? address : { ...address, lookup: lookupElsewhere };

/** A cancelled task does not wait for a server that may never answer. */
function exchange<T>(
  client: NbdClient,
  send: (client: NbdClient, settle: Settle<T>) => void,
  signal: AbortSignal,
): Promise<{ value: T } | { error: DvceError }> {
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    send(client, (error, value) => {
      signal.removeEventListener('abort', abort);
      resolve(error === null ? { value } : { error });
    });
  });
}
