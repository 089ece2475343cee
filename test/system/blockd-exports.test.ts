// limit: 180 s
/** Exports of a real blockd: what is there however a client goes, who may open what, TLS. */
import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { MiB } from '../../src/base/index.ts';
import { hasTool, run, testNode, until } from '../support/blockd-process.ts';
import { RawNbd } from '../support/nbd-raw.ts';
import { blockBytes, readStamp, stamp } from '../support/stamped-load.ts';

t.test(
  'B-35 B-19 however a client goes, what was acknowledged is there, also without a flush',
  async (t) => {
    const node = testNode(t, ['--workers', '1', '--nbd-tcp', '127.0.0.1:0', '--nbd-insecure']);
    await node.ensure();
    await node.client.call('volume.create', { path: '/a', sizeBytes: 16 * MiB });
    const where = { path: node.directory.nbdSocket };
    const { nbdTcp } = await node.client.call('status', {});
    const tcp = { host: '127.0.0.1', port: Number(nbdTcp?.split(':')[1]) };
    const half = Buffer.concat([
      Buffer.from('25609513000000010000000000000063', 'hex'),
      Buffer.alloc(8),
    ]);
    half.writeUInt32BE(0, 16);
    const request = Buffer.alloc(28);
    half.copy(request);
    request.writeUInt32BE(blockBytes, 24);
    const ends: Readonly<Record<string, (nbd: RawNbd) => Promise<void> | void>> = {
      DISC: (nbd) => nbd.disconnect(),
      close: (nbd) => nbd.destroy(),
      'reset (TCP)': (nbd) => nbd.reset(),
      'half a header': (nbd) => {
        nbd.raw(request.subarray(0, 11));
        nbd.destroy();
      },
      'half a payload': async (nbd) => {
        nbd.raw(Buffer.concat([request, Buffer.alloc(100, 0xff)]));
        await new Promise((resolve) => setTimeout(resolve, 20));
        nbd.destroy();
      },
    };
    let index = 0;
    for (const [how, end] of Object.entries(ends)) {
      const nbd = await RawNbd.connect(how.includes('TCP') ? tcp : where, '/a');
      index += 1;
      await nbd.write(index * blockBytes, stamp(index, 7));
      await end(nbd);
      t.pass(how);
    }
    if (await hasTool('qemu-io')) {
      // A client of its own process, killed while it is connected.
      const uri = `nbd+unix:////a?socket=${node.directory.nbdSocket}`;
      const client = spawn('qemu-io', ['-f', 'raw', uri], { stdio: ['pipe', 'pipe', 'ignore'] });
      client.stdin.write('write -P 0x55 1M 64k\n');
      await until('qemu-io to write', () =>
        client.stdout.read()?.toString().includes('wrote 65536'),
      );
      client.kill('SIGKILL');
    }
    // A crash of blockd right after; nobody ever flushed.
    await node.kill();
    await node.answers();
    const nbd = await RawNbd.connect(where, '/a');
    for (let i = 1; i <= index; i += 1)
      t.equal(
        readStamp(await nbd.read(i * blockBytes, blockBytes), i),
        7,
        Object.keys(ends)[i - 1] ?? '',
      );
    t.equal(
      readStamp(await nbd.read(0, blockBytes), 0),
      0,
      'nothing of a half-received write is there',
    );
    if (await hasTool('qemu-io'))
      t.ok((await nbd.read(MiB, 65_536)).every((byte) => byte === 0x55));
    await nbd.disconnect();
    await node.stop();
  },
);

