/**
 * VMs of this host: what is wanted is in their documents, what is in the hypervisor; this brings them together.
 *
 * Invariants
 * - one change at a time per VM: a second one is refused, not queued, because it was decided on what no longer is;
 * - a volume is attached (attach id = id of the VM) before the hypervisor starts and let go only after its process is gone;
 * - N7: a VM whose document cannot be read is left exactly as it is;
 * - a VM that is wanted and whose process is gone is reported `crashed` and not started again by itself.
 */
import { readFile } from 'node:fs/promises';
import { availableParallelism, totalmem } from 'node:os';
import type { Operation, Vm, VmCreate, VmStop } from '../api/index.ts';
import { urls } from '../api/index.ts';
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
import type { Hypervisor, VmDisplay, VmObservation } from '../vm/index.ts';
import type { DataProcess } from './data-process.ts';
import type { Images } from './images.ts';
import type { OperationHandle, Operations } from './operations.ts';
import {
  deleteOwnedDisks,
  detachDisks,
  planDisks,
  provideDisk,
  refuseProtected,
} from './vm-disks.ts';
import type { VmDocument, VmDocuments } from './vm-documents.ts';
import { Nics } from './vm-nics.ts';
import { VmPower } from './vm-power.ts';
import { guestOfRequest, hardwareOf, wantedNics } from './vm-request.ts';
import { Admission } from './vm-resources.ts';
import { definitionOf, isAlive, unreadableView, viewOf } from './vm-view.ts';

export interface VmsOptions {
  readonly documents: VmDocuments;
  readonly driver: Hypervisor;
  readonly blockd: DataProcess;
  readonly operations: Operations;
  readonly images: Pick<Images, 'published'>;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly logger: Logger;
}

export class Vms {
  readonly #options: VmsOptions;
  readonly #power: VmPower;
  readonly #nics: Nics;
  /** Name of the VM -> what is being done to it. */
  readonly #busy = new Map<string, string>();

