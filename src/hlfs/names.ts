/**
 * The hierarchical namespace (N1). Purpose: `/prod/shop/db` -> volume, without a lock and without a moment in which a crash
 * leaves a volume nameless or two volumes with one name.
 *
 * Format: an entry `names/<directory id>/<name>@` names a sub-directory or a volume. Because entries are keyed by the id of
 * the directory and not by its path, they need no rewriting when something above them changes. The root directory has a
 * constant id. Directories are made with the first name in them and go with the last one.
 *
 * Invariants:
 * - the head's {parent, name} is the truth; an entry is a claim on the name and a way to find the head. An entry that the
 *   head disagrees with means nothing, and is dropped by whoever meets it;
 * - a usable head's entry is there: it is claimed before the head names it (create, rename) and dropped only when the head
 *   names another place. To drop a claim, the head is *touched* first (rewritten unchanged), so that a rename which has
 *   claimed but not yet switched the head fails at its compare-and-swap and claims anew; a rename reads the head, claims,
 *   then switches from the version it read;
 * - an empty directory is removed by marking its entry, looking through it once more, then dropping the entry; whoever puts
 *   a name into a directory looks at the mark afterwards and takes it back. Each side writes before it looks, so at least
 *   one of them sees the other.
 */
import {
  asDirectoryId,
  type DirectoryId,
  DvceError,
  limits,
  randomUuid,
  type VolumeId,
  type VolumePath,
} from '../base/index.ts';
import {
  headKey,
  nameKey,
  namesPrefix,
  partToName,
  readHead,
  readName,
} from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import type { Versioned } from './documents.ts';
import { changedTooOften, isAt, isTrashed, isUsable } from './heads.ts';
import type { HeadDocument, NameDocument } from './schema.ts';
import { storeFormatVersion } from './schema.ts';

/** Id of `/`: a UUID of zeros with the bits of version 4. */
export const rootDirectory: DirectoryId = asDirectoryId('00000000-0000-4000-8000-000000000000');

/** A place that a volume may have. */
export interface Place {
  readonly path: VolumePath;
  readonly parent: DirectoryId;
  readonly name: string;
  /** The directories above, without the root; the nearest is last. */
  readonly above: readonly Home[];
}

/** A directory and the entry that names it. */
export interface Home {
  readonly parent: DirectoryId;
  readonly name: string;
  readonly directory: DirectoryId;
}

/** A volume as found by its path. */
export interface VolumeRecord {
  readonly path: VolumePath;
  readonly id: VolumeId;
  readonly version: number;
  readonly head: HeadDocument;
}

export const noSuchVolume = (path: string): DvceError =>
  new DvceError('NOT_FOUND', { kind: 'volume', name: path });

/** Has no name, whatever an entry says. */
const isOut = (head: HeadDocument): boolean => head.state === 'deleting' || isTrashed(head);

const partsOf = (path: VolumePath): string[] => path.slice(1).split('/');

function placeIn(path: VolumePath, above: readonly Home[]): Place {
  const name = partsOf(path).at(-1) ?? '';
  return { path, parent: above.at(-1)?.directory ?? rootDirectory, name, above };
}

/** Path of the directory that `above` ends in. */
const pathOf = (above: readonly Home[]): string => `/${above.map((home) => home.name).join('/')}`;

/** The place of a path; undefined when a directory on the way is missing. Changes nothing. */
export async function findPlace(
  context: HlfsContext,
  path: VolumePath,
): Promise<Place | undefined> {
  const above: Home[] = [];
  for (const name of partsOf(path).slice(0, -1)) {
    const parent = above.at(-1)?.directory ?? rootDirectory;
    const entry = await readName(context, parent, name);
    if (entry?.value.kind !== 'directory') return undefined;
    above.push({ parent, name, directory: entry.value.directory });
  }
  return placeIn(path, above);
}

/** The place of a path; missing directories are made. @throws ALREADY_EXISTS when a volume is in the way */
export async function makePlace(context: HlfsContext, path: VolumePath): Promise<Place> {
  const parts = partsOf(path);
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const above: Home[] = [];
    for (const name of parts.slice(0, -1)) {
      const home = await ensureDirectory(context, above, name);
      if (home === undefined) break;
      above.push(home);
    }
    if (above.length === parts.length - 1) return placeIn(path, above);
  }
  throw changedTooOften('directory', path);
}

