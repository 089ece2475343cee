/**
 * The volumes of a store: made, found, renamed, changed, resized. Content is the engine's; forks (clone, rollback) are in
 * forks.ts, deletion and the trash in deletion.ts, what deletion leaves to do in reaper.ts.
 *
 * State of a head:
 *
 *   creating --(name claimed)--> active <--> recovering (takeover)
 *      |                           |
 *      |                           +--(delete)--> trashed --(undelete)--> active
 *      |                           |                 |
 *      +---(undone, intents.ts)----+--(delete now)---+--(expired)--> deleting --(reaper: logs gone)--> no head
 *
 * A volume exists from the compare-and-swap to `active` until the one to `trashed` or `deleting`; everything else follows
 * from these.
 */
import {
  asLogId,
  asVolumeId,
  asVolumePath,
  changedRates,
  DvceError,
  limits,
  type RateLimits,
  type RateLimitsChange,
  randomUuid,
  type VolumeId,
  type VolumePath,
} from '../base/index.ts';
import { headKey, logKey, readHead } from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import {
  changedTooOften,
  checkLabels,
  checkSize,
  type InUse,
  isAt,
  raiseEpoch,
  refuseImage,
  refuseInUse,
  requireHead,
  retentionOf,
  updateHead,
} from './heads.ts';
import { underIntent, writeIntent } from './intents.ts';
import {
  checkFree,
  claimName,
  dropEntry,
  makePlace,
  noSuchVolume,
  pruneAbove,
  resolve,
  type VolumeRecord,
} from './names.ts';
import { listNames } from './names-walk.ts';
import { writePins } from './pins.ts';
import type {
  Compression,
  FeatureSets,
  HeadDocument,
  ImageFacts,
  LogDocument,
  Origin,
} from './schema.ts';
import { storeFormatVersion } from './schema.ts';

export interface VolumeOptions {
  readonly sizeBytes: number;
  readonly blockBytes?: 512 | 4096;
  readonly labels?: Readonly<Record<string, string>>;
  readonly protected?: boolean;
  readonly journalBytes?: number;
  readonly kind?: 'volume' | 'image';
  readonly limits?: RateLimitsChange;
  /** Keep every flush of so many milliseconds as a point that can be had back (DD-0013). */
  readonly retainMs?: number;
  readonly compression?: Compression;
}

/** What names a volume in calls and messages; a `VolumeRecord` is one. */
export interface VolumeTarget {
  readonly id: VolumeId;
  readonly path: string;
}

/** A log to be made with a volume, and where it starts. */
export interface NewLog {
  readonly document: LogDocument;
  readonly features: FeatureSets;
  readonly origin: Origin | null;
  /** Called after the pins are written, before the head exists; throws when what they pin is going away (G3). */
  readonly recheck: () => Promise<void>;
}

const noFeatures: FeatureSets = { compat: [], roCompat: [], incompat: [] };

/** Make an empty volume. @throws ALREADY_EXISTS without having changed anything (B-38), INVALID_SIZE, INVALID_NAME */
export function createVolume(
  context: HlfsContext,
  path: string,
  options: VolumeOptions,
): Promise<VolumeRecord> {
  const volume = asVolumeId(randomUuid(context.random));
  const document: LogDocument = {
    format: storeFormatVersion,
    log: asLogId(randomUuid(context.random)),
    volume,
    base: null,
    createdAtMs: context.clock.wallMs(),
  };
  return makeVolume(context, path, options, {
    document,
    features: noFeatures,
    origin: null,
    recheck: async () => {},
  });
}

/** Shared by create and clone: intent, log, pins, head, name, active; then the intent goes (N2). */
export async function makeVolume(
  context: HlfsContext,
  path: string,
  options: VolumeOptions,
  made: NewLog,
): Promise<VolumeRecord> {
  const checked = asVolumePath(path);
  const head = newHead(context, options, made);
  await checkFree(context, checked);
  const { volume, log, base } = made.document;
  const ranges = base?.ranges ?? [];
  const pinned = [...new Set(ranges.map((range) => range.log))];
  const intent = await writeIntent(context, { kind: 'volume', volume, log, pinned, path: checked });
  await underIntent(context, intent, async () => {
    await context.documents.create(context.scope, logKey(log), made.document);
    if (base !== null)
      await writePins(context, ranges, {
        who: log,
        kind: 'fork',
        volume,
        snapshot: base.snapshot.id,
      });
    await made.recheck();
    await nameVolume(context, checked, head);
  });
  const found = await requireHead(context, volume);
  return { path: checked, id: volume, version: found.version, head: found.value };
}

