/** What a worker does for the main thread (worker-protocol.ts). */
import { limits, loopFigures, sleep, type VolumeId } from '../base/index.ts';
import type { HlfsContext } from '../hlfs/index.ts';
import {
  checkVolume,
  clonePoint,
  closedVolumeSpace,
  listPlaces,
  openPoints,
  planClosedFlatten,
  recoverJournal,
  requireHead,
  scrubSlice,
  snapshotPoint,
  summarizePoints,
  traceDamage,
} from '../hlfs/index.ts';
import type { CallContext } from './calls.ts';
import { contentMap } from './content-map.ts';
import { diff } from './diff.ts';
import { LocalExports } from './local-exports.ts';
import type { WorkerMethod, WorkerParams, WorkerResult } from './worker-protocol.ts';

export type WorkerHandlers = {
  readonly [M in WorkerMethod]: (
    params: WorkerParams<M>,
    call: CallContext,
  ) => Promise<WorkerResult<M>>;
};

export function workerHandlers(context: HlfsContext, thread: string): WorkerHandlers {
  const exports = new LocalExports(context);
  return {
    'export.open': (spec, { signal }) => exports.open(spec, signal),
    'export.close': async ({ key }) => {
      await exports.close(key);
      return {};
    },
    'export.activity': async ({ key }) => exports.activity(key),
    figures: async () => ({
      loop: await loopFigures(thread, context.clock, context.timers),
      ...exports.figures(),
    }),
    'export.space': async ({ key }) => exports.opened(key).space(),
    space: async ({ volume }) => closedVolumeSpace(context, volume),
    'export.grow': async ({ key, sizeBytes }) => {
      exports.volume(key).grow(sizeBytes);
      return {};
    },
    'export.limits': async ({ key, limits: rates }) => {
      exports.limit(key, rates);
      return {};
    },
    'export.snapshot': async ({ key, name, ...options }) => {
      await exports.volume(key).snapshot(name, options);
      return {};
    },
    'cut.hold': async ({ key, token }) => {
      exports.volume(key).cuts.hold(token);
      return {};
    },
    'cut.mark': async ({ key, token }) => {
      exports.volume(key).cuts.mark(token);
      return {};
    },
    'cut.release': async ({ key, token }) => ({
      unbroken: exports.volume(key).cuts.release(token),
    }),
    'cut.document': async ({ key, token, name, options }) => ({
      document: await exports.volume(key).cuts.documentOfCut(token, name, options),
    }),
    'cut.drop': async ({ key, token }) => {
      exports.volume(key).cuts.drop(token);
      return {};
    },
    'export.publish': async ({ key }) => {
      await exports.volume(key).publishAll();
      return {};
    },
    'export.publish-new': async ({ key }) => {
      await exports.volume(key).publishNew();
      return {};
    },
    'export.retain': async ({ key, retainMs }) => {
      exports.volume(key).retain(retainMs);
      return {};
    },
    'export.compress': async ({ key, compression }) => {
      exports.volume(key).compress(compression);
      return {};
    },
    'export.points': async ({ key }) => ({ points: exports.points(key) }),
    'points.summary': async ({ volume }) =>
      summarizePoints(context, (await requireHead(context, volume)).value.log),
    'points.list': async ({ volume, filter }, { signal }) => {
      const points = await openPoints(context, (await requireHead(context, volume)).value.log);
      return (await points?.list(filter, signal)) ?? { points: [], more: false };
    },
    'points.snapshot': async ({ id, path, choice, options }) => {
      const { snapshot, point } = await snapshotPoint(context, { id, path }, choice, options);
      return { name: snapshot.name, point: { seq: point.seq, wallMs: point.wallMs } };
    },
    'points.clone': async ({ id, path, choice, to, options }) => {
      const { point } = await clonePoint(context, { id, path }, choice, to, options);
      return { point: { seq: point.seq, wallMs: point.wallMs } };
    },
    'export.flatten': ({ key }, { signal, progress }) => {
      const onProgress = inBytes(context, progress);
      return exports.volume(key).flattener.run({ signal, onProgress });
    },
    'export.flatten-plan': ({ key }) => exports.opened(key).flattener.plan(),
    'flatten.plan': ({ volume }) => planClosedFlatten(context, volume),
    check: async ({ volume, repair }, { signal, progress }) => {
      const onProgress = inBytes(context, progress);
      return await checkVolume(context, volume, {
        signal,
        repair,
        onProgress,
        pathOf: pathOf(context),
      });
    },
    'scrub.slice': ({ volume, from, bytesPerSecond }, { signal }) =>
      scrubSlice(context, volume, {
        signal,
        from,
        untilMs: context.clock.monotonicMs() + limits.scrubSliceMs,
        pace: (bytes) => pace(context, exports, bytes / bytesPerSecond, signal),
      }),
    'scrub.trace': ({ volume, notes }, { signal }) =>
      traceDamage(context, volume, notes, {
        signal,
        onProgress: () => {},
        pathOf: pathOf(context),
      }),
    recover: ({ volume, acceptLoss }) => recoverJournal(context, volume, { acceptLoss }),
    'content.map': (params, { signal }) => contentMap(context, params, signal),
    diff: async (params, { signal }) => diff(context, params, signal),
    stop: async () => {
      await exports.closeAll();
      await context.store.close();
      return {};
    },
  };
}

const pathOf =
  (context: HlfsContext) =>
  async (id: VolumeId): Promise<string> =>
    (await listPlaces(context)).find(({ volume }) => volume === id)?.path ?? id;

/** The scrub waits as long as its rate asks for, and before that for guests that are slow. */
async function pace(
  { timers }: HlfsContext,
  exports: LocalExports,
  seconds: number,
  signal: AbortSignal,
): Promise<void> {
  for (let wait = 0; wait < limits.scrubWaitsMax; wait += 1) {
    if (exports.slowestMs() < limits.scrubBusyMs) break;
    await sleep(timers, limits.scrubWaitMs, signal);
  }
  await sleep(timers, seconds * 1000, signal);
}

/** A message for each block would cost more than the work. */
function inBytes(
  { clock }: HlfsContext,
  report: CallContext['progress'],
): (done: number, total: number | null) => void {
  let nextMs = 0;
  return (done, total) => {
    const nowMs = clock.monotonicMs();
    if (nowMs < nextMs) return;
    nextMs = nowMs + limits.controlProgressMs;
    report({ done: String(done), total: total === null ? null : String(total), unit: 'bytes' });
  };
}
