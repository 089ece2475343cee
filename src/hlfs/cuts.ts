/**
 * Cuts of an open volume: a mark in the journal ends a batch, the publisher writes a root of exactly that position, and a
 * snapshot's document names it. A **hold** is a cut in two steps, so that several volumes are cut at one instant (G5):
 *
 *   free --hold--> held --mark--> marked --release--> cut --document--> free
 *                   |               |                  +--drop--> free
 *                   +-- 2 s --------+--> broken --release (says so)--> free
 *
 * Invariants
 * - while held, no write is journaled and so none is acknowledged; reads and flushes of what was acknowledged go on;
 * - a hold ends by itself after `limits.holdMs`, so a coordinator that dies or stalls cannot stop a guest. Time is looked at
 *   when the mark is made and at release too: a stalled event loop runs the timer late;
 * - `release` says whether the hold was unbroken from before the mark until now. When all volumes of a set say so after all of
 *   them had confirmed their hold, there was an instant at which all stood still: the marks are that instant;
 * - a snapshot's segments stay from its cut on, also while its document is not written yet (G2).
 */
import {
  type Clock,
  DvceError,
  limits,
  type SnapshotName,
  type Timer,
  type Timers,
} from '../base/index.ts';
import type { RequestQueue } from './request-queue.ts';
import type { SnapshotDocument } from './schema.ts';
import type { SetCuts, SnapshotOptions } from './volume-api.ts';
import type { OnRoot, WriteLayers } from './write-layers.ts';

type Root = { readonly number: number; readonly checksum: number };

export type MakeSnapshot = (
  name: SnapshotName,
  root: Root,
  facts: SnapshotOptions & { readonly sizeBytes: number },
) => Promise<SnapshotDocument>;

interface Hold {
  readonly token: string;
  readonly sinceMs: number;
  readonly timer: Timer;
  state: 'held' | 'marked' | 'broken' | 'cut';
  root: Promise<Root>;
  sizeBytes: number;
}

export interface CutsOptions {
  readonly name: string;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly queue: RequestQueue;
  readonly writeLayers: WriteLayers;
  readonly sizeBytes: () => number;
  /** Journal a mark behind what waits. */
  readonly pushMark: (done: (error: DvceError | null) => void) => void;
  readonly checkName: (name: SnapshotName) => Promise<void>;
  readonly makeSnapshot: MakeSnapshot;
}

const never = (): Promise<Root> => new Promise(() => {});

export class Cuts implements SetCuts {
  readonly #options: CutsOptions;
  /** Roots of snapshots whose document is not written yet. */
  readonly #unnamed = new Set<number>();
  #hold: Hold | null = null;

  constructor(options: CutsOptions) {
    this.#options = options;
  }

