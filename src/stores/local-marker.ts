/**
 * `dvce-store.json`, the file that makes a directory a store: `{"format": 1, "id": "<uuid>"}` and a line feed.
 *
 * It is written like a segment (temporary file, fdatasync, link, fsync of the directory), so two processes that create the
 * same store agree on one id, and a crash leaves either a store or a directory that can be made one.
 */
import {
  DvceError,
  dataSync,
  type FileSystem,
  isUuid,
  type Random,
  randomUuid,
  systemCode,
  toDvceError,
  writeFully,
} from '../base/index.ts';
import { storeFormatVersion } from '../hlfs/index.ts';

export interface LocalStoreOptions {
  readonly root: string;
  readonly files: FileSystem;
  readonly random: Random;
  /** Make the store when there is none. */
  readonly create: boolean;
  /** Threads of the process that open this store; each has its part of the thread pool (N5). 1 when not said. */
  readonly threads?: number;
}

export interface LocalStoreMarker {
  readonly format: number;
  readonly id: string;
}

const markerName = 'dvce-store.json';
const markerBytesMax = 4096;

export async function openMarker(options: LocalStoreOptions): Promise<LocalStoreMarker> {
  try {
    const found = readMarker(options);
    if (found === undefined && !options.create)
      throw new DvceError('NOT_FOUND', { kind: 'store', name: options.root });
    if (found === undefined) return await createMarker(options);
    // Whoever made it may have been killed before its name was durable; nothing is built on it before it is.
    await options.files.syncDirectory(options.root);
    await makeDurablePath(options.files, options.root);
    return found;
  } catch (error) {
    throw toDvceError(error, `local:${options.root}`);
  }
}

function readMarker({ files, root }: LocalStoreOptions): LocalStoreMarker | undefined {
  const path = `${root}/${markerName}`;
  try {
    const file = files.openSync(path, 'read');
    try {
      const bytes = Buffer.alloc(Math.min(file.sizeSync(), markerBytesMax));
      return parseMarker(path, bytes.subarray(0, file.readSync(bytes, 0)).toString('utf8'));
    } finally {
      file.closeSync();
    }
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

function parseMarker(path: string, text: string): LocalStoreMarker {
  const damaged = (reason: string, cause?: unknown): DvceError =>
    new DvceError('DOCUMENT_DAMAGED', { name: path, reason }, cause);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw damaged('it is no JSON', error);
  }
  if (typeof value !== 'object' || value === null) throw damaged('it is no JSON object');
  const format = 'format' in value ? value.format : undefined;
  const id = 'id' in value ? value.id : undefined;
  if (typeof format !== 'number') throw damaged('its format version is missing');
  if (format > storeFormatVersion)
    throw new DvceError('FORMAT_TOO_NEW', {
      what: `the store directory ${path.slice(0, -markerName.length - 1)}`,
      found: format,
      known: storeFormatVersion,
    });
  if (typeof id !== 'string' || !isUuid(id)) throw damaged('its id is no UUID');
  return { format, id };
}

async function createMarker(options: LocalStoreOptions): Promise<LocalStoreMarker> {
  const { files, root, random } = options;
  await makeDurablePath(files, root);
  const others = (await files.list(root)).filter((name) => !name.startsWith(markerName));
  if (others.length > 0)
    throw new DvceError('IN_USE', {
      kind: 'directory',
      name: root,
      reason: `it is no store and not empty (${others.sort()[0]})`,
      advice: 'Choose an empty directory for a new store.',
    });
  const id = randomUuid(random);
  const temporary = `${root}/${markerName}.${id}.tmp`;
  const text = `${JSON.stringify({ format: storeFormatVersion, id })}\n`;
  const file = files.openSync(temporary, 'create');
  try {
    try {
      await writeFully(file, [Buffer.from(text)], 0);
      await dataSync(file);
    } finally {
      file.closeSync();
    }
    await files.link(temporary, `${root}/${markerName}`);
  } catch (error) {
    if (systemCode(error) !== 'EEXIST') throw error;
  } finally {
    await files.remove(temporary);
  }
  await files.syncDirectory(root);
  const marker = readMarker(options);
  if (marker === undefined)
    throw new DvceError('DOCUMENT_DAMAGED', { name: root, reason: 'its marker vanished' });
  return marker;
}

/** Make a directory with its parents and make every name on the way durable, also of those that are there already. */
async function makeDurablePath(files: FileSystem, path: string): Promise<void> {
  const parent = path.slice(0, path.lastIndexOf('/')) || '/';
  if (path === '/') return;
  await makeDurablePath(files, parent);
  try {
    await files.makeNewDirectory(path);
  } catch (error) {
    // Some parents are not ours to write to; what matters is that the directory is there.
    if (systemCode(error) !== 'EEXIST' && (await files.stat(path)) === undefined) throw error;
  }
  try {
    await files.syncDirectory(parent);
  } catch (error) {
    // A directory that this user may not read was made by somebody else, long before.
    if (systemCode(error) !== 'EACCES' && systemCode(error) !== 'EPERM') throw error;
  }
}
