/** Virtual machines. */
import Type, { type Static } from 'typebox';
import { limits } from '../../base/limits.ts';
import {
  closed,
  labels,
  nameText,
  nullable,
  pathText,
  ref,
  sizeBytes,
  timestamp,
  word,
} from './common.ts';
import { guestRequest, guestView } from './guest.ts';
import { lifeRequest, lifeView, vmConditions } from './vm-life.ts';

export const VmDisk = Type.Object({
  name: Type.String({ description: 'disk0, disk1, ... in the order given.' }),
  path: Type.String({ description: 'Path of the volume.' }),
  readOnly: Type.Boolean(),
  bootOrder: nullable(Type.Integer(), {
    description: 'Order for the firmware from 1; null: never.',
  }),
  owned: Type.Boolean({ description: 'Made with the VM, and deleted with it.' }),
  state: word(
    ['attached', 'joining', 'leaving'],
    '`joining`, `leaving`: on its way into the running guest, or out of it.',
  ),
});

const phases = [
  'stopped',
  'starting',
  'running',
  'paused',
  'io-error',
  'stopping',
  'crashed',
  'unreadable',
] as const;

export const Vm = Type.Object(
  {
    id: Type.String(),
    name: Type.String(),
    desired: nullable(word(['running', 'stopped'], 'What was asked for.'), {
      description: 'What was asked for; null when its document cannot be read.',
    }),
    phase: word(
      phases,
      'What is. `crashed`: wanted running, but its process is gone. `unreadable`: its document cannot be read.',
    ),
    ready: nullable(word(['agent', 'pattern', 'timeout'], 'How readiness was seen.'), {
      description: 'Why the guest counts as ready, or null while it does not.',
    }),
    pid: nullable(Type.Integer(), { description: 'Process of the hypervisor.' }),
    detail: nullable(Type.String(), { description: 'Reason of the last end, last error.' }),
    cpus: Type.Integer(),
    memoryBytes: sizeBytes('Memory of the guest.'),
    machine: Type.String(),
    firmware: word(['bios', 'uefi'], 'Firmware.'),
    network: word(['user', 'bridge', 'none'], 'Kind of the first card.'),
    ...guestView,
    readyPattern: nullable(Type.String(), { description: 'Text on the console that means ready.' }),
    disks: Type.Array(VmDisk),
    ...lifeView,
    labels,
    createdAt: timestamp('When it was made.'),
    startedAt: nullable(Type.String(), { description: 'Last start, or null.' }),
  },
  { $id: 'Vm', description: 'A virtual machine on this host.' },
);
export type Vm = Static<typeof Vm>;

export const VmList = Type.Object({ vms: Type.Array(ref(Vm)) }, { $id: 'VmList' });

export const VmCreate = Type.Object(
  {
    name: nameText('Name of the VM.'),
    cpus: Type.Optional(
      Type.Integer({ minimum: 1, maximum: limits.vmCpusMax, description: '1 when not given.' }),
    ),
    memoryBytes: Type.Optional(sizeBytes('512 MiB when not given.')),
    image: Type.Optional(
      nameText('Image to clone to /vms/NAME/disk0, which becomes the first disk.'),
    ),
    imageDiskBytes: Type.Optional(sizeBytes('Size of that disk when larger than the image.')),
    disks: Type.Optional(
      Type.Array(
        Type.Object(
          {
            path: pathText('Path of the volume.'),
            sizeBytes: Type.Optional(sizeBytes('Makes a new volume of this size.')),
            readOnly: Type.Optional(Type.Boolean()),
          },
          closed,
        ),
        { maxItems: limits.vmDisksMax },
      ),
    ),
    network: Type.Optional(word(['user', 'none'], 'Older form of `nics`: one card, or none.')),
    ...guestRequest,
    ...lifeRequest,
    firmware: Type.Optional(word(['bios', 'uefi'], '`bios` when not given.')),
    machine: Type.Optional(
      Type.String({
        pattern: '^(q35|pc|pc-q35-[0-9.]+|pc-i440fx-[0-9.]+)$',
        maxLength: 32,
        description: '`q35` when not given; kept with the version that it stands for now.',
      }),
    ),
    readyPattern: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 256,
        description: 'Regular expression; a match on the serial console means ready.',
      }),
    ),
    labels: Type.Optional(labels),
  },
  closed,
);
export type VmCreate = Static<typeof VmCreate>;

export const VmStart = Type.Object(
  { ready: Type.Optional(Type.Boolean({ description: 'End only when the guest is ready.' })) },
  closed,
);
export type VmStart = Static<typeof VmStart>;

export const VmStop = Type.Object(
  {
    timeoutMs: Type.Optional(
      Type.Integer({
        minimum: 0,
        maximum: limits.vmStopMsMax,
        description: 'Time for the guest to shut down before it is ended hard; 60 s.',
      }),
    ),
    force: Type.Optional(Type.Boolean({ description: 'End it hard at once.' })),
  },
  closed,
);
export type VmStop = Static<typeof VmStop>;

export const VmWaited = Type.Object(
  {
    met: Type.Boolean({ description: 'Whether it is so; false: not within the time.' }),
    condition: word(vmConditions, 'What was waited for.'),
    addresses: Type.Array(Type.String(), { description: 'Addresses of the guest, for `ip`.' }),
    vm: ref(Vm),
  },
  { $id: 'VmWaited' },
);
export type VmWaited = Static<typeof VmWaited>;
