/** The whole command tree. */
import type { CommandSpec, NounSpec } from '../spec.ts';
import { image } from './image.ts';
import { snapshot } from './snapshot.ts';
import { op, single } from './system.ts';
import { vm } from './vm.ts';
import { volume } from './volume.ts';

export const nouns: readonly NounSpec[] = [volume, snapshot, image, vm, op];
export const singles: readonly CommandSpec[] = single;

/** Options that every command takes. */
export const globalOptions = [
  {
    flags: '--data-dir <dir>',
    text: 'directory of the agent (DVCE_DATA_DIR; /var/lib/dvce for root)',
    names: 'file',
  },
  {
    flags: '-o, --output <format>',
    text: 'table, or json: the objects of the API',
    choices: ['table', 'json'],
  },
  { flags: '--no-headers', text: 'tables without their header' },
  { flags: '-q, --quiet', text: 'no notes, no progress; names only where a list is printed' },
  { flags: '--debug', text: 'print the requests to the API' },
] as const;

export const rootExamples: readonly string[] = [
  'dvce up',
  'dvce image import debian.qcow2 debian',
  'dvce vm create web1 --image debian --start',
  'dvce console web1',
  'dvce status',
];