function newHead(context: HlfsContext, options: VolumeOptions, made: NewLog): HeadDocument {
  const { volume, log } = made.document;
  const blockBytes = options.blockBytes ?? 4096;
  if (blockBytes !== 512 && blockBytes !== 4096)
    throw new DvceError('INVALID_ARGUMENT', {
      what: `the block size ${String(blockBytes)}`,
      reason: 'volumes have blocks of 512 or 4096 bytes',
      advice: 'Leave it out: 4096 fits nearly always.',
    });
  checkSize(options.sizeBytes, blockBytes);
  const labels = options.labels ?? {};
  checkLabels(labels);
  const quotaBytes = options.journalBytes ?? limits.journalBytes;
  if (!Number.isSafeInteger(quotaBytes) || quotaBytes <= 0)
    throw new DvceError('INVALID_SIZE', { size: quotaBytes, reason: 'a journal needs space' });
  return {
    format: storeFormatVersion,
    ...retentionOf(made.features, options.retainMs ?? null),
    volume,
    // Set with every try to claim the name.
    parent: '' as HeadDocument['parent'],
    name: '',
    kind: options.kind ?? 'volume',
    state: 'creating',
    epoch: '1',
    writer: null,
    scope: null,
    pending: [],
    attachment: null,
    sizeBytes: String(options.sizeBytes),
    blockBytes,
    trimFrom: null,
    log,
    logs: [log],
    journal: { mode: 'local', quotaBytes: String(quotaBytes) },
    ensemble: [],
    labels,
    protected: options.protected ?? false,
    ...limitsOf(changedRates({}, options.limits ?? {})),
    ...compressionOf(options.compression ?? 'none'),
    createdAtMs: context.clock.wallMs(),
    origin: made.origin,
    image: null,
  };
}

/** Write the head, claim the name, turn active; anew when a directory went away underneath. */
async function nameVolume(
  context: HlfsContext,
  path: VolumePath,
  head: HeadDocument,
): Promise<void> {
  const { documents, scope } = context;
  const key = headKey(head.volume);
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const place = await makePlace(context, path);
    const placed = { ...head, parent: place.parent, name: place.name };
    const version = (await readHead(context, head.volume))?.version;
    const isWritten =
      version === undefined
        ? await documents.create(scope, key, placed)
        : await documents.replace(scope, key, version, placed);
    if (!isWritten || !(await claimName(context, place, head.volume))) continue;
    const active = { ...placed, state: 'active' } as const;
    if (await documents.replace(scope, key, (version ?? 0) + 1, active)) return;
  }
  throw changedTooOften('volume', path);
}

/** @throws NOT_FOUND, INVALID_NAME */
export async function getVolume(context: HlfsContext, path: string): Promise<VolumeRecord> {
  const found = await resolve(context, asVolumePath(path));
  if (found === undefined) throw noSuchVolume(path);
  return found.record;
}

/** Volumes at or below a path, by path. Changes nothing (B-03). */
export async function listVolumes(
  context: HlfsContext,
  filter: { readonly prefix?: string; readonly kind?: HeadDocument['kind'] } = {},
): Promise<VolumeRecord[]> {
  const all = await listNames(context, filter.prefix ?? '/');
  return all.filter(({ head }) => filter.kind === undefined || head.kind === filter.kind);
}

/**
 * Give a volume another path: claim the new name, switch the head, drop the old name (N1). Cut short anywhere, the volume
 * has exactly one of the two. Identity is the id: nothing else changes (B-29).
 */
export async function renameVolume(
  context: HlfsContext,
  from: string,
  to: string,
): Promise<VolumeRecord> {
  const [source, target] = [asVolumePath(from), asVolumePath(to)];
  const found = await resolve(context, source);
  if (found === undefined) {
    if ((await listNames(context, source)).length === 0) throw noSuchVolume(source);
    throw new DvceError('UNSUPPORTED', {
      what: `renaming the directory ${source}`,
      reason: 'only volumes are renamed',
      advice: 'Rename the volumes in it one by one.',
    });
  }
  if (source === target) return found.record;
  await checkFree(context, target);
  const { id } = found.record;
  try {
    await switchName(context, found.place, target, id);
  } catch (error) {
    await undoClaim(context, target, error);
    throw error;
  }
  await dropEntry(context, found.place, found.entryVersion);
  await pruneAbove(context, source);
  const { version, value } = await requireHead(context, id);
  return { path: target, id, version, head: value };
}

async function switchName(
  context: HlfsContext,
  from: { readonly parent: HeadDocument['parent']; readonly name: string; readonly path: string },
  target: VolumePath,
  volume: VolumeId,
): Promise<void> {
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const place = await makePlace(context, target);
    // Read before claiming: whoever drops a claim rewrites the head first, and this switch then fails.
    const { version, value } = await requireHead(context, volume);
    if (!isAt(value, from)) throw noSuchVolume(from.path);
    if (!(await claimName(context, place, volume))) continue;
    const moved = { ...value, parent: place.parent, name: place.name };
    if (await context.documents.replace(context.scope, headKey(volume), version, moved)) return;
  }
  throw changedTooOften('volume', from.path);
}

