/** Directories that somebody else may remove at any moment, once they are empty. */
import { type FileSystem, systemCode } from '../base/index.ts';

/** The names in a directory; none when it is not there. */
export async function namesIn(files: FileSystem, path: string): Promise<string[]> {
  try {
    return await files.list(path);
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR') return [];
    throw error;
  }
}
