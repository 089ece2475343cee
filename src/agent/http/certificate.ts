/**
 * The certificate of the HTTPS door: files that the operator names, or one that signs itself, made at the first start and kept.
 *
 * Node can sign but not write certificates, so the few structures of X.509 v3 (RFC 5280) that a server needs are written
 * here: P-256, ECDSA with SHA-256, the names and addresses of this host. A client trusts it by its fingerprint or by the file.
 */
import { createSign, generateKeyPairSync, type KeyObject, X509Certificate } from 'node:crypto';
import { chmod, mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { BlockList, isIP } from 'node:net';
import { hostname, networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { DvceError, type Random, systemCode } from '../../base/index.ts';

export interface Identification {
  readonly cert: string;
  readonly key: string;
  /** SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` writes it. */
  readonly fingerprint: string;
}

const der = (tag: number, ...parts: readonly Uint8Array[]): Buffer => {
  const body = Buffer.concat(parts);
  if (body.byteLength < 128) return Buffer.concat([Buffer.from([tag, body.byteLength]), body]);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(body.byteLength);
  const short = length.subarray(length.findIndex((byte) => byte !== 0));
  return Buffer.concat([Buffer.from([tag, 0x80 | short.byteLength]), short, body]);
};
const sequence = (...parts: readonly Uint8Array[]): Buffer => der(0x30, ...parts);
const text = (value: string): Buffer => der(0x0c, Buffer.from(value));
const integer = (bytes: Uint8Array): Buffer => der(0x02, bytes);
const bits = (bytes: Uint8Array): Buffer => der(0x03, Buffer.from([0]), bytes);
const octets = (bytes: Uint8Array): Buffer => der(0x04, bytes);
const yes = Buffer.from([0x01, 0x01, 0xff]);

function objectId(dotted: string): Buffer {
  const [first = 0, second = 0, ...rest] = dotted.split('.').map(Number);
  const bytes = [first * 40 + second];
  for (const part of rest) {
    const digits = [part & 0x7f];
    for (let left = part >> 7; left > 0; left >>= 7) digits.unshift((left & 0x7f) | 0x80);
    bytes.push(...digits);
  }
  return der(0x06, Buffer.from(bytes));
}

/** GeneralizedTime: YYYYMMDDHHMMSSZ. */
const time = (ms: number): Buffer =>
  der(0x18, Buffer.from(`${new Date(ms).toISOString().replaceAll(/[-:T]|\..*/g, '')}Z`));

function addressBytes(address: string): Buffer {
  if (isIP(address) === 4) return Buffer.from(address.split('.').map(Number));
  // The address is written out in full by the one parser at hand that knows all short forms.
  const list = new BlockList();
  list.addAddress(address, 'ipv6');
  const [head = '', tail = ''] = address.split('::');
  const parts = (half: string): string[] => (half === '' ? [] : half.split(':'));
  const [before, after] = [parts(head), parts(tail)];
  const zeros = address.includes('::') ? 8 - before.length - after.length : 0;
  const words = [...before, ...Array.from({ length: zeros }, () => '0'), ...after];
  return Buffer.from(words.map((word) => word.padStart(4, '0')).join(''), 'hex');
}

/** Subject alternative name: DNS is context tag 2, an address is tag 7. */
const alternativeName = (name: string): Buffer =>
  isIP(name) === 0 ? der(0x82, Buffer.from(name)) : der(0x87, addressBytes(name));

const extension = (id: string, value: Buffer, critical = false): Buffer =>
  sequence(objectId(id), ...(critical ? [yes] : []), octets(value));

export interface CertificateRequest {
  readonly names: readonly string[];
  readonly fromMs: number;
  readonly toMs: number;
  readonly serial: Uint8Array;
}

/** A certificate for the key that signs it, as PEM. */
export function selfSigned(
  { publicKey, privateKey }: { publicKey: KeyObject; privateKey: KeyObject },
  { names, fromMs, toMs, serial }: CertificateRequest,
): string {
  const ecdsaSha256 = sequence(objectId('1.2.840.10045.4.3.2'));
  const commonName = sequence(der(0x31, sequence(objectId('2.5.4.3'), text(names[0] ?? 'dvce'))));
  const extensions = sequence(
    extension('2.5.29.19', sequence(), true),
    extension('2.5.29.15', der(0x03, Buffer.from([7, 0x80])), true),
    extension('2.5.29.37', sequence(objectId('1.3.6.1.5.5.7.3.1'))),
    extension('2.5.29.17', sequence(...names.map(alternativeName))),
  );
  const body = sequence(
    der(0xa0, integer(Buffer.from([2]))),
    // Positive, whatever the random bytes say.
    integer(Buffer.concat([Buffer.from([0x40]), serial])),
    ecdsaSha256,
    commonName,
    sequence(time(fromMs), time(toMs)),
    commonName,
    publicKey.export({ type: 'spki', format: 'der' }),
    der(0xa3, extensions),
  );
  const signature = createSign('sha256').update(body).sign(privateKey);
  const lines = sequence(body, ecdsaSha256, bits(signature))
    .toString('base64')
    .match(/.{1,64}/g);
  return `-----BEGIN CERTIFICATE-----\n${(lines ?? []).join('\n')}\n-----END CERTIFICATE-----\n`;
}

const daysMs = 86_400_000;
const lifeMs = 3650 * daysMs;

/** Names and addresses by which this host may be called. */
function namesOfHost(listenHost: string): readonly string[] {
  const addresses = Object.values(networkInterfaces()).flatMap((all) =>
    (all ?? []).flatMap(({ address, scopeid }) =>
      scopeid === undefined || scopeid === 0 ? [address] : [],
    ),
  );
  const wildcard = ['', '0.0.0.0', '::'].includes(listenHost);
  const names = [
    hostname(),
    'localhost',
    '127.0.0.1',
    '::1',
    ...(wildcard ? addresses : [listenHost]),
  ];
  return [...new Set(names)].filter((name) => /^[A-Za-z0-9.:-]{1,253}$/.test(name)).slice(0, 64);
}

export interface CertificateFiles {
  readonly certFile?: string | undefined;
  readonly keyFile?: string | undefined;
}

/** What the HTTPS door shows; a certificate of its own is made in `directory` when none is named. */
export async function identification(
  files: CertificateFiles,
  directory: string,
  listenHost: string,
  random: Random,
  nowMs: number,
): Promise<Identification> {
  const { certFile, keyFile } = files;
  if ((certFile === undefined) !== (keyFile === undefined))
    throw new DvceError('INVALID_ARGUMENT', {
      what: 'the certificate of the API',
      reason: 'certificate and key belong together, and only one of them is named',
      advice: 'Give --api-cert-file and --api-key-file, or neither.',
    });
  const certPath = certFile ?? join(directory, 'api.crt');
  const keyPath = keyFile ?? join(directory, 'api.key');
  if (certFile === undefined && !(await exists(certPath)))
    await make(directory, certPath, keyPath, namesOfHost(listenHost), random, nowMs);
  const [cert, key] = [await readFile(certPath, 'utf8'), await readFile(keyPath, 'utf8')];
  try {
    return { cert, key, fingerprint: new X509Certificate(cert).fingerprint256 };
  } catch (error) {
    const reason = 'it is not a certificate in PEM';
    throw new DvceError('DOCUMENT_DAMAGED', { name: certPath, reason }, error);
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await readFile(path);
    return true;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false;
    throw error;
  }
}

/** The certificate last, so that one without its key is never found. */
async function make(
  directory: string,
  certPath: string,
  keyPath: string,
  names: readonly string[],
  random: Random,
  nowMs: number,
): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const pair = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const request = { names, fromMs: nowMs - daysMs, toMs: nowMs + lifeMs, serial: random.bytes(15) };
  const cert = selfSigned(pair, request);
  const key = pair.privateKey.export({ type: 'pkcs8', format: 'pem' });
  await writeFile(`${keyPath}.new`, key, { mode: 0o600 });
  await chmod(`${keyPath}.new`, 0o600);
  await rename(`${keyPath}.new`, keyPath);
  await writeFile(`${certPath}.new`, cert, { mode: 0o644 });
  await rename(`${certPath}.new`, certPath);
}
