/**
 * Snapshots of VMs: the configuration, and all disks that are written to, at one instant (rule G5, by blockd).
 *
 *   create:   document `creating` -> [freeze the guest] -> snapshot of all disks -> [thaw] -> `live`
 *   delete:   document `deleting` -> the snapshots of the disks -> no document
 *   rollback: the VM's document as it was, marked `rollback` -> each disk -> no mark
 *
 * Invariants
 * - what an agent that ends half way leaves is undone (`creating`) or finished (`deleting`, `rollback`) by its successor;
 * - a VM that is marked `rollback` is not started: its disks may be of two times. Setting a disk back twice is as good as once;
 * - a rollback begins only after everything that it needs was seen to be there, so it refuses before it changes anything;
 * - a guest is thawed whatever happens in between, and by the next agent when this one ends;
 * - snapshots of disks are deleted only when their label names this snapshot.
 */
import type { Operation, VmSnapshot, VmSnapshotCreate } from '../api/index.ts';
import { urls } from '../api/index.ts';
import {
  asSnapshotName,
  type Clock,
  DvceError,
  type Logger,
  limits,
  type Random,
  randomUuid,
} from '../base/index.ts';
import type { SnapshotInfo, VolumeInfo } from '../blockd/index.ts';
import type { Hypervisor } from '../vm/index.ts';
import type { DataProcess } from './data-process.ts';
import { snapshotNamed } from './snapshot-pages.ts';
import type { VmDocument, VmDocumentDisk, VmDocuments } from './vm-documents.ts';
import { nicsOf } from './vm-guest-fields.ts';
import type { Nics } from './vm-nics.ts';
import {
  type VmSnapshotDocument,
  VmSnapshotDocuments,
  vmSnapshotLabel,
} from './vm-snapshot-documents.ts';
import { snapshotViewOf, writtenDisks } from './vm-snapshot-view.ts';
import { unfinished, type VmTable } from './vm-table.ts';
import { definitionOf } from './vm-view.ts';

export interface VmSnapshotsOptions {
  readonly table: VmTable;
  readonly documents: VmDocuments;
  readonly driver: Hypervisor;
  readonly blockd: DataProcess;
  readonly nics: Nics;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

const long = { timeoutMs: limits.blockdLongCallMs } as const;

export class VmSnapshots {
  readonly #options: VmSnapshotsOptions;
  readonly #stored: VmSnapshotDocuments;

  constructor(options: VmSnapshotsOptions) {
    this.#options = options;
    this.#stored = new VmSnapshotDocuments(options.blockd);
  }

  async list(vmName: string): Promise<VmSnapshot[]> {
    const vm = await this.#options.table.document(vmName);
    const entries = await this.#stored.of(vm);
    return entries
      .filter(({ document }) => document.state === 'live')
      .map(({ document }) => snapshotViewOf(document));
  }

  /** @throws ALREADY_EXISTS, TOO_LARGE; VM_STATE when the guest is to be quiesced and does not run */
  async create(vmName: string, request: VmSnapshotCreate): Promise<Operation> {
    const { table } = this.#options;
    const name = asSnapshotName(request.name);
    return table.operate(vmName, {
      kind: 'vm.snapshot',
      mayCancel: false,
      check: async (vm) => {
        // Nothing else is done to the VM: what is half done here was left by a failure.
        await this.#sweep(vm);
        const entries = await this.#stored.of(vm);
        if (entries.some(({ document }) => document.name === name))
          throw new DvceError('ALREADY_EXISTS', { kind: 'snapshot', name: `${vmName}@${name}` });
        if (entries.length >= limits.vmSnapshotsMax)
          throw new DvceError('TOO_LARGE', {
            what: `the list of snapshots of VM ${vmName}`,
            reason: `there are ${entries.length} already`,
            advice: 'Delete what is no longer needed: dvce vm delete-snapshot',
          });
        if (request.quiesce === true) await this.#refuseSilent(vm);
      },
      work: async (vm) => snapshotViewOf(await this.#create(vm, { ...request, name })),
    });
  }

  async #refuseSilent(vm: VmDocument): Promise<void> {
    const { table } = this.#options;
    await table.refuseStopped(vm);
    if (await (await table.guest(vm)).agentAnswers(limits.vmGuestAgentMs)) return;
    throw new DvceError('VM_STATE', {
      name: vm.name,
      state: 'running',
      reason: 'its guest agent does not answer, so it cannot be quiesced',
      advice: 'Install qemu-guest-agent in the guest, or leave --quiesce out.',
    });
  }

