/**
 * Documents: compare-and-swap with nothing but put-if-absent. Races on a store whose requests and replies are late, crashes at
 * every I/O, late writers whose versions land in names that were pruned (S2, P4), damage and newer formats (N7, S10).
 */
import fc from 'fast-check';
import t from 'tap';
import { crc32c, limits } from '../../src/base/index.ts';
import { type Documents, openDocuments, type SegmentStore } from '../../src/hlfs/index.ts';
import { openLocalStore, openMemoryStore } from '../../src/stores/index.ts';
import { readFrom, type Test } from '../contract/segment-store.ts';
import { crashEverywhere } from '../sim/crash-everywhere.ts';
import { FaultyStore } from '../sim/faulty-store.ts';
import { SimHost } from '../sim/world.ts';

const scope = 'scopes/one';
const key = 'volumes/v/head';
const nameOf = (version: number): string => `${key}/${String(version).padStart(12, '0')}`;

async function memoryDocuments(): Promise<{ store: SegmentStore; documents: Documents }> {
  const store = openMemoryStore();
  await store.createScope(scope);
  return { store, documents: openDocuments(store) };
}

const versionsIn = async (store: SegmentStore): Promise<number[]> =>
  (await store.list(key, undefined, 1000)).map((entry) => Number(entry.key.slice(-12)));

/** Replace until version `last`. */
async function advance(documents: Documents, from: number, last: number): Promise<void> {
  for (let version = from; version < last; version += 1)
    if (!(await documents.replace(scope, key, version, { at: version + 1 })))
      throw new Error(`version ${version + 1} was not won`);
}

/** A document as the format comment of document-format.ts describes it, written by other hands. */
function handmade(json: string, marks = '00000001'): Buffer {
  const covered = Buffer.from(`${json}\n${marks}\n`);
  return Buffer.concat([
    covered,
    Buffer.from(`${crc32c(covered).toString(16).padStart(8, '0')}\n`),
  ]);
}

t.test(
  'a document is created once, changed from its version only, deleted, and created again',
  async (t) => {
    const { store, documents } = await memoryDocuments();
    t.equal(await documents.read(key), undefined);
    t.equal(await documents.create(scope, key, { size: '1' }), true);
    t.equal(await documents.create(scope, key, { size: '2' }), false);
    t.same(await documents.read(key), { version: 1, value: { format: 1, size: '1' } });
    t.equal(
      await documents.replace(scope, key, 2, { size: '3' }),
      false,
      'from a version that is not there',
    );
    t.equal(await documents.replace(scope, key, 1, { size: '3' }), true);
    t.equal(await documents.replace(scope, key, 1, { size: '4' }), false, 'from an old version');
    t.equal(await documents.delete(scope, key, 1), false, 'deleting from an old version');
    t.equal(await documents.delete(scope, key, 2), true);
    t.equal(await documents.read(key), undefined);
    t.equal(
      await documents.replace(scope, key, 3, { size: '5' }),
      false,
      'a tombstone is not replaced',
    );
    t.same(await versionsIn(store), [2, 3], 'S2 the tombstone stays, with the version before it');
    t.equal(await documents.create(scope, key, { size: '6' }), true);
    t.same(await documents.read(key), { version: 4, value: { format: 1, size: '6' } });
    t.same(await openDocuments(store).read(key), await documents.read(key), 'without hints too');
  },
);

t.test('S2 pruning keeps the newest two and goes oldest first', async (t) => {
  const { store } = await memoryDocuments();
  const deleted: string[] = [];
  const watched: SegmentStore = Object.create(store, {
    delete: {
      value: (name: string) => {
        deleted.push(name);
        return store.delete(name);
      },
    },
    putIfAbsent: { value: store.putIfAbsent.bind(store) },
    list: { value: store.list.bind(store) },
    stat: { value: store.stat.bind(store) },
    read: { value: store.read.bind(store) },
  });
  const documents = openDocuments(watched);
  await documents.create(scope, key, {});
  await advance(documents, 1, 6);
  t.same(await versionsIn(store), [5, 6]);
  t.same(deleted, [1, 2, 3, 4].map(nameOf));
});

