/** Routes that change what volumes have in common: flatten, promote (DD-0018). */
import Type from 'typebox';
import { urls } from '../../api/index.ts';
import { asVolumePath, formatSize, limits } from '../../base/index.ts';
import type { BaseHolders } from '../../blockd/index.ts';
import type { Agent } from '../agent.ts';
import { operationAnswer, startedOperation } from './operations.ts';
import { answers, dryRunQuery, pathParams, planAnswer, planned, type Server } from './types.ts';

export function treeRoutes(server: Server, { blockd, operations }: Agent): void {
  server.post(
    '/v1/volumes/:path/flatten',
    {
      schema: {
        operationId: 'flattenVolume',
        tags: ['volumes'],
        summary: 'Make a clone need nothing of what it was cloned from',
        description:
          'Ends with a VolumeFlattened. The volume may be in use. After a failure or a cancel a new one goes on from there.',
        params: pathParams,
        querystring: Type.Object({ ...dryRunQuery }),
        response: answers({ ...operationAnswer, ...planAnswer }),
      },
    },
    async ({ params, query: { dryRun } }, reply) => {
      const path = asVolumePath(params.path);
      // What refuses it is told now, not by an operation that fails.
      const plan = await blockd.call('volume.flatten-plan', { path });
      if (dryRun === true) {
        const detail = `${formatSize(plan.copyBytes)} are copied`;
        const step = { action: 'change' as const, resource: urls.volume(path), detail };
        return planned(reply, [step], [...holdersText(plan.heldBy)]);
      }
      const operation = await operations.begin({
        kind: 'volume.flatten',
        resources: [urls.volume(path)],
        mayCancel: true,
        work: ({ signal, progress }) =>
          blockd.call(
            'volume.flatten',
            { path },
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

  server.post(
    '/v1/volumes/:path/promote',
    {
      schema: {
        operationId: 'promoteVolume',
        tags: ['volumes'],
        summary: 'Let a clone take over what it was cloned from',
        description:
          'Ends with a VolumePromoted. The parent becomes a clone of the volume; it must not be in use while it is the one that writes their common log.',
        params: pathParams,
        querystring: Type.Object({ ...dryRunQuery }),
        response: answers({ ...operationAnswer, ...planAnswer }),
      },
    },
    async ({ params, query: { dryRun } }, reply) => {
      const path = asVolumePath(params.path);
      // What refuses it is told now, not by an operation that fails.
      const plan = await blockd.call('volume.promote-plan', { path });
      const both = [urls.volume(path), urls.volume(asVolumePath(plan.parent))];
      if (dryRun === true) {
        const [own = '', parent = ''] = both;
        const named = plan.snapshots.join(', ');
        const steps = [
          { action: 'change' as const, resource: own, detail: `gets the snapshots ${named}` },
          {
            action: 'change' as const,
            resource: parent,
            detail: `becomes a clone of ${path}@${plan.snapshot}`,
          },
        ];
        return planned(reply, steps);
      }
      const operation = await operations.begin({
        kind: 'volume.promote',
        resources: both,
        mayCancel: false,
        work: () => blockd.call('volume.promote', { path }, { timeoutMs: limits.blockdLongCallMs }),
      });
      return startedOperation(reply, operation);
    },
  );
}

function* holdersText(held: BaseHolders | null): Generator<string> {
  if (held === null) return;
  const names = held.snapshots.join(', ');
  const more = held.more ? ' and more' : '';
  if (names !== '')
    yield `the origin stays in the store until these snapshots of the volume are deleted: ${names}${more}`;
  if (held.points)
    yield 'the origin stays in the store until points in time from before are out of the window';
}
