/**
 * What is remembered of the snapshots of a store, by log, so that one of 100,000 is found, placed in the tree, taken or deleted
 * without reading the others.
 *
 * Invariants:
 * - it is made only where every change of the store's documents is told to it (`changed`) before whoever made the change
 *   hears of it: in the one process that has the store (N3). So an answer has every change of which anybody knows;
 * - what is told while a document is being read is read again before the next answer;
 * - a log is read whole once, `limits.listReadsMax` documents at a time, then only what changed; a document that cannot be read
 *   is an error of the answer, never a snapshot that is missing (N7), and nothing is kept of that log then;
 * - of at most `limits.snapshotsKnownMax` snapshots, or of one log with more, something is kept; what was asked for longest ago
 *   goes first. Of each only what the tree and the order of lists need (snapshot-tree.ts); labels are read for the page shown.
 */
import { asSnapshotName, type LogId, limits, type VolumeId } from '../base/index.ts';
import { partToName, readSnapshot, snapshotsPrefix } from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import type { Versioned } from './documents.ts';
import type { SnapshotDocument } from './schema.ts';
import {
  compareListed,
  type LivingOfLog,
  ordered,
  placeIn,
  placeOf,
  type RememberedSnapshots,
  type SnapshotFacts,
  type SnapshotsOfLog,
} from './snapshot-tree.ts';

/** `task` on each, a few at a time; the first failure is thrown after all that were begun have ended. */
export async function several<Item>(
  items: Iterable<Item>,
  task: (item: Item) => Promise<void>,
): Promise<void> {
  const iterator = items[Symbol.iterator]();
  let failure: { readonly error: unknown } | undefined;
  const run = async (): Promise<void> => {
    for (let next = iterator.next(); !next.done; next = iterator.next()) {
      if (failure !== undefined) return;
      try {
        await task(next.value);
      } catch (error) {
        failure ??= { error };
      }
    }
  };
  await Promise.all(Array.from({ length: limits.listReadsMax }, run));
  if (failure !== undefined) throw failure.error;
}

/** All snapshot documents of a log, whatever their state; reads every one of them. */
export async function snapshotsIn(
  context: HlfsContext,
  log: LogId,
): Promise<Versioned<SnapshotDocument>[]> {
  const found: Versioned<SnapshotDocument>[] = [];
  for (const part of await context.documents.names(snapshotsPrefix(log))) {
    const name = partToName(part);
    if (name === undefined) continue;
    const snapshot = await readSnapshot(context, log, asSnapshotName(name));
    if (snapshot !== undefined) found.push(snapshot);
  }
  return found;
}

/** The snapshots of a log with all that their documents say; reads every one of them. */
export async function readSnapshots(
  context: HlfsContext,
  log: LogId,
): Promise<SnapshotsOfLog<SnapshotDocument>> {
  const all = (await snapshotsIn(context, log)).map(({ value }) => value);
  return { ...sortedLiving(all), unsettled: all.filter(({ state }) => state !== 'live') };
}

function sortedLiving<Each extends SnapshotFacts>(all: readonly Each[]): LivingOfLog<Each> {
  const living = ordered(all.filter(({ state }) => state === 'live'));
  return { living, byTime: living.toSorted(compareListed) };
}

/** Arrays that were handed out are never changed. */
class KnownLog {
  readonly #byName = new Map<string, SnapshotFacts>();
  /** Not living. */
  readonly #unsettled = new Map<string, SnapshotFacts>();
  /** Names whose document was changed since it was read. */
  readonly stale = new Set<string>();
  /** Answers wait for each other. */
  turn: Promise<unknown> = Promise.resolve();
  /** Who waits for an answer. */
  users = 0;
  isRead = false;
  #sorted: LivingOfLog<SnapshotFacts> | null = null;
  /** One text for all, where a log has snapshots of few volumes. */
  #volume: VolumeId | undefined;
  /** Changes of sets, each of which may decide about members. */
  #decisions = 0;

  get size(): number {
    return this.#byName.size;
  }

