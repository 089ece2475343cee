import type { CommandSpec, NounSpec } from '../spec.ts';
import * as option from './options.ts';

const load = () => import('../commands/storage.ts');
const what = {
  name: '<path|id>',
  text: 'path that the volume had, or its id',
  names: '/v1/trash',
} as const;
const folder = { name: '<path>', text: 'the folder, e.g. /prod; / is everything' } as const;
const loadPoints = () => import('../commands/points.ts');
const volumePath = {
  name: '<path>',
  text: 'path of the volume, e.g. /prod/db',
  names: 'volume',
} as const;
const source = { name: '<path>', text: 'PATH or PATH@SNAPSHOT', names: 'source' } as const;

export const trash: NounSpec = {
  name: 'trash',
  summary: 'deleted volumes that can be had back',
  commands: [
    {
      name: 'list',
      summary: 'list deleted volumes, the last first',
      examples: ['dvce trash list', 'dvce trash list -o json', 'dvce trash list -o name'],
      run: async () => (await load()).trashList,
    },
    {
      name: 'empty',
      summary: 'delete for good what is in the trash',
      arguments: [{ ...what, name: '[path|id]', text: 'only this volume: its path or id' }],
      options: [option.yes],
      examples: [
        'dvce trash empty --yes',
        'dvce trash empty /test/tmp --yes',
        'dvce trash empty --yes -o json',
      ],
      run: async () => (await load()).trashEmpty,
    },
  ],
};

export const quota: NounSpec = {
  name: 'quota',
  summary: 'how much may be made below a folder',
  commands: [
    {
      name: 'set',
      summary: 'limit what may be made below a folder',
      details:
        'Counted are the sizes that guests see, and volumes. Less than what is used already may be set: it stops growth. What is not given stays as it is.',
      arguments: [folder],
      options: [
        { flags: '-s, --size <size>', text: 'most that the sizes may add up to', kind: 'size' },
        { flags: '--volumes <count>', text: 'most volumes', kind: 'count' },
        { flags: '--stored-warn <size>', text: 'warn when more is stored', kind: 'size' },
      ],
      examples: [
        'dvce quota set /prod --size 2TiB',
        'dvce quota set /prod --size 2TiB --volumes 100 --stored-warn 500GiB',
        'dvce quota set /test --volumes 20',
      ],
      run: async () => (await load()).quotaSet,
    },
    {
      name: 'list',
      summary: 'list the quotas',
      examples: ['dvce quota list', 'dvce quota list -o json', 'dvce quota list -o name'],
      run: async () => (await load()).quotaList,
    },
    {
      name: 'show',
      summary: 'show the quota of a folder, with what is stored below it',
      arguments: [folder],
      examples: [
        'dvce quota show /prod',
        'dvce quota show /prod -o json',
        'dvce quota show /test -o yaml',
      ],
      run: async () => (await load()).quotaShow,
    },
    {
      name: 'delete',
      summary: 'take the quota of a folder away',
      arguments: [folder],
      options: [option.ifExists],
      examples: [
        'dvce quota delete /test',
        'dvce quota delete /test --if-exists',
        'dvce quota delete /prod --dry-run',
      ],
      run: async () => (await load()).quotaDelete,
    },
  ],
};

