/** Routes of volumes and snapshots: the API's words to blockd's. */
import Type from 'typebox';
import { urls } from '../../api/index.ts';
import {
  pathText,
  ref,
  Snapshot,
  SnapshotCreate,
  SnapshotDiff,
  SnapshotList,
  SnapshotSetCreate,
  TrashedVolume,
  Volume,
  VolumeCheck,
  VolumeClone,
  VolumeCreate,
  VolumeList,
  VolumeRecover,
  VolumeRecovery,
  VolumeResize,
  VolumeUpdate,
  word,
} from '../../api/schema/index.ts';
import { asSnapshotName, asVolumePath, DvceError, limits, parseSource } from '../../base/index.ts';
import type { Agent } from '../agent.ts';
import { inPages } from '../http/lists.ts';
import { snapshotNamed } from '../snapshot-pages.ts';
import { operationAnswer, startedOperation } from './operations.ts';
import { answers, none, pathParams, type Server, snapshotParams } from './types.ts';

const long = { timeoutMs: limits.blockdLongCallMs } as const;

export function volumeRoutes(server: Server, { blockd, vms, operations }: Agent): void {
  server.get(
    '/v1/volumes',
    {
      schema: {
        operationId: 'listVolumes',
        tags: ['volumes'],
        summary: 'List volumes',
        querystring: Type.Object({
          prefix: Type.Optional(pathText('Only those below this path.')),
          kind: Type.Optional(word(['volume', 'image'], 'Only this kind.')),
        }),
        response: answers({ 200: ref(VolumeList) }),
      },
    },
    async ({ query: { prefix, kind } }) =>
      blockd.call('volume.list', {
        ...(prefix === undefined ? {} : { prefix: asVolumePath(prefix) }),
        ...(kind === undefined ? {} : { kind }),
      }),
  );

  server.post(
    '/v1/volumes',
    {
      schema: {
        operationId: 'createVolume',
        tags: ['volumes'],
        summary: 'Make an empty volume',
        body: VolumeCreate,
        response: answers({ 201: ref(Volume) }),
      },
    },
    async ({ body }, reply) => {
      const path = asVolumePath(body.path);
      const volume = await blockd.call('volume.create', { ...body, path }, long);
      return reply.code(201).header('location', urls.volume(path)).send(volume);
    },
  );

  server.post(
    '/v1/clones',
    {
      schema: {
        operationId: 'cloneVolume',
        tags: ['volumes'],
        summary: 'Make a volume that starts with the content of another',
        body: VolumeClone,
        response: answers({ 201: ref(Volume) }),
      },
    },
    async ({ body }, reply) => {
      const { path: from, snapshot } = parseSource(body.source);
      const source = snapshot === undefined ? from : `${from}@${snapshot}`;
      const path = asVolumePath(body.path);
      const volume = await blockd.call('volume.clone', { ...body, source, path }, long);
      return reply.code(201).header('location', urls.volume(path)).send(volume);
    },
  );

  server.get(
    '/v1/volumes/:path',
    {
      schema: {
        operationId: 'getVolume',
        tags: ['volumes'],
        summary: 'Show a volume',
        params: pathParams,
        querystring: Type.Object({
          space: Type.Optional(
            Type.Boolean({ description: 'Also what it takes in the store, which is counted now.' }),
          ),
        }),
        response: answers({ 200: ref(Volume) }),
      },
    },
    async ({ params, query: { space } }) =>
      blockd.call('volume.get', {
        path: asVolumePath(params.path),
        ...(space === true ? { space } : {}),
      }),
  );

  server.patch(
    '/v1/volumes/:path',
    {
      schema: {
        operationId: 'updateVolume',
        tags: ['volumes'],
        summary: 'Rename a volume, or change its labels, protection or limits',
        params: pathParams,
        body: VolumeUpdate,
        response: answers({ 200: ref(Volume) }),
      },
    },
    async ({ params, body: { path: to, ...rest } }) => {
      let path = asVolumePath(params.path);
      let volume = await blockd.call('volume.get', { path });
      if (to !== undefined && asVolumePath(to) !== path) {
        volume = await blockd.call('volume.rename', { path, to: asVolumePath(to) }, long);
        path = asVolumePath(to);
        await vms.renamed(volume.id, path);
      }
      if (Object.keys(rest).length === 0) return volume;
      return blockd.call('volume.update', { path, ...rest });
    },
  );

  server.post(
    '/v1/volumes/:path/resize',
    {
      schema: {
        operationId: 'resizeVolume',
        tags: ['volumes'],
        summary: 'Change the size of a volume',
        params: pathParams,
        body: VolumeResize,
        response: answers({ 200: ref(Volume) }),
      },
    },
    async ({ params, body }) =>
      blockd.call('volume.resize', { path: asVolumePath(params.path), ...body }, long),
  );

  server.post(
    '/v1/volumes/:path/recover',
    {
      schema: {
        operationId: 'recoverVolume',
        tags: ['volumes'],
        summary: 'Give up what follows a damaged journal record',
        params: pathParams,
        body: VolumeRecover,
        response: answers({ 200: ref(VolumeRecovery) }),
      },
    },
    async ({ params, body }) =>
      blockd.call('volume.recover', { path: asVolumePath(params.path), ...body }, long),
  );

  server.delete(
    '/v1/volumes/:path',
    {
      schema: {
        operationId: 'deleteVolume',
        tags: ['volumes'],
        summary: 'Put a volume into the trash with its snapshots, or delete it for good',
        params: pathParams,
        querystring: Type.Object({
          now: Type.Optional(Type.Boolean({ description: 'For good, not into the trash.' })),
        }),
        response: answers({ 200: ref(TrashedVolume), 204: none }),
      },
    },
    async ({ params, query: { now } }, reply) => {
      const path = asVolumePath(params.path);
      const [user] = await vms.usersOf(path);
      if (user !== undefined)
        throw new DvceError('IN_USE', {
          kind: 'volume',
          name: path,
          reason: `it is a disk of VM ${user.name}`,
          advice: `Delete the VM first: dvce vm delete ${user.name}`,
        });
      const kept = now === undefined ? {} : { now };
      const { trash } = await blockd.call('volume.delete', { path, ...kept }, long);
      return trash === null ? reply.code(204).send(null) : reply.code(200).send(trash);
    },
  );

  server.post(
    '/v1/volumes/:path/check',
    {
      schema: {
        operationId: 'checkVolume',
        tags: ['volumes'],
        summary: 'Verify every byte that a volume can reach',
        params: pathParams,
        body: VolumeCheck,
        response: answers(operationAnswer),
      },
    },
    async ({ params, body }, reply) => {
      const path = asVolumePath(params.path);
      const { repair } = body;
      // A volume that does not exist is told now, not by an operation that fails.
      await blockd.call('volume.get', { path });
      const operation = await operations.begin({
        kind: 'volume.check',
        resources: [urls.volume(path)],
        mayCancel: true,
        work: ({ signal, progress }) =>
          blockd.call(
            'volume.check',
            { path, ...(repair === undefined ? {} : { repair }) },
            {
              signal,
              timeoutMs: limits.volumeCheckMs,
              onProgress: ({ done, total, unit }) =>
                progress(Number(done), total === null ? null : Number(total), unit),
            },
          ),
      });
      return startedOperation(reply, operation);
    },
  );
}

