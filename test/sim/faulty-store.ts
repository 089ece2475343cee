/**
 * A wrapper around any SegmentStore that behaves as badly as the contract allows: requests and replies are late and overtake
 * each other, the store does not answer, the disk is full, bits flip on reading.
 *
 * `putIfAbsent` promises the settled truth (S4), so a lost reply is modelled as what it is for the caller: the request did its
 * work and the answer comes very late, or never because the caller died before. A request may also *arrive* very late: it then
 * meets whatever happened to its scope and its key meanwhile (S1).
 *
 * By seeded probability (`chances`, in per mille), or by script: `plan` decides for each operation, before chance does.
 */
import { DvceError } from '../../src/base/index.ts';
import type {
  ListEntry,
  PutResult,
  SegmentStore,
  StoreReadDone,
  StoreStat,
} from '../../src/hlfs/index.ts';
import type { Scheduler, SimProcess } from './scheduler.ts';

export type StoreOperation =
  | 'createScope'
  | 'probeScope'
  | 'fence'
  | 'sweepScope'
  | 'unfinished'
  | 'putIfAbsent'
  | 'read'
  | 'stat'
  | 'list'
  | 'delete'
  | 'deleteDirectory'
  | 'space';

export type StoreFault =
  | { readonly kind: 'unavailable'; readonly when: 'before' | 'after' }
  | { readonly kind: 'noSpace' }
  | { readonly kind: 'lateRequest'; readonly delayMs: number }
  | { readonly kind: 'lateReply'; readonly delayMs: number }
  | { readonly kind: 'bitFlip' };

/** Chances in per mille of each operation. */
export interface StoreChances {
  readonly unavailable: number;
  readonly noSpace: number;
  readonly lateRequest: number;
  readonly lateReply: number;
  readonly bitFlip: number;
}

export const noChances: StoreChances = {
  unavailable: 0,
  noSpace: 0,
  lateRequest: 0,
  lateReply: 0,
  bitFlip: 0,
};

export interface FaultyStoreOptions {
  readonly store: SegmentStore;
  readonly scheduler: Scheduler;
  readonly process: SimProcess;
  readonly chances?: StoreChances;
  /** Usual time of an operation. */
  readonly delayMs?: number;
  readonly plan?: (operation: StoreOperation, key: string) => StoreFault | undefined;
  /** Told of every fault that strikes. */
  readonly onFault?: (fault: StoreFault, operation: StoreOperation) => void;
}

const lateMs = 20_000;

export class FaultyStore implements SegmentStore {
  readonly location: string;
  chances: StoreChances;
  plan: (operation: StoreOperation, key: string) => StoreFault | undefined;
  readonly #store: SegmentStore;
  readonly #scheduler: Scheduler;
  readonly #process: SimProcess;
  readonly #delayMs: number;
  readonly #onFault: (fault: StoreFault, operation: StoreOperation) => void;
  /** What was read wrong by chance can be read again; damage that stays is another matter (flips.ts). */
  #hasFlipped = false;

  constructor(options: FaultyStoreOptions) {
    this.location = options.store.location;
    this.chances = options.chances ?? noChances;
    this.plan = options.plan ?? (() => undefined);
    this.#store = options.store;
    this.#scheduler = options.scheduler;
    this.#process = options.process;
    this.#delayMs = options.delayMs ?? 1;
    this.#onFault = options.onFault ?? (() => {});
  }

