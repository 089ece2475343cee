/** Directories that somebody else may remove at any moment, once they are empty. */
import { type FileSystem, systemCode } from '../base/index.ts';
import { fencedSuffix, temporarySuffix } from './keys.ts';

/** The names in a directory; none when it is not there. */
export async function namesIn(files: FileSystem, path: string): Promise<string[]> {
  try {
    return await files.list(path);
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR') return [];
    throw error;
  }
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
