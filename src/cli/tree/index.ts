/** The whole command tree. */
import { formats } from '../output.ts';
import type { CommandSpec, NounSpec, OptionSpec } from '../spec.ts';
import { audit, context, tokens } from './access.ts';
import { config } from './config.ts';
import { daily } from './daily.ts';
import { journal, segment } from './dump.ts';
import { image } from './image.ts';
import { network } from './network.ts';
import { schedule } from './schedule.ts';
import { scrub } from './scrub.ts';
import { snapshot } from './snapshot.ts';
import { quota, trash } from './storage.ts';
import { support } from './support.ts';
import { op, single } from './system.ts';
import { vm } from './vm.ts';
import { volume } from './volume.ts';

export const nouns: readonly NounSpec[] = [
  volume,
  snapshot,
  schedule,
  trash,
  segment,
  journal,
  quota,
  scrub,
  image,
  vm,
  network,
  op,
  tokens,
  audit,
  context,
  config,
];
export const singles: readonly CommandSpec[] = [...daily, ...single, ...support];

/** Options that every command takes. */
export const globalOptions: readonly OptionSpec[] = [
  {
    flags: '--context <name>',
    text: 'agent of another host, as named by "dvce context add" (DVCE_CONTEXT)',
  },
  {
    flags: '--data-dir <dir>',
    text: 'directory of the agent (DVCE_DATA_DIR; /var/lib/dvce for root)',
    names: 'file',
  },
  {
    flags: '-o, --output <format>',
    text: 'table; wide: with more columns; json and yaml: the objects of the API; csv: raw values; name: names alone',
    choices: formats,
  },
  {
    flags: '--columns <names>',
    text: 'columns of a table or CSV: titles, or fields of the API objects, with commas',
    kind: 'words',
  },
  { flags: '--no-headers', text: 'tables and CSV without their header' },
  {
    flags: '--sort <keys>',
    text: 'sort a list by columns or fields, with commas; -KEY: largest first',
    kind: 'words',
  },
  {
    flags: '--filter <test>',
    text: 'only rows with KEY=VALUE (also != < <= > >= and ~ for a regular expression); may be repeated',
    kind: 'texts',
  },
  { flags: '--no-color', text: 'no colours (they go to terminals only; see also NO_COLOR)' },
  { flags: '-q, --quiet', text: 'no notes, no progress; names only where a list is printed' },
  { flags: '-v, --verbose', text: 'more notes: ids of operations, how long they took' },
  {
    flags: '--debug',
    text: 'print the requests to the API on standard error, without their content',
  },
];

export const rootExamples: readonly string[] = [
  'dvce up',
  'dvce image import debian.qcow2 debian',
  'dvce vm create web1 --image debian --start',
  'dvce console web1',
  'dvce status',
];
