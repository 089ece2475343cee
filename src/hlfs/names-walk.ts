/** Going through the namespace: lists, which change nothing (B-03), and the sweep of what a crash left behind. */
import {
  asVolumePath,
  type DirectoryId,
  DvceError,
  type VolumeId,
  type VolumePath,
} from '../base/index.ts';
import { readHead, readName } from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import type { Versioned } from './documents.ts';
import { isAt, isUsable } from './heads.ts';
import {
  dropIfStale,
  findPlace,
  type Home,
  namesIn,
  removeDirectory,
  rootDirectory,
  type VolumeRecord,
} from './names.ts';
import type { HeadDocument } from './schema.ts';

/** What `walk` meets: a directory's entry after everything below it, or the entry of a volume. */
type Met =
  | { readonly kind: 'directory'; readonly home: Home }
  | {
      readonly kind: 'volume';
      readonly place: { path: VolumePath; parent: DirectoryId; name: string };
      readonly volume: VolumeId;
    };

async function* walk(
  context: HlfsContext,
  directory: DirectoryId,
  path: string,
): AsyncGenerator<Met> {
  for (const name of await namesIn(context, directory)) {
    const entry = await readName(context, directory, name);
    if (entry === undefined) continue;
    const below = `${path}/${name}`;
    if (entry.value.kind === 'volume') {
      const place = { path: below as VolumePath, parent: directory, name };
      yield { kind: 'volume', place, volume: entry.value.volume };
      continue;
    }
    yield* walk(context, entry.value.directory, below);
    const home = { parent: directory, name, directory: entry.value.directory };
    yield { kind: 'directory', home };
  }
}

/** Volumes at or below a path (`/` is everything), in order of their paths. Changes nothing (B-03). */
export async function listNames(context: HlfsContext, prefix: string): Promise<VolumeRecord[]> {
  const found: VolumeRecord[] = [];
  const add = (path: VolumePath, head: Versioned<HeadDocument>): void => {
    found.push({ path, id: head.value.volume, version: head.version, head: head.value });
  };
  if (prefix === '' || prefix === '/') {
    await collect(context, rootDirectory, '', add);
    return found;
  }
  const path = asVolumePath(prefix);
  const place = await findPlace(context, path);
  if (place === undefined) return [];
  const entry = await readName(context, place.parent, place.name);
  if (entry?.value.kind === 'directory') await collect(context, entry.value.directory, path, add);
  if (entry?.value.kind === 'volume') {
    const head = await readHead(context, entry.value.volume);
    if (head !== undefined && isUsable(head.value) && isAt(head.value, place)) add(path, head);
  }
  return found;
}

async function collect(
  context: HlfsContext,
  directory: DirectoryId,
  path: string,
  add: (path: VolumePath, head: Versioned<HeadDocument>) => void,
): Promise<void> {
  for await (const met of walk(context, directory, path)) {
    if (met.kind !== 'volume') continue;
    const head = await readHead(context, met.volume);
    if (head !== undefined && isUsable(head.value) && isAt(head.value, met.place))
      add(met.place.path, head);
  }
}

/** What an entry of the namespace says; only the head of the volume tells whether it is right (N1). */
export interface Named {
  readonly path: VolumePath;
  readonly parent: DirectoryId;
  readonly name: string;
  readonly volume: VolumeId;
}

/** Every entry of a volume, in order of their paths. Changes nothing. */
export async function listPlaces(context: HlfsContext): Promise<Named[]> {
  const found: Named[] = [];
  for await (const met of walk(context, rootDirectory, ''))
    if (met.kind === 'volume') found.push({ ...met.place, volume: met.volume });
  return found;
}

/** Go through the whole namespace: drop stale entries and empty directories that a crash left behind. */
export async function sweepNames(context: HlfsContext): Promise<void> {
  for await (const met of walk(context, rootDirectory, '')) {
    try {
      if (met.kind === 'volume') await dropIfStale(context, met.place);
      else await removeDirectory(context, met.home);
    } catch (error) {
      // One damaged head must not keep the rest from being repaired.
      if (!(error instanceof DvceError) || error.code !== 'DOCUMENT_DAMAGED') throw error;
      context.logger.error({ key: error.context['name'] }, error.message);
    }
  }
}