  /** Positions that no document names yet. */
  get unnamed(): readonly number[] {
    return [...this.#unnamed];
  }

  async snapshot(name: SnapshotName, options: SnapshotOptions): Promise<SnapshotDocument> {
    await this.#options.checkName(name);
    const sizeBytes = this.#options.sizeBytes();
    const root = await this.cut((number) => this.#unnamed.add(number));
    return this.#document(name, root, { sizeBytes, ...options });
  }

  /** Cut the batch here and wait for the root of exactly this position. */
  cut(onNumber: (number: number) => void = () => {}): Promise<Root> {
    const { writeLayers, pushMark } = this.#options;
    return new Promise((resolve, reject) => {
      const onRoot = rootTo(resolve, reject, onNumber);
      writeLayers.expectMark(onRoot);
      pushMark((error) => {
        if (!error) return;
        writeLayers.dropMark(onRoot);
        reject(error);
      });
    });
  }

  /** G5, step 1. Afterwards nothing is journaled until `release`, or until the time is over. */
  hold(token: string): void {
    const { queue, clock, timers, name } = this.#options;
    if (this.#hold !== null && this.#hold.state !== 'cut')
      throw new DvceError('CONFLICT', {
        kind: 'volume',
        name,
        reason: 'it is being cut together with others already',
      });
    // A coordinator that never came back for its cut.
    if (this.#hold !== null) this.drop(this.#hold.token);
    queue.hold();
    const hold: Hold = {
      token,
      sinceMs: clock.monotonicMs(),
      timer: timers.after(limits.holdMs, () => this.#break(hold)),
      state: 'held',
      root: never(),
      sizeBytes: this.#options.sizeBytes(),
    };
    this.#hold = hold;
  }

  /** G5, step 2, after all have confirmed step 1. @throws CONFLICT when the hold is broken */
  mark(token: string): void {
    const { queue, writeLayers } = this.#options;
    const hold = this.#find(token);
    if (this.#isLate(hold)) this.#break(hold);
    if (hold.state !== 'held') throw this.#broken();
    const { promise, resolve, reject } = Promise.withResolvers<Root>();
    promise.catch(() => {}); // whoever asks for the document sees the error
    const onRoot = rootTo(resolve, reject, (number) => this.#unnamed.add(number));
    writeLayers.expectMark(onRoot, { first: true });
    try {
      queue.markHeld();
    } catch (error) {
      writeLayers.dropMark(onRoot);
      throw error;
    }
    hold.root = promise;
    hold.state = 'marked';
  }

  /** G5, step 3. @returns whether the hold was unbroken until now, with the mark in it */
  release(token: string): boolean {
    const hold = this.#hold;
    if (hold === null || hold.token !== token || hold.state === 'cut') return false;
    if (this.#isLate(hold)) this.#break(hold);
    const isUnbroken = hold.state === 'marked';
    hold.timer.cancel();
    this.#options.queue.release();
    if (isUnbroken) hold.state = 'cut';
    else this.drop(token);
    return isUnbroken;
  }

  /** G5, step 4: the root of the mark, and the document of the snapshot that is a member of `set`. */
  async documentOfCut(
    token: string,
    name: SnapshotName,
    options: SnapshotOptions,
  ): Promise<SnapshotDocument> {
    const hold = this.#find(token);
    if (hold.state !== 'cut') throw this.#broken();
    const { sizeBytes, root } = hold;
    try {
      return await this.#document(name, await root, { sizeBytes, ...options });
    } finally {
      this.drop(token);
    }
  }

  /** The set is given up: what the mark left is an ordinary root. */
  drop(token: string): void {
    const hold = this.#hold;
    if (hold === null || hold.token !== token) return;
    hold.timer.cancel();
    if (hold.state === 'held' || hold.state === 'marked') this.#options.queue.release();
    this.#hold = null;
    hold.root.then(
      ({ number }) => this.#unnamed.delete(number),
      () => {},
    );
  }

  /** Nothing of the writer works any more. */
  fail(): void {
    if (this.#hold !== null) this.drop(this.#hold.token);
  }

  async #document(
    name: SnapshotName,
    root: Root,
    facts: SnapshotOptions & { readonly sizeBytes: number },
  ): Promise<SnapshotDocument> {
    try {
      return await this.#options.makeSnapshot(name, root, facts);
    } finally {
      this.#unnamed.delete(root.number);
    }
  }

  #isLate({ sinceMs, state }: Hold): boolean {
    const isHolding = state === 'held' || state === 'marked';
    return isHolding && this.#options.clock.monotonicMs() - sinceMs > limits.holdMs;
  }

  #break(hold: Hold): void {
    if (hold.state !== 'held' && hold.state !== 'marked') return;
    hold.state = 'broken';
    this.#options.queue.release();
  }

  #find(token: string): Hold {
    if (this.#hold?.token === token) return this.#hold;
    throw this.#broken();
  }

  #broken(): DvceError {
    return new DvceError('CONFLICT', {
      kind: 'volume',
      name: this.#options.name,
      reason: `it could not be held still for all of the cut (${limits.holdMs} ms)`,
    });
  }
}

function rootTo(
  resolve: (root: Root) => void,
  reject: (error: DvceError) => void,
  onNumber: (number: number) => void,
): OnRoot {
  return (root) => {
    if (root instanceof DvceError) return reject(root);
    onNumber(root.number);
    resolve(root);
  };
}
