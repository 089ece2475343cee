/** Files that say something by being there. */
import { access } from 'node:fs/promises';
import { systemCode } from '../base/index.ts';

export async function isThere(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false;
    throw error;
  }
}
