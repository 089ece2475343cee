import t from 'tap';
import { type ErrorCode, GiB, limits, MiB } from '../../src/base/index.ts';
import {
  cloneVolume,
  createVolume,
  deleteSnapshot,
  deleteVolume,
  findSnapshot,
  getVolume,
  growHead,
  type HeadDocument,
  type HlfsContext,
  listSnapshots,
  listVolumes,
  publishImage,
  reap,
  renameVolume,
  rollbackVolume,
  shrinkHead,
  updateSnapshot,
  updateVolume,
} from '../../src/hlfs/index.ts';
import { audit } from '../support/catalog-audit.ts';
import {
  readRanges,
  reclaimLog,
  takeSnapshot,
  World,
  watched,
  writeSegment,
} from '../support/catalog-world.ts';

const free = (): undefined => undefined;
const size = { sizeBytes: 10 * MiB };
const ofCode = (code: ErrorCode): { name: string; code: ErrorCode } => ({
  name: 'DvceError',
  code,
});

t.test('a volume is created, found, listed, changed', async (t) => {
  const context = await new World().start();
  const made = await createVolume(context, '/prod/shop/db', {
    ...size,
    labels: { owner: 'shop', ключ: 'значение' },
  });
  t.match(made.head, { state: 'active', epoch: '1', writer: null, scope: null, name: 'db' });
  t.equal(made.head.journal.quotaBytes, String(limits.journalBytes));
  t.same(await getVolume(context, '/prod/shop/db'), made);
  await createVolume(context, '/prod/web', { ...size, kind: 'image' });
  await createVolume(context, '/a', size);
  const paths = async (filter: object): Promise<string[]> =>
    (await listVolumes(context, filter)).map(({ path }) => path);
  t.same(await paths({}), ['/a', '/prod/shop/db', '/prod/web']);
  t.same(await paths({ prefix: '/prod' }), ['/prod/shop/db', '/prod/web']);
  t.same(await paths({ prefix: '/prod/web' }), ['/prod/web']);
  t.same(await paths({ prefix: '/pro' }), []);
  t.same(await paths({ kind: 'image' }), ['/prod/web']);
  const changed = await updateVolume(context, '/a', { labels: { tier: 'x' }, protected: true });
  t.match(changed.head, { labels: { tier: 'x' }, protected: true });
  const kept = await updateVolume(context, '/a', { protected: false });
  t.match(kept.head, { labels: { tier: 'x' }, protected: false });
  await audit(context, { reaped: true });
});

t.test('sizes: multiples of the block within the limits, else INVALID_SIZE', async (t) => {
  const context = await new World().start();
  const make = (sizeBytes: number, blockBytes: 512 | 4096): Promise<unknown> =>
    createVolume(context, `/v${context.random.below(2 ** 30)}`, { sizeBytes, blockBytes });
  const max = limits.volumeBytesMax;
  for (const bytes of [0, -4096, 511, MiB - 4096, MiB + 1, MiB + 512, max + 4096, 1.5, Number.NaN])
    await t.rejects(make(bytes, 4096), ofCode('INVALID_SIZE'), `${bytes} of 4096`);
  await t.rejects(make(MiB + 256, 512), ofCode('INVALID_SIZE'));
  await t.rejects(make(2 ** 60, 512), ofCode('INVALID_SIZE'));
  for (const bytes of [MiB, max]) await t.resolves(make(bytes, 4096));
  await t.resolves(make(MiB + 512, 512));
  await t.rejects(
    createVolume(context, '/b', { ...size, blockBytes: 1024 as 512 }),
    ofCode('INVALID_ARGUMENT'),
  );
  await t.rejects(
    createVolume(context, '/b', { ...size, journalBytes: 0 }),
    ofCode('INVALID_SIZE'),
  );
  await t.rejects(
    createVolume(context, '/b', { ...size, labels: { 'a\nb': '' } }),
    ofCode('INVALID_ARGUMENT'),
  );
  await t.rejects(
    createVolume(context, '/b', { ...size, labels: { a: 'x'.repeat(300) } }),
    ofCode('INVALID_ARGUMENT'),
  );
  const many = Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`k${i}`, '']));
  await t.rejects(createVolume(context, '/b', { ...size, labels: many }), ofCode('TOO_LARGE'));
  t.equal((await listVolumes(context)).length, 3);
});

