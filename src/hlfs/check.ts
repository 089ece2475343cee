/**
 * `volume check`: read everything that the volume's content and snapshots refer to, and compare it with its checksums;
 * compare the segment table with what is there. Finds, never repairs; every finding has a stable code.
 *
 *   CHECK_BAD_CHECKSUM    a block or page does not fit its checksum        error
 *   CHECK_MISSING         a segment that is needed is not there            error
 *   CHECK_BAD_ROOT        a root cannot be read                            error
 *   CHECK_GAP             segments lie beyond a gap of the log             error
 *   CHECK_WRONG_COUNT     the live count of a segment is not what the map says   warning
 *   CHECK_UNREACHABLE     a segment that no table knows takes space        warning
 */
import { DvceError, type LogId, type VolumeId } from '../base/index.ts';
import type { HlfsContext } from './context.ts';
import { requireHead } from './heads.ts';
import { newestRoot } from './log-recovery.ts';
import { blockBytes, pointerOffset } from './pointer.ts';
import { openRoot } from './roots.ts';
import { segmentKey } from './schema.ts';
import { listSegments, type Root, type SegmentReader } from './segments.ts';
import { snapshotsIn } from './snapshots.ts';

export interface Finding {
  readonly code: string;
  readonly severity: 'error' | 'warning';
  readonly object: string;
  readonly detail: string;
}

export interface CheckOptions {
  readonly signal: AbortSignal;
  readonly onProgress: (doneBytes: number, totalBytes: number | null) => void;
}

export interface CheckResult {
  readonly findings: readonly Finding[];
  readonly segments: number;
  /** Bytes read and compared. */
  readonly bytes: number;
}

/** Blocks read at once. */
const runBlocksMax = 256;

class Checker {
  readonly findings: Finding[] = [];
  bytes = 0;
  segments = 0;
  readonly #context: HlfsContext;
  readonly #options: CheckOptions;
  /** Units of content already compared: snapshots share most of theirs. */
  readonly #seen = new Set<string>();

  constructor(context: HlfsContext, options: CheckOptions) {
    this.#context = context;
    this.#options = options;
  }

  add(code: string, severity: Finding['severity'], object: string, detail: string): void {
    // A damaged segment is named once for each kind of finding, however many roots lead to it.
    if (
      !this.findings.some(
        (each) => each.code === code && each.object === object && each.detail === detail,
      )
    )
      this.findings.push({ code, severity, object, detail });
  }

  /** Everything that the root at this position refers to. @returns live units of each segment */
  async checkRoot(log: LogId, rootSegment: number, what: string): Promise<Map<number, number>> {
    const live = new Map<number, number>();
    try {
      const { map, reader } = await openRoot(this.#context, log, rootSegment);
      const count = (segment: number): void => {
        live.set(segment, (live.get(segment) ?? 0) + 1);
      };
      await map.walk({
        page: async (level, index, pointer) => {
          if (pointer[0] === 0) return undefined;
          count(pointer[0]);
          try {
            await map.words(level, index);
            return undefined;
          } catch (error) {
            this.#failed(error, `${what}: map page ${level}/${index}`);
            return 'skip';
          }
        },
        leaf: (firstBlock, words) => this.#checkLeaf(reader, firstBlock, words, what, count),
      });
    } catch (error) {
      if (!(error instanceof DvceError)) throw error;
      this.add(
        'CHECK_BAD_ROOT',
        'error',
        segmentKey(log, rootSegment),
        `${what}: ${error.message}`,
      );
    }
    return live;
  }

  #failed(error: unknown, detail: string): void {
    if (!(error instanceof DvceError)) throw error;
    const code = error.code === 'SEGMENT_MISSING' ? 'CHECK_MISSING' : 'CHECK_BAD_CHECKSUM';
    if (error.retryable) throw error;
    this.add(code, 'error', String(error.context['name'] ?? ''), `${detail}: ${error.message}`);
  }