/** @returns undefined when the directory above was removed meanwhile, or the try was lost */
async function ensureDirectory(
  context: HlfsContext,
  above: readonly Home[],
  name: string,
): Promise<Home | undefined> {
  const parent = above.at(-1)?.directory ?? rootDirectory;
  const entry = await readName(context, parent, name);
  if (entry?.value.kind === 'directory') return { parent, name, directory: entry.value.directory };
  const path = `${pathOf(above) === '/' ? '' : pathOf(above)}/${name}` as VolumePath;
  if (entry !== undefined) {
    const place: Place = { path, parent, name, above };
    if (!(await dropIfStale(context, place)))
      throw new DvceError('ALREADY_EXISTS', { kind: 'volume', name: path });
  }
  const directory = asDirectoryId(randomUuid(context.random));
  const document: NameDocument = { format: storeFormatVersion, kind: 'directory', directory };
  const key = nameKey(parent, name);
  if (!(await context.documents.create(context.scope, key, document))) return undefined;
  if (await chainIsLive(context, above)) return { parent, name, directory };
  const made = await readName(context, parent, name);
  if (made?.value.kind === 'directory' && made.value.directory === directory)
    await dropEntry(context, { parent, name }, made.version);
  return undefined;
}

/** After a claim: every directory above is still named, and none is being removed any more. */
async function chainIsLive(context: HlfsContext, above: readonly Home[]): Promise<boolean> {
  for (const home of above) if (!(await keepDirectory(context, home))) return false;
  return true;
}

/** Take a removal mark back. @returns false when the directory is gone */
async function keepDirectory(context: HlfsContext, home: Home): Promise<boolean> {
  const key = nameKey(home.parent, home.name);
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const entry = await readName(context, home.parent, home.name);
    if (entry?.value.kind !== 'directory' || entry.value.directory !== home.directory) return false;
    if (entry.value.removing !== true) return true;
    const kept = { ...entry.value, removing: false };
    if (await context.documents.replace(context.scope, key, entry.version, kept)) return true;
  }
  throw changedTooOften('directory', home.name);
}

/**
 * Claim the name at `place` for a volume. The head must have been read (rename) or must already name the place (create)
 * before this call.
 * @returns false when a directory above was removed meanwhile: make the place anew
 * @throws ALREADY_EXISTS when another volume or a directory with names in it has the name
 */
export async function claimName(
  context: HlfsContext,
  place: Place,
  volume: VolumeId,
): Promise<boolean> {
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const entry = await readName(context, place.parent, place.name);
    if (!(await tryClaim(context, place, volume, entry))) continue;
    if (await chainIsLive(context, place.above)) return true;
    const claimed = await readName(context, place.parent, place.name);
    if (claimed !== undefined) await dropEntry(context, place, claimed.version);
    return false;
  }
  throw changedTooOften('volume', place.path);
}

async function tryClaim(
  context: HlfsContext,
  place: Place,
  volume: VolumeId,
  entry: Versioned<NameDocument> | undefined,
): Promise<boolean> {
  const key = nameKey(place.parent, place.name);
  const document: NameDocument = { format: storeFormatVersion, kind: 'volume', volume };
  if (entry === undefined) return context.documents.create(context.scope, key, document);
  if (entry.value.kind === 'volume' && entry.value.volume === volume)
    // A claim of our own from an earlier try: written anew, so that whoever is dropping it loses.
    return context.documents.replace(context.scope, key, entry.version, entry.value);
  await freeName(context, place, entry);
  return false;
}

/** Make room where only a stale entry or an empty directory is in the way. @throws ALREADY_EXISTS otherwise */
async function freeName(
  context: HlfsContext,
  place: Place,
  entry: Versioned<NameDocument>,
): Promise<void> {
  const { value } = entry;
  const isFreed =
    value.kind === 'directory'
      ? await removeDirectory(context, { ...place, directory: value.directory })
      : await dropIfStale(context, place);
  if (!isFreed) throw new DvceError('ALREADY_EXISTS', { kind: value.kind, name: place.path });
}

/** Drop exactly this version of an entry. @returns false when it changed meanwhile */
export const dropEntry = (
  context: HlfsContext,
  place: { readonly parent: DirectoryId; readonly name: string },
  version: number,
): Promise<boolean> =>
  context.documents.delete(context.scope, nameKey(place.parent, place.name), version);

/**
 * Drop the volume entry at `place` when the head does not agree with it (N1).
 * @returns true when no volume is named here any more, false when the entry is right
 * @throws DOCUMENT_DAMAGED when the head is missing altogether: absence is no reason to delete (N7)
 */
