import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { Events } from '../../src/agent/events.ts';
import { OperationLog } from '../../src/agent/operation-log.ts';
import { type OperationHandle, Operations } from '../../src/agent/operations.ts';
import {
  DvceError,
  limits,
  nodeFileSystem,
  silentLogger,
  systemClock,
  systemRandom,
  systemTimers,
} from '../../src/base/index.ts';

function place(t: Test): string {
  const directory = mkdtempSync('/tmp/dvce-ops-');
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  return `${directory}/operations`;
}

async function open(directory: string) {
  const log = await OperationLog.open(directory, nodeFileSystem, silentLogger, 1);
  return Operations.open({
    log,
    events: new Events({ clock: systemClock, logger: silentLogger }),
    clock: systemClock,
    timers: systemTimers,
    random: systemRandom,
    logger: silentLogger,
  });
}

const never = new AbortController().signal;
// The injected timers do not keep a process alive.
const alive = setInterval(() => {}, 1000);
t.teardown(() => clearInterval(alive));

t.test('E-08 an operation runs, tells its progress, and ends with its result', async (t) => {
  const { operations } = await open(place(t));
  const gate = Promise.withResolvers<void>();
  const begun = await operations.begin({
    kind: 'volume.check',
    resources: ['/v1/volumes/a'],
    mayCancel: true,
    work: async ({ progress }) => {
      progress(1, 4, 'bytes');
      await gate.promise;
      return { findings: [] };
    },
  });
  t.equal(begun.status, 'running');
  t.strictSame(operations.get(begun.id).progress, {
    done: 1,
    total: 4,
    unit: 'bytes',
    etaMs: null,
  });
  t.equal((await operations.wait(begun.id, 10, never)).status, 'running', 'a wait has an end');
  gate.resolve();
  const ended = await operations.wait(begun.id, 10_000, never);
  t.equal(ended.status, 'succeeded');
  t.strictSame(ended.result, { findings: [] });
  t.equal(ended.mayCancel, false);
  t.ok(ended.endedAt);
  await operations.close();
});

t.test('cancelled is said only when the work has ended', async (t) => {
  const { operations } = await open(place(t));
  const stopped = Promise.withResolvers<void>();
  const work = async ({ signal }: OperationHandle): Promise<never> => {
    await new Promise((resolve) => signal.addEventListener('abort', resolve));
    await stopped.promise;
    throw signal.reason;
  };
  const { id } = await operations.begin({
    kind: 'image.import',
    resources: [],
    mayCancel: true,
    work,
  });
  operations.cancel(id);
  t.equal((await operations.wait(id, 10, never)).status, 'running');
  stopped.resolve();
  const ended = await operations.wait(id, 10_000, never);
  t.equal(ended.status, 'cancelled');
  t.equal(ended.error?.code, 'CANCELLED');
  t.throws(() => operations.cancel(id), { code: 'CONFLICT' }, 'an ended one cannot be cancelled');
  t.throws(() => operations.get('nothing'), { code: 'NOT_FOUND' });
  await operations.close();
});

t.test('the end of the agent interrupts, which is not to cancel', async (t) => {
  const { operations } = await open(place(t));
  const { id } = await operations.begin({
    kind: 'image.import',
    resources: [],
    mayCancel: true,
    work: async ({ signal }) => {
      await new Promise((resolve) => signal.addEventListener('abort', resolve));
      throw signal.reason;
    },
  });
  await operations.close();
  t.match(operations.get(id), { status: 'failed', error: { code: 'INTERRUPTED' } });
});

t.test('what may not be cancelled refuses, and a failure keeps its error', async (t) => {
  const { operations } = await open(place(t));
  const gate = Promise.withResolvers<void>();
  const { id } = await operations.begin({
    kind: 'vm.stop',
    resources: [],
    mayCancel: false,
    work: async () => {
      await gate.promise;
      throw new DvceError('HYPERVISOR_FAILED', { name: 'web1', reason: 'it hangs' });
    },
  });
  t.throws(() => operations.cancel(id), { code: 'NOT_ALLOWED' });
  gate.resolve();
  const ended = await operations.wait(id, 10_000, never);
  t.equal(ended.status, 'failed');
  t.match(ended.error, { code: 'HYPERVISOR_FAILED', context: { reason: 'it hangs' } });
  await operations.close();
});

t.test('the ended ones are found after a restart, those that ran are interrupted', async (t) => {
  const directory = place(t);
  const first = await open(directory);
  const { id } = await first.operations.begin({
    kind: 'volume.check',
    resources: ['/v1/volumes/a'],
    mayCancel: true,
    work: async () => 7,
  });
  await first.operations.wait(id, 10_000, never);
  await first.operations.close();
  // What a killed agent leaves: an entry that still runs.
  const log = await OperationLog.open(directory, nodeFileSystem, silentLogger, 1);
  await log.write({
    ...first.operations.get(id),
    id: `${id}x`,
    kind: 'image.import',
    status: 'running',
    endedAt: null,
  });
  await log.close();
  const second = await open(directory);
  t.equal(second.operations.get(id).result, 7);
  t.strictSame(
    second.interrupted.map(({ kind, status }) => [kind, status]),
    [['image.import', 'failed']],
  );
  t.equal(second.operations.get(`${id}x`).error?.code, 'INTERRUPTED');
  t.equal(second.operations.list()[0]?.id, `${id}x`, 'newest first');
  await second.operations.close();
  const third = await open(directory);
  t.equal(third.interrupted.length, 0, 'told once');
  await third.operations.close();
});

t.test('a damaged log is put aside and a new one begun', async (t) => {
  const directory = place(t);
  const first = await open(directory);
  await first.operations.close();
  writeFileSync(`${directory}/CURRENT`, 'nonsense');
  const second = await open(directory);
  t.equal(second.operations.list().length, 0);
  await second.operations.close();
  t.ok(await nodeFileSystem.stat(`${directory}.damaged-1`));
});

t.test('what runs and what is kept is bounded', async (t) => {
  const directory = place(t);
  const log = await OperationLog.open(directory, nodeFileSystem, silentLogger, 1);
  const old = limits.operationsKept + 5;
  for (let count = 0; count < old; count += 1)
    await log.write({
      id: `a${String(count).padStart(6, '0')}`,
      kind: 'vm.stop',
      status: 'succeeded',
      progress: null,
      resources: [],
      mayCancel: false,
      requestedBy: 'local',
      node: 'host',
      startedAt: '',
      endedAt: '',
      result: null,
      error: null,
    });
  await log.close();
  const { operations } = await open(directory);
  t.equal(operations.list().length, limits.operationsKept);
  t.throws(() => operations.get('a000000'), { code: 'NOT_FOUND' }, 'the oldest went');
  const gate = Promise.withResolvers<void>();
  const request = {
    kind: 'vm.start',
    resources: [],
    mayCancel: false,
    work: () => gate.promise,
  } as const;
  for (let count = 0; count < limits.operationsRunningMax; count += 1)
    await operations.begin(request);
  await t.rejects(operations.begin(request), { code: 'IN_USE' });
  gate.resolve();
  await operations.close();
});
