import type { NounSpec } from '../spec.ts';
import * as option from './options.ts';

const name = { name: '<name>', text: 'name of the image', names: 'image' } as const;
const load = () => import('../commands/image.ts');

export const image: NounSpec = {
  name: 'image',
  summary: 'disks to clone VMs from',
  commands: [
    {
      name: 'import',
      summary: 'make an image from a raw or qcow2 file, or from a URL',
      details: 'Ctrl-C cancels it; after a failure nothing is left behind.',
      arguments: [
        { name: '<source>', text: 'file or http(s) URL', names: 'file' },
        { name: '<name>', text: 'name of the new image' },
      ],
      options: [
        { flags: '--sha256 <hex>', text: 'expected digest of the file' },
        {
          flags: '--format <format>',
          text: 'found out when not given',
          choices: ['raw', 'qcow2'],
        },
        option.label,
        option.ifNotExists,
        option.noWait,
        option.timeout,
      ],
      examples: [
        'dvce image import debian.qcow2 debian',
        'dvce image import debian.qcow2 debian-checked --sha256 "$(sha256sum debian.qcow2 | cut -c 1-64)"',
        'dvce image import debian.qcow2 debian --if-not-exists',
        'dvce image import disk.raw plain --format raw --label origin=lab --timeout 10m',
      ],
      run: async () => (await load()).importImage,
    },
    {
      name: 'list',
      summary: 'list images',
      examples: ['dvce image list', 'dvce image list -o json'],
      run: async () => (await load()).list,
    },
    {
      name: 'show',
      summary: 'show one image',
      arguments: [name],
      examples: ['dvce image show debian', 'dvce image show debian -o json'],
      run: async () => (await load()).show,
    },
    {
      name: 'delete',
      summary: 'delete an image; volumes cloned from it stay whole',
      arguments: [name],
      options: [option.dryRun, option.ifExists, option.yes],
      examples: [
        'dvce image delete debian-checked --dry-run',
        'dvce image delete debian-checked --yes',
        'dvce image delete debian-checked --yes --if-exists',
      ],
      run: async () => (await load()).remove,
    },
  ],
};
