// limit: 300 s
/**
 * blockd as separately started processes in fresh data directories: attached volumes over kill -9 and graceful restarts under
 * load, one process per directory, exports and who may open them. DVCE_KILL_ROUNDS and DVCE_START_ROUNDS raise the number of
 * kills (test/long/more-rounds.test.ts does).
 */

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';

import { join } from 'node:path';
import t from 'tap';
import { MiB } from '../../src/base/index.ts';
import { isAlive, type TestNode, testNode, until } from '../support/blockd-process.ts';
import { RawNbd } from '../support/nbd-raw.ts';
import { blockBytes, readStamp, StampedLoad, stamp } from '../support/stamped-load.ts';

const killRounds = Number(process.env['DVCE_KILL_ROUNDS'] ?? 3);
const startRounds = Number(process.env['DVCE_START_ROUNDS'] ?? 5);

const toText = (stream: NodeJS.ReadableStream | null): Promise<string> =>
  new Promise((resolve) => {
    let text = '';
    stream?.on('data', (chunk: Buffer) => (text += chunk.toString()));
    stream?.on('end', () => resolve(text));
  });

/** Blocks that are asked for often, one by one. Throws when one is not what was acknowledged last. */
async function readAgain(path: string, exportName: string, load: StampedLoad): Promise<void> {
  const nbd = await RawNbd.connect({ path }, exportName);
  for (let round = 0; round < 4; round += 1)
    for (let index = 0; index < 64; index += 1) {
      const found = readStamp(await nbd.read(index * blockBytes, blockBytes), index);
      const least = load.acknowledged[index] ?? 0;
      if (found < least || found > (load.sent[index] ?? 0))
        throw new Error(`block ${index} has ${found}, acknowledged ${least}`);
    }
  await nbd.disconnect();
}

async function cacheHits(node: TestNode): Promise<number> {
  const { open } = await node.client.call('volume.get', { path: '/a' });
  return open?.readBlocks?.cache ?? 0;
}

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
    // The read cache, filled from segments: what it answers is what is there, and nothing of it outlives the process.
    await node.client.call('snapshot.create', { path: '/a', name: 's' });
    await readAgain(socketPath, exportName, load);
    t.ok((await cacheHits(node)) >= 64, 'blocks read for the third time come from the cache');
    await node.kill();
    await node.ensure();
    await until('the socket', () =>
      load.verify(socketPath, exportName).then(
        (wrong) => wrong.length === 0,
        () => false,
      ),
    );
    await readAgain(socketPath, exportName, load);
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

t.test(
  'N4 an exception nobody caught ends the process, in a worker too; it never limps on',
  async (t) => {
    for (const where of ['main', 'worker'] as const) {
      const node = testNode(t, ['--workers', '1']);
      const fixtures = t.testdir({
        // Loaded before blockd, in every thread: throws when it is told to.
        'planted.mjs': `import { existsSync } from 'node:fs';
        import { isMainThread } from 'node:worker_threads';
        if (isMainThread === ${where === 'main'})
          setInterval(() => {
            if (existsSync(new URL('now', import.meta.url))) throw new Error('planted');
          }, 20).unref();`,
      });
      const child = node.spawn({
        environment: { NODE_OPTIONS: `--import=${join(fixtures, 'planted.mjs')}` },
      });
      const ended = new Promise((resolve) => child.on('exit', resolve));
      await node.answers();
      const { id } = await node.client.call('volume.create', { path: '/a', sizeBytes: 8 * MiB });
      const attach = { path: '/a', attachId: 'x', vm: 'v' };
      const { socketPath, exportName } = await node.client.call('volume.attach', attach);
      const nbd = await RawNbd.connect({ path: socketPath }, exportName);
      await nbd.write(0, stamp(0, 5));
      writeFileSync(join(fixtures, 'now'), '');
      t.equal(await ended, 1, `${where}: the process ended`);
      const record = JSON.parse(readFileSync(node.directory.crashFile, 'utf8'));
      t.match(record, { reason: 'planted', volume: where === 'worker' ? id : null });
      t.match(node.log(), /fatal: blockd ends/);
      const again = node.spawn();
      const stopped = new Promise((resolve) => again.on('exit', resolve));
      await node.answers();
      const open = await until('the guest to be served again', () =>
        RawNbd.connect({ path: socketPath }, exportName).catch(() => undefined),
      );
      t.equal(readStamp(await open.read(0, blockBytes), 0), 5, 'what was acknowledged is there');
      open.destroy();
      await node.client.call('shutdown', { graceful: true });
      t.equal(await stopped, 0);
    }
  },
);
