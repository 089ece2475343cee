/**
 * Looks at the segments that the engine publishes and counts which conditions of the scenarios came together.
 *
 *   3   power fails while a published segment holds records that the journal has not synced; new writes; it fails again
 *   4   a block is overwritten while the cleaner publishes its old copy; a crash before the next root (which the watch plans,
 *       because that moment is short)
 */

import type { PutResult, SegmentStore } from '../../src/hlfs/index.ts';
import {
  decodeSegmentHeader,
  segmentFlags,
  segmentHeaderBytes,
} from '../../src/hlfs/segment-format.ts';
import { decodeIndex } from '../../src/hlfs/segment-index.ts';

const blockSectors = 8;

/** What outlives a process: the second half of scenario 3 comes in another boot. */
export interface SegmentMemory {
  wasAhead: boolean;
}

export class SegmentWatch {
  readonly #note: (what: string) => void;
  readonly #memory: SegmentMemory;
  readonly #onOverwritten: () => void;
  /** Blocks whose relocation is published, but in no root yet. */
  #relocated = new Set<number>();
  /** Blocks that the guest wrote and that are in no segment yet. */
  readonly #unpublished = new Set<number>();
  /** The log of the volume that is watched, or undefined while it is not open. */
  follow: () => string | undefined = () => undefined;
  #overwritten = 0;
  #isAheadOfJournal = false;
  #hasWritten = false;

  /** @param onOverwritten the condition of scenario 4 is there, but for the crash */
  constructor(note: (what: string) => void, memory: SegmentMemory, onOverwritten: () => void) {
    this.#note = note;
    this.#memory = memory;
    this.#onOverwritten = onOverwritten;
  }

  journalSynced(): void {
    this.#isAheadOfJournal = false;
  }

  guestWrites(first: number, count: number): void {
    this.#hasWritten = true;
    const last = Math.floor((first + count - 1) / blockSectors);
    for (let block = Math.floor(first / blockSectors); block <= last; block += 1)
      this.#write(block);
  }

  #write(block: number): void {
    this.#unpublished.add(block);
    if (this.#relocated.has(block)) this.#overwritten += 1;
  }

  died(ending: 'power loss' | 'kill'): void {
    if (this.#overwritten > 0)
      this.#note('scenario 4: overwritten after it was moved, crash before the root');
    if (ending !== 'power loss') return;
    if (this.#memory.wasAhead && this.#hasWritten)
      this.#note('scenario 3: segments ahead of the journal, new writes, second power loss');
    this.#memory.wasAhead = this.#isAheadOfJournal;
  }

  /** The same store, with every published segment looked at. */
  wrap(store: SegmentStore): SegmentStore {
    return Object.create(store, {
      ...bound(store),
      putIfAbsent: {
        value: async (
          scope: string,
          key: string,
          body: readonly Uint8Array[],
        ): Promise<PutResult> => {
          const result = await store.putIfAbsent(scope, key, body);
          if (result.outcome === 'created' && this.#isFollowed(key)) this.#look(key, body);
          return result;
        },
      },
    });
  }

  #isFollowed(key: string): boolean {
    const log = this.follow();
    return log !== undefined && key.startsWith(`logs/${log}/seg/`);
  }

  #look(key: string, body: readonly Uint8Array[]): void {
    const bytes = Buffer.concat(body);
    const header = decodeSegmentHeader(bytes.subarray(0, segmentHeaderBytes), key);
    if ((header.flags & segmentFlags.root) !== 0) {
      this.#relocated.clear();
      this.#overwritten = 0;
    } else if (header.lastSeq >= header.firstSeq) this.#isAheadOfJournal = true;
    const index = bytes.subarray(header.indexOffset, header.indexOffset + header.indexBytes);
    for (const run of decodeIndex(index, key)) {
      if (run.kind !== 'data' && run.kind !== 'relocation') continue;
      for (let i = 0; i < run.checksums.length; i += 1)
        if (run.kind === 'data') this.#unpublished.delete(run.block + i);
        else this.#moved(run.block + i);
    }
    if (this.#overwritten > 0) this.#onOverwritten();
  }

  #moved(block: number): void {
    this.#relocated.add(block);
    if (this.#unpublished.has(block)) this.#overwritten += 1;
  }
}

/** Methods of a class with private fields work on the instance only. */
function bound(store: SegmentStore): PropertyDescriptorMap {
  return {
    createScope: { value: store.createScope.bind(store) },
    probeScope: { value: store.probeScope.bind(store) },
    fence: { value: store.fence.bind(store) },
    sweepScope: { value: store.sweepScope.bind(store) },
    unfinished: { value: store.unfinished.bind(store) },
    read: { value: store.read.bind(store) },
    stat: { value: store.stat.bind(store) },
    list: { value: store.list.bind(store) },
    delete: { value: store.delete.bind(store) },
    deleteDirectory: { value: store.deleteDirectory.bind(store) },
    space: { value: store.space.bind(store) },
    close: { value: store.close.bind(store) },
  };
}
