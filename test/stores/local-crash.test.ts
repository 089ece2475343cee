/**
 * The local store on the simulated disk: whatever I/O a crash hits, a key is there whole or not at all, and it is there when its
 * put had resolved. Method: every scenario is run once for each of its I/Os.
 */
import t from 'tap';
import type { SegmentStore } from '../../src/hlfs/index.ts';
import { openLocalStore } from '../../src/stores/index.ts';
import { bytesOf, pattern, readFrom, type Test } from '../contract/segment-store.ts';
import { crashEverywhere } from '../sim/crash-everywhere.ts';
import { SimHost } from '../sim/world.ts';

const root = '/var/store';
const scope = 'logs/a/w/1-aa';
const open = (host: SimHost, create = false): Promise<SegmentStore> =>
  openLocalStore({ root, files: host.files, random: host.random, create });

async function prepared(host: SimHost): Promise<SegmentStore> {
  const store = await open(host, true);
  await store.createScope(scope);
  return store;
}

/** Whole or absent. */
async function isWhole(
  t: Test,
  store: SegmentStore,
  key: string,
  body: Buffer,
  how: string,
): Promise<boolean> {
  const stat = await store.stat(key);
  if (stat === undefined) return false;
  if (stat.lengthBytes !== body.byteLength) t.fail(`${how}: ${key} has ${stat.lengthBytes} bytes`);
  else if (!(await readFrom(store, key, 0, body.byteLength)).equals(body))
    t.fail(`${how}: ${key} has other bytes`);
  return true;
}

t.test(
  'B-22 a crash at every I/O of a put: the key is whole or absent, and present when it had resolved',
  async (t) => {
    const keys = [
      'logs/a/seg/00000000/0000000001',
      'logs/a/seg/00000000/0000000002',
      'documents/d/000000000001',
    ];
    const body = (key: string): Buffer => pattern(20_000, key.length);
    const outcomes = { absent: 0, present: 0 };
    const counts = await crashEverywhere(100, 3, {
      prepare: async (host) => ({ store: await prepared(host), resolved: new Set<string>() }),
      async act(_host, { store, resolved }) {
        for (const key of keys) {
          const whole = body(key);
          const parts = [whole.subarray(0, 7), whole.subarray(7, 9000), whole.subarray(9000)];
          const { outcome } = await store.putIfAbsent(scope, key, parts);
          if (outcome === 'created') resolved.add(key);
        }
      },
      async check(host, { resolved }, how) {
        const store = await open(host);
        const there: boolean[] = [];
        for (const key of keys) there.push(await isWhole(t, store, key, body(key), how));
        outcomes.present += there.filter(Boolean).length;
        outcomes.absent += there.filter((isThere) => !isThere).length;
        const gone = keys.filter((key, i) => resolved.has(key) && !there[i]);
        if (gone.length > 0) t.fail(`${how}: ${gone.join()} had resolved and is gone`);
        if (there.includes(false) && there.lastIndexOf(true) > there.indexOf(false))
          t.fail(`${how}: a key is there without the one before it: ${there.join()}`);
        // R2: temps of the dead incarnation go, and only they.
        await store.sweepScope(scope);
        const left = await host.files.list(`${root}/${scope}`);
        if (left.length > 0) t.fail(`${how}: ${left.join()} left in the scope`);
        if ((await store.putIfAbsent(scope, 'k/next', [bytesOf('x')])).outcome !== 'created')
          t.fail(`${how}: the store does not go on`);
        await store.close();
      },
    });
    t.ok(counts.ios > 20, `${counts.ios} I/Os, ${counts.crashes} crashes`);
    t.ok(outcomes.absent > 0 && outcomes.present > 0, JSON.stringify(outcomes));
  },
);

for (const way of ['list', 'exists'] as const)
  t.test(
    `B-22 a name seen (${way}) survives power loss, though its writer was killed before it could sync`,
    async (t) => {
      const body = pattern(5000, 1);
      const key = 'new/directory/1';
      const isSeen = async (store: SegmentStore): Promise<boolean> => {
        if (way === 'list') return (await store.list('new/directory', undefined, 10)).length > 0;
        return (await store.putIfAbsent(scope, key, [body])).outcome === 'exists';
      };
      let seen = 0;
      await crashEverywhere(200, 4, {
        prepare: prepared,
        async act(_host, store) {
          await store.putIfAbsent(scope, key, [body]);
        },
        async check(host, _store, how) {
          if (!(await isSeen(await open(host)))) return;
          seen += 1;
          host.reboot();
          if (!(await isWhole(t, await open(host), key, body, how))) t.fail(`${how}: it is gone`);
        },
      });
      t.ok(seen > 0, `it was seen ${seen} times`);
    },
  );

