/** Labels and protection of snapshots. */
import { asSnapshotName, DvceError } from '../base/index.ts';
import { getVolume, listSnapshots, updateSnapshot } from '../hlfs/index.ts';
import type { ControlHandlers } from './control-server.ts';
import type { NodeContext } from './node-context.ts';
import { describeSnapshots } from './volume-info.ts';

export function snapshotUpdates({ hlfs }: NodeContext): Pick<ControlHandlers, 'snapshot.update'> {
  return {
    'snapshot.update': async ({ path, name, ...change }) => {
      const { id, path: full } = await getVolume(hlfs, path);
      await updateSnapshot(hlfs, id, asSnapshotName(name), change);
      const all = describeSnapshots(full, await listSnapshots(hlfs, id));
      const made = all.find((snapshot) => snapshot.name === name);
      if (made === undefined) throw new DvceError('NOT_FOUND', { kind: 'snapshot', name });
      return made;
    },
  };
}
