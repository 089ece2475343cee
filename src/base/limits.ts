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
  documentBytesMax: limit(1 * MiB, 'bytes', 'one JSON document of the store'),
  storeReserveBytes: limit(
    256 * MiB,
    'bytes',
    'rule S9: free space kept for roots, trims and cleaning',
  ),
  openFilesPerStore: limit(256, 'count', 'segment files kept open for reading'),
  imageBytesMax: limit(4 * TiB, 'bytes', 'virtual size of an image that may be imported'),
  downloadBytesMax: limit(256 * GiB, 'bytes', 'one download of an image'),
} as const satisfies Record<string, Limit>;

export type LimitName = keyof typeof limitTable;

/** The values alone: `limits.volumeBytesMax`. */
export const limits = Object.fromEntries(
  Object.entries(limitTable).map(([name, { value }]) => [name, value]),
) as { readonly [Name in LimitName]: number };
