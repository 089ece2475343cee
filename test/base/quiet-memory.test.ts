/** When a quiet thread gives memory back, and that it does. */
import t from 'tap';
import { giveBackWhenQuiet, limits, MiB, type Timers, thisThread } from '../../src/base/index.ts';

/** Time passes only when told to. */
function handTimers(): Timers & { pass(ms: number): void } {
  let nowMs = 0;
  const due: { atMs: number; task: () => void }[] = [];
  return {
    after(delayMs, task) {
      due.push({ atMs: nowMs + delayMs, task });
      return { cancel: () => {} };
    },
    defer: () => {},
    pass(ms) {
      const endMs = nowMs + ms;
      for (;;) {
        due.sort((a, b) => a.atMs - b.atMs);
        const next = due[0];
        if (next === undefined || next.atMs > endMs) break;
        due.shift();
        nowMs = next.atMs;
        next.task();
      }
      nowMs = endMs;
    },
  };
}

function rig(): { timers: ReturnType<typeof handTimers>; thread: Thread } {
  const timers = handTimers();
  const thread: Thread = { busy: 0, heapBytes: 40 * MiB, collected: 0 };
  giveBackWhenQuiet(timers, {
    utilization: () => thread.busy,
    heapBytes: () => thread.heapBytes,
    collect: () => {
      thread.collected += 1;
      thread.heapBytes = 15 * MiB;
    },
  });
  return { timers, thread };
}

interface Thread {
  busy: number;
  heapBytes: number;
  collected: number;
}

t.test('a thread with work is left alone, a quiet one collects once', async (t) => {
  const { timers, thread } = rig();
  thread.busy = 0.2;
  timers.pass(10 * limits.quietCheckMs);
  t.equal(thread.collected, 0, 'not while it works');
  thread.busy = 0.001;
  timers.pass(limits.quietCheckMs);
  t.equal(thread.collected, 1);
  timers.pass(100 * limits.quietCheckMs);
  t.equal(thread.collected, 1, 'what has not grown is not collected again');
});

t.test('what grew after that is given back later, and not too often', async (t) => {
  const { timers, thread } = rig();
  timers.pass(limits.quietCheckMs);
  t.equal(thread.collected, 1);
  thread.heapBytes += limits.quietGrowthBytes - 1;
  timers.pass(10 * limits.quietPauseMs);
  t.equal(thread.collected, 1, 'too little');
  thread.heapBytes += 1;
  timers.pass(limits.quietCheckMs);
  t.equal(thread.collected, 2);
  thread.heapBytes += limits.quietGrowthBytes;
  timers.pass(limits.quietPauseMs - 1);
  t.equal(thread.collected, 2, 'too soon');
  timers.pass(1 + limits.quietCheckMs);
  t.equal(thread.collected, 3);
});

t.test('a real thread gives back what it no longer uses', async (t) => {
  const memory = thisThread();
  let objects: object[] = Array.from({ length: 300_000 }, (_, at) => ({ at, text: `text ${at}` }));
  t.equal(objects.length, 300_000);
  const before = memory.heapBytes();
  objects = [];
  memory.collect();
  t.ok(memory.heapBytes() < before - 10 * MiB, `${before} to ${memory.heapBytes()} bytes`);
  t.ok(memory.utilization() >= 0);
  t.equal((globalThis as { gc?: unknown }).gc, undefined, 'and nobody else can collect');
});
