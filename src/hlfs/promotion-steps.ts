/**
 * The steps of a promotion behind the change that decides, and their undoing before it (promotion.ts has the order and why it is
 * safe). Each can be repeated; a process that finds the intent of another one runs them from the start.
 */
import { type LogId, limits, type VolumeId } from '../base/index.ts';
import {
  headKey,
  logKey,
  pinKey,
  readHead,
  readLog,
  readPin,
  readSnapshot,
} from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import { changedTooOften, withFeature } from './heads.ts';
import { cutsOf, listPins } from './pins.ts';
import type {
  HeadDocument,
  LogDocument,
  PinDocument,
  Promotion,
  SnapshotDocument,
} from './schema.ts';
import { promotedFeature } from './schema.ts';
import { snapshotsIn } from './snapshot-index.ts';
import { replaceSnapshot } from './snapshots.ts';

/** Is it decided? A new log stays in the parent's head when all is done. */
export async function isPromoted(
  context: HlfsContext,
  log: LogId,
  { parent }: Promotion,
): Promise<boolean> {
  const head = await readHead(context, parent);
  return head !== undefined && (head.value.promoting === log || head.value.logs.includes(log));
}

/** After the decision. Repeatable. */
export async function finishPromotion(
  context: HlfsContext,
  clone: VolumeId,
  log: LogId,
  promotion: Promotion,
): Promise<void> {
  const { parent, moved, cuts, scope, pins, origin, formerOrigin } = promotion;
  // Of the parent's writer in the log that is not its own any more: nothing of it arrives from now on (S1).
  if (scope !== null) await context.store.fence(scope);
  await changeHead(context, clone, (head) => takeOver(head, promotion));
  for (const each of moved) await changeOwner(context, each, clone);
  for (const { log: within, who, snapshot } of pins)
    await changePin(context, within, who, (pin) => ({ ...pin, snapshot }));
  const names = await changeSnapshots(context, clone, promotion);
  for (const { log: within } of cuts)
    await changeOrigins(context, within, { parent, clone, path: origin.path, names });
  const done = ({ promoting, ...head }: HeadDocument): HeadDocument | null =>
    promoting === log ? { ...head, origin: formerOrigin } : null;
  await changeHead(context, clone, done);
  await changeHead(context, parent, ({ promoting, ...head }) =>
    promoting === log
      ? { ...head, pending: head.pending.filter((left) => left.scope !== scope) }
      : null,
  );
}

/** @returns names of the clone's in the logs that it has in common with the parent */
async function changeSnapshots(
  context: HlfsContext,
  clone: VolumeId,
  { parent, cuts }: Promotion,
): Promise<Set<string>> {
  const names = new Set<string>();
  for (const { log, cut } of cuts)
    for (const { value } of await snapshotsIn(context, log)) {
      if (value.rootSegment > cut) continue;
      if (value.volume === parent) await changeSnapshot(context, value, clone);
      if (value.volume === parent || value.volume === clone) names.add(value.name);
    }
  return names;
}

function takeOver(head: HeadDocument, { moved, cuts }: Promotion): HeadDocument | null {
  const { snapshotLogs = [] } = head;
  const logs = [...head.logs, ...moved.filter((each) => !head.logs.includes(each))];
  const all = new Set([...snapshotLogs, ...cuts.map(({ log }) => log)]);
  const others = [...all].filter((each) => !logs.includes(each));
  if (logs.length === head.logs.length && others.length === snapshotLogs.length) return null;
  const features = withFeature(head.features, promotedFeature);
  return { ...head, features, logs, snapshotLogs: others };
}

/** It was not decided. */
export async function undoPromotion(
  context: HlfsContext,
  clone: VolumeId,
  log: LogId,
): Promise<void> {
  await changeHead(context, clone, ({ promoting, ...head }) => (promoting === log ? head : null));
}

/** Whatever the state of the volume is; null: as it is. */
async function changeHead(
  context: HlfsContext,
  volume: VolumeId,
  change: (head: HeadDocument) => HeadDocument | null,
): Promise<void> {
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const found = await readHead(context, volume);
    const next = found === undefined ? null : change(found.value);
    if (found === undefined || next === null) return;
    const key = headKey(volume);
    if (await context.documents.replace(context.scope, key, found.version, next)) return;
  }
  throw changedTooOften('volume', volume);
}

/** The log's document, and the pins that it holds in its own base. */
async function changeOwner(context: HlfsContext, log: LogId, clone: VolumeId): Promise<void> {
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const found = await readLog(context, log);
    if (found === undefined) return;
    for (const base of cutsOf(found.value.base?.ranges ?? []).keys())
      await changePin(context, base, log, (pin) => ({ ...pin, volume: clone }));
    if (found.value.volume === clone) return;
    const next: LogDocument = { ...found.value, volume: clone };
    if (await context.documents.replace(context.scope, logKey(log), found.version, next)) return;
  }
  throw changedTooOften('log', log);
}

async function changePin(
  context: HlfsContext,
  log: LogId,
  who: string,
  change: (pin: PinDocument) => PinDocument,
): Promise<void> {
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const found = await readPin(context, log, who);
    if (found === undefined) return;
    const { volume, snapshot } = found.value;
    const next = change(found.value);
    if (next.volume === volume && next.snapshot === snapshot) return;
    if (await context.documents.replace(context.scope, pinKey(log, who), found.version, next))
      return;
  }
  throw changedTooOften('pin', who);
}

async function changeSnapshot(
  context: HlfsContext,
  { log, name, id }: SnapshotDocument,
  clone: VolumeId,
): Promise<void> {
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const found = await readSnapshot(context, log, name);
    if (found?.value.id !== id || found.value.volume === clone) return;
    const next = { ...found.value, volume: clone };
    if (await replaceSnapshot(context, found.value, found.version, next)) return;
  }
  throw changedTooOften('snapshot', name);
}

/** Other volumes that were cloned from what is the clone's now. */
async function changeOrigins(
  context: HlfsContext,
  log: LogId,
  { parent, clone, path, names }: NewOwner,
): Promise<void> {
  const volumes = new Set((await listPins(context, log)).map(({ volume }) => volume));
  for (const volume of volumes) {
    if (volume === parent || volume === clone) continue;
    await changeHead(context, volume, (head) =>
      head.origin?.volume === parent && names.has(head.origin.snapshot)
        ? { ...head, origin: { ...head.origin, volume: clone, path } }
        : null,
    );
  }
}

interface NewOwner {
  readonly parent: VolumeId;
  readonly clone: VolumeId;
  readonly path: string;
  readonly names: ReadonlySet<string>;
}
