/** Control methods on what volumes have in common (DD-0018). */
import { DvceError, limits, sleep } from '../base/index.ts';
import { getVolume, type VolumeRecord } from '../hlfs/index.ts';
import type { CallContext } from './calls.ts';
import type { ControlHandlers } from './control-server.ts';
import type { NodeContext } from './node-context.ts';
import type { ControlResult } from './protocol.ts';
import { describeHolders } from './volume-info.ts';
import { infoOf, inTurn, withWarnings } from './volume-methods.ts';

export function treeMethods(
  node: NodeContext,
): Pick<ControlHandlers, 'volume.flatten' | 'volume.flatten-plan'> {
  return {
    'volume.flatten': ({ path }, call) => flatten(node, path, call),

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
