/**
 * Opening a volume for writing: resume (rule R), and the steps of a takeover that need no peer (T1-T3, T8, T10).
 *
 * Order, because each step makes the next one safe:
 *   1  incarnation + 1, durable (R1, J2)
 *   2  own scope: still there? sweep temps of earlier incarnations (R2). No scope yet, or a higher epoch wanted: a new scope,
 *      never used before, named in the head by compare-and-swap (T1, T2), then every pending scope is fenced (T3)
 *   3  head read again, log recovered from the store (R3, L2)
 *   4  journal tail read; it must follow the log without a gap and hold everything known to be flushed (J7)
 *   5  with pending epochs: a barrier segment, then the head says active (T8, T10)
 *   6  the tail is published before anything new is journaled (J4); reads are served meanwhile (R6)
 */
import { DvceError, limits, type SnapshotName, type VolumeId } from '../base/index.ts';
import { headKey, readHead } from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import type { Versioned } from './documents.ts';
import { changedTooOften, raiseEpoch, requireHead } from './heads.ts';
import { HeldPositions } from './held-positions.ts';
import { Journal } from './journal.ts';
import { recordBytes } from './journal-format.ts';
import {
  type JournalState,
  makeJournalDirectory,
  readJournalState,
  refuseForeignJournal,
  refuseOlderStore,
  releaseSlots,
  writeJournalState,
} from './journal-open.ts';
import { fileBytesFor, readTail, type Tail, tailRecords } from './journal-tail.ts';
import { type RecoveredLog, recoverLog } from './log-recovery.ts';
import { recount } from './recount.ts';
import { type HeadDocument, pointsFeature, promotedFeature } from './schema.ts';
import { segmentFlags } from './segment-format.ts';
import { checkSnapshotName, createSnapshotDocument } from './snapshots.ts';
import { Volume } from './volume.ts';

export interface OpenOptions {
  /** Take the volume over from another node: raises the epoch and fences what came before. */
  readonly takeover?: boolean;
  /** Go on without journal records that cannot be read, or without a journal that is gone. */
  readonly acceptLoss?: boolean;
  readonly mapCacheBytes?: number;
  /** Count the segment table anew from the map (`volume check --repair`). */
  readonly recount?: boolean;
}

export interface Opened {
  readonly volume: Volume;
  /** First record given up under `acceptLoss`, null when nothing was. */
  readonly lostFromSeq: number | null;
  readonly tailBytes: number;
}

/** @throws FENCED, IN_USE, JOURNAL_DAMAGED, SEGMENT_DAMAGED, STORE_UNAVAILABLE, FORMAT_TOO_NEW, NOT_FOUND */
export async function openVolume(
  context: HlfsContext,
  id: VolumeId,
  options: OpenOptions = {},
): Promise<Volume> {
  return (await openVolumeWithReport(context, id, options)).volume;
}

