/**
 * A VM is changed, running or not: protection and policies, processors and memory, disks and cards.
 *
 * Invariants
 * - what is wanted is written first, then the guest is made so. A disk or card is `joining` in the document before the guest
 *   gets it and `leaving` until the guest has let it go; so after the end of the agent at any moment the document says what
 *   is left to do, and `finish` does it;
 * - a volume is let go only after the guest has let its device go;
 * - what the guest refuses is taken back. A device that the guest does not let go stays `leaving`, and is gone with the next
 *   try or the next start.
 */
import type { NicRequest, Operation, Vm, VmAttachDisk, VmResize, VmUpdate } from '../api/index.ts';
import { checkName, DvceError, type Logger, limits } from '../base/index.ts';
import type { VmNic } from '../vm/index.ts';
import type { DataProcess } from './data-process.ts';
import type { OperationHandle } from './operations.ts';
import { attachDisk, detachDisk, discardDisk, planDisk, provideDisk } from './vm-disks.ts';
import type { VmDocument, VmDocumentDisk, VmDocuments } from './vm-documents.ts';
import { type NicDocument, nicsOf } from './vm-guest-fields.ts';
import type { Nics } from './vm-nics.ts';
import { checkMemory, checkPattern, lifeOf } from './vm-request.ts';
import { checkResources } from './vm-resources.ts';
import type { VmTable } from './vm-table.ts';
import { isAlive } from './vm-view.ts';

export interface VmChangesOptions {
  readonly table: VmTable;
  readonly documents: VmDocuments;
  readonly blockd: DataProcess;
  readonly nics: Nics;
  readonly logger: Logger;
}

export class VmChanges {
  readonly #options: VmChangesOptions;

  constructor(options: VmChangesOptions) {
    this.#options = options;
  }

  async update(name: string, request: VmUpdate): Promise<Vm> {
    const { table, documents } = this.#options;
    const { readyPattern, labels } = request;
    if (typeof readyPattern === 'string') checkPattern(readyPattern);
    await table.alone(checkName(name), 'being updated', async () => {
      const document = await table.document(name);
      if (request.cpuModel !== undefined && request.cpuModel !== (document.cpuModel ?? 'host'))
        await table.refuseRunning(
          document,
          'Stop it first: a processor is not changed under a guest.',
        );
      await documents.update(document, (now) => ({
        ...now,
        ...lifeOf(request),
        ...(readyPattern === undefined ? {} : { readyPattern }),
        ...(labels === undefined ? {} : { labels }),
      }));
    });
    return table.get(name);
  }

  resize(name: string, request: VmResize): Promise<Operation> {
    const { cpus, memoryBytes, atNextStart = false } = request;
    if (cpus === undefined && memoryBytes === undefined)
      throw new DvceError('INVALID_ARGUMENT', {
        what: 'the new size',
        reason: 'neither cpus nor memoryBytes is given',
        advice: 'Give at least one of them.',
      });
    if (memoryBytes !== undefined) checkMemory(memoryBytes);
    const wanted = {
      ...(cpus === undefined ? {} : { cpus }),
      ...(memoryBytes === undefined ? {} : { memoryBytes }),
    };
    const { table, documents } = this.#options;
    return table.operate(name, {
      kind: 'vm.resize',
      mayCancel: false,
      check: async ({ resources }) => {
        if (memoryBytes !== undefined && resources !== undefined)
          checkResources(resources, memoryBytes);
      },
      work: async (document) => {
        const runs = isAlive(await table.inspect(document));
        if (runs && atNextStart)
          await documents.update(document, (now) => ({
            ...now,
            pending: { ...now.pending, ...wanted },
          }));
        else await this.#resizeNow(document, wanted, runs);
        return null;
      },
    });
  }