t.test('B-28 unknown, empty, too long and non-UTF-8 names are typed errors', async (t) => {
  const context = await new World().start();
  const { id, path } = await createVolume(context, '/v', size);
  const snapshot = await takeSnapshot(context, id, 's');
  const bad = [
    '',
    '/',
    '//',
    '/a//b',
    '/../v',
    '/v/',
    'x'.repeat(64),
    '/\ud800',
    '/\ufffd\0',
    `${'/a'.repeat(17)}`,
  ];
  for (const name of bad) {
    const calls: [string, () => Promise<unknown>][] = [
      ['get', () => getVolume(context, name)],
      ['create', () => createVolume(context, name, size)],
      ['rename', () => renameVolume(context, '/v', name)],
      ['rename from', () => renameVolume(context, name, '/w')],
      ['delete', () => deleteVolume(context, name, free)],
      ['update', () => updateVolume(context, name, { protected: true })],
      ['clone', () => cloneVolume(context, { id, path }, snapshot, name, {}, readRanges)],
    ];
    for (const [call, run] of calls)
      await t.rejects(
        run(),
        ofCode('INVALID_NAME'),
        `${call} ${JSON.stringify(name).slice(0, 20)}`,
      );
    if (name.startsWith('/') || name === '' || name.length > 63) {
      await t.rejects(findSnapshot(context, id, name), ofCode('INVALID_NAME'));
      await t.rejects(deleteSnapshot(context, id, name), ofCode('INVALID_NAME'));
      await t.rejects(takeSnapshot(context, id, name), ofCode('INVALID_NAME'));
    }
  }
  const unknown: Promise<unknown>[] = [
    getVolume(context, '/none'),
    renameVolume(context, '/none', '/w'),
    deleteVolume(context, '/v/none', free),
    updateVolume(context, '/none', {}),
    findSnapshot(context, id, 'none'),
    deleteSnapshot(context, id, 'none'),
    updateSnapshot(context, id, 'none', {}),
    rollbackVolume(context, { id, path }, 'none', readRanges, free),
    listSnapshots(context, '22222222-2222-4222-8222-222222222222' as typeof id),
  ];
  for (const run of unknown) await t.rejects(run, ofCode('NOT_FOUND'));
  await audit(context, { reaped: true });
});

t.test('B-27 a clone of an unknown snapshot: NOT_FOUND, nothing created', async (t) => {
  const world = new World();
  const context = await world.start();
  const { id, path } = await createVolume(context, '/v', size);
  const snapshot = await takeSnapshot(context, id, 's');
  await deleteSnapshot(context, id, 's');
  const calls: string[] = [];
  const seen = world.through(
    context,
    watched(context.store, (call, isMutation) => void (isMutation && calls.push(call))),
  );
  const clone = cloneVolume(seen, { id, path }, snapshot, '/c', {}, readRanges);
  await t.rejects(clone, ofCode('NOT_FOUND'));
  t.same(calls, [], 'the store was not changed');
});

t.test(
  'B-30 names of every kind are refused with the rule, or come back as they were',
  async (t) => {
    const context = await new World().start();
    const { id } = await createVolume(context, '/v', size);
    const refused = [
      'a@@##$$b',
      'a\nb',
      '😀',
      'é',
      'x'.repeat(255),
      ' a',
      '.hidden',
      '-a',
      'a@b',
      'a b',
    ];
    for (const name of refused) {
      const rule = { code: 'INVALID_NAME', advice: /letters, digits/ };
      await t.rejects(createVolume(context, `/${name}`, size), rule);
      await t.rejects(takeSnapshot(context, id, name), rule);
    }
    await t.rejects(takeSnapshot(context, id, 'a/b'), ofCode('INVALID_NAME'));
    const accepted = [
      '000000000001',
      'a.tmp',
      'b.fenced',
      'CON',
      '0',
      `${'x'.repeat(63)}`,
      'a..b',
      'head',
      'log',
    ];
    for (const name of accepted) {
      await createVolume(context, `/d/${name}`, size);
      await takeSnapshot(context, id, name);
    }
    const paths = (await listVolumes(context, { prefix: 'd' })).map(({ path }) => path);
    t.same(paths, accepted.map((name) => `/d/${name}`).sort());
    const names = (await listSnapshots(context, id)).map(({ document }) => document.name);
    t.same(names, accepted, 'in the order they were taken');
    await audit(context, { reaped: true });
  },
);

t.test(
  'B-38 creating on an existing name: ALREADY_EXISTS, and the store is not touched',
  async (t) => {
    const world = new World();
    const context = await world.start();
    const { id, path } = await createVolume(context, '/a/v', size);
    const snapshot = await takeSnapshot(context, id, 's');
    const calls: string[] = [];
    const seen = world.through(
      context,
      watched(context.store, (call, isMutation) => void (isMutation && calls.push(call))),
    );
    for (const taken of ['/a/v', '/a', '/a/v/w']) {
      await t.rejects(createVolume(seen, taken, size), ofCode('ALREADY_EXISTS'), taken);
      const clone = cloneVolume(seen, { id, path }, snapshot, taken, {}, readRanges);
      await t.rejects(clone, ofCode('ALREADY_EXISTS'), taken);
      if (taken !== '/a/v')
        await t.rejects(renameVolume(seen, '/a/v', taken), ofCode('ALREADY_EXISTS'));
    }
    t.same(calls, []);
    t.equal((await getVolume(context, '/a/v')).id, id);
  },
);

