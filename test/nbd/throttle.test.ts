/** Limits of rate with a clock by hand: exact over long times, bursts, changes, jumps of the clock, dead connections. */
import t from 'tap';
import {
  changedRates,
  KiB,
  limits,
  MiB,
  type RateLimits,
  seededRandom,
  type Timers,
} from '../../src/base/index.ts';
import { type RequestOrigin, Throttle } from '../../src/nbd/index.ts';
import { MemoryBackend } from '../support/memory-backend.ts';
import { enter, readAnswer, request, startServer, until } from '../support/nbd-wire.ts';

const read = 0;
const write = 1;
const flush = 3;
const trim = 4;

/** A clock and timers that stand still until they are moved; `lateMs` is how late each timer is. */
class Hand implements Timers {
  nowMs = 1000;
  clockReads = 0;
  lateMs = (): number => 0;
  #waiting: { atMs: number; task: () => void }[] = [];
  readonly clock = {
    wallMs: () => 0,
    monotonicMs: () => {
      this.clockReads += 1;
      return this.nowMs;
    },
  };

  get timers(): number {
    return this.#waiting.length;
  }
  after(delayMs: number, task: () => void) {
    const timer = { atMs: this.nowMs + delayMs + this.lateMs(), task };
    this.#waiting.push(timer);
    return {
      cancel: () => {
        this.#waiting = this.#waiting.filter((one) => one !== timer);
      },
    };
  }
  defer(task: () => void): void {
    task();
  }
  /** Let timers run up to a time. */
  go(ms: number): void {
    const endMs = this.nowMs + ms;
    for (;;) {
      const next = this.#waiting.toSorted((a, b) => a.atMs - b.atMs)[0];
      if (next === undefined || next.atMs > endMs) break;
      this.#waiting = this.#waiting.filter((one) => one !== next);
      this.nowMs = Math.max(this.nowMs, next.atMs);
      next.task();
    }
    this.nowMs = endMs;
  }
}

function rig(rates: RateLimits) {
  const hand = new Hand();
  const throttle = new Throttle(hand.clock, hand);
  throttle.set(rates);
  const origin: RequestOrigin = { alive: true };
  const started: { atMs: number; length: number; tag: unknown }[] = [];
  const ask = (command: number, length = 4096, tag: unknown = 0, from = origin): void => {
    const start = (): void => void started.push({ atMs: hand.nowMs, length, tag });
    if (throttle.passes(command, length)) start();
    else throttle.hold(command, length, from, start);
  };
  return { hand, throttle, origin, started, ask };
}

/** A client with so many requests in flight: each that starts is followed by another one. */
function flood(rates: RateLimits, depth: number, next: () => [command: number, length: number]) {
  const made = rig(rates);
  const { hand, throttle, origin, started } = made;
  const ask = (): void => {
    const [command, length] = next();
    const start = (): void => {
      started.push({ atMs: hand.nowMs, length, tag: command });
      hand.after(0.01, ask);
    };
    if (throttle.passes(command, length)) start();
    else throttle.hold(command, length, origin, start);
  };
  for (let i = 0; i < depth; i += 1) ask();
  return made;
}

const sum = (list: readonly { length: number }[]): number =>
  list.reduce((total, { length }) => total + length, 0);

t.test(
  'a rate is exact over an hour, whatever the sizes and however late the timers',
  async (t) => {
    const random = seededRandom(7);
    const perSecond = 3 * MiB + 17;
    const lengths = [512, 4 * KiB, 64 * KiB, MiB, 8 * MiB];
    const { hand, started } = flood({ bandwidth: { perSecond } }, 4, () => [
      random.below(2),
      lengths[random.below(lengths.length)] ?? 0,
    ]);
    hand.lateMs = () => random.below(80);
    hand.go(3_600_000);
    const [least, most] = [perSecond * 3600 - 8 * MiB, perSecond * 3600.1 + 8 * MiB];
    t.ok(sum(started) >= least && sum(started) <= most, `${sum(started)} of ${least} to ${most}`);
  },
);

