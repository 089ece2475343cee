// limit: 300 s
/**
 * blockd as separately started processes in fresh data directories: attached volumes over kill -9 and graceful restarts under
 * load, one process per directory, exports and who may open them. DVCE_KILL_ROUNDS raises the number of kills.
 */
import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { MiB } from '../../src/base/index.ts';
import { hasTool, isAlive, run, testNode, until } from '../support/blockd-process.ts';
import { RawNbd } from '../support/nbd-raw.ts';
import { blockBytes, readStamp, StampedLoad, stamp } from '../support/stamped-load.ts';

const killRounds = Number(process.env['DVCE_KILL_ROUNDS'] ?? 5);
const startRounds = Number(process.env['DVCE_START_ROUNDS'] ?? 20);

const toText = (stream: NodeJS.ReadableStream | null): Promise<string> =>
  new Promise((resolve) => {
    let text = '';
    stream?.on('data', (chunk: Buffer) => (text += chunk.toString()));
    stream?.on('end', () => resolve(text));
  });

t.test(
  'N3 kill -9 under load: the launcher restarts blockd, which resumes; nothing acknowledged is lost',
  async (t) => {
    const node = testNode(t, ['--workers', '2']);
    await node.ensure();
    await node.client.call('volume.create', { path: '/a', sizeBytes: 64 * MiB });
    const attach = { path: '/a', attachId: 'run-1', vm: 'guest' };
    const { socketPath, exportName } = await node.client.call('volume.attach', attach);
    const load = new StampedLoad({
      path: socketPath,
      exportName,
      blocks: 4096,
      depth: 8,
      flushEvery: 16,
    });
    load.start();
    for (let round = 1; round <= killRounds; round += 1) {
      const target = load.writes + 2000;
      await until(
        `writes of round ${round}`,
        () => load.writes >= target || load.errors.length > 0,
      );
      const old = await node.kill();
      const before = load.writes;
      // Nobody tells the new one anything: the launcher starts it, the open table tells it what to open.
      await until(
        'writes after the restart',
        () => load.writes >= before + 200 || load.errors.length > 0,
      );
      t.not(node.pid, old, `round ${round}: another process serves`);
      t.strictSame(load.errors, []);
    }
    await load.stop();
    load.close();
    t.strictSame(load.errors, [], 'no request failed');
    t.ok(load.reconnects >= killRounds, `${load.reconnects} reconnects, ${load.writes} writes`);
    t.strictSame(await load.verify(socketPath, exportName), []);
    await node.kill();
    await node.ensure();
    await until('the socket', () =>
      load.verify(socketPath, exportName).then(
        (wrong) => wrong.length === 0,
        () => false,
      ),
    );
    t.strictSame(
      await node.client.call('volume.attach', attach),
      { socketPath, exportName, sizeBytes: 64 * MiB, blockBytes: 4096 },
      'attach is idempotent',
    );
    await t.rejects(node.client.call('volume.attach', { ...attach, attachId: 'run-2' }), {
      code: 'IN_USE',
    });
    await node.stop();
  },
);

t.test('graceful restart under load: no client sees an error', async (t) => {
  const node = testNode(t, ['--workers', '1']);
  await node.ensure();
  await node.client.call('volume.create', { path: '/a', sizeBytes: 64 * MiB });
  const { socketPath, exportName } = await node.client.call('volume.attach', {
    path: '/a',
    attachId: 'run-1',
    vm: 'guest',
  });
  const load = new StampedLoad({
    path: socketPath,
    exportName,
    blocks: 2048,
    depth: 16,
    flushEvery: 8,
  });
  load.start();
  for (const how of ['SIGTERM', 'shutdown', 'SIGINT'] as const) {
    const target = load.writes + 1000;
    await until('writes', () => load.writes >= target || load.errors.length > 0);
    const { pid, launcherPid } = node;
    if (how === 'shutdown') await node.client.call('shutdown', { graceful: true });
    else process.kill(pid ?? 0, how);
    await until('blockd to end', () => !isAlive(pid ?? 0));
    await until('the launcher to end with it', () => !isAlive(launcherPid ?? 0));
    t.match(
      JSON.parse(readFileSync(node.directory.exitFile, 'utf8')),
      { pid },
      `${how}: it ended as told`,
    );
    await node.ensure();
  }
  const target = load.writes + 500;
  await until(
    'writes after the last restart',
    () => load.writes >= target || load.errors.length > 0,
  );
  await load.stop();
  load.close();
  t.strictSame(load.errors, []);
  t.strictSame(await load.verify(socketPath, exportName), []);
  t.notMatch(node.log(), /"level":50/, 'and nothing was wrong in the log');
});

t.test('N3 a second blockd on the same directory is refused and says who holds it', async (t) => {
  const node = testNode(t);
  const pid = await node.ensure();
  const second = node.spawn();
  const text = toText(second.stderr);
  const code = await new Promise((resolve) => second.on('exit', resolve));
  t.equal(code, 6);
  t.match(await text, new RegExp(`in use by process ${pid}`));
  t.equal((await node.client.hello()).pid, pid, 'the first one goes on');
  t.equal(await node.ensure(), pid, 'and a second start of the agent finds it');
});

