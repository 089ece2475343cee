/**
 * Exports that are held: `volume export` until `volume unexport`.
 *
 * Every volume and snapshot is exported by its name anyway, for as long as a client is connected. A held export is an
 * attachment (of a volume) or an entry of the open table (of a snapshot): it is durable before it is answered, comes back after
 * every restart of blockd, and as long as it is there the volume is not deleted, rolled back, shrunk or attached to a VM, and
 * the snapshot not deleted.
 */
import { asSnapshotName, DvceError, limits } from '../base/index.ts';
import { findSnapshot, getVolume } from '../hlfs/index.ts';
import type { ControlHandlers } from './control-server.ts';
import { volumeSocket } from './data-directory.ts';
import type { NodeContext } from './node-context.ts';
import type { Attachment, HeldSnapshot } from './open-table.ts';
import type { HeldExport } from './protocol.ts';
import { imageSnapshot } from './volume-methods.ts';

type ExportMethods = Pick<ControlHandlers, 'export.create' | 'export.list' | 'export.delete'>;

export function exportMethods(node: NodeContext): ExportMethods {
  const { hlfs, volumes, table } = node;
  return {
    'export.create': async ({ path, snapshot = null, readOnly = false }) => {
      if (listHeld(node).length >= limits.exportsMax)
        throw new DvceError('TOO_LARGE', {
          what: 'the list of exports',
          reason: `there are ${limits.exportsMax} already`,
          advice: 'Give one up: dvce volume unexport ID',
        });
      const { id: volume, head, path: full } = await getVolume(hlfs, path);
      const id = `export-${hlfs.random.bytes(4).toString('hex')}`;
      const atMs = node.clock.wallMs();
      const name = snapshot === null ? null : asSnapshotName(snapshot);
      const held = name ?? (head.kind === 'image' ? imageSnapshot : null);
      if (held === null) {
        const user = `the export ${id} (dvce volume unexport ${id})`;
        await volumes.attach(volume, full, id, user, { readOnly, atMs });
      } else
        await volumes.exclusive(volume, async () => {
          await findSnapshot(hlfs, volume, held);
          await table.hold({ id, volume, path: full, snapshot: held, atMs });
        });
      return findHeld(node, id);
    },

    'export.list': async () => ({ exports: listHeld(node) }),

    'export.delete': async ({ id }) => {
      findHeld(node, id);
      const attached = table.attached.find(({ attachId }) => attachId === id);
      if (attached !== undefined) await volumes.detach(attached.volume, attached.path, id);
      else await table.unhold(id);
      return {};
    },
  };
}

function listHeld(node: NodeContext): HeldExport[] {
  const attached = node.table.attached.flatMap((one) => describeAttached(node, one));
  const held = node.table.held.map((one) => describeSnapshot(node, one));
  return [...attached, ...held].sort((a, b) => (a.since < b.since ? -1 : 1));
}

function findHeld(node: NodeContext, id: string): HeldExport {
  const found = listHeld(node).find((one) => one.id === id);
  if (found === undefined) throw new DvceError('NOT_FOUND', { kind: 'export', name: id });
  return found;
}

const timeText = (ms: number): string => new Date(ms).toISOString();

function describeAttached(node: NodeContext, attachment: Attachment): HeldExport[] {
  const { volume, path, attachId, export: held } = attachment;
  if (held === undefined) return [];
  return [
    {
      id: attachId,
      volume,
      path,
      snapshot: null,
      readOnly: held.readOnly,
      since: timeText(held.atMs),
      exportName: `${path}?attach=${attachId}`,
      socketPath: node.volumes.find(volume)?.socketPath ?? volumeSocket(node.directory, volume),
      tcp: node.listening().nbdTcp,
    },
  ];
}

function describeSnapshot(node: NodeContext, held: HeldSnapshot): HeldExport {
  const { nbdSocket, nbdTcp } = node.listening();
  const { id, volume, path, snapshot, atMs } = held;
  const readOnly = true;
  const exportName = `${path}@${snapshot}`;
  const since = timeText(atMs);
  return {
    id,
    volume,
    path,
    snapshot,
    readOnly,
    since,
    exportName,
    socketPath: nbdSocket,
    tcp: nbdTcp,
  };
}
