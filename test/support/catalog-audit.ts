/**
 * What must hold in every store at rest, read from the documents alone: every name leads to a volume and back, every fork
 * has its pins, every segment that a volume or snapshot needs is there. After the reaper also: nothing is left over.
 */
import assert from 'node:assert/strict';
import type { LogId, VolumeId } from '../../src/base/index.ts';
import {
  type HeadDocument,
  type HlfsContext,
  type LogDocument,
  type LogRange,
  type NameDocument,
  openDocuments,
  type PinDocument,
  rootDirectory,
  type SnapshotDocument,
  segmentKey,
} from '../../src/hlfs/index.ts';
import { segmentsOf } from './catalog-world.ts';

export interface Audited {
  /** Usable volumes by path. */
  readonly volumes: Map<string, HeadDocument>;
  /** Snapshots by `volume id@name`. */
  readonly snapshots: Map<string, SnapshotDocument>;
}

export interface AuditOptions {
  /** The reaper ran since the last change: leftovers are faults, too. */
  readonly reaped: boolean;
}

export async function audit(live: HlfsContext, options: AuditOptions): Promise<Audited> {
  // Fresh documents: no hint of the process under test may hide what the store says.
  const context = { ...live, documents: openDocuments(live.store) };
  const heads = await readHeads(context, options);
  const names = await readNames(context, options);
  const usable = heads.filter(({ state }) => state === 'active');
  for (const head of usable) {
    const paths = [...names].filter(([, named]) => named.volume === head.volume);
    if (options.reaped) assert.equal(paths.length, 1, `volume ${head.name} has one name`);
    else assert(paths.length >= 1, `volume ${head.name} has a name`);
  }
  const volumes = new Map<string, HeadDocument>();
  for (const [path, { volume, parent }] of names) {
    const head = usable.find((one) => one.volume === volume);
    const isThere = head?.parent === parent && path.endsWith(`/${head.name}`);
    if (head !== undefined && isThere) volumes.set(path, head);
    else assert(!options.reaped, `${path} leads to a volume`);
  }
  assert.equal(volumes.size, usable.length, 'every volume is where its head says');
  // What is in the trash has no name, but all that it needs to come back.
  const kept = heads.filter(({ state }) => state === 'active' || state === 'trashed');
  const snapshots = await auditLogs(context, heads, kept, options);
  if (options.reaped) {
    assert.deepEqual(await context.documents.names('intents'), [], 'no intent is left');
    for (const head of heads.filter((one) => !kept.includes(one)))
      assert.equal(head.state, 'deleting', 'nothing half made is left');
  }
  return { volumes, snapshots };
}

async function readHeads(context: HlfsContext, { reaped }: AuditOptions): Promise<HeadDocument[]> {
  const heads: HeadDocument[] = [];
  for (const volume of await context.documents.names('volumes')) {
    const head = await context.documents.read<HeadDocument>(`volumes/${volume}/head`);
    if (head !== undefined) heads.push(head.value);
    else assert(!reaped, `volumes/${volume} has a head`);
  }
  return heads;
}

interface Named {
  readonly volume: VolumeId;
  readonly parent: string;
}

async function readNames(context: HlfsContext, options: AuditOptions): Promise<Map<string, Named>> {
  const found = new Map<string, Named>();
  const walk = async (directory: string, path: string): Promise<number> => {
    let count = 0;
    for (const part of await context.documents.names(`names/${directory}`)) {
      const entry = await context.documents.read<NameDocument>(`names/${directory}/${part}`);
      if (entry === undefined) continue;
      count += 1;
      const below = `${path}/${part.slice(0, -1)}`;
      if (entry.value.kind === 'volume')
        found.set(below, { volume: entry.value.volume, parent: directory });
      else {
        const names = await walk(entry.value.directory, below);
        if (options.reaped) assert(names > 0, `directory ${below} is not empty`);
      }
    }
    return count;
  };
  await walk(rootDirectory, '');
  return found;
}

interface LogFacts {
  readonly document: LogDocument;
  readonly pins: readonly PinDocument[];
  readonly snapshots: readonly SnapshotDocument[];
}

async function readLogs(context: HlfsContext): Promise<Map<LogId, LogFacts>> {
  const facts = new Map<LogId, LogFacts>();
  const all = async <T>(prefix: string): Promise<T[]> => {
    const documents: T[] = [];
    for (const name of await context.documents.names(prefix)) {
      const found = await context.documents.read<T>(`${prefix}/${name}`);
      if (found !== undefined) documents.push(found.value);
    }
    return documents;
  };
  for (const name of await context.documents.names('logs')) {
    const log = name as LogId;
    const document = await context.documents.read<LogDocument>(`logs/${log}/log`);
    const pins = await all<PinDocument>(`logs/${log}/pins`);
    const snapshots = await all<SnapshotDocument>(`logs/${log}/snap`);
    if (document !== undefined) facts.set(log, { document: document.value, pins, snapshots });
    else assert.equal(pins.length + snapshots.length, 0, `log ${log} went with all it had`);
  }
  return facts;
}

