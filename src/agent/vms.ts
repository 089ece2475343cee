/**
 * VMs of this host: what is wanted is in their documents, what is in the hypervisor; this brings them together.
 *
 * Invariants
 * - one change at a time per VM (vm-table.ts);
 * - a volume is attached (attach id = id of the VM) before the hypervisor starts and let go only after its process is gone;
 * - N7: a VM whose document cannot be read is left exactly as it is;
 * - what becomes of a VM that is wanted and whose process is gone is the keeper's business (vm-keeper.ts).
 */
import { readFile } from 'node:fs/promises';
import { availableParallelism, totalmem } from 'node:os';
import type { Operation, Vm, VmCreate, VmStop } from '../api/index.ts';
import {
  type Clock,
  checkName,
  DvceError,
  type Logger,
  limits,
  type Random,
  randomUuid,
  systemCode,
  type Timers,
} from '../base/index.ts';
import type { Hypervisor, VmDisplay } from '../vm/index.ts';
import type { DataProcess } from './data-process.ts';
import type { Images } from './images.ts';
import type { Operations } from './operations.ts';
import { VmChanges } from './vm-changes.ts';
import { VmClones } from './vm-clone.ts';
import { VmControl } from './vm-control.ts';
import {
  deleteOwnedDisks,
  detachDisks,
  planDisks,
  provideDisk,
  refuseProtected,
} from './vm-disks.ts';
import type { VmDocument, VmDocumentDisk, VmDocuments } from './vm-documents.ts';
import { byStartOrder, VmKeeper } from './vm-keeper.ts';
import type { Nics } from './vm-nics.ts';
import { VmPower } from './vm-power.ts';
import { guestOfRequest, hardwareOf, lifeOf, wantedNics } from './vm-request.ts';
import { Admission } from './vm-resources.ts';
import { VmSnapshots } from './vm-snapshots.ts';
import { VmTable } from './vm-table.ts';
import { definitionOf } from './vm-view.ts';

export interface VmsOptions {
  readonly documents: VmDocuments;
  readonly driver: Hypervisor;
  readonly blockd: DataProcess;
  readonly operations: Operations;
  readonly images: Pick<Images, 'published'>;
  /** Whether the host has started since the last agent ran here; then no guest can have been left. */
  readonly hostStarted?: () => Promise<boolean>;
  readonly nics: Nics;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly logger: Logger;
}

export class Vms {
  readonly table: VmTable;
  readonly control: VmControl;
  readonly changes: VmChanges;
  readonly clones: VmClones;
  readonly snapshots: VmSnapshots;
  readonly #options: VmsOptions;
  readonly #power: VmPower;
  readonly #keeper: VmKeeper;

  constructor(options: VmsOptions) {
    this.#options = options;
    const table = new VmTable(options);
    this.table = table;
    const documents = (): Promise<VmDocument[]> => table.documents();
    const admission = new Admission({
      capacity: { cpus: availableParallelism(), memoryBytes: totalmem() },
      documents,
    });
    this.#power = new VmPower({ ...options, admission });
    this.control = new VmControl({ ...options, table });
    this.changes = new VmChanges({ ...options, table, nics: options.nics });
    this.clones = new VmClones({
      ...options,
      table,
      remove: (document) => this.#remove(document, true),
    });
    this.snapshots = new VmSnapshots({ ...options, table });
    this.#keeper = new VmKeeper({ ...options, table, power: this.#power });
  }

  /** Begin to look after VMs that are wanted; after `reconcile`. */
  keep(): void {
    this.#keeper.begin();
  }

  async close(): Promise<void> {
    await this.#keeper.close();
  }

  list(): Promise<Vm[]> {
    return this.table.list();
  }

  get(name: string): Promise<Vm> {
    return this.table.get(name);
  }

  /** The VMs that name this volume as a disk. */
  async usersOf(path: string): Promise<readonly VmDocument[]> {
    return (await this.table.documents()).filter(({ disks }) =>
      disks.some((disk) => disk.path === path),
    );
  }

