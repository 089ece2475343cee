/** What people see: the snapshot tree, tables, errors. */
import { Writable } from 'node:stream';
import t from 'tap';
import type { Snapshot } from '../../src/api/index.ts';
import { DvceError } from '../../src/base/index.ts';
import { describeError, Output } from '../../src/cli/output.ts';
import { drawTable } from '../../src/cli/table.ts';
import { drawTree } from '../../src/cli/tree-drawing.ts';

let second = 0;
const snapshot = (name: string, parent: string | null, rest: Partial<Snapshot> = {}): Snapshot => ({
  id: name,
  name,
  volume: '/prod/db',
  parent,
  createdAt: new Date(Date.UTC(2026, 0, 1, 0, 0, second++)).toISOString(),
  sizeBytes: 1024,
  protected: false,
  labels: {},
  current: false,
  clones: 0,
  ...rest,
});

t.test('a tree with branches, and where the volume stands', async (t) => {
  second = 0;
  const all = [
    snapshot('a', null, { current: true }),
    snapshot('b', 'a', { protected: true }),
    snapshot('c', 'b', { clones: 2 }),
    snapshot('d', 'a', { current: true, clones: 1 }),
    snapshot('e', 'gone'),
  ];
  t.equal(
    drawTree('/prod/db', all.toReversed()),
    `/prod/db
├─ a  2026-01-01 00:00:00
│  ├─ b  2026-01-01 00:00:01, protected
│  │  └─ c  2026-01-01 00:00:02, 2 clones
│  └─ d  2026-01-01 00:00:03, 1 clone
│     └─ * now
└─ e  2026-01-01 00:00:04
`,
  );
  t.equal(drawTree('/new', []), '/new\n└─ * now\n');
});

t.test('tables align, and can go without their header', async (t) => {
  const columns = [
    { title: 'path', value: ({ path }: { path: string }) => path },
    { title: 'size', value: ({ path }: { path: string }) => `${path.length}`, right: true },
  ];
  const rows = [{ path: '/a' }, { path: '/long/path' }];
  t.equal(drawTable(rows, columns, true), 'PATH        SIZE\n/a             2\n/long/path    10\n');
  t.equal(drawTable(rows, columns, false), '/a           2\n/long/path  10\n');
  t.equal(drawTable([], columns, false), '');
});

t.test('lists follow -o json and -q', async (t) => {
  const print = async (format: 'table' | 'json', quiet: boolean): Promise<string> => {
    let text = '';
    const data = new Writable({
      write(bytes, _, done) {
        text += String(bytes);
        done();
      },
    });
    const output = new Output(data, process.stderr, { format, headers: true, quiet });
    const rows = [{ path: '/a', sizeBytes: 1536 }];
    await output.list(rows, ({ path }) => path, [
      { title: 'size', value: ({ sizeBytes }) => `${sizeBytes / 1024}KiB` },
    ]);
    return text;
  };
  t.equal(await print('table', false), 'SIZE\n1.5KiB\n');
  t.equal(await print('table', true), '/a\n');
  t.strictSame(JSON.parse(await print('json', false)), [{ path: '/a', sizeBytes: 1536 }]);
});

t.test('an error is its message and what to do next', async (t) => {
  t.equal(
    describeError(new DvceError('NOT_FOUND', { kind: 'volume', name: '/x' })),
    'error: volume /x does not exist\n  List what exists with: dvce volume list',
  );
  const silent = new DvceError('UNSUPPORTED', { what: 'a', reason: 'b', advice: '' });
  t.equal(describeError(silent), 'error: a is not supported: b');
});
