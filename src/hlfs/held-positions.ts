/**
 * Positions of a log that is being written, which are asked for after every root (G2).
 *
 * Reading the documents of a thousand snapshots takes longer than the root. What is known of many is therefore kept, because
 * the position of a snapshot never changes; names and pins are listed each time.
 *
 * Invariants:
 * - the answer has every position that a document named when it was asked for. A snapshot is made by the log's writer alone,
 *   who says so (`made`; `forget` when it does not know), so that a name which is used again has its new position;
 * - it may have more: of many snapshots the deleted ones stay in it until all are read again, which takes at most a twentieth
 *   of the time;
 * - one question at a time.
 */
import { asSnapshotName, type LogId, limits } from '../base/index.ts';
import { partToName, readSnapshot, snapshotsPrefix } from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import { listPins } from './pins.ts';
import { snapshotsIn } from './snapshots.ts';

/** Pause between two complete reads, as a multiple of what the last one took. */
const pauseFactor = 20;

export class HeldPositions {
  readonly #context: HlfsContext;
  readonly #log: LogId;
  #known = new Map<string, number>();
  /** Names without a snapshot, as they were read. */
  #gone = new Set<string>();
  /** Snapshots made since the last complete read began. */
  readonly #made = new Map<string, { readonly position: number }>();
  #nextMs = Number.NEGATIVE_INFINITY;
  #running: Promise<unknown> = Promise.resolve();

  constructor(context: HlfsContext, log: LogId) {
    this.#context = context;
    this.#log = log;
  }

  /** The document of a snapshot was written. */
  made(name: string, position: number): void {
    this.#made.set(name, { position });
    this.#known.set(name, position);
    this.#gone.delete(name);
  }

  /** It is not known what was written. */
  forget(name: string): void {
    this.#made.delete(name);
    this.#known.delete(name);
    this.#gone.delete(name);
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

  /** Ascending. */
  read(): Promise<number[]> {
    const reading = this.#running.then(() => this.#read());
    this.#running = reading.catch(() => {});
    return reading;
  }

  async #read(): Promise<number[]> {
    const isDue = this.#context.clock.monotonicMs() >= this.#nextMs;
    if (isDue || this.#known.size < limits.positionsKnownMin) await this.#readAll();
    else await this.#readNew();
    // After the snapshots: a fork writes its pins before its snapshot may go (G3).
    const pins = await listPins(this.#context, this.#log);
    const positions = [...this.#known.values(), ...pins.map(({ cut }) => cut)];
    return [...new Set(positions)].sort((a, b) => a - b);
  }

  async #readAll(): Promise<void> {
    const { clock } = this.#context;
    const startMs = clock.monotonicMs();
    const before = [...this.#made];
    const snapshots = await snapshotsIn(this.#context, this.#log);
    const known = new Map(snapshots.map(({ value }) => [value.name as string, value.rootSegment]));
    // One whose name was used again meanwhile stays.
    for (const [name, made] of before) if (this.#made.get(name) === made) this.#made.delete(name);
    for (const [name, { position }] of this.#made) known.set(name, position);
    this.#known = known;
    this.#gone = new Set();
    const endMs = clock.monotonicMs();
    this.#nextMs = endMs + pauseFactor * (endMs - startMs);
  }

  async #readNew(): Promise<void> {
    for (const part of await this.#context.documents.names(snapshotsPrefix(this.#log))) {
      const name = partToName(part);
      if (name === undefined || this.#known.has(name) || this.#gone.has(name)) continue;
      const found = await readSnapshot(this.#context, this.#log, asSnapshotName(name));
      if (this.#known.has(name)) continue; // made meanwhile
      if (found === undefined) this.#gone.add(name);
      else this.#known.set(name, found.value.rootSegment);
    }
  }
}
