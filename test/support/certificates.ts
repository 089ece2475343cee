/** Throw-away certificates, made with openssl at test time. */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface Certificates {
  readonly directory: string;
  readonly authority: Buffer;
  readonly serverCertificate: Buffer;
  readonly serverKey: Buffer;
  readonly clientCertificate: Buffer;
  readonly clientKey: Buffer;
}

/** Authority, server (`localhost`, 127.0.0.1) and client, in the layout that QEMU and libnbd expect; null without openssl. */
export function makeCertificates(directory: string): Certificates | null {
  const at = (name: string): string => join(directory, name);
  const openssl = (...words: string[]): void => {
    execFileSync('openssl', words, { stdio: 'pipe', cwd: directory });
  };
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  const issue = (name: string, extensions: string): void => {
    writeFileSync(at(`${name}.ext`), extensions);
    openssl(
      'req',
      ...key,
      '-subj',
      `/CN=${name}`,
      '-keyout',
      at(`${name}-key.pem`),
      '-out',
      at(`${name}.csr`),
    );
    const authority = ['-CA', at('ca-cert.pem'), '-CAkey', at('ca-key.pem'), '-CAcreateserial'];
    openssl(
      'x509',
      '-req',
      '-in',
      at(`${name}.csr`),
      ...authority,
      '-days',
      '2',
      '-extfile',
      at(`${name}.ext`),
      '-out',
      at(`${name}-cert.pem`),
    );
  };
  try {
    openssl(
      'req',
      '-x509',
      ...key,
      '-subj',
      '/CN=test authority',
      '-days',
      '2',
      '-keyout',
      at('ca-key.pem'),
      '-out',
      at('ca-cert.pem'),
    );
    issue('server', 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n');
    issue('client', 'extendedKeyUsage=clientAuth\n');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw error;
  }
  return {
    directory,
    authority: readFileSync(at('ca-cert.pem')),
    serverCertificate: readFileSync(at('server-cert.pem')),
    serverKey: readFileSync(at('server-key.pem')),
    clientCertificate: readFileSync(at('client-cert.pem')),
    clientKey: readFileSync(at('client-key.pem')),
  };
}