  async #resizeNow(
    document: VmDocument,
    wanted: Partial<Pick<VmDocument, 'cpus' | 'memoryBytes'>>,
    runs: boolean,
  ): Promise<void> {
    const { documents } = this.#options;
    const before = { cpus: document.cpus, memoryBytes: document.memoryBytes };
    const after = await documents.update(document, (now) => withoutPending(now, wanted));
    if (!runs) return;
    try {
      await this.#applyHardware(after);
    } catch (error) {
      await documents.update(document, (now) => ({ ...now, ...before }));
      throw error;
    }
  }

  /** Give a running guest the processors and memory of its document. */
  async #applyHardware({ cpus, memoryBytes, ...document }: VmDocument): Promise<void> {
    const guest = await this.#options.table.guest({ ...document, cpus, memoryBytes });
    const now = await guest.hardware();
    if (now.cpus !== cpus) await guest.setCpus(cpus);
    if (now.memoryBytes !== memoryBytes) await guest.setMemory(memoryBytes);
  }

  attachDisk(name: string, request: VmAttachDisk): Promise<Operation> {
    const { table, documents, blockd } = this.#options;
    return table.operate(name, {
      kind: 'vm.attach',
      mayCancel: false,
      check: async (document) => {
        const { disk, make } = planDisk(document, request);
        // A volume that is not there is told before anything is recorded.
        if (make === null) await blockd.call('volume.get', { path: disk.path });
      },
      work: async (document, handle) => {
        const plan = planDisk(document, request);
        const joining: VmDocumentDisk = { ...plan.disk, transit: 'joining' };
        await documents.update(document, (now) => ({ ...now, disks: [...now.disks, joining] }));
        try {
          const disk = await provideDisk(blockd, document.id, { ...plan, disk: joining });
          const whole = await this.#setDisk(document, disk);
          await this.#joinDisk(whole, disk, handle);
          return { disk: disk.name };
        } catch (error) {
          await this.#giveUp(document, joining, error);
          throw error;
        }
      },
    });
  }

  /** @param which name of the disk, or path of its volume */
  detachDisk(name: string, which: string): Promise<Operation> {
    const { table, documents } = this.#options;
    return table.operate(name, {
      kind: 'vm.detach',
      mayCancel: false,
      check: async (document) => {
        const disk = diskCalled(document, which);
        const isFirst = disk.bootOrder !== null && disk === document.disks[0];
        if (isFirst) await table.refuseRunning(document, 'It boots from this disk: stop it first.');
      },
      work: async (document) => {
        const disk = diskCalled(document, which);
        const leaving: VmDocumentDisk = { ...disk, transit: 'leaving' };
        await this.#leaveDisk(await this.#setDisk(document, leaving), leaving);
        await documents.update(document, (now) => withoutDisk(now, disk.name));
        return null;
      },
    });
  }

  attachNic(name: string, request: NicRequest): Promise<Operation> {
    const { table, documents, nics } = this.#options;
    return table.operate(name, {
      kind: 'vm.attach',
      mayCancel: false,
      work: async (document) => {
        const there = nicsOf(document);
        const number = freeNumber(
          there.map((nic) => nic.name),
          'card',
        );
        const claim = await nics.claim(document.id, [request], number);
        const [nic] = claim.nics;
        if (nic === undefined)
          throw new DvceError('INTERNAL', { reason: 'a claim without a card' });
        const joining: NicDocument = { ...nic, transit: 'joining' };
        const whole = await documents
          .update(document, (now) => ({ ...now, nics: [...nicsOf(now), joining] }))
          .finally(claim.release);
        try {
          await this.#joinNic(whole, joining);
          return { nic: nic.name };
        } catch (error) {
          await this.#giveUpNic(whole, joining, error);
          throw error;
        }
      },
    });
  }

  detachNic(name: string, nicName: string): Promise<Operation> {
    const { table, documents } = this.#options;
    return table.operate(name, {
      kind: 'vm.detach',
      mayCancel: false,
      check: async (document) => void nicCalled(document, nicName),
      work: async (document) => {
        const leaving: NicDocument = { ...nicCalled(document, nicName), transit: 'leaving' };
        await this.#leaveNic(await this.#setNic(document, leaving), leaving);
        await documents.update(document, (now) => withoutNic(now, nicName));
        return null;
      },
    });
  }

  /** After the end of an agent: what it had begun with this VM is brought to its end, as operations of its own. */
  async finish(document: VmDocument): Promise<void> {
    const { table, logger } = this.#options;
    const disks = document.disks.filter(({ transit }) => transit !== undefined);
    const nics = nicsOf(document).filter(({ transit }) => transit !== undefined);
    const runs = isAlive(await table.inspect(document));
    if (disks.length + nics.length === 0 && !runs) return;
    if (disks.length + nics.length === 0 && !(await this.#differs(document))) return;
    logger.info({ vm: document.name }, 'bringing the guest and its document together');
    await table.operate(document.name, {
      kind: 'vm.resize',
      mayCancel: false,
      work: async (now, handle) => {
        for (const disk of disks) await this.#finishDisk(now, disk, handle);
        for (const nic of nics) await this.#finishNic(now, nic);
        if (isAlive(await table.inspect(now))) await this.#applyHardware(now);
        return null;
      },
    });
  }

  async #differs(document: VmDocument): Promise<boolean> {
    const guest = await this.#options.table.guest(document);
    const { cpus, memoryBytes } = await guest.hardware();
    return cpus !== document.cpus || memoryBytes !== document.memoryBytes;
  }

  async #finishDisk(
    document: VmDocument,
    disk: VmDocumentDisk,
    handle: OperationHandle,
  ): Promise<void> {
    if (disk.transit === 'leaving') {
      await this.#leaveDisk(document, disk);
      await this.#options.documents.update(document, (now) => withoutDisk(now, disk.name));
    } else if (disk.volumeId === '') await this.#undoDisk(document, disk);
    else await this.#joinDisk(document, disk, handle);
  }

  async #finishNic(document: VmDocument, nic: NicDocument): Promise<void> {
    if (nic.transit === 'joining') return this.#joinNic(document, nic);
    await this.#leaveNic(document, nic);
    await this.#options.documents.update(document, (now) => withoutNic(now, nic.name));
  }

  async #joinDisk(
    document: VmDocument,
    disk: VmDocumentDisk,
    { signal }: OperationHandle,
  ): Promise<void> {
    const { table, blockd } = this.#options;
    if (isAlive(await table.inspect(document))) {
      const attached = await attachDisk(blockd, document, disk, signal);
      await (await table.guest(document)).attachDisk(attached);
    }
    const { transit: _, ...there } = disk;
    await this.#setDisk(document, there);
  }

  async #leaveDisk(document: VmDocument, disk: VmDocumentDisk): Promise<void> {
    const { table, blockd } = this.#options;
    if (isAlive(await table.inspect(document)))
      await (await table.guest(document)).detachDisk(disk.name);
    await detachDisk(blockd, document, disk);
  }

  async #undoDisk(document: VmDocument, disk: VmDocumentDisk): Promise<void> {
    await this.#leaveDisk(document, disk);
    await discardDisk(this.#options.blockd, document.id, disk);
    await this.#options.documents.update(document, (now) => withoutDisk(now, disk.name));
  }

  /** Undo after a failure; what cannot be undone now stays in the document as `joining`, and is tried at the next start. */
  async #giveUp(document: VmDocument, disk: VmDocumentDisk, cause: unknown): Promise<void> {
    try {
      await this.#undoDisk(document, disk);
    } catch (error) {
      this.#options.logger.error(
        { err: error, cause, vm: document.name, disk: disk.name },
        'a disk that could not be attached could not be taken back either',
      );
    }
  }

  async #joinNic(document: VmDocument, nic: NicDocument): Promise<void> {
    const { table } = this.#options;
    if (isAlive(await table.inspect(document)))
      await (await table.guest(document)).attachCard(cardOf(nic));
    const { transit: _, ...there } = nic;
    await this.#setNic(document, there);
  }

  async #leaveNic(document: VmDocument, { name }: NicDocument): Promise<void> {
    const { table } = this.#options;
    if (isAlive(await table.inspect(document)))
      await (await table.guest(document)).detachCard(name);
  }

  /** The same for a card: what the guest may still have stays in the document as `leaving`. */
  async #giveUpNic(document: VmDocument, nic: NicDocument, cause: unknown): Promise<void> {
    try {
      const leaving: NicDocument = { ...nic, transit: 'leaving' };
      await this.#finishNic(await this.#setNic(document, leaving), leaving);
    } catch (error) {
      this.#options.logger.error(
        { err: error, cause, vm: document.name, nic: nic.name },
        'a card that could not be attached could not be taken back either',
      );
    }
  }

  #setDisk(document: VmDocument, disk: VmDocumentDisk): Promise<VmDocument> {
    return this.#options.documents.update(document, (now) => ({
      ...now,
      disks: now.disks.map((one) => (one.name === disk.name ? disk : one)),
    }));
  }

  #setNic(document: VmDocument, nic: NicDocument): Promise<VmDocument> {
    return this.#options.documents.update(document, (now) => ({
      ...now,
      nics: nicsOf(now).map((one) => (one.name === nic.name ? nic : one)),
    }));
  }
}

