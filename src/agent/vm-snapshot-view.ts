/** A snapshot of a VM as the API shows it. */
import type { VmSnapshot } from '../api/index.ts';
import type { VmDocument, VmDocumentDisk } from './vm-documents.ts';
import type { VmSnapshotDocument } from './vm-snapshot-documents.ts';

/** The disks that have a snapshot of their own; what a VM only reads is shared. */
export const writtenDisks = ({ disks }: VmDocument): VmDocumentDisk[] =>
  disks.filter(({ transit, readOnly }) => transit !== 'leaving' && !readOnly);

export function snapshotViewOf({
  id,
  name,
  createdAt,
  quiesced,
  labels,
  vm,
}: VmSnapshotDocument): VmSnapshot {
  const written = new Set(writtenDisks(vm).map((disk) => disk.name));
  return {
    id,
    name,
    vm: vm.name,
    createdAt,
    quiesced,
    labels,
    cpus: vm.cpus,
    memoryBytes: vm.memoryBytes,
    disks: vm.disks
      .filter(({ transit }) => transit !== 'leaving')
      .map((disk) => ({
        name: disk.name,
        path: disk.path,
        snapshot: written.has(disk.name) ? `${disk.path}@${name}` : null,
      })),
  };
}