export async function dropIfStale(
  context: HlfsContext,
  place: { readonly path: string; readonly parent: DirectoryId; readonly name: string },
): Promise<boolean> {
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const entry = await readName(context, place.parent, place.name);
    if (entry?.value.kind !== 'volume') return true;
    const head = await readHead(context, entry.value.volume);
    if (head === undefined) {
      await refuseHeadless(context, place, entry.version, entry.value.volume);
      continue;
    }
    const isGone = head.value.state === 'deleting';
    if (!isGone && !isTrashed(head.value) && isAt(head.value, place)) return false;
    // One in the trash may be about to come back under this name: its head is touched, too.
    if (!isGone && !(await touchHead(context, head))) continue;
    if (await dropEntry(context, place, entry.version)) return true;
  }
  throw changedTooOften('volume', place.path);
}

async function refuseHeadless(
  context: HlfsContext,
  place: { readonly path: string; readonly parent: DirectoryId; readonly name: string },
  entryVersion: number,
  volume: VolumeId,
): Promise<void> {
  // The volume may have been removed between the two reads; then its entry is gone, too.
  const again = await readName(context, place.parent, place.name);
  if (again?.version !== entryVersion) return;
  throw new DvceError('DOCUMENT_DAMAGED', {
    name: headKey(volume),
    reason: `it is missing, but ${place.path} names it`,
  });
}

const touchHead = (context: HlfsContext, head: Versioned<HeadDocument>): Promise<boolean> =>
  context.documents.replace(context.scope, headKey(head.value.volume), head.version, head.value);

/**
 * Find a volume by its path; a stale entry met on the way is dropped.
 * @returns the record and its entry's version, or undefined
 */
export async function resolve(
  context: HlfsContext,
  path: VolumePath,
): Promise<{ record: VolumeRecord; place: Place; entryVersion: number } | undefined> {
  for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
    const place = await findPlace(context, path);
    if (place === undefined) return undefined;
    const entry = await readName(context, place.parent, place.name);
    if (entry?.value.kind !== 'volume') return undefined;
    const id = entry.value.volume;
    const head = await readHead(context, id);
    if (head !== undefined && isAt(head.value, place) && !isOut(head.value)) {
      if (!isUsable(head.value)) return undefined;
      const record = { path, id, version: head.version, head: head.value };
      return { record, place, entryVersion: entry.version };
    }
    if (await dropIfStale(context, place)) return undefined;
  }
  throw changedTooOften('volume', path);
}

/** Is the name free for a new volume? Changes nothing (B-38). @throws ALREADY_EXISTS */
export async function checkFree(context: HlfsContext, path: VolumePath): Promise<void> {
  let parent = rootDirectory;
  const parts = partsOf(path);
  for (const [index, name] of parts.entries()) {
    const entry = await readName(context, parent, name);
    if (entry === undefined) return;
    const taken = `/${parts.slice(0, index + 1).join('/')}`;
    if (entry.value.kind === 'volume') {
      const head = await readHead(context, entry.value.volume);
      const isStale =
        head !== undefined && (isOut(head.value) || !isAt(head.value, { parent, name }));
      if (isStale) return;
      throw new DvceError('ALREADY_EXISTS', { kind: 'volume', name: taken });
    }
    parent = entry.value.directory;
  }
  if (!(await isEmpty(context, parent)))
    throw new DvceError('ALREADY_EXISTS', { kind: 'directory', name: path });
}

/** Names in a directory, in order; entries that were dropped may still be among them. */
export async function namesIn(context: HlfsContext, directory: DirectoryId): Promise<string[]> {
  const names = await context.documents.names(namesPrefix(directory));
  return names
    .map(partToName)
    .filter((name) => name !== undefined)
    .sort();
}

async function isEmpty(context: HlfsContext, directory: DirectoryId): Promise<boolean> {
  for (const name of await namesIn(context, directory))
    if ((await readName(context, directory, name)) !== undefined) return false;
  return true;
}

/** @returns true when the directory is gone, false when it has names in it */
export async function removeDirectory(context: HlfsContext, home: Home): Promise<boolean> {
  const key = nameKey(home.parent, home.name);
  const entry = await readName(context, home.parent, home.name);
  if (entry?.value.kind !== 'directory' || entry.value.directory !== home.directory) return true;
  if (!(await isEmpty(context, home.directory))) return false;
  const marked = { ...entry.value, removing: true };
  if (!(await context.documents.replace(context.scope, key, entry.version, marked))) return false;
  const version = entry.version + 1;
  if (await isEmpty(context, home.directory))
    return context.documents.delete(context.scope, key, version);
  // Losing here is fine: then the one who put a name into it took the mark back already.
  await context.documents.replace(context.scope, key, version, { ...marked, removing: false });
  return false;
}

/** Remove the directories above a path, from the nearest up, as long as they are empty. */
export async function pruneAbove(context: HlfsContext, path: VolumePath): Promise<void> {
  const place = await findPlace(context, path);
  for (const home of place?.above.toReversed() ?? [])
    if (!(await removeDirectory(context, home))) return;
}
