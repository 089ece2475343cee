/**
 * TLS on an accepted connection, after STARTTLS.
 *
 * The socket is handed to a `tls.Server` that never listens: that is the documented way which also verifies client
 * certificates. One such server serves one connection, so that its events belong to it.
 */
import type { Socket } from 'node:net';
import { createServer, type TLSSocket } from 'node:tls';
import { limits } from '../base/index.ts';
import type { PeerFacts } from './exports.ts';

export interface ServerTls {
  /** `optional`: a client may stay in plain text for exports that allow it; `required`: nothing without TLS. */
  readonly mode: 'optional' | 'required';
  /** PEM. */
  readonly certificate: string | Buffer;
  readonly key: string | Buffer;
  /** Certificates that sign clients; with them a client must present one. */
  readonly clientAuthority?: string | Buffer;
}

export function secureServerSide(
  socket: Socket,
  settings: ServerTls,
  secured: (socket: TLSSocket) => void,
  failed: (error: Error) => void,
): void {
  const authority = settings.clientAuthority;
  const server = createServer({
    cert: settings.certificate,
    key: settings.key,
    minVersion: 'TLSv1.2',
    handshakeTimeout: limits.nbdHandshakeMs,
    requestCert: authority !== undefined,
    rejectUnauthorized: authority !== undefined,
    ...(authority === undefined ? {} : { ca: authority }),
  });
  server.on('secureConnection', secured);
  server.on('tlsClientError', failed);
  server.emit('connection', socket);
}

/** Facts of a verified client certificate, or null when none was asked for. */
export function certificateOf(socket: TLSSocket): PeerFacts['certificate'] {
  const certificate = socket.authorized ? socket.getPeerX509Certificate() : undefined;
  if (certificate === undefined) return null;
  return { subject: certificate.subject, fingerprint256: certificate.fingerprint256 };
}