t.test('S1 a fence and a creation race: the scope never works afterwards', async (t) => {
  for (let seed = 1; seed <= 200; seed += 1) {
    const host = new SimHost(seed);
    const race = async (): Promise<void> => {
      const [one, two] = [await prepared(host), await open(host)];
      await Promise.all([one.createScope('w/2').catch(() => undefined), two.fence('w/2')]);
      const { outcome } = await one.putIfAbsent('w/2', 'k/1', [bytesOf('x')]);
      if (outcome !== 'fenced') t.fail(`seed ${seed}: ${outcome}`);
    };
    await host.scheduler.complete(race());
  }
  t.pass('200 seeds');
});

t.test(
  'S1 a crash at every I/O of a fence: fenced when it had resolved, and for good once anything was refused',
  async (t) => {
    await crashEverywhere(300, 2, {
      prepare: async (host) => ({ store: await prepared(host), isFenced: false }),
      async act(_host, state) {
        await state.store.fence(scope);
        state.isFenced = true;
      },
      async check(host, { isFenced }, how) {
        const store = await open(host);
        const { outcome } = await store.putIfAbsent(scope, 'k/1', [bytesOf('x')]);
        if (isFenced && outcome !== 'fenced') t.fail(`${how}: a resolved fence let a put through`);
        await store.fence(scope);
        host.reboot();
        const later = await open(host);
        t.same(await later.putIfAbsent(scope, 'k/2', [bytesOf('x')]), { outcome: 'fenced' }, how);
        await t.rejects(later.createScope(scope), { code: 'ALREADY_EXISTS' }, how);
      },
    });
  },
);

t.test(
  'a crash at every I/O of making a store: it opens or can be made, with one id',
  async (t) => {
    await crashEverywhere(400, 3, {
      prepare: async () => ({ id: '' }),
      async act(host, state) {
        state.id = (
          await openLocalStore({ root, files: host.files, random: host.random, create: true })
        ).id;
      },
      async check(host, { id }, how) {
        if (id !== '')
          t.equal(
            (await openLocalStore({ root, files: host.files, random: host.random, create: false }))
              .id,
            id,
            how,
          );
        const again = await openLocalStore({
          root,
          files: host.files,
          random: host.random,
          create: true,
        });
        await again.createScope(scope);
        host.reboot();
        t.equal(
          (await openLocalStore({ root, files: host.files, random: host.random, create: false }))
            .id,
          again.id,
          how,
        );
      },
    });
  },
);

t.test('a deleted key does not come back after power loss', async (t) => {
  await crashEverywhere(500, 2, {
    async prepare(host) {
      const store = await prepared(host);
      for (const key of ['d/1', 'd/2']) await store.putIfAbsent(scope, key, [bytesOf(key)]);
      return { store, deleted: new Set<string>() };
    },
    async act(_host, { store, deleted }) {
      for (const key of ['d/1', 'd/2']) {
        await store.delete(key);
        deleted.add(key);
      }
      await store.deleteDirectory('d');
    },
    async check(host, { deleted }, how) {
      const store = await open(host);
      for (const key of deleted)
        if ((await store.stat(key)) !== undefined) t.fail(`${how}: ${key} came back`);
    },
  });
});

t.test('S8 sweeping leaves the uploads of this instance alone', async (t) => {
  const host = new SimHost(1);
  await host.scheduler.complete(
    (async () => {
      const store = await prepared(host);
      host.files.openSync(`${root}/${scope}/0123456789abcdef-1.tmp`, 'create').closeSync();
      const running = store.putIfAbsent(scope, 'k/1', [pattern(10_000, 1)]);
      t.equal(await store.unfinished(scope), 1, 'its own is none');
      t.equal(await store.sweepScope(scope), 1, 'the other instance had one');
      t.equal((await running).outcome, 'created');
      await store.fence(scope);
      host.files.openSync(`${root}/${scope}.fenced/0123456789abcdef-2.tmp`, 'create').closeSync();
      t.equal(await store.unfinished(scope), 1);
      t.equal(await store.sweepScope(scope), 1, 'those of a fenced scope go too');
      t.equal(await store.unfinished(scope), 0);
    })(),
  );
});

