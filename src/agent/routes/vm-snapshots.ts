/** Routes of snapshots of VMs. */
import Type from 'typebox';
import { nameText, ref, VmSnapshotCreate, VmSnapshotList } from '../../api/schema/index.ts';
import { asSnapshotName } from '../../base/index.ts';
import type { Agent } from '../agent.ts';
import { operationAnswer, startedOperation } from './operations.ts';
import { answers, nameParams, none, type Server } from './types.ts';

const params = Type.Object({
  ...nameParams.properties,
  snapshot: nameText('Name of the snapshot.'),
});

export function vmSnapshotRoutes(server: Server, { vms: { snapshots } }: Agent): void {
  server.get(
    '/v1/vms/:name/snapshots',
    {
      schema: {
        operationId: 'listVmSnapshots',
        tags: ['vms'],
        summary: 'List the snapshots of a VM, oldest first',
        params: nameParams,
        response: answers({ 200: ref(VmSnapshotList) }),
      },
    },
    async ({ params }) => ({ snapshots: await snapshots.list(params.name) }),
  );

  server.post(
    '/v1/vms/:name/snapshots',
    {
      schema: {
        operationId: 'createVmSnapshot',
        tags: ['vms'],
        summary: 'Take a snapshot of a VM: its configuration, and all its disks at one instant',
        params: nameParams,
        body: VmSnapshotCreate,
        response: answers(operationAnswer),
      },
    },
    async ({ params, body }, reply) =>
      startedOperation(reply, await snapshots.create(params.name, body)),
  );

  server.post(
    '/v1/vms/:name/snapshots/:snapshot/rollback',
    {
      schema: {
        operationId: 'rollbackVm',
        tags: ['vms'],
        summary: 'Set a stopped VM back: configuration, cards and disks',
        params,
        body: Type.Optional(Type.Object({}, { additionalProperties: false })),
        response: answers(operationAnswer),
      },
    },
    async ({ params }, reply) =>
      startedOperation(
        reply,
        await snapshots.rollback(params.name, asSnapshotName(params.snapshot)),
      ),
  );

  server.delete(
    '/v1/vms/:name/snapshots/:snapshot',
    {
      schema: {
        operationId: 'deleteVmSnapshot',
        tags: ['vms'],
        summary: 'Delete a snapshot of a VM, with those of its disks',
        params,
        response: answers({ 204: none }),
      },
    },
    async ({ params }, reply) => {
      await snapshots.delete(params.name, asSnapshotName(params.snapshot));
      return reply.code(204).send(null);
    },
  );
}