  async #checkLeaf(
    reader: SegmentReader,
    firstBlock: number,
    words: Uint32Array,
    what: string,
    count: (segment: number) => void,
  ): Promise<void> {
    this.#options.signal.throwIfAborted();
    let start = 0;
    while (start < 256) {
      const segment = words[start * 4] ?? 0;
      let end = start + 1;
      if (segment !== 0) {
        while (end < 256 && end - start < runBlocksMax && follows(words, end)) end += 1;
        for (let i = start; i < end; i += 1) count(segment);
        await this.#checkRun(reader, words, start, end, `${what}: block ${firstBlock + start}`);
      }
      start = end;
    }
  }

  async #checkRun(
    reader: SegmentReader,
    words: Uint32Array,
    start: number,
    end: number,
    detail: string,
  ): Promise<void> {
    const segment = words[start * 4] ?? 0;
    const offset = pointerOffset(words[start * 4 + 1] ?? 0);
    const identity = `${reader.key(segment)}:${offset}:${end - start}`;
    if (this.#seen.has(identity)) return;
    this.#seen.add(identity);
    const checksums = Array.from(
      { length: end - start },
      (_, i) => words[(start + i) * 4 + 3] ?? 0,
    );
    const target = Buffer.allocUnsafe(checksums.length * blockBytes);
    try {
      await new Promise<void>((resolve, reject) => {
        reader.readBlocks(segment, offset, checksums, target, (error) =>
          error ? reject(error) : resolve(),
        );
      });
    } catch (error) {
      this.#failed(error, detail);
    }
    this.bytes += target.byteLength;
    this.#options.onProgress(this.bytes, null);
  }
}

/** Does entry `i` continue the one before it in the same segment? */
function follows(words: Uint32Array, i: number): boolean {
  const before = (i - 1) * 4;
  const at = i * 4;
  return words[at] === words[before] && words[at + 1] === (words[before + 1] ?? 0) + blockBytes;
}

/** Check a volume as the store has it; of an open one what is published. */
export async function checkVolume(
  context: HlfsContext,
  id: VolumeId,
  options: CheckOptions,
): Promise<CheckResult> {
  const { value: head } = await requireHead(context, id);
  const checker = new Checker(context, options);
  for (const log of head.logs) {
    const numbers = await listSegments(context.store, log);
    checker.segments += numbers.length;
    const root = await newestRoot(context.store, log, numbers);
    if (root !== null && log === head.log) {
      const live = await checker.checkRoot(log, root.header.number, 'the current content');
      compareTable(checker, log, root, live, numbers);
    }
    if (log === head.log) findGap(checker, log, root, numbers);
    for (const { value } of await snapshotsIn(context, log))
      if (value.state === 'live')
        await checker.checkRoot(log, value.rootSegment, `snapshot ${value.name}`);
  }
  const { findings, segments, bytes } = checker;
  return { findings, segments, bytes };
}

function findGap(
  checker: Checker,
  log: LogId,
  root: Root | null,
  numbers: readonly number[],
): void {
  let next = root === null ? (numbers[0] ?? 0) : root.header.number;
  for (const number of numbers)
    if (number === next) next += 1;
    else if (number > next) {
      checker.add(
        'CHECK_GAP',
        'error',
        segmentKey(log, number),
        `segment ${next} is missing before it`,
      );
      return;
    }
}

/** The table of the root against what the map refers to and what the store holds. */
function compareTable(
  checker: Checker,
  log: LogId,
  root: Root,
  live: ReadonlyMap<number, number>,
  numbers: readonly number[],
): void {
  const own = root.header.number;
  for (const [number, row] of root.table) {
    const counted = (live.get(number) ?? 0) + (number === own ? 1 : 0);
    if (counted !== row.live)
      checker.add(
        'CHECK_WRONG_COUNT',
        'warning',
        segmentKey(log, number),
        `${row.live} units are noted, ${counted} are live`,
      );
    if (!numbers.includes(number) && counted > 0)
      checker.add(
        'CHECK_MISSING',
        'error',
        segmentKey(log, number),
        'it is needed and is not there',
      );
  }
  for (const number of numbers)
    if (number < own && !root.table.has(number))
      checker.add('CHECK_UNREACHABLE', 'warning', segmentKey(log, number), 'no table knows it');
}
