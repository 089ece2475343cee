/** Volumes and their snapshots. */
import Type, { type Static } from 'typebox';
import { limits } from '../../base/limits.ts';
import {
  closed,
  compression,
  labels,
  nameText,
  nullable,
  pathText,
  ref,
  retainMs,
  sizeBytes,
  timestamp,
  word,
} from './common.ts';
import { heldBy } from './held-by.ts';
import { Finding, VolumeScrub } from './integrity.ts';
import { RateLimits, RateLimitsChange } from './rate-limits.ts';
import { CapacityWarning } from './storage.ts';

const count = (description: string) => Type.Integer({ minimum: 0, description });

export const VolumeActivity = Type.Object(
  {
    attachId: nullable(Type.String(), {
      description: 'Who holds the attachment: the id of a VM; null when only the export is open.',
    }),
    connections: count('NBD connections now.'),
    readOnlyReason: nullable(Type.String(), { description: 'Why writes are refused, or null.' }),
    mappedBytes: count('Bytes in blocks that the map or the journal holds.'),
    storedBytes: count("Bytes of segments written by the volume's current log."),
    journalBytes: count('Journal space in use.'),
    journalQuotaBytes: count('Journal space reserved.'),
    flushLagMs: Type.Number({
      minimum: 0,
      description: 'Age of the oldest flushed write that is not in the store yet.',
    }),
    segments: count('Segments that the content needs.'),
    reads: count('Read requests since opened.'),
    writes: count('Write requests since opened.'),
    flushes: count('Flush requests since opened.'),
    readBytes: count('Bytes read since opened.'),
    writtenBytes: count('Bytes written since opened.'),
    throttledRequests: Type.Optional(count('Requests that waited for a limit since opened.')),
    throttledMs: Type.Optional(count('Time since opened in which requests waited for a limit.')),
    readBlocks: Type.Optional(
      Type.Object(
        {
          cache: count('In the cache of blockd.'),
          pageCache: count('In the memory of the host.'),
          store: count('Read from the store.'),
          joined: count('Had by a read of the store that was under way.'),
          zero: count('Holes and zeros.'),
          journal: count('In the journal, not in the store yet.'),
          ahead: count('Asked of the store before anybody wanted them.'),
        },
        { description: 'Blocks of 4 KiB since opened, by where reads found them.' },
      ),
    ),
    latencies: Type.Optional(
      Type.Array(
        Type.Object({
          operation: Type.String({ description: 'read, write, flush, trim, write_zeroes, ...' }),
          requests: count('Requests of that time.'),
          medianUs: count('Half of them took no longer, microseconds.'),
          p99Us: count('99 of 100 took no longer.'),
        }),
        { description: 'How long requests took in the last one or two minutes.' },
      ),
    ),
  },
  { $id: 'VolumeActivity', description: 'What an open volume is doing.' },
);

export const VolumeSpace = Type.Object(
  {
    logicalBytes: count('Size that the guest sees.'),
    mappedBytes: count('Bytes of blocks that the published content has; the rest are holes.'),
    mappedStoredBytes: Type.Optional(
      count('What those blocks take in the store, wherever they lie: fewer where compressed.'),
    ),
    uniqueBytes: count('Stored bytes that only its content needs.'),
    sharedBytes: count('Bytes that its content has in common with other volumes.'),
    borrowedBytes: count('Those of the shared bytes that lie in segments of other volumes.'),
    pinnedBytes: count('Stored bytes that only snapshots, clones and readers need.'),
    garbageBytes: count('Stored bytes that nothing needs; cleaning gives them back.'),
    storedBytes: count(
      'Bytes of its segments in the store: unique, shared without borrowed, pinned, garbage.',
    ),
  },
  { $id: 'VolumeSpace', description: 'What a volume takes in the store.' },
);

/** A flush that can be had back (DD-0013). */
const point = {
  flush: Type.Integer({ minimum: 0, description: 'Number of the flush; rises with every one.' }),
  time: timestamp('When it was asked for, by the clock of the host.'),
};

export const PointRange = Type.Object(
  {
    oldest: nullable(Type.Object(point), { description: 'The oldest that can be had back.' }),
    newest: nullable(Type.Object(point), { description: 'The newest that can be had back.' }),
    heldBytes: count('Bytes in the store that are there for points in time alone.'),
  },
  { $id: 'PointRange', description: 'Points in time of a volume.' },
);

