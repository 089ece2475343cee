/** Trash, capacity, quotas, maps, held exports. */
import Type, { type Static } from 'typebox';
import { limits } from '../../base/limits.ts';
import { closed, labels, nullable, pathText, ref, sizeBytes, timestamp, word } from './common.ts';

const count = (description: string) => Type.Integer({ minimum: 0, description });
const most = (description: string) => nullable(sizeBytes(description));

export const TrashedVolume = Type.Object(
  {
    id: Type.String({ description: 'UUID; the volume keeps it when it comes back.' }),
    path: pathText('Where it was.'),
    kind: word(['volume', 'image'], 'Kind.'),
    sizeBytes: sizeBytes('Size that the guest saw.'),
    labels,
    createdAt: timestamp('When it was made.'),
    deletedAt: timestamp('When it was deleted.'),
    expiresAt: timestamp('Until then it can be had back, unless space runs short.'),
  },
  { $id: 'TrashedVolume', description: 'A deleted volume that can be had back.' },
);
export type TrashedVolume = Static<typeof TrashedVolume>;

export const TrashList = Type.Object(
  { volumes: Type.Array(ref(TrashedVolume)) },
  { $id: 'TrashList' },
);

const what = pathText('Id, or the path that it had: of several the one that was deleted last.');

export const TrashRestore = Type.Object(
  { what, to: Type.Optional(pathText('Another path than the one of before.')) },
  closed,
);
export const TrashEmpty = Type.Object({ what: Type.Optional(what) }, closed);
export const TrashEmptied = Type.Object(
  { discarded: Type.Array(ref(TrashedVolume)) },
  { $id: 'TrashEmptied' },
);

export const CapacityWarning = Type.Object(
  {
    code: word(['STORE_LOW', 'STORE_FILLING', 'OVERCOMMIT', 'QUOTA_NEARLY_USED'], 'Stable code.'),
    object: Type.String(),
    detail: Type.String(),
    advice: Type.String(),
  },
  { $id: 'CapacityWarning', description: 'Something about space that should be looked at.' },
);
export type CapacityWarning = Static<typeof CapacityWarning>;

export const Capacity = Type.Object(
  {
    volumes: count('Volumes and images.'),
    virtualBytes: sizeBytes('Sum of the sizes that guests see.'),
    trashedVolumes: count('Volumes in the trash.'),
    storeFreeBytes: sizeBytes('Free space of the store.'),
    storeTotalBytes: sizeBytes('Size of the store.'),
    overcommitPercent: count('What is promised, in percent of what is there.'),
    warnings: Type.Array(ref(CapacityWarning)),
  },
  { $id: 'Capacity', description: 'What the volumes promise, and what the store has.' },
);
export type Capacity = Static<typeof Capacity>;

const quotaLimits = {
  sizeBytes: most('Most that the sizes below it may add up to.'),
  volumes: nullable(count('Most volumes below it.')),
  storedBytes: most('With more stored than this a warning is given.'),
};

export const Quota = Type.Object(
  {
    path: pathText('The folder; / is everything.'),
    ...quotaLimits,
    usedBytes: sizeBytes('Sum of the sizes below it.'),
    usedVolumes: count('Volumes below it.'),
    usedStoredBytes: most('Bytes in the store that volumes below it wrote; null in lists.'),
  },
  { $id: 'Quota', description: 'How much may be made below a folder.' },
);
export type Quota = Static<typeof Quota>;

export const QuotaList = Type.Object({ quotas: Type.Array(ref(Quota)) }, { $id: 'QuotaList' });
export const QuotaSet = Type.Object(quotaLimits, closed);
export type QuotaSet = Static<typeof QuotaSet>;

export const VolumeMap = Type.Object(
  {
    sizeBytes: sizeBytes('Size of what was looked at.'),
    extents: Type.Array(
      Type.Object({
        offset: sizeBytes('Begin.'),
        length: sizeBytes('Length.'),
        kind: word(['data', 'hole', 'zero'], 'Holes and zeros take no space.'),
        log: Type.Optional(Type.String({ description: 'Log that holds the data.' })),
        segment: Type.Optional(count('Number of the segment that holds it.')),
        segmentOffset: Type.Optional(count('Where it begins in the segment.')),
      }),
    ),
    next: most('Ask on from here; null at the end.'),
  },
  { $id: 'VolumeMap', description: 'Where the content of a volume is.' },
);
export type VolumeMap = Static<typeof VolumeMap>;

export const mapQuery = Type.Object({
  snapshot: Type.Optional(Type.String({ maxLength: 255, description: 'Of this snapshot.' })),
  offset: Type.Optional(sizeBytes('From here on.')),
  limit: Type.Optional(
    Type.Integer({ minimum: 1, maximum: limits.mapExtentsMax, description: 'Extents.' }),
  ),
});

export const Export = Type.Object(
  {
    id: Type.String(),
    volume: Type.String({ description: 'UUID of the volume.' }),
    path: pathText('Path of the volume when it was exported.'),
    snapshot: nullable(Type.String()),
    readOnly: Type.Boolean(),
    since: timestamp('Since then.'),
    exportName: Type.String({ description: 'Name that NBD clients ask for.' }),
    socketPath: Type.String({ description: 'Unix socket that serves it.' }),
    tcp: nullable(Type.String(), { description: 'HOST:PORT, when blockd serves TCP.' }),
  },
  { $id: 'Export', description: 'An export that is kept until it is given up.' },
);
export type Export = Static<typeof Export>;

export const ExportList = Type.Object({ exports: Type.Array(ref(Export)) }, { $id: 'ExportList' });
export const ExportCreate = Type.Object(
  {
    path: pathText('Path of the volume.'),
    snapshot: Type.Optional(nullable(Type.String({ minLength: 1, maxLength: 255 }))),
    readOnly: Type.Optional(Type.Boolean()),
  },
  closed,
);
export type ExportCreate = Static<typeof ExportCreate>;

export const SnapshotUpdate = Type.Object(
  { labels: Type.Optional(labels), protected: Type.Optional(Type.Boolean()) },
  { ...closed, minProperties: 1 },
);
export type SnapshotUpdate = Static<typeof SnapshotUpdate>;
