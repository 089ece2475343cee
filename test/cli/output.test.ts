/** What `-o`, `--columns`, `--sort` and `--filter` make of the same rows. */
import { Writable } from 'node:stream';
import t from 'tap';
import { parse } from 'yaml';
import { labels, size, time, yesNo } from '../../src/cli/format.ts';
import { Output, type OutputOptions } from '../../src/cli/output.ts';
import { progressBar, progressText } from '../../src/cli/progress.ts';

interface Row {
  readonly path: string;
  readonly sizeBytes: number;
  readonly createdAt: string;
  readonly protected: boolean;
  readonly labels: Readonly<Record<string, string>>;
  readonly origin: { readonly path: string } | null;
}

const row = (path: string, sizeBytes: number, rest: Partial<Row> = {}): Row => ({
  path,
  sizeBytes,
  createdAt: '2026-01-02T03:04:05.678Z',
  protected: false,
  labels: {},
  origin: null,
  ...rest,
});
const rows: readonly Row[] = [
  row('/b', 10 * 1024 ** 3, { labels: { team: 'shop' } }),
  row('/a', 9 * 1024 ** 3, { protected: true }),
  row('/c "x", y', 512, { labels: { team: 'lab', 'a.b': 'c' }, origin: { path: '/a' } }),
];
const columns = [
  { title: 'path', value: ({ path }: Row) => path },
  { title: 'size', value: ({ sizeBytes }: Row) => size(sizeBytes), right: true },
  { title: 'protected', value: (one: Row) => yesNo(one.protected) },
  { title: 'labels', value: (one: Row) => labels(one.labels) },
  { title: 'made at', value: ({ createdAt }: Row) => time(createdAt), wide: true },
];

async function print(options: Partial<OutputOptions>, all = rows): Promise<string> {
  let text = '';
  const data = new Writable({
    write(bytes, _, done) {
      text += String(bytes);
      done();
    },
  });
  const toYaml = options.format === 'yaml' ? (await import('yaml')).stringify : undefined;
  const output = new Output(data, process.stderr, {
    format: 'table',
    headers: true,
    quiet: false,
    ...(toYaml === undefined ? {} : { toYaml }),
    ...options,
  });
  await output.list(all, ({ path }) => path, columns);
  return text;
}
const paths = async (options: Partial<OutputOptions>): Promise<string[]> =>
  (await print({ format: 'name', ...options })).trimEnd().split('\n');

t.test('CSV by RFC 4180: raw values, CRLF, quotes doubled', async (t) => {
  t.equal(
    await print({ format: 'csv' }),
    'path,size,protected,labels\r\n' +
      '/b,10737418240,false,team=shop\r\n' +
      '/a,9663676416,true,\r\n' +
      '"/c ""x"", y",512,false,"team=lab,a.b=c"\r\n',
  );
  t.match(await print({ format: 'csv', headers: false }), /^\/b,/);
});

t.test('JSON and YAML are the objects as they came', async (t) => {
  t.strictSame(JSON.parse(await print({ format: 'json' })), rows);
  t.strictSame(parse(await print({ format: 'yaml' })), rows);
});

t.test('wide has every plain field, table has not', async (t) => {
  t.equal((await print({})).split('\n')[0]?.trim(), 'PATH        SIZE  PROTECTED  LABELS');
  const head = (await print({ format: 'wide' })).split('\n')[0] ?? '';
  t.match(head, /MADE AT +CREATEDAT/);
  t.notMatch(head, /SIZEBYTES/, 'what a column shows is not shown twice');
});

t.test('columns by title or by field', async (t) => {
  t.equal(
    await print({ format: 'csv', columns: ['made-at', 'labels.team', 'origin.path'] }),
    'made at,labels.team,origin.path\r\n' +
      '2026-01-02T03:04:05.678Z,shop,\r\n2026-01-02T03:04:05.678Z,,\r\n2026-01-02T03:04:05.678Z,lab,/a\r\n',
  );
  await t.rejects(print({ columns: ['pth'] }), { code: 'INVALID_ARGUMENT', advice: /mean path\?/ });
  t.equal(await print({ format: 'csv', columns: ['anything'] }, []), 'anything\r\n');
});

t.test('sizes sort as numbers, in every format', async (t) => {
  t.strictSame(await paths({ sort: ['size'] }), ['/c "x", y', '/a', '/b']);
  t.strictSame(await paths({ sort: ['-sizeBytes'] }), ['/b', '/a', '/c "x", y']);
  t.strictSame(await paths({ sort: ['protected:desc', 'path'] }), ['/a', '/b', '/c "x", y']);
  t.equal((JSON.parse(await print({ format: 'json', sort: ['path'] })) as Row[])[0]?.path, '/a');
});

t.test('filters', async (t) => {
  const cases: readonly (readonly [string[], string[]])[] = [
    [['labels.team=shop'], ['/b']],
    [['labels.a.b=c'], ['/c "x", y']],
    [['size>=9GiB'], ['/b', '/a']],
    [['size<1KiB'], ['/c "x", y']],
    [['size=10GiB'], ['/b']],
    [['size!=10GiB'], ['/a', '/c "x", y']],
    [['path~^/[ab]$', 'protected=true'], ['/a']],
    [['protected=no'], ['/b', '/c "x", y']],
    [['path!~b'], ['/a', '/c "x", y']],
    [['origin.path=/a'], ['/c "x", y']],
  ];
  for (const [filter, expected] of cases)
    t.strictSame(await paths({ filter }), expected, filter.join(' '));
  for (const wrong of ['size', '=x', 'nothing=x', 'path~['])
    await t.rejects(print({ filter: [wrong] }), { code: 'INVALID_ARGUMENT' }, wrong);
});

t.test('nothing in a name commands the terminal', async (t) => {
  const text = await print({}, [row('/a\u001b[2Jb', 1)]);
  t.notOk(text.includes('\u001b'));
  t.match(text, /\\x1b\[2Jb/);
});

t.test('progress as a sentence and as a bar', async (t) => {
  const now = { done: 512, total: 2048, unit: 'bytes', etaMs: 3000 };
  t.equal(progressText('image.import', now), 'image.import: 512B of 2KiB (25%, 3.0s left)');
  t.equal(
    progressBar('image.import', now, 70),
    'image.import [#####------------------]  25%  512B of 2KiB, 3.0s left',
  );
  t.ok(progressBar('image.import', now, 30).length < 30, 'a narrow terminal gets the sentence');
  t.equal(progressText('vm.start', null), 'vm.start');
  t.equal(
    progressText('a', { done: 3, total: 0, unit: 'disks', etaMs: null }),
    'a: 3 of 0 disks (100%)',
  );
});