export const Volume = Type.Object(
  {
    id: Type.String({ description: 'UUID; stays when the volume is renamed.' }),
    path: pathText('Path in the namespace, for example /prod/shop/db.'),
    kind: word(['volume', 'image'], 'An image is a volume that only takes clones.'),
    state: word(['active', 'recovering', 'deleting'], 'State of the head document.'),
    sizeBytes: sizeBytes('Size that the guest sees.'),
    blockBytes: Type.Unsafe<512 | 4096>({ type: 'integer', enum: [512, 4096] }),
    labels,
    protected: Type.Boolean({ description: 'A protected volume cannot be deleted.' }),
    limits: Type.Optional(ref(RateLimits)),
    createdAt: timestamp('When it was made.'),
    epoch: Type.String({ description: 'Writer generation.' }),
    log: Type.String({ description: 'UUID of its current log.' }),
    origin: nullable(Type.Object({ path: Type.String(), snapshot: Type.String() }), {
      description: 'The snapshot that it was cloned from, or null.',
    }),
    image: nullable(
      Type.Object({
        digest: Type.String(),
        source: Type.String(),
        format: Type.String(),
        sourceBytes: sizeBytes('Bytes of the source file.'),
      }),
      { description: 'Where an image came from; null while it is being filled, and for volumes.' },
    ),
    snapshots: count('Number of snapshots.'),
    retainMs: Type.Optional(
      nullable(Type.Number(), {
        description: 'For so long every flush is kept as a point in time; null: none is.',
      }),
    ),
    compression: Type.Optional(compression),
    points: Type.Optional(
      nullable(ref(PointRange), {
        description: 'What is kept; in the answer about one volume.',
      }),
    ),
    originHeldBy: Type.Optional(heldBy),
    open: nullable(ref(VolumeActivity), { description: 'Present while open.' }),
    space: Type.Optional(
      nullable(ref(VolumeSpace), {
        description: 'When asked for; null when a part of the volume cannot be read.',
      }),
    ),
    scrub: Type.Optional(ref(VolumeScrub)),
    warnings: Type.Optional(
      Type.Array(ref(CapacityWarning), { description: 'After create, clone and resize.' }),
    ),
  },
  { $id: 'Volume', description: 'A virtual disk.' },
);
export type Volume = Static<typeof Volume>;

export const VolumeList = Type.Object({ volumes: Type.Array(ref(Volume)) }, { $id: 'VolumeList' });

export const VolumeCreate = Type.Object(
  {
    path: pathText('Path of the new volume.'),
    sizeBytes: sizeBytes('A multiple of 512 from 1 MiB to 16 TiB.'),
    blockBytes: Type.Optional(
      Type.Unsafe<512 | 4096>({
        type: 'integer',
        enum: [512, 4096],
        description: 'Logical block size that the guest sees; 4096 when not given.',
      }),
    ),
    labels: Type.Optional(labels),
    protected: Type.Optional(Type.Boolean()),
    journalBytes: Type.Optional(sizeBytes('Journal quota.')),
    limits: Type.Optional(RateLimitsChange),
    retainMs: Type.Optional(retainMs),
    compression: Type.Optional(compression),
  },
  closed,
);
export type VolumeCreate = Static<typeof VolumeCreate>;

export const VolumeUpdate = Type.Object(
  {
    path: Type.Optional(pathText('New path: renames the volume.')),
    labels: Type.Optional(labels),
    protected: Type.Optional(Type.Boolean()),
    limits: Type.Optional(RateLimitsChange),
    retainMs: Type.Optional(
      nullable(retainMs, { description: 'null: keep no points in time any more.' }),
    ),
    compression: Type.Optional(compression),
  },
  { ...closed, minProperties: 1 },
);
export type VolumeUpdate = Static<typeof VolumeUpdate>;

export const VolumeResize = Type.Object(
  {
    sizeBytes: sizeBytes('New size.'),
    shrink: Type.Optional(
      Type.Boolean({ description: 'Must be true to make it smaller; what lies beyond is lost.' }),
    ),
  },
  closed,
);
export type VolumeResize = Static<typeof VolumeResize>;

export const VolumeClone = Type.Object(
  {
    source: pathText('PATH or PATH@SNAPSHOT; without a snapshot one is taken first.'),
    path: pathText('Path of the new volume.'),
    sizeBytes: Type.Optional(sizeBytes('Size of the clone when it shall be larger.')),
    labels: Type.Optional(labels),
    protected: Type.Optional(Type.Boolean()),
    limits: Type.Optional(RateLimitsChange),
  },
  closed,
);
export type VolumeClone = Static<typeof VolumeClone>;

export const VolumeRecover = Type.Object(
  { acceptLoss: Type.Literal(true, { description: 'What follows the damage is given up.' }) },
  closed,
);

export const VolumeRecovery = Type.Object(
  {
    lostFromSeq: nullable(Type.String(), { description: 'First record given up, or null.' }),
    recoveredBytes: sizeBytes('Bytes of the journal that were kept.'),
  },
  { $id: 'VolumeRecovery' },
);
export type VolumeRecovery = Static<typeof VolumeRecovery>;

