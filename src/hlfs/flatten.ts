/**
 * Flatten: an open volume comes to need nothing of the logs that its log was forked from (G4, DD-0018).
 *
 *   pass     walk the map; what it finds below the log's first number is read and published again as a move, and pages are written
 *            anew, until a whole pass finds nothing
 *   leave    from now on roots say that the log has no base; two of them are written
 *   release  the base goes out of the log's document and the pins in it go (base-release.ts), when nothing else needs them
 *
 * Invariants:
 * - a block is relocated like one that is cleaned: where the map holds another pointer by then, the move says nothing (G1). So
 *   guests write meanwhile, and what they write wins;
 * - nothing makes new pointers into the base: what a pass finds only gets less, and one that finds nothing is the proof;
 * - a root says that there is no base only when no snapshot is between its root and its document: so a snapshot whose document
 *   appears later has such a root too, and the documents that are there tell what still needs the base (G3);
 * - cut short anywhere nothing is lost: what was moved stays moved, and the next run goes on from there.
 */
import { DvceError, limits, sleep, type VolumeId } from '../base/index.ts';
import { releaseBase, snapshotsWithBase } from './base-release.ts';
import { finishMove, gatherBlocks } from './cleaner.ts';
import type { HlfsContext } from './context.ts';
import type { Foreground } from './foreground.ts';
import { requireHead } from './heads.ts';
import { recoverLog } from './log-recovery.ts';
import type { LogWriter } from './log-writer.ts';
import { keyOf } from './map-page.ts';
import { blockBytes } from './pointer.ts';
import type { Publisher } from './publisher.ts';
import { bytesBelow } from './space.ts';
import type {
  BaseUse,
  FlattenControl,
  Flattened,
  FlattenOptions,
  FlattenPlan,
} from './volume-api.ts';

export interface FlattenerOptions {
  readonly context: HlfsContext;
  readonly id: VolumeId;
  readonly name: string;
  readonly writer: LogWriter;
  readonly publisher: Publisher;
  readonly foreground: Foreground;
  /** Roots of snapshots whose document is not written yet. */
  readonly unnamed: () => readonly number[];
}

/** Roots that may be needed until the two newest of them say that there is no base. */
const rootsMax = 4;

export class Flattener implements FlattenControl {
  readonly #options: FlattenerOptions;
  readonly #stopped = new AbortController();
  #isRunning = false;

  constructor(options: FlattenerOptions) {
    this.#options = options;
  }

  /** The volume is being closed. */
  stop(): void {
    this.#stopped.abort(new DvceError('VOLUME_CLOSED', { name: this.#options.name }));
  }

