/**
 * Every metric, with what it means. docs/reference/metrics.md is generated from this table, and nothing else is exposed.
 *
 * Names begin with `dvce_`, units are base units and stand last (`_seconds`, `_bytes`, `_ratio`), counters end in `_total`. Labels
 * are few and bounded: operations, phases, routes, and open volumes (limits.openVolumesMax); never blocks, segments or requests.
 */
export interface MetricRow {
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly help: string;
  readonly labels: readonly string[];
}

const counter = (help: string, ...labels: string[]): MetricRow => ({
  type: 'counter',
  help,
  labels,
});
const gauge = (help: string, ...labels: string[]): MetricRow => ({ type: 'gauge', help, labels });
const histogram = (help: string, ...labels: string[]): MetricRow => ({
  type: 'histogram',
  help,
  labels,
});

export const metricTable = {
  dvce_build_info: gauge('Always 1; the labels tell the release.', 'version', 'runtime'),
  dvce_health_ok: gauge('1 when nothing is wrong with this host beyond notices.'),
  dvce_health_causes: gauge('How many causes of this code there are.', 'code', 'severity'),

  dvce_process_cpu_seconds_total: counter('Processor time, user and system.', 'process'),
  dvce_process_resident_memory_bytes: gauge('Memory in use.', 'process'),
  dvce_process_heap_used_bytes: gauge('Heap of the main thread in use.', 'process'),
  dvce_process_open_files: gauge('Open file descriptors.', 'process'),
  dvce_process_start_time_seconds: gauge('Start, in seconds since 1970.', 'process'),
  dvce_event_loop_lag_seconds: gauge(
    'How long a task waited for its turn when the metrics were read.',
    'process',
    'thread',
  ),
  dvce_event_loop_busy_seconds_total: counter(
    'Time in which the event loop was not idle.',
    'process',
    'thread',
  ),

  dvce_blockd_up: gauge('1 when blockd answers.'),
  dvce_blockd_restarts_total: counter('Starts of blockd since this agent saw the first one.'),
  dvce_store_free_bytes: gauge('Free space of the store.'),
  dvce_store_size_bytes: gauge('Size of the file system of the store.'),
  dvce_scrub_read_bytes_total: counter(
    'Bytes read by the background scrub since blockd was started.',
  ),
  dvce_scrub_damaged_volumes: gauge('Volumes in which the last scrub found something.'),
  dvce_nbd_connections: gauge('Clients of volumes and snapshots.'),
  dvce_nbd_request_duration_seconds: histogram(
    'From the arrival of a request to the answer of the volume.',
    'op',
  ),
  dvce_nbd_request_errors_total: counter('Requests that were answered with an error.', 'op'),

  dvce_volumes_open: gauge('Volumes that are open in blockd.'),
  dvce_volume_reads_total: counter('Read requests since the volume was opened.', 'volume'),
  dvce_volume_writes_total: counter('Write requests.', 'volume'),
  dvce_volume_flushes_total: counter('Flush requests.', 'volume'),
  dvce_volume_trims_total: counter('Trim requests.', 'volume'),
  dvce_volume_read_bytes_total: counter('Bytes read by clients.', 'volume'),
  dvce_volume_write_bytes_total: counter('Bytes written by clients.', 'volume'),
  dvce_volume_mapped_bytes: gauge('Bytes of the blocks that the volume holds.', 'volume'),
  dvce_volume_stored_bytes: gauge('Bytes of the segments that its log wrote and keeps.', 'volume'),
  dvce_volume_segments: gauge('Segments of its log.', 'volume'),
  dvce_volume_published_bytes_total: counter('Bytes of segments put into the store.', 'volume'),
  dvce_volume_read_source_bytes_total: counter(
    'Bytes of the blocks that clients read, by where they were found: cache, page_cache, store, joined (a read of the store that was under way), zero, journal.',
    'volume',
    'source',
  ),
  dvce_volume_read_ahead_bytes_total: counter(
    'Bytes asked of the store before a client wanted them.',
    'volume',
  ),
  dvce_volume_throttled_requests_total: counter(
    'Requests that waited for a limit of the volume.',
    'volume',
  ),
  dvce_volume_throttled_seconds_total: counter(
    'Time in which requests waited for a limit of the volume.',
    'volume',
  ),
  dvce_volume_read_only: gauge('1 when the volume takes no writes.', 'volume'),
  dvce_dirty_bytes: gauge('Blocks that are in the journal and not in the store yet.', 'volume'),
  dvce_flush_lag_seconds: gauge(
    'Age of the oldest flushed write that is not in the store: what is lost with the disk.',
    'volume',
  ),
  dvce_journal_used_bytes: gauge('Journal in use.', 'volume'),
  dvce_journal_quota_bytes: gauge('Journal that may be used.', 'volume'),
  dvce_journal_written_bytes_total: counter('Bytes appended to the journal.', 'volume'),
  dvce_journal_syncs_total: counter('fdatasync calls of the journal.', 'volume'),
  dvce_journal_failed_files: gauge('Journal files given up after I/O errors.', 'volume'),
  dvce_log_write_amplification_ratio: gauge(
    'Bytes put into the store for each byte written by clients, since the volume was opened.',
    'volume',
  ),
  dvce_write_amplification_ratio: gauge(
    'Bytes put into the journal and the store for each byte written by clients, since the volume was opened.',
    'volume',
  ),
  dvce_gc_moved_bytes_total: counter('Bytes that cleaning put into the store.', 'volume'),
  dvce_gc_debt_bytes: gauge(
    'Bytes in the store that nothing needs and cleaning has not given back.',
    'volume',
  ),

  dvce_vms: gauge('VMs in this phase.', 'phase'),
  dvce_operations_running: gauge('Operations under way.', 'kind'),
  dvce_operations_ended_total: counter('Operations that ended.', 'kind', 'status'),
  dvce_event_listeners: gauge('Listeners of the event stream.'),
  dvce_api_request_duration_seconds: histogram(
    'Requests to the API, without event streams and waits.',
    'method',
    'route',
    'code',
  ),
} as const satisfies Record<string, MetricRow>;

export type MetricName = keyof typeof metricTable;
