/**
 * Taking apart what nobody needs any more. Every function here may be cut short anywhere and called again; each keeps the
 * document that leads to the rest until last (N2).
 */
import { join } from 'node:path';
import { DvceError, type LogId, limits, systemCode, type VolumeId } from '../base/index.ts';
import {
  headKey,
  logDirectory,
  logKey,
  pinKey,
  pinsPrefix,
  readLog,
  readPin,
  snapshotsPrefix,
  writersPrefix,
} from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import { cutsOf, releasePins } from './pins.ts';

/** Where the journal of a volume is; two volumes never share one, whatever their names (B-45). */
export const journalDirectoryOf = (context: HlfsContext, volume: VolumeId): string =>
  join(context.journalDirectory, volume);

/** Remove a log whose segments are gone. The pins that it held in its base logs go only now, so nothing it read is lost. */
export async function removeLog(context: HlfsContext, log: LogId): Promise<void> {
  const { documents, store } = context;
  const base = (await readLog(context, log))?.value.base;
  await releasePins(context, cutsOf(base?.ranges ?? []).keys(), log);
  for (const part of await documents.names(snapshotsPrefix(log)))
    await documents.purge(`${snapshotsPrefix(log)}/${part}`);
  // A pin that is there belongs to a fork that is about to find its snapshot gone; it takes the pin away itself.
  for (const who of await documents.names(pinsPrefix(log)))
    if ((await readPin(context, log, who)) === undefined) await documents.purge(pinKey(log, who));
  await removeWriters(context, log);
  await documents.purge(logKey(log));
  // The directories that segments are spread over; their segments are gone.
  const shards = await store.list(`${logDirectory(log)}/seg`, undefined, limits.listPageEntries);
  for (const { key } of shards) await store.deleteDirectory(key);
  for (const part of ['snap', 'pins', 'seg', 'w'])
    await store.deleteDirectory(`${logDirectory(log)}/${part}`);
  await store.deleteDirectory(logDirectory(log));
}

/** Fence every publishing scope of the log (S1), then remove the scopes and what stores keep in their place. */
async function removeWriters(context: HlfsContext, log: LogId): Promise<void> {
  const { documents, store } = context;
  const prefix = writersPrefix(log);
  for (const name of await documents.names(prefix)) {
    const scope = writerPattern.exec(name)?.[0];
    if (scope === undefined) continue;
    await store.fence(`${prefix}/${scope}`);
    await store.sweepScope(`${prefix}/${scope}`);
  }
  for (const name of await documents.names(prefix))
    await store.deleteDirectory(`${prefix}/${name}`);
}

const writerPattern = /^[0-9]+-[0-9a-f]{32}/;

/** The end of a volume: its journal, then its head. */
export async function removeHead(context: HlfsContext, volume: VolumeId): Promise<void> {
  await removeTree(context, journalDirectoryOf(context, volume));
  await context.documents.purge(headKey(volume));
  await removeHeadless(context, volume);
}

/** What a removal that was cut short leaves of a head: directories, and only if they are empty (N7). */
export async function removeHeadless(context: HlfsContext, volume: VolumeId): Promise<void> {
  await context.store.deleteDirectory(headKey(volume));
  await context.store.deleteDirectory(`volumes/${volume}`);
}

async function removeTree(context: HlfsContext, path: string): Promise<void> {
  const { files } = context;
  let names: string[];
  try {
    names = await files.list(path);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return;
    throw ioFailed(path, error);
  }
  try {
    for (const name of names) {
      const below = join(path, name);
      if ((await files.stat(below))?.isDirectory === true) await removeTree(context, below);
      else await files.remove(below);
    }
    await files.removeDirectory(path);
  } catch (error) {
    throw ioFailed(path, error);
  }
}

const ioFailed = (where: string, error: unknown): DvceError =>
  new DvceError(
    'IO_FAILED',
    {
      what: 'removing a journal',
      where,
      reason: error instanceof Error ? error.message : String(error),
    },
    error,
  );
