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
      summary: 'make an image from a file, an address or the catalogue',
      details:
        'Takes raw, qcow2, vmdk and OVA, also compressed by gzip, xz or zstd, from a file, an http(s) URL, nbd://HOST/EXPORT or nbd+unix:///EXPORT?socket=PATH. A word that is no file names an entry of the catalogue. Ctrl-C cancels it; after a failure nothing is left behind but a broken download, which the next import of it goes on with.',
      arguments: [
        { name: '[source]', text: 'file, address or entry of the catalogue', names: 'file' },
        { name: '[name]', text: 'name of the new image; that of the entry when not given' },
      ],
      options: [
        { flags: '--from-catalogue <entry>', text: 'import this entry; give only the new name' },
        { flags: '--sha256 <hex>', text: 'expected digest of the file' },
        { flags: '--sha512 <hex>', text: 'the same by sha512' },
        { flags: '--checksum-url <url>', text: 'file of checksums that names the source' },
        {
          flags: '--format <format>',
          text: 'found out when not given',
          choices: ['raw', 'qcow2', 'vmdk', 'ova'],
        },
        option.compression,
        option.label,
        option.protect,
        option.ifNotExists,
        option.noWait,
        option.timeout,
      ],
      examples: [
        'dvce image import debian.qcow2 debian',
        'dvce image import debian.qcow2 debian-checked --sha256 "$(sha256sum debian.qcow2 | cut -c 1-64)"',
        'dvce image import debian.qcow2 debian --if-not-exists',
        'dvce image import disk.raw plain --format raw --label origin=lab --timeout 10m',
        'dvce image import debian.qcow2 debian-small --compression zstd',
        'dvce image import debian-12 --dry-run',
      ],
      run: async () => (await load()).importImage,
    },
    {
      name: 'export',
      summary: 'write an image, a volume or a snapshot to a file',
      details:
        'NAME is an image, /PATH a volume as it is now, also while its VM runs, /PATH@SNAPSHOT a snapshot. Zeros become holes of the file, which appears under its name only when it is whole. With - the content goes to standard output. The digest that is printed is that of the file.',
      kind: 'local',
      arguments: [
        { name: '<source>', text: 'NAME, /PATH or /PATH@SNAPSHOT', names: 'source' },
        { name: '<file>', text: 'file to write, or -', names: 'file' },
      ],
      options: [
        { flags: '--format <format>', text: 'raw when not given', choices: ['raw', 'qcow2'] },
        { flags: '--force', text: 'replace a file that is there' },
      ],
      examples: [
        'dvce image export debian debian-copy.raw',
        'dvce image export debian debian-copy.qcow2 --format qcow2',
        'dvce image export debian debian-copy.raw --force -o json',
        'dvce image export debian - | sha256sum',
      ],
      run: async () => (await import('../commands/image-export.ts')).exportImage,
    },
    {
      name: 'catalogue',
      summary: 'list the images that can be imported by name',
      details: "Shipped with the program, overlaid by the operator's /etc/dvce/images.yaml.",
      kind: 'read',
      arguments: [{ name: '[list]', text: 'the only verb there is', choices: ['list'] }],
      examples: [
        'dvce image catalogue',
        'dvce image catalogue list -o wide',
        'dvce image catalogue --filter name~debian -o name',
      ],
      run: async () => (await load()).catalogue,
    },
    {
      name: 'update',
      summary: 'change labels and protection of an image',
      arguments: [name],
      options: [
        option.label,
        { flags: '--no-labels', text: 'remove all labels first' },
        option.protect,
        option.noProtect,
      ],
      examples: [
        'dvce image update debian --label tier=base',
        'dvce image update debian --protect',
        'dvce image update debian --no-protect --no-labels',
      ],
      run: async () => (await load()).update,
    },
    {
      name: 'list',
      summary: 'list images',
      examples: [
        'dvce image list',
        'dvce image list --filter labels.tier=base',
        'dvce image list -o json',
      ],
      run: async () => (await load()).list,
    },
    {
      name: 'show',
      summary: 'show one image',
      arguments: [name],
      examples: [
        'dvce image show debian',
        'dvce image show debian -o json',
        'dvce image show debian -o yaml',
      ],
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
