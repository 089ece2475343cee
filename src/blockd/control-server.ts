/**
 * The server of the control protocol: a unix socket (mode 0660: the group may control blockd), lines of JSON.
 *
 * Invariants:
 * - nothing but `hello` is answered before the versions were agreed; a connection that does not say hello in time is dropped;
 * - at most controlConnectionsMax connections and controlInFlightMax requests of each run at a time; beyond it the socket is
 *   not read (back-pressure), and neither is it while the peer does not take its answers;
 * - a message that is too long, or not a message, ends the connection; a bad request is answered with an error.
 */
import { chmodSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import {
  DvceError,
  type Logger,
  limits,
  systemCode,
  type Timer,
  type Timers,
  toDvceError,
} from '../base/index.ts';
import { type CallContext, Dispatcher, encodeError, type Message } from './calls.ts';
import { decodeMessage, encodeMessage, LineSplitter } from './lines.ts';
import {
  type ControlMethod,
  type ControlParams,
  type ControlResult,
  controlVersion,
} from './protocol.ts';
import { checkParams, isControlMethod } from './schemas.ts';
import { negotiateVersion } from './versions.ts';

export type ControlHandlers = {
  readonly [M in Exclude<ControlMethod, 'hello'>]: (
    params: ControlParams<M>,
    context: CallContext,
  ) => Promise<ControlResult<M>>;
};

export interface ControlServerOptions {
  readonly socketPath: string;
  readonly handlers: ControlHandlers;
  readonly logger: Logger;
  readonly timers: Timers;
  readonly release: string;
  /** For tests of other versions. */
  readonly version?: number;
}

/** Answers waiting in a connection's socket before its next requests are read, bytes. */
const backlogBytesMax = limits.controlMessageBytesMax * 2;

class ControlConnection {
  readonly #socket: Socket;
  readonly #options: ControlServerOptions;
  readonly #splitter = new LineSplitter('the client of the control socket');
  readonly #dispatcher: Dispatcher;
  readonly #helloTimer: Timer;
  /** Requests read but not started because the limit was reached. */
  readonly #waiting: Message[] = [];
  #agreed = false;

  constructor(socket: Socket, options: ControlServerOptions) {
    this.#socket = socket;
    this.#options = options;
    this.#dispatcher = new Dispatcher({
      handler: (method, params, context) => this.#handle(method, params, context),
      post: (message) => this.#post(message),
      onSettled: () => this.#advance(),
    });
    this.#helloTimer = options.timers.after(limits.controlHelloMs, () =>
      this.#drop(new DvceError('TIMED_OUT', { what: 'hello', ms: limits.controlHelloMs })),
    );
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('drain', () => this.#advance());
    socket.on('error', (error) =>
      options.logger.debug({ err: error }, 'control connection failed'),
    );
    socket.on('close', () => {
      this.#helloTimer.cancel();
      this.#waiting.length = 0;
      this.#dispatcher.end();
    });
  }

  get running(): number {
    return this.#dispatcher.running;
  }

  #receive(chunk: Buffer): void {
    try {
      for (const line of this.#splitter.push(chunk)) {
        const message = decodeMessage(line, 'the client');
        // A cancel is never behind the requests that wait: it may be what makes room for them.
        if (typeof message['cancel'] === 'number') this.#cancel(message['cancel'], message);
        else this.#waiting.push(message);
      }
      this.#advance();
    } catch (error) {
      this.#drop(toDvceError(error));
    }
  }

  #cancel(id: number, message: Message): void {
    const at = this.#waiting.findIndex((waiting) => waiting['id'] === id);
    if (at < 0) {
      this.#dispatcher.receive(message);
      return;
    }
    this.#waiting.splice(at, 1);
    this.#post({ id, error: encodeError(new DvceError('CANCELLED', { what: 'the request' })) });
  }

  /** Start what may start; stop or go on reading. One chunk's worth of waiting requests is the bound. */
  #advance(): void {
    try {
      while (this.#waiting.length > 0 && !this.#full())
        this.#dispatcher.receive(this.#waiting.shift() ?? {});
    } catch (error) {
      this.#drop(toDvceError(error));
      return;
    }
    if (this.#waiting.length > 0 || this.#backlogged()) this.#socket.pause();
    else this.#socket.resume();
  }

  #backlogged(): boolean {
    return this.#socket.writableLength > backlogBytesMax;
  }

  #full(): boolean {
    return this.#dispatcher.running >= limits.controlInFlightMax || this.#backlogged();
  }

  async #handle(method: string, params: unknown, context: CallContext): Promise<unknown> {
    if (!this.#agreed || method === 'hello') return this.#hello(method, params);
    if (!isControlMethod(method) || method === 'hello')
      throw new DvceError('UNSUPPORTED', {
        what: `the method ${JSON.stringify(method.slice(0, 80))}`,
        reason: 'this release of blockd does not know it',
        advice: 'Update blockd.',
      });
    return this.#dispatch(method, params, context);
  }

  async #dispatch<M extends Exclude<ControlMethod, 'hello'>>(
    method: M,
    params: unknown,
    context: CallContext,
  ): Promise<unknown> {
    try {
      return await this.#options.handlers[method](checkParams(method, params), context);
    } catch (error) {
      const known = toDvceError(error);
      const fields = { method, code: known.code, err: error };
      if (known.code === 'INTERNAL') this.#options.logger.error(fields, 'a control request failed');
      else this.#options.logger.debug(fields, 'a control request was refused');
      throw error;
    }
  }

  #hello(method: string, params: unknown): object {
    if (method !== 'hello')
      throw new DvceError('PROTOCOL', {
        peer: 'the client',
        reason: `its first request was ${JSON.stringify(method.slice(0, 80))}, not hello`,
      });
    const { version } = checkParams('hello', params);
    const own = this.#options.version ?? controlVersion;
    const agreed = negotiateVersion(own, version, 'blockd');
    this.#agreed = true;
    this.#helloTimer.cancel();
    return { version: agreed, release: this.#options.release, pid: process.pid };
  }

  #post(message: object): void {
    let line: Buffer;
    try {
      line = encodeMessage(message);
    } catch (error) {
      const id = 'id' in message ? message.id : undefined;
      line = encodeMessage({ id, error: encodeError(error) });
    }
    // Progress is a convenience: a peer that does not read gets none.
    if ('progress' in message && this.#socket.writableLength > 0) return;
    this.#socket.write(line);
  }

  #drop(error: DvceError): void {
    this.#options.logger.warn({ code: error.code, err: error }, 'control connection dropped');
    this.#socket.end(encodeMessage({ id: 0, error: encodeError(error) }));
    this.#socket.destroySoon();
  }

  close(): void {
    this.#socket.destroySoon();
  }
}

