// limit: 120 s
/** B-44: every control method has an effect, seen from outside of the call that made it. One blockd, one story. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { MiB } from '../../src/base/index.ts';
import type { ControlMethod, ControlParams, ControlResult } from '../../src/blockd/index.ts';
import { controlMethodNames } from '../../src/blockd/schemas.ts';
import { isAlive, testNode, until } from '../support/blockd-process.ts';
import { RawNbd } from '../support/nbd-raw.ts';
import { blockBytes, readStamp, stamp } from '../support/stamped-load.ts';

/** The story of blockd-storage.test.ts. */
const inBlockdStorage: readonly ControlMethod[] = [
  'trash.list',
  'trash.restore',
  'trash.empty',
  'capacity',
  'quota.list',
  'quota.get',
  'quota.set',
  'quota.delete',
  'volume.map',
  'export.create',
  'export.list',
  'export.delete',
  'snapshot.update',
];

t.test('B-44 every control method has an effect', async (t) => {
  const node = testNode(t, [
    '--workers',
    '2',
    '--journal-bytes',
    '64MiB',
    '--export-idle',
    '300ms',
  ]);
  const pid = await node.ensure();
  const called = new Set<string>(['hello', ...inBlockdStorage]);
  const call = <M extends ControlMethod>(
    method: M,
    params: ControlParams<M>,
  ): Promise<ControlResult<M>> => {
    called.add(method);
    return node.client.call(method, params);
  };
  const front = { path: node.directory.nbdSocket };
  const put = async (name: string, index: number, number: number): Promise<void> => {
    const nbd = await RawNbd.connect(front, name);
    await nbd.write(index * blockBytes, stamp(index, number));
    await nbd.flush();
    await nbd.disconnect();
  };
  const get = async (name: string, index: number): Promise<number> => {
    const nbd = await RawNbd.connect(front, name);
    const block = await nbd.read(index * blockBytes, blockBytes);
    await nbd.disconnect();
    return readStamp(block, index);
  };

  t.match(await node.client.hello(), { pid, version: 1 });
  t.match(await call('status', {}), {
    pid,
    nbdSocket: node.directory.nbdSocket,
    workers: 2,
    openVolumes: 0,
  });

  // volumes
  const made = await call('volume.create', {
    path: '/p/a',
    sizeBytes: 16 * MiB,
    blockBytes: 512,
    labels: { k: 'v' },
  });
  t.match(made, {
    path: '/p/a',
    sizeBytes: 16 * MiB,
    blockBytes: 512,
    labels: { k: 'v' },
    kind: 'volume',
    open: null,
  });
  await t.rejects(call('volume.create', { path: '/p/a', sizeBytes: MiB }), {
    code: 'ALREADY_EXISTS',
  });
  await call('volume.create', { path: '/q', sizeBytes: 16 * MiB });
  t.strictSame(
    (await call('volume.list', { prefix: '/p' })).volumes.map(({ path }) => path),
    ['/p/a'],
  );
  t.equal((await call('volume.list', {})).volumes.length, 2);
  t.match(await call('volume.update', { path: '/p/a', labels: { n: '1' }, protected: true }), {
    protected: true,
  });
  t.match(await call('volume.get', { path: '/p/a' }), {
    labels: { n: '1' },
    protected: true,
    id: made.id,
  });
  await t.rejects(call('volume.delete', { path: '/p/a' }), { code: 'PROTECTED' });
  await call('volume.update', { path: '/p/a', protected: false });
  await call('volume.rename', { path: '/p/a', to: '/a' });
  await t.rejects(call('volume.get', { path: '/p/a' }), { code: 'NOT_FOUND' });
  t.equal((await call('volume.get', { path: '/a' })).id, made.id);

  // content, snapshots, rollback, diff
  await put('/a', 1, 10);
  await until(
    'the volume to be closed when idle',
    async () => (await call('volume.get', { path: '/a' })).open === null,
  );
  t.match(await call('snapshot.create', { path: '/a', name: 's1', labels: { a: 'b' } }), {
    name: 's1',
    volume: '/a',
    labels: { a: 'b' },
  });
  t.equal(
    (await call('volume.get', { path: '/a' })).open,
    null,
    'a snapshot of a closed volume leaves it closed',
  );
  await put('/a', 1, 11);
  await put('/a', 600, 5);
  await call('snapshot.create', { path: '/a', name: 's2' });
  t.equal(await get('/a@s1', 1), 10);
  t.equal(await get('/a@s2', 1), 11);
  const listed = (await call('snapshot.list', { path: '/a' })).snapshots;
  const page = await call('snapshot.list', { path: '/a', limit: 1 });
  t.same(page.snapshots, listed.slice(0, 1), 'a page');
  const { next } = page;
  const behind = next === null ? null : await call('snapshot.list', { path: '/a', after: next });
  t.same(behind?.snapshots, listed.slice(1), 'and the next one');
  t.same(await call('snapshot.get', { path: '/a', name: 's2' }), listed[1]);
  t.match(listed, [
    { name: 's1', parent: null },
    { name: 's2', parent: 's1', current: true },
  ]);
  const changed = await call('snapshot.diff', { path: '/a', from: 's1', to: 's2' });
  t.match(changed, {
    ranges: [
      { offset: blockBytes, length: blockBytes, kind: 'data' },
      { offset: 600 * blockBytes, length: blockBytes },
    ],
    changedBytes: 2 * blockBytes,
    truncated: false,
  });
  t.match(await call('snapshot.diff', { path: '/a', from: 's1', to: 's2', limit: 1 }), {
    truncated: true,
  });
  t.match(await call('snapshot.diff', { path: '/a', from: 's2', to: null }), { changedBytes: 0 });
  const reader = await RawNbd.connect(front, '/a');
  await t.rejects(call('snapshot.rollback', { path: '/a', name: 's1' }), { code: 'IN_USE' });
  await t.rejects(call('volume.delete', { path: '/a' }), { code: 'IN_USE' });
  await reader.disconnect();
  await call('snapshot.rollback', { path: '/a', name: 's1' });
  t.equal(await get('/a', 1), 10, 'rolled back');
  t.equal(await get('/a', 600), 0);
  await call('snapshot.delete', { path: '/a', name: 's2' });
  t.strictSame(
    (await call('snapshot.list', { path: '/a' })).snapshots.map(({ name }) => name),
    ['s1'],
  );
  await t.rejects(RawNbd.connect(front, '/a@s2'), /s2|exist|unknown/i);

  // clones
  t.match(await call('volume.clone', { source: '/a@s1', path: '/c1' }), {
    origin: { path: '/a', snapshot: 's1' },
  });
  await put('/a', 2, 20);
  const clone = await call('volume.clone', { source: '/a', path: '/c2', sizeBytes: 32 * MiB });
  t.match(clone.origin?.snapshot, /^clone-\d{8}T\d{6}Z$/);
  t.equal(clone.sizeBytes, 32 * MiB);
  t.equal(await get('/c2', 2), 20, 'the content of now');
  t.equal(await get('/c1', 2), 0);
  await t.rejects(call('volume.clone', { source: '/a', path: '/c2' }), { code: 'ALREADY_EXISTS' });
  const names = (await call('snapshot.list', { path: '/a' })).snapshots.map(({ name }) => name);
  t.equal(names.length, 2, 'a clone that cannot be leaves no snapshot behind');
  await t.rejects(call('snapshot.delete', { path: '/a', name: 's1' }), { code: 'IN_USE' });
  const planned = await call('volume.flatten-plan', { path: '/c1' });
  t.match(planned, { copyBytes: blockBytes, heldBy: null });
  t.match(await call('volume.flatten', { path: '/c1' }), {
    copiedBytes: planned.copyBytes,
    heldBy: null,
    volume: { path: '/c1', origin: null },
  });
  t.equal(await get('/c1', 1), 10, 'a flattened clone');
  await call('snapshot.delete', { path: '/a', name: 's1' });
  await call('snapshot.create', { path: '/a', name: 's1' });
  await put('/a', 1, 10);
  await call('volume.clone', { source: '/a@s1', path: '/heir' });
  t.match(await call('volume.promote-plan', { path: '/heir' }), {
    parent: '/a',
    snapshot: 's1',
    snapshots: [clone.origin?.snapshot, 's1'],
    parentMoves: true,
  });
  const busy = await RawNbd.connect(front, '/a');
  await t.rejects(call('volume.promote', { path: '/heir' }), { code: 'IN_USE' });
  await busy.disconnect();
  t.match(await call('volume.promote', { path: '/heir' }), {
    snapshots: [clone.origin?.snapshot, 's1'],
    volume: { path: '/heir', origin: null, snapshots: 2 },
    parent: { path: '/a', origin: { path: '/heir', snapshot: 's1' }, snapshots: 0 },
  });
  t.equal(await get('/a', 1), 10, 'the parent has its content');
  t.equal(await get('/heir@s1', 1), 10, 'the clone has the snapshot');
  await call('volume.promote', { path: '/a' });
  t.match(await call('volume.get', { path: '/a' }), { origin: null, snapshots: 2 });
  await call('volume.delete', { path: '/heir', now: true });

  // attachments
  const attach = { path: '/a', attachId: 'run-1', vm: 'guest' };
  const { socketPath, exportName } = await call('volume.attach', attach);
  t.match((await call('volume.get', { path: '/a' })).open, { attachId: 'run-1', connections: 0 });
  await t.rejects(RawNbd.connect(front, '/a'), /attached/);
  const guest = await RawNbd.connect({ path: socketPath }, exportName);
  await guest.write(3 * blockBytes, stamp(3, 30));
  await call('snapshot.create', { path: '/a', name: 'live' });
  t.equal(await get('/a@live', 3), 30, 'a snapshot while attached');
  t.match((await call('volume.get', { path: '/a' })).open, { connections: 1, writes: 1 });
  await call('volume.resize', { path: '/a', sizeBytes: 24 * MiB });
  const grown = await RawNbd.connect({ path: socketPath }, exportName);
  t.equal(grown.sizeBytes, 24 * MiB, 'a new connection sees the size');
  await grown.write(20 * MiB, stamp(5120, 1));
  t.equal(
    readStamp(await guest.read(20 * MiB, blockBytes), 5120),
    1,
    'and the old one the content',
  );
  await grown.disconnect();
  await call('volume.rename', { path: '/a', to: '/renamed' });
  const after = await RawNbd.connect({ path: socketPath }, exportName);
  t.equal(
    readStamp(await after.read(3 * blockBytes, blockBytes), 3),
    30,
    'the name of the export outlives a rename',
  );

  // figures
  const figures = await call('metrics', {});
  t.equal(figures.format, 1);
  t.equal(figures.process.pid, pid);
  t.strictSame(figures.loops.map(({ thread }) => thread).sort(), ['main', 'worker-0', 'worker-1']);
  const writes = figures.nbd.operations.find(({ operation }) => operation === 'write');
  t.equal(writes?.counts.length, figures.nbd.boundsSeconds.length + 1);
  const counted = writes?.counts.reduce((sum, count) => sum + count, 0) ?? 0;
  t.ok(counted >= 4, `${counted} writes of all workers and of closed volumes are counted`);
  t.ok((writes?.sumSeconds ?? 0) > 0);
  const open = figures.volumes.find(({ attachId }) => attachId === 'run-1');
  t.equal(open?.path, '/renamed', 'figures carry the name of now');
  t.ok((open?.journalQuotaBytes ?? 0) > 0);
  t.strictSame(figures.unopened, []);
  await after.disconnect();
  t.equal(
    (await call('volume.attach', attach)).socketPath,
    socketPath,
    'attach under the old path is idempotent',
  );
  await t.rejects(call('volume.resize', { path: '/renamed', sizeBytes: 16 * MiB, shrink: true }), {
    code: 'IN_USE',
  });
  await t.rejects(call('volume.delete', { path: '/renamed' }), { code: 'IN_USE' });
  await t.rejects(call('volume.recover', { path: '/renamed', acceptLoss: false }), {
    code: 'IN_USE',
  });
  await t.rejects(call('volume.detach', { path: '/a', attachId: 'run-2' }), { code: 'NOT_FOUND' });
  await t.rejects(call('volume.detach', { path: '/renamed', attachId: 'run-2' }), {
    code: 'IN_USE',
  });
  await call('volume.detach', { path: '/a', attachId: 'run-1' });
  await until('the guest to be cut off', () => guest.ended);
  await call('volume.detach', { path: '/renamed', attachId: 'run-1' });
  t.equal((await call('volume.get', { path: '/renamed' })).open, null);
  t.equal(existsSync(socketPath), false);
  await call('volume.rename', { path: '/renamed', to: '/a' });
  await t.rejects(
    call('volume.resize', { path: '/a', sizeBytes: 16 * MiB }),
    { code: 'INVALID_SIZE' },
    'shrinking is asked for',
  );
  t.equal(
    (await call('volume.resize', { path: '/a', sizeBytes: 16 * MiB, shrink: true })).sizeBytes,
    16 * MiB,
  );
  await call('volume.resize', { path: '/a', sizeBytes: 24 * MiB });
  t.equal(await get('/a', 5120), 0, 'G6: what was cut off does not come back');

  // images
  await put('/q', 4, 44);
  const facts = {
    digest: `sha256:${'0'.repeat(64)}`,
    source: 'test.raw',
    format: 'raw',
    sourceBytes: 123,
  } as const;
  t.match(await call('image.publish', { path: '/q', ...facts }), { kind: 'image', image: facts });
  t.match(
    await call('image.publish', { path: '/q', ...facts }),
    { kind: 'image' },
    'twice is once',
  );
  t.equal(await get('/q', 4), 44);
  await t.rejects(put('/q', 4, 45), { message: 'NBD error 1' });
  await t.rejects(call('volume.attach', { ...attach, path: '/q' }), { code: 'NOT_ALLOWED' });
  await t.rejects(call('snapshot.create', { path: '/q', name: 'x' }), { code: 'READ_ONLY' });
  await call('volume.clone', { source: '/q', path: '/from-image' });
  t.equal(await get('/from-image', 4), 44);
  t.strictSame(
    (await call('volume.list', { kind: 'image' })).volumes.map(({ path }) => path),
    ['/q'],
  );

  // check, recover, delete
  const checked = await call('volume.check', { path: '/a' });
  t.strictSame(checked.findings, []);
  t.ok(checked.segments > 0 && checked.bytes > 0);
  await call('volume.create', { path: '/check', sizeBytes: 16 * MiB });
  await put('/check', 5, 55);
  await call('snapshot.create', { path: '/check', name: 's' });
  const { log: checkedLog } = await call('volume.get', { path: '/check' });
  const ofLog = join(node.directory.store, 'logs', checkedLog);
  const segment = join(ofLog, 'seg/00000000/0000000001');
  const whole = readFileSync(segment);
  const torn = Buffer.from(whole);
  torn[4096 + 100] = (torn[4096 + 100] ?? 0) ^ 1;
  writeFileSync(segment, torn);
  const range = { offset: 5 * blockBytes, length: blockBytes };
  const damaged = await call('volume.check', { path: '/check' });
  t.match(damaged.findings, [
    {
      code: 'CHECK_BAD_CHECKSUM',
      severity: 'error',
      ranges: [
        { of: 'current', ...range },
        { of: 'snapshot s', ...range },
      ],
      repair: 'none',
    },
  ]);
  // The scrub finds it too, and remembers it when blockd is killed.
  await call('scrub.start', { path: '/check' });
  const scrubbed = async () => (await call('volume.get', { path: '/check' })).scrub;
  const isNamed = async (): Promise<boolean> =>
    (await scrubbed())?.findings.some(
      ({ code, ranges }) => code === 'CHECK_BAD_CHECKSUM' && ranges.length === 2,
    ) === true;
  await until('the scrub to find it', isNamed);
  t.match(await call('scrub.pause', { paused: true }), { state: 'paused' });
  const killed = await node.answers();
  process.kill(killed ?? 0, 'SIGKILL');
  await until('another blockd', async () => ![undefined, killed].includes(await node.answers()));
  t.ok(await isNamed(), 'also after a kill');
  t.match(await call('scrub.status', {}), { state: 'paused', damaged: [{ path: '/check' }] });
  writeFileSync(segment, whole);
  await call('scrub.pause', { paused: false });
  await call('scrub.start', {});
  await until('a scrub that finds nothing', async () => (await scrubbed())?.findings.length === 0);
  const [writer] = readdirSync(join(ofLog, 'w'));
  const fenced = join(ofLog, 'w', `${writer?.replace(/[0-9a-f]{32}/, 'ef'.repeat(16))}.fenced`);
  mkdirSync(fenced);
  writeFileSync(join(fenced, '00-1.tmp'), 'of a writer that is gone');
  const repair = async (): Promise<string[]> => {
    const { findings } = await call('volume.check', { path: '/check', repair: true });
    return findings.map(({ code, repair: state }) => `${code} ${state}`);
  };
  t.strictSame(await repair(), ['CHECK_LEAKED_UPLOAD done']);
  t.strictSame(readdirSync(fenced), []);
  t.strictSame(await repair(), []);
  t.equal(await get('/check', 5), 55);
  t.match(await call('volume.recover', { path: '/a', acceptLoss: false }), { lostFromSeq: null });
  t.equal(await get('/a', 2), 20);
  const { log } = await call('volume.get', { path: '/c1' });
  const logDirectory = join(node.directory.store, 'logs', log);
  t.ok(existsSync(logDirectory));
  await call('volume.delete', { path: '/c1', now: true });
  await until('its log to be reaped', () => !existsSync(logDirectory));
  await t.rejects(call('volume.get', { path: '/c1' }), { code: 'NOT_FOUND' });
  t.equal(await get('/a@s1', 1), 10);
  await t.rejects(call('volume.delete', { path: '/none' }), { code: 'NOT_FOUND' });

  await call('volume.create', { path: '/set1', sizeBytes: 16 * MiB });
  await call('volume.create', { path: '/set2', sizeBytes: 16 * MiB });
  const made2 = await call('snapshot.create-set', { paths: ['/set2', '/set1'], name: 'both' });
  t.match(made2.snapshots, [
    { volume: '/set2', name: 'both' },
    { volume: '/set1', name: 'both' },
  ]);

  // points in time
  await call('volume.create', { path: '/points', sizeBytes: 16 * MiB, retainMs: 3_600_000 });
  await put('/points', 7, 70);
  const { points: first } = await call('volume.points', { path: '/points' });
  await put('/points', 7, 71);
  const { points } = await call('volume.points', { path: '/points' });
  t.ok(points.length > first.length && first.length > 0, 'flushes are points');
  const flush = first[0]?.flush ?? -1;
  t.match(await call('volume.at', { path: '/points', flush, clone: '/back' }), { flush });
  t.equal(await get('/back', 7), 70);
  t.equal(await get('/points', 7), 71);

  // documents of the wanted state
  const document = { kind: 'vms', name: 'web1' };
  t.strictSame(await call('document.read', document), { document: null });
  t.strictSame(await call('document.create', { ...document, value: { cpus: 1 } }), { version: 1 });
  await t.rejects(call('document.create', { ...document, value: {} }), { code: 'ALREADY_EXISTS' });
  t.strictSame(await call('document.replace', { ...document, version: 1, value: { cpus: 2 } }), {
    version: 2,
  });
  await t.rejects(call('document.replace', { ...document, version: 1, value: {} }), {
    code: 'CONFLICT',
  });
  await call('document.create', { kind: 'vms', name: 'web2', value: { text: 'x' } });
  await t.rejects(call('document.delete', { kind: 'vms', name: 'web2', version: 2 }), {
    code: 'CONFLICT',
  });
  await call('document.delete', { kind: 'vms', name: 'web2', version: 1 });
  await t.rejects(
    call('document.create', { ...document, name: 'big', value: { text: 'x'.repeat(256 * 1024) } }),
    { code: 'TOO_LARGE' },
  );
  await t.rejects(call('document.read', { ...document, name: '../x' }), {
    code: 'INVALID_ARGUMENT',
  });

  const { launcherPid } = node;
  const last = await node.answers();
  t.strictSame(await call('shutdown', { graceful: false }), {});
  await until(
    'the launcher to start another one',
    async () => ![undefined, last].includes(await node.answers()),
  );
  t.equal(await get('/a', 2), 20);
  t.strictSame(await call('document.list', { kind: 'vms' }), {
    documents: [{ name: 'web1', version: 2, value: { cpus: 2 } }],
    next: null,
  });
  t.strictSame(await call('shutdown', { graceful: true }), {});
  await until('the end', () => !isAlive(launcherPid ?? 0));
  t.strictSame([...called].sort(), [...controlMethodNames].sort(), 'every method was called');
});