/** More commands of `dvce volume`. */
export const volumeStorage: readonly CommandSpec[] = [
  {
    name: 'trash',
    summary: 'list deleted volumes that can be had back',
    arguments: [{ name: '[list]', text: 'list', choices: ['list'] }],
    examples: ['dvce volume trash', 'dvce volume trash list', 'dvce volume trash list -o json'],
    run: async () => (await load()).trashList,
  },
  {
    name: 'undelete',
    summary: 'take a volume out of the trash, as it was',
    arguments: [what],
    options: [{ flags: '--to <path>', text: 'another path than the one of before' }],
    examples: [
      'dvce volume undelete /test/tmp',
      'dvce volume undelete /test/tmp --to /test/back',
      'dvce volume undelete "$(dvce trash list -o name | head -1)" --to /test/last',
    ],
    run: async () => (await load()).undelete,
  },
  {
    name: 'points',
    summary: 'list the flushes of a volume that can be had back, newest first',
    details:
      'A volume with --retain keeps every flush of that window. A time without an offset is of the local time zone.',
    arguments: [volumePath],
    options: [
      { flags: '--since <time>', text: 'only at or after this time, e.g. 2026-01-31T10:15:00' },
      { flags: '--until <time>', text: 'only at or before this time' },
      { flags: '--before <number>', text: 'only flushes below this number' },
      { flags: '--limit <count>', text: 'at most so many (100)', kind: 'count' },
    ],
    examples: [
      'dvce volume points /prod/ledger',
      'dvce volume points /prod/ledger --since 2026-01-31T10:00:00 --limit 20',
      'dvce volume points /prod/ledger -o json',
    ],
    run: async () => (await loadPoints()).points,
  },
  {
    name: 'at',
    summary: 'open a volume as it was at a flush, read-only or as a clone',
    details:
      'The content becomes a snapshot, which is read, compared, cloned and rolled back to like every other; with --clone it becomes a new volume. --time means the newest flush at or before it; without an offset it is of the local time zone.',
    arguments: [volumePath],
    options: [
      { flags: '--time <time>', text: 'as at this time, e.g. 2026-01-31T10:15:00' },
      { flags: '--before-flush <number>', text: 'as at the newest flush before this one' },
      { flags: '--flush <number>', text: 'as at this flush' },
      { flags: '--snapshot <name>', text: 'name of the snapshot (at-flush-NUMBER)' },
      { flags: '--clone <path>', text: 'make a new volume here instead' },
      { flags: '--export', text: 'export the snapshot over NBD, read-only, until it is given up' },
      option.label,
    ],
    examples: [
      'dvce volume at /prod/ledger --time "$(date +%FT%T)"',
      'dvce volume at /prod/ledger --before-flush 4711 --export',
      'dvce volume at /prod/ledger --time "$(date -Is)" --clone /test/ledger',
    ],
    run: async () => (await loadPoints()).at,
  },
  {
    name: 'map',
    summary: 'show where the content of a volume or snapshot is',
    details:
      'Ranges without data are holes (never written, or trimmed) or zeros. Data names the segment that holds it.',
    arguments: [source],
    options: [
      { flags: '--offset <size>', text: 'from here on', kind: 'size' },
      { flags: '--limit <count>', text: 'at most so many ranges (1000)', kind: 'count' },
    ],
    examples: [
      'dvce volume map /prod/db',
      'dvce volume map /prod/db@before-upgrade --limit 10',
      'dvce volume map /prod/db --offset 1GiB -o json',
    ],
    run: async () => (await load()).map,
  },
  {
    name: 'export',
    summary: 'keep a volume or snapshot exported, and show how to connect',
    details:
      'Until it is given up with "dvce volume unexport" the volume is not deleted, rolled back or attached to a VM; the export comes back after every restart.',
    arguments: [source],
    options: [
      { flags: '--read-only', text: 'refuse writes' },
      { flags: '--socket', text: 'print only the address of the unix socket' },
      { flags: '--tcp', text: 'print only the TCP address' },
    ],
    examples: [
      'dvce volume export /prod/db',
      'dvce volume export /prod/db@before-upgrade --socket',
      'dvce volume export /prod/web --read-only -o json',
    ],
    run: async () => (await load()).exportVolume,
  },
  {
    name: 'exports',
    summary: 'list the exports that are kept',
    examples: ['dvce volume exports', 'dvce volume exports -o json', 'dvce volume exports -o name'],
    run: async () => (await load()).exportList,
  },
  {
    name: 'unexport',
    summary: 'give an export up; its clients are disconnected',
    arguments: [{ name: '<id>', text: 'id of the export', names: '/v1/exports' }],
    options: [option.ifExists],
    examples: [
      'dvce volume unexport "$(dvce volume export /prod/db -o name)"',
      'dvce volume unexport export-00000000 --if-exists',
      'dvce volume exports -o name | xargs -r -n1 dvce volume unexport',
    ],
    run: async () => (await load()).unexport,
  },
];

export const snapshotStorage: readonly CommandSpec[] = [
  {
    name: 'update',
    summary: 'change labels and protection of a snapshot',
    arguments: [{ name: '<path@name>', text: 'PATH@SNAPSHOT', names: 'snapshot' }],
    options: [option.label, option.protect, option.noProtect],
    examples: [
      'dvce snapshot update /prod/db@release-2 --no-protect',
      'dvce snapshot update /prod/db@release-2 --label keep=yes',
      'dvce snapshot update /prod/db@release-2 --protect -o json',
    ],
    run: async () => (await load()).snapshotUpdate,
  },
];
