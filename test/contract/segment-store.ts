/**
 * The contract of `SegmentStore` (src/hlfs/store.ts) as tests: one suite for every store.
 *
 * A fixture opens a fresh store and runs a test body on it. What a store cannot be asked (to lose power, to be full) it leaves
 * out of its capabilities; then the suite says by name what it did not try.
 */

import type t from 'tap';
import type { DvceError } from '../../src/base/index.ts';
import { limits } from '../../src/base/index.ts';
import type { PutResult, SegmentStore } from '../../src/hlfs/index.ts';

/** A test, or the root of all. */
export type Test = Pick<
  typeof t,
  'ok' | 'equal' | 'same' | 'match' | 'fail' | 'pass' | 'rejects' | 'test'
>;

export interface StoreFixture {
  readonly name: string;
  /**
   * Open a fresh store and run `body`; `another` opens one more instance on the same objects (another thread or process).
   */
  run(
    body: (store: SegmentStore, another: () => Promise<SegmentStore>) => Promise<void>,
  ): Promise<void>;
  /** The same with a store that has room for about `capacityBytes`. */
  runSmall?(capacityBytes: number, body: (store: SegmentStore) => Promise<void>): Promise<void>;
  /** Put many small objects faster than through the store. */
  plant?(store: SegmentStore, keys: readonly string[]): Promise<void>;
}

const scope = 'logs/a/w/1-aa';

export const bytesOf = (text: string): Buffer => Buffer.from(text);

export function readFrom(
  store: SegmentStore,
  key: string,
  offset: number,
  length: number,
): Promise<Buffer> {
  const target = Buffer.alloc(length);
  return new Promise((resolve, reject) => {
    store.read(key, offset, target, (error) => (error ? reject(error) : resolve(target)));
  });
}

const put = (store: SegmentStore, key: string, text: string, by = scope): Promise<PutResult> =>
  store.putIfAbsent(by, key, [bytesOf(text)]);

/** A pattern that tells every byte of a large body from its neighbours. */
export function pattern(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let i = 0; i < length; i += 1) bytes[i] = (i * 31 + (i >> 8) * 17 + seed) & 0xff;
  return bytes;
}

export function segmentStoreContract(t: Test, fixture: StoreFixture): void {
  const test = (
    name: string,
    body: (t: Test, store: SegmentStore, another: () => Promise<SegmentStore>) => Promise<void>,
  ): void => {
    void t.test(`${fixture.name}: ${name}`, (t) =>
      fixture.run(async (store, another) => {
        await store.createScope(scope);
        await body(t, store, another);
      }),
    );
  };
  publishing(test);
  fencing(test);
  listing(test, fixture);
  removing(test);
  reading(test);
  space(t, fixture);
}

type Define = (
  name: string,
  body: (t: Test, store: SegmentStore, another: () => Promise<SegmentStore>) => Promise<void>,
) => void;

