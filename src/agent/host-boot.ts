/**
 * Has the host started since an agent last looked after its VMs? The kernel gives every boot an id; the one that an agent has
 * dealt with is in a file. A missing file is no new boot: that is a new data directory, or an upgrade while guests run.
 */
import { readFile } from 'node:fs/promises';
import { dataSync, type FileSystem, systemCode, writeFully } from '../base/index.ts';

export interface HostBootOptions {
  readonly path: string;
  readonly files: FileSystem;
  readonly kernelFile?: string;
}

export class HostBoot {
  readonly #options: HostBootOptions;

  constructor(options: HostBootOptions) {
    this.#options = options;
  }

  async isNew(): Promise<boolean> {
    const known = await readText(this.#options.path);
    return known !== undefined && known !== (await this.#current());
  }

  /** From now on this boot is dealt with. */
  async record(): Promise<void> {
    const { path, files } = this.#options;
    const id = await this.#current();
    if ((await readText(path)) === id) return;
    const temporary = `${path}.new`;
    if ((await files.stat(temporary)) !== undefined) await files.remove(temporary);
    const file = files.openSync(temporary, 'create');
    try {
      await writeFully(file, [Buffer.from(`${id}\n`)], 0);
      await dataSync(file);
    } finally {
      file.closeSync();
    }
    await files.rename(temporary, path);
  }

  async #current(): Promise<string> {
    const { kernelFile = '/proc/sys/kernel/random/boot_id' } = this.#options;
    return (await readText(kernelFile)) ?? 'unknown';
  }
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return (await readFile(path, 'utf8')).trim();
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}