export async function openVolumeWithReport(
  context: HlfsContext,
  id: VolumeId,
  options: OpenOptions = {},
): Promise<Opened> {
  const { value: found } = await requireHead(context, id);
  refuseUnknownFeatures(found);
  await makeJournalDirectory(context, id);
  const before = await readJournalState(context, id);
  await refuseForeignJournal(context, id, before);
  let incarnation = (before?.incarnation ?? 0) + 1;
  // R1: durable before anything else happens in its name.
  // A volume that nobody ever opened starts its journal here; of any other the log's name says that the journal is missing.
  const start = before ?? { ...emptyState, log: found.scope === null ? found.log : '' };
  await writeJournalState(context, id, { ...start, incarnation });
  const head = await holdScope(context, id, options);
  const { log, scope, epoch } = head.value;
  if (scope === null) throw new DvceError('INTERNAL', { reason: 'a held head names a scope' });
  const { mapCacheBytes = limits.mapCacheBytes } = options;
  const writerOptions = {
    context,
    scope,
    epoch: Number(epoch),
    incarnation,
    recoveredSeq: 0,
    mapCacheBytes,
    retainMs: head.value.retainMs ?? null,
    compression: head.value.compression ?? 'none',
  };
  const recovered = await recoverLog(log, writerOptions);
  const { state } = recovered.writer;
  refuseOlderStore(before, id, log, state.next - 1);
  const known = state.coveredEpoch === Number(epoch) ? state.coveredIncarnation : 0;
  if (known >= incarnation) refuseStaleJournal(id, before?.log === log, options);
  incarnation = Math.max(incarnation, known + 1);
  refuseMissingJournal(id, found.scope !== null, before, recovered, options);
  const isClean = before?.clean === true && before.log === log;
  const usual = fileBytesFor(Number(head.value.journal.quotaBytes));
  const fileBytes = isClean ? usual : (before?.fileBytes ?? usual);
  const lastSegment = state.next - 1;
  await writeJournalState(context, id, { incarnation, log, lastSegment, clean: false, fileBytes });
  writerOptions.incarnation = incarnation;
  const tail = await readTail(context, {
    head: head.value,
    coveredSeq: state.coveredSeq,
    coveredEpoch: state.coveredEpoch,
    flushedSeq: recovered.flushMark?.seq ?? 0,
    isClean,
    fileBytes,
    acceptLoss: options.acceptLoss === true,
  });
  writerOptions.recoveredSeq = tail.walk.lastSeq;
  await settlePending(context, head, recovered);
  if (options.recount === true) await recount(recovered.writer);
  const volume = buildVolume(context, head.value, recovered, tail, incarnation);
  await finishShrink(context, id, volume);
  return {
    volume,
    lostFromSeq: tail.walk.damage === null ? null : tail.walk.lastSeq + 1,
    tailBytes: tail.walk.tail.reduce((sum, record) => sum + record.header.length, 0),
  };
}

const emptyState = { incarnation: 0, log: '', lastSegment: 0, clean: false };

function refuseUnknownFeatures({ features, volume }: HeadDocument): void {
  const unknown = [...features.incompat, ...features.roCompat].filter(
    (feature) => !knownFeatures.has(feature),
  );
  if (unknown.length > 0)
    throw new DvceError('FORMAT_TOO_NEW', {
      what: `volume ${volume}`,
      found: unknown.join(', '),
      known: 1,
    });
}

const knownFeatures: ReadonlySet<string> = new Set([pointsFeature, promotedFeature]);

/** Step 2. @returns the head as it is while this process may write */
async function holdScope(
  context: HlfsContext,
  id: VolumeId,
  options: OpenOptions,
): Promise<Versioned<HeadDocument>> {
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const held = await tryToHold(context, id, options);
    if (held === undefined) continue; // the reaper, say, took a dead log out of the head
    for (const { scope: old } of held.value.pending)
      if (old !== null) await context.store.fence(old);
    return held;
  }
  throw changedTooOften('volume', id);
}

/** @returns undefined when the head was changed meanwhile; everything is looked at anew then */
async function tryToHold(
  context: HlfsContext,
  id: VolumeId,
  options: OpenOptions,
): Promise<Versioned<HeadDocument> | undefined> {
  const head = await requireHead(context, id);
  const { writer, scope } = head.value;
  const isForeign = writer !== null && writer !== context.node;
  if (isForeign && options.takeover !== true)
    throw new DvceError('IN_USE', {
      kind: 'volume',
      name: id,
      reason: `node ${writer} is its writer`,
      advice: 'Stop it there; if that node is gone for good, take the volume over.',
    });
  if (scope !== null && !isForeign) return resumeScope(context, id, scope);
  return takeScope(context, head, isForeign ? raiseEpoch(head.value) : head.value);
}

async function resumeScope(
  context: HlfsContext,
  id: VolumeId,
  scope: string,
): Promise<Versioned<HeadDocument>> {
  const fenced = (reason: string): DvceError => new DvceError('FENCED', { name: id, reason });
  if (!(await context.store.probeScope(scope))) throw fenced('its publishing scope is gone');
  await context.store.sweepScope(scope);
  // R3: only now; no rename of an earlier incarnation can land any more.
  const head = await requireHead(context, id);
  if (head.value.scope !== scope || head.value.writer !== context.node)
    throw fenced('the head names another writer');
  return head;
}