  /** @throws CONFLICT while it runs already; NO_SPACE; CANCELLED; SEGMENT_DAMAGED when the base cannot be read */
  async run({ signal, onProgress }: FlattenOptions): Promise<Flattened> {
    const { name } = this.#options;
    if (this.#isRunning)
      throw new DvceError('CONFLICT', { kind: 'volume', name, reason: 'it is being flattened' });
    this.#isRunning = true;
    const all = AbortSignal.any([signal, this.#stopped.signal]);
    try {
      const movedBytes = await this.#copy(all, onProgress);
      return { movedBytes, ...(await this.#release(all)) };
    } catch (error) {
      all.throwIfAborted();
      throw error;
    } finally {
      this.#isRunning = false;
    }
  }

  plan(): Promise<FlattenPlan> {
    return planFlatten(this.#options.context, this.#options.writer);
  }

  async #copy(signal: AbortSignal, onProgress: FlattenOptions['onProgress']): Promise<number> {
    const { writer, publisher, foreground } = this.#options;
    if (writer.state.baseRanges.length === 0) return 0;
    const totalBytes = await bytesBelow(writer);
    await refuseFull(this.#options.context, totalBytes);
    foreground.forget();
    let movedBytes = 0;
    onProgress(0, totalBytes);
    const onMoved = (bytes: number): void => {
      movedBytes += bytes;
      onProgress(Math.min(movedBytes, totalBytes), totalBytes);
    };
    while ((await new Pass(this.#options, signal, onMoved).run()) > 0)
      await publisher.inTurn(0, () => publisher.writeRoot());
    await this.#leave(signal);
    onProgress(totalBytes, totalBytes);
    return movedBytes;
  }

  /** Roots say from now on that there is no base. */
  async #leave(signal: AbortSignal): Promise<void> {
    const { writer, publisher, unnamed, context, name } = this.#options;
    const lateMs = context.clock.monotonicMs() + limits.flattenPatienceMs;
    for (let isLeft = false; !isLeft; ) {
      signal.throwIfAborted();
      isLeft = await publisher.inTurn(0, async () => {
        if (unnamed().length > 0) return false;
        writer.state.baseRanges = [];
        await publisher.writeRoot();
        return true;
      });
      if (isLeft) return;
      // A set whose coordinator is gone leaves its cut until the next one.
      const reason = 'a snapshot of it is being made, and does not come to its end';
      if (context.clock.monotonicMs() > lateMs)
        throw new DvceError('CONFLICT', { kind: 'volume', name, reason });
      await sleep(context.timers, limits.flattenWaitMs, signal);
    }
  }

  /** Both roots that are kept have to say so (L3). */
  async #release(signal: AbortSignal): Promise<{ readonly held: BaseUse | null }> {
    const { publisher, context, id } = this.#options;
    for (let roots = 0; ; roots += 1) {
      signal.throwIfAborted();
      const held = await releaseBase(context, id);
      if (held?.roots !== true || roots === rootsMax) return { held };
      await publisher.inTurn(0, () => publisher.writeRoot());
    }
  }
}

/** @param writer of the volume's current log, live or as recovered */
async function planFlatten(context: HlfsContext, writer: LogWriter): Promise<FlattenPlan> {
  const { log, baseRanges } = writer.state;
  const isFlat = baseRanges.length === 0;
  const { names, areMore } = await snapshotsWithBase(context, log);
  const points = !isFlat && writer.retention !== null;
  const held = { roots: false, snapshots: names, areMore, points };
  return {
    copyBytes: isFlat ? 0 : await bytesBelow(writer),
    held: names.length > 0 || points ? held : null,
  };
}

/** Of a volume that is not open. */
export async function planClosedFlatten(
  context: HlfsContext,
  volume: VolumeId,
): Promise<FlattenPlan> {
  const { log, retainMs = null } = (await requireHead(context, volume)).value;
  // Recovery writes nothing; nothing is published by this writer.
  const nobody = { context, scope: '', epoch: 0, incarnation: 0, recoveredSeq: 0, retainMs };
  return planFlatten(context, (await recoverLog(log, nobody)).writer);
}

/** @throws NO_SPACE when the store would be nearly full with so much more in it */
export async function refuseFull({ store }: HlfsContext, neededBytes: number): Promise<void> {
  const { freeBytes, totalBytes } = await store.space();
  const reserve = Math.min(limits.storeReserveBytes, totalBytes / 20);
  const margin = Math.min(limits.cleanUrgentBytes, totalBytes / 20);
  if (freeBytes - neededBytes >= reserve + margin) return;
  throw new DvceError('NO_SPACE', {
    where: store.location,
    reason: `${neededBytes} bytes are to be copied and ${Math.max(0, Math.floor(freeBytes - reserve - margin))} are free for that`,
  });
}

/** One walk through the map. */
class Pass {
  readonly #options: FlattenerOptions;
  readonly #signal: AbortSignal;
  readonly #onMoved: (bytes: number) => void;
  readonly #first: number;
  #blocks: number[] = [];
  #pages = new Map<number, number[]>();
  #pageCount = 0;
  #found = 0;

  constructor(options: FlattenerOptions, signal: AbortSignal, onMoved: (bytes: number) => void) {
    this.#options = options;
    this.#signal = signal;
    this.#onMoved = onMoved;
    this.#first = options.writer.state.firstNumber;
  }

  /** @returns how many pointers into the base it found */
  async run(): Promise<number> {
    await this.#options.writer.map.walk({
      page: async (level, index, [segment]) => {
        if (level === 0) await this.#step(async () => {});
        if (this.#isBelow(segment)) this.#addPage(segment, keyOf(level, index));
        return undefined;
      },
      leaf: async (firstBlock, words) => {
        for (let at = 0; at < words.length; at += 4)
          if (this.#isBelow(words[at] ?? 0)) this.#blocks.push(firstBlock + at / 4);
        if (this.#blocks.length + this.#pageCount >= limits.flattenBlocksPerMove)
          await this.#move();
      },
    });
    if (this.#blocks.length + this.#pageCount > 0) await this.#move();
    return this.#found;
  }

  #isBelow(segment: number): boolean {
    return segment > 0 && segment < this.#first;
  }

  #addPage(segment: number, key: number): void {
    const keys = this.#pages.get(segment);
    if (keys === undefined) this.#pages.set(segment, [key]);
    else keys.push(key);
    this.#pageCount += 1;
  }

  async #step<T>(work: () => Promise<T>): Promise<T> {
    const { foreground } = this.#options;
    await foreground.pause(this.#signal);
    this.#signal.throwIfAborted();
    return foreground.step(work);
  }

  /** What was found so far, in one move. */
  async #move(): Promise<void> {
    const { context, writer, publisher } = this.#options;
    const blocks = this.#blocks;
    const pages = [...this.#pages].map(([segment, keys]) => ({ segment, keys }));
    this.#found += blocks.length + this.#pageCount;
    this.#blocks = [];
    this.#pages = new Map();
    const bytes = (blocks.length + this.#pageCount) * blockBytes;
    this.#pageCount = 0;
    await refuseFull(context, bytes);
    const moved = await gatherBlocks(
      writer,
      blocks,
      (segment) => this.#isBelow(segment),
      (work) => this.#step(work),
    );
    const move = { emptied: [], moved, pages, generation: 0 };
    await publisher.inTurn(bytes, () => finishMove(writer, move));
    this.#onMoved(moved.reduce((sum, { length }) => sum + length, 0));
  }
}