t.test(
  'B-38 of two who create one name at once, one wins and the other leaves nothing',
  async (t) => {
    const context = await new World().start();
    const tries = Array.from({ length: 4 }, () => createVolume(context, '/a/b', size));
    const results = await Promise.allSettled(tries);
    const won = results.filter(({ status }) => status === 'fulfilled');
    t.equal(won.length, 1);
    for (const result of results)
      if (result.status === 'rejected') t.match(result.reason, ofCode('ALREADY_EXISTS'));
    await audit(context, { reaped: true });
  },
);

t.test('B-39 deleting: open, attached, protected and unknown volumes are refused', async (t) => {
  const context = await new World().start();
  const { id } = await createVolume(context, '/v', { ...size, protected: true });
  const refused = { code: 'PROTECTED', exitCode: 7 };
  await t.rejects(deleteVolume(context, '/v', free), refused);
  await updateVolume(context, '/v', { protected: false });
  const inUse = { code: 'IN_USE', exitCode: 6, message: /\/v is in use: it is open/ };
  await t.rejects(
    deleteVolume(context, '/v', () => 'it is open'),
    inUse,
  );
  await setHead(context, '/v', { attachment: { attachId: 'a', vm: 'web', runEpoch: '1' } });
  const attached = { code: 'IN_USE', message: /attached to web/ };
  await t.rejects(deleteVolume(context, '/v', free), attached);
  await setHead(context, '/v', { attachment: null });
  await takeSnapshot(context, id, 's', { protected: true });
  await t.rejects(deleteVolume(context, '/v', free), { code: 'PROTECTED', message: /\/v@s/ });
  await t.rejects(deleteSnapshot(context, id, 's'), ofCode('PROTECTED'));
  await updateSnapshot(context, id, 's', { protected: false });
  t.equal(await deleteVolume(context, '/v', free), id);
  await t.rejects(deleteVolume(context, '/v', free), { code: 'NOT_FOUND', exitCode: 5 });
  await t.rejects(getVolume(context, '/v'), ofCode('NOT_FOUND'));
  await createVolume(context, '/v', size);
  await reap(context, reclaimLog);
  const { volumes } = await audit(context, { reaped: true });
  t.equal(volumes.size, 1);
  t.equal((await context.documents.names('logs')).length, 1);
});

/** Change a head as an open volume would. */
async function setHead(
  context: HlfsContext,
  path: string,
  change: Partial<HeadDocument> & Record<string, unknown>,
): Promise<void> {
  const { id, version, head } = await getVolume(context, path);
  await context.documents.replace(context.scope, `volumes/${id}/head`, version, {
    ...head,
    ...change,
  });
}

t.test(
  'N2 deleting raises the epoch, and the writer of before is fenced before anything goes',
  async (t) => {
    const context = await new World().start();
    const { id, head } = await createVolume(context, '/v', size);
    const scope = `logs/${head.log}/w/1-${'a'.repeat(32)}`;
    await context.store.createScope(scope);
    await setHead(context, '/v', { scope, writer: context.node });
    await writeSegment(context, id);
    await deleteVolume(context, '/v', free);
    await reap(context, async (inner, log, positions) => {
      t.equal(await inner.store.probeScope(scope), false, 'fenced first');
      return reclaimLog(inner, log, positions);
    });
    await audit(context, { reaped: true });
    t.same(await context.store.list('logs', undefined, 10), [], 'no directory of the log is left');
  },
);

t.test('S10 fields that this release does not know survive every rewrite', async (t) => {
  const context = await new World().start();
  const { id, path } = await createVolume(context, '/v', size);
  await setHead(context, '/v', { tier: { fast: true } });
  const snapshot = await takeSnapshot(context, id, 's');
  const key = `logs/${snapshot.log}/snap/s@`;
  await context.documents.replace(context.scope, key, 1, { ...snapshot, note: 'keep' });
  await updateSnapshot(context, id, 's', { labels: { a: 'b' } });
  await updateVolume(context, '/v', { labels: { a: 'b' } });
  await renameVolume(context, '/v', '/w');
  await growHead(context, { id, path }, 20 * MiB);
  await shrinkHead(context, { id, path }, 10 * MiB, free);
  await rollbackVolume(context, { id, path }, 's', readRanges, free);
  t.match((await getVolume(context, '/w')).head, { tier: { fast: true } });
  t.match((await findSnapshot(context, id, 's')).value, { note: 'keep', labels: { a: 'b' } });
});

