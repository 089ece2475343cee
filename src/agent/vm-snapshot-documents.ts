/**
 * Documents of VM snapshots (kind `vm-snapshots` in the store), named by their ids.
 *
 * | field | meaning |
 * |---|---|
 * | state | `creating`, `live` or `deleting`; what is half done is undone or finished at the next start of the agent |
 * | vm | the document of the VM as it was, its id included |
 * | name | of the snapshot in the VM, and of the snapshot of each disk that is written to |
 *
 * The snapshots of the disks carry the label `dvce.vm-snapshot` with the id of the document: only those that carry it are ever
 * deleted with it.
 */
import Type, { type Static } from 'typebox';
import { DvceError, limits } from '../base/index.ts';
import type { DataProcess } from './data-process.ts';
import { StoredDocuments } from './stored-documents.ts';
import { type VmDocument, VmDocumentSchema } from './vm-documents.ts';

export const vmSnapshotLabel = 'dvce.vm-snapshot';

const VmSnapshotSchema = Type.Object({
  format: Type.Literal(1),
  id: Type.String({ pattern: '^[0-9a-f-]{36}$' }),
  name: Type.String({ minLength: 1 }),
  state: Type.Union([Type.Literal('creating'), Type.Literal('live'), Type.Literal('deleting')]),
  createdAt: Type.String(),
  quiesced: Type.Boolean(),
  labels: Type.Record(Type.String(), Type.String()),
  vm: VmDocumentSchema,
});
export type VmSnapshotDocument = Static<typeof VmSnapshotSchema>;

export interface VmSnapshotEntry {
  readonly document: VmSnapshotDocument;
  readonly version: number;
}

export class VmSnapshotDocuments {
  readonly #stored: StoredDocuments<typeof VmSnapshotSchema>;

  constructor(blockd: DataProcess) {
    this.#stored = new StoredDocuments({ blockd, kind: 'vm-snapshots', schema: VmSnapshotSchema });
  }

  /** All that can be read, oldest first. One that cannot stays where it is, and its snapshots of disks stay too (N7). */
  async all(): Promise<VmSnapshotEntry[]> {
    const entries = await this.#stored.list();
    return entries
      .flatMap((entry) =>
        'error' in entry ? [] : [{ document: entry.value, version: entry.version }],
      )
      .sort((a, b) => (a.document.createdAt < b.document.createdAt ? -1 : 1));
  }

  async of({ id }: Pick<VmDocument, 'id'>): Promise<VmSnapshotEntry[]> {
    return (await this.all()).filter(({ document }) => document.vm.id === id);
  }

  /** @throws NOT_FOUND */
  async find(vm: Pick<VmDocument, 'id' | 'name'>, name: string): Promise<VmSnapshotEntry> {
    const found = (await this.of(vm)).find(({ document }) => document.name === name);
    if (found !== undefined) return found;
    throw new DvceError('NOT_FOUND', {
      kind: 'snapshot',
      name: `${vm.name}@${name}`,
      advice: `List what exists with: dvce vm snapshots ${vm.name}`,
    });
  }

  async create(document: VmSnapshotDocument): Promise<void> {
    await this.#stored.create(document.id, document);
  }

  /** `change` may run more than once. One that is gone meanwhile stays gone. */
  async update(
    id: string,
    change: (document: VmSnapshotDocument) => VmSnapshotDocument,
  ): Promise<void> {
    for (let attempt = 1; ; attempt += 1) {
      const entry = await this.#stored.read(id);
      if (entry === undefined) return;
      if ('error' in entry) throw entry.error;
      try {
        await this.#stored.replace(id, entry.version, change(entry.value));
        return;
      } catch (error) {
        const lost = error instanceof DvceError && error.code === 'CONFLICT';
        if (!lost || attempt >= limits.documentTries) throw error;
      }
    }
  }

  async remove(id: string): Promise<void> {
    const entry = await this.#stored.read(id);
    if (entry === undefined) return;
    if ('error' in entry) throw entry.error;
    await this.#stored.remove(id, entry.version);
  }
}