/** Fail the nth I/O of a put. @returns false when the put has fewer */
async function failPut(t: Test, code: string, nth: number): Promise<boolean> {
  const host = new SimHost(600 + nth);
  const how = `${code} at I/O ${nth}`;
  const run = async (): Promise<boolean> => {
    const store = await prepared(host);
    let count = 0;
    host.log.inject({
      matches: (io) => io.kind !== 'stat' && io.kind !== 'list' && ++count === nth,
      times: 1,
      effect: { kind: 'error', code },
    });
    const body = pattern(9000, 1);
    const first = await store.putIfAbsent(scope, 'a/b/1', [body]).then(
      ({ outcome }) => outcome,
      (error) => String(error.code),
    );
    if (host.log.fired.size === 0) return false;
    t.match(first, code === 'EIO' ? /^(IO_FAILED|created)$/ : /^(NO_SPACE|created)$/, how);
    if (first === 'NO_SPACE')
      t.same(await host.files.list(`${root}/${scope}`), [], `${how}: nothing is left`);
    const second = await store.putIfAbsent(scope, 'a/b/1', [body]);
    t.match(second.outcome, /^(created|exists)$/, `${how}, again`);
    t.ok(await isWhole(t, store, 'a/b/1', body, how));
    return true;
  };
  return host.scheduler.complete(run());
}

t.test(
  'B-34 every error of the disk at every I/O of a put is reported, and the store goes on',
  async (t) => {
    for (const code of ['EIO', 'ENOSPC']) {
      let nth = 1;
      while (await failPut(t, code, nth)) nth += 1;
      t.ok(nth > 8, `${code}: ${nth - 1} I/Os`);
    }
  },
);

t.test('J6 short writes are completed', async (t) => {
  const host = new SimHost(700);
  await host.scheduler.complete(
    (async () => {
      const store = await prepared(host);
      host.log.inject({
        matches: (io) => io.kind === 'write',
        times: 50,
        effect: { kind: 'short', bytes: 777 },
      });
      const body = pattern(30_000, 1);
      await store.putIfAbsent(scope, 'k/1', [body.subarray(0, 1000), body.subarray(1000)]);
      t.ok(await isWhole(t, store, 'k/1', body, 'short writes'));
    })(),
  );
});

t.test('J5 a failed fdatasync of an upload is never taken for success', async (t) => {
  const host = new SimHost(800);
  await host.scheduler.complete(
    (async () => {
      const store = await prepared(host);
      host.log.inject({
        matches: (io) => io.kind === 'dataSync',
        times: 1,
        effect: { kind: 'error', code: 'EIO' },
      });
      await t.rejects(store.putIfAbsent(scope, 'k/1', [pattern(10_000, 1)]), { code: 'IO_FAILED' });
      host.reboot();
      const after = await open(host);
      t.equal(await after.stat('k/1'), undefined);
    })(),
  );
});

t.test(
  'the order of I/Os of a put: data is synced before the name is given, the name before the answer',
  async (t) => {
    const host = new SimHost(900);
    await host.scheduler.complete(
      (async () => {
        const store = await prepared(host);
        await store.putIfAbsent(scope, 'k/1', [bytesOf('x')]);
        host.log.isRecording = true;
        await store.putIfAbsent(scope, 'k/2', [bytesOf('body')]);
      })(),
    );
    t.same(
      host.log.entries.map(({ kind, path, target }) =>
        [kind, (target ?? path).replace(/[0-9a-f]{16}-\d+/, 'TEMP')].join(' '),
      ),
      [
        `create ${root}/${scope}/TEMP.tmp`,
        `write ${root}/${scope}/TEMP.tmp`,
        `dataSync ${root}/${scope}/TEMP.tmp`,
        `link ${root}/k/2`,
        `syncDirectory ${root}/k`,
        `remove ${root}/${scope}/TEMP.tmp`,
      ],
    );
  },
);
