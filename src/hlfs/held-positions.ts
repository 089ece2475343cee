/**
 * Positions of a log that is being written, which are asked for after every root (G2).
 *
 * Reading the documents of a thousand snapshots takes longer than the root, and of a hundred thousand longer than anybody waits.
 * The positions of many are therefore read beside the roots and kept, because the position of a snapshot never changes; pins
 * are listed each time.
 *
 * Invariants:
 * - the answer has every position that a document named when it was asked for, or is null: they are not known yet, and then
 *   nothing goes. A snapshot is made by the log's writer alone, who says so (`made`), so that a name which is used again has its
 *   new position; when it does not know whether it was made (`forget`), its document is looked at each time;
 * - it may have more: of many snapshots the deleted ones stay in it until all are read again, which takes at most a twentieth
 *   of the time;
 * - one question at a time; nothing is read after `stop` has resolved.
 */
import { asSnapshotName, type LogId, limits } from '../base/index.ts';
import { partToName, readSnapshot, snapshotsPrefix } from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import { listPins } from './pins.ts';

/** Pause between two complete reads, as a multiple of what the last one took. */
const pauseFactor = 20;

export class HeldPositions {
  readonly #context: HlfsContext;
  readonly #log: LogId;
  #known = new Map<string, number>();
  /** What is known, ascending; null when that has changed. */
  #sorted: readonly number[] | null = null;
  #isComplete = false;
  /** Snapshots that may have been made or not. */
  readonly #unsure = new Set<string>();
  /** Snapshots made since the last complete read began. */
  readonly #made = new Map<string, { readonly position: number }>();
  #nextMs = Number.NEGATIVE_INFINITY;
  /** A complete read that nobody waits for. */
  #reading: Promise<void> | null = null;
  #failure: { readonly error: unknown } | null = null;
  #running: Promise<unknown> = Promise.resolve();
  #isStopped = false;

  constructor(context: HlfsContext, log: LogId) {
    this.#context = context;
    this.#log = log;
  }

  /** The document of a snapshot was written. */
  made(name: string, position: number): void {
    this.#made.set(name, { position });
    this.#unsure.delete(name);
    this.#set(name, position);
  }

  /** It is not known what was written. */
  forget(name: string): void {
    this.#made.delete(name);
    this.#unsure.add(name);
    // Too many to look at each time: all are read anew.
    if (this.#unsure.size > limits.positionsKnownMin) this.#isComplete = false;
  }

  /** Name of the newest snapshot at or before a position, deleted ones included; undefined when that is not known. */
  newestBefore(position: number): string | undefined {
    let newest: string | undefined;
    let at = -1;
    for (const [name, each] of this.#known) {
      if (each > position || each < at) continue;
      newest = each === at ? undefined : name; // of several at one position this does not know the order
      at = each;
    }
    return newest;
  }

  /** Ascending; null while they are not known. */
  read(): Promise<readonly number[] | null> {
    const reading = this.#running.then(() => this.#read());
    this.#running = reading.catch(() => {});
    return reading;
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    await this.settled();
  }

  /** Resolves when nothing is being read any more. */
  async settled(): Promise<void> {
    await this.#running;
    await this.#reading;
  }

  async #read(): Promise<readonly number[] | null> {
    const failure = this.#failure;
    this.#failure = null;
    if (failure !== null) throw failure.error;
    const isKept = this.#isComplete && this.#known.size >= limits.positionsKnownMin;
    const isDue = !isKept || this.#context.clock.monotonicMs() >= this.#nextMs;
    if (isDue && this.#reading === null && !this.#isStopped) await this.#readAgain();
    if (!this.#isComplete) return null;
    for (const name of this.#unsure) {
      const found = await readSnapshot(this.#context, this.#log, asSnapshotName(name));
      if (found !== undefined) this.#set(name, found.value.rootSegment);
    }
    // After the snapshots: a fork writes its pins before its snapshot may go (G3).
    const pins = await listPins(this.#context, this.#log);
    this.#sorted ??= [...new Set(this.#known.values())].sort((a, b) => a - b);
    if (pins.length === 0) return this.#sorted;
    return [...new Set([...this.#sorted, ...pins.map(({ cut }) => cut)])].sort((a, b) => a - b);
  }

  #set(name: string, position: number): void {
    if (this.#known.get(name) === position) return;
    this.#known.set(name, position);
    this.#sorted = null;
  }

  async #readAgain(): Promise<void> {
    const before = [...this.#made];
    const unsure = [...this.#unsure];
    const startMs = this.#context.clock.monotonicMs();
    const parts = await this.#context.documents.names(snapshotsPrefix(this.#log));
    const names = parts.map(partToName).filter((name) => name !== undefined);
    const reading = this.#readAll(names).then((known) => {
      if (known === null) return;
      // One whose name was used again meanwhile stays.
      for (const [name, made] of before) if (this.#made.get(name) === made) this.#made.delete(name);
      for (const [name, { position }] of this.#made) known.set(name, position);
      // Read since: what became of them is settled.
      for (const name of unsure) this.#unsure.delete(name);
      this.#known = known;
      this.#sorted = null;
      this.#isComplete = true;
      const endMs = this.#context.clock.monotonicMs();
      this.#nextMs = endMs + pauseFactor * (endMs - startMs);
    });
    if (names.length < limits.positionsKnownMin) return await reading;
    this.#reading = reading
      .catch((error: unknown) => {
        this.#failure = { error };
      })
      .finally(() => {
        this.#reading = null;
      });
  }

  /** null: stopped on the way. */
  async #readAll(names: readonly string[]): Promise<Map<string, number> | null> {
    const known = new Map<string, number>();
    for (const name of names) {
      if (this.#isStopped) return null;
      const found = await readSnapshot(this.#context, this.#log, asSnapshotName(name));
      if (found !== undefined) known.set(name, found.value.rootSegment);
    }
    return known;
  }
}