  constructor(options: VmsOptions) {
    this.#options = options;
    const admission = new Admission({
      capacity: { cpus: availableParallelism(), memoryBytes: totalmem() },
      documents: () => this.#documents(),
    });
    this.#power = new VmPower({ ...options, admission });
    this.#nics = new Nics({ documents: () => this.#documents() });
    options.driver.onChange((id, observation) => {
      if (isAlive(observation)) return;
      this.#ended(id, observation).catch((error: unknown) =>
        options.logger.error({ err: error, vm: id }, 'the end of a guest could not be recorded'),
      );
    });
  }

  async list(): Promise<Vm[]> {
    const entries = await this.#options.documents.list();
    return Promise.all(
      entries.map((entry) =>
        'error' in entry ? unreadableView(entry) : this.#view(entry.document),
      ),
    );
  }

  async get(name: string): Promise<Vm> {
    const entry = await this.#options.documents.read(checkName(name));
    if (entry === undefined) throw new DvceError('NOT_FOUND', { kind: 'vm', name });
    return 'error' in entry ? unreadableView(entry) : this.#view(entry.document);
  }

  /** The VMs that name this volume as a disk. */
  async usersOf(path: string): Promise<readonly VmDocument[]> {
    return (await this.#documents()).filter(({ disks }) =>
      disks.some((disk) => disk.path === path),
    );
  }

  async create(request: VmCreate): Promise<Vm> {
    const { documents, random, clock } = this.#options;
    const name = checkName(request.name);
    return this.#alone(name, 'being created', async () => {
      if ((await documents.read(name)) !== undefined)
        throw new DvceError('ALREADY_EXISTS', { kind: 'vm', name });
      if (request.image !== undefined) await this.#options.images.published(request.image);
      const plans = planDisks(request);
      const id = randomUuid(random);
      const hardware = hardwareOf(request);
      const guest = guestOfRequest(request, hardware.memoryBytes);
      const claim = await this.#nics.claim(id, wantedNics(request));
      const document: VmDocument = {
        format: 1,
        id,
        name,
        desired: 'stopped',
        half: 'creating',
        ...hardware,
        nics: claim.nics,
        ...guest,
        labels: request.labels ?? {},
        createdAt: new Date(clock.wallMs()).toISOString(),
        startedAt: null,
        disks: plans.map(({ disk }) => disk),
      };
      await documents.write(document).finally(claim.release);
      try {
        for (const [at, plan] of plans.entries())
          document.disks[at] = await provideDisk(this.#options.blockd, document.id, plan);
        const { half: _, ...whole } = document;
        await documents.write(whole);
        return this.#view(whole);
      } catch (error) {
        await this.#remove(document, true);
        throw error;
      }
    });
  }

  start(name: string, waitUntilReady: boolean): Promise<Operation> {
    return this.#operate(name, 'vm.start', true, async (document, handle, release) => {
      await this.#power.start(document, handle.signal);
      // Being started is over: a guest that never gets ready can be stopped.
      release();
      if (waitUntilReady) await this.#power.untilReady(document, handle.signal);
      return null;
    });
  }

  stop(name: string, { timeoutMs = limits.vmStopMs, force = false }: VmStop): Promise<Operation> {
    return this.#operate(name, 'vm.stop', false, (document) =>
      this.#power.stop(document, force ? 0 : timeoutMs),
    );
  }

  async delete(name: string, keepDisks: boolean): Promise<void> {
    const { driver, blockd } = this.#options;
    await this.#alone(checkName(name), 'being deleted', async () => {
      const document = await this.#document(name);
      const { phase, pid } = await driver.inspect(definitionOf(document));
      if (pid !== null)
        throw new DvceError('VM_STATE', {
          name,
          state: phase,
          reason: 'only a stopped VM can be deleted',
          advice: `Stop it first: dvce vm stop ${name}`,
        });
      if (!keepDisks) await refuseProtected(blockd, document);
      await this.#remove(document, !keepDisks);
    });
  }

  /** Console log of the last boot; the last `tail` lines of it. */
  async log(name: string, tail: number | undefined): Promise<string> {
    const { driver } = this.#options;
    const path = driver.consoleLog(definitionOf(await this.#document(name)));
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
    const definition = definitionOf(await this.#document(name));
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
    const document = await this.#document(name);
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
    for (const document of await this.#documents()) {
      if (!document.disks.some((disk) => disk.volumeId === volumeId)) continue;
      await this.#options.documents.write({
        ...document,
        disks: document.disks.map((disk) =>
          disk.volumeId === volumeId ? { ...disk, path } : disk,
        ),
      });
    }
  }

  /**
   * After a start of the agent: find running guests again, let go of the volumes of those that are gone, finish or undo what
   * was half done. Never starts or stops a guest.
   */
  async reconcile(): Promise<void> {
    const { logger } = this.#options;
    for (const document of await this.#documents())
      try {
        await this.#reconcile(document);
      } catch (error) {
        logger.error({ err: error, vm: document.name }, 'a VM could not be looked at');
      }
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
      return;
    }
    // Also of one that was being stopped when the last agent ended.
    await detachDisks(blockd, document);
    if (document.desired === 'running')
      logger.warn({ vm: document.name }, 'the guest is gone; it is not started again by itself');
  }

  /** Stop all running VMs, all at once; for the end of the agent. */
  async stopAll(timeoutMs: number): Promise<void> {
    const running = (await this.list()).filter(({ pid }) => pid !== null);
    await Promise.all(
      running.map(async ({ name }) => {
        const { id } = await this.stop(name, { timeoutMs });
        const { operations } = this.#options;
        const never = new AbortController().signal;
        const ended = await operations.wait(id, timeoutMs + limits.vmStartOperationMs, never);
        if (ended.status !== 'succeeded')
          throw new DvceError('VM_STATE', {
            name,
            state: 'running',
            reason: `it could not be stopped: ${ended.error?.detail ?? ended.status}`,
            advice: `Try: dvce vm stop ${name} --force`,
          });
      }),
    );
  }

  /** The hypervisor says that a process ended, and nobody here is just ending it. */
  async #ended(id: string, observation: VmObservation): Promise<void> {
    const { blockd, logger } = this.#options;
    const document = (await this.#documents()).find((one) => one.id === id);
    if (document === undefined || this.#busy.has(document.name)) return;
    if (document.desired !== 'running') return;
    await this.#alone(document.name, 'ending', async () => {
      logger.info({ vm: document.name, phase: observation.phase }, 'a guest ended');
      await detachDisks(blockd, document);
      // Shut down from inside: that is what is wanted from now on. A crash stays visible.
      if (observation.phase === 'stopped') await this.#power.want(document, 'stopped');
    });
  }

  async #remove(document: VmDocument, withDisks: boolean): Promise<void> {
    const { documents, driver, blockd } = this.#options;
    const half = document.half ?? 'deleting';
    const rest = withDisks ? document : { ...document, disks: [] };
    await documents.write({ ...rest, half });
    await detachDisks(blockd, document);
    if (withDisks) await deleteOwnedDisks(blockd, document);
    await driver.forget(definitionOf(document));
    await documents.remove(document.name);
  }

  async #view(document: VmDocument): Promise<Vm> {
    const observation = await this.#options.driver.inspect(definitionOf(document));
    return viewOf(document, observation, this.#busy.get(document.name) === 'vm.start');
  }

  /** A readable document; an unreadable one refuses the change (N7). */
  async #document(name: string): Promise<VmDocument> {
    const entry = await this.#options.documents.read(checkName(name));
    if (entry === undefined) throw new DvceError('NOT_FOUND', { kind: 'vm', name });
    if ('error' in entry) throw entry.error;
    return entry.document;
  }

  async #documents(): Promise<VmDocument[]> {
    const entries = await this.#options.documents.list();
    return entries.flatMap((entry) => ('document' in entry ? [entry.document] : []));
  }

  /** Begin an operation on a VM that nothing else is being done to. */
  async #operate(
    name: string,
    kind: 'vm.start' | 'vm.stop',
    mayCancel: boolean,
    work: (document: VmDocument, handle: OperationHandle, release: () => void) => Promise<unknown>,
  ): Promise<Operation> {
    const release = this.#take(checkName(name), kind);
    try {
      const document = await this.#document(name);
      if (kind === 'vm.start') await this.#refuseRunning(document);
      return await this.#options.operations.begin({
        kind,
        resources: [urls.vm(name)],
        mayCancel,
        work: async (handle) => {
          try {
            return await work(document, handle, release);
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

  async #refuseRunning(document: VmDocument): Promise<void> {
    const { phase, pid } = await this.#options.driver.inspect(definitionOf(document));
    if (pid === null) return;
    throw new DvceError('VM_STATE', {
      name: document.name,
      state: phase,
      reason: `it runs already (process ${pid})`,
      advice: `See: dvce vm show ${document.name}`,
    });
  }

  async #alone<T>(name: string, what: string, task: () => Promise<T>): Promise<T> {
    const release = this.#take(name, what);
    try {
      return await task();
    } finally {
      release();
    }
  }

  /** Mark a VM as being changed. @returns the end of that; calling it twice does no harm */
  #take(name: string, what: string): () => void {
    const other = this.#busy.get(name);
    if (other !== undefined)
      throw new DvceError('VM_STATE', {
        name,
        state: 'busy',
        reason: `another change is under way (${other})`,
        advice: 'Wait for it: dvce op list --running',
      });
    this.#busy.set(name, what);
    let isHeld = true;
    return () => {
      if (isHeld) this.#busy.delete(name);
      isHeld = false;
    };
  }
}
