/** What a volume takes in the store, counted by the thread that has it open, or by any. */
import { DvceError } from '../base/index.ts';
import type { VolumeRecord, VolumeSpace } from '../hlfs/index.ts';
import type { NodeContext } from './node-context.ts';

/** @returns null when a part of the volume cannot be read: what is wrong is for its check to say, the rest is shown all the same */
export async function spaceOf(
  node: NodeContext,
  { id, path }: VolumeRecord,
): Promise<VolumeSpace | null> {
  try {
    const hosted = node.volumes.find(id);
    return hosted === undefined
      ? await node.pool.leastLoaded().call('space', { volume: id })
      : await hosted.thread.call('export.space', { key: hosted.key });
  } catch (error) {
    if (!(error instanceof DvceError) || error.retryable) throw error;
    node.logger.warn({ volume: path, code: error.code }, 'what it takes cannot be told');
    // Closed in between.
    return error.code === 'VOLUME_CLOSED'
      ? node.pool.leastLoaded().call('space', { volume: id })
      : null;
  }
}
