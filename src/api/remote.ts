/**
 * An agent on another host: HTTPS with a bearer token.
 *
 * Invariant: nothing, and so no token, is sent before the certificate was found to be the right one: by its fingerprint when one is
 * given (of a certificate that signs itself), else by the authorities given, else by those that Node knows. TLS is connected first,
 * and the request is made on the connection that was checked.
 */
import type { TLSSocket } from 'node:tls';
import { DvceError, systemCode } from '../base/errors.ts';
import { limits } from '../base/limits.ts';

export interface Remote {
  /** `https://host:port` */
  readonly url: string;
  readonly token: string;
  /** PEM of the authorities to trust instead of the usual ones. */
  readonly authorities?: string | undefined;
  /** SHA-256 of the certificate, hexadecimal; colons may be there. */
  readonly fingerprint?: string | undefined;
}

/** `https://host:port` and nothing else: no user, no path, no query. @throws INVALID_ARGUMENT */
export function parseRemoteUrl(text: string): { host: string; port: number } {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const rest = url === undefined ? '?' : `${url.username}${url.password}${url.search}${url.hash}`;
  if (url?.protocol !== 'https:' || url.pathname !== '/' || rest !== '' || url.hostname === '')
    throw new DvceError('INVALID_ARGUMENT', {
      what: 'the address of the agent',
      reason: 'it is not https://HOST:PORT',
      advice: 'For example https://host1.example:8443. Tokens do not belong into addresses.',
    });
  const port = url.port === '' ? 443 : Number(url.port);
  return { host: url.hostname.replace(/^\[(.*)\]$/, '$1'), port };
}

/** Hexadecimal digits without colons. @throws INVALID_ARGUMENT */
export function parseFingerprint(text: string): string {
  const digits = text
    .replace(/^sha256:/i, '')
    .replaceAll(':', '')
    .toLowerCase();
  if (!/^[0-9a-f]{64}$/.test(digits))
    throw new DvceError('INVALID_ARGUMENT', {
      what: 'the fingerprint',
      reason: 'it is not a SHA-256 in 64 hexadecimal digits',
      advice: 'The log of the agent has it, and the answer of: dvce token create',
    });
  return digits;
}

/** A connection to an agent that showed the right certificate. */
export async function connectRemote(remote: Remote, signal: AbortSignal): Promise<TLSSocket> {
  const { connect } = await import('node:tls');
  const { isIP } = await import('node:net');
  const { host, port } = parseRemoteUrl(remote.url);
  const pinned =
    remote.fingerprint === undefined ? undefined : parseFingerprint(remote.fingerprint);
  return new Promise((resolve, reject) => {
    const socket = connect({
      host,
      port,
      ALPNProtocols: ['http/1.1'],
      minVersion: 'TLSv1.2',
      // With a fingerprint the comparison below is the whole check.
      rejectUnauthorized: pinned === undefined,
      ...(isIP(host) === 0 ? { servername: host } : {}),
      ...(remote.authorities === undefined ? {} : { ca: remote.authorities }),
    });
    const fail = (error: unknown): void => {
      socket.destroy();
      signal.removeEventListener('abort', onAbort);
      reject(error);
    };
    const onAbort = (): void => fail(signal.reason);
    if (signal.aborted) return onAbort();
    signal.addEventListener('abort', onAbort, { once: true });
    socket.setTimeout(limits.apiHeadersMs, () => fail(unreachable(remote, 'it does not answer')));
    socket.once('error', (error) => fail(explain(remote, error)));
    socket.once('secureConnect', () => {
      const shown = socket.getPeerCertificate().fingerprint256?.replaceAll(':', '').toLowerCase();
      if (pinned !== undefined && shown !== pinned)
        return fail(unreachable(remote, `its certificate has another fingerprint: ${shown}`));
      socket.setTimeout(0);
      signal.removeEventListener('abort', onAbort);
      resolve(socket);
    });
  });
}

const unreachable = (remote: Remote, reason: string, cause?: unknown): DvceError =>
  new DvceError('REMOTE_UNAVAILABLE', { where: remote.url, reason }, cause);

function explain(remote: Remote, error: Error): DvceError {
  const reasons: Readonly<Record<string, string>> = {
    ENOTFOUND: 'its name is not known',
    ECONNREFUSED: 'nobody listens there',
    ECONNRESET: 'it closed the connection',
    EHOSTUNREACH: 'there is no way to it',
    ETIMEDOUT: 'it does not answer',
    DEPTH_ZERO_SELF_SIGNED_CERT: 'its certificate signs itself; give its fingerprint',
    SELF_SIGNED_CERT_IN_CHAIN: 'its authority is not known; give its file',
    UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'its authority is not known; give its file',
    ERR_TLS_CERT_ALTNAME_INVALID: 'its certificate is for another name',
    CERT_HAS_EXPIRED: 'its certificate has expired',
  };
  return unreachable(remote, reasons[systemCode(error) ?? ''] ?? error.message, error);
}
