/** Directories that somebody else may remove at any moment, once they are empty. */
import { type FileSystem, systemCode } from '../base/index.ts';
import type { ListEntry } from '../hlfs/index.ts';
import { fencedSuffix, nameOf, temporarySuffix } from './keys.ts';

/** The names in a directory; none when it is not there. */
export const namesIn = (files: FileSystem, path: string): Promise<readonly string[]> =>
  unlessGone(files.list(path), []);

async function unlessGone<T>(listing: Promise<readonly T[]>, none: readonly T[]) {
  try {
    return await listing;
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR') return none;
    throw error;
  }
}

/** Whether it is a directory; undefined: not known. */
type Kinds = ReadonlyMap<string, boolean | undefined>;

/** The names in a directory and whether each is one itself, undefined where that is not known yet; none when it is not there. */
export async function kindsIn(files: FileSystem, path: string): Promise<Kinds> {
  if (files.entries === undefined)
    return new Map((await namesIn(files, path)).map((name) => [name, undefined]));
  const found = await unlessGone(files.entries(path), []);
  return new Map(found.map(({ name, isDirectory }) => [name, isDirectory]));
}

/** What a list says of a key; nothing when it has gone. */
export async function entryOf(
  files: FileSystem,
  key: string,
  path: string,
  kinds: Kinds,
): Promise<ListEntry[]> {
  const isDirectory = kinds.get(nameOf(key)) ?? (await files.stat(path))?.isDirectory;
  return isDirectory === undefined ? [] : [{ key, isDirectory }];
}

/** Paths of the uploads left in a scope, fenced or not. Names that begin with `own` are being written by who asks. */
export async function uploadsIn(files: FileSystem, scope: string, own: string): Promise<string[]> {
  const found: string[] = [];
  for (const directory of [scope, scope + fencedSuffix])
    for (const name of await namesIn(files, directory)) {
      const isOwn = directory === scope && name.startsWith(own);
      if (!isOwn && name.endsWith(temporarySuffix)) found.push(`${directory}/${name}`);
    }
  return found;
}