t.test('purge removes everything, names shows what is left', async (t) => {
  const { store, documents } = await memoryDocuments();
  for (const name of ['a', 'b']) await documents.create(scope, `logs/l/snap/${name}`, {});
  t.same(await documents.names('logs/l/snap'), ['a', 'b']);
  await documents.delete(scope, 'logs/l/snap/a', 1);
  t.same(await documents.names('logs/l/snap'), ['a', 'b'], 'a tombstone still is a name');
  await documents.purge('logs/l/snap/a');
  t.same(await documents.names('logs/l/snap'), ['b']);
  t.equal(await documents.read('logs/l/snap/a'), undefined);
  t.same(await store.list('logs/l/snap/a', undefined, 10), []);
  await documents.purge('logs/l/snap/never');
  t.same(await documents.names('logs/none'), []);
});

t.test('S1 a fenced writer is told so', async (t) => {
  const { store, documents } = await memoryDocuments();
  await documents.create(scope, key, {});
  await store.fence(scope);
  for (const attempt of [
    () => documents.replace(scope, key, 1, {}),
    () => documents.delete(scope, key, 1),
    () => documents.create(scope, 'volumes/w/head', {}),
  ])
    await t.rejects(attempt(), { code: 'FENCED' });
  t.equal((await documents.read(key))?.version, 1);
});

t.test(
  'S10 unknown fields survive a rewrite, numbers that JSON would round are refused',
  async (t) => {
    const { store, documents } = await memoryDocuments();
    const body = handmade(
      '{"format":1,"size":"18446744073709551615","later":{"deep":[1,{"x":null}]}}',
    );
    await store.putIfAbsent(scope, nameOf(1), [body]);
    const found = await documents.read<{ size: string }>(key);
    t.ok(found !== undefined);
    if (found === undefined) return;
    await documents.replace(scope, key, 1, { ...found.value, size: '2' });
    t.same((await openDocuments(store).read(key))?.value, {
      format: 1,
      size: '2',
      later: { deep: [1, { x: null }] },
    });
    await t.rejects(documents.replace(scope, key, 2, { size: 2 ** 60 }), { code: 'INTERNAL' });
  },
);

t.test(
  'B-25 N7 a flipped bit anywhere in a document is an error, never absence or other content',
  async (t) => {
    const { store, documents } = await memoryDocuments();
    await documents.create(scope, key, { size: '4096', labels: { a: 'b' } });
    const length = (await store.stat(nameOf(1)))?.lengthBytes ?? 0;
    const body = await readFrom(store, nameOf(1), 0, length);
    for (let bit = 0; bit < 8 * length; bit += 1) {
      const flipped = Buffer.from(body);
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      await store.delete(nameOf(1));
      await store.putIfAbsent(scope, nameOf(1), [flipped]);
      const code = await openDocuments(store)
        .read(key)
        .then(
          () => 'read',
          (error) => error.code,
        );
      if (code !== 'DOCUMENT_DAMAGED') t.fail(`bit ${bit}: ${code}`);
    }
    t.pass(`${8 * length} bits`);
  },
);

