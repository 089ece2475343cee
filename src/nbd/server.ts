/**
 * The NBD server: accepts connections, hands each to its `Connection`, closes them.
 *
 * Invariants
 * - At most limits.nbdConnectionsMax connections; at most limits.nbdHalfOpenMax of them without an export.
 * - A TCP socket without TLS is listened on only when the caller says so in as many words.
 * - `close` ends within limits.nbdCloseMs: what has not finished by then is dropped.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { DvceError, type Logger, limits, type Timers } from '../base/index.ts';
import { Connection, type ConnectionHost } from './connection.ts';
import type { ExportProvider } from './exports.ts';
import { listen, listenOnUnixSocket, type UnixSocketOptions } from './listen.ts';
import type { RequestMeter } from './request-meter.ts';
import type { ServerTls } from './server-tls.ts';
import type { TurnShare } from './turns.ts';

export interface NbdServerOptions {
  readonly exports: ExportProvider;
  readonly timers: Timers;
  readonly logger: Logger;
  readonly tls?: ServerTls;
  /** Serve clients over TCP that do not speak fixed newstyle; on unix sockets they always are. */
  readonly allowExportNameOnPlain?: boolean;
  /** Smaller limits than those of the table, for tests and small machines. */
  readonly inFlightPerConnection?: number;
  readonly bytesPerConnection?: number;
  readonly connectionsMax?: number;
  /** Takes the time of every request that a backend answers. */
  readonly meter?: RequestMeter;
  /** Where other servers of the thread have the same claim to its time. */
  readonly share?: TurnShare;
}

export interface TcpOptions {
  /** Required to listen without TLS: everybody who reaches the port may open every export. */
  readonly allowPlainText?: boolean;
}

/**
 * @example
 * const server = new NbdServer({ exports: fixedExport(backend), timers: systemTimers, logger })
 * await server.listenUnix('/run/dvce/disk.sock', { mode: 0o660 })
 * await server.close({ graceful: true })
 */
export class NbdServer {
  readonly #options: NbdServerOptions;
  readonly #host: ConnectionHost;
  readonly #listeners = new Set<Server>();
  readonly #connections = new Set<Connection>();
  /** Those without an export, oldest first. */
  readonly #halfOpen = new Set<Connection>();
  #closing = false;
  #closed: Promise<void> | null = null;
  #allGone: (() => void) | null = null;

  constructor(options: NbdServerOptions) {
    this.#options = options;
    this.#host = {
      provider: options.exports,
      timers: options.timers,
      logger: options.logger,
      tls: options.tls ?? null,
      allowExportNameOnPlain: options.allowExportNameOnPlain ?? false,
      inFlightMax: options.inFlightPerConnection ?? limits.nbdInFlightPerConnection,
      bytesInFlightMax: options.bytesPerConnection ?? limits.nbdBytesPerConnection,
      budget: { bytes: 0, bytesMax: limits.nbdBytesPerServer },
      meter: options.meter ?? null,
      share: options.share ?? null,
      shuttingDown: () => this.#closing,
      chosen: (connection) => void this.#halfOpen.delete(connection),
      gone: (connection) => this.#gone(connection),
    };
  }

  get connections(): ReadonlySet<Connection> {
    return this.#connections;
  }

  /** Serve an accepted socket, whoever accepted it. */
  serve(socket: Socket): void {
    const connectionsMax = this.#options.connectionsMax ?? limits.nbdConnectionsMax;
    if (this.#closing || this.#connections.size >= connectionsMax) {
      this.#options.logger.warn({ connections: this.#connections.size }, 'nbd connection refused');
      socket.destroy();
      return;
    }
    const connection = new Connection(socket, this.#host);
    this.#connections.add(connection);
    this.#halfOpen.add(connection);
    if (this.#halfOpen.size <= limits.nbdHalfOpenMax) return;
    const [oldest] = this.#halfOpen;
    oldest?.destroy('too many connections without an export');
  }

  async listenUnix(path: string, options: UnixSocketOptions): Promise<void> {
    const server = this.#create();
    await listenOnUnixSocket(server, path, options);
    this.#listeners.add(server);
  }

  /** @returns the port, which is of interest when 0 was given */
  async listenTcp(host: string, port: number, options: TcpOptions = {}): Promise<number> {
    if (this.#options.tls === undefined && options.allowPlainText !== true)
      throw new DvceError('NOT_ALLOWED', {
        what: `an NBD export on ${host}:${port} without TLS`,
        reason: 'everybody who reaches the port could read and write it',
        advice: 'Configure TLS, or allow plain text explicitly.',
      });
    const server = this.#create();
    await listen(server, { host, port }, `${host}:${port}`);
    this.#listeners.add(server);
    const address = server.address();
    return typeof address === 'object' && address !== null ? address.port : port;
  }

  /** Listen on a socket that a supervisor opened (`activatedSocket`). */
  async listenDescriptor(fd: number): Promise<void> {
    const server = this.#create();
    await listen(server, { fd }, `file descriptor ${fd}`);
    this.#listeners.add(server);
  }

  /**
   * Stop serving. Graceful: requests already read are finished, made stable and answered, no error is sent for the rest
   * (clients reconnect and ask again), negotiating clients are told that the server shuts down. Otherwise every
   * connection is dropped at once. Either way it resolves when every export has been released.
   */
  close({ graceful }: { readonly graceful: boolean }): Promise<void> {
    this.#closed ??= this.#close();
    for (const connection of [...this.#connections]) {
      if (graceful) connection.drain();
      else connection.destroy('the server closes');
    }
    return this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close({ graceful: false });
  }

  async #close(): Promise<void> {
    this.#closing = true;
    for (const listener of this.#listeners) listener.close();
    const deadline = this.#options.timers.after(limits.nbdCloseMs, () => {
      for (const connection of [...this.#connections]) connection.destroy('closing took too long');
    });
    await new Promise<void>((resolve) => {
      this.#allGone = resolve;
      this.#endIfAllGone();
    });
    deadline.cancel();
  }

  #create(): Server {
    const server = createServer({ allowHalfOpen: true, noDelay: true, keepAlive: true });
    server.on('connection', (socket) => this.serve(socket));
    return server;
  }

  #gone(connection: Connection): void {
    this.#connections.delete(connection);
    this.#halfOpen.delete(connection);
    if (this.#closing) this.#endIfAllGone();
  }

  /** Negotiating clients are told to go while others finish; then they are dropped. */
  #endIfAllGone(): void {
    if (this.#connections.size > this.#halfOpen.size) return;
    if (this.#connections.size === 0) this.#allGone?.();
    else for (const connection of [...this.#halfOpen]) connection.destroy('the server closes');
  }
}