/**
 * @returns undefined when the head was changed first by somebody who is no writer (the reaper takes dead logs out of it)
 * @throws CONFLICT when another writer was faster: who lost does not take from who won
 */
async function takeScope(
  context: HlfsContext,
  seen: Versioned<HeadDocument>,
  value: HeadDocument,
): Promise<Versioned<HeadDocument> | undefined> {
  const { version } = seen;
  const scope = `logs/${value.log}/w/${value.epoch}-${context.random.bytes(16).toString('hex')}`;
  await context.store.createScope(scope);
  const state = value.pending.length > 0 ? ('recovering' as const) : ('active' as const);
  const next: HeadDocument = { ...value, writer: context.node, scope, state };
  const won = await context.documents.replace(scope, headKey(value.volume), version, next);
  if (!won) {
    await context.store.fence(scope);
    const now = (await requireHead(context, value.volume)).value;
    const isSameWriter = now.writer === seen.value.writer && now.scope === seen.value.scope;
    if (isSameWriter && now.epoch === seen.value.epoch) return undefined;
    throw new DvceError('CONFLICT', {
      kind: 'volume',
      name: value.volume,
      reason: 'somebody else opened it or set it back',
    });
  }
  return { version: version + 1, value: next };
}

/** T8 and T10: after the pending scopes are fenced, a barrier; then the volume is active. */
async function settlePending(
  context: HlfsContext,
  { value: head }: Versioned<HeadDocument>,
  recovered: RecoveredLog,
): Promise<void> {
  if (head.pending.length === 0 && head.state === 'active') return;
  const { writer, flushMark } = recovered;
  await writer.publishRoot({ sizeBytes: Number(head.sizeBytes), flushMark }, segmentFlags.barrier);
  const scope = head.scope ?? context.scope;
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const now = await readHead(context, head.volume);
    if (now?.value.scope !== head.scope) break;
    const next: HeadDocument = { ...now.value, state: 'active', pending: [], attachment: null };
    if (await context.documents.replace(scope, headKey(head.volume), now.version, next)) return;
  }
  throw new DvceError('FENCED', { name: head.volume, reason: 'the head names another writer' });
}

/** The store has segments of a later incarnation than this journal knows of. */
function refuseStaleJournal(id: VolumeId, isOfThisLog: boolean, options: OpenOptions): void {
  if (!isOfThisLog || options.acceptLoss === true) return;
  throw new DvceError('JOURNAL_DAMAGED', {
    name: id,
    reason: 'it is older than what the store has of this node; an old copy of it was brought back',
  });
}

/**
 * A journal that was never closed and is not here may hold flushed writes: after a takeover it is the other node's, after a
 * resume it was lost with its disk (T5).
 */
function refuseMissingJournal(
  id: VolumeId,
  wasHeld: boolean,
  before: JournalState | undefined,
  { wasClean }: RecoveredLog,
  options: OpenOptions,
): void {
  const isHere = before !== undefined && before.log !== '';
  if (!wasHeld || isHere || wasClean || options.acceptLoss === true) return;
  throw new DvceError('JOURNAL_DAMAGED', {
    name: id,
    reason: 'it is not on this node although the volume was not closed cleanly',
  });
}

