/** `dvce scrub ...` */
import type { NounSpec } from '../spec.ts';

const load = () => import('../commands/scrub.ts');

export const scrub: NounSpec = {
  name: 'scrub',
  summary: 'reading everything that is stored, in the background, to find damage early',
  commands: [
    {
      name: 'show',
      summary: 'show what the scrub does and what it found',
      details: 'Ends with exit code 2 when it found content that cannot be read.',
      examples: ['dvce scrub show', 'dvce scrub show -o json', 'dvce scrub show -o yaml'],
      run: async () => (await load()).show,
    },
    {
      name: 'start',
      summary: 'scrub a volume next, or all of them, whenever they were scrubbed last',
      arguments: [{ name: '[path]', text: 'a volume; all of them when left out' }],
      examples: ['dvce scrub start /prod/db', 'dvce scrub start', 'dvce scrub start --dry-run'],
      run: async () => (await load()).start,
    },
    {
      name: 'pause',
      summary: 'let the scrub rest until it is resumed, also over restarts',
      examples: ['dvce scrub pause', 'dvce scrub pause -o json', 'dvce scrub pause --dry-run'],
      run: async () => (await load()).pause,
    },
    {
      name: 'resume',
      summary: 'let the scrub go on where it was',
      examples: ['dvce scrub resume', 'dvce scrub resume -o json', 'dvce scrub resume --dry-run'],
      run: async () => (await load()).resume,
    },
  ],
};
