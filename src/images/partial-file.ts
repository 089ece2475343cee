/**
 * A download under way, in a file that outlives its process, so that a broken download goes on where it broke off.
 *
 *   <tmp>/download-<key>        the bytes so far; locked by the process that works on it
 *   <tmp>/download-<key>.json   identity: which version of the file they are of, and how many are surely on the disk
 *
 * The key is a hash of the address, so no address is written down. Only bytes up to `syncedBytes` are gone on with: what a
 * power loss may have taken is fetched again. A file without an identity that can be proven to the server is begun again.
 * Two imports of one address at the same time: the second one works in a file without a name, which cannot be continued.
 */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import {
  type FileHandle,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  unlink,
} from 'node:fs/promises';
import { Ajv } from 'ajv';
import { tryLock } from 'fs-native-extensions';
import Type, { type Static } from 'typebox';
import { limits, type Random, systemCode } from '../base/index.ts';

const identity = Type.Object({
  version: Type.Literal(1),
  validator: Type.String({ maxLength: 1024 }),
  totalBytes: Type.Union([Type.Integer({ minimum: 0 }), Type.Null()]),
  syncedBytes: Type.Integer({ minimum: 0 }),
});
type Identity = Static<typeof identity>;
const isIdentity = new Ajv({ strict: false }).compile<Identity>(identity);

const prefix = 'download-';

export class PartialFile {
  readonly file: FileHandle;
  /** null: without a name. */
  readonly #path: string | null;
  #identity: Identity | null;
  #doneBytes: number;

  private constructor(file: FileHandle, path: string | null, known: Identity | null) {
    this.file = file;
    this.#path = path;
    this.#identity = known;
    this.#doneBytes = known?.syncedBytes ?? 0;
  }

  static async open(directory: string, source: string, random: Random): Promise<PartialFile> {
    const key = createHash('sha256').update(source).digest('hex').slice(0, 32);
    const path = `${directory}/${prefix}${key}`;
    const file = await open(
      path,
      constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW,
      0o600,
    );
    if (!(await isOurs(file, path))) {
      await file.close();
      return new PartialFile(await openNameless(directory, random), null, null);
    }
    const known = await readIdentity(`${path}.json`);
    const { size } = await file.stat();
    const usable = known !== null && known.syncedBytes <= size ? known : null;
    await file.truncate(usable?.syncedBytes ?? 0);
    return new PartialFile(file, path, usable);
  }

  get doneBytes(): number {
    return this.#doneBytes;
  }
  get totalBytes(): number | null {
    return this.#identity?.totalBytes ?? null;
  }
  /** What the server must still have for the rest to fit; null: begin again. */
  get validator(): string | null {
    return this.#identity?.validator ?? null;
  }

  /** Begin again: what comes now is the first byte of this version. */
  async begin(validator: string | null, totalBytes: number | null): Promise<void> {
    await this.#forget();
    await this.file.truncate(0);
    this.#doneBytes = 0;
    if (validator === null) return;
    this.#identity = { version: 1, validator, totalBytes, syncedBytes: 0 };
  }

  /** The last byte is to be fetched again. */
  stepBack(): void {
    this.#doneBytes -= 1;
  }

  async append(chunk: Buffer): Promise<void> {
    await writeAll(this.file, chunk, this.#doneBytes);
    this.#doneBytes += chunk.length;
    const synced = this.#identity?.syncedBytes ?? this.#doneBytes;
    if (this.#doneBytes - synced >= limits.partialSyncBytes) await this.sync();
  }

  async sync(): Promise<void> {
    if (this.#identity === null || this.#path === null) return;
    await this.file.datasync();
    this.#identity = { ...this.#identity, syncedBytes: this.#doneBytes };
    const path = `${this.#path}.json`;
    const next = await open(`${path}.new`, 'w', 0o600);
    try {
      await next.writeFile(JSON.stringify(this.#identity));
      await next.datasync();
    } finally {
      await next.close();
    }
    await rename(`${path}.new`, path);
  }

  /** The end of this work: `keep` for another import, as far as that can go on. */
  async close(keep: boolean): Promise<void> {
    const goesOn = keep && this.#identity !== null && this.#doneBytes > 0;
    try {
      if (goesOn) await this.sync();
      else await this.#forget();
      if (!goesOn && this.#path !== null) await rm(this.#path, { force: true });
    } finally {
      await this.file.close();
    }
  }

  async #forget(): Promise<void> {
    this.#identity = null;
    if (this.#path === null) return;
    for (const end of ['.json', '.json.new']) await rm(`${this.#path}${end}`, { force: true });
  }
}

/** Locked, and still the file of this name: the one who held it may have removed it in between. */
async function isOurs(file: FileHandle, path: string): Promise<boolean> {
  if (!tryLock(file.fd)) return false;
  try {
    const [here, there] = await Promise.all([file.stat(), stat(path)]);
    return here.isFile() && here.ino === there.ino && here.dev === there.dev;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false;
    throw error;
  }
}

async function readIdentity(path: string): Promise<Identity | null> {
  try {
    const value: unknown = JSON.parse(await readFile(path, 'utf8'));
    return isIdentity(value) ? value : null;
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || error instanceof SyntaxError) return null;
    throw error;
  }
}

/** A file that has no name any more when its first byte is written: gone with its process, however that ends. */
export async function openNameless(directory: string, random: Random): Promise<FileHandle> {
  const path = `${directory}/image-${random.bytes(8).toString('hex')}`;
  const file = await open(path, 'wx+', 0o600);
  await unlink(path);
  return file;
}

export async function writeAll(file: FileHandle, chunk: Buffer, position: number): Promise<void> {
  let done = 0;
  while (done < chunk.length) {
    const { bytesWritten } = await file.write(chunk, done, chunk.length - done, position + done);
    done += bytesWritten;
  }
}

/**
 * Remove what earlier processes left: everything but downloads that are young enough to be continued.
 * @returns the names that were removed
 */
export async function sweepTemporary(directory: string, nowMs: number): Promise<string[]> {
  const removed: string[] = [];
  for (const name of await names(directory)) {
    const path = `${directory}/${name}`;
    const { mtimeMs } = await stat(path);
    if (name.startsWith(prefix) && nowMs - mtimeMs < limits.partialKeepMs) continue;
    await rm(path, { force: true });
    removed.push(name);
  }
  return removed;
}

async function names(directory: string): Promise<string[]> {
  try {
    return (await readdir(directory, { withFileTypes: true }))
      .filter((entry) => entry.isFile() && /^(download|image|import)-[0-9a-f]+/.test(entry.name))
      .map(({ name }) => name);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  }
}