t.test('N7 cut, empty, huge and foreign documents are errors with their key', async (t) => {
  const damaged = [
    Buffer.alloc(0),
    Buffer.from('{"format":1}'),
    handmade('{"format":1}').subarray(1),
    handmade('no json'),
    handmade('[1]'),
    handmade('null'),
    handmade('{"size":1}'),
    handmade('{"format":"1"}'),
    handmade('{"format":0}'),
    handmade('{"format":1}', 'xyz'),
    Buffer.alloc(limits.documentBytesMax + 1),
  ];
  for (const [i, body] of damaged.entries()) {
    const { store, documents } = await memoryDocuments();
    await store.putIfAbsent(scope, nameOf(1), [body]);
    await t.rejects(
      documents.read(key),
      { code: 'DOCUMENT_DAMAGED', context: { name: nameOf(1) } },
      `${i}`,
    );
    await t.rejects(
      documents.create(scope, key, {}),
      { code: 'DOCUMENT_DAMAGED' },
      'nor is its name free',
    );
    await t.rejects(documents.replace(scope, key, 1, {}), { code: 'DOCUMENT_DAMAGED' });
  }
});

t.test('a document of a newer format is refused, naming both versions', async (t) => {
  const { store, documents } = await memoryDocuments();
  await store.putIfAbsent(scope, nameOf(1), [handmade('{"format":7,"new":true}')]);
  await t.rejects(documents.read(key), {
    code: 'FORMAT_TOO_NEW',
    message: /volumes\/v\/head\/000000000001 has format version 7; this program reads up to 1/,
  });
});

t.test('a document over the limit is refused before it is written', async (t) => {
  const { store, documents } = await memoryDocuments();
  const labels = 'x'.repeat(limits.documentBytesMax);
  await t.rejects(documents.create(scope, key, { labels }), { code: 'TOO_LARGE' });
  t.same(await versionsIn(store), []);
});

t.test('P4 a hint that is old, pruned or purged never hides the newest version', async (t) => {
  const { store, documents } = await memoryDocuments();
  await documents.create(scope, key, { at: 1 });
  for (const last of [2, 3, 4, 9, 40]) {
    const reader = openDocuments(store);
    const before = (await reader.read(key))?.version ?? 0;
    await advance(documents, before, last);
    t.equal((await reader.read(key))?.version, last, `from ${before} to ${last}`);
  }
  const reader = openDocuments(store);
  await reader.read(key);
  await documents.delete(scope, key, 40);
  t.equal(await reader.read(key), undefined, 'the tombstone is seen');
  await documents.purge(key);
  t.equal(await reader.read(key), undefined);
  await documents.create(scope, key, { at: 1 });
  t.same(await reader.read(key), { version: 1, value: { format: 1, at: 1 } });
});

t.test('P4 forgotten hints cost only a list: the cache is bounded', async (t) => {
  const store = openMemoryStore();
  await store.createScope(scope);
  const documents = openDocuments(store);
  const count = limits.documentHints + 10;
  for (let i = 0; i < count; i += 1) await documents.create(scope, `d/${i}`, { i });
  for (let i = 0; i < count; i += 1)
    if ((await documents.read<{ i: number }>(`d/${i}`))?.value.i !== i) t.fail(`document ${i}`);
  t.pass(`${count} documents`);
});

/** A store whose next put arrives only when `release` is called. */
function sleepyStore(store: SegmentStore): { sleepy: SegmentStore; release: () => void } {
  let release = (): void => {};
  const awake = new Promise<void>((resolve) => {
    release = resolve;
  });
  const sleepy: SegmentStore = Object.create(store, {
    putIfAbsent: {
      value: async (...request: Parameters<SegmentStore['putIfAbsent']>) => {
        await awake;
        return store.putIfAbsent(...request);
      },
    },
    list: { value: store.list.bind(store) },
    stat: { value: store.stat.bind(store) },
    read: { value: store.read.bind(store) },
    delete: { value: store.delete.bind(store) },
  });
  return { sleepy, release };
}

