/**
 * The VMs of this host as everything that works on them sees them: their documents, what the hypervisor says, and what is
 * being done to each.
 *
 * Invariants
 * - one change at a time per VM: a second one is refused, not queued, because it was decided on what no longer is;
 * - N7: a VM whose document cannot be read refuses every change.
 */
import type { Operation, OperationKind, Vm } from '../api/index.ts';
import { urls } from '../api/index.ts';
import { checkName, DvceError, type Timers } from '../base/index.ts';
import type { Hypervisor, RunningGuest, VmObservation } from '../vm/index.ts';
import type { OperationHandle, Operations } from './operations.ts';
import { unlessAway } from './store-away.ts';
import type { VmDocument, VmDocuments, VmEntry } from './vm-documents.ts';
import { definitionOf, isAlive, unreadableView, viewOf } from './vm-view.ts';

export interface VmTableOptions {
  readonly documents: VmDocuments;
  readonly driver: Hypervisor;
  readonly operations: Operations;
  readonly timers: Timers;
}

export interface VmOperation {
  readonly kind: OperationKind;
  readonly mayCancel: boolean;
  /** The document as it was seen last will do when the store does not answer. */
  readonly withoutStore?: boolean;
  /** Refuses by throwing, before there is an operation. */
  readonly check?: (document: VmDocument) => Promise<void>;
  /** `release` ends the time in which nothing else may be done to the VM, before the operation ends. */
  readonly work: (
    document: VmDocument,
    handle: OperationHandle,
    release: () => void,
  ) => Promise<unknown>;
}

/** What may be done to a VM whose disks may be of two times. */
const duringRollback: ReadonlySet<OperationKind> = new Set(['vm.rollback', 'vm.stop']);

type Readable = Extract<VmEntry, { document: unknown }>;

export class VmTable {
  readonly #options: VmTableOptions;
  /** Name of the VM -> what is being done to it. */
  readonly #busy = new Map<string, string>();
  /** All readable documents as they were seen last, by name. */
  #seen: ReadonlyMap<string, Readable> = new Map();

  constructor(options: VmTableOptions) {
    this.#options = options;
  }

  /** A readable document; an unreadable one refuses the change (N7). */
  async document(name: string): Promise<VmDocument> {
    const entry = await this.#options.documents.read(checkName(name));
    if (entry === undefined) throw new DvceError('NOT_FOUND', { kind: 'vm', name });
    if ('error' in entry) throw entry.error;
    return entry.document;
  }

  /** All readable ones. */
  async documents(): Promise<VmDocument[]> {
    const entries = await this.#options.documents.list();
    const readable = entries.filter((entry): entry is Readable => 'document' in entry);
    this.#seen = new Map(readable.map((entry) => [entry.name, entry]));
    return readable.map(({ document }) => document);
  }

  /** A readable document; one that was seen before when the store does not answer. */
  async #documentOrSeen(name: string): Promise<VmDocument> {
    const found = await unlessAway(this.#options.timers, this.document(name));
    const document = found?.value ?? this.#seen.get(name)?.document;
    // Nothing is known of it: wait for the store, or say what is the matter with it.
    return document ?? this.document(name);
  }

  async list(): Promise<Vm[]> {
    const entries = await this.#options.documents.list();
    return Promise.all(entries.map((entry) => this.#view(entry)));
  }

  /** As it was seen last when the store does not answer: whether it runs is known all the same. */
  async get(name: string): Promise<Vm> {
    const { documents, timers } = this.#options;
    const reading = documents.read(checkName(name));
    const found = await unlessAway(timers, reading);
    const entry = found === undefined ? (this.#seen.get(name) ?? (await reading)) : found.value;
    if (entry === undefined) throw new DvceError('NOT_FOUND', { kind: 'vm', name });
    return this.#view(entry);
  }

  inspect(document: VmDocument): Promise<VmObservation> {
    return this.#options.driver.inspect(definitionOf(document));
  }

  /** @throws VM_STATE when it does not run */
  guest(document: VmDocument): Promise<RunningGuest> {
    return this.#options.driver.guest(definitionOf(document));
  }

  async refuseRunning(document: VmDocument, advice?: string): Promise<void> {
    const observation = await this.inspect(document);
    if (!isAlive(observation)) return;
    throw new DvceError('VM_STATE', {
      name: document.name,
      state: observation.phase,
      reason: `it runs (process ${observation.pid})`,
      advice: advice ?? `See: dvce vm show ${document.name}`,
    });
  }

  async refuseStopped(document: VmDocument): Promise<void> {
    const observation = await this.inspect(document);
    if (isAlive(observation)) return;
    throw new DvceError('VM_STATE', {
      name: document.name,
      state: 'stopped',
      reason: 'it does not run',
      advice: `Start it: dvce vm start ${document.name}`,
    });
  }

  isBusy(name: string): boolean {
    return this.#busy.has(name);
  }

  /** Begin an operation on a VM that nothing else is being done to. */
  async operate(name: string, operation: VmOperation): Promise<Operation> {
    const { kind, mayCancel, check, work, withoutStore = false } = operation;
    const release = this.take(checkName(name), kind);
    try {
      const document = await (withoutStore ? this.#documentOrSeen(name) : this.document(name));
      if (document.rollback !== undefined && !duringRollback.has(kind)) throw unfinished(document);
      await check?.(document);
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

  /** Do something short to a VM that nothing else is being done to. */
  async alone<T>(name: string, what: string, task: () => Promise<T>): Promise<T> {
    const release = this.take(checkName(name), what);
    try {
      return await task();
    } finally {
      release();
    }
  }

  /** Mark a VM as being changed. @returns the end of that; calling it twice does no harm */
  take(name: string, what: string): () => void {
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

  async #view(entry: VmEntry): Promise<Vm> {
    if ('error' in entry) return unreadableView(entry);
    const { document, revision } = entry;
    const isStarting = this.#busy.get(document.name) === 'vm.start';
    return viewOf(document, revision, await this.inspect(document), isStarting);
  }
}

/** A VM whose rollback was cut short takes no change but its repetition. */
export const unfinished = ({ name }: Pick<VmDocument, 'name'>): DvceError =>
  new DvceError('VM_STATE', {
    name,
    state: 'between two states',
    reason: 'a rollback of it has not finished',
    advice: `Repeat it: dvce vm rollback ${name}@SNAPSHOT (see: dvce vm snapshots ${name})`,
  });
