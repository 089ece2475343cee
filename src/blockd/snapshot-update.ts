/** Labels and protection of snapshots. */
import { asSnapshotName } from '../base/index.ts';
import { getVolume, snapshotRecord, updateSnapshot } from '../hlfs/index.ts';
import type { ControlHandlers } from './control-server.ts';
import type { NodeContext } from './node-context.ts';
import { describeSnapshot } from './volume-info.ts';

export function snapshotUpdates({ hlfs }: NodeContext): Pick<ControlHandlers, 'snapshot.update'> {
  return {
    'snapshot.update': async ({ path, name, ...change }) => {
      const { id, path: full } = await getVolume(hlfs, path);
      await updateSnapshot(hlfs, id, asSnapshotName(name), change);
      return describeSnapshot(full, await snapshotRecord(hlfs, id, name));
    },
  };
}
