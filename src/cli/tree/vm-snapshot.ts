/** Snapshots of VMs. */
import type { CommandSpec } from '../spec.ts';
import * as option from './options.ts';

const source = { name: '<vm@name>', text: 'VM@SNAPSHOT', names: 'vm' } as const;
const load = () => import('../commands/vm-snapshot.ts');

export const vmSnapshots: readonly CommandSpec[] = [
  {
    name: 'snapshot',
    summary: 'take a snapshot of a VM: its configuration, and all its disks at one instant',
    details:
      'A guest runs on meanwhile; its memory is not part of it, so its disks are as after a power cut. With --quiesce the guest agent first writes everything and stops its file systems for that moment.',
    arguments: [{ ...source, text: 'VM@NAME of the new snapshot' }],
    options: [
      { flags: '--quiesce', text: 'let the guest agent stop writes; refused without one' },
      option.label,
      option.noWait,
      option.timeout,
    ],
    examples: [
      'dvce vm snapshot web1@before-upgrade',
      'dvce vm snapshot web1@release-3 --label release=3',
      'dvce vm snapshot web1@release-4 --quiesce',
    ],
    run: async () => (await load()).snapshot,
  },
  {
    name: 'snapshots',
    kind: 'read',
    summary: 'list the snapshots of a VM',
    arguments: [{ name: '<name>', text: 'name of the VM', names: 'vm' }],
    examples: [
      'dvce vm snapshots web1',
      'dvce vm snapshots web1 -o json',
      'dvce vm snapshots web1 -o name',
    ],
    run: async () => (await load()).list,
  },
  {
    name: 'rollback',
    summary: 'set a stopped VM back to a snapshot: configuration, cards, and disks',
    details:
      'What the disks got since is given up; all snapshots stay. A disk that the VM got later stays as a volume. Either nothing changes, or it is done to the end, by the next agent if need be.',
    arguments: [source],
    options: [option.yes, option.noWait, option.timeout],
    examples: [
      'dvce vm rollback web1@before-upgrade --dry-run',
      'dvce vm rollback web1@before-upgrade --yes',
      'dvce vm rollback web1@release-3 --yes --timeout 2m',
    ],
    run: async () => (await load()).rollback,
  },
  {
    name: 'delete-snapshot',
    summary: 'delete a snapshot of a VM, with those of its disks',
    arguments: [source],
    options: [option.dryRun, option.ifExists, option.yes],
    examples: [
      'dvce vm delete-snapshot web1@before-upgrade --dry-run',
      'dvce vm delete-snapshot web1@before-upgrade --yes',
      'dvce vm delete-snapshot web1@before-upgrade --yes --if-exists',
    ],
    run: async () => (await load()).remove,
  },
];