t.test('in no time more than the rate, a tenth of a second, and one request', async (t) => {
  const random = seededRandom(3);
  const { hand, started } = flood({ iops: { perSecond: 250 } }, 32, () => [random.below(2), 4096]);
  hand.lateMs = () => random.below(30);
  hand.go(4000);
  // Quiet for a while, then again: nothing is saved up beyond the tenth.
  const times = started.map(({ atMs }) => atMs);
  let worst = 0;
  for (let from = 0; from < times.length; from += 1)
    for (let to = from; to < times.length; to += 7) {
      const seconds = ((times[to] ?? 0) - (times[from] ?? 0)) / 1000;
      worst = Math.max(worst, to - from + 1 - 250 * seconds);
    }
  t.ok(worst <= 25 + 1 + 1e-6, `at worst ${worst} above the rate`);
  t.ok(times.length >= 990, `${times.length} in four seconds`);
});

t.test('a burst lasts as long as it should, and comes back after a rest', async (t) => {
  const rates = { iops: { perSecond: 100, burstPerSecond: 1000, burstSeconds: 5 } };
  const { hand, started } = flood(rates, 64, () => [read, 4096]);
  const perSecond = (): number[] => {
    const counts = new Map<number, number>();
    for (const { atMs } of started) {
      const second = Math.floor((atMs - 1000) / 1000);
      counts.set(second, (counts.get(second) ?? 0) + 1);
    }
    return [...counts.values()];
  };
  hand.go(20_000);
  const seconds = perSecond();
  for (const at of [1, 2, 3]) t.ok(Math.abs((seconds[at] ?? 0) - 1000) <= 10, `second ${at}`);
  for (const at of [7, 12, 19])
    t.ok(Math.abs((seconds[at] ?? 0) - 100) <= 5, `second ${at}: ${seconds[at]}`);
  const all = 4500 + 100 * 20;
  t.ok(Math.abs(started.length - all) < 150, `${started.length} in twenty seconds`);
  // 4500 requests above the rate are paid off in 45 seconds.
  const again = rig(rates);
  for (let i = 0; i < 6000; i += 1) again.ask(read);
  again.hand.go(200_000);
  const before = again.started.length;
  t.equal(before, 6000);
  for (let i = 0; i < 1000; i += 1) again.ask(read);
  again.hand.go(1000);
  t.ok(again.started.length - before >= 990, 'rested');
});

t.test('each limit for itself; a waiting write does not hold up reads', async (t) => {
  const { hand, started, ask } = rig({
    writeIops: { perSecond: 10 },
    readBandwidth: { perSecond: MiB },
  });
  for (let i = 0; i < 20; i += 1) ask(write, 4096, 'write');
  for (let i = 0; i < 10; i += 1) ask(read, 4096, 'read');
  for (let i = 0; i < 10; i += 1) ask(flush, 0, 'flush');
  const count = (tag: string): number => started.filter((one) => one.tag === tag).length;
  t.same([count('write'), count('read'), count('flush')], [2, 10, 10]);
  hand.go(1000);
  t.equal(count('write'), 12);
  ask(trim, 10 * 1024 * MiB, 'trim');
  hand.go(1000);
  t.equal(count('trim'), 1, 'a trim waits behind the writes and costs one request');
});

t.test('of reads and writes below one limit the older goes first', async (t) => {
  const { hand, started, ask } = rig({ iops: { perSecond: 100 } });
  for (let i = 0; i < 60; i += 1) ask(i % 3 === 0 ? write : read, 4096, i);
  hand.go(1000);
  t.same(
    started.map(({ tag }) => tag),
    Array.from({ length: 60 }, (_, i) => i),
  );
});