function buildVolume(
  context: HlfsContext,
  head: HeadDocument,
  recovered: RecoveredLog,
  { walk, slots, fileBytes }: Tail,
  incarnation: number,
): Volume {
  const { writer, quarantined } = recovered;
  const id = head.volume;
  const { state } = writer;
  const held = new HeldPositions(context, head.log);
  return new Volume({
    context,
    id,
    name: head.name,
    blockBytes: head.blockBytes,
    sizeBytes: Number(head.sizeBytes),
    writer,
    journal: (hooks) =>
      new Journal({
        identity: { volume: id, log: head.log, epoch: Number(head.epoch), incarnation },
        slots,
        fileBytes,
        nextSeq: Math.max(walk.lastSeq, state.coveredSeq) + 1,
        flushedSeq: Math.max(walk.flushedSeq, 0),
        unsyncedBytesMax: limits.unsyncedBytes,
        recordBytesMax: recordBytes('write', 1, limits.recordPayloadBytes),
        salt: () => context.random.bytes(16),
        ...hooks,
      }),
    tail: tailRecords(walk.tail, slots, fileBytes),
    readTail: (address, target) => {
      const slot = slots[Math.floor(address / fileBytes)];
      if (slot?.file.readSync(target, address % fileBytes) !== target.byteLength)
        throw new DvceError('JOURNAL_DAMAGED', {
          name: id,
          reason: 'a tail record cannot be read again',
        });
    },
    flushMark: recovered.flushMark,
    readOnlyReason:
      quarantined.length > 0
        ? `segments ${quarantined[0]} to ${quarantined.at(-1)} lie beyond a gap of the log`
        : null,
    positions: () => held.read(),
    checkSnapshotName: async (name: SnapshotName) => {
      const now = await requireHead(context, id);
      await checkSnapshotName(context, now.value, name);
    },
    makeSnapshot: async (name, root, { follows, ...facts }) => {
      const { number: rootSegment, checksum } = root;
      const made = { ...facts, name, log: head.log, rootSegment, checksum };
      const newest = held.newestBefore(rootSegment);
      const known =
        newest === undefined ? undefined : { log: head.log, name: newest as SnapshotName };
      try {
        const scope = head.scope ?? context.scope;
        const after = follows === undefined ? known : follows;
        const document = await createSnapshotDocument(context, scope, id, made, after);
        held.made(name, rootSegment);
        return document;
      } catch (error) {
        held.forget(name);
        throw error;
      }
    },
    onClosed: async (clean) => {
      await held.stop();
      if (!clean) return;
      const closed = {
        incarnation,
        log: head.log,
        lastSegment: writer.state.next - 1,
        clean: true,
        fileBytes,
      };
      await writeJournalState(context, id, closed);
      await releaseSlots(context, slots, fileBytes);
    },
  });
}

/** Clear everything from `offset` on, beyond the end of the volume too, and root it (G6). */
async function clearBeyond(volume: Volume, offset: number): Promise<void> {
  const options = { fua: false, noHole: false, origin: { alive: true } };
  const cleared = Promise.withResolvers<void>();
  volume.writeZeroes(offset, limits.volumeBytesMax - offset, options, (error) =>
    error ? cleared.reject(error) : cleared.resolve(),
  );
  await cleared.promise;
  await volume.publishAll();
}

/** G6: a shrink leaves no old data behind. The cut-off range is cleared and rooted before the volume serves. */
async function finishShrink(context: HlfsContext, id: VolumeId, volume: Volume): Promise<void> {
  const head = await requireHead(context, id);
  if (head.value.trimFrom === null) return;
  const from = Number(head.value.trimFrom);
  await clearBeyond(volume, from);
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const now = await requireHead(context, id);
    const next: HeadDocument = { ...now.value, trimFrom: null };
    const scope = now.value.scope ?? context.scope;
    if (await context.documents.replace(scope, headKey(id), now.version, next)) return;
  }
  throw new DvceError('CONFLICT', { kind: 'volume', name: id, reason: 'its head keeps changing' });
}

/** Open, give up what cannot be read, publish the rest, close. */
export async function recoverJournal(
  context: HlfsContext,
  id: VolumeId,
  options: { readonly acceptLoss: boolean },
): Promise<{ lostFromSeq: string | null; recoveredBytes: number }> {
  const opened = await openVolumeWithReport(context, id, { acceptLoss: options.acceptLoss });
  await opened.volume.close();
  return {
    lostFromSeq: opened.lostFromSeq === null ? null : String(opened.lostFromSeq),
    recoveredBytes: opened.tailBytes,
  };
}
