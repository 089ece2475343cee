/** Temporary files stop before the disk is full: the store and the journals may lie on the same one (rule S9). */
import { statfs } from 'node:fs/promises';
import { DvceError, formatSize, limits, MiB } from '../base/index.ts';

const lookEveryBytes = 64 * MiB;

export class SpaceGuard {
  readonly #directory: string;
  #sinceBytes = lookEveryBytes;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** So much shall be written. */
  async need(bytes: number): Promise<void> {
    const { bavail, bsize } = await statfs(this.#directory);
    if (bavail * bsize >= bytes + limits.storeReserveBytes) return;
    throw new DvceError('NO_SPACE', {
      where: this.#directory,
      reason: `${formatSize(bytes)} are needed and ${formatSize(limits.storeReserveBytes)} stay free, ${formatSize(bavail * bsize)} are free`,
    });
  }

  /** So much is being written now; looks at the disk now and then. */
  async add(bytes: number): Promise<void> {
    this.#sinceBytes += bytes;
    if (this.#sinceBytes < lookEveryBytes) return;
    this.#sinceBytes = 0;
    await this.need(lookEveryBytes);
  }
}
