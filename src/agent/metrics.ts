/**
 * The metrics of this host in the Prometheus text format: what blockd counts, what the health sees, what the agent counts.
 *
 * What others count is read when somebody asks and shown as it is; only requests to the API and ended operations are counted here.
 * Without blockd the rest is there all the same (dvce_blockd_up 0). Requests at the same time share one reading.
 */
import { Counter, Histogram, type Metric, Registry } from 'prom-client';
import {
  type Clock,
  type Logger,
  type LoopFigures,
  limits,
  loopFigures,
  type ProcessFigures,
  processFigures,
  type Timers,
} from '../base/index.ts';
import type { BlockdMetrics } from '../blockd/index.ts';
import type { Events } from './events.ts';
import type { Health, Looked } from './health.ts';
import { type MetricName, type MetricRow, metricTable } from './metrics-table.ts';
import type { Operations } from './operations.ts';
import type { Server } from './routes/types.ts';

export const metricsType: string = Registry.PROMETHEUS_CONTENT_TYPE;

export interface MetricsOptions {
  readonly release: string;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly logger: Logger;
  readonly events: Events;
  readonly operations: Operations;
  readonly health: Health;
}

type Labels = Readonly<Record<string, string>>;
interface Sample {
  readonly name: MetricName;
  readonly labels: Labels;
  readonly value: number;
  /** Of a histogram: which of its series. */
  readonly suffix?: '_bucket' | '_sum' | '_count';
}

const apiBoundsSeconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30];
/** Their time is that of the one who listens or waits. */
const unmeasured: ReadonlySet<string> = new Set(['/v1/events', '/v1/vms/:name/console']);

export class Metrics {
  readonly #options: MetricsOptions;
  readonly #requests: Histogram;
  readonly #ended: Counter;
  #reading: Promise<string> | undefined;

  constructor(options: MetricsOptions) {
    this.#options = options;
    this.#requests = new Histogram({
      name: 'dvce_api_request_duration_seconds',
      help: metricTable.dvce_api_request_duration_seconds.help,
      labelNames: metricTable.dvce_api_request_duration_seconds.labels,
      buckets: apiBoundsSeconds,
      registers: [],
    });
    this.#ended = new Counter({
      name: 'dvce_operations_ended_total',
      help: metricTable.dvce_operations_ended_total.help,
      labelNames: metricTable.dvce_operations_ended_total.labels,
      registers: [],
    });
    options.events.follow(
      undefined,
      ['operation.ended'],
      ({ data: { kind, status } }) =>
        this.#ended.inc({ kind: String(kind), status: String(status) }),
      () => {},
    );
  }

  /** Measure the requests of this server. */
  observe(server: Server): void {
    server.addHook('onResponse', async (request, reply) => {
      const route = request.routeOptions.url ?? 'none';
      const { wait } = (request.query ?? {}) as { readonly wait?: unknown };
      if (unmeasured.has(route) || wait !== undefined) return;
      const code = `${Math.floor(reply.statusCode / 100)}xx`;
      const labels = { method: request.method, route, code };
      this.#requests.observe(labels, reply.elapsedTime / 1000);
    });
  }

  read(): Promise<string> {
    this.#reading ??= this.#read().finally(() => {
      this.#reading = undefined;
    });
    return this.#reading;
  }

  async #read(): Promise<string> {
    const { clock, timers, health } = this.#options;
    const [looked, loop] = await Promise.all([health.look(), loopFigures('main', clock, timers)]);
    const samples = [
      ...this.#hostSamples(looked),
      ...processSamples('agent', processFigures(), [loop]),
      ...('failure' in looked.blockd ? [] : blockdSamples(looked.blockd)),
    ];
    return await textOf(samples, [this.#requests, this.#ended]);
  }

  #hostSamples({ blockd, vms, causes, health }: Looked): Sample[] {
    const { release, operations, events } = this.#options;
    const phases = countBy(vms, ({ phase }) => phase);
    const running = countBy(
      operations.list().filter(({ status }) => status === 'running'),
      ({ kind }) => kind,
    );
    const codes = countBy(causes, ({ code, severity }) => `${code} ${severity}`);
    return [
      sample('dvce_build_info', 1, { version: release, runtime: process.version }),
      sample('dvce_health_ok', health === 'ok' ? 1 : 0),
      ...codes.map(([key, count]) => {
        const [code = '', severity = ''] = key.split(' ');
        return sample('dvce_health_causes', count, { code, severity });
      }),
      sample('dvce_blockd_up', 'failure' in blockd ? 0 : 1),
      sample('dvce_blockd_restarts_total', this.#options.health.blockdRestarts),
      ...phases.map(([phase, count]) => sample('dvce_vms', count, { phase })),
      ...running.map(([kind, count]) => sample('dvce_operations_running', count, { kind })),
      // One listener is this object.
      sample('dvce_event_listeners', Math.max(0, events.listeners - 1)),
    ];
  }
}