t.test('B-36 who may open what', async (t) => {
  const node = testNode(t, ['--workers', '1', '--nbd-tcp', '127.0.0.1:0', '--nbd-insecure']);
  await node.ensure();
  await node.client.call('volume.create', { path: '/a', sizeBytes: 8 * MiB });
  await node.client.call('volume.create', { path: '/b', sizeBytes: 8 * MiB });
  await node.client.call('snapshot.create', { path: '/a', name: 's' });
  const attach = { path: '/a', attachId: 'mine', vm: 'guest' };
  const { socketPath, exportName } = await node.client.call('volume.attach', attach);
  const front = { path: node.directory.nbdSocket };
  const own = { path: socketPath };
  const refused: readonly (readonly [{ readonly path: string }, string])[] = [
    [front, '/../../etc/passwd'],
    [front, '/etc/passwd'],
    [front, 'file:/etc/passwd'],
    [front, ''],
    [front, '/'],
    [front, '/none'],
    [front, '/a@none'],
    [front, '/a'],
    [front, '/a?attach=other'],
    [front, '/b?attach=mine'],
    [front, 'x'.repeat(4096)],
    [own, ''],
    [own, '/a'],
    [own, '/b'],
    [own, '/a@s'],
    [own, '/a?attach=other'],
    [own, '/b?attach=mine'],
  ];
  for (const [where, name] of refused)
    await t.rejects(
      RawNbd.connect(where, name),
      { name: 'Refused' },
      `${where.path === socketPath ? 'own' : 'front'} ${name.slice(0, 40)}`,
    );
  const guest = await RawNbd.connect(own, exportName);
  await guest.write(0, stamp(0, 3));
  const snapshot = await RawNbd.connect(front, '/a@s');
  t.equal(readStamp(await snapshot.read(0, blockBytes), 0), 0);
  await t.rejects(
    snapshot.write(0, stamp(0, 9)),
    { message: 'NBD error 1' },
    'snapshots are read-only',
  );
  await snapshot.disconnect();
  const { nbdTcp } = await node.client.call('status', {});
  const [host = '', port = ''] = (nbdTcp ?? '').split(':');
  const tcp = await RawNbd.connect({ host, port: Number(port) }, exportName);
  t.equal(readStamp(await tcp.read(0, blockBytes), 0), 3, 'the guest over TCP');
  tcp.destroy();
  guest.destroy();
  const none = createConnection(node.directory.controlSocket);
  none.write('GET / HTTP/1.1\r\n\r\n');
  none.resume();
  await new Promise((resolve) => none.on('close', resolve));
  t.pass('another protocol on the control socket is cut off');
  await node.stop();
});

const withoutTls =
  (await hasTool('openssl')) && (await hasTool('nbdinfo'))
    ? false
    : 'openssl or nbdinfo is missing';

t.test(
  'B-36 invariant 10: over TCP with TLS a client without a certificate gets nothing',
  { skip: withoutTls },
  async (t) => {
    const keys = t.testdir();
    const make = async (...argv: string[]): Promise<void> => {
      const { code, output } = await run(['openssl', ...argv]);
      if (code !== 0) throw new Error(output);
    };
    const at = (name: string): string => join(keys, name);
    await make(
      'req',
      '-x509',
      '-newkey',
      'rsa:2048',
      '-nodes',
      '-days',
      '2',
      '-subj',
      '/CN=test-ca',
      '-keyout',
      at('ca-key.pem'),
      '-out',
      at('ca-cert.pem'),
    );
    for (const name of ['server', 'client']) {
      await make(
        'req',
        '-newkey',
        'rsa:2048',
        '-nodes',
        '-subj',
        '/CN=localhost',
        '-addext',
        'subjectAltName=DNS:localhost,IP:127.0.0.1',
        '-keyout',
        at(`${name}-key.pem`),
        '-out',
        at(`${name}.csr`),
      );
      await make(
        'x509',
        '-req',
        '-days',
        '2',
        '-copy_extensions',
        'copy',
        '-in',
        at(`${name}.csr`),
        '-CA',
        at('ca-cert.pem'),
        '-CAkey',
        at('ca-key.pem'),
        '-CAcreateserial',
        '-out',
        at(`${name}-cert.pem`),
      );
    }
    const node = testNode(t, ['--workers', '1', '--nbd-tcp', '127.0.0.1:0', '--nbd-tls-dir', keys]);
    await node.ensure();
    await node.client.call('volume.create', { path: '/a', sizeBytes: 8 * MiB });
    const { nbdTcp } = await node.client.call('status', {});
    const [host = '', port = ''] = (nbdTcp ?? '').split(':');
    await t.rejects(
      RawNbd.connect({ host, port: Number(port) }, '/a'),
      { name: 'Refused' },
      'plain text',
    );
    const uri = `nbds://localhost:${port}//a?tls-certificates=`;
    const good = await run(['nbdinfo', '--size', `${uri}${keys}`]);
    t.equal(good.output.trim(), String(8 * MiB), 'with a certificate it works');
    const stranger = at('stranger');
    mkdirSync(stranger);
    writeFileSync(join(stranger, 'ca-cert.pem'), readFileSync(at('ca-cert.pem')));
    t.not(
      (await run(['nbdinfo', '--size', `${uri}${stranger}`])).code,
      0,
      'without one it does not',
    );
    await node.stop();
  },
);
