/** Routes of the trash, capacity, quotas, maps and held exports. */
import Type from 'typebox';
import { urls } from '../../api/index.ts';
import {
  Capacity,
  Export,
  ExportCreate,
  ExportList,
  mapQuery,
  nameText,
  PointOpen,
  PointOpened,
  PointPage,
  pointsQuery,
  Quota,
  QuotaList,
  QuotaSet,
  ref,
  Scrub,
  ScrubPause,
  ScrubStart,
  Snapshot,
  SnapshotUpdate,
  TrashEmptied,
  TrashEmpty,
  TrashList,
  TrashRestore,
  Volume,
  VolumeMap,
} from '../../api/schema/index.ts';
import { asSnapshotName, asVolumePath, DvceError, limits } from '../../base/index.ts';
import type { Agent } from '../agent.ts';
import { answers, none, pathParams, type Server, snapshotParams } from './types.ts';

const long = { timeoutMs: limits.blockdLongCallMs } as const;
const folderParams = Type.Object({
  folder: Type.String({
    minLength: 1,
    maxLength: 1100,
    description: 'Path of the folder, percent-encoded: %2Fprod; %2F is everything.',
  }),
});
const idParams = Type.Object({ id: nameText('Id of the export.') });

export function trashRoutes(server: Server, { blockd }: Agent): void {
  server.get(
    '/v1/trash',
    {
      schema: {
        operationId: 'listTrash',
        tags: ['volumes'],
        summary: 'List deleted volumes that can be had back',
        response: answers({ 200: ref(TrashList) }),
      },
    },
    async () => blockd.call('trash.list', {}),
  );

  server.post(
    '/v1/trash/restore',
    {
      schema: {
        operationId: 'restoreVolume',
        tags: ['volumes'],
        summary: 'Take a volume out of the trash',
        body: TrashRestore,
        response: answers({ 201: ref(Volume) }),
      },
    },
    async ({ body: { what, to } }, reply) => {
      const path = to === undefined ? {} : { to: asVolumePath(to) };
      const volume = await blockd.call('trash.restore', { what, ...path }, long);
      return reply.code(201).header('location', urls.volume(volume.path)).send(volume);
    },
  );

  server.post(
    '/v1/trash/empty',
    {
      schema: {
        operationId: 'emptyTrash',
        tags: ['volumes'],
        summary: 'Delete for good what is in the trash',
        body: TrashEmpty,
        response: answers({ 200: ref(TrashEmptied) }),
      },
    },
    async ({ body }) => blockd.call('trash.empty', body, long),
  );
}

export function scrubRoutes(server: Server, { blockd }: Agent): void {
  server.get(
    '/v1/scrub',
    {
      schema: {
        operationId: 'getScrub',
        tags: ['host'],
        summary: 'Show the background scrub and what it found',
        response: answers({ 200: ref(Scrub) }),
      },
    },
    async () => blockd.call('scrub.status', {}),
  );

  server.post(
    '/v1/scrub/start',
    {
      schema: {
        operationId: 'startScrub',
        tags: ['host'],
        summary: 'Scrub a volume next, or all of them',
        body: ScrubStart,
        response: answers({ 200: ref(Scrub) }),
      },
    },
    async ({ body: { path } }) =>
      blockd.call('scrub.start', path === undefined ? {} : { path: asVolumePath(path) }),
  );

  server.post(
    '/v1/scrub/pause',
    {
      schema: {
        operationId: 'pauseScrub',
        tags: ['host'],
        summary: 'Let the background scrub rest, or go on',
        body: ScrubPause,
        response: answers({ 200: ref(Scrub) }),
      },
    },
    async ({ body }) => blockd.call('scrub.pause', body),
  );
}

export function quotaRoutes(server: Server, { blockd }: Agent): void {
  server.get(
    '/v1/capacity',
    {
      schema: {
        operationId: 'getCapacity',
        tags: ['host'],
        summary: 'Show what the volumes promise and what the store has',
        response: answers({ 200: ref(Capacity) }),
      },
    },
    async () => {
      const { warnings, ...figures } = await blockd.call('capacity', {});
      return { ...figures, warnings: [...warnings] };
    },
  );

  server.get(
    '/v1/quotas',
    {
      schema: {
        operationId: 'listQuotas',
        tags: ['volumes'],
        summary: 'List the quotas of folders',
        response: answers({ 200: ref(QuotaList) }),
      },
    },
    async () => blockd.call('quota.list', {}),
  );

  server.get(
    '/v1/quotas/:folder',
    {
      schema: {
        operationId: 'getQuota',
        tags: ['volumes'],
        summary: 'Show the quota of a folder, with what is stored below it',
        params: folderParams,
        response: answers({ 200: ref(Quota) }),
      },
    },
    async ({ params }) => blockd.call('quota.get', { path: params.folder }, long),
  );

  server.put(
    '/v1/quotas/:folder',
    {
      schema: {
        operationId: 'setQuota',
        tags: ['volumes'],
        summary: 'Limit what may be made below a folder',
        params: folderParams,
        body: QuotaSet,
        response: answers({ 200: ref(Quota) }),
      },
      config: { role: 'admin' },
    },
    async ({ params, body }) => blockd.call('quota.set', { path: params.folder, ...body }, long),
  );

  server.delete(
    '/v1/quotas/:folder',
    {
      schema: {
        operationId: 'deleteQuota',
        tags: ['volumes'],
        summary: 'Take the quota of a folder away',
        params: folderParams,
        response: answers({ 204: none }),
      },
      config: { role: 'admin' },
    },
    async ({ params }, reply) => {
      await blockd.call('quota.delete', { path: params.folder });
      return reply.code(204).send(null);
    },
  );
}