t.test(
  'N7 a document that does not fit its schema is DOCUMENT_DAMAGED, never absent',
  async (t) => {
    const context = await new World().start();
    const { id, head } = await createVolume(context, '/v', size);
    const broken: Record<string, unknown>[] = [
      { sizeBytes: 10 },
      { state: 'gone' },
      { blockBytes: 1024 },
      { epoch: '-1' },
      { volume: head.log },
      { logs: [] },
      { name: '../x' },
      { sizeBytes: '99999999999999999' },
    ];
    for (const change of broken) {
      const { version } = (await context.documents.read(`volumes/${id}/head`)) ?? { version: 0 };
      const key = `volumes/${id}/head`;
      await context.documents.replace(context.scope, key, version, { ...head, ...change });
      await t.rejects(getVolume(context, '/v'), ofCode('DOCUMENT_DAMAGED'), JSON.stringify(change));
      await t.rejects(createVolume(context, '/v', size), ofCode('DOCUMENT_DAMAGED'));
      await t.rejects(reap(context, reclaimLog), ofCode('DOCUMENT_DAMAGED'));
    }
    t.not(
      await context.store.stat(`logs/${head.log}/log/000000000001`),
      undefined,
      'nothing was removed',
    );
  },
);

t.test('N7 a missing head is damage, and its name stays', async (t) => {
  const context = await new World().start();
  const { id } = await createVolume(context, '/v', size);
  await context.documents.purge(`volumes/${id}/head`);
  await t.rejects(getVolume(context, '/v'), ofCode('DOCUMENT_DAMAGED'));
  await t.rejects(createVolume(context, '/v', size), ofCode('ALREADY_EXISTS'));
  await reap(context, reclaimLog);
  await t.rejects(getVolume(context, '/v'), ofCode('DOCUMENT_DAMAGED'));
});

t.test('B-45 volumes named alike in different directories share nothing', async (t) => {
  const context = await new World().start();
  const one = await createVolume(context, '/a/db', size);
  const two = await createVolume(context, '/b/db', size);
  t.not(one.id, two.id);
  t.not(one.head.log, two.head.log);
  await takeSnapshot(context, one.id, 's');
  t.same(await listSnapshots(context, two.id), []);
  await deleteVolume(context, '/a/db', free);
  await reap(context, reclaimLog);
  t.same((await getVolume(context, '/b/db')).head, two.head);
});

t.test(
  'G6 growing and shrinking: the head decides, and what was cut off is remembered',
  async (t) => {
    const context = await new World().start();
    const { id, path } = await createVolume(context, '/v', { sizeBytes: GiB });
    const target = { id, path };
    t.match(await growHead(context, target, 2 * GiB), { sizeBytes: String(2 * GiB), epoch: '1' });
    await t.rejects(growHead(context, target, GiB), ofCode('INVALID_SIZE'));
    await t.rejects(growHead(context, target, 2 * GiB + 512), ofCode('INVALID_SIZE'));
    await t.rejects(
      shrinkHead(context, target, MiB, () => 'it is open'),
      ofCode('IN_USE'),
    );
    await t.rejects(shrinkHead(context, target, 3 * GiB, free), ofCode('INVALID_SIZE'));
    await setHead(context, '/v', { scope: 'logs/x/w/1-y', epoch: '7' });
    const shrunk = await shrinkHead(context, target, 512 * MiB, free);
    t.match(shrunk, { epoch: '8', scope: null, trimFrom: String(512 * MiB) });
    t.match(shrunk.pending, [{ epoch: '7', scope: 'logs/x/w/1-y', wasActive: false }]);
    await growHead(context, target, GiB);
    const again = await shrinkHead(context, target, 600 * MiB, free);
    t.equal(again.trimFrom, String(512 * MiB), 'the lowest cut counts until it is worked off');
    t.equal(again.pending.length, 1, 'nobody opened it in between');
    await publishImage(context, target, {
      digest: 'd',
      source: 's',
      format: 'raw',
      sourceBytes: '1',
    });
    await t.rejects(growHead(context, target, 4 * GiB), ofCode('READ_ONLY'));
    await t.rejects(shrinkHead(context, target, MiB, free), ofCode('READ_ONLY'));
  },
);

t.test('a compare-and-swap that keeps losing ends as CONFLICT', async (t) => {
  const world = new World();
  const context = await world.start();
  const { id, path } = await createVolume(context, '/v', size);
  let isBusy = false;
  const store = watched(context.store, async (call) => {
    if (isBusy || !call.startsWith(`put volumes/${id}`)) return;
    isBusy = true;
    await updateVolume(context, '/v', { labels: { n: String(context.random.below(1000)) } });
    isBusy = false;
  });
  const grown = growHead(world.through(context, store), { id, path }, 20 * MiB);
  await t.rejects(grown, { code: 'CONFLICT', retryable: true });
});