  async #create(vm: VmDocument, request: VmSnapshotCreate): Promise<VmSnapshotDocument> {
    const document: VmSnapshotDocument = {
      format: 1,
      id: randomUuid(this.#options.random),
      name: request.name,
      state: 'creating',
      createdAt: new Date(this.#options.clock.wallMs()).toISOString(),
      quiesced: request.quiesce === true,
      labels: request.labels ?? {},
      vm,
    };
    await this.#stored.create(document);
    try {
      if (request.quiesce === true) await this.#whileFrozen(vm, () => this.#cut(document));
      else await this.#cut(document);
      await this.#stored.update(
        document.id,
        (now): VmSnapshotDocument => ({ ...now, state: 'live' }),
      );
      return { ...document, state: 'live' };
    } catch (error) {
      // What cannot be removed now is removed by the next snapshot of this VM, or the next agent.
      await this.#remove(document).catch((second: unknown) => {
        this.#options.logger.error({ err: second, vm: vm.name }, 'a half snapshot stays for now');
      });
      throw error;
    }
  }

  async #sweep(vm: VmDocument): Promise<void> {
    for (const { document } of await this.#stored.of(vm)) {
      if (document.state === 'live') continue;
      this.#options.logger.info({ vm: vm.name, snapshot: document.name }, 'a half snapshot goes');
      await this.#remove(document);
    }
  }

  async #cut({ id, name, labels, vm }: VmSnapshotDocument): Promise<void> {
    const paths = writtenDisks(vm).map(({ path }) => path);
    if (paths.length === 0) return;
    const own = { ...labels, [vmSnapshotLabel]: id };
    await this.#options.blockd.call('snapshot.create-set', { paths, name, labels: own }, long);
  }

  /** A freeze that was not answered may have happened all the same: the guest is thawed in any case. */
  async #whileFrozen(vm: VmDocument, task: () => Promise<void>): Promise<void> {
    const { driver, logger } = this.#options;
    const definition = definitionOf(vm);
    try {
      await driver.freeze(definition, limits.vmFreezeMs);
      await task();
    } catch (error) {
      await driver.thaw(definition, limits.vmFreezeMs).catch((second: unknown) => {
        logger.error({ err: second, vm: vm.name }, 'a guest could not be thawed');
      });
      throw error;
    }
    // A snapshot of a guest that hangs since is nothing to report as done.
    await driver.thaw(definition, limits.vmFreezeMs);
  }

  async delete(vmName: string, name: string): Promise<void> {
    const { table } = this.#options;
    await table.alone(vmName, 'vm.delete-snapshot', async () => {
      const vm = await table.document(vmName);
      const { document } = await this.#stored.find(vm, name);
      if (vm.rollback === document.id) throw unfinished(vm);
      const kept = (await this.#partsOf(document)).find((part) => part.protected);
      if (kept !== undefined)
        throw new DvceError('PROTECTED', { kind: 'snapshot', name: `${kept.volume}@${kept.name}` });
      await this.#remove(document);
    });
  }

  /** Set a stopped VM back: its configuration, its cards with their addresses, and its disks. */
  async rollback(vmName: string, name: string): Promise<Operation> {
    const { table } = this.#options;
    return table.operate(vmName, {
      kind: 'vm.rollback',
      mayCancel: false,
      check: async (vm) => {
        await this.#mayRollBack(vm, (await this.#stored.find(vm, name)).document);
      },
      work: async (vm, { progress }) => {
        const { document } = await this.#stored.find(vm, name);
        await this.#mayRollBack(vm, document);
        const before = vm.disks.map(({ path }) => path);
        await this.#becomeAsThen(vm, document);
        await this.#rollBackDisks(vm, document, progress);
        const kept = new Set(document.vm.disks.map(({ path }) => path));
        return { vm: urls.vm(vmName), detached: before.filter((path) => !kept.has(path)) };
      },
    });
  }

  /** What a rollback would change. @throws what the rollback would refuse with */
  async plan(vmName: string, name: string): Promise<readonly VmDocumentDisk[]> {
    const vm = await this.#options.table.document(vmName);
    const { document } = await this.#stored.find(vm, name);
    await this.#mayRollBack(vm, document);
    return writtenDisks(document.vm);
  }

  /** Everything that a rollback needs is there, and nobody uses the disks. */
  async #mayRollBack(vm: VmDocument, document: VmSnapshotDocument): Promise<void> {
    const { table } = this.#options;
    const gone = (reason: string): DvceError =>
      new DvceError('NOT_ALLOWED', {
        what: `setting back to ${nameOf(document)}`,
        reason,
        advice: `See: dvce vm snapshots ${vm.name}`,
      });
    await table.refuseRunning(vm, `Stop it first: dvce vm stop ${vm.name}`);
    if (document.state !== 'live') throw gone(`it is being ${document.state}`);
    for (const disk of document.vm.disks) {
      const volume = await this.#options.blockd.call('volume.get', { path: disk.path });
      if (volume.id !== disk.volumeId) throw gone(`${disk.path} is another volume now`);
      if (isUsed(volume) && !disk.readOnly)
        throw new DvceError('IN_USE', {
          kind: 'volume',
          name: disk.path,
          reason: 'a client has it open',
          advice: `See: dvce volume show ${disk.path}`,
        });
    }
    const paths = new Set(writtenDisks(document.vm).map(({ path }) => path));
    for (const other of await table.documents())
      if (other.id !== vm.id && other.disks.some(({ path }) => paths.has(path)))
        throw gone(`VM ${other.name} has one of its disks now`);
    for (const { path } of writtenDisks(document.vm)) {
      const snapshot = await snapshotNamed(this.#options.blockd, path, document.name);
      if (snapshot === undefined || !isOf(snapshot, document))
        throw gone(`${path}@${document.name} was deleted`);
    }
  }

  /** From here on the VM is the one of then, in one write; the mark says that its disks follow. */
  async #becomeAsThen(vm: VmDocument, { id, vm: then }: VmSnapshotDocument): Promise<void> {
    const { documents, nics } = this.#options;
    const stays = <T extends { readonly transit?: string }>(all: readonly T[]): T[] =>
      all
        .filter(({ transit }) => transit !== 'leaving')
        .map(({ transit: _, ...whole }) => whole as T);
    const claim = await nics.reclaim(vm.id, stays(nicsOf(then)));
    const { network: _, ...rest } = then;
    await documents
      .update(vm, (now) => ({
        ...withoutPast(rest),
        ...(now.protected === undefined ? {} : { protected: now.protected }),
        desired: 'stopped',
        nics: claim.nics,
        disks: stays(then.disks),
        startedAt: now.startedAt,
        rollback: id,
      }))
      .finally(claim.release);
  }

  async #rollBackDisks(
    vm: VmDocument,
    { name, vm: then }: VmSnapshotDocument,
    progress: (done: number, total: number | null, unit: string) => void = () => {},
  ): Promise<void> {
    const { blockd, documents } = this.#options;
    const disks = writtenDisks(then);
    for (const [at, { path }] of disks.entries()) {
      progress(at, disks.length, 'disks');
      await blockd.call('snapshot.rollback', { path, name }, long);
    }
    await documents.update(vm, ({ rollback: _, ...now }) => now);
  }

  /** A VM is deleted: its snapshots go with it, those of disks that stay are the operator's from now on. */
  async forget(vm: Pick<VmDocument, 'id'>): Promise<void> {
    for (const { document } of await this.#stored.of(vm)) await this.#stored.remove(document.id);
  }

  /** A volume got another path. */
  async renamed(volumeId: string, path: string): Promise<void> {
    for (const { document } of await this.#stored.all()) {
      if (!document.vm.disks.some((disk) => disk.volumeId === volumeId)) continue;
      await this.#stored.update(document.id, (now) => ({
        ...now,
        vm: {
          ...now.vm,
          disks: now.vm.disks.map((disk) =>
            disk.volumeId === volumeId ? { ...disk, path } : disk,
          ),
        },
      }));
    }
  }

  /** @throws IN_USE when this snapshot of a volume is part of a snapshot of a VM */
  async refusePart(snapshot: Pick<SnapshotInfo, 'name' | 'volume' | 'labels'>): Promise<void> {
    const id = snapshot.labels[vmSnapshotLabel];
    if (id === undefined) return;
    const owner = (await this.#stored.all()).find(({ document }) => document.id === id);
    if (owner === undefined) return;
    throw new DvceError('IN_USE', {
      kind: 'snapshot',
      name: `${snapshot.volume}@${snapshot.name}`,
      reason: `it is part of the VM snapshot ${nameOf(owner.document)}`,
      advice: `Delete that: dvce vm delete-snapshot ${nameOf(owner.document)}`,
    });
  }

  /** After a start of the agent: undo or finish what was half done to this VM. */
  async finish(vm: VmDocument): Promise<void> {
    const { logger } = this.#options;
    await this.#sweep(vm);
    for (const { document } of await this.#stored.of(vm)) {
      if (vm.rollback !== document.id) continue;
      logger.info({ vm: vm.name, snapshot: document.name }, 'a rollback is finished');
      await this.#rollBackDisks(vm, document);
    }
  }

  async #remove(document: VmSnapshotDocument): Promise<void> {
    const { blockd } = this.#options;
    await this.#stored.update(
      document.id,
      (now): VmSnapshotDocument => ({ ...now, state: 'deleting' }),
    );
    for (const { volume: path, name } of await this.#partsOf(document))
      try {
        await blockd.call('snapshot.delete', { path, name }, long);
      } catch (error) {
        if (!isMissing(error)) throw error;
      }
    await this.#stored.remove(document.id);
  }

  /** The snapshots of disks that belong to it, as far as they exist. */
  async #partsOf(document: VmSnapshotDocument): Promise<SnapshotInfo[]> {
    const parts: SnapshotInfo[] = [];
    for (const { path } of writtenDisks(document.vm))
      try {
        const { name } = document;
        const snapshot = await this.#options.blockd.call('snapshot.get', { path, name });
        if (isOf(snapshot, document)) parts.push(snapshot);
      } catch (error) {
        // The volume may be gone, and its snapshots with it; or the snapshot alone.
        if (!isMissing(error)) throw error;
      }
    return parts;
  }
}

const isMissing = (error: unknown): boolean =>
  error instanceof DvceError && error.code === 'NOT_FOUND';

/** One that was read a moment ago may still be open, and is closed by blockd. */
const isUsed = ({ open }: VolumeInfo): boolean =>
  open !== null && (open.attachId !== null || open.connections > 0);

const nameOf = ({ name, vm }: VmSnapshotDocument): string => `${vm.name}@${name}`;

const isOf = ({ name, labels }: SnapshotInfo, document: VmSnapshotDocument): boolean =>
  name === document.name && labels[vmSnapshotLabel] === document.id;

/** What happened to a VM is no part of its configuration. */
function withoutPast(document: VmDocument): VmDocument {
  const {
    crashes: _crashes,
    held: _held,
    restartDue: _restartDue,
    rollback: _rollback,
    protected: _protected,
    half: _half,
    ...rest
  } = document;
  return rest;
}
