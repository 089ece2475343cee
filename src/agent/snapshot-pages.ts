/** Snapshots of a volume as blockd gives them: page by page, or one. */
import { DvceError } from '../base/index.ts';
import type { SnapshotInfo } from '../blockd/index.ts';
import type { DataProcess } from './data-process.ts';

/** All of them in the order of time and name, a page at a time: there may be many. */
export async function* snapshotPages(
  blockd: DataProcess,
  path: string,
): AsyncGenerator<readonly SnapshotInfo[]> {
  let { snapshots, next } = await blockd.call('snapshot.list', { path });
  yield snapshots;
  while (next !== null) {
    ({ snapshots, next } = await blockd.call('snapshot.list', { path, after: next }));
    yield snapshots;
  }
}

/** Those of all pages that `isWanted` is true of. */
export async function snapshotsThat(
  blockd: DataProcess,
  path: string,
  isWanted: (snapshot: SnapshotInfo) => boolean,
): Promise<SnapshotInfo[]> {
  const found: SnapshotInfo[] = [];
  for await (const page of snapshotPages(blockd, path)) found.push(...page.filter(isWanted));
  return found;
}

/** undefined when there is none of this name. */
export async function snapshotNamed(
  blockd: DataProcess,
  path: string,
  name: string,
): Promise<SnapshotInfo | undefined> {
  try {
    return await blockd.call('snapshot.get', { path, name });
  } catch (error) {
    if (error instanceof DvceError && error.code === 'NOT_FOUND') return undefined;
    throw error;
  }
}
