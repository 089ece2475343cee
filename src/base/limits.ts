/** Every limit in one place, with its reason. docs/reference/limits.md is generated from this table. */
import { GiB, KiB, MiB, TiB } from './units.ts';

interface Limit {
  readonly value: number;
  readonly unit: 'bytes' | 'ms' | 'count' | 'percent';
  readonly why: string;
}

const limit = (value: number, unit: Limit['unit'], why: string): Limit => ({ value, unit, why });

export const limitTable = {
  volumeBytesMin: limit(1 * MiB, 'bytes', 'one map leaf; smaller disks have no use'),
  volumeBytesMax: limit(16 * TiB, 'bytes', 'four map levels of 256 entries over 4 KiB blocks'),
  segmentBytesMax: limit(64 * MiB, 'bytes', 'one HDFS block; 26 bits of offset in a block pointer'),
  segmentDataBytes: limit(
    32 * MiB,
    'bytes',
    'a batch is cut here: large enough for one put in ~100 ms, small enough to build in memory',
  ),
  batchAgeMs: limit(
    30_000,
    'ms',
    'what mode local loses with the disk: the longest time a flushed write stays in the journal only',
  ),
  rootEverySegments: limit(16, 'count', 'recovery rolls forward over at most this many segments'),
  journalBytes: limit(128 * MiB, 'bytes', 'default quota of a journal: four batches'),
  journalFileBytes: limit(
    16 * MiB,
    'bytes',
    'files are recycled whole; eight of them make the default quota',
  ),
  journalSlowPercent: limit(
    75,
    'percent',
    'rule J8: from here on each write waits for publishing to keep up',
  ),
  journalHoldPercent: limit(
    90,
    'percent',
    'rule J8: from here on writes wait; the rest serves marks and trims',
  ),
  unsyncedBytes: limit(
    32 * MiB,
    'bytes',
    'records kept in memory until a sync succeeded (rule J5)',
  ),
  mapCacheBytes: limit(64 * MiB, 'bytes', 'map pages in memory per volume'),
  mapDirtyPercent: limit(
    50,
    'percent',
    'share of the map cache that may be dirty before a root is written',
  ),
  overlayPartialBlocks: limit(
    4096,
    'count',
    '16 MiB of blocks held in memory because only a part of them was written',
  ),
  overlayTombstones: limit(
    64,
    'count',
    'range tombstones looked through on each read of the overlay',
  ),
  requestBytesMax: limit(
    32 * MiB,
    'bytes',
    'largest read or write of NBD (protocol text: portable clients stay below)',
  ),
  nbdOptionBytesMax: limit(
    64 * KiB,
    'bytes',
    'option data that is parsed; longer data is drained and refused',
  ),
  nbdOptionsMax: limit(
    1000,
    'count',
    'options one client may send before it must choose an export',
  ),
  nbdHandshakeMs: limit(15_000, 'ms', 'a half-open connection is dropped after this time'),
  nbdConnectionsMax: limit(1024, 'count', 'connections of one server'),
  nbdInFlightPerConnection: limit(
    256,
    'count',
    'requests read ahead of their replies; more are left in the socket',
  ),
  nbdBytesPerConnection: limit(
    64 * MiB,
    'bytes',
    'payload in flight on a connection; more is left in the socket',
  ),
  controlMessageBytesMax: limit(4 * MiB, 'bytes', 'one message on the control socket'),
  controlConnectionsMax: limit(64, 'count', 'clients of the control socket: agent, CLI, jobs'),
  controlInFlightMax: limit(
    64,
    'count',
    'requests of one control connection at a time; more are left in the socket',
  ),
  controlCallMs: limit(60_000, 'ms', 'deadline of a control request that names no other'),
  controlHelloMs: limit(5000, 'ms', 'connect and hello; a silent connection is dropped after it'),
  controlProgressMs: limit(250, 'ms', 'at most one progress message in this time per request'),
  controlListMax: limit(10_000, 'count', 'volumes in one answer of volume.list'),
  diffRangesMax: limit(20_000, 'count', 'ranges in one answer of snapshot.diff'),
  workersMax: limit(64, 'count', 'worker threads of one blockd'),
  workerInFlightMax: limit(256, 'count', 'requests from the main thread to one worker at a time'),
  workerCallMs: limit(
    600_000,
    'ms',
    'deadline of a request to a worker: opening may wait for recovery of a long journal',
  ),
  openVolumesMax: limit(1024, 'count', 'volumes and snapshots open at a time in one blockd'),
  volumeWaitersMax: limit(64, 'count', 'control requests that wait for their turn on one volume'),
  exportIdleMs: limit(
    60_000,
    'ms',
    'a volume opened by an NBD client on demand is closed when unused for this long',
  ),
  exportListMax: limit(1000, 'count', 'exports named in an answer to NBD_OPT_LIST'),
  resumeRetryMsMin: limit(500, 'ms', 'first wait before a failed reopen of an attached volume'),
  resumeRetryMsMax: limit(15_000, 'ms', 'longest wait between reopens of an attached volume'),
  crashLoopCount: limit(3, 'count', 'rule N4: crashes while opening one volume, within'),
  crashLoopWindowMs: limit(600_000, 'ms', 'this time, open it read-only'),
  blockdRestartMsMin: limit(200, 'ms', 'first wait of the launcher before it starts blockd again'),
  blockdRestartMsMax: limit(10_000, 'ms', 'longest wait of the launcher'),
  blockdRestartResetMs: limit(
    30_000,
    'ms',
    'a blockd that lived this long starts over at the first wait',
  ),
  blockdStartMs: limit(30_000, 'ms', 'deadline for a started blockd to answer hello'),
  shutdownMs: limit(
    60_000,
    'ms',
    'graceful shutdown: closing publishes at most one journal per volume; what is not closed then is resumed',
  ),
  reapPauseMs: limit(50, 'ms', 'pause between two steps of background deletion'),
  reapRetryMs: limit(60_000, 'ms', 'background deletion is tried again after a failure'),
  logFileBytes: limit(32 * MiB, 'bytes', 'blockd.log is moved to blockd.log.1 beyond this size'),
  documentBytesMax: limit(1 * MiB, 'bytes', 'one JSON document of the store'),
  storeReserveBytes: limit(
    256 * MiB,
    'bytes',
    'rule S9: free space kept for roots, trims and cleaning',
  ),
  openFilesPerStore: limit(256, 'count', 'segment files kept open for reading'),
  imageBytesMax: limit(4 * TiB, 'bytes', 'virtual size of an image that may be imported'),
  downloadBytesMax: limit(256 * GiB, 'bytes', 'one download of an image'),
  labelsMax: limit(64, 'count', 'labels of one volume, snapshot or VM; keeps its document small'),
  vmCpusMax: limit(64, 'count', 'virtual CPUs of one VM; beyond that a host of this size has none'),
  vmMemoryBytesMin: limit(32 * MiB, 'bytes', 'firmware and a small kernel need as much'),
  vmMemoryBytesMax: limit(1 * TiB, 'bytes', 'memory of one VM; catches a unit typed wrong'),
  vmDisksMax: limit(16, 'count', 'disks of one VM; each needs a PCI slot of the machine'),
  vmStopMs: limit(60_000, 'ms', 'time a guest has to shut down after the power button'),
  vmStopMsMax: limit(3_600_000, 'ms', 'longest time one may give a guest to shut down'),
  vmPowerButtonMs: limit(15_000, 'ms', 'a busy guest misses the power button: it is pressed again'),
  vmStartMs: limit(120_000, 'ms', 'attaching the volumes and starting the hypervisor of one VM'),
  apiBodyBytesMax: limit(1 * MiB, 'bytes', 'body of one request to the API'),
  apiAnswerBytesMax: limit(64 * MiB, 'bytes', 'an answer that the client holds in memory'),
  apiRequestMs: limit(120_000, 'ms', 'how long a client waits for an answer that is no operation'),
  apiConsolesPerVm: limit(8, 'count', 'console connections to one VM at the same time'),
  operationWaitMs: limit(60_000, 'ms', 'longest ?wait= of one request; clients ask again'),
  operationsRunningMax: limit(64, 'count', 'operations at the same time; more are refused'),
  operationsKept: limit(1000, 'count', 'finished operations kept for reading'),
  importsRunningMax: limit(4, 'count', 'import processes at the same time; each fills a core'),
  importMs: limit(86_400_000, 'ms', 'a day: an import that takes longer hangs'),
  importSilenceMs: limit(300_000, 'ms', 'an import that says nothing for so long hangs'),
  blockdCallMs: limit(60_000, 'ms', 'how long the agent waits for an answer of blockd'),
  blockdLongCallMs: limit(
    600_000,
    'ms',
    'the same for deletes and clones, which touch many objects',
  ),
  agentStartMs: limit(30_000, 'ms', 'how long "dvce up" waits for the agent to answer'),
  agentStopMs: limit(60_000, 'ms', 'how long "dvce down" waits for agent and blockd to end'),
} as const satisfies Record<string, Limit>;

export type LimitName = keyof typeof limitTable;

/** The values alone: `limits.volumeBytesMax`. */
export const limits = Object.fromEntries(
  Object.entries(limitTable).map(([name, { value }]) => [name, value]),
) as { readonly [Name in LimitName]: number };
