import type { NounSpec } from '../spec.ts';
import * as option from './options.ts';
import { snapshotStorage } from './storage.ts';

const path = { name: '<path>', text: 'path of the volume', names: 'volume' } as const;
const source = { name: '<path@name>', text: 'PATH@SNAPSHOT', names: 'snapshot' } as const;
const load = () => import('../commands/snapshot.ts');

export const snapshot: NounSpec = {
  name: 'snapshot',
  summary: 'named states of volumes',
  commands: [
    {
      name: 'create',
      summary: 'take a snapshot; a running guest is not stopped for it',
      arguments: [{ ...source, text: 'PATH@NAME of the new snapshot' }],
      options: [option.label, option.protect, option.ifNotExists],
      examples: [
        'dvce snapshot create /prod/db@before-upgrade',
        'dvce snapshot create /prod/db@release-2 --label release=2 --protect',
        'dvce snapshot create /prod/db@before-upgrade --if-not-exists',
      ],
      run: async () => (await load()).create,
    },
    {
      name: 'create-set',
      summary: 'take snapshots of several volumes at one instant',
      details:
        'Writes to all of them are held for a moment, at most 2 s, and all are cut there. Either all snapshots exist afterwards, or none.',
      arguments: [
        { name: '<name>', text: 'name of the snapshot in each volume' },
        { name: '<path...>', text: 'paths of the volumes', names: 'volume' },
      ],
      options: [option.label, option.protect],
      examples: [
        'dvce snapshot create-set nightly /prod/db /prod/web',
        'dvce snapshot create-set release-3 /prod/db /prod/web --label release=3 --protect',
        'dvce snapshot create-set release-4 /prod/db /prod/web --dry-run',
      ],
      run: async () => (await load()).createSet,
    },
    {
      name: 'list',
      summary: 'list the snapshots of a volume, oldest first',
      arguments: [path],
      options: [
        { flags: '--limit <count>', text: 'list one page of at most so many', kind: 'count' },
        { flags: '--cursor <text>', text: 'the page behind the one that named it' },
      ],
      examples: [
        'dvce snapshot list /prod/db',
        'dvce snapshot list /prod/db --limit 1000 -o json',
        'dvce snapshot list /prod/db --filter protected=true -o name',
      ],
      run: async () => (await load()).list,
    },
    {
      name: 'tree',
      summary: 'draw the snapshots of a volume as a tree, with the current position',
      arguments: [path],
      examples: [
        'dvce snapshot tree /prod/db',
        'dvce snapshot tree /prod/web',
        'dvce snapshot tree /prod/db -o json',
      ],
      run: async () => (await load()).tree,
    },
    {
      name: 'diff',
      summary: 'list the ranges that changed since a snapshot',
      arguments: [
        source,
        { name: '[to]', text: 'a later snapshot of the volume; the current content when left out' },
      ],
      options: [{ flags: '--limit <count>', text: 'list at most so many ranges', kind: 'count' }],
      examples: [
        'dvce snapshot diff /prod/db@before-upgrade',
        'dvce snapshot diff /prod/db@before-upgrade release-2',
        'dvce snapshot diff /prod/db@before-upgrade release-2 --limit 10 -o json',
      ],
      run: async () => (await load()).diff,
    },
    {
      name: 'rollback',
      summary: 'set a volume back to a snapshot',
      details:
        'What was written since is given up, and with it the points in time that --retain kept: make a snapshot of one that you may need (dvce volume at). All snapshots stay. Refused while a guest uses the volume.',
      arguments: [source],
      options: [option.dryRun, option.yes],
      examples: [
        'dvce snapshot rollback /prod/db@before-upgrade --dry-run',
        'dvce snapshot rollback /prod/db@before-upgrade --yes',
        'dvce snapshot rollback /prod/db@release-2 --yes -o json',
      ],
      run: async () => (await load()).rollback,
    },
    {
      name: 'delete',
      summary: 'delete a snapshot, anywhere in the tree',
      arguments: [source],
      options: [option.dryRun, option.ifExists, option.yes],
      examples: [
        'dvce snapshot delete /prod/db@before-upgrade --dry-run',
        'dvce snapshot delete /prod/db@before-upgrade --yes',
        'dvce snapshot delete /prod/db@before-upgrade --yes --if-exists',
      ],
      run: async () => (await load()).remove,
    },
    ...snapshotStorage,
  ],
};
