/** Control methods on what volumes have in common (DD-0018). */
import { asSnapshotName, DvceError, limits, sleep, type VolumeId } from '../base/index.ts';
import {
  getVolume,
  planPromotion,
  promoteVolume,
  readEnd,
  readRanges,
  type VolumeRecord,
} from '../hlfs/index.ts';
import type { CallContext } from './calls.ts';
import type { ControlHandlers } from './control-server.ts';
import type { NodeContext } from './node-context.ts';
import type { ControlResult } from './protocol.ts';
import { describeHolders } from './volume-info.ts';
import { infoOf, inTurn, withWarnings } from './volume-methods.ts';

export function treeMethods(
  node: NodeContext,
): Pick<
  ControlHandlers,
  'volume.flatten' | 'volume.flatten-plan' | 'volume.promote' | 'volume.promote-plan'
> {
  return {
    'volume.flatten': ({ path }, call) => flatten(node, path, call),

    'volume.promote': ({ path }) => promote(node, path),

    'volume.promote-plan': async ({ path }) => {
      const { parent, ...plan } = await planPromotion(node.hlfs, await volumeAt(node, path));
      return { ...plan, snapshots: [...plan.snapshots], parent: await pathOf(node, parent) };
    },

    'volume.flatten-plan': async ({ path }, { signal }) => {
      const record = await volumeAt(node, path);
      const hosted = node.volumes.find(record.id);
      const { copyBytes, held } =
        hosted === undefined
          ? await node.pool.leastLoaded().call('flatten.plan', { volume: record.id }, { signal })
          : await hosted.thread.call('export.flatten-plan', { key: hosted.key }, { signal });
      return { copyBytes, heldBy: describeHolders(held) };
    },
  };
}

async function volumeAt(node: NodeContext, path: string): Promise<VolumeRecord> {
  const record = await getVolume(node.hlfs, path);
  if (record.head.kind === 'image')
    throw new DvceError('READ_ONLY', { name: record.path, reason: 'it is an image' });
  return record;
}

async function pathOf({ view }: NodeContext, volume: VolumeId): Promise<string> {
  const found = (await view.list('/')).find(({ record }) => record.id === volume);
  if (found !== undefined) return found.record.path;
  throw new DvceError('NOT_FOUND', { kind: 'volume', name: volume });
}

/** In the turns of both, always in the same order. */
async function promote(node: NodeContext, path: string): Promise<ControlResult<'volume.promote'>> {
  const { id } = await volumeAt(node, path);
  const { parent } = await planPromotion(node.hlfs, { id, path });
  const [first = id, second = parent] = [id, parent].sort();
  const { volumes } = node;
  const result = await volumes.exclusive(first, () =>
    volumes.exclusive(second, () => promoteNow(node, path, { id, parent })),
  );
  node.reaper.kick();
  return result;
}

async function promoteNow(
  node: NodeContext,
  path: string,
  { id, parent }: { readonly id: VolumeId; readonly parent: VolumeId },
): Promise<ControlResult<'volume.promote'>> {
  const { hlfs, volumes } = node;
  const record = await volumeAt(node, path);
  const plan = await planPromotion(hlfs, record);
  if (record.id !== id || plan.parent !== parent)
    throw new DvceError('CONFLICT', { kind: 'volume', name: path, reason: 'it was changed' });
  const parentPath = await pathOf(node, parent);
  // An export of a snapshot is named by its volume.
  for (const name of plan.snapshots)
    await volumes.closeSnapshot(parent, asSnapshotName(name), parentPath);
  if (plan.parentMoves) {
    await volumes.closeUnused(parent, parentPath);
    // What a journal holds goes to the store: it cannot follow into the new log.
    await volumes.withOpen(parent, parentPath, async () => {});
  }
  const inUse = (volume: VolumeId): string | undefined => volumes.inUse(volume);
  await promoteVolume(hlfs, record, { readRanges, readEnd }, inUse);
  return {
    snapshots: [...plan.snapshots],
    volume: await infoOf(node, await getVolume(hlfs, record.path)),
    parent: await infoOf(node, await getVolume(hlfs, parentPath)),
  };
}

/**
 * Beside everything else that is done with the volume: its turn is taken only to open it. Who closes it meanwhile (a guest that is
 * started, say) gets it at once; it is opened again then, or found open, and the copy goes on where it ended.
 */
async function flatten(
  node: NodeContext,
  path: string,
  { signal, progress }: CallContext,
): Promise<ControlResult<'volume.flatten'>> {
  const { id } = await volumeAt(node, path);
  const { volumes } = node;
  let beforeBytes = 0;
  let doneBytes = 0;
  const onProgress = ({ done, total }: { done: string; total: string | null }): void => {
    doneBytes = Number(done);
    const all = total === null ? null : String(beforeBytes + Number(total));
    progress({ done: String(beforeBytes + doneBytes), total: all, unit: 'bytes' });
  };
  const timeoutMs = limits.volumeCheckMs;
  for (;;) {
    signal.throwIfAborted();
    const hosted = await inTurn(node, path, (record) => volumes.keep(record.id, record.path));
    try {
      const { key, thread } = hosted;
      const call = { signal, timeoutMs, onProgress };
      const { movedBytes, held } = await thread.call('export.flatten', { key }, call);
      const info = await infoOf(node, await getVolume(node.hlfs, path));
      // What only this volume held of another one may be gone for good now.
      node.reaper.kick();
      return {
        copiedBytes: beforeBytes + movedBytes,
        heldBy: describeHolders(held),
        volume: await withWarnings(node, info),
      };
    } catch (error) {
      if (!(error instanceof DvceError) || error.code !== 'VOLUME_CLOSED') throw error;
      beforeBytes += doneBytes;
      doneBytes = 0;
      node.logger.info({ volume: id }, 'closed while it was flattened; it goes on');
    } finally {
      volumes.unkeep(hosted);
    }
    await sleep(node.hlfs.timers, limits.flattenReopenMs, signal);
  }
}
