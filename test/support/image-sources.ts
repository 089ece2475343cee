/** Where images come from: a publisher of files over HTTPS, and a server of a disk. */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import { type AddressInfo, connect, createServer as createTcpServer } from 'node:net';
import { join } from 'node:path';
import type { Test } from 'tap';
import { until } from './blockd-process.ts';
import { makeCertificates } from './certificates.ts';

export const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

/** A publisher: one image, its checksums; `holdAfter` stops each answer there and keeps the connection. */
class Publisher {
  readonly image: Buffer;
  readonly ranges: (string | undefined)[] = [];
  etag = '"1"';
  holdAfter = Number.POSITIVE_INFINITY;
  sums = '';

  constructor(image: Buffer) {
    this.image = image;
    this.sums = `${sha256(image)}  disk.qcow2\n`;
  }

  readonly answer = (request: IncomingMessage, response: ServerResponse): void => {
    if (request.url === '/SHA256SUMS') return void response.end(this.sums);
    if (request.url === '/latest')
      return void response.writeHead(302, { location: '/disk.qcow2' }).end();
    if (request.url === '/loop') return void response.writeHead(302, { location: '/loop' }).end();
    if (request.url !== '/disk.qcow2') return void response.writeHead(404).end();
    this.ranges.push(request.headers.range);
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
    const { length } = this.image;
    response.writeHead(from > 0 ? 206 : 200, {
      etag: this.etag,
      'content-length': length - from,
      ...(from > 0 ? { 'content-range': `bytes ${from}-${length - 1}/${length}` } : {}),
    });
    const end = Math.min(length, this.holdAfter);
    response.write(this.image.subarray(from, Math.max(from, end)));
    if (end === length) response.end();
  };
}

export async function publish(t: Test, directory: string, image: Buffer) {
  const certificates = makeCertificates(directory);
  if (certificates === null) throw new Error('openssl made no certificates');
  const publisher = new Publisher(image);
  const server = createServer(
    { cert: certificates.serverCertificate, key: certificates.serverKey },
    publisher.answer,
  );
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const catalogue = join(directory, 'images.yaml');
  writeFileSync(
    catalogue,
    [
      'builtin: false',
      'images:',
      `  - { name: demo-1, url: '${url}/disk.qcow2', checksumUrl: '${url}/SHA256SUMS', labels: { os: demo } }`,
      // As publishers do it: a name that stays, which leads to the file of the day.
      `  - { name: latest, url: '${url}/latest', sha256: ${sha256(image)} }`,
      `  - { name: other, url: '${url}/latest', sha256: ${'2a'.repeat(32)} }`,
      '',
    ].join('\n'),
  );
  const authorities = join(directory, 'authorities.pem');
  writeFileSync(authorities, certificates.authority);
  return { publisher, url, catalogue, authorities };
}

/** qemu-nbd with this file on a port of its own. @returns its address */
export async function nbdServer(t: Test, file: string): Promise<string> {
  const probe = createTcpServer();
  await new Promise<void>((listening) => probe.listen(0, '127.0.0.1', listening));
  const { port } = probe.address() as AddressInfo;
  await new Promise((closed) => probe.close(closed));
  const where = ['-b', '127.0.0.1', '-p', String(port)];
  const server = spawn('qemu-nbd', ['-r', '-t', '-f', 'raw', '-x', 'disk', ...where, file], {
    stdio: 'inherit',
  });
  t.teardown(() => server.kill('SIGKILL'));
  await until('qemu-nbd to listen', () => {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const probing = connect(port, '127.0.0.1', () => resolve(true));
    probing.on('error', () => resolve(false));
    return promise.finally(() => probing.destroy());
  });
  return `nbd://127.0.0.1:${port}/disk`;
}
