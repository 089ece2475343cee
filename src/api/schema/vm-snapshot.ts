/** Snapshots of VMs: the configuration, and all disks at one instant. */
import Type, { type Static } from 'typebox';
import { closed, labels, nameText, nullable, ref, sizeBytes, timestamp } from './common.ts';

export const VmSnapshot = Type.Object(
  {
    id: Type.String(),
    name: Type.String(),
    vm: Type.String({ description: 'Name of its VM.' }),
    createdAt: timestamp('When it was taken.'),
    quiesced: Type.Boolean({
      description: 'The guest had written everything and its file systems stood still.',
    }),
    labels,
    cpus: Type.Integer(),
    memoryBytes: sizeBytes('Memory of the guest.'),
    disks: Type.Array(
      Type.Object({
        name: Type.String({ description: 'Name of the disk in the VM.' }),
        path: Type.String({ description: 'Path of its volume.' }),
        snapshot: nullable(Type.String(), {
          description: 'PATH@NAME, or null for a disk that the VM only reads.',
        }),
      }),
    ),
  },
  { $id: 'VmSnapshot', description: 'A named state of a VM.' },
);
export type VmSnapshot = Static<typeof VmSnapshot>;

export const VmSnapshotList = Type.Object(
  { snapshots: Type.Array(ref(VmSnapshot)) },
  { $id: 'VmSnapshotList' },
);

export const VmSnapshotCreate = Type.Object(
  {
    name: nameText('Name within the VM, and of the snapshot of each disk.'),
    quiesce: Type.Optional(
      Type.Boolean({ description: 'Let the guest agent stop writes; refused without one.' }),
    ),
    labels: Type.Optional(labels),
  },
  closed,
);
export type VmSnapshotCreate = Static<typeof VmSnapshotCreate>;