const withoutDisk = (document: VmDocument, name: string): VmDocument => ({
  ...document,
  disks: document.disks.filter((disk) => disk.name !== name),
});

const withoutNic = (document: VmDocument, name: string): VmDocument => ({
  ...document,
  nics: nicsOf(document).filter((nic) => nic.name !== name),
});

/** What is set now does not wait for the next start any more. */
function withoutPending(
  { pending = {}, ...document }: VmDocument,
  wanted: Partial<Pick<VmDocument, 'cpus' | 'memoryBytes'>>,
): VmDocument {
  const left = Object.entries(pending).filter(([field]) => !(field in wanted));
  return {
    ...document,
    ...wanted,
    ...(left.length === 0 ? {} : { pending: Object.fromEntries(left) }),
  };
}

function diskCalled(document: VmDocument, which: string): VmDocumentDisk {
  const path = which.startsWith('/') ? which : `/${which}`;
  const disk = document.disks.find((one) => one.name === which || one.path === path);
  if (disk !== undefined) return disk;
  throw missing(document, `disk ${which}`, document.disks);
}

function nicCalled(document: VmDocument, name: string): NicDocument {
  const nic = nicsOf(document).find((one) => one.name === name);
  if (nic !== undefined) return nic;
  throw missing(document, `card ${name}`, nicsOf(document));
}

const missing = (
  document: VmDocument,
  what: string,
  there: readonly { readonly name: string }[],
): DvceError =>
  new DvceError('INVALID_ARGUMENT', {
    what: `the ${what}`,
    reason: `VM ${document.name} has no such thing, but ${there.map(({ name }) => name).join(', ') || 'none'}`,
    advice: `See: dvce vm show ${document.name}`,
  });

/** The lowest number that no name has. */
export function freeNumber(names: readonly string[], prefix: string): number {
  for (let number = 0; number <= limits.vmDisksMax + limits.vmNicsMax; number += 1)
    if (!names.includes(`${prefix}${number}`)) return number;
  throw new DvceError('INTERNAL', { reason: `no number left for another ${prefix}` });
}

const cardOf = ({ name, mac, kind, bridge }: NicDocument): VmNic => ({
  name,
  mac,
  kind,
  ...(bridge === undefined ? {} : { bridge }),
});
