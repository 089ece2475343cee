/**
 * The client of blockd's control protocol, for the agent and for tools. Imports nothing of the engine.
 *
 * Connects at the first call and again after the connection was lost; calls that were under way then fail with
 * BLOCKD_UNAVAILABLE, because whether they took effect is not known: the methods are made to be repeated.
 * An idle client does not keep its process alive.
 *
 * @example
 * const client = new BlockdClient({ socketPath: '/var/lib/dvce/run/blockd.sock', timers: systemTimers });
 * const { volumes } = await client.call('volume.list', { prefix: '/prod' });
 */
import { createConnection, type Socket } from 'node:net';
import { DvceError, limits, systemCode, type Timers, toDvceError } from '../base/index.ts';
import { type CallOptions, CallTable } from './calls.ts';
import { decodeMessage, encodeMessage, isRecord, LineSplitter } from './lines.ts';
import {
  type ControlMethod,
  type ControlParams,
  type ControlResult,
  controlVersion,
} from './protocol.ts';
import { acceptVersion } from './versions.ts';

export interface BlockdClientOptions {
  readonly socketPath: string;
  readonly timers: Timers;
  /** For tests of other versions. */
  readonly version?: number;
}

interface Connection {
  readonly socket: Socket;
  readonly calls: CallTable;
  readonly ready: Promise<ControlResult<'hello'>>;
}

export class BlockdClient {
  readonly #options: BlockdClientOptions;
  #connection: Connection | undefined;
  #closed = false;

  constructor(options: BlockdClientOptions) {
    this.#options = options;
  }

  get socketPath(): string {
    return this.#options.socketPath;
  }

  /** What blockd said about itself on this connection. */
  async hello(options: CallOptions = {}): Promise<ControlResult<'hello'>> {
    if (options.signal?.aborted) throw new DvceError('CANCELLED', { what: 'hello' });
    return this.#connect().ready;
  }

  async call<M extends ControlMethod>(
    method: M,
    params: ControlParams<M>,
    options: CallOptions = {},
  ): Promise<ControlResult<M>> {
    if (this.#closed) throw this.#unavailable('the client was closed');
    const connection = this.#connect();
    const { socket, calls } = connection;
    socket.ref();
    try {
      await connection.ready;
      return (await calls.call(method, params, options)) as ControlResult<M>;
    } finally {
      if (calls.pending === 0) socket.unref();
    }
  }

  /** Resolves when the connection that `hello` or a call made is over; keeps the process alive until then. */
  async ended(): Promise<void> {
    const socket = this.#connection?.socket;
    if (socket === undefined || socket.destroyed) return;
    socket.ref();
    await new Promise<void>((resolve) => socket.once('close', () => resolve()));
  }

  #connect(): Connection {
    if (this.#connection !== undefined) return this.#connection;
    const socket = createConnection(this.#options.socketPath);
    const splitter = new LineSplitter('blockd');
    const calls = new CallTable({
      timers: this.#options.timers,
      peer: this.#options.socketPath,
      inFlightMax: limits.controlInFlightMax,
      post: (message) => void socket.write(encodeMessage(message)),
    });
    const lost = (error: DvceError): void => {
      if (this.#connection?.socket === socket) this.#connection = undefined;
      calls.fail(error);
      socket.destroy();
    };
    socket.on('data', (chunk: Buffer) => {
      try {
        for (const line of splitter.push(chunk)) calls.receive(decodeMessage(line, 'blockd'));
      } catch (error) {
        lost(toDvceError(error));
      }
    });
    socket.on('error', (error) => lost(this.#unavailable(reasonOf(error), error)));
    socket.on('close', () => lost(this.#unavailable('the connection was closed')));
    const ready = this.#hello(calls, lost);
    const connection = { socket, calls, ready };
    this.#connection = connection;
    return connection;
  }

  async #hello(
    calls: CallTable,
    lost: (error: DvceError) => void,
  ): Promise<ControlResult<'hello'>> {
    const own = this.#options.version ?? controlVersion;
    try {
      const answer = await calls.call(
        'hello',
        { version: own },
        { timeoutMs: limits.controlHelloMs },
      );
      if (!isHello(answer))
        throw new DvceError('PROTOCOL', { peer: 'blockd', reason: 'its hello is incomplete' });
      acceptVersion(own, answer.version, 'blockd');
      return answer;
    } catch (error) {
      const known = toDvceError(error);
      lost(known.code === 'TIMED_OUT' ? this.#unavailable(known.message, known) : known);
      throw known;
    }
  }

  #unavailable(reason: string, cause?: unknown): DvceError {
    return new DvceError('BLOCKD_UNAVAILABLE', { where: this.#options.socketPath, reason }, cause);
  }

  /** End the connection; calls under way fail. */
  close(): void {
    this.#closed = true;
    this.#connection?.socket.destroy(this.#unavailable('the client was closed'));
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function reasonOf(error: Error): string {
  const code = systemCode(error);
  if (code === 'ENOENT') return 'its socket does not exist';
  if (code === 'ECONNREFUSED') return 'nobody listens on its socket';
  if (code === 'EACCES') return 'this user may not open its socket';
  return error.message;
}

function isHello(value: unknown): value is ControlResult<'hello'> {
  return (
    isRecord(value) &&
    typeof value['version'] === 'number' &&
    typeof value['release'] === 'string' &&
    typeof value['pid'] === 'number'
  );
}
