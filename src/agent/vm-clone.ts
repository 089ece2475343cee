/**
 * A VM like another one: clones of all its disks as they were at one instant, another id, other MAC addresses and leases.
 *
 * The snapshots that the clones start from carry the label `dvce.clone` and stay as long as the clones do. A guest that runs is
 * not stopped: its disks are what they would be after a power cut. What waits for the next start of the source is what the
 * clone starts with, since it never ran. What an agent that ends half way leaves is removed by its successor, as with every
 * VM that is being made, and the snapshots with it: the document says which volumes got one.
 */
import type { Operation, VmClone } from '../api/index.ts';
import { urls } from '../api/index.ts';
import {
  asVolumePath,
  type Clock,
  checkName,
  DvceError,
  limits,
  type Random,
  randomUuid,
} from '../base/index.ts';
import type { DataProcess } from './data-process.ts';
import type { Operations } from './operations.ts';
import { type DiskPlan, provideDisk } from './vm-disks.ts';
import type { VmDocument, VmDocumentDisk, VmDocuments } from './vm-documents.ts';
import { nicsOf } from './vm-guest-fields.ts';
import { type Nics, wantedAgain } from './vm-nics.ts';
import type { VmTable } from './vm-table.ts';

export interface VmClonesOptions {
  readonly table: VmTable;
  readonly documents: VmDocuments;
  readonly blockd: DataProcess;
  readonly operations: Operations;
  readonly nics: Nics;
  readonly clock: Clock;
  readonly random: Random;
  /** Undo a VM that could not be made. */
  readonly remove: (document: VmDocument) => Promise<void>;
}

export class VmClones {
  readonly #options: VmClonesOptions;

  constructor(options: VmClonesOptions) {
    this.#options = options;
  }

  /** While it runs nothing else is done to either of the two. */
  async clone(sourceName: string, request: VmClone): Promise<Operation> {
    const { table, documents } = this.#options;
    const name = checkName(request.name);
    const release = table.take(name, 'vm.clone');
    try {
      if ((await documents.read(name)) !== undefined)
        throw new DvceError('ALREADY_EXISTS', { kind: 'vm', name });
      return await table.operate(sourceName, {
        kind: 'vm.clone',
        mayCancel: false,
        work: async (source) => {
          try {
            return await this.#make(source, name, request);
          } finally {
            release();
          }
        },
      });
    } catch (error) {
      release();
      throw error;
    }
  }

  async #make(source: VmDocument, name: string, request: VmClone): Promise<{ vm: string }> {
    const { documents, blockd, nics, remove } = this.#options;
    const id = randomUuid(this.#options.random);
    const claim = await nics.claim(id, wantedAgain(nicsOf(source).filter(stays)));
    const plans = source.disks.filter(stays).map((disk, at) => planClone(disk, name, at));
    const cutFrom = source.disks
      .filter((disk) => stays(disk) && !disk.readOnly)
      .map(({ path }) => path);
    const document: VmDocument = {
      ...ownFieldsOf(source),
      id,
      name,
      desired: 'stopped',
      half: 'creating',
      cutFrom,
      nics: claim.nics,
      labels: request.labels ?? source.labels,
      createdAt: new Date(this.#options.clock.wallMs()).toISOString(),
      startedAt: null,
      disks: plans.map(({ disk }) => disk),
    };
    await documents.create(document).finally(claim.release);
    try {
      const snapshot = await this.#cut(document, cutFrom);
      const disks: VmDocumentDisk[] = [];
      for (const { disk, from } of plans) {
        const make: DiskPlan['make'] = disk.owned ? { cloneOf: `${from}@${snapshot}` } : null;
        disks.push(await provideDisk(blockd, id, { disk, make }));
      }
      await documents.update(document, ({ half: _, cutFrom: __, ...whole }) => ({
        ...whole,
        disks,
      }));
      return { vm: urls.vm(name) };
    } catch (error) {
      await remove(document);
      throw error;
    }
  }

  /** All disks that are written to, at one instant. @returns the name of the snapshots */
  async #cut({ id, name: vm }: VmDocument, paths: string[]): Promise<string> {
    const name = cutName(id);
    if (paths.length > 0)
      await this.#options.blockd.call(
        'snapshot.create-set',
        { paths, name, labels: { 'dvce.clone': vm } },
        { timeoutMs: limits.blockdLongCallMs },
      );
    return name;
  }

  /** A clone could not be made: the snapshots that it was to start from go, after its volumes. */
  async dropCuts({ id, cutFrom = [] }: VmDocument): Promise<void> {
    const { blockd } = this.#options;
    for (const path of cutFrom)
      try {
        await blockd.call(
          'snapshot.delete',
          { path, name: cutName(id) },
          { timeoutMs: limits.blockdLongCallMs },
        );
      } catch (error) {
        // It had not come that far, or the source is gone.
        if (!(error instanceof DvceError && error.code === 'NOT_FOUND')) throw error;
      }
  }
}

const cutName = (id: string): string => `clone-${id.slice(0, 8)}`;

const stays = ({ transit }: { transit?: string }): boolean => transit !== 'leaving';

/** A disk that is only read is shared. */
function planClone(
  disk: VmDocumentDisk,
  vm: string,
  at: number,
): { readonly disk: VmDocumentDisk; readonly from: string } {
  const { transit: _, ...whole } = disk;
  const mine: VmDocumentDisk = disk.readOnly
    ? { ...whole, owned: false }
    : { ...whole, path: asVolumePath(`/vms/${vm}/disk${at}`), volumeId: '', owned: true };
  return { disk: { ...mine, name: `disk${at}` }, from: disk.path };
}

/** What another VM may have as well: hardware and policies, not its past, nor a word that protects it. */
function ownFieldsOf(source: VmDocument): VmDocument {
  const {
    protected: _protected,
    crashes: _crashes,
    held: _held,
    restartDue: _restartDue,
    network: _network,
    pending = {},
    ...rest
  } = source;
  return { ...rest, ...pending };
}