async function auditLogs(
  context: HlfsContext,
  heads: readonly HeadDocument[],
  kept: readonly HeadDocument[],
  { reaped }: AuditOptions,
): Promise<Map<string, SnapshotDocument>> {
  const logs = await readLogs(context);
  const named = new Set(heads.flatMap((head) => head.logs));
  const snapshots = new Map<string, SnapshotDocument>();
  if (reaped) await assertNothingLeft(context, logs, named);
  for (const head of kept) {
    for (const log of head.logs) {
      assert(!reaped || head.promoting === undefined, `${head.name} is not promoting`);
      const facts = logs.get(log);
      // A retired log that nothing needs goes before the head forgets it.
      if (facts === undefined && log !== head.log && !reaped) continue;
      assert(facts !== undefined, `log ${log} of ${head.name} has a document`);
      // A deletion cut short by the trash is settled when the volume is back.
      const isSettled = reaped && head.state === 'active';
      await auditSnapshots(context, logs, facts, isSettled, snapshots);
      if (!reaped) continue;
      assert.equal(facts.document.volume, head.volume, `${log} says whose it is`);
      const isNamed = ({ volume }: SnapshotDocument): boolean =>
        volume === head.volume || kept.some((one) => one.volume === volume && sees(one, log));
      assert(facts.snapshots.every(isNamed), `snapshots in ${log} belong to who looks there`);
    }
    const own = await segmentsOf(context, head.log);
    await assertReadable(context, logs, head.log, own.at(-1) ?? 0);
  }
  return snapshots;
}

const sees = ({ snapshotLogs = [] }: HeadDocument, log: LogId): boolean =>
  snapshotLogs.includes(log);

async function auditSnapshots(
  context: HlfsContext,
  logs: ReadonlyMap<LogId, LogFacts>,
  { document, snapshots }: LogFacts,
  isSettled: boolean,
  found: Map<string, SnapshotDocument>,
): Promise<void> {
  for (const snapshot of snapshots) {
    const key = `${snapshot.volume}@${snapshot.name}`;
    assert(!found.has(key), `one snapshot ${snapshot.name}`);
    found.set(key, snapshot);
    if (isSettled) assert.equal(snapshot.state, 'live');
    await assertReadable(context, logs, document.log, snapshot.rootSegment);
  }
}

async function assertNothingLeft(
  context: HlfsContext,
  logs: ReadonlyMap<LogId, LogFacts>,
  named: ReadonlySet<LogId>,
): Promise<void> {
  for (const log of await context.documents.names('logs'))
    assert(named.has(log as LogId), `log ${log} belongs to a volume`);
  for (const [log, { pins }] of logs) for (const pin of pins) assertPinned(logs, named, log, pin);
}

function assertPinned(
  logs: ReadonlyMap<LogId, LogFacts>,
  named: ReadonlySet<LogId>,
  log: LogId,
  pin: PinDocument,
): void {
  const fork = logs.get(pin.who as LogId);
  assert(fork !== undefined && named.has(pin.who as LogId), `pin ${pin.who} has a fork`);
  const ranges = fork.document.base?.ranges ?? [];
  assert(
    ranges.some((range) => range.log === log),
    `the fork ${pin.who} needs ${log}`,
  );
}

/** Everything up to a position of a log is there, and what lies in other logs is pinned there (G3). */
async function assertReadable(
  context: HlfsContext,
  logs: ReadonlyMap<LogId, LogFacts>,
  log: LogId,
  position: number,
): Promise<void> {
  const base = logs.get(log)?.document.base ?? null;
  const first = (base?.rootSegment ?? 0) + 1;
  const ranges: LogRange[] = [
    ...(base?.ranges ?? []),
    { first, last: position, log, store: 'main' },
  ];
  for (const range of ranges) {
    const pins = logs.get(range.log)?.pins ?? [];
    const isPinned = pins.some(({ who, cut }) => who === log && cut >= range.last);
    assert(range.log === log || isPinned, `${log} pins ${range.log} up to ${range.last}`);
    for (let number = range.first; number <= range.last; number += 1)
      assert(
        (await context.store.stat(segmentKey(range.log, number))) !== undefined,
        `segment ${number} of ${range.log}, needed by ${log}, is there`,
      );
  }
}