export function snapshotRoutes(server: Server, { blockd, vms }: Agent): void {
  server.get(
    '/v1/volumes/:path/snapshots',
    {
      schema: {
        operationId: 'listSnapshots',
        tags: ['snapshots'],
        summary: 'List the snapshots of a volume; `parent` makes them a tree',
        params: pathParams,
        response: answers({ 200: ref(SnapshotList) }),
      },
    },
    async ({ params }) => {
      const path = asVolumePath(params.path);
      return inPages(async (after, limit) => {
        const [createdAt, name] = after ?? [];
        const from =
          createdAt === undefined || name === undefined ? {} : { after: { createdAt, name } };
        const most = Math.min(limit, limits.snapshotPageMax);
        const { snapshots, next } = await blockd.call('snapshot.list', {
          path,
          ...from,
          limit: most,
        });
        return { items: snapshots, next: next === null ? null : [next.createdAt, next.name] };
      });
    },
  );

  server.post(
    '/v1/volumes/:path/snapshots',
    {
      schema: {
        operationId: 'createSnapshot',
        tags: ['snapshots'],
        summary: 'Take a snapshot',
        params: pathParams,
        body: SnapshotCreate,
        response: answers({ 201: ref(Snapshot) }),
      },
    },
    async ({ params, body }, reply) => {
      const path = asVolumePath(params.path);
      const name = asSnapshotName(body.name);
      const snapshot = await blockd.call('snapshot.create', { ...body, path, name }, long);
      return reply.code(201).header('location', urls.snapshot(path, name)).send(snapshot);
    },
  );

  server.post(
    '/v1/snapshot-sets',
    {
      schema: {
        operationId: 'createSnapshotSet',
        tags: ['snapshots'],
        summary: 'Take snapshots of several volumes at one instant: all of them exist, or none',
        body: SnapshotSetCreate,
        response: answers({ 201: ref(SnapshotList) }),
      },
    },
    async ({ body: { volumes, ...rest } }, reply) => {
      const paths = volumes.map(asVolumePath);
      const name = asSnapshotName(rest.name);
      const made = await blockd.call('snapshot.create-set', { ...rest, paths, name }, long);
      return reply.code(201).send(made);
    },
  );

  server.delete(
    '/v1/volumes/:path/snapshots/:name',
    {
      schema: {
        operationId: 'deleteSnapshot',
        tags: ['snapshots'],
        summary: 'Delete a snapshot',
        params: snapshotParams,
        response: answers({ 204: none }),
      },
    },
    async ({ params }, reply) => {
      const { path, name } = target(params);
      const snapshot = await snapshotNamed(blockd, path, name);
      if (snapshot !== undefined) await vms.snapshots.refusePart(snapshot);
      await blockd.call('snapshot.delete', { path, name }, long);
      return reply.code(204).send(null);
    },
  );

  server.post(
    '/v1/volumes/:path/snapshots/:name/rollback',
    {
      schema: {
        operationId: 'rollbackVolume',
        tags: ['snapshots'],
        summary: 'Set the volume back to a snapshot',
        params: snapshotParams,
        response: answers({ 200: ref(Volume) }),
      },
    },
    async ({ params }) => blockd.call('snapshot.rollback', target(params), long),
  );

  server.get(
    '/v1/volumes/:path/snapshots/:name/diff',
    {
      schema: {
        operationId: 'diffSnapshot',
        tags: ['snapshots'],
        summary: 'List the ranges that changed since a snapshot',
        params: snapshotParams,
        querystring: Type.Object({
          to: Type.Optional(Type.String({ description: 'A later snapshot; the content now.' })),
          limit: Type.Optional(
            Type.Integer({ minimum: 1, maximum: limits.diffRangesMax, description: 'Ranges.' }),
          ),
        }),
        response: answers({ 200: ref(SnapshotDiff) }),
      },
    },
    async ({ params, query: { to, limit = limits.diffRangesMax } }) => {
      const { path, name } = target(params);
      const end = to === undefined ? null : asSnapshotName(to);
      return blockd.call('snapshot.diff', { path, from: name, to: end, limit }, long);
    },
  );
}

const target = ({ path, name }: { path: string; name: string }) => ({
  path: asVolumePath(path),
  name: asSnapshotName(name),
});
