/**
 * `volume check`: everything that the content of a volume and of its snapshots refers to is read and compared with its
 * checksums; what the log, the segment table and the documents say is compared with what is there.
 *
 * It may run while guests write, and then tells nothing that is only on its way:
 * - the current content is read through the newest root. What cannot be read is looked up again in a root that is newer, until
 *   the root that was read is one of the two newest: nothing that it needs can have been deleted then (L3);
 * - what is wrong with a snapshot counts only while the snapshot still exists afterwards;
 * - nothing is written, no pin either: it works on a store that takes no writes. Only `repair` changes something.
 *
 * Findings, and what each code means: check-findings.ts. What may be repaired: check-repair.ts.
 */
import { DvceError, type LogId, limits, type VolumeId } from '../base/index.ts';
import { headKey } from './catalog-documents.ts';
import {
  type Bytes,
  ContentReader,
  everything,
  type Failure,
  type RootWalk,
} from './check-content.ts';
import {
  checkLogDocument,
  checkName,
  checkPins,
  checkSnapshot,
  leftScopes,
  pinsOf,
  snapshotsOf,
} from './check-documents.ts';
import { type Finding, Findings } from './check-findings.ts';
import { checkLog } from './check-log.ts';
import { applyRepairs, type Repairs } from './check-repair.ts';
import type { HlfsContext } from './context.ts';
import { currentRoot, newestRootNow } from './current-root.ts';
import { requireHead } from './heads.ts';
import type { RootPosition } from './roots.ts';
import type { HeadDocument, SnapshotDocument } from './schema.ts';
import { segmentKey, snapshotLogsOf } from './schema.ts';
import type { ScrubNote } from './scrub.ts';
import type { Root } from './segments.ts';
import { findSnapshot } from './snapshots.ts';
import type { UnitCounts } from './unit-counts.ts';

export interface CheckOptions {
  readonly signal: AbortSignal;
  readonly onProgress: (doneBytes: number, totalBytes: number | null) => void;
  /** Put right what can be put right without losing anything. Nobody else may have the volume open meanwhile. */
  readonly repair?: boolean;
  /** Path of a volume, to name clones; its id when left out. */
  readonly pathOf?: (volume: VolumeId) => Promise<string>;
}

export interface CheckResult {
  readonly findings: readonly Finding[];
  /** Findings that are not listed, because there are too many. */
  readonly omitted: number;
  readonly segments: number;
  /** Bytes read and compared. */
  readonly bytes: number;
}

/** Check a volume as the store has it; of an open one what is published. @throws NOT_FOUND also when it is deleted meanwhile */
export async function checkVolume(
  context: HlfsContext,
  id: VolumeId,
  options: CheckOptions,
): Promise<CheckResult> {
  const { value: head } = await requireHead(context, id);
  return await new Check(context, head, options).run();
}

/**
 * The findings of a scrub: what it noted, as far as it is still there, and which content that concerns. @throws NOT_FOUND when the
 * volume is gone
 */
export async function traceDamage(
  context: HlfsContext,
  id: VolumeId,
  notes: readonly ScrubNote[],
  options: CheckOptions,
): Promise<CheckResult> {
  const { value: head } = await requireHead(context, id);
  return await new Check(context, head, options).trace(notes);
}

class Check {
  readonly #context: HlfsContext;
  readonly #head: HeadDocument;
  readonly #options: CheckOptions;
  readonly #findings = new Findings();
  readonly #repairs: Repairs = { pins: [], scopes: [], recount: false };
  #snapshots: readonly SnapshotDocument[] = [];
  #segments = 0;
  #bytes = 0;
  #totalBytes = 0;

  constructor(context: HlfsContext, head: HeadDocument, options: CheckOptions) {
    this.#context = context;
    this.#head = head;
    this.#options = options;
  }