export const VolumeCheck = Type.Object(
  {
    repair: Type.Optional(
      Type.Boolean({
        description:
          'Put right what can be without losing anything. The volume must not be in use meanwhile.',
      }),
    ),
  },
  closed,
);

export const VolumeCheckResult = Type.Object(
  {
    findings: Type.Array(ref(Finding)),
    omitted: count('Findings that are not listed.'),
    segments: count('Segments read.'),
    bytes: sizeBytes('Bytes verified.'),
  },
  { $id: 'VolumeCheckResult' },
);
export type VolumeCheckResult = Static<typeof VolumeCheckResult>;

export const Snapshot = Type.Object(
  {
    id: Type.String(),
    name: Type.String(),
    volume: Type.String({ description: 'Path of its volume.' }),
    parent: nullable(Type.String(), { description: 'Name of the snapshot before it, or null.' }),
    createdAt: timestamp('When it was taken.'),
    sizeBytes: sizeBytes('Size of the volume then.'),
    protected: Type.Boolean(),
    labels,
    current: Type.Boolean({ description: "The volume's content descends from it." }),
    clones: count('Volumes cloned from it.'),
    set: Type.Optional(
      Type.String({
        description: 'Same for all snapshots that were taken of several volumes at one instant.',
      }),
    ),
  },
  { $id: 'Snapshot', description: 'A named state of a volume.' },
);
export type Snapshot = Static<typeof Snapshot>;

export const SnapshotList = Type.Object(
  { snapshots: Type.Array(ref(Snapshot)) },
  { $id: 'SnapshotList' },
);

export const SnapshotCreate = Type.Object(
  {
    name: nameText('Name within the volume.'),
    labels: Type.Optional(labels),
    protected: Type.Optional(Type.Boolean()),
  },
  closed,
);
export type SnapshotCreate = Static<typeof SnapshotCreate>;

export const SnapshotSetCreate = Type.Object(
  {
    name: nameText('Name of the snapshot in each volume.'),
    volumes: Type.Array(pathText('Path of a volume.'), {
      minItems: 1,
      maxItems: limits.snapshotSetMax,
      description: 'The volumes, each once.',
    }),
    labels: Type.Optional(labels),
    protected: Type.Optional(Type.Boolean()),
  },
  closed,
);
export type SnapshotSetCreate = Static<typeof SnapshotSetCreate>;

export const SnapshotDiff = Type.Object(
  {
    ranges: Type.Array(
      Type.Object({
        offset: sizeBytes('First byte.'),
        length: sizeBytes('Bytes.'),
        kind: word(['data', 'zero'], '`zero`: reads as zeros afterwards.'),
      }),
    ),
    changedBytes: sizeBytes('Sum of all changed ranges, shown or not.'),
    truncated: Type.Boolean({ description: 'True when more ranges exist than were asked for.' }),
  },
  { $id: 'SnapshotDiff' },
);
export type SnapshotDiff = Static<typeof SnapshotDiff>;

export const PointPage = Type.Object(
  {
    points: Type.Array(Type.Object({ ...point, sizeBytes: sizeBytes('Of the volume then.') }), {
      description: 'Newest first.',
    }),
    next: nullable(Type.Integer(), {
      description: '`before` of the next page; null: there is none.',
    }),
  },
  { $id: 'PointPage' },
);
export type PointPage = Static<typeof PointPage>;

export const pointsQuery = Type.Object({
  since: Type.Optional(timestamp('Only flushes at or after this time (RFC 3339).')),
  until: Type.Optional(timestamp('Only flushes at or before this time (RFC 3339).')),
  before: Type.Optional(
    Type.Integer({ minimum: 0, description: 'Only flushes below this number.' }),
  ),
  limit: Type.Optional(
    Type.Integer({ minimum: 1, maximum: limits.pointsListMax, description: 'At most so many.' }),
  ),
});

export const PointOpen = Type.Object(
  {
    time: Type.Optional(timestamp('The newest flush at or before this time (RFC 3339).')),
    beforeFlush: Type.Optional(
      Type.Integer({ minimum: 0, description: 'The newest flush before the one of this number.' }),
    ),
    flush: Type.Optional(Type.Integer({ minimum: 0, description: 'The flush of this number.' })),
    snapshot: Type.Optional(nameText('Name of the snapshot; else `at-flush-<number>`.')),
    clone: Type.Optional(pathText('Make a new volume here and no snapshot.')),
    labels: Type.Optional(labels),
  },
  closed,
);
export type PointOpen = Static<typeof PointOpen>;

export const PointOpened = Type.Object(
  {
    ...point,
    snapshot: nullable(ref(Snapshot), { description: 'The content at that flush, read-only.' }),
    volume: nullable(ref(Volume), { description: 'The clone that was asked for.' }),
  },
  { $id: 'PointOpened', description: 'A point in time that can be used.' },
);
export type PointOpened = Static<typeof PointOpened>;
