/** Control methods on snapshots. */
import { asSnapshotName, DvceError, limits } from '../base/index.ts';
import {
  checkSnapshotName,
  deleteSnapshot,
  getVolume,
  newestSnapshot,
  readRanges,
  rollbackVolume,
  snapshotPage,
  snapshotRecord,
} from '../hlfs/index.ts';
import type { ControlHandlers } from './control-server.ts';
import type { NodeContext } from './node-context.ts';
import type { SnapshotInfo } from './protocol.ts';
import { createSnapshotSet } from './snapshot-set.ts';
import { describePlace, describeSnapshot } from './volume-info.ts';
import { infoOf, inTurn } from './volume-methods.ts';

type SnapshotMethods = Pick<
  ControlHandlers,
  | 'snapshot.create'
  | 'snapshot.create-set'
  | 'snapshot.list'
  | 'snapshot.get'
  | 'snapshot.delete'
  | 'snapshot.rollback'
  | 'snapshot.diff'
>;

export function snapshotMethods(node: NodeContext): SnapshotMethods {
  const { hlfs, volumes, pool } = node;
  return {
    'snapshot.create': ({ path, name, labels = {}, protected: isProtected = false }) =>
      inTurn(node, path, async ({ id, head }) => {
        if (head.kind === 'image')
          throw new DvceError('READ_ONLY', { name: path, reason: 'it is an image' });
        const checked = await checkSnapshotName(hlfs, head, name);
        await volumes.withOpen(id, path, async ({ thread, key }) => {
          const follows = await newestSnapshot(hlfs, head);
          const options = { labels, protected: isProtected, follows };
          await thread.call('export.snapshot', { key, name: checked, ...options });
        });
        return describeSnapshot(path, await snapshotRecord(hlfs, id, checked));
      }),

    'snapshot.create-set': async ({ paths, name, labels = {}, protected: isProtected = false }) => {
      const checked = asSnapshotName(name);
      const full = await Promise.all(paths.map(async (path) => (await getVolume(hlfs, path)).path));
      const made = await createSnapshotSet(node, {
        paths: full,
        name: checked,
        labels,
        protected: isProtected,
      });
      const snapshots: SnapshotInfo[] = [];
      for (const [at, { volume }] of made.entries()) {
        const record = await snapshotRecord(hlfs, volume, checked);
        snapshots.push(describeSnapshot(full[at] ?? '', record));
      }
      return { snapshots };
    },

    'snapshot.list': async ({ path, after, limit = limits.snapshotPageMax }) => {
      const { id, path: full } = await getVolume(hlfs, path);
      const from =
        after === undefined
          ? undefined
          : { createdAtMs: Date.parse(after.createdAt), name: after.name };
      const { records, next } = await snapshotPage(hlfs, id, from, limit);
      const snapshots = records.map((record) => describeSnapshot(full, record));
      return { snapshots, next: next === null ? null : describePlace(next) };
    },

    'snapshot.get': async ({ path, name }) => {
      const { id, path: full } = await getVolume(hlfs, path);
      return describeSnapshot(full, await snapshotRecord(hlfs, id, asSnapshotName(name)));
    },

    'snapshot.delete': async ({ path, name }) => {
      await inTurn(node, path, async ({ id, head }) => {
        const checked = asSnapshotName(name);
        if (head.kind === 'image')
          throw new DvceError('READ_ONLY', { name: path, reason: 'it is an image' });
        await volumes.closeSnapshot(id, checked, path);
        // A clone deleted a moment ago holds its snapshot until it is reaped.
        await deleteSnapshot(hlfs, id, checked, () => node.reaper.settle());
      });
      node.reaper.kick();
      return {};
    },

    'snapshot.rollback': async ({ path, name }) => {
      const info = await inTurn(node, path, async (record) => {
        await volumes.closeUnused(record.id, path);
        await rollbackVolume(hlfs, record, name, readRanges, (id) => volumes.inUse(id));
        return infoOf(node, await getVolume(hlfs, path));
      });
      node.reaper.kick();
      return info;
    },

    'snapshot.diff': async ({ path, from, to, limit = limits.diffRangesMax }, { signal }) => {
      const { id, head } = await getVolume(hlfs, path);
      // What the journal holds belongs to the current content.
      if (to === null && head.kind === 'volume')
        await inTurn(node, path, (record) =>
          volumes.withOpen(record.id, path, async ({ thread, key }) => {
            await thread.call('export.publish', { key });
          }),
        );
      const params = {
        volume: id,
        from: asSnapshotName(from),
        to: to === null ? null : asSnapshotName(to),
        limit: Math.min(limit, limits.diffRangesMax),
      };
      return pool.leastLoaded().call('diff', params, { signal });
    },
  };
}