const sample = (name: MetricName, value: number, labels: Labels = {}): Sample => ({
  name,
  labels,
  value,
});

function countBy<T>(list: readonly T[], key: (value: T) => string): [string, number][] {
  const counts = new Map<string, number>();
  for (const one of list) counts.set(key(one), (counts.get(key(one)) ?? 0) + 1);
  return [...counts];
}

function processSamples(
  name: string,
  figures: ProcessFigures,
  loops: readonly LoopFigures[],
): Sample[] {
  const labels = { process: name };
  return [
    sample('dvce_process_cpu_seconds_total', figures.cpuSeconds, labels),
    sample('dvce_process_resident_memory_bytes', figures.residentBytes, labels),
    sample('dvce_process_heap_used_bytes', figures.heapUsedBytes, labels),
    sample('dvce_process_open_files', figures.openFiles, labels),
    sample('dvce_process_start_time_seconds', figures.startedAtSeconds, labels),
    ...loops.flatMap(({ thread, lagSeconds, busySeconds }) => [
      sample('dvce_event_loop_lag_seconds', lagSeconds, { ...labels, thread }),
      sample('dvce_event_loop_busy_seconds_total', busySeconds, { ...labels, thread }),
    ]),
  ];
}

function blockdSamples(metrics: BlockdMetrics): Sample[] {
  const { store, nbd, volumes } = metrics;
  return [
    ...processSamples('blockd', metrics.process, metrics.loops),
    sample('dvce_store_free_bytes', store.freeBytes),
    sample('dvce_store_size_bytes', store.totalBytes),
    // An older blockd does not scrub.
    sample('dvce_scrub_read_bytes_total', metrics.scrub?.readBytes ?? 0),
    sample('dvce_scrub_damaged_volumes', metrics.scrub?.damagedVolumes ?? 0),
    sample('dvce_nbd_connections', nbd.connections),
    ...nbd.operations.flatMap((operation) => requestSamples(nbd.boundsSeconds, operation)),
    sample('dvce_volumes_open', volumes.length),
    ...volumes.slice(0, limits.openVolumesMax).flatMap(volumeSamples),
  ];
}

function requestSamples(
  bounds: readonly number[],
  { operation, counts, sumSeconds, errors }: BlockdMetrics['nbd']['operations'][number],
): Sample[] {
  const name = 'dvce_nbd_request_duration_seconds';
  let below = 0;
  const buckets = counts.map((count, at): Sample => {
    below += count;
    const le = bounds[at] === undefined ? '+Inf' : String(bounds[at]);
    return { name, suffix: '_bucket', labels: { op: operation, le }, value: below };
  });
  const labels = { op: operation };
  return [
    ...buckets,
    { name, suffix: '_sum', labels, value: sumSeconds },
    { name, suffix: '_count', labels, value: below },
    sample('dvce_nbd_request_errors_total', errors, labels),
  ];
}

