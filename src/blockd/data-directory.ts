/**
 * The data directory of a node: one blockd owns it for its life (rule N3).
 *
 *   <data>/lock              locked while blockd runs; holds its pid
 *   <data>/launcher.lock     locked while a launcher watches over it
 *   <data>/store/            the embedded store (unless --store names another directory)
 *   <data>/journal/<volume>/ journals; recycled files
 *   <data>/run/blockd.sock   control protocol             (0660)
 *   <data>/run/nbd.sock      NBD, exports by name         (0660)
 *   <data>/run/v/<id>.sock   NBD of one open volume, listened on inside of its worker
 *   <data>/log/blockd.log    JSON lines
 *   <data>/state/node.json   the node's id
 *   <data>/state/open.json   the open table (open-table.ts)
 *   <data>/state/crash.json  how the last blockd died, until the next one has read it (crash-record.ts)
 *   <data>/state/scrub.json  where the background scrub is, and what it found (scrub.ts)
 *   <data>/state/exit.json   written by a blockd that ended as it was told to
 */
import { createHash } from 'node:crypto';
import { join, resolve } from 'node:path';
import {
  asNodeId,
  DvceError,
  type FileSystem,
  isUuid,
  type NodeId,
  type Random,
  randomUuid,
} from '../base/index.ts';
import { readWhole, writeDurably } from './durable-file.ts';
import { isRecord } from './lines.ts';

/** sizeof(sun_path) - 1 on Linux. */
const socketPathBytesMax = 107;

export interface DataDirectory {
  readonly root: string;
  readonly store: string;
  readonly journal: string;
  readonly run: string;
  readonly volumeSockets: string;
  readonly log: string;
  readonly state: string;
  readonly lockFile: string;
  readonly launcherLockFile: string;
  readonly controlSocket: string;
  readonly nbdSocket: string;
  readonly logFile: string;
  readonly launcherLogFile: string;
  readonly nodeFile: string;
  readonly openTableFile: string;
  readonly crashFile: string;
  readonly exitFile: string;
  readonly scrubFile: string;
}

/** Names in a data directory; touches nothing. */
export function dataDirectory(path: string, storePath?: string): DataDirectory {
  const root = resolve(path);
  const at = (...parts: string[]): string => join(root, ...parts);
  return {
    root,
    store: storePath === undefined ? at('store') : resolve(storePath),
    journal: at('journal'),
    run: at('run'),
    volumeSockets: at('run', 'v'),
    log: at('log'),
    state: at('state'),
    lockFile: at('lock'),
    launcherLockFile: at('launcher.lock'),
    controlSocket: at('run', 'blockd.sock'),
    nbdSocket: at('run', 'nbd.sock'),
    logFile: at('log', 'blockd.log'),
    launcherLogFile: at('log', 'launcher.log'),
    nodeFile: at('state', 'node.json'),
    openTableFile: at('state', 'open.json'),
    crashFile: at('state', 'crash.json'),
    exitFile: at('state', 'exit.json'),
    scrubFile: at('state', 'scrub.json'),
  };
}

/**
 * Socket of an open volume (`id`) or of one of its snapshots (`id` + `snapshot`). It depends on the ids alone, so that after
 * a restart of blockd a guest finds its disk where it was. 64 bits of a hash keep the path short; two ids of one host that
 * collide would be refused by `listen` (the first one's socket is in use), not mixed up.
 */
export function volumeSocket(directory: DataDirectory, id: string, snapshot?: string): string {
  const hash = createHash('sha256').update(snapshot === undefined ? id : `${id}@${snapshot}`);
  return join(directory.volumeSockets, `${hash.digest('hex').slice(0, 16)}.sock`);
}

/** Refuse a data directory whose sockets could not be bound. Throws PATH_TOO_LONG. */
export function checkSocketPaths(directory: DataDirectory): void {
  for (const path of [volumeSocket(directory, ''), directory.controlSocket]) {
    const length = Buffer.byteLength(path);
    if (length > socketPathBytesMax)
      throw new DvceError('PATH_TOO_LONG', { where: path, length, max: socketPathBytesMax });
  }
}

/**
 * Sockets that a killed blockd left behind. The caller holds the lock (N3): nobody listens on them, and those of attached
 * volumes come back.
 */
export async function removeStaleSockets(
  files: FileSystem,
  directory: DataDirectory,
): Promise<void> {
  for (const name of await files.list(directory.volumeSockets))
    if (name.endsWith('.sock')) await files.remove(join(directory.volumeSockets, name));
}

/** Create what is missing. */
export async function prepareDataDirectory(
  files: FileSystem,
  directory: DataDirectory,
): Promise<void> {
  const { root, store, journal, volumeSockets, log, state } = directory;
  for (const path of [root, store, journal, volumeSockets, log, state])
    await files.makeDirectory(path);
  await files.syncDirectory(root);
}

/** The node's id, made at the first start. */
export async function loadNodeId(
  files: FileSystem,
  directory: DataDirectory,
  random: Random,
): Promise<NodeId> {
  const text = readWhole(files, directory.nodeFile, 4096);
  if (text !== undefined) return parseNode(text, directory.nodeFile);
  const node = asNodeId(randomUuid(random));
  await writeDurably(files, directory.nodeFile, `${JSON.stringify({ format: 1, node })}\n`);
  return node;
}

function parseNode(text: string, path: string): NodeId {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new DvceError('DOCUMENT_DAMAGED', { name: path, reason: 'it is not JSON' }, error);
  }
  const node = isRecord(value) ? value['node'] : undefined;
  if (typeof node !== 'string' || !isUuid(node))
    throw new DvceError('DOCUMENT_DAMAGED', { name: path, reason: 'it names no node' });
  return asNodeId(node);
}
