import type { NounSpec, OptionSpec } from '../spec.ts';

const load = () => import('../commands/dump.ts');
const volume = { name: '[volume]', text: 'path of the volume', names: 'volume' } as const;
const common: readonly OptionSpec[] = [
  { flags: '--file <file>', text: 'this file, wherever it is', names: 'file' },
  {
    flags: '--store <dir>',
    text: 'the store, when it is not in the data directory',
    names: 'file',
  },
  { flags: '--limit <count>', text: 'at most so many records or runs (1000)', kind: 'count' },
];

export const segment: NounSpec = {
  name: 'segment',
  summary: 'segments: what the store keeps of volumes',
  commands: [
    {
      name: 'dump',
      summary: 'show what a segment says; without a number, list the segments of a volume',
      details:
        'Only reads, with and without a running blockd. Damage is shown, and the exit code is then 1.',
      arguments: [volume, { name: '[number]', text: 'number of the segment' }],
      options: [
        { flags: '--log <id>', text: 'a log in place of a volume: one that was left behind' },
        ...common,
      ],
      examples: [
        'dvce segment dump /prod/db',
        'dvce segment dump /prod/db "$(dvce segment dump /prod/db -o name | tail -1)"',
        'dvce segment dump /prod/db -o json',
      ],
      run: async () => (await load()).segmentDump,
    },
  ],
};

export const journal: NounSpec = {
  name: 'journal',
  summary: 'journals: what makes a flush durable on this host',
  commands: [
    {
      name: 'dump',
      summary: 'show the records in the journal of a volume, or in one journal file',
      details:
        'Only reads, with and without a running blockd; while one writes, the end is that of the moment. Damage is shown, and the exit code is then 1.',
      arguments: [volume],
      options: common,
      examples: [
        'dvce journal dump /prod/db',
        'dvce journal dump /prod/db --limit 20',
        'dvce journal dump /prod/db -o json',
      ],
      run: async () => (await load()).journalDump,
    },
  ],
};