function publishing(test: Define): void {
  test('S1 a body of many buffers appears whole, once, with its replicas', async (t, store) => {
    // More than 1024 vectors, odd lengths, empty buffers between.
    const parts = Array.from({ length: 3000 }, (_, i) => pattern(i % 7 === 0 ? 0 : 100 + i, i));
    const whole = Buffer.concat(parts);
    const result = await store.putIfAbsent(scope, 'logs/a/seg/0/1', parts);
    t.same(result, { outcome: 'created', replicas: 1 });
    t.same(await store.stat('logs/a/seg/0/1'), { lengthBytes: whole.byteLength });
    t.ok((await readFrom(store, 'logs/a/seg/0/1', 0, whole.byteLength)).equals(whole));
  });

  test('B-18 a name is never overwritten', async (t, store, another) => {
    await put(store, 'logs/a/seg/0/1', 'first');
    t.same(await put(store, 'logs/a/seg/0/1', 'second, longer'), { outcome: 'exists' });
    const other = await another();
    await other.createScope('logs/a/w/2-bb');
    t.same(await put(other, 'logs/a/seg/0/1', 'third', 'logs/a/w/2-bb'), { outcome: 'exists' });
    t.equal((await readFrom(store, 'logs/a/seg/0/1', 0, 5)).toString(), 'first');
    t.same(await store.stat('logs/a/seg/0/1'), { lengthBytes: 5 });
    await other.close();
  });

  test('B-18 of many racing writers one wins, and its body is what is read', async (t, store, another) => {
    const other = await another();
    const racers = Array.from({ length: 16 }, (_, i) =>
      put(i % 2 === 0 ? store : other, 'documents/d/000000000001', `writer ${i}`),
    );
    const outcomes = await Promise.all(racers);
    const winners = outcomes.flatMap(({ outcome }, i) => (outcome === 'created' ? [i] : []));
    t.equal(winners.length, 1, 'one winner');
    const expected = `writer ${winners[0]}`;
    const found = await readFrom(store, 'documents/d/000000000001', 0, expected.length);
    t.equal(found.toString(), expected);
    await other.close();
  });

  test('the caller may reuse its buffers once the put has resolved', async (t, store) => {
    const body = pattern(5000, 1);
    await store.putIfAbsent(scope, 'k/1', [body]);
    body.fill(0);
    t.ok((await readFrom(store, 'k/1', 0, 5000)).equals(pattern(5000, 1)));
  });

  test('an empty body is a body', async (t, store) => {
    t.equal((await store.putIfAbsent(scope, 'k/1', [])).outcome, 'created');
    t.same(await store.stat('k/1'), { lengthBytes: 0 });
    t.same(await readFrom(store, 'k/1', 0, 0), Buffer.alloc(0));
  });

  test('keys that lead out of the store or are none are refused', async (t, store) => {
    const bad = [
      '',
      '..',
      '../x',
      'a/../../x',
      'a//b',
      '/etc/passwd',
      'a/',
      'a/./b',
      'a b',
      'a\0b',
      'a\nb',
      'a\\b',
      'é',
      `a/${'x'.repeat(201)}`,
      Array.from({ length: 200 }, () => 'part').join('/'),
      'a/b.tmp',
    ];
    for (const key of bad) {
      const name = JSON.stringify(key.slice(0, 20));
      await t.rejects(async () => put(store, key, 'x'), { code: 'INVALID_ARGUMENT' }, name);
      await t.rejects(async () => store.stat(key), { code: 'INVALID_ARGUMENT' }, name);
      await t.rejects(async () => store.delete(key), { code: 'INVALID_ARGUMENT' }, name);
      await t.rejects(async () => readFrom(store, key, 0, 1), { code: 'INVALID_ARGUMENT' }, name);
      await t.rejects(async () => store.createScope(key), { code: 'INVALID_ARGUMENT' }, name);
    }
    await t.rejects(async () => store.fence('a/w.fenced'), { code: 'INVALID_ARGUMENT' });
  });
}