t.test('S2 a late version that lands in a pruned name is neither won nor read', async (t) => {
  for (const [from, last] of [
    [3, 4],
    [3, 5],
    [3, 6],
    [3, 7],
    [3, 40],
  ] as const) {
    const { store, documents } = await memoryDocuments();
    await documents.create(scope, key, { at: 1 });
    await advance(documents, 1, from);
    const { sleepy, release } = sleepyStore(store);
    const late = openDocuments(sleepy).replace(scope, key, from, { at: 'late' });
    const reader = openDocuments(store);
    await advance(documents, from, from + 1);
    await reader.read(key); // its hint is the name in which the late one will land
    await advance(documents, from + 1, last);
    release();
    const won = await late.catch((error) => error.code);
    t.equal(won, false, `${from} to ${last}`);
    t.same((await reader.read(key))?.value, { format: 1, at: last }, 'an old hint is not fooled');
    t.same(await versionsIn(store), [last - 1, last], 'and the stray is gone');
  }
});

t.test('S2 while the stray is there, no hint takes it for the newest', async (t) => {
  const { store, documents } = await memoryDocuments();
  await documents.create(scope, key, { at: 1 });
  await advance(documents, 1, 4);
  const reader = openDocuments(store);
  await reader.read(key);
  await advance(documents, 4, 9);
  await store.putIfAbsent(scope, nameOf(4), [handmade('{"format":1,"at":"stray"}')]);
  t.same((await reader.read(key))?.value, { format: 1, at: 9 });
  await store.putIfAbsent(scope, nameOf(5), [handmade('{"format":1,"at":"stray"}')]);
  t.same((await openDocuments(store).read(key))?.value, { format: 1, at: 9 });
  await advance(documents, 9, 10);
  t.same(await versionsIn(store), [9, 10], 'pruning takes strays too');
});

t.test('S2 a version that was pruned before its writer looked still counts as won', async (t) => {
  for (const followers of [1, 2, 3, 10]) {
    const { store, documents } = await memoryDocuments();
    await documents.create(scope, key, { at: 1 });
    // The writer's first list after its put waits; meanwhile others go on from its version and prune what was before.
    let isPut = false;
    const slow: SegmentStore = Object.create(store, {
      putIfAbsent: {
        value: async (...request: Parameters<SegmentStore['putIfAbsent']>) => {
          const result = await store.putIfAbsent(...request);
          isPut = true;
          return result;
        },
      },
      list: {
        value: async (...request: Parameters<SegmentStore['list']>) => {
          if (isPut) {
            isPut = false;
            await advance(documents, 2, 2 + followers);
          }
          return store.list(...request);
        },
      },
      stat: { value: store.stat.bind(store) },
      read: { value: store.read.bind(store) },
      delete: { value: store.delete.bind(store) },
    });
    t.equal(await openDocuments(slow).replace(scope, key, 1, { at: 'ours' }), true, `${followers}`);
    t.same(await documents.read(key), {
      version: 2 + followers,
      value: { format: 1, at: 2 + followers },
    });
  }
});

/** `writers` increment a counter through compare-and-swap; each success must be in it exactly once. */
async function race(
  seed: number,
  writers: number,
  increments: number,
  late: number,
): Promise<string> {
  const host = new SimHost(seed);
  const store = openMemoryStore();
  const wins: string[] = [];
  const open = (): Documents =>
    openDocuments(
      new FaultyStore({
        store,
        scheduler: host.scheduler,
        process: host.process,
        delayMs: 5,
        chances: { unavailable: 0, noSpace: 0, lateRequest: late, lateReply: late, bitFlip: 0 },
      }),
    );
  const write = async (name: string): Promise<void> => {
    const documents = open();
    for (let done = 0; done < increments; ) {
      const found = await documents.read<{ log: string[] }>(key);
      const id = `${name}-${done}-${found?.version}`;
      const log = [...(found?.value.log ?? []), id];
      const won =
        found === undefined
          ? await documents.create(scope, key, { log })
          : await documents.replace(scope, key, found.version, { log });
      if (!won) continue;
      wins.push(id);
      done += 1;
    }
  };
  await host.scheduler.complete(
    (async () => {
      await store.createScope(scope);
      await Promise.all(Array.from({ length: writers }, (_, i) => write(`w${i}`)));
    })(),
  );
  const end = await openDocuments(store).read<{ log: string[] }>(key);
  const log = end?.value.log ?? [];
  if (log.length !== writers * increments) return `${log.length} entries: ${log.join()}`;
  return wins.toSorted().join() === log.toSorted().join()
    ? ''
    : `won ${wins.join()}, has ${log.join()}`;
}