t.test('who waits for its own limit holds nobody else up, and is not passed by', async (t) => {
  const { hand, started, ask } = rig({
    readIops: { perSecond: 10 },
    writeIops: { perSecond: 100 },
    writeBandwidth: { perSecond: MiB },
  });
  for (let i = 0; i < 30; i += 1) ask(read, 4096, 'read');
  for (let i = 0; i < 90; i += 1) ask(write, 0, 'write');
  ask(trim, 1024 * MiB, 'trim');
  hand.go(1000);
  const tags = started.map(({ tag }) => tag);
  t.equal(tags.filter((tag) => tag === 'write').length, 90);
  t.equal(tags.filter((tag) => tag === 'read').length, 12);
  ask(write, 4096, 'behind');
  t.ok(started.at(-1)?.tag === 'behind', 'the trim cost no bytes');
  // The timer is late, and there is room: whoever comes now still goes behind those that wait.
  hand.lateMs = () => 500;
  hand.go(120);
  for (let i = 0; i < 40; i += 1) ask(write, 4096, `late ${i}`);
  hand.nowMs += 50;
  ask(write, 4096, 'last');
  hand.go(2000);
  const late = started.map(({ tag }) => String(tag)).filter((tag) => /late|last/.test(tag));
  t.same(late, [...Array.from({ length: 40 }, (_, i) => `late ${i}`), 'last']);
});

t.test('a large request is not passed by for ever', async (t) => {
  const { hand, started, ask, throttle, origin } = rig({ bandwidth: { perSecond: MiB } });
  const again = (): void => {
    const start = (): void => {
      started.push({ atMs: hand.nowMs, length: 4096, tag: 'small' });
      hand.after(0.01, again);
    };
    if (throttle.passes(read, 4096)) start();
    else throttle.hold(read, 4096, origin, start);
  };
  for (let i = 0; i < 8; i += 1) again();
  hand.go(1000);
  ask(write, 16 * MiB, 'large');
  hand.go(500);
  const found = started.findIndex(({ tag }) => tag === 'large');
  t.ok(found > 0, 'it went');
  const before = started.length;
  hand.go(14_000);
  t.ok(started.length - before <= 1, 'and is paid for');
  hand.go(3000);
  t.ok(started.length - before > 100, 'then the others go on');
});

t.test('other limits hold at once for what waits', async (t) => {
  const { hand, throttle, started, ask } = rig({ iops: { perSecond: 10 } });
  for (let i = 0; i < 1000; i += 1) ask(write);
  hand.go(1000);
  t.equal(started.length, 12);
  throttle.set({ iops: { perSecond: 100 } });
  hand.go(1000);
  t.ok(Math.abs(started.length - 112) <= 11, String(started.length));
  throttle.set({ iops: { perSecond: 10 } });
  const before = started.length;
  hand.go(2000);
  t.ok(Math.abs(started.length - before - 20) <= 2, `${started.length - before} in two seconds`);
  throttle.set({});
  t.equal(started.length, 1000, 'without limits everything goes');
  t.equal(hand.timers, 0);
  const { throttledRequests, throttledMs } = throttle.figures();
  t.equal(throttledRequests, 998);
  t.equal(throttledMs, 4000);
  hand.go(1000);
  t.equal(throttle.figures().throttledMs, 4000, 'nothing waits any more');
});

t.test('a lowered limit does not make up for what an earlier one allowed', async (t) => {
  const { hand, throttle, started, ask } = rig({
    bandwidth: { perSecond: 100 * MiB, burstPerSecond: 1000 * MiB, burstSeconds: 60 },
  });
  for (let i = 0; i < 2000; i += 1) ask(read, MiB);
  hand.go(1000);
  throttle.set({ bandwidth: { perSecond: MiB } });
  const before = started.length;
  hand.go(10_000);
  t.ok(started.length - before >= 9, `${started.length - before} in ten seconds`);
});

t.test('jumps of the clock', async (t) => {
  const { hand, started, ask } = rig({ iops: { perSecond: 50 } });
  for (let i = 0; i < 500; i += 1) ask(read);
  hand.go(1000);
  const before = started.length;
  hand.nowMs += 3_600_000;
  hand.go(0);
  t.ok(started.length - before <= 6, 'a suspended host saves nothing up');
  hand.go(1000);
  t.ok(Math.abs(started.length - before - 55) <= 3, String(started.length - before));
  // The monotonic clock is not set back; if it were, nothing would be owed for it.
  const back = rig({ iops: { perSecond: 50 } });
  back.ask(read);
  back.hand.nowMs -= 900;
  back.ask(read);
  for (let i = 0; i < 500; i += 1) back.ask(read);
  back.hand.go(1000);
  t.ok(back.started.length >= 50, `${back.started.length} after it was set back`);
});