  /** Volumes of a VM in the order of its disks, those that are leaving left out. */
  async disksOf(name: string): Promise<readonly VmDocumentDisk[]> {
    const { disks } = await this.table.document(name);
    return disks.filter(({ transit }) => transit !== 'leaving');
  }

  async create(request: VmCreate): Promise<Vm> {
    const { documents, random, clock } = this.#options;
    const name = checkName(request.name);
    return this.table.alone(name, 'being created', async () => {
      if ((await documents.read(name)) !== undefined)
        throw new DvceError('ALREADY_EXISTS', { kind: 'vm', name });
      if (request.image !== undefined) await this.#options.images.published(request.image);
      const plans = planDisks(request);
      const id = randomUuid(random);
      const asked = hardwareOf(request);
      const machine = await this.#options.driver.machineVersion(asked.machine);
      const hardware = { ...asked, machine };
      const guest = guestOfRequest(request, hardware.memoryBytes);
      const claim = await this.#options.nics.claim(id, wantedNics(request));
      const document: VmDocument = {
        format: 1,
        id,
        name,
        desired: 'stopped',
        half: 'creating',
        ...hardware,
        nics: claim.nics,
        ...guest,
        ...lifeOf(request),
        labels: request.labels ?? {},
        createdAt: new Date(clock.wallMs()).toISOString(),
        startedAt: null,
        disks: plans.map(({ disk }) => disk),
      };
      await documents.create(document).finally(claim.release);
      try {
        for (const [at, plan] of plans.entries())
          document.disks[at] = await provideDisk(this.#options.blockd, document.id, plan);
        await documents.update(document, () => {
          const { half: _, ...whole } = document;
          return whole;
        });
        return await this.get(name);
      } catch (error) {
        await this.#remove(document, true);
        throw error;
      }
    });
  }

  start(name: string, waitUntilReady: boolean): Promise<Operation> {
    return this.table.operate(name, {
      kind: 'vm.start',
      mayCancel: true,
      check: (document) => this.table.refuseRunning(document),
      work: async (document, handle, release) => {
        await this.#power.start(document, handle.signal);
        // Being started is over: a guest that never gets ready can be stopped.
        release();
        if (waitUntilReady) await this.#power.untilReady(document, handle.signal);
        return null;
      },
    });
  }

  stop(name: string, { timeoutMs = limits.vmStopMs, force = false }: VmStop): Promise<Operation> {
    return this.table.operate(name, {
      kind: 'vm.stop',
      mayCancel: false,
      withoutStore: true,
      work: (document) => this.#power.stop(document, force ? 0 : timeoutMs),
    });
  }

  async delete(name: string, keepDisks: boolean): Promise<void> {
    const { blockd } = this.#options;
    await this.table.alone(name, 'being deleted', async () => {
      const document = await this.table.document(name);
      if (document.protected === true) throw new DvceError('PROTECTED', { kind: 'vm', name });
      await this.table.refuseRunning(document, `Stop it first: dvce vm stop ${name}`);
      if (!keepDisks) await refuseProtected(blockd, document);
      await this.#remove(document, !keepDisks);
    });
  }

  /** Console log of the last boot; the last `tail` lines of it. */
  async log(name: string, tail: number | undefined): Promise<string> {
    const { driver } = this.#options;
    const path = driver.consoleLog(definitionOf(await this.table.document(name)));
    try {
      const text = await readFile(path, 'utf8');
      if (tail === undefined) return text;
      return `${text.trimEnd().split('\n').slice(-tail).join('\n')}\n`;
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return '';
      throw error;
    }
  }

  /** Unix socket of the serial console of a running VM. */
  async consoleSocket(name: string): Promise<string> {
    const definition = definitionOf(await this.table.document(name));
    const { phase, pid } = await this.#options.driver.inspect(definition);
    if (pid === null)
      throw new DvceError('VM_STATE', {
        name,
        state: phase,
        reason: 'only a running VM has a console',
        advice: `Start it: dvce vm start ${name}; or see what it said: dvce vm log ${name}`,
      });
    return this.#options.driver.consoleSocket(definition);
  }

  /** Where the graphical display of a running VM is. */
  async display(name: string): Promise<VmDisplay> {
    const document = await this.table.document(name);
    const display = await (await this.#options.driver.guest(definitionOf(document))).display();
    if (display !== null) return display;
    throw new DvceError('VM_STATE', {
      name,
      state: 'running',
      reason: 'it has no graphical display',
      advice: `Only a VM that was made with --vnc has one; its console is here: dvce console ${name}`,
    });
  }

  /** A volume got another path: the documents that name it follow. */
  async renamed(volumeId: string, path: string): Promise<void> {
    for (const document of await this.table.documents()) {
      if (!document.disks.some((disk) => disk.volumeId === volumeId)) continue;
      await this.#options.documents.update(document, (now) => ({
        ...now,
        disks: now.disks.map((disk) => (disk.volumeId === volumeId ? { ...disk, path } : disk)),
      }));
    }
    await this.snapshots.renamed(volumeId, path);
  }

  /**
   * After a start of the agent: take documents of older releases over, find running guests again, let go of the volumes of
   * those that are gone, finish or undo what was half done.
   */
  async reconcile(): Promise<void> {
    const { logger, documents } = this.#options;
    await documents.takeOver();
    for (const document of await this.table.documents())
      try {
        await this.#reconcile(document);
      } catch (error) {
        logger.error({ err: error, vm: document.name }, 'a VM could not be looked at');
      }
    await this.#keeper.afterStart();
  }

  async #reconcile(document: VmDocument): Promise<void> {
    const { driver, blockd, logger } = this.#options;
    if (document.half !== undefined) {
      logger.info({ vm: document.name, half: document.half }, 'finishing what was half done');
      return this.#remove(document, true);
    }
    if (await driver.adopt(definitionOf(document))) {
      logger.info({ vm: document.name }, 'a running guest was found');
      if (document.desired !== 'running') await this.#power.want(document, 'running');
    } else await detachDisks(blockd, document); // also of one that was being stopped when the last agent ended
    await this.snapshots.finish(document);
    await this.changes.finish(document);
  }

  /** Stop all running VMs, those with the highest start order first; for the end of the agent. */
  async stopAll(timeoutMs: number): Promise<void> {
    const running = (await this.list()).filter(({ pid }) => pid !== null);
    for (const group of byStartOrder(running).reverse())
      await Promise.all(group.map(({ name }) => this.#stopOne(name, timeoutMs)));
  }

  async #stopOne(name: string, timeoutMs: number): Promise<void> {
    const { id } = await this.stop(name, { timeoutMs });
    const never = new AbortController().signal;
    const ended = await this.#options.operations.wait(
      id,
      timeoutMs + limits.vmStartOperationMs,
      never,
    );
    if (ended.status === 'succeeded') return;
    throw new DvceError('VM_STATE', {
      name,
      state: 'running',
      reason: `it could not be stopped: ${ended.error?.detail ?? ended.status}`,
      advice: `Try: dvce vm stop ${name} --force`,
    });
  }

  async #remove(document: VmDocument, withDisks: boolean): Promise<void> {
    const { documents, driver, blockd } = this.#options;
    const leaving = await documents.update(document, (now) => ({
      ...now,
      half: now.half ?? 'deleting',
      disks: withDisks ? now.disks : [],
    }));
    await detachDisks(blockd, document);
    if (withDisks) await deleteOwnedDisks(blockd, leaving);
    await this.clones.dropCuts(leaving);
    await driver.forget(definitionOf(document));
    await this.snapshots.forget(document);
    await documents.remove(document);
  }
}
