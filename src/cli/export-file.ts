/**
 * Writing an export into a file: whole under its name, or not there at all.
 *
 * The stream is that of src/images/sparse-frames.ts. It goes into `.NAME.dvce-PID` beside the target, zeros as holes; only
 * when the stream has come to its end, its digest fits and the bytes are on the disk, the file gets its name. What processes
 * that were killed left there is removed by the next export to the same name.
 */
import { createHash, type Hash } from 'node:crypto';
import { type FileHandle, link, lstat, open, readdir, rename, rm, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { DvceError, systemCode, toDvceError } from '../base/errors.ts';

export interface Exported {
  readonly fileBytes: number;
  readonly sha256: string;
}

const magic = Buffer.from('DVCESPF1');
const headerBytes = 9;
const digestBytes = 32;
const zeros = Buffer.alloc(1024 * 1024);

/** @throws FILE_EXISTS, or when it is something that is not replaced */
export async function checkTarget(path: string, mayReplace: boolean): Promise<void> {
  const found = await stat(path);
  if (found === undefined) return;
  if (!found.isFile())
    throw new DvceError('INVALID_ARGUMENT', {
      what: `the file ${path}`,
      reason: 'it is there and no regular file',
      advice: 'Name a file, or - for standard output.',
    });
  if (!mayReplace) throw new DvceError('FILE_EXISTS', { name: path });
}

async function stat(path: string) {
  try {
    return await lstat(path);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw toDvceError(error, path);
  }
}

export async function writeExport(
  stream: AsyncIterable<Buffer>,
  path: string,
  mayReplace: boolean,
  onProgress: (doneBytes: number) => void,
): Promise<Exported> {
  const temporary = join(dirname(path), `.${basename(path)}.dvce-${process.pid}`);
  let file: FileHandle | undefined;
  try {
    await removeLeftovers(path);
    file = await open(temporary, 'wx', 0o600);
    const exported = await fill(file, stream, onProgress);
    await file.sync();
    await file.close();
    file = undefined;
    await name(temporary, path, mayReplace);
    return exported;
  } catch (error) {
    await file?.close();
    await rm(temporary, { force: true });
    throw toDvceError(error, path);
  }
}

/** Without leave to replace, `link` refuses what appeared under the name meanwhile. */
async function name(temporary: string, path: string, mayReplace: boolean): Promise<void> {
  if (mayReplace) await rename(temporary, path);
  else {
    try {
      await link(temporary, path);
    } catch (error) {
      if (systemCode(error) === 'EEXIST') throw new DvceError('FILE_EXISTS', { name: path }, error);
      throw error;
    }
    await unlink(temporary);
  }
  const directory = await open(dirname(path), 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

async function removeLeftovers(path: string): Promise<void> {
  const start = `.${basename(path)}.dvce-`;
  for (const entry of await readdir(dirname(path))) {
    const pid = entry.startsWith(start) ? Number(entry.slice(start.length)) : Number.NaN;
    if (Number.isSafeInteger(pid) && !isAlive(pid))
      await rm(join(dirname(path), entry), { force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return systemCode(error) !== 'ESRCH';
  }
}

async function fill(
  file: FileHandle,
  stream: AsyncIterable<Buffer>,
  onProgress: (doneBytes: number) => void,
): Promise<Exported> {
  const frames = new Frames();
  const hash = createHash('sha256');
  let position = 0;
  for await (const chunk of stream)
    for (const part of frames.feed(chunk)) {
      if ('data' in part) {
        hash.update(part.data);
        await writeAll(file, part.data, position);
        position += part.data.length;
      } else if ('zeros' in part) {
        hashZeros(hash, part.zeros);
        position += part.zeros;
      } else {
        const actual = hash.digest('hex');
        if (part.length !== position || part.hex !== actual)
          throw broken(`it has ${position} bytes with sha256 ${actual}, expected ${part.hex}`);
        // Holes at the end.
        await file.truncate(position);
        return { fileBytes: position, sha256: actual };
      }
      onProgress(position);
    }
  throw broken('it ended early');
}

const broken = (reason: string): DvceError =>
  new DvceError('PROTOCOL', { peer: "the agent's export", reason });

function hashZeros(hash: Hash, length: number): void {
  for (let left = length; left > 0; left -= zeros.length)
    hash.update(left < zeros.length ? zeros.subarray(0, left) : zeros);
}

async function writeAll(file: FileHandle, bytes: Buffer, position: number): Promise<void> {
  let done = 0;
  while (done < bytes.length) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, position + done);
    done += bytesWritten;
  }
}

type Part =
  | { readonly data: Buffer }
  | { readonly zeros: number }
  | { readonly length: number; readonly hex: string };

/** Takes the stream apart, wherever it is cut into chunks. Data is passed on as it comes; only headers are collected. */
class Frames {
  #rest: Buffer = Buffer.alloc(0);
  #dataLeft = 0;
  #begun = false;

  *feed(chunk: Buffer): Generator<Part> {
    let bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    for (;;) {
      if (this.#dataLeft > 0) {
        const data = bytes.subarray(0, this.#dataLeft);
        if (data.length > 0) yield { data };
        this.#dataLeft -= data.length;
        bytes = bytes.subarray(data.length);
        if (this.#dataLeft > 0) break;
      }
      const head = this.#header(bytes);
      if (head === undefined) break;
      bytes = bytes.subarray(head.bytes);
      if (head.part !== undefined) yield head.part;
    }
    this.#rest = bytes;
  }

  /** The next header and its length; undefined when it is not all there yet. */
  #header(bytes: Buffer): { bytes: number; part?: Part } | undefined {
    if (!this.#begun) {
      if (bytes.length < magic.length) return undefined;
      if (!bytes.subarray(0, magic.length).equals(magic)) throw broken('it is no stream of frames');
      this.#begun = true;
      return { bytes: magic.length };
    }
    if (bytes.length < headerBytes) return undefined;
    const length = Number(bytes.readBigUInt64BE(1));
    if (!Number.isSafeInteger(length)) throw broken('it has an impossible length');
    switch (bytes[0]) {
      case 1:
        this.#dataLeft = length;
        return { bytes: headerBytes };
      case 2:
        return { bytes: headerBytes, part: { zeros: length } };
      case 3: {
        if (bytes.length < headerBytes + digestBytes) return undefined;
        const hex = bytes.toString('hex', headerBytes, headerBytes + digestBytes);
        return { bytes: headerBytes + digestBytes, part: { length, hex } };
      }
      default:
        throw broken(`it has a frame of kind ${bytes[0]}`);
    }
  }
}