function fencing(test: Define): void {
  test('S1 nothing is published through a scope that was fenced', async (t, store) => {
    t.equal(await store.probeScope(scope), true);
    t.equal((await put(store, 'k/1', 'before')).outcome, 'created');
    await store.fence(scope);
    t.same(await put(store, 'k/2', 'after'), { outcome: 'fenced' });
    t.same(await put(store, 'k/1', 'after'), { outcome: 'fenced' }, 'also where the name is taken');
    t.equal(await store.stat('k/2'), undefined);
    t.equal(await store.probeScope(scope), false);
    await store.fence(scope);
    t.pass('fencing again succeeds');
    t.equal((await readFrom(store, 'k/1', 0, 6)).toString(), 'before', 'what was there stays');
  });

  test('S1 uploads that are open while the scope is fenced do not publish after it', async (t, store, another) => {
    const other = await another();
    const body = Array.from({ length: 64 }, (_, i) => pattern(16_384, i));
    for (let round = 0; round < 8; round += 1) {
      const name = `logs/a/w/3-${round}`;
      await store.createScope(name);
      const keys = Array.from({ length: 6 }, (_, i) => `race/${round}/${i}`);
      const puts = keys.map((key) => store.putIfAbsent(name, key, body));
      for (let i = 0; i < round; i += 1) await other.stat('k/none');
      await other.fence(name);
      const seen = await Promise.all(keys.map((key) => other.stat(key)));
      const results = await Promise.all(puts);
      for (const [i, key] of keys.entries()) {
        // A publish that beat the fence is there when the fence has resolved; one that did not is there never.
        const isThere = (await other.stat(key)) !== undefined;
        const outcome = results[i]?.outcome;
        if (isThere !== (outcome === 'created') || (isThere && seen[i] === undefined))
          t.fail(`round ${round} ${key}: ${outcome}, there ${isThere}, at the fence ${seen[i]}`);
      }
    }
    t.pass('every outcome fits');
    await other.close();
  });

  test('S1 the name of a scope is never used twice', async (t, store, another) => {
    const taken = { code: 'ALREADY_EXISTS' };
    await t.rejects(store.createScope(scope), taken, 'while it is there');
    const other = await another();
    await t.rejects(other.createScope(scope), taken, 'for another instance');
    await other.fence(scope);
    await t.rejects(store.createScope(scope), taken, 'after it was fenced');
    await other.close();
  });

  test('S1 a scope that was fenced before it was made cannot be made late', async (t, store) => {
    await store.fence('logs/a/w/9-never');
    t.equal(await store.probeScope('logs/a/w/9-never'), false);
    await t.rejects(store.createScope('logs/a/w/9-never'), { code: 'ALREADY_EXISTS' });
    t.same(await put(store, 'k/1', 'x', 'logs/a/w/9-never'), { outcome: 'fenced' });
  });

  test('S1 a racing fence and creation end with the scope fenced or the creation refused', async (t, store, another) => {
    const other = await another();
    for (let round = 0; round < 10; round += 1) {
      const name = `logs/a/w/5-${round}`;
      const created = store.createScope(name).then(
        () => true,
        () => false,
      );
      await other.fence(name);
      await created;
      t.same(await put(store, `late/${round}`, 'x', name), { outcome: 'fenced' });
      await t.rejects(store.createScope(name), { code: 'ALREADY_EXISTS' });
    }
    await other.close();
  });

  test('a put through a scope that never was is fenced and makes no directory', async (t, store) => {
    t.same(await put(store, 'k/1', 'x', 'logs/b/w/1-zz'), { outcome: 'fenced' });
    t.same(await store.list('logs/b', undefined, 10), []);
  });

  test('S8 sweeping removes nothing of a scope that is in use', async (t, store) => {
    const running = Promise.all(
      Array.from({ length: 8 }, (_, i) => store.putIfAbsent(scope, `k/${i}`, [pattern(50_000, i)])),
    );
    await store.sweepScope(scope);
    t.same(
      (await running).map(({ outcome }) => outcome),
      Array.from({ length: 8 }, () => 'created'),
    );
    t.equal(await store.sweepScope('logs/x/w/none'), 0, 'a missing scope is clean');
    t.equal(await store.unfinished(scope), 0);
    t.equal(await store.unfinished('logs/x/w/none'), 0);
  });
}

