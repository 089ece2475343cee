/** Pages, filters and chosen fields of lists. */
import t from 'tap';
import { listSpecOf, page } from '../../../src/agent/http/lists.ts';

const spec = listSpecOf({ $ref: 'VolumeList#' });
if (spec === undefined) throw new Error('volumes are a list');

const volumes = (count: number) =>
  Array.from({ length: count }, (_, at) => ({
    path: `/v/${String((at * 7919) % count).padStart(4, '0')}`,
    kind: at % 2 === 0 ? 'volume' : 'image',
    protected: at % 3 === 0,
    labels: { tier: at % 5 === 0 ? 'gold' : 'tin', 'a.b': 'x' },
  }));

t.test('pages are the whole list in one order, whatever comes and goes meanwhile', async (t) => {
  let all = volumes(101);
  const seen: unknown[] = [];
  let cursor: string | undefined;
  for (let pages = 0; pages < 20; pages += 1) {
    const { items, next } = page(all, spec, { limit: 10, cursor });
    seen.push(...items.map(({ path }) => path));
    // The last item of the page is deleted, and one before it is added.
    all = all.filter(({ path }) => path !== items.at(-1)?.['path']);
    all.push({
      path: `/a/${pages}`,
      kind: 'volume',
      protected: false,
      labels: { tier: '', 'a.b': '' },
    });
    cursor = next;
    if (next === undefined) break;
  }
  t.strictSame(seen, [...seen].sort());
  t.equal(seen.length, 101);
  t.equal(new Set(seen).size, 101);
});

t.test('operations come newest first', async (t) => {
  const newest = listSpecOf({ $ref: 'OperationList#' });
  if (newest === undefined) throw new Error('operations are a list');
  const all = ['a1', 'a3', 'a2'].map((id) => ({ id }));
  const first = page(all, newest, { limit: 2 });
  t.strictSame(first.items, [{ id: 'a3' }, { id: 'a2' }]);
  t.strictSame(page(all, newest, { cursor: first.next }).items, [{ id: 'a1' }]);
});

t.test('filters', async (t) => {
  const count = (filter: string): number => page(volumes(30), spec, { filter }).items.length;
  t.equal(count('kind=image'), 15);
  t.equal(count('kind!=image'), 15);
  t.equal(count('protected=true'), 10);
  t.equal(count('labels.tier=gold'), 6);
  t.equal(count('labels.a.b=x'), 30, 'a label with a dot in its name');
  t.equal(count('path~/v/001'), 10);
  t.equal(count('kind=volume,labels.tier=gold'), 3);
  t.equal(count('kind='), 0);
  for (const bad of [
    '',
    'kind',
    'nothing=1',
    '=x',
    '__proto__=1',
    'constructor=1',
    'kind<1',
    'kind=1,',
  ])
    t.throws(() => count(bad), { code: 'INVALID_ARGUMENT' }, JSON.stringify(bad));
  t.throws(() => count(Array.from({ length: 20 }, () => 'kind=a').join(',')), {
    code: 'INVALID_ARGUMENT',
  });
});

t.test('a cursor that is none is refused', async (t) => {
  const encode = (value: unknown): string =>
    Buffer.from(JSON.stringify(value)).toString('base64url');
  for (const cursor of ['', 'x', encode(7), encode([]), encode([1]), encode(['a', 'b']), '%00'])
    t.throws(() => page(volumes(3), spec, { cursor }), { code: 'INVALID_ARGUMENT' }, cursor);
});
