/**
 * One client: its socket, its phase, its export.
 *
 * Invariants
 * - The export is released once, after its last request has left the backend, however the connection ends.
 * - The first event that shows the connection dead (end without DISC, error, close) reaches the transmission phase in
 *   the same turn (rule N6).
 * - An idle client is never timed out; only the handshake has a deadline.
 *
 *   phase        input goes to          ends by
 *   handshake    Handshake              GO, EXPORT_NAME -> transmission; STARTTLS -> securing; deadline, ABORT -> closed
 *   securing     the TLS layer          secured -> handshake; failure, deadline -> closed
 *   transmission Transmission           DISC, drain, loss -> closed
 */
import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import {
  growSendBuffer,
  type Logger,
  limits,
  type Timer,
  type Timers,
  toDvceError,
} from '../base/index.ts';
import type { ReplyMode } from './constants.ts';
import type { ExportProvider, OpenedExport, PeerFacts } from './exports.ts';
import { Handshake } from './handshake.ts';
import { intoMemory } from './input-memory.ts';
import type { RequestMeter } from './request-meter.ts';
import { certificateOf, type ServerTls, secureServerSide } from './server-tls.ts';
import { Transmission } from './transmission.ts';
import type { TurnShare } from './turns.ts';

export interface ConnectionHost {
  readonly provider: ExportProvider;
  readonly timers: Timers;
  readonly logger: Logger;
  readonly tls: ServerTls | null;
  readonly allowExportNameOnPlain: boolean;
  readonly inFlightMax: number;
  readonly bytesInFlightMax: number;
  readonly budget: { bytes: number; readonly bytesMax: number };
  readonly meter: RequestMeter | null;
  readonly share: TurnShare | null;
  shuttingDown(): boolean;
  /** The connection has chosen an export. */
  chosen(connection: Connection): void;
  /** Socket closed and export released. */
  gone(connection: Connection): void;
}

/** -1 when there is none: the call then fails, and nothing is lost by that. */
function descriptorOf(socket: Socket): number {
  // Node keeps it here; it is not part of the types.
  const { _handle: handle } = socket as { readonly _handle?: { readonly fd?: number } | null };
  return handle?.fd ?? -1;
}

export class Connection {
  readonly #host: ConnectionHost;
  #socket: Socket;
  #tls: TLSSocket | null = null;
  readonly #transport: 'unix' | 'tcp';
  readonly #address: string;
  readonly #handshake: Handshake;
  #deadline: Timer | null;
  #transmission: Transmission | null = null;
  #opened: OpenedExport | null = null;
  #draining = false;
  #socketClosed = false;
  #released = false;