t.test('what waits for a dead connection never starts and costs nothing', async (t) => {
  const { hand, throttle, started, ask } = rig({ iops: { perSecond: 10 } });
  const dead = { alive: true };
  for (let i = 0; i < 300; i += 1) ask(i % 2, 4096, 'dead', dead);
  const before = started.length;
  dead.alive = false;
  throttle.forget(dead);
  t.equal(hand.timers, 0, 'no timer while nothing waits');
  for (let i = 0; i < 10; i += 1) ask(write, 4096, 'alive');
  hand.go(1000);
  t.equal(started.filter(({ tag }) => tag === 'alive').length, 10, 'in their own time');
  t.equal(started.filter(({ tag }) => tag === 'dead').length, before);
});

t.test('without limits: no timer, no reading of the clock', async (t) => {
  const { hand, started, ask } = rig({});
  const before = hand.clockReads;
  for (let i = 0; i < 1000; i += 1) ask(i % 2);
  t.equal(started.length, 1000);
  t.same([hand.clockReads - before, hand.timers], [0, 0]);
});

t.test('N6 a held write of a dead connection does not come back over a newer one', async (t) => {
  const backend = new MemoryBackend({ sizeBytes: MiB });
  const hand = new Hand();
  const throttle = new Throttle(hand.clock, hand);
  throttle.set({ writeIops: { perSecond: 10 } });
  const running = await startServer({
    open: async () => ({ backend, throttle, release: () => {} }),
    list: async () => [],
  });
  t.teardown(running.stop);
  const send = (text: string, blocks: number): Buffer =>
    Buffer.concat(
      Array.from({ length: blocks }, (_, i) => {
        const payload = Buffer.alloc(4096, text);
        return request('compact', {
          type: 1,
          cookie: BigInt(i),
          offset: i * 4096,
          length: 4096,
          payload,
        });
      }),
    );
  const dying = await running.connect();
  await enter(dying, 'compact');
  dying.send(send('old!', 8));
  await until(() => throttle.figures().throttledRequests === 6, 'six of eight wait');
  t.equal(backend.options.length, 2);
  dying.socket.destroy();
  await until(() => hand.timers === 0, 'they are dropped');
  hand.go(10_000);
  const again = await running.connect();
  await enter(again, 'compact');
  again.send(send('new!', 8));
  await until(() => backend.options.length >= 4, 'the first two');
  hand.go(10_000);
  for (let i = 0; i < 8; i += 1) t.equal((await readAnswer(again, 'compact')).errno, 0);
  t.equal(backend.options.length, 10, 'nothing of the dead connection');
  for (let i = 0; i < 8; i += 1) t.equal(backend.content(i * 4096, 4).toString(), 'new!');
});

t.test('changes of stored limits', async (t) => {
  const set = changedRates({}, { iops: { perSecond: 1000 }, readBandwidth: { perSecond: MiB } });
  t.same(set, { iops: { perSecond: 1000 }, readBandwidth: { perSecond: MiB } });
  const burst = changedRates(set, { iops: { burstPerSecond: 5000, burstSeconds: 30 } });
  t.same(burst.iops, { perSecond: 1000, burstPerSecond: 5000, burstSeconds: 30 });
  const faster = changedRates(burst, { iops: { perSecond: 2000 }, readBandwidth: null });
  t.same(faster, { iops: { perSecond: 2000, burstPerSecond: 5000, burstSeconds: 30 } });
  t.same(changedRates(faster, { iops: { burstPerSecond: null } }), { iops: { perSecond: 2000 } });
  for (const [name, change] of [
    ['too little', { iops: { perSecond: limits.volumeIopsMin - 1 } }],
    ['too much', { bandwidth: { perSecond: limits.volumeBandwidthMax + 1 } }],
    ['no burst', { iops: { perSecond: 100, burstPerSecond: 100 } }],
    ['a burst of nothing', { readIops: { burstPerSecond: 100 } }],
    ['too long', { iops: { perSecond: 100, burstPerSecond: 200, burstSeconds: 1e6 } }],
    ['a rate above the burst', { iops: { perSecond: 6000 } }],
  ] as const)
    t.throws(() => changedRates(burst, change), { code: 'INVALID_ARGUMENT' }, name);
});
