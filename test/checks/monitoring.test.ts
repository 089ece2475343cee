/** Dashboard and alert rules use metrics and labels that exist; causes and alerts are explained to operators. */
import { globSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { parse } from 'yaml';
import { type MetricRow, metricTable } from '../../src/agent/metrics-table.ts';
import { causeTable } from '../../src/api/schema/index.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const read = (path: string): string => readFileSync(`${root}/${path}`, 'utf8');
const table: Readonly<Record<string, MetricRow>> = metricTable;

/** What Prometheus adds to every series, and what a recording adds to histograms. */
const foreignLabels = new Set(['instance', 'job', 'le']);

/** Faults of one series in an expression. */
function faultsOfSeries(name: string, matchers: string): string[] {
  const base = name.replace(/_(bucket|sum|count)$/, '');
  const row = table[name] ?? (table[base]?.type === 'histogram' ? table[base] : undefined);
  if (row === undefined) return [`${name} is no metric`];
  if (row.type === 'histogram' && base === name) return [`${name} has no series`];
  return [...matchers.matchAll(/([a-z_]+)\s*(?:=~|!~|!=|=)/g)]
    .map(([, label = '']) => label)
    .filter((label) => !foreignLabels.has(label) && !row.labels.includes(label))
    .map((label) => `${name} has no label ${label}`);
}

/** Faults of one PromQL expression. */
function faultsOf(expression: string): string[] {
  const series = [...expression.matchAll(/\b(dvce_[a-z_]+)(\{([^}]*)\})?/g)];
  const rated = [
    ...expression.matchAll(/\b(?:rate|increase)\((dvce_[a-z_]+)(?:\{[^}]*\})?\[/g),
  ].map(([, name = '']) => name);
  return [
    ...series.flatMap(([, name = '', , matchers = '']) => faultsOfSeries(name, matchers)),
    ...rated
      .filter((name) => !/_(total|bucket|count|sum)$/.test(name))
      .map((name) => `${name} is no counter`),
  ];
}

interface Panel {
  readonly title: string;
  readonly targets: readonly { readonly expr: string }[];
  readonly gridPos: { readonly x: number; readonly w: number };
}
interface Rules {
  readonly groups: readonly {
    readonly rules: readonly {
      readonly alert: string;
      readonly expr: string;
      readonly labels: { readonly severity: string };
      readonly annotations: { readonly summary: string; readonly description: string };
    }[];
  }[];
}

t.test('the check itself sees what is wrong', async (t) => {
  t.strictSame(faultsOf('rate(dvce_flush_lag_seconds[5m])'), [
    'dvce_flush_lag_seconds is no counter',
  ]);
  t.strictSame(faultsOf('dvce_no_such'), ['dvce_no_such is no metric']);
  t.strictSame(faultsOf('dvce_blockd_up{volume="x"}'), ['dvce_blockd_up has no label volume']);
  t.strictSame(faultsOf('dvce_nbd_request_duration_seconds'), [
    'dvce_nbd_request_duration_seconds has no series',
  ]);
});

t.test('the dashboard', async (t) => {
  const board = JSON.parse(read('ops/grafana-host.json')) as { panels: Panel[]; uid: string };
  t.equal(board.uid, 'dvce-host');
  t.ok(board.panels.length > 20);
  for (const { title, targets, gridPos } of board.panels) {
    t.ok(targets.length > 0 && gridPos.x + gridPos.w <= 24, title);
    for (const { expr } of targets) t.strictSame(faultsOf(expr), [], `${title}: ${expr}`);
  }
});

t.test('the alert rules, each explained to operators', async (t) => {
  const page = read('docs/operations/monitoring.md');
  const { groups } = parse(read('ops/alerts.yaml')) as Rules;
  for (const { alert, expr, labels, annotations } of groups.flatMap(({ rules }) => rules)) {
    t.strictSame(faultsOf(expr), [], `${alert}: ${expr}`);
    t.match(labels.severity, /^(warning|critical)$/);
    t.ok(annotations.summary.length > 0 && annotations.description.length > 0, alert);
    t.ok(page.includes(`| \`${alert}\` |`), `${alert} stands in docs/operations/monitoring.md`);
  }
  const alerts = groups.flatMap(({ rules }) => rules).map(({ alert }) => alert);
  const explained = [...page.matchAll(/^\| `(\w+)` \|/gm)].map(([, name = '']) => name);
  t.strictSame(explained.sort(), alerts.sort(), 'and none is explained that does not exist');
});

/** Metrics that a page names and that do not exist. */
const unknownIn = (page: string): string[] =>
  [...page.matchAll(/`(dvce_[a-z0-9_]+)/g)]
    .map(([, name = '']) => name)
    .filter((name) => table[name] === undefined && faultsOfSeries(name, '').length > 0);

t.test('metrics that the documents name exist, and each is in the reference', async (t) => {
  t.strictSame(unknownIn('`dvce_blockd_up` and `dvce_no_such`'), ['dvce_no_such']);
  for (const path of globSync('docs/**/*.md', { cwd: root }))
    t.strictSame(unknownIn(read(path)), [], path);
  const page = read('docs/reference/metrics.md');
  for (const name of Object.keys(table)) t.ok(page.includes(`\`${name}\``), name);
});

t.test(
  'every cause of health is explained to operators, and none that does not exist',
  async (t) => {
    const page = read('docs/operations/health.md');
    const named = [...page.matchAll(/^\| `([A-Z_]+)` \|/gm)].map((match) => match[1]);
    t.strictSame(named.sort(), Object.keys(causeTable).sort());
    for (const [code, { advice }] of Object.entries(causeTable))
      t.match(advice, /\w+ .*\w+/, `${code} says what to do`);
  },
);
