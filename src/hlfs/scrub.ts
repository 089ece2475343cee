/**
 * The scrub: every byte of a volume's segments is read and compared, in the order in which it lies on the disk, a slice at a time.
 *
 * It needs no map and little memory, so it can go on for ever beside guests; who calls says how fast, and remembers where it is.
 * A segment that is damaged is noted; what of the content that concerns is traced at the end of a pass (check.ts), by then
 * also whether the segment is still there: one that was cleaned meanwhile is no finding any more.
 *
 * Nothing is written here.
 */
import { type LogId, limits, type VolumeId } from '../base/index.ts';
import { type CheckCode, Findings } from './check-findings.ts';
import { checkNeeded } from './check-log.ts';
import { examineSegment } from './check-segments.ts';
import type { HlfsContext } from './context.ts';
import { requireHead } from './heads.ts';
import { segmentKey } from './schema.ts';
import { listSegments } from './segments.ts';

/** The last segment that was read. */
export interface ScrubPosition {
  readonly log: string;
  readonly number: number;
}

export interface ScrubNote {
  readonly code: CheckCode;
  readonly object: string;
  readonly detail: string;
}

export interface ScrubSlice {
  /** Where to go on; null: the pass is over. */
  readonly position: ScrubPosition | null;
  readonly bytes: number;
  readonly segments: number;
  readonly notes: readonly ScrubNote[];
}

export interface ScrubOptions {
  readonly signal: AbortSignal;
  readonly from: ScrubPosition | null;
  /** Before that many bytes are read: waits as long as the rate and the guests ask for. */
  readonly pace: (bytes: number) => Promise<void>;
  /** The slice ends with the first segment behind this time. */
  readonly untilMs: number;
}

/** Read on from a position. @throws NOT_FOUND when the volume is gone */
export async function scrubSlice(
  context: HlfsContext,
  id: VolumeId,
  options: ScrubOptions,
): Promise<ScrubSlice> {
  const { value: head } = await requireHead(context, id);
  const slice = new Slice(context, options);
  // A log that is gone was read, or does not matter any more: its successor in the order begins anew.
  const reached = head.logs.findIndex((log) => `${log}` === options.from?.log);
  const start = Math.max(0, reached);
  for (const log of head.logs.slice(start)) {
    if (!(await slice.log(log))) return slice.result(false);
    await slice.needed(log, log === head.log);
  }
  return slice.result(true);
}

class Slice {
  readonly #context: HlfsContext;
  readonly #options: ScrubOptions;
  readonly #notes: ScrubNote[] = [];
  #position: ScrubPosition | null;
  #bytes = 0;
  #segments = 0;

  constructor(context: HlfsContext, options: ScrubOptions) {
    this.#context = context;
    this.#options = options;
    this.#position = options.from;
  }

  /** @returns false when the time was over first */
  async log(log: LogId): Promise<boolean> {
    const { from, signal, untilMs } = this.#options;
    const after = from?.log === log ? from.number : 0;
    for (const number of await listSegments(this.#context.store, log)) {
      if (number <= after) continue;
      if (this.#context.clock.monotonicMs() >= untilMs) return false;
      signal.throwIfAborted();
      await this.#segment(log, number);
      this.#position = { log, number };
    }
    return true;
  }

  async #segment(log: LogId, number: number): Promise<void> {
    const found = await examineSegment(this.#context.store, log, number, {
      chunks: true,
      onRead: async (bytes) => {
        this.#options.signal.throwIfAborted();
        this.#bytes += bytes;
        await this.#options.pace(bytes);
      },
    });
    if (found === undefined) return;
    this.#segments += 1;
    const object = segmentKey(log, number);
    for (const { code, detail } of found.problems) this.#note({ code, object, detail });
  }

  /** What should be there and is not. */
  async needed(log: LogId, isCurrent: boolean): Promise<void> {
    const findings = new Findings();
    await checkNeeded({ context: this.#context, findings }, log, isCurrent);
    for (const { code, object, detail } of findings.list())
      if (code === 'CHECK_MISSING') this.#note({ code, object, detail });
  }

  #note(note: ScrubNote): void {
    if (this.#notes.length < limits.scrubNotesMax) this.#notes.push(note);
  }

  result(isOver: boolean): ScrubSlice {
    return {
      position: isOver ? null : this.#position,
      bytes: this.#bytes,
      segments: this.#segments,
      notes: this.#notes,
    };
  }
}