t.test('S2 racing writers: every win is in the document once, every loss is not', async (t) => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 2 ** 31 }),
      fc.integer({ min: 2, max: 4 }),
      fc.constantFrom(0, 30, 120),
      async (seed, writers, late) => {
        const problem = await race(seed, writers, 4, late);
        if (problem !== '') throw new Error(problem);
      },
    ),
    { numRuns: 60, seed: 20261121 },
  );
  t.pass('60 runs');
});

const openOn = async (host: SimHost, create = false): Promise<SegmentStore> =>
  openLocalStore({ root: '/store', files: host.files, random: host.random, create });

/** What a reader may find after a crash: the last value that was acknowledged, or one that was under way. */
interface Promised {
  acknowledged: number | undefined;
  underWay: number | undefined;
}

async function checkDocument(t: Test, host: SimHost, state: Promised, how: string): Promise<void> {
  const store = await openOn(host);
  const documents = openDocuments(store);
  const found = await documents.read<{ at: number }>(key);
  const at = found?.value.at;
  if (at !== state.acknowledged && at !== state.underWay)
    t.fail(`${how}: found ${at}, promised ${state.acknowledged}, under way ${state.underWay}`);
  // What was seen stays, also over another power loss, and the document can be written on.
  host.reboot();
  const again = openDocuments(await openOn(host));
  if ((await again.read<{ at: number }>(key))?.value.at !== at)
    t.fail(`${how}: ${at} did not stay`);
  const current = await again.read(key);
  const written =
    current === undefined
      ? await again.create(scope, key, { at: 99 })
      : await again.replace(scope, key, current.version, { at: 99 });
  if (!written) t.fail(`${how}: it cannot be written`);
}

t.test('a crash at every I/O of create, replace with pruning, and delete', async (t) => {
  const counts = await crashEverywhere(1000, 2, {
    async prepare(host) {
      const store = await openOn(host, true);
      await store.createScope(scope);
      const promised: Promised = { acknowledged: undefined, underWay: undefined };
      return { promised, documents: openDocuments(store) };
    },
    async act(_host, { promised, documents }) {
      const step = async (at: number | undefined, write: () => Promise<boolean>): Promise<void> => {
        promised.underWay = at;
        if (!(await write())) throw new Error(`write ${at} was lost to nobody`);
        promised.acknowledged = at;
      };
      await step(1, () => documents.create(scope, key, { at: 1 }));
      for (let at = 2; at <= 4; at += 1)
        await step(at, () => documents.replace(scope, key, at - 1, { at }));
      await step(undefined, () => documents.delete(scope, key, 4));
      await step(6, () => documents.create(scope, key, { at: 6 }));
    },
    check: (host, { promised }, how) => checkDocument(t, host, promised, how),
  });
  t.ok(counts.ios > 50, `${counts.ios} I/Os, ${counts.crashes} crashes`);
});

t.test('a crash at every I/O of a purge leaves the document deleted', async (t) => {
  await crashEverywhere(2000, 2, {
    async prepare(host) {
      const store = await openOn(host, true);
      await store.createScope(scope);
      const documents = openDocuments(store);
      await documents.create(scope, key, { at: 1 });
      await documents.delete(scope, key, 1);
      return documents;
    },
    act: (_host, documents) => documents.purge(key),
    async check(host, _documents, how) {
      const documents = openDocuments(await openOn(host));
      if ((await documents.read(key)) !== undefined) t.fail(`${how}: it came back`);
      if (!(await documents.create(scope, key, { at: 2 }))) t.fail(`${how}: its name is blocked`);
    },
  });
});