function listing(test: Define, fixture: StoreFixture): void {
  test('listing goes in key order, page by page, directories marked', async (t, store) => {
    const names = ['b', 'a', 'Z', '10', '9', 'a-b', 'a.b', 'a@b'];
    for (const name of names) await put(store, `l/${name}`, name);
    await put(store, 'l/dir/deep/x', 'x');
    const expected = [...names, 'dir'].sort((a, b) => (a < b ? -1 : 1)).map((name) => `l/${name}`);
    const all = await store.list('l', undefined, 100);
    t.same(
      all.map(({ key }) => key),
      expected,
    );
    t.same(
      all.filter(({ isDirectory }) => isDirectory).map(({ key }) => key),
      ['l/dir'],
    );
    for (const size of [1, 2, 4, 100]) {
      t.same(await listPaged(store, 'l', size), expected, `in pages of ${size}`);
    }
    t.same(
      (await store.list('l', 'l/a-', 2)).map(({ key }) => key),
      ['l/a-b', 'l/a.b'],
      'after a key that is not there',
    );
    t.same(await store.list('l/none', undefined, 10), []);
    t.same(await store.list('l/a', undefined, 10), [], 'of a key that is no directory');
    t.equal(await store.stat('l/dir'), undefined, 'a directory is no object');
    const roots = (await store.list('', undefined, 10)).map(({ key }) => key);
    t.same(roots, ['l', 'logs'], 'the top shows what the store holds and nothing else');
  });

  test('unfinished uploads are not listed', async (t, store) => {
    const running = store.putIfAbsent(scope, 'k/1', [pattern(200_000, 1)]);
    const seen = await store.list(scope, undefined, 10);
    await running;
    t.same(seen, []);
  });

  test('B-32 20,000 keys in shards are listed completely and in order', async (t, store) => {
    const count = fixture.plant === undefined ? 2000 : 20_000;
    const keys = Array.from({ length: count }, (_, i) => segmentName(i + 1));
    if (fixture.plant === undefined) for (const key of keys) await put(store, key, 'x');
    else await fixture.plant(store, keys);
    const found: string[] = [];
    for (const shard of await listPaged(store, 'logs/big/seg', 1))
      found.push(...(await listPaged(store, shard, limits.listPageEntries)));
    t.equal(found.length, count);
    t.ok(
      found.every((key, i) => key === keys[i]),
      'in order across the shards',
    );
  });
}

async function listPaged(store: SegmentStore, prefix: string, size: number): Promise<string[]> {
  const found: string[] = [];
  for (;;) {
    const page = await store.list(prefix, found.at(-1), size);
    found.push(...page.map(({ key }) => key));
    if (page.length < size) return found;
  }
}

const segmentName = (number: number): string =>
  `logs/big/seg/${String(Math.floor(number / 1024)).padStart(8, '0')}/${String(number).padStart(10, '0')}`;

function removing(test: Define): void {
  test('reading at once, and ahead, answers with what is there or not at all', async (t, store) => {
    const key = 'logs/a/seg/0/7';
    const content = pattern(1 << 20, 7);
    await store.createScope('scopes/ahead');
    await store.putIfAbsent('scopes/ahead', key, [content]);
    for (const missing of ['logs/a/seg/0/8', '../outside', '']) {
      t.equal(
        store.readNow?.(missing, 0, Buffer.alloc(512)) === true,
        false,
        'what is not there is never at hand',
      );
      await store.readAhead?.(missing, 0, 4096);
    }
    await Promise.all([0, 1, 2, 3].map((at) => store.readAhead?.(key, at * 65_536, 65_536)));
    await store.readAhead?.(key, content.byteLength - 100, 4096); // beyond the end: a hint, no error
    const target = Buffer.alloc(5000);
    if (store.readNow?.(key, 12_345, target) === true)
      t.ok(target.equals(content.subarray(12_345, 17_345)));
    t.equal(
      store.readNow?.(key, content.byteLength - 100, Buffer.alloc(200)) === true,
      false,
      'short is not read',
    );
    await store.delete(key);
    t.equal(store.readNow?.(key, 0, target) === true, false, 'gone is gone');
  });

  test('deleting is idempotent and leaves the others alone', async (t, store, another) => {
    const other = await another();
    await put(store, 'd/1', 'one');
    await put(store, 'd/2', 'two');
    await readFrom(store, 'd/1', 0, 3);
    await other.delete('d/1');
    await store.delete('d/1');
    await store.delete('never/was');
    t.equal(await store.stat('d/1'), undefined);
    t.equal((await readFrom(store, 'd/2', 0, 3)).toString(), 'two');
    await t.rejects(readFrom(other, 'd/1', 0, 3), { code: 'SEGMENT_MISSING' });
    await other.close();
  });

  test('a directory goes only when it is empty, and comes back when needed', async (t, store, another) => {
    const other = await another();
    await put(store, 'd/x/1', 'one');
    await store.deleteDirectory('d/x');
    t.same(await store.stat('d/x/1'), { lengthBytes: 3 }, 'not while it holds something');
    await store.delete('d/x/1');
    await other.deleteDirectory('d/x');
    await other.deleteDirectory('d');
    await store.deleteDirectory('d/x');
    t.same(await store.list('d', undefined, 10), []);
    // `store` still believes that the directory is there.
    t.equal((await put(store, 'd/x/2', 'two')).outcome, 'created');
    t.equal((await readFrom(other, 'd/x/2', 0, 3)).toString(), 'two');
    await other.close();
  });

  test('removals and lists go on while the directory above is removed', async (t, store, another) => {
    const other = await another();
    for (let round = 0; round < 100; round += 1) {
      await put(store, `e/${round}/a/1`, 'one');
      await Promise.all([
        store.delete(`e/${round}/a/1`).then(() => store.deleteDirectory(`e/${round}/a`)),
        store.list(`e/${round}/a`, undefined, 10),
        (async () => {
          for (let again = 0; again < 8; again += 1) {
            await other.deleteDirectory(`e/${round}/a`);
            await other.deleteDirectory(`e/${round}`);
          }
        })(),
      ]);
    }
    t.same((await store.list('e/0/a', undefined, 10)).length, 0);
    await other.close();
  });
}

