/**
 * Head documents: the one place where a volume's name, size, writer generation and current log are decided. Every change
 * is a compare-and-swap of the whole document, tried a bounded number of times, and keeps fields that this program does
 * not know (S10).
 */
import {
  asVolumeId,
  type DirectoryId,
  DvceError,
  isUuid,
  limits,
  type VolumeId,
} from '../base/index.ts';
import { headKey, readHead } from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import type { Versioned } from './documents.ts';
import { type FeatureSets, type HeadDocument, pointsFeature } from './schema.ts';

/** Why a volume may not be changed underneath its user, e.g. `it is open`; undefined: nobody uses it. */
export type InUse = (volume: VolumeId) => string | undefined;

export const isUsable = (head: HeadDocument): boolean =>
  head.state === 'active' || head.state === 'recovering';

/** Deleted, but may come back; it has no name, and whoever claims one for it has to win its head first. */
export const isTrashed = (head: HeadDocument): boolean => head.state === 'trashed';

/** Made, and neither undone nor given to the reaper. */
export const isKept = (head: HeadDocument): boolean => isUsable(head) || isTrashed(head);

/** Ids of all volumes that have a head, whatever its state. */
export async function volumeIds(context: HlfsContext): Promise<VolumeId[]> {
  const names = await context.documents.names('volumes');
  return names.filter(isUuid).map(asVolumeId);
}

/** @throws NOT_FOUND unless the volume is usable */
export async function requireHead(
  context: HlfsContext,
  volume: VolumeId,
): Promise<Versioned<HeadDocument>> {
  const head = await readHead(context, volume);
  if (head === undefined || !isUsable(head.value))
    throw new DvceError('NOT_FOUND', { kind: 'volume', name: volume });
  return head;
}

/** Every retry loop over a document ends here. */
export const changedTooOften = (kind: string, name: string): DvceError =>
  new DvceError('CONFLICT', { kind, name, reason: 'it keeps changing' });

/**
 * Change a usable head by compare-and-swap. `change` sees the newest version on every try, and throws to refuse;
 * answering the document that it was given leaves it as it is.
 */
export async function updateHead(
  context: HlfsContext,
  volume: VolumeId,
  change: (head: HeadDocument) => HeadDocument | Promise<HeadDocument>,
): Promise<Versioned<HeadDocument>> {
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const { version, value } = await requireHead(context, volume);
    const next = await change(value);
    if (next === value) return { version, value };
    if (await context.documents.replace(context.scope, headKey(volume), version, next))
      return { version: version + 1, value: next };
  }
  throw changedTooOften('volume', volume);
}

/** @throws IN_USE when the caller knows a user of the volume, or the head names an attachment */
export function refuseInUse(head: HeadDocument, inUse: InUse, path: string): void {
  const attached = head.attachment === null ? undefined : `it is attached to ${head.attachment.vm}`;
  const taken = head.state === 'recovering' ? 'a takeover is under way' : undefined;
  const reason = inUse(head.volume) ?? attached ?? taken;
  if (reason === undefined) return;
  throw new DvceError('IN_USE', {
    kind: 'volume',
    name: path,
    reason,
    advice: 'Stop what uses it, then repeat the command.',
  });
}

/** G4: nothing else changes what the two volumes have in common meanwhile. */
export function refusePromoting({ name, promoting }: HeadDocument): void {
  if (promoting === undefined) return;
  const reason =
    'it is being promoted, or its clone is; what a crash left of that is finished soon';
  throw new DvceError('CONFLICT', { kind: 'volume', name, reason });
}

export const withFeature = (features: FeatureSets, feature: string): FeatureSets =>
  features.incompat.includes(feature)
    ? features
    : { ...features, incompat: [...features.incompat, feature] };

/** Images are made once; their content and size never change. */
export function refuseImage(head: HeadDocument, path: string): void {
  if (head.kind === 'image')
    throw new DvceError('READ_ONLY', { name: path, reason: 'it is an image' });
}

/**
 * The next writer generation, without a writer's scope. The old scope goes to `pending`, so that whoever writes next fences
 * it first (T2, T3); a volume that nobody opened since the last raise has none.
 */
export function raiseEpoch(head: HeadDocument): HeadDocument {
  const left =
    head.scope === null
      ? []
      : [{ epoch: head.epoch, scope: head.scope, log: head.log, wasActive: false }];
  return {
    ...head,
    epoch: String(BigInt(head.epoch) + 1n),
    scope: null,
    pending: [...head.pending, ...left],
  };
}

/** A size that a volume of these blocks may have. @throws INVALID_SIZE with the rule */
export function checkSize(sizeBytes: number, blockBytes: 512 | 4096): void {
  const invalid = (reason: string): never => {
    throw new DvceError('INVALID_SIZE', { size: sizeBytes, reason });
  };
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0) invalid('it is no positive whole number');
  if (sizeBytes < limits.volumeBytesMin)
    invalid(`the smallest volume has ${limits.volumeBytesMin}`);
  if (sizeBytes > limits.volumeBytesMax) invalid(`the largest volume has ${limits.volumeBytesMax}`);
  if (sizeBytes % blockBytes !== 0) invalid(`it is no multiple of the block size ${blockBytes}`);
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
const labelPattern = /^[^\u0000-\u001f\u007f]{1,63}$/u;

/** @throws INVALID_ARGUMENT, TOO_LARGE */
export function checkLabels(labels: Readonly<Record<string, string>>): void {
  const entries = Object.entries(labels);
  if (entries.length > limits.labelsMax)
    throw new DvceError('TOO_LARGE', {
      what: 'the set of labels',
      reason: `at most ${limits.labelsMax} are kept`,
      advice: 'Remove labels that are not needed.',
    });
  for (const [key, value] of entries) {
    if (!labelPattern.test(key) || !key.isWellFormed())
      throw new DvceError('INVALID_ARGUMENT', {
        what: `the label name ${JSON.stringify(key.slice(0, 80))}`,
        reason: 'it is empty, has more than 63 characters or a control character',
        advice: 'Choose another name.',
      });
    if (value.length > limits.labelCharactersMax || !value.isWellFormed())
      throw new DvceError('INVALID_ARGUMENT', {
        what: `the value of label ${key}`,
        reason: `it is no text of at most ${limits.labelCharactersMax} characters`,
        advice: 'Shorten it.',
      });
  }
}

/**
 * The window of points in time as a head has it. A feature that was needed once stays: what it announces may still be in the
 * journal and in segments.
 */
export function retentionOf(
  features: FeatureSets,
  retainMs: number | null,
): Pick<HeadDocument, 'features' | 'retainMs'> {
  if (retainMs === null) return { features, retainMs };
  if (retainMs < limits.retainMsMin || retainMs > limits.retainMsMax)
    throw new DvceError('INVALID_ARGUMENT', {
      what: `a window of ${retainMs} ms for points in time`,
      reason: 'it is shorter than a minute or longer than a year',
      advice: 'Choose another one, for example 24h.',
    });
  const { roCompat } = features;
  const all = roCompat.includes(pointsFeature) ? roCompat : [...roCompat, pointsFeature];
  return { features: { ...features, roCompat: all }, retainMs };
}

export interface HeadPlace {
  readonly parent: DirectoryId;
  readonly name: string;
}

/** Does the head say that its volume is at this place of the namespace (N1)? */
export const isAt = (head: HeadDocument, place: HeadPlace): boolean =>
  head.parent === place.parent && head.name === place.name;
