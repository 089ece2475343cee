/** Control methods that say where content is. */
import { asSnapshotName, DvceError, limits } from '../base/index.ts';
import { getVolume } from '../hlfs/index.ts';
import type { ControlHandlers } from './control-server.ts';
import type { NodeContext } from './node-context.ts';
import { imageSnapshot, inTurn } from './volume-methods.ts';

export function contentMethods(node: NodeContext): Pick<ControlHandlers, 'volume.map'> {
  return {
    'volume.map': async (params, { signal }) => {
      const { path, snapshot = null, offset = 0, limit = limits.mapExtentsMax } = params;
      const { id, head } = await getVolume(node.hlfs, path);
      const sizeBytes = Number(head.sizeBytes);
      if (snapshot === null && offset > sizeBytes)
        throw new DvceError('OUT_OF_RANGE', { name: path, offset, length: 0 });
      const isImage = head.kind === 'image';
      const name = snapshot === null ? (isImage ? imageSnapshot : null) : asSnapshotName(snapshot);
      // What the journal holds belongs to the current content; asked once, at the begin of a walk.
      if (name === null && offset === 0 && node.volumes.find(id) !== undefined)
        await inTurn(node, path, (record) =>
          node.volumes.withOpen(record.id, path, async ({ thread, key }) => {
            await thread.call('export.publish', { key });
          }),
        );
      const call = {
        volume: id,
        snapshot: name,
        offset,
        limit: Math.min(limit, limits.mapExtentsMax),
      };
      return node.pool.leastLoaded().call('content.map', call, { signal });
    },
  };
}