/** After a rename or an undelete that failed: the claim, and directories made for it, go again. */
export async function undoClaim(
  context: HlfsContext,
  target: VolumePath,
  cause: unknown,
): Promise<void> {
  try {
    await resolve(context, target);
    await pruneAbove(context, target);
  } catch (error) {
    // The next resolve of that name repairs it; the failure that led here is the one to report.
    context.logger.warn({ path: target, error, cause }, 'a claimed name is left for repair');
  }
}

/** No limits are no member. */
const limitsOf = (rates: RateLimits): Pick<HeadDocument, 'limits'> =>
  Object.keys(rates).length === 0 ? {} : { limits: rates };

/** None is no member. */
const compressionOf = (compression: Compression): Pick<HeadDocument, 'compression'> =>
  compression === 'none' ? {} : { compression };

export interface VolumeChange {
  readonly labels?: Readonly<Record<string, string>>;
  readonly protected?: boolean;
  readonly limits?: RateLimitsChange;
  /** null: keep no points in time any more. */
  readonly retainMs?: number | null;
  /** Of what is written from now on. */
  readonly compression?: Compression;
}

/** Replace a volume's labels, turn its protection on or off, change single limits or the window of points in time. */
export async function updateVolume(
  context: HlfsContext,
  path: string,
  change: VolumeChange,
): Promise<VolumeRecord> {
  const { labels, protected: isProtected, limits: rates = {}, retainMs } = change;
  if (labels !== undefined) checkLabels(labels);
  const record = await getVolume(context, path);
  const { version, value } = await updateHead(context, record.id, (head) => {
    if (retainMs !== undefined) refuseImage(head, path);
    const { limits: before = {}, compression = 'none', ...rest } = head;
    return {
      ...rest,
      ...(retainMs === undefined ? {} : retentionOf(head.features, retainMs)),
      labels: labels ?? head.labels,
      protected: isProtected ?? head.protected,
      ...limitsOf(changedRates(before, rates)),
      ...compressionOf(change.compression ?? compression),
    };
  });
  return { ...record, version, head: value };
}

/** Turn a volume that was filled into an image; its content and size do not change any more. */
export async function publishImage(
  context: HlfsContext,
  target: VolumeTarget,
  image: ImageFacts,
): Promise<VolumeRecord> {
  const { version, value } = await updateHead(context, target.id, (head) => {
    refuseImage(head, target.path);
    return { ...head, kind: 'image', image };
  });
  return { path: asVolumePath(target.path), id: target.id, version, head: value };
}

/** G6: the head grows first, then the open volume is told. @throws INVALID_SIZE when it would get smaller */
export async function growHead(
  context: HlfsContext,
  target: VolumeTarget,
  sizeBytes: number,
): Promise<HeadDocument> {
  const { value } = await updateHead(context, target.id, (head) => {
    refuseImage(head, target.path);
    checkSize(sizeBytes, head.blockBytes);
    if (sizeBytes === Number(head.sizeBytes)) return head;
    if (sizeBytes < Number(head.sizeBytes))
      throw new DvceError('INVALID_SIZE', {
        size: sizeBytes,
        reason: `the volume has ${head.sizeBytes} bytes; making it smaller must be asked for`,
      });
    return { ...head, sizeBytes: String(sizeBytes) };
  });
  return value;
}

/**
 * G6: only while detached. What is cut off is remembered in `trimFrom` until the next open has freed it, the lowest of
 * several shrinks, so that growing again shows no old data.
 */
export async function shrinkHead(
  context: HlfsContext,
  target: VolumeTarget,
  sizeBytes: number,
  inUse: InUse,
): Promise<HeadDocument> {
  const { value } = await updateHead(context, target.id, (head) => {
    refuseImage(head, target.path);
    checkSize(sizeBytes, head.blockBytes);
    refuseInUse(head, inUse, target.path);
    if (sizeBytes === Number(head.sizeBytes)) return head;
    if (sizeBytes > Number(head.sizeBytes))
      throw new DvceError('INVALID_SIZE', {
        size: sizeBytes,
        reason: `the volume has only ${head.sizeBytes} bytes`,
      });
    const trimFrom = Math.min(sizeBytes, Number(head.trimFrom ?? sizeBytes));
    return { ...raiseEpoch(head), sizeBytes: String(sizeBytes), trimFrom: String(trimFrom) };
  });
  return value;
}