  get snapshots(): SnapshotsOfLog<SnapshotFacts> {
    this.#sorted ??= sortedLiving([...this.#byName.values()]);
    return { ...this.#sorted, unsettled: [...this.#unsettled.values()] };
  }

  /** The document of a set was written or went. */
  decided(): void {
    this.#decisions += 1;
    for (const [name, { state }] of this.#unsettled) if (state === 'pending') this.stale.add(name);
  }

  async read(context: HlfsContext, log: LogId, name: string): Promise<void> {
    const before = this.#decisions;
    const found = (await readSnapshot(context, log, asSnapshotName(name)))?.value;
    if (found?.state === 'pending' && this.#decisions !== before) this.stale.add(name);
    const known = this.#byName.get(name);
    if (known?.state === 'live') this.#takeOut(known);
    this.#unsettled.delete(name);
    if (found === undefined) {
      this.#byName.delete(name);
      return;
    }
    const facts = factsOf(found, log, this.#volumeOf(found));
    this.#byName.set(name, facts);
    if (facts.state === 'live') this.#putIn(facts);
    else this.#unsettled.set(name, facts);
  }

  #volumeOf({ volume }: SnapshotDocument): VolumeId {
    if (this.#volume !== volume) this.#volume = volume;
    return this.#volume;
  }

  #takeOut(facts: SnapshotFacts): void {
    const sorted = this.#sorted;
    if (sorted === null) return;
    const { living, byTime } = sorted;
    const listed = placeOf(byTime, (each) => compareListed(each, facts) >= 0);
    this.#sorted = {
      living: living.toSpliced(placeIn(living, facts), 1),
      byTime: byTime.toSpliced(listed, 1),
    };
  }

  #putIn(facts: SnapshotFacts): void {
    const sorted = this.#sorted;
    if (sorted === null) return;
    const { living, byTime } = sorted;
    const at = placeOf(living, ({ rootSegment }) => rootSegment > facts.rootSegment);
    const listed = placeOf(byTime, (each) => compareListed(each, facts) > 0);
    // Of several at one position their parents tell the order.
    const isAlone = living[at - 1]?.rootSegment !== facts.rootSegment;
    this.#sorted = isAlone
      ? { living: living.toSpliced(at, 0, facts), byTime: byTime.toSpliced(listed, 0, facts) }
      : null;
  }
}

function factsOf(document: SnapshotDocument, log: LogId, volume: VolumeId): SnapshotFacts {
  const { id, name, state, rootSegment, createdAtMs, parent } = document;
  const isProtected = document.protected;
  return { id, name, volume, log, state, rootSegment, createdAtMs, parent, protected: isProtected };
}

export class SnapshotIndex implements RememberedSnapshots {
  readonly #context: HlfsContext;
  readonly #most: number;
  /** In order of last use. */
  readonly #logs = new Map<LogId, KnownLog>();

  /** @param context reads documents that tell every change to `changed` */
  constructor(context: HlfsContext, most: number = limits.snapshotsKnownMax) {
    this.#context = context;
    this.#most = most;
  }

  /** A document was written, or may have been. */
  changed(key: string): void {
    const [kind, log = '', part, name = ''] = key.split('/');
    if (kind === 'sets') for (const known of this.#logs.values()) known.decided();
    if (kind !== 'logs' || part !== 'snap') return;
    const plain = partToName(name);
    if (plain !== undefined) this.#logs.get(log as LogId)?.stale.add(plain);
  }

  /** The snapshots of a log as they are now. */
  async of(log: LogId): Promise<SnapshotsOfLog<SnapshotFacts>> {
    const known = this.#logs.get(log) ?? new KnownLog();
    this.#logs.delete(log);
    this.#logs.set(log, known);
    known.users += 1;
    const answer = known.turn.then(() => this.#read(known, log));
    known.turn = answer.catch(() => {});
    try {
      return await answer;
    } finally {
      known.users -= 1;
      this.#forgetSome();
    }
  }

  async #read(known: KnownLog, log: LogId): Promise<SnapshotsOfLog<SnapshotFacts>> {
    const context = this.#context;
    try {
      if (!known.isRead) {
        const parts = await context.documents.names(snapshotsPrefix(log));
        const names = parts.map(partToName).filter((name) => name !== undefined);
        await several(names, (name) => known.read(context, log, name));
        known.isRead = true;
      }
      const stale = [...known.stale];
      known.stale.clear();
      await several(stale, (name) => known.read(context, log, name));
      return known.snapshots;
    } catch (error) {
      if (this.#logs.get(log) === known) this.#logs.delete(log);
      throw error;
    }
  }

  #forgetSome(): void {
    let count = 0;
    for (const known of this.#logs.values()) count += known.size;
    for (const [log, { users, size }] of this.#logs) {
      // One that is kept although it is too large is the last: it was used just now.
      if (count <= this.#most || count === size) return;
      // Who waits for an answer is still to be told of changes.
      if (users > 0) continue;
      this.#logs.delete(log);
      count -= size;
    }
  }
}
