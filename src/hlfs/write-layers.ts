/**
 * The overlays of an open volume: one that takes new records, and the frozen ones on their way to the store.
 *
 * Invariants:
 * - the layers together hold every record behind what the map covers, each record in exactly one;
 * - an overlay is frozen before it could outgrow one segment: its content is a state between two records, and appears in
 *   the store at once or not at all;
 * - the list of layers that reads use changes in one step, and a batch leaves it before its journal space is freed.
 */
import { type DvceError, limits, type Timer, type Timers } from '../base/index.ts';
import type { BuildBudget } from './build-budget.ts';
import type { Appended, Journal } from './journal.ts';
import type { JournalReads } from './journal-reader.ts';
import { Overlay } from './overlay.ts';
import { blockBytes } from './pointer.ts';
import type { FrozenBatch } from './publisher.ts';

export type OnRoot = (root: { number: number; checksum: number } | DvceError) => void;

export interface WriteLayersOptions {
  readonly firstSeq: number;
  readonly timers: Timers;
  readonly journal: Pick<Journal, 'quotaBytes' | 'usedBytes'>;
  /** Map pages that a batch may touch. */
  readonly mapPagesMax: number;
  readonly reads: JournalReads;
  readonly budget: BuildBudget;
  /** Batches that begin from now on keep each block as it was at every flush (DD-0013). */
  readonly keepsPoints: () => boolean;
  readonly publisher: { readonly frozen: readonly FrozenBatch[]; push(batch: FrozenBatch): void };
}

export class WriteLayers {
  readonly #options: WriteLayersOptions;
  #active: Overlay;
  #overlays: readonly Overlay[] = [];
  #ageTimer: Timer | null = null;
  /** Who waits for the root of the next marks, in order. */
  #marks: OnRoot[] = [];

  constructor(options: WriteLayersOptions) {
    this.#options = options;
    this.#active = this.#newOverlay(options.firstSeq);
    this.refresh();
  }

  #newOverlay(firstSeq: number): Overlay {
    const { reads, budget, keepsPoints } = this.#options;
    return new Overlay(firstSeq, reads, budget, { keepsPoints: keepsPoints() });
  }

  /** Newest first. */
  get overlays(): readonly Overlay[] {
    return this.#overlays;
  }

  /** Take the publisher's list anew. */
  refresh(): void {
    const frozen = this.#options.publisher.frozen.map(({ overlay }) => overlay);
    this.#overlays = [this.#active, ...frozen.toReversed()];
  }

  /** @param options.mayKeep as in `Overlay.apply` */
  apply(record: Appended, options: { readonly mayKeep?: boolean } = {}): void {
    if (this.#isFull()) this.freeze();
    const wasEmpty = this.#active.isEmpty;
    this.#active.apply(record, options);
    if (record.entry.kind === 'mark') this.#cut(this.#marks.shift() ?? null, 0);
    else if (wasEmpty && this.#ageTimer === null)
      this.#ageTimer = this.#options.timers.after(limits.batchAgeMs, () => {
        this.#ageTimer = null;
        this.freeze();
      });
  }

  /** After the records of a turn. */
  settle(): void {
    const { publisher, journal } = this.#options;
    // Rewriting the same blocks fills the journal without filling the overlay.
    const isPressed = publisher.frozen.length === 0 && journal.usedBytes * 2 > journal.quotaBytes;
    if (isPressed || this.#isFull()) this.freeze();
  }

  #isFull(): boolean {
    const { dataBlocks, partialBlocks, tombstones, entries, mapPages, history } = this.#active;
    const bytesMax = Math.min(
      limits.segmentDataBytes,
      Math.floor(this.#options.journal.quotaBytes / 4),
    );
    return (
      Math.max(dataBlocks, history?.dataBlocks ?? 0) * blockBytes >= bytesMax ||
      partialBlocks + (history?.partialBlocks ?? 0) >= limits.overlayPartialBlocks ||
      (history?.marks ?? 0) >= limits.batchMarks ||
      tombstones.length >= limits.overlayTombstones ||
      Math.max(entries, history?.entries ?? 0) >= limits.overlayEntries ||
      mapPages >= this.#options.mapPagesMax
    );
  }

  /** `onRoot` is told the root of the next mark that is applied; with `first`, before those that wait for theirs. */
  expectMark(onRoot: OnRoot, { first = false } = {}): void {
    if (first) this.#marks.unshift(onRoot);
    else this.#marks.push(onRoot);
  }

  /** The mark will not come. */
  dropMark(onRoot: OnRoot): void {
    this.#marks = this.#marks.filter((each) => each !== onRoot);
  }

  /** Publish what the active overlay has; nothing when it has none. */
  freeze(): void {
    if (this.#active.lastSeq >= this.#active.firstSeq) this.#cut(null, 0);
  }

  /** Publish everything and write a root with these flags. */
  freezeWithRoot(onRoot: OnRoot, flags: number): void {
    this.#cut(onRoot, flags);
  }

  #cut(onRoot: OnRoot | null, flags: number): void {
    this.stopTimer();
    const overlay = this.#active;
    this.#active = this.#newOverlay(overlay.lastSeq + 1);
    this.#options.publisher.push({ overlay, onRoot, flags });
    this.refresh();
  }

  stopTimer(): void {
    this.#ageTimer?.cancel();
    this.#ageTimer = null;
  }

  /** J5: records lie elsewhere now. Applying them again in order gives every overlay the new addresses. */
  move(records: readonly Appended[]): void {
    const oldestFirst = this.#overlays.toReversed();
    for (const record of records) {
      const { seq } = record;
      oldestFirst.find(({ firstSeq, lastSeq }) => firstSeq <= seq && seq <= lastSeq)?.apply(record);
    }
  }

  /** Nothing will be published any more: payloads go from memory, reads find them in the journal. */
  letGo(): void {
    for (const overlay of this.#overlays) overlay.letGo(false);
  }

  /** Nothing will be published any more. */
  fail(error: DvceError): void {
    this.letGo();
    const marks = this.#marks;
    this.#marks = [];
    for (const onRoot of marks) onRoot(error);
  }
}
