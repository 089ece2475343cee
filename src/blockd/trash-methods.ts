/** Control methods on the trash. */
import { asVolumePath } from '../base/index.ts';
import { deleteVolume, trashVolume } from '../hlfs/index.ts';
import type { ControlHandlers } from './control-server.ts';
import type { NodeContext } from './node-context.ts';
import { describeTrashed } from './volume-info.ts';
import { infoOf, inTurn } from './volume-methods.ts';

type TrashMethods = Pick<
  ControlHandlers,
  'volume.delete' | 'trash.list' | 'trash.restore' | 'trash.empty'
>;

export function trashMethods(node: NodeContext): TrashMethods {
  const { hlfs, volumes, trash, quotas, reaper } = node;
  return {
    'volume.delete': async ({ path, now = false }) => {
      const trashed = await inTurn(node, path, async ({ id, head }) => {
        await volumes.closeUnused(id, path, true);
        const inUse = (volume: typeof id): string | undefined => volumes.inUse(volume, true);
        // An image is imported again; and a half imported one is nothing to have back.
        if (now || head.kind === 'image' || trash.windowMs === 0) {
          await deleteVolume(hlfs, path, inUse);
          return null;
        }
        const volume = await trashVolume(hlfs, path, inUse, trash.windowMs);
        await trash.put(volume);
        return volume;
      });
      if (trashed === null) reaper.kick();
      return { trash: trashed === null ? null : describeTrashed(trashed) };
    },

    'trash.list': async () => ({ volumes: (await trash.list()).map(describeTrashed) }),

    'trash.restore': async ({ what, to }) => {
      const volume = await trash.find(what);
      const path = asVolumePath(to ?? volume.trash.path);
      const sizeBytes = Number(volume.head.sizeBytes);
      const restore = () => trash.restore(volume, path);
      return infoOf(node, await quotas.guarded(path, { sizeBytes }, restore));
    },

    'trash.empty': async ({ what }) => {
      const volumes = what === undefined ? await trash.list() : [await trash.find(what)];
      for (const volume of volumes) await trash.discard(volume, 'it was asked for');
      if (volumes.length > 0) reaper.kick();
      return { discarded: volumes.map(describeTrashed) };
    },
  };
}