function reading(test: Define): void {
  test('reads give exactly what was asked for, or an error', async (t, store) => {
    const body = pattern(300_000, 5);
    await store.putIfAbsent(scope, 'k/1', [body]);
    for (const [offset, length] of [
      [0, 1],
      [1, 4096],
      [4095, 2],
      [65_536, 200_000],
      [299_999, 1],
      [300_000, 0],
    ] as const)
      t.ok(
        (await readFrom(store, 'k/1', offset, length)).equals(
          body.subarray(offset, offset + length),
        ),
        `${offset}+${length}`,
      );
    const short = { code: 'SEGMENT_DAMAGED' };
    await t.rejects(readFrom(store, 'k/1', 299_999, 2), short, 'one byte too many');
    await t.rejects(readFrom(store, 'k/1', 400_000, 1), short, 'beyond the end');
    await t.rejects(readFrom(store, 'k/none', 0, 1), { code: 'SEGMENT_MISSING' });
    await t.rejects(readFrom(store, 'none/none', 0, 1), { code: 'SEGMENT_MISSING' });
  });

  test('many readers at once, over more keys than files are kept open', async (t, store) => {
    const count = limits.openFilesPerStore + 50;
    for (let i = 0; i < count; i += 1) await put(store, `m/${i}`, `body ${i}`);
    const found = await Promise.all(
      Array.from({ length: 3 * count }, (_, i) => {
        const text = `body ${i % count}`;
        return readFrom(store, `m/${i % count}`, 0, text.length).then((b) => b.toString() === text);
      }),
    );
    t.ok(found.every(Boolean));
  });

  test('B-31 after close nothing happens any more', async (t, store) => {
    await put(store, 'k/1', 'x');
    const late = readFrom(store, 'k/1', 0, 1);
    await store.close();
    await late.catch((error: DvceError) => t.equal(error.code, 'STORE_UNAVAILABLE'));
    t.pass('close waited');
  });
}

function space(t: Test, fixture: StoreFixture): void {
  const name = `${fixture.name}: a full store says NO_SPACE, keeps nothing of the attempt and goes on reading`;
  if (fixture.runSmall === undefined) {
    void t.test(name, { skip: 'this store cannot be made small' }, () => {});
    return;
  }
  const capacityBytes = 1024 * 1024;
  void t.test(name, () =>
    fixture.runSmall?.(capacityBytes, async (store) => {
      await store.createScope(scope);
      await store.putIfAbsent(scope, 'k/1', [pattern(500_000, 1)]);
      const before = await store.space();
      for (let i = 0; i < 5; i += 1)
        await t.rejects(store.putIfAbsent(scope, 'k/2', [pattern(700_000, 2)]), {
          code: 'NO_SPACE',
        });
      t.equal(await store.stat('k/2'), undefined);
      t.same(await store.space(), before, 'the space came back');
      t.ok((await readFrom(store, 'k/1', 0, 500_000)).equals(pattern(500_000, 1)));
      await store.delete('k/1');
      t.equal((await store.putIfAbsent(scope, 'k/2', [pattern(700_000, 2)])).outcome, 'created');
    }),
  );
}