export class ControlServer {
  readonly #options: ControlServerOptions;
  readonly #server: Server;
  readonly #connections = new Set<ControlConnection>();

  constructor(options: ControlServerOptions) {
    this.#options = options;
    this.#server = createServer((socket) => this.#accept(socket));
    this.#server.maxConnections = limits.controlConnectionsMax;
  }

  /** The caller holds the lock of the data directory (N3), so a socket file that is there is a stale one. */
  async listen(): Promise<void> {
    const { socketPath } = this.#options;
    rmSync(socketPath, { force: true });
    await new Promise<void>((resolve, reject) => {
      const fail = (error: Error): void => {
        const inUse = systemCode(error) === 'EADDRINUSE';
        reject(inUse ? new DvceError('ADDRESS_IN_USE', { where: socketPath }, error) : error);
      };
      this.#server.once('error', fail);
      this.#server.listen(socketPath, () => {
        this.#server.removeListener('error', fail);
        this.#server.on('error', (error) =>
          this.#options.logger.error({ err: error }, 'the control socket failed'),
        );
        resolve();
      });
    });
    chmodSync(socketPath, 0o660);
  }

  #accept(socket: Socket): void {
    const connection = new ControlConnection(socket, this.#options);
    this.#connections.add(connection);
    socket.on('close', () => this.#connections.delete(connection));
  }

  get connections(): number {
    return this.#connections.size;
  }

  /** Stop accepting; connections end after what they still have to send. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const connection of this.#connections) connection.close();
    await closed;
  }
}
