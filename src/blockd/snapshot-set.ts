/**
 * Snapshots of several volumes at one instant (G5). This is the coordinator; cuts.ts of the engine has the part of one volume,
 * snapshot-sets.ts how the snapshots come to exist together.
 *
 *   turns of all volumes, in one order -> all open -> HOLD all, all confirmed -> MARK all -> release all
 *     -> any broken: nothing was made, try again -> documents, pending -> the set's document -> done
 *
 * Invariants
 * - after the first HOLD every volume is released or dropped, whatever happens; one that is not heard of releases itself;
 * - MARK is sent only after every HOLD was confirmed, and a document is written only if every release said "unbroken".
 */
import { DvceError, limits, randomUuid, type SnapshotName, toDvceError } from '../base/index.ts';
import {
  checkSnapshotName,
  commitSet,
  dropMember,
  findSnapshot,
  type SetReference,
  type SnapshotDocument,
  type VolumeRecord,
} from '../hlfs/index.ts';
import type { Hosted } from './export-opener.ts';
import type { NodeContext } from './node-context.ts';
import { inTurn } from './volume-methods.ts';

interface Member {
  readonly record: VolumeRecord;
  readonly path: string;
  readonly hosted: Hosted;
}

export interface SetRequest {
  readonly name: SnapshotName;
  readonly paths: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  readonly protected: boolean;
}

/** @returns the documents, in the order of `paths` */
export async function createSnapshotSet(
  node: NodeContext,
  request: SetRequest,
): Promise<SnapshotDocument[]> {
  const paths = [...request.paths];
  if (new Set(paths).size !== paths.length)
    throw new DvceError('INVALID_ARGUMENT', {
      what: 'the list of volumes',
      reason: 'a volume is in it twice',
      advice: 'Name each volume once.',
    });
  // One order for everybody, so that two sets never wait for each other.
  return await withMembers(node, paths.toSorted(), [], async (members) => {
    for (const { record, path } of members)
      await checkSnapshotName(node.hlfs, record.head, request.name).catch((error: unknown) => {
        throw ofMember(toDvceError(error), path, request.name);
      });
    const made = await cutAndCommit(node, members, request);
    return paths.flatMap((path) => made.filter((_, at) => members[at]?.path === path));
  });
}

/** All turns held and all volumes open, then `task`. */
async function withMembers<T>(
  node: NodeContext,
  [path, ...rest]: readonly string[],
  members: readonly Member[],
  task: (members: readonly Member[]) => Promise<T>,
): Promise<T> {
  if (path === undefined) return await task(members);
  return await inTurn(node, path, async (record) => {
    if (record.head.kind === 'image')
      throw new DvceError('READ_ONLY', { name: path, reason: 'it is an image' });
    return await node.volumes.withOpen(record.id, path, (hosted) =>
      withMembers(node, rest, [...members, { record, path, hosted }], task),
    );
  });
}

async function cutAndCommit(
  node: NodeContext,
  members: readonly Member[],
  request: SetRequest,
): Promise<SnapshotDocument[]> {
  for (let attempt = 1; ; attempt += 1) {
    const set: SetReference = { id: randomUuid(node.hlfs.random), scope: node.hlfs.scope };
    try {
      await cut(members, set.id);
      return await makeMembers(node, members, set, request);
    } catch (error) {
      const { code, message } = toDvceError(error);
      if (code !== 'CONFLICT' || attempt >= limits.snapshotSetTries) throw error;
      node.logger.info({ set: set.id, attempt, reason: message }, 'a snapshot set is tried again');
    }
  }
}

/** HOLD, MARK, release. @throws when one of the volumes did not stand still for all of it; nothing is left then */
async function cut(members: readonly Member[], token: string): Promise<void> {
  let failure: DvceError | null = null;
  try {
    await all(members, ({ hosted: { thread, key } }) => thread.call('cut.hold', { key, token }));
    await all(members, ({ hosted: { thread, key } }) => thread.call('cut.mark', { key, token }));
  } catch (error) {
    failure = toDvceError(error);
  }
  const released = await Promise.allSettled(
    members.map(({ hosted: { thread, key } }) => thread.call('cut.release', { key, token })),
  );
  if (failure === null && released.every((one) => one.status === 'fulfilled' && one.value.unbroken))
    return;
  await drop(members, token);
  throw failure ?? notStill(members);
}

const notStill = (members: readonly Member[]): DvceError =>
  new DvceError('CONFLICT', {
    kind: 'volume',
    name: members.map(({ path }) => path).join(', '),
    reason: `they could not be held still together within ${limits.holdMs} ms`,
    advice: 'The host is very busy; take the snapshots again.',
  });

/** Documents of all, then the set's. */
async function makeMembers(
  node: NodeContext,
  members: readonly Member[],
  set: SetReference,
  { name, labels, protected: isProtected }: SetRequest,
): Promise<SnapshotDocument[]> {
  const { hlfs } = node;
  let documents: SnapshotDocument[];
  try {
    const options = { labels, protected: isProtected, set };
    const made = await all(members, async ({ path, hosted: { thread, key } }) => {
      try {
        return await thread.call('cut.document', { key, token: set.id, name, options });
      } catch (error) {
        throw ofMember(toDvceError(error), path, name);
      }
    });
    documents = made.map(({ document }) => document);
  } catch (error) {
    await giveUp(node, members, set, name);
    throw error;
  }
  try {
    await commitSet(hlfs, set, documents);
  } catch (error) {
    // Only this says for sure that it did not happen. Otherwise the members stay undecided, seen by nobody, and the reaper of
    // the next process settles them.
    if (toDvceError(error).code === 'NO_SPACE') await giveUp(node, members, set, name);
    throw error;
  }
  const found = members.map(({ record }) => findSnapshot(hlfs, record.id, name));
  return (await Promise.all(found)).map(({ value }) => value);
}

/** Of several volumes: which one has a snapshot of this name already. */
function ofMember(error: DvceError, path: string, name: SnapshotName): DvceError {
  if (error.code !== 'ALREADY_EXISTS') return error;
  return new DvceError('ALREADY_EXISTS', { kind: 'snapshot', name: `${path}@${name}` }, error);
}

/** Members that cannot be taken away now are dropped by the reaper of the next process. */
async function giveUp(
  node: NodeContext,
  members: readonly Member[],
  set: SetReference,
  name: SnapshotName,
): Promise<void> {
  await drop(members, set.id);
  for (const { record } of members)
    try {
      await dropMember(node.hlfs, { log: record.head.log, name }, set);
    } catch (error) {
      node.logger.warn({ err: error, set: set.id, volume: record.id }, 'a set member is left');
    }
}

async function drop(members: readonly Member[], token: string): Promise<void> {
  await Promise.allSettled(
    members.map(({ hosted: { thread, key } }) => thread.call('cut.drop', { key, token })),
  );
}

/** All at once; the first failure is thrown after every one has ended, so that nothing runs on behind it. */
async function all<T>(
  members: readonly Member[],
  step: (member: Member) => Promise<T>,
): Promise<T[]> {
  const outcomes = await Promise.allSettled(members.map(step));
  return outcomes.map((outcome) => {
    if (outcome.status === 'rejected') throw toDvceError(outcome.reason);
    return outcome.value;
  });
}