export function exportRoutes(server: Server, { blockd, vms }: Agent): void {
  server.get(
    '/v1/exports',
    {
      schema: {
        operationId: 'listExports',
        tags: ['volumes'],
        summary: 'List the exports that are kept',
        response: answers({ 200: ref(ExportList) }),
      },
    },
    async () => blockd.call('export.list', {}),
  );

  server.post(
    '/v1/exports',
    {
      schema: {
        operationId: 'createExport',
        tags: ['volumes'],
        summary: 'Export a volume or snapshot until the export is given up',
        body: ExportCreate,
        response: answers({ 201: ref(Export) }),
      },
    },
    async ({ body }, reply) => {
      const path = asVolumePath(body.path);
      const [user] = body.snapshot == null ? await vms.usersOf(path) : [];
      if (user !== undefined)
        throw new DvceError('IN_USE', {
          kind: 'volume',
          name: path,
          reason: `it is a disk of VM ${user.name}`,
          advice: `Export a snapshot of it: dvce volume export ${path}@NAME`,
        });
      const made = await blockd.call('export.create', { ...body, path }, long);
      return reply.code(201).header('location', `/v1/exports/${made.id}`).send(made);
    },
  );

  server.delete(
    '/v1/exports/:id',
    {
      schema: {
        operationId: 'deleteExport',
        tags: ['volumes'],
        summary: 'Give an export up; its clients are disconnected',
        params: idParams,
        response: answers({ 204: none }),
      },
    },
    async ({ params }, reply) => {
      await blockd.call('export.delete', { id: params.id }, long);
      return reply.code(204).send(null);
    },
  );
}

export function contentRoutes(server: Server, { blockd }: Agent): void {
  server.get(
    '/v1/volumes/:path/map',
    {
      schema: {
        operationId: 'mapVolume',
        tags: ['volumes'],
        summary: 'Show where the content of a volume or snapshot is',
        params: pathParams,
        querystring: mapQuery,
        response: answers({ 200: ref(VolumeMap) }),
      },
    },
    async ({ params, query: { snapshot, ...part } }) =>
      blockd.call(
        'volume.map',
        {
          path: asVolumePath(params.path),
          ...(snapshot === undefined ? {} : { snapshot: asSnapshotName(snapshot) }),
          ...part,
        },
        long,
      ),
  );

  server.patch(
    '/v1/volumes/:path/snapshots/:name',
    {
      schema: {
        operationId: 'updateSnapshot',
        tags: ['snapshots'],
        summary: 'Change the labels or the protection of a snapshot',
        params: snapshotParams,
        body: SnapshotUpdate,
        response: answers({ 200: ref(Snapshot) }),
      },
    },
    async ({ params, body }) =>
      blockd.call('snapshot.update', {
        path: asVolumePath(params.path),
        name: asSnapshotName(params.name),
        ...body,
      }),
  );
}

function timeMs(text: string): number {
  const ms = /T.*(Z|[+-]\d\d:\d\d)$/i.test(text) ? Date.parse(text) : Number.NaN;
  if (Number.isFinite(ms)) return ms;
  throw new DvceError('INVALID_ARGUMENT', {
    what: `the time ${JSON.stringify(text.slice(0, 80))}`,
    reason: 'it is no date and time with an offset',
    advice: 'For example 2026-01-31T10:15:00Z.',
  });
}

export function pointRoutes(server: Server, { blockd }: Agent): void {
  server.get(
    '/v1/volumes/:path/points',
    {
      schema: {
        operationId: 'listPoints',
        tags: ['volumes'],
        summary: 'List the flushes of a volume that can be had back',
        params: pathParams,
        querystring: pointsQuery,
        response: answers({ 200: ref(PointPage) }),
      },
    },
    async ({ params, query: { since, until, ...page } }) =>
      blockd.call(
        'volume.points',
        {
          path: asVolumePath(params.path),
          ...(since === undefined ? {} : { sinceMs: timeMs(since) }),
          ...(until === undefined ? {} : { untilMs: timeMs(until) }),
          ...page,
        },
        long,
      ),
  );

  server.post(
    '/v1/volumes/:path/at',
    {
      schema: {
        operationId: 'openPoint',
        tags: ['volumes'],
        summary: 'Open a volume as it was at a flush, read-only or as a clone',
        params: pathParams,
        body: PointOpen,
        response: answers({ 201: ref(PointOpened) }),
      },
    },
    async ({ params, body: { time, clone, ...rest } }, reply) => {
      const path = asVolumePath(params.path);
      const made = await blockd.call(
        'volume.at',
        {
          path,
          ...(time === undefined ? {} : { timeMs: timeMs(time) }),
          ...(clone === undefined ? {} : { clone: asVolumePath(clone) }),
          ...rest,
        },
        long,
      );
      const location =
        made.snapshot === null
          ? urls.volume(made.volume?.path ?? path)
          : urls.snapshot(path, made.snapshot.name);
      return reply.code(201).header('location', location).send(made);
    },
  );
}
