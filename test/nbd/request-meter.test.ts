/** The meter of requests: buckets, sums, errors, and what reaches it over a connection. */
import t from 'tap';
import { RequestMeter, requestBoundsSeconds } from '../../src/nbd/index.ts';

/** Command numbers as on the wire. */
const read = 0;
const flush = 3;

function meterAt(startMs: number) {
  const clock = { nowMs: startMs, monotonicMs: () => clock.nowMs, wallMs: () => 0 };
  return { clock, meter: new RequestMeter(clock) };
}
const figuresOf = (meter: RequestMeter, operation: string) => {
  const found = meter.read().find((figures) => figures.operation === operation);
  if (found === undefined) throw new Error(`no figures of ${operation}`);
  return found;
};

t.test('a request is counted in the bucket of its time, once', async (t) => {
  const { clock, meter } = meterAt(1000);
  for (const elapsedMs of [0.05, 0.06, 3, 20_000]) {
    const startedAt = meter.now();
    clock.nowMs += elapsedMs;
    meter.ended(read, startedAt, elapsedMs === 3);
  }
  const { counts, sumSeconds, errors } = figuresOf(meter, 'read');
  t.equal(counts.length, requestBoundsSeconds.length + 1);
  t.equal(counts[0], 1, 'a bound belongs to its bucket');
  t.equal(counts[1], 1);
  t.equal(counts[requestBoundsSeconds.indexOf(0.005)], 1);
  t.equal(counts.at(-1), 1, 'slower than every bound');
  t.equal(
    counts.reduce((sum, count) => sum + count, 0),
    4,
  );
  t.ok(Math.abs(sumSeconds - 20.00311) < 0.001, String(sumSeconds));
  t.equal(errors, 1);
  t.equal(
    figuresOf(meter, 'flush').counts.some((count) => count > 0),
    false,
  );
});

t.test('times go on after 2^31 and 2^32 microseconds of uptime', async (t) => {
  for (const startMs of [2 ** 31 / 1000 - 1, 2 ** 32 / 1000 - 1, 86_400_000 * 400]) {
    const { clock, meter } = meterAt(startMs);
    const startedAt = meter.now();
    clock.nowMs += 4;
    meter.ended(flush, startedAt, false);
    const { counts, sumSeconds } = figuresOf(meter, 'flush');
    t.equal(counts[requestBoundsSeconds.indexOf(0.005)], 1, `after ${startMs} ms`);
    t.ok(Math.abs(sumSeconds - 0.004) < 0.0001);
  }
});

t.test('a request of more than 36 minutes is slower than every bound, not faster', async (t) => {
  const { clock, meter } = meterAt(1000);
  const startedAt = meter.now();
  clock.nowMs += 40 * 60_000;
  meter.ended(flush, startedAt, false);
  const { counts, sumSeconds } = figuresOf(meter, 'flush');
  t.equal(counts.at(-1), 1);
  t.ok(sumSeconds > 2000);
});