  async run(): Promise<CheckResult> {
    await this.#documents();
    for (const log of this.#head.logs) await this.#log(log);
    const isShared = this.#snapshots.length > 0;
    const content = new ContentReader(this.#context, this.#reading, isShared);
    await this.#count(content);
    await this.#current(content, this.#head.log, 'current', null);
    for (const snapshot of this.#snapshots)
      await this.#snapshot(content, snapshot, `snapshot ${snapshot.name}`, null);
    await this.#clones(
      new Set(this.#findings.objects('CHECK_BAD_CHECKSUM', 'CHECK_UNREADABLE', 'CHECK_MISSING')),
    );
    await applyRepairs(this.#part, this.#head, this.#repairs, this.#options.repair ?? false);
    // A volume that was deleted meanwhile has no findings.
    await requireHead(this.#context, this.#head.volume);
    return this.#result();
  }

  async trace(notes: readonly ScrubNote[]): Promise<CheckResult> {
    const missed = new Set<string>();
    for (const { code, object, detail } of notes) {
      const isThere = (await this.#context.store.stat(object)) !== undefined;
      // Deleted since; or put back.
      if (isThere === (code === 'CHECK_MISSING')) continue;
      if (code !== 'CHECK_MISSING') this.#findings.add(code, object, detail);
      missed.add(object);
    }
    if (missed.size > 0) {
      const content = new ContentReader(this.#context, this.#reading, true);
      await this.#current(content, this.#head.log, 'current', missed);
      for (const log of this.#head.logs)
        for (const snapshot of await snapshotsOf(this.#part, log))
          if (snapshot.state === 'live')
            await this.#snapshot(content, snapshot, `snapshot ${snapshot.name}`, missed);
      await this.#clones(missed);
    }
    return this.#result();
  }

  #result(): CheckResult {
    const findings = this.#findings.list();
    const { omitted } = this.#findings;
    return { findings, omitted, segments: this.#segments, bytes: this.#bytes };
  }

  get #part(): { readonly context: HlfsContext; readonly findings: Findings } {
    return { context: this.#context, findings: this.#findings };
  }

  get #reading(): { signal: AbortSignal; onBytes: (bytes: number) => void } {
    return { signal: this.#options.signal, onBytes: (bytes) => this.#read(bytes) };
  }

  #read(bytes: number): void {
    this.#bytes += bytes;
    this.#options.onProgress(this.#bytes, Math.max(this.#totalBytes, this.#bytes));
  }

  async #documents(): Promise<void> {
    const part = this.#part;
    const processes = new Set(await this.#context.documents.names('scopes'));
    await checkName(part, this.#head);
    for (const log of this.#head.logs) {
      for (const pin of await checkLogDocument(part, this.#head, log)) this.#repairs.pins.push(pin);
      await checkPins(part, log, processes);
      this.#repairs.scopes.push(...(await leftScopes(this.#context, this.#head, log)));
    }
    // In a log that volumes have in common each looks at its own.
    for (const log of snapshotLogsOf(this.#head)) {
      const living = (await snapshotsOf(part, log)).filter(
        ({ state, volume }) => state === 'live' && volume === this.#head.volume,
      );
      this.#snapshots = [...this.#snapshots, ...living];
    }
    for (const snapshot of this.#snapshots) await checkSnapshot(part, snapshot);
  }

  async #log(log: LogId): Promise<void> {
    const check = { ...this.#part, ...this.#reading };
    const { segments, root } = await checkLog(check, log, log === this.#head.log);
    this.#segments += segments;
    for (const row of root?.table.values() ?? []) this.#totalBytes += row.bytes;
  }

  /** The live counts of the newest root against its map. */
  async #count(content: ContentReader): Promise<void> {
    const { log } = this.#head;
    const root = await newestRootOf(this.#context, log);
    if (root === null) return;
    const own = root.header.number;
    let counts: UnitCounts;
    try {
      counts = await content.countUnits({ log, rootSegment: own });
    } catch (error) {
      // Reading the content tells what is wrong, if it is not only that the log went on.
      if (error instanceof DvceError && damageCodes.has(error.code)) return;
      throw error;
    }
    for (const [number, row] of root.table) {
      const { live, liveBytes } = counts.of(number);
      if (live === row.live && liveBytes === row.liveBytes) continue;
      const detail =
        live === row.live
          ? `${row.liveBytes} live bytes are noted, it has ${liveBytes}`
          : `${row.live} units are noted, ${live} are live`;
      this.#findings.add('CHECK_WRONG_COUNT', segmentKey(log, number), detail);
    }
    this.#repairs.recount = this.#findings.objects('CHECK_WRONG_COUNT').length > 0;
  }

  /** The content of a log as it is now. @param suspects read only these segments */
  async #current(
    content: ContentReader,
    log: LogId,
    of: string,
    suspects: ReadonlySet<string> | null,
  ): Promise<void> {
    let walk: RootWalk = { ...everything, suspects };
    for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
      const position = await currentRoot(this.#context, log);
      if (position === null) return;
      const failures = await content.read(position, walk);
      if (failures.length === 0) return;
      if (!(await this.#isPassed(log, position))) return this.#report(failures, of);
      walk = { within: rangesOf(failures), suspects };
    }
    const object = headKey(this.#head.volume);
    this.#findings.addConcern('CHECK_UNSETTLED', object, 'roots came too fast', of);
  }

  /** Are there two roots behind this one, so that what it needs may have been deleted rightly? */
  async #isPassed(log: LogId, { rootSegment }: RootPosition): Promise<boolean> {
    const root = await newestRootOf(this.#context, log);
    return root !== null && root.facts.previousRoot > rootSegment;
  }

  async #snapshot(
    content: ContentReader,
    snapshot: SnapshotDocument,
    of: string,
    suspects: ReadonlySet<string> | null,
  ): Promise<void> {
    const { log, rootSegment, volume, name, id } = snapshot;
    const failures = await content.read({ log, rootSegment }, { ...everything, suspects });
    if (failures.length === 0) return;
    const now = await findSnapshot(this.#context, volume, name).catch(unlessGone);
    if (now?.value.id === id) this.#report(failures, of);
  }

  #report(failures: readonly Failure[], of: string): void {
    for (const { code, object, detail, offset, length } of failures)
      if (length > 0) this.#findings.addRange(code, object, detail, { of, offset, length });
      else this.#findings.addConcern(code, object, detail, of);
  }

  /** Which volumes that start from a snapshot of this one read what is damaged. */
  async #clones(damaged: ReadonlySet<string>): Promise<void> {
    if (damaged.size === 0) return;
    const content = new ContentReader(this.#context, this.#reading, true);
    const seen = new Set<VolumeId>([this.#head.volume]);
    for (const log of this.#head.logs)
      for (const pin of await pinsOf(this.#part, log)) {
        if (pin.kind !== 'fork' || seen.has(pin.volume)) continue;
        seen.add(pin.volume);
        await this.#clone(content, pin.volume, damaged);
      }
  }

  async #clone(
    content: ContentReader,
    volume: VolumeId,
    damaged: ReadonlySet<string>,
  ): Promise<void> {
    const head = (await requireHead(this.#context, volume).catch(unlessGone))?.value;
    if (head === undefined) return;
    const of = `clone ${(await this.#options.pathOf?.(volume)) ?? volume}`;
    await this.#current(content, head.log, of, damaged);
    for (const log of head.logs)
      for (const snapshot of await snapshotsOf(this.#part, log))
        if (snapshot.state === 'live')
          await this.#snapshot(content, snapshot, `${of}@${snapshot.name}`, damaged);
  }
}

const newestRootOf = async (context: HlfsContext, log: LogId): Promise<Root | null> =>
  (await newestRootNow(context, log)).root;

const damageCodes: ReadonlySet<string> = new Set([
  'SEGMENT_MISSING',
  'SEGMENT_DAMAGED',
  'IO_FAILED',
]);

/** Deleted meanwhile. */
function unlessGone(error: unknown): undefined {
  if (error instanceof DvceError && (error.code === 'NOT_FOUND' || error.code === 'CONFLICT'))
    return undefined;
  throw error;
}

/** Where to look again: the failed ranges, or one around them when there are many. */
function rangesOf(failures: readonly Failure[]): Bytes[] | null {
  if (failures.some(({ length }) => length === 0)) return null; // the root itself
  if (failures.length <= limits.checkRangesMax) return [...failures];
  const start = Math.min(...failures.map(({ offset }) => offset));
  const end = Math.max(...failures.map(({ offset, length }) => offset + length));
  return [{ offset: start, length: end - start }];
}