  constructor(accepted: Socket, host: ConnectionHost) {
    this.#host = host;
    // TLS takes the handle of a socket that has `data` events.
    const socket =
      host.tls !== null
        ? accepted
        : intoMemory(accepted, {
            room: () => this.#transmission?.inputRoom ?? null,
            received: (bytes) => this.#received(bytes),
          });
    this.#socket = socket;
    this.#transport = socket.remoteAddress === undefined ? 'unix' : 'tcp';
    this.#address =
      socket.remoteAddress === undefined ? '' : `${socket.remoteAddress}:${socket.remotePort}`;
    // End of input is for us to judge: a client that said DISC still gets its replies.
    socket.allowHalfOpen = true;
    this.#deadline = host.timers.after(limits.nbdHandshakeMs, () =>
      this.destroy('the handshake took too long'),
    );
    this.#handshake = this.#createHandshake();
    this.#listen(socket);
    this.#handshake.greet();
  }

  /** What the connection has chosen, or null while it negotiates. */
  get opened(): OpenedExport | null {
    return this.#opened;
  }

  get requestsInFlight(): number {
    return this.#transmission?.requestsInFlight ?? 0;
  }

  get peer(): PeerFacts {
    return {
      transport: this.#transport,
      address: this.#address,
      tls: this.#tls !== null,
      certificate: this.#tls === null ? null : certificateOf(this.#tls),
    };
  }

  /** Read nothing more, finish what was read, make it stable, close. No error is sent. */
  drain(): void {
    this.#draining = true;
    this.#transmission?.drain();
  }

  destroy(reason: string): void {
    this.#host.logger.debug({ peer: this.#address, reason }, 'nbd connection dropped');
    this.#lost();
    this.#socket.destroy();
  }

  #createHandshake(): Handshake {
    const host = this.#host;
    return new Handshake({
      provider: host.provider,
      tlsMode: host.tls?.mode ?? 'none',
      allowOldClients: this.#transport === 'unix' || host.allowExportNameOnPlain,
      peer: () => this.peer,
      shuttingDown: () => host.shuttingDown(),
      send: (bytes) => void this.#socket.write(bytes),
      end: () => this.#end(),
      destroy: (reason) => this.destroy(reason),
      startTls: () => this.#startTls(),
      transmit: (opened, mode, blockStatus, rest) =>
        this.#transmit(opened, mode, blockStatus, rest),
      ready: (ready) => void (ready ? this.#socket.resume() : this.#socket.pause()),
      released: (released) => this.#settle(released),
    });
  }

  #listen(socket: Socket): void {
    socket.on('data', (bytes: Buffer) => this.#received(bytes));
    socket.on('end', () => {
      if (this.#transmission?.expectsEnd !== true) this.destroy('the client closed');
    });
    socket.on('error', (error) => this.destroy(error.message));
    socket.on('close', () => {
      this.#socketClosed = true;
      this.#lost();
      this.#reportGone();
    });
  }

  #received(bytes: Buffer): void {
    if (this.#transmission === null) this.#handshake.receive(bytes);
    else this.#transmission.receive(bytes);
  }

  #startTls(): void {
    const plain = this.#socket;
    const { tls } = this.#host;
    if (tls === null) {
      this.destroy('no TLS configured');
      return;
    }
    plain.pause();
    plain.removeAllListeners('data');
    plain.removeAllListeners('end');
    secureServerSide(
      plain,
      tls,
      (secured) => {
        plain.removeAllListeners('close');
        this.#socket = secured;
        this.#tls = secured;
        this.#listen(secured);
      },
      (error) => this.destroy(error.message),
    );
  }

  #transmit(opened: OpenedExport, mode: ReplyMode, blockStatus: boolean, rest: Buffer): void {
    const host = this.#host;
    this.#deadline?.cancel();
    this.#deadline = null;
    this.#opened = opened;
    if (this.#transport === 'unix')
      growSendBuffer(descriptorOf(this.#socket), limits.nbdSendBufferBytes);
    this.#transmission = new Transmission(
      {
        socket: this.#socket,
        timers: host.timers,
        inFlightMax: host.inFlightMax,
        bytesInFlightMax: host.bytesInFlightMax,
        budget: host.budget,
        meter: host.meter,
        throttle: opened.throttle ?? null,
        share: host.share,
        pause: () => void this.#socket.pause(),
        resume: () => void this.#socket.resume(),
        end: () => this.#finished(),
        destroy: (reason) => this.destroy(reason),
        idle: () => this.#release(),
      },
      opened.backend,
      { mode, blockStatus },
    );
    host.chosen(this);
    // The handshake stopped reading while it worked on the choice.
    this.#socket.resume();
    if (this.#draining) this.#transmission.drain();
    else if (rest.length > 0) this.#transmission.receive(rest);
  }

  /** Everything that was asked is answered. */
  #finished(): void {
    const backend = this.#opened?.backend;
    if (!this.#draining || backend === undefined || backend.caps.readOnly) {
      this.#end();
      return;
    }
    backend.flush((error) => {
      if (error !== null)
        this.#host.logger.warn({ code: error.code }, `flush at shutdown failed: ${error.message}`);
      this.#end();
    });
  }

  #end(): void {
    const socket = this.#socket;
    if (socket.destroyed) return;
    socket.end(() => socket.destroy());
  }

  #lost(): void {
    this.#deadline?.cancel();
    this.#deadline = null;
    this.#handshake.close();
    if (this.#transmission === null) this.#released = true;
    else this.#transmission.dead();
  }

  #release(): void {
    const opened = this.#opened;
    if (opened === null || this.#released) return;
    this.#released = true;
    this.#settle(opened.release());
    this.#reportGone();
  }

  #settle(released: void | Promise<void>): void {
    if (!(released instanceof Promise)) return;
    released.catch((error: unknown) => {
      const { code, message } = toDvceError(error);
      this.#host.logger.error({ code }, `releasing an NBD export failed: ${message}`);
    });
  }

  #reportGone(): void {
    if (this.#socketClosed && this.#released) this.#host.gone(this);
  }
}
