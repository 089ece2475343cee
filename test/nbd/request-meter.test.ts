/** The meter of requests: buckets, sums, errors, and what reaches it over a connection. */
import t from 'tap';
import { DvceError, MiB, seededRandom, systemClock } from '../../src/base/index.ts';
import { RequestMeter, requestBoundsSeconds, sumOfFigures } from '../../src/nbd/index.ts';
import { MemoryBackend } from '../support/memory-backend.ts';
import { enter, readAnswer, request, startServer } from '../support/nbd-wire.ts';

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
  for (const elapsedMs of [0.063, 0.064, 3, 20_000]) {
    const startedAt = meter.now();
    clock.nowMs += elapsedMs;
    meter.ended(read, startedAt, elapsedMs === 3);
  }
  const { counts, sumSeconds, errors } = figuresOf(meter, 'read');
  t.equal(counts.length, requestBoundsSeconds.length + 1);
  t.equal(counts[0], 1);
  t.equal(counts[1], 1);
  t.equal(counts[requestBoundsSeconds.indexOf(0.004096)], 1);
  t.equal(counts.at(-1), 1, 'slower than every bound');
  t.equal(
    counts.reduce((sum, count) => sum + count, 0),
    4,
  );
  t.ok(Math.abs(sumSeconds - 20.003127) < 0.001, String(sumSeconds));
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
    t.equal(counts[requestBoundsSeconds.indexOf(0.004096)], 1, `after ${startMs} ms`);
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

t.test('every time is in a bucket whose edges it lies between', async (t) => {
  const random = seededRandom(5);
  for (let round = 0; round < 2000; round += 1) {
    const { clock, meter } = meterAt(0);
    const us = Math.floor(2 ** (random.below(3100) / 100)) - 1;
    clock.nowMs = us / 1000 + 0.0005;
    meter.ended(read, 0, false);
    const { counts } = figuresOf(meter, 'read');
    const at = counts.indexOf(1);
    const [below, above] = [requestBoundsSeconds[at - 1] ?? 0, requestBoundsSeconds[at] ?? 1e9];
    const [latency] = meter.latencies();
    if (us < below * 1e6 || us >= above * 1e6) t.fail(`${us} us in bucket ${at}`);
    const p99Us = latency?.p99Us ?? 0;
    if (p99Us <= us || p99Us > us * 1.125 + 1) t.fail(`${us} us told as ${p99Us}`);
  }
  t.pass();
});

t.test('latencies are of the last minutes, counts of ever', async (t) => {
  const { clock, meter } = meterAt(1000);
  const some = (count: number, ms: number): void => {
    for (let i = 0; i < count; i += 1) {
      const startedAt = meter.now();
      clock.nowMs += ms;
      meter.ended(read, startedAt, false);
    }
  };
  const total = (): number =>
    figuresOf(meter, 'read').counts.reduce((sum, count) => sum + count, 0);
  some(200, 0.1);
  some(4, 20);
  const [first] = meter.latencies();
  t.equal(first?.requests, 204);
  t.ok((first?.medianUs ?? 0) >= 100 && (first?.medianUs ?? 0) <= 113);
  t.ok((first?.p99Us ?? 0) >= 20_000 && (first?.p99Us ?? 0) <= 22_500, '1.9 % were slow');
  clock.nowMs += 61_000;
  some(10, 1);
  t.equal(meter.latencies()[0]?.requests, 214, 'the minute before, too');
  clock.nowMs += 61_000;
  some(10, 1);
  t.equal(meter.latencies()[0]?.requests, 20);
  clock.nowMs += 500_000;
  t.same(meter.latencies(), [], 'nothing of late');
  t.equal(total(), 224);
  // After 36 minutes the difference of two moments is negative.
  clock.nowMs += 40 * 60_000;
  some(3, 1);
  t.equal(meter.latencies()[0]?.requests, 3);
  t.equal(total(), 227);
});

t.test('figures of several meters add up', async (t) => {
  const meters = [meterAt(0), meterAt(0)];
  for (const { clock, meter } of meters) {
    clock.nowMs += 3;
    meter.ended(read, 0, true);
  }
  const [sum] = sumOfFigures(meters.map(({ meter }) => meter.read()));
  t.match(sum, { operation: 'read', errors: 2 });
  t.equal(sum?.counts[requestBoundsSeconds.indexOf(0.004096)], 2);
});

t.test('over a connection each request is counted once, under its command', async (t) => {
  const meter = new RequestMeter(systemClock);
  const backend = new MemoryBackend({ sizeBytes: MiB });
  const running = await startServer(backend, { meter });
  t.teardown(running.stop);
  const client = await running.connect();
  await enter(client, 'compact');
  const made = { read: 7, write: 5, flush: 3, trim: 2, write_zeroes: 4 };
  const types = { read: 0, write: 1, flush: 3, trim: 4, write_zeroes: 6 };
  backend.failures.set('trim', new DvceError('READ_ONLY', { name: 'it', reason: 'a test' }));
  for (const [name, count] of Object.entries(made))
    for (let i = 0; i < count; i += 1) {
      const type = types[name as keyof typeof types];
      const length = name === 'flush' ? 0 : 4096;
      const payload = name === 'write' ? { payload: Buffer.alloc(length) } : {};
      client.send(request('compact', { type, cookie: BigInt(i), offset: 0, length, ...payload }));
      await readAnswer(client, 'compact', { offset: 0, length: name === 'read' ? length : 0 });
    }
  for (const [name, count] of Object.entries(made)) {
    const { counts, errors } = figuresOf(meter, name);
    const sum = counts.reduce((total, one) => total + one, 0);
    t.same([sum, errors], [count, name === 'trim' ? 1 : 0], name);
  }
});
