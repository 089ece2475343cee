/** Metrics and readiness over the API: what is exposed, with and without a blockd that counts. */
import { readFileSync } from 'node:fs';
import t from 'tap';
import { metricTable } from '../../src/agent/metrics-table.ts';
import { DvceError } from '../../src/base/index.ts';
import { RequestMeter, requestBoundsSeconds } from '../../src/nbd/index.ts';
import { servedAgentOnFakes } from '../support/agent-on-fakes.ts';
import { figures, volumeFigures as volume } from '../support/blockd-figures.ts';
import { parseMetrics } from '../support/prometheus.ts';

const alive = setInterval(() => {}, 1000);
t.teardown(() => clearInterval(alive));

const clock = { monotonicMs: () => 0, wallMs: () => 0 };
t.test('what blockd counts is shown as it is, in the text format', async (t) => {
  const { blockd, server } = await servedAgentOnFakes(t);
  blockd.figures = figures();
  const answer = await server.inject({ method: 'GET', url: '/metrics' });
  t.equal(answer.statusCode, 200);
  t.match(answer.headers['content-type'], /^text\/plain; version=0\.0\.4/);
  const metrics = parseMetrics(answer.body);
  const value = (name: string, labels: Record<string, string> = {}) => metrics.value(name, labels);
  t.equal(value('dvce_blockd_up'), 1);
  t.equal(value('dvce_health_ok'), 1);
  t.equal(value('dvce_nbd_request_duration_seconds_bucket', { op: 'read', le: '0.001' }), 2);
  t.equal(value('dvce_nbd_request_duration_seconds_bucket', { op: 'read', le: '0.01' }), 5);
  t.equal(value('dvce_nbd_request_duration_seconds_bucket', { op: 'read', le: '+Inf' }), 6);
  t.equal(value('dvce_nbd_request_duration_seconds_count', { op: 'read' }), 6);
  const name = { volume: volume.path };
  t.equal(
    value('dvce_log_write_amplification_ratio', name),
    3,
    'the label is escaped and comes back',
  );
  t.equal(value('dvce_write_amplification_ratio', name), 4.5, 'the journal counts, too');
  t.equal(value('dvce_volume_throttled_seconds_total', name), 2.5);
  const found = (source: string) =>
    value('dvce_volume_read_source_bytes_total', { ...name, source });
  t.same(
    ['cache', 'page_cache', 'store', 'joined', 'zero', 'journal'].map(found),
    [10, 20, 3, 1, 7, 2].map((blocks) => blocks * 4096),
  );
  t.equal(found('ahead'), undefined, 'nobody asked for it yet');
  t.equal(value('dvce_volume_read_ahead_bytes_total', name), 5 * 4096);
  t.equal(value('dvce_flush_lag_seconds', name), 1.5);
  t.equal(value('dvce_volume_read_bytes_total', name), 500);
  t.equal(value('dvce_process_resident_memory_bytes', { process: 'blockd' }), 100);
  t.ok((value('dvce_process_resident_memory_bytes', { process: 'agent' }) ?? 0) > 1e6);
  const again = parseMetrics((await server.inject({ method: 'GET', url: '/metrics' })).body);
  t.equal(
    again.value('dvce_api_request_duration_seconds_count', {
      method: 'GET',
      route: '/metrics',
      code: '2xx',
    }),
    1,
    'requests are measured by route',
  );
});

t.test('every metric is in the table with its type, and the table is shown whole', async (t) => {
  const { blockd, server } = await servedAgentOnFakes(t);
  blockd.figures = figures();
  const { families } = parseMetrics((await server.inject({ method: 'GET', url: '/metrics' })).body);
  t.strictSame([...families.keys()].sort(), Object.keys(metricTable).sort());
  for (const [name, { type, help }] of Object.entries(metricTable)) {
    t.equal(families.get(name)?.type, type);
    t.equal(families.get(name)?.help, help);
    t.match(name, /^dvce_[a-z][a-z0-9_]*$/);
    t.equal(name.endsWith('_total'), type === 'counter', `${name} is named like its type`);
    t.notMatch(name, /_(ms|milliseconds|kib|mib|percent|minutes)(_|$)/, 'base units');
    for (const { labels } of families.get(name)?.samples ?? [])
      t.strictSame(
        Object.keys(labels)
          .filter((label) => label !== 'le')
          .sort(),
        [...metricTable[name as keyof typeof metricTable].labels].sort(),
        `${name} has the labels of the table`,
      );
  }
});

t.test('the page of the reference names every metric', async (t) => {
  const page = readFileSync(new URL('../../docs/reference/metrics.md', import.meta.url), 'utf8');
  const named = [...page.matchAll(/^\| `(dvce_\w+)` \|/gm)].map((match) => match[1]);
  t.strictSame(named, Object.keys(metricTable));
});

t.test('without blockd the rest is there, and the host is not ready', async (t) => {
  const { blockd, server } = await servedAgentOnFakes(t);
  blockd.figures = new DvceError('BLOCKD_UNAVAILABLE', { where: '/x', reason: 'it is away' });
  const metrics = parseMetrics((await server.inject({ method: 'GET', url: '/metrics' })).body);
  t.equal(metrics.value('dvce_blockd_up'), 0);
  t.equal(metrics.value('dvce_health_ok'), 0);
  t.equal(metrics.value('dvce_health_causes', { code: 'BLOCKD_DOWN', severity: 'critical' }), 1);
  t.equal(metrics.value('dvce_store_free_bytes'), undefined);
  const ready = await server.inject({ method: 'GET', url: '/readyz?verbose' });
  t.equal(ready.statusCode, 503);
  t.match(ready.body, /^\[-\]blockd failed: it does not answer$/m);
  t.match(ready.body, /^\[\+\]store ok$/m);
  t.match(ready.body, /^not ready$/m);
  t.equal((await server.inject({ method: 'GET', url: '/livez' })).body, 'ok\n');
  blockd.figures = figures();
  const now = await server.inject({ method: 'GET', url: '/readyz' });
  t.equal(now.statusCode, 200);
  t.equal(now.body, 'ok\n');
});

t.test('a blockd of an earlier release answers status, and counts nothing', async (t) => {
  const { blockd, server } = await servedAgentOnFakes(t);
  blockd.figures = new DvceError('UNSUPPORTED', { what: 'metrics', reason: 'old', advice: '' });
  const metrics = parseMetrics((await server.inject({ method: 'GET', url: '/metrics' })).body);
  t.equal(metrics.value('dvce_blockd_up'), 1);
  t.equal(metrics.value('dvce_store_free_bytes'), 5e11);
});

t.test('the meter of NBD and the histogram agree on their buckets', async (t) => {
  const meter = new RequestMeter(clock);
  meter.ended(0, meter.now(), false);
  const { blockd, server } = await servedAgentOnFakes(t);
  blockd.figures = figures({
    nbd: { boundsSeconds: requestBoundsSeconds, connections: 0, operations: meter.read() },
  });
  const body = (await server.inject({ method: 'GET', url: '/metrics' })).body;
  t.equal(parseMetrics(body).value('dvce_nbd_request_duration_seconds_count', { op: 'read' }), 1);
});
