/** Connecting to an NBD server: TCP or unix socket, TLS, negotiation; one deadline over all of it. */
import { connect, type LookupFunction, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { DvceError, limits, type Timers, toDvceError } from '../base/index.ts';
import { NbdClient } from './client.ts';
import {
  askForTls,
  type ByteSource,
  negotiate,
  protocolError,
  readGreeting,
} from './client-handshake.ts';

export interface NbdClientOptions {
  /** Unix socket, or host and port. */
  readonly address:
    | { readonly path: string }
    /** `lookup`: in place of `dns.lookup`. */
    | { readonly host: string; readonly port: number; readonly lookup?: LookupFunction };
  readonly exportName: string;
  readonly timers: Timers;
  /** Speak TLS, with the authority that signed the server and, where it asks for one, a certificate of our own (PEM). */
  readonly tls?: {
    readonly authority: string | Buffer;
    readonly serverName: string;
    readonly certificate?: string | Buffer;
    readonly key?: string | Buffer;
  };
  /** Default true: error texts, holes and extents. */
  readonly structured?: boolean;
  /** Default true: fall back to structured replies where the server does not know extended headers. */
  readonly extended?: boolean;
  readonly signal?: AbortSignal;
}

/**
 * @example
 * const remote = await connectNbd({ address: { path }, exportName: '', timers: systemTimers })
 * remote.read(0, 512, (error, parts) => {})
 */
export async function connectNbd(options: NbdClientOptions): Promise<NbdClient> {
  const { address, signal } = options;
  const where = 'path' in address ? address.path : `${address.host}:${address.port}`;
  signal?.throwIfAborted();
  let stream = connect('path' in address ? { path: address.path } : { ...address, noDelay: true });
  let failed: (error: Error) => void = () => {};
  const failure = new Promise<never>((_, reject) => {
    failed = reject;
  });
  const ms = limits.nbdClientConnectMs;
  const deadline = options.timers.after(ms, () =>
    failed(new DvceError('TIMED_OUT', { what: `connecting to the NBD server at ${where}`, ms })),
  );
  const onAbort = (): void =>
    failed(new DvceError('CANCELLED', { what: `connecting to ${where}` }));
  signal?.addEventListener('abort', onAbort, { once: true });
  const fail = (error: Error): void => failed(connectFailed(where, error));
  const open = async (): Promise<NbdClient> => {
    let source = streamSource(stream, where, fail);
    await readGreeting(source, where);
    if (options.tls !== undefined) {
      await askForTls(source, where);
      source.detach();
      stream = await secure(stream, options.tls, fail);
      source = streamSource(stream, where, fail);
    }
    const facts = await negotiate(source, {
      exportName: options.exportName,
      where,
      structured: options.structured ?? true,
      extended: options.extended ?? true,
    });
    return new NbdClient(stream, facts, where, options.timers, source.detach());
  };
  try {
    return await Promise.race([open(), failure]);
  } catch (error) {
    stream.destroy();
    throw error instanceof DvceError ? error : connectFailed(where, error);
  } finally {
    deadline.cancel();
    signal?.removeEventListener('abort', onAbort);
    failure.catch(() => {}); // it lost the race: nobody waits for it any more
  }
}

const connectFailed = (where: string, error: unknown): DvceError =>
  new DvceError(
    'IO_FAILED',
    { what: 'connecting to the NBD server', where, reason: toDvceError(error).message },
    error,
  );

function secure(
  plain: Socket,
  tls: NonNullable<NbdClientOptions['tls']>,
  failed: (error: Error) => void,
): Promise<Socket> {
  return new Promise((resolve) => {
    const secured = connectTls(
      {
        socket: plain,
        ca: tls.authority,
        servername: tls.serverName,
        minVersion: 'TLSv1.2',
        ...(tls.certificate === undefined ? {} : { cert: tls.certificate }),
        ...(tls.key === undefined ? {} : { key: tls.key }),
      },
      () => resolve(secured),
    );
    secured.on('error', failed);
  });
}

interface DetachableSource extends ByteSource {
  /** Stop; what was received and not asked for comes back. */
  detach(): Buffer;
}

/** Bytes of a socket on demand, for the handshake, where one request is outstanding at a time. */
function streamSource(
  stream: Socket,
  where: string,
  failed: (error: Error) => void,
): DetachableSource {
  let received = Buffer.alloc(0);
  let wanted = 0;
  let wake: ((bytes: Buffer) => void) | null = null;
  const serve = (): void => {
    if (wake === null || received.length < wanted) return;
    const bytes = received.subarray(0, wanted);
    received = received.subarray(wanted);
    const resolve = wake;
    wake = null;
    resolve(bytes);
  };
  const onData = (bytes: Buffer): void => {
    received = Buffer.concat([received, bytes]);
    serve();
  };
  const onClose = (): void => failed(protocolError(where, 'it closed the connection'));
  stream.on('data', onData);
  stream.on('error', failed);
  stream.on('close', onClose);
  return {
    read: (lengthBytes) =>
      new Promise((resolve) => {
        wanted = lengthBytes;
        wake = resolve;
        serve();
      }),
    write: (bytes) => void stream.write(bytes),
    detach() {
      stream.pause();
      stream.removeListener('data', onData);
      stream.removeListener('close', onClose);
      return received;
    },
  };
}
