import type { NounSpec } from '../spec.ts';
import * as option from './options.ts';
import { volumeStorage } from './storage.ts';

const path = {
  name: '<path>',
  text: 'path of the volume, e.g. /prod/db',
  names: 'volume',
} as const;
const load = () => import('../commands/volume.ts');
const retain = {
  flags: '--retain <duration>',
  text: 'keep every flush for so long as a point in time, e.g. 24h; off: none',
} as const;

export const volume: NounSpec = {
  name: 'volume',
  summary: 'virtual disks',
  commands: [
    {
      name: 'create',
      summary: 'make an empty volume',
      details: 'Space is used only for what is written.',
      arguments: [{ ...path, text: 'path of the new volume, e.g. /prod/db' }],
      options: [
        {
          flags: '-s, --size <size>',
          text: 'size, e.g. 10GiB (1MiB to 16TiB)',
          kind: 'size',
          required: true,
        },
        {
          flags: '--block <bytes>',
          text: 'logical block size that the guest sees (4096)',
          choices: ['512', '4096'],
        },
        { flags: '--journal <size>', text: 'quota of its journal', kind: 'size' },
        ...option.rateLimits,
        retain,
        option.compression,
        option.label,
        option.protect,
        option.ifNotExists,
      ],
      examples: [
        'dvce volume create /prod/db --size 10GiB',
        'dvce volume create /prod/ledger --size 10GiB --retain 24h',
        'dvce volume create /prod/logs --size 10GiB --compression zstd',
        'dvce volume create /prod/web --size 4GiB --block 4096 --label team=shop',
        'dvce volume create /prod/db --size 10GiB --if-not-exists',
        'dvce volume create /prod/slow --size 1GiB --iops 500 --bandwidth 20MiB',
      ],
      run: async () => (await load()).create,
    },
    {
      name: 'list',
      summary: 'list volumes',
      arguments: [{ name: '[prefix]', text: 'only those below this path', names: 'volume' }],
      options: [{ flags: '-a, --all', text: 'images, too' }],
      examples: ['dvce volume list', 'dvce volume list /prod', 'dvce volume list --all -o json'],
      run: async () => (await load()).list,
    },
    {
      name: 'show',
      summary: 'show one volume, with what it is doing while open',
      arguments: [path],
      examples: [
        'dvce volume show /prod/db',
        'dvce volume show /prod/db -o json',
        'dvce volume show /prod/db -o yaml',
      ],
      run: async () => (await load()).show,
    },
    {
      name: 'resize',
      summary: 'change the size of a volume',
      details:
        'Growing works while a guest uses it. Shrinking needs --shrink and a volume that is not attached; what lies beyond the new size is lost.',
      arguments: [path],
      options: [
        { flags: '-s, --size <size>', text: 'new size, e.g. 20GiB', kind: 'size', required: true },
        { flags: '--shrink', text: 'allow to make it smaller' },
        option.dryRun,
        option.yes,
      ],
      examples: [
        'dvce volume resize /prod/db --size 20GiB',
        'dvce volume resize /prod/db --size 8GiB --shrink --dry-run',
        'dvce volume resize /prod/db --size 8GiB --shrink --yes',
      ],
      run: async () => (await load()).resize,
    },
    {
      name: 'rename',
      summary: 'give a volume another path',
      arguments: [path, { name: '<to>', text: 'new path' }],
      examples: [
        'dvce volume rename /prod/web /prod/www',
        'dvce volume rename /prod/www /prod/web',
        'dvce volume rename /prod/web /shop/web --dry-run',
      ],
      run: async () => (await load()).rename,
    },
    {
      name: 'update',
      summary: 'change labels, protection, limits, points in time and compression of a volume',
      details:
        'All of it holds at once, also for a guest that is using the volume; what is not named stays as it is. Compression is of what is written from now on.',
      arguments: [path],
      options: [
        retain,
        option.compression,
        option.label,
        { flags: '--no-labels', text: 'remove all labels first' },
        option.protect,
        option.noProtect,
        ...option.rateLimits,
        option.noLimits,
      ],
      examples: [
        'dvce volume update /prod/db --protect',
        'dvce volume update /prod/db --no-protect --label tier=gold',
        'dvce volume update /prod/db --no-labels',
        'dvce volume update /prod/db --iops 1000 --burst iops=5000/30s --write-bandwidth 100MiB',
        'dvce volume update /prod/db --no-limits',
        'dvce volume update /prod/db --retain 24h',
        'dvce volume update /prod/db --retain off',
        'dvce volume update /prod/db --compression zstd',
      ],
      run: async () => (await load()).update,
    },
    {
      name: 'clone',
      summary: 'make a volume that starts with the content of another',
      details:
        'The clone shares the stored bytes and takes no space until it is written. Without @SNAPSHOT a snapshot is taken first. Limits of the source go with it.',
      arguments: [
        { name: '<source>', text: 'PATH or PATH@SNAPSHOT', names: 'source' },
        { name: '<path>', text: 'path of the new volume' },
      ],
      options: [
        { flags: '-s, --size <size>', text: 'a larger size for the clone', kind: 'size' },
        ...option.rateLimits,
        option.noLimits,
        option.label,
        option.protect,
        option.ifNotExists,
      ],
      examples: [
        'dvce volume clone /prod/db /test/db',
        'dvce volume clone /prod/db@before-upgrade /test/db2 --label purpose=test',
        'dvce volume clone /prod/db@before-upgrade /test/db3 --size 30GiB',
      ],
      run: async () => (await load()).clone,
    },
    {
      name: 'flatten',
      summary: 'make a clone need nothing of what it was cloned from',
      details:
        'Copies the blocks that the volume still has in common with its origin; then it has no origin, and a deleted origin gives its space back. Guests may use the volume meanwhile: what they write stays, and the copy gives way to them. Cancelled or cut short it can be started again and goes on from there. Snapshots of the volume from before still need the origin: it stays in the store until they are deleted ("dvce volume show" names them). With --dry-run the bytes to be copied are said. A volume without an origin stays as it is.',
      arguments: [path],
      options: [option.noWait, option.timeout],
      examples: [
        'dvce volume flatten /test/db --dry-run',
        'dvce volume flatten /test/db',
        'dvce volume flatten /test/db --no-wait',
        'dvce volume flatten /test/db --timeout 10m',
        'dvce volume flatten /test/db -o json',
      ],
      run: async () => (await import('../commands/volume-tree.ts')).flatten,
    },
    {
      name: 'promote',
      summary: 'let a clone take over what it was cloned from, which becomes a clone of it',
      details:
        'The tree turns round: the snapshots of the parent up to the one that was cloned go over to the volume, later ones stay, and the parent is a clone of the volume from then on, so it can be deleted with nothing lost that the volume needs. Nothing is copied. The volume may be in use; the parent must not be, because it goes on in a log of its own. Refused for clones of images, for volumes without an origin, when a name of a snapshot is used by both, and while the parent keeps points in time.',
      arguments: [path],
      options: [option.noWait, option.timeout],
      examples: [
        'dvce volume promote /test/db2 --dry-run',
        'dvce volume promote /test/db2',
        'dvce volume promote /prod/db -o json',
        'dvce volume promote /test/db2 --timeout 1m',
        'dvce volume promote /prod/db --no-wait',
      ],
      run: async () => (await import('../commands/volume-tree.ts')).promote,
    },
    {
      name: 'check',
      summary: 'verify every byte that a volume can reach',
      details:
        'Reads all that its content and snapshots refer to, also while guests use it, and compares segments, tables and documents with each other. Each finding has a stable code, and names the exact bytes of the volume, its snapshots and clones that are concerned (all of them with -o json). Ends with exit code 1 when data is damaged. --repair puts right what can be without losing anything: left uploads and scopes, missing pins, wrong counts. A check without it says of each finding whether it would. It deletes no segment, snapshot or content, ever.',
      arguments: [path],
      options: [
        {
          flags: '--repair',
          text: 'put right what can be without losing anything; the volume must not be in use',
        },
        option.noWait,
        option.timeout,
      ],
      examples: [
        'dvce volume check /prod/db',
        'dvce volume check /prod/db --repair',
        'dvce volume check /prod/db --timeout 10m',
        'dvce volume check /prod/db --no-wait',
      ],
      run: async () => (await import('../commands/volume-check.ts')).check,
    },
    {
      name: 'recover',
      summary: 'open a volume whose journal is damaged, giving up what follows the damage',
      arguments: [path],
      options: [
        { flags: '--accept-loss', text: 'needed: writes after the damage are lost' },
        option.yes,
      ],
      examples: [
        'dvce volume recover /prod/db --accept-loss --dry-run',
        'dvce volume recover /prod/db --accept-loss --yes',
        'dvce volume recover /prod/db --accept-loss --yes -o json',
      ],
      run: async () => (await load()).recover,
    },
    {
      name: 'delete',
      summary: 'delete a volume and its snapshots; it stays in the trash for a while',
      details:
        'Its name is free at once. Until its time is over "dvce volume undelete" brings it back as it was; when space runs short the trash is emptied, oldest first.',
      arguments: [path],
      options: [
        { flags: '--now', text: 'for good, not into the trash' },
        option.dryRun,
        option.ifExists,
        option.yes,
      ],
      examples: [
        'dvce volume delete /test/db --dry-run',
        'dvce volume delete /test/db --yes',
        'dvce volume delete /test/db --yes --if-exists',
      ],
      run: async () => (await load()).remove,
    },
    ...volumeStorage,
  ],
};