  createScope(scope: string): Promise<void> {
    return this.#call('createScope', scope, () => this.#store.createScope(scope));
  }
  probeScope(scope: string): Promise<boolean> {
    return this.#call('probeScope', scope, () => this.#store.probeScope(scope));
  }
  fence(scope: string): Promise<void> {
    return this.#call('fence', scope, () => this.#store.fence(scope));
  }
  sweepScope(scope: string): Promise<number> {
    return this.#call('sweepScope', scope, () => this.#store.sweepScope(scope));
  }
  unfinished(scope: string): Promise<number> {
    return this.#call('unfinished', scope, () => this.#store.unfinished(scope));
  }
  putIfAbsent(scope: string, key: string, body: readonly Uint8Array[]): Promise<PutResult> {
    // A dead process sends nothing more: what arrives then left it whole. Of a living one the memory is read when it arrives.
    const sent = body.map((part) => Buffer.from(part));
    return this.#call('putIfAbsent', key, () =>
      this.#store.putIfAbsent(scope, key, this.#process.isAlive ? body : sent),
    );
  }
  stat(key: string): Promise<StoreStat | undefined> {
    return this.#call('stat', key, () => this.#store.stat(key));
  }
  list(prefix: string, after: string | undefined, limit: number): Promise<ListEntry[]> {
    return this.#call('list', prefix, () => this.#store.list(prefix, after, limit));
  }
  delete(key: string): Promise<void> {
    return this.#call('delete', key, () => this.#store.delete(key));
  }
  deleteDirectory(prefix: string): Promise<void> {
    return this.#call('deleteDirectory', prefix, () => this.#store.deleteDirectory(prefix));
  }
  space(): Promise<{ freeBytes: number; totalBytes: number }> {
    return this.#call('space', '', () => this.#store.space());
  }
  close(): Promise<void> {
    return this.#store.close();
  }

  /** What only looks: the way there takes no time of its own, the answer may be old when it arrives. */
  read(key: string, offset: number, target: Buffer, done: StoreReadDone): void {
    const fault = this.#choose('read', key);
    const finish = (error: DvceError | null): void => {
      if (error === null && fault?.kind === 'bitFlip' && target.byteLength > 0) {
        const at = this.#scheduler.random.below(target.byteLength);
        target[at] = (target[at] ?? 0) ^ (1 << this.#scheduler.random.below(8));
      }
      this.#after(replyDelayMs(fault), () => done(error));
    };
    const request = (): void => {
      if (fault?.kind === 'unavailable') finish(this.#unavailable());
      else this.#store.read(key, offset, target, finish);
    };
    if (fault === undefined) request();
    else this.#after(requestDelayMs(fault), request);
  }

  async #call<T>(operation: StoreOperation, key: string, perform: () => Promise<T>): Promise<T> {
    const fault = this.#choose(operation, key);
    if (fault !== undefined || !isLook(operation)) await this.#wait(requestDelayMs(fault));
    if (fault?.kind === 'unavailable' && fault.when === 'before') throw this.#unavailable();
    if (fault?.kind === 'noSpace')
      throw new DvceError('NO_SPACE', { where: this.location, reason: 'injected' });
    const result = await perform();
    await this.#wait(replyDelayMs(fault));
    if (fault?.kind === 'unavailable') throw this.#unavailable();
    return result;
  }

  #choose(operation: StoreOperation, key: string): StoreFault | undefined {
    const fault = this.plan(operation, key) ?? this.#chance(operation);
    if (operation === 'read') this.#hasFlipped = fault?.kind === 'bitFlip';
    if (fault !== undefined) this.#onFault(fault, operation);
    return fault;
  }

  #chance(operation: StoreOperation): StoreFault | undefined {
    const { random } = this.#scheduler;
    const strikes = (perMille: number): boolean => perMille > 0 && random.below(1000) < perMille;
    if (strikes(this.chances.unavailable)) return { kind: 'unavailable', when: 'before' };
    if (operation === 'putIfAbsent' && strikes(this.chances.noSpace)) return { kind: 'noSpace' };
    if (operation === 'read' && strikes(this.chances.bitFlip) && !this.#hasFlipped)
      return { kind: 'bitFlip' };
    const delayMs = random.below(lateMs);
    if (strikes(this.chances.lateRequest)) return { kind: 'lateRequest', delayMs };
    if (strikes(this.chances.lateReply)) return { kind: 'lateReply', delayMs };
    return undefined;
  }

  #unavailable(): DvceError {
    return new DvceError('STORE_UNAVAILABLE', { where: this.location, reason: 'injected' });
  }

  #wait(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      this.#after(delayMs, resolve);
    });
  }

  /** Every operation takes a random time, so that they overtake each other; a late one takes that much more. */
  #after(lateByMs: number, task: () => void): void {
    const { random } = this.#scheduler;
    const delayMs = (random.below(1000) / 1000) * this.#delayMs + lateByMs;
    this.#scheduler.after(delayMs, task, this.#process);
  }
}

const isLook = (operation: StoreOperation): boolean =>
  operation === 'stat' || operation === 'list' || operation === 'space';
const requestDelayMs = (fault: StoreFault | undefined): number =>
  fault?.kind === 'lateRequest' ? fault.delayMs : 0;
const replyDelayMs = (fault: StoreFault | undefined): number =>
  fault?.kind === 'lateReply' ? fault.delayMs : 0;