t.test('bad command lines and directories', async (t) => {
  const node = testNode(t, ['--nbd-tcp', 'localhost:0']);
  const bad = node.spawn();
  const text = toText(bad.stderr);
  t.equal(await new Promise((resolve) => bad.on('exit', resolve)), 64);
  t.match(await text, /NBD over TCP needs TLS/);
  await t.rejects(node.ensure(), { code: 'BLOCKD_UNAVAILABLE', message: /ended with code 64/ });
  const newer = testNode(t);
  mkdirSync(newer.directory.store, { recursive: true });
  const marker = '{"format":99,"id":"11111111-1111-4111-8111-111111111111"}\n';
  writeFileSync(join(newer.directory.store, 'dvce-store.json'), marker);
  const refused = newer.spawn();
  const reason = toText(refused.stderr);
  t.not(await new Promise((resolve) => refused.on('exit', resolve)), 0);
  t.match(await reason, /format version 99/);
});

t.test(
  'B-37 two data directories on one host; kill -9 and start again without cleaning up',
  async (t) => {
    const nodes = [testNode(t, ['--workers', '1']), testNode(t, ['--workers', '1'])] as const;
    for (const [index, node] of nodes.entries()) {
      node.spawn();
      await node.answers();
      await node.client.call('volume.create', {
        path: '/same',
        sizeBytes: 8 * MiB,
        labels: { n: String(index) },
      });
    }
    const [first, second] = nodes;
    const nbd = await RawNbd.connect({ path: first.directory.nbdSocket }, '/same');
    await nbd.write(0, stamp(0, 1));
    nbd.destroy();
    for (let round = 0; round < startRounds; round += 1) {
      const old = await first.kill();
      // Started by hand: the launcher would wait longer and longer between deaths so close together.
      first.spawn();
      const pid = await first.answers();
      t.not(pid, old, `round ${round}`);
    }
    t.match(await first.client.call('volume.get', { path: '/same' }), { labels: { n: '0' } });
    t.match(await second.client.call('volume.get', { path: '/same' }), { labels: { n: '1' } });
    const again = await RawNbd.connect({ path: first.directory.nbdSocket }, '/same');
    t.equal(readStamp(await again.read(0, blockBytes), 0), 1);
    await again.disconnect();
    const other = await RawNbd.connect({ path: second.directory.nbdSocket }, '/same');
    t.equal(
      readStamp(await other.read(0, blockBytes), 0),
      0,
      'the other one has a store of its own',
    );
    await other.disconnect();
    for (const node of nodes) await node.stop();
  },
);

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
    const stranger = t.testdir({ empty: {} });
    writeFileSync(join(stranger, 'ca-cert.pem'), readFileSync(at('ca-cert.pem')));
    t.not(
      (await run(['nbdinfo', '--size', `${uri}${stranger}`])).code,
      0,
      'without one it does not',
    );
    await node.stop();
  },
);

t.test('N4 a volume with a crash loop is served read-only, the others are not', async (t) => {
  const node = testNode(t, ['--workers', '1']);
  await node.ensure();
  const bad = await node.client.call('volume.create', { path: '/bad', sizeBytes: 8 * MiB });
  await node.client.call('volume.create', { path: '/good', sizeBytes: 8 * MiB });
  await node.client.call('volume.attach', { path: '/bad', attachId: 'x', vm: 'v' });
  await node.stop();
  for (let crash = 0; crash < 3; crash += 1) {
    // As a blockd leaves it that died of an exception while it opened the volume.
    const table = JSON.parse(readFileSync(node.directory.openTableFile, 'utf8'));
    table.opening = [{ volume: bad.id, atMs: Date.now() }];
    writeFileSync(node.directory.openTableFile, JSON.stringify(table));
    writeFileSync(
      node.directory.crashFile,
      JSON.stringify({ reason: 'planted', atMs: Date.now(), volume: null }),
    );
    await node.ensure();
    await until(
      '/bad to be open',
      async () => (await node.client.call('volume.get', { path: '/bad' })).open,
    );
    if (crash < 2) await node.stop();
  }
  const { open } = await node.client.call('volume.get', { path: '/bad' });
  t.match(open?.readOnlyReason, /crashed 3 times/);
  const { socketPath, exportName } = await node.client.call('volume.attach', {
    path: '/bad',
    attachId: 'x',
    vm: 'v',
  });
  const nbd = await RawNbd.connect({ path: socketPath }, exportName);
  await nbd.read(0, blockBytes);
  await t.rejects(nbd.write(0, stamp(0, 1)), { message: 'NBD error 1' });
  nbd.destroy();
  const good = await RawNbd.connect({ path: node.directory.nbdSocket }, '/good');
  await good.write(0, stamp(0, 1));
  await good.disconnect();
  await node.stop();
});

t.test('N4 a fault of the process is recorded by the launcher, a kill is not', async (t) => {
  const node = testNode(t, ['--workers', '1']);
  const pid = await node.ensure();
  process.kill(pid, 'SIGSEGV');
  await until('the end', () => !isAlive(pid));
  await node.answers();
  t.match(node.log(), /the last blockd crashed/);
  await node.kill();
  await node.answers();
  t.equal(node.log().match(/the last blockd crashed/g)?.length, 1);
  await node.stop();
});