function volumeSamples(volume: BlockdMetrics['volumes'][number]): Sample[] {
  const labels = { volume: volume.path };
  const values: Readonly<Partial<Record<MetricName, number | undefined>>> = {
    dvce_volume_reads_total: volume.reads,
    dvce_volume_writes_total: volume.writes,
    dvce_volume_flushes_total: volume.flushes,
    dvce_volume_trims_total: volume.trims,
    dvce_volume_read_bytes_total: volume.readBytes,
    dvce_volume_write_bytes_total: volume.writtenBytes,
    dvce_volume_mapped_bytes: volume.mappedBytes,
    dvce_volume_stored_bytes: volume.storedBytes,
    dvce_volume_segments: volume.segments,
    dvce_volume_published_bytes_total: volume.publishedBytes,
    dvce_volume_throttled_requests_total: volume.throttledRequests,
    dvce_volume_throttled_seconds_total:
      volume.throttledMs === undefined ? undefined : volume.throttledMs / 1000,
    dvce_volume_read_only: volume.readOnlyReason === null ? 0 : 1,
    dvce_dirty_bytes: volume.dirtyBytes,
    dvce_flush_lag_seconds: volume.flushLagMs / 1000,
    dvce_journal_used_bytes: volume.journalBytes,
    dvce_journal_quota_bytes: volume.journalQuotaBytes,
    dvce_journal_written_bytes_total: volume.journalWrittenBytes,
    dvce_journal_syncs_total: volume.journalSyncs,
    dvce_journal_failed_files: volume.journalFailedFiles,
    dvce_log_write_amplification_ratio:
      volume.writtenBytes === 0 ? undefined : volume.publishedBytes / volume.writtenBytes,
    dvce_write_amplification_ratio:
      volume.writtenBytes === 0
        ? undefined
        : (volume.publishedBytes + volume.journalWrittenBytes) / volume.writtenBytes,
    dvce_gc_moved_bytes_total: volume.movedBytes,
    dvce_volume_read_ahead_bytes_total: bytesOf(volume.readBlocks?.ahead),
    dvce_gc_debt_bytes: volume.gcDebtBytes,
  };
  const own = Object.entries(values).flatMap(([name, value]) =>
    // A blockd of an earlier release does not say everything.
    value === undefined || Number.isNaN(value) ? [] : [sample(name as MetricName, value, labels)],
  );
  return [...own, ...sourceSamples(volume)];
}

const blockBytes = 4096;
const bytesOf = (blocks: number | undefined): number | undefined =>
  blocks === undefined ? undefined : blocks * blockBytes;

/** What an older blockd does not count is not shown. */
function sourceSamples({ path, readBlocks }: BlockdMetrics['volumes'][number]): Sample[] {
  if (readBlocks === undefined) return [];
  const { ahead: _, pageCache, ...others } = readBlocks;
  return Object.entries({ ...others, page_cache: pageCache }).map(([source, blocks]) =>
    sample('dvce_volume_read_source_bytes_total', blocks * blockBytes, { volume: path, source }),
  );
}

/** The text of samples, in the order of the table, and of metrics that were counted here. */
async function textOf(samples: readonly Sample[], own: readonly Metric[]): Promise<string> {
  const registry = new Registry();
  const byName = Map.groupBy(samples, ({ name }) => name);
  for (const [name, row] of Object.entries<MetricRow>(metricTable)) {
    const counted = own.find((metric) => 'name' in metric && metric.name === name);
    if (counted !== undefined) registry.registerMetric(counted);
    else registry.registerMetric(shown(name, row, byName.get(name as MetricName) ?? []));
  }
  return registry.metrics();
}

/** Samples as a metric of the registry, which asks it for its values. */
function shown(name: string, { type, help }: MetricRow, samples: readonly Sample[]): Metric {
  const metric = {
    name,
    get: async () => ({
      name,
      help,
      type,
      aggregator: 'sum',
      values: samples.map(({ suffix = '', labels, value }) => ({
        metricName: `${name}${suffix}`,
        labels,
        value,
      })),
    }),
  };
  return metric as unknown as Metric; // what the registry uses of one
}
