/** A second request with the key of one that runs: it waits, but not for ever. */
import { join } from 'node:path';
import t from 'tap';
import { IdempotencyKeys } from '../../../src/agent/http/idempotency.ts';
import { limits, silentLogger, type Timers } from '../../../src/base/index.ts';

/** Time that passes when the test says so. */
class ManualTime implements Timers {
  nowMs = 0;
  readonly #tasks = new Map<object, { readonly atMs: number; readonly task: () => void }>();
  wallMs = (): number => 1e12 + this.nowMs;
  monotonicMs = (): number => this.nowMs;
  get waiting(): number {
    return this.#tasks.size;
  }
  after(delayMs: number, task: () => void) {
    const key = {};
    this.#tasks.set(key, { atMs: this.nowMs + delayMs, task });
    return { cancel: () => void this.#tasks.delete(key) };
  }
  defer(task: () => void): void {
    setImmediate(task);
  }
  pass(ms: number): void {
    this.nowMs += ms;
    for (const [key, { atMs, task }] of [...this.#tasks])
      if (atMs <= this.nowMs && this.#tasks.delete(key)) task();
  }
}

const asked = { name: 'n', fingerprint: 'f' };
const answer = {
  fingerprint: 'f',
  atMs: 1e12,
  status: 201,
  type: null,
  location: null,
  body: '{}',
};

t.test('the second of two requests with a key has a deadline', async (t) => {
  const time = new ManualTime();
  const keys = await IdempotencyKeys.open(join(t.testdir(), 'k'), time, time, silentLogger);
  t.teardown(() => keys.close());
  t.equal(await keys.begin(asked), undefined, 'the first one runs');
  const second = keys.begin(asked);
  const late = t.rejects(second, { code: 'BUSY', message: /Idempotency-Key/ });
  time.pass(limits.idempotencyWaitMs - 1);
  t.equal(time.waiting, 1, 'it waits until then');
  time.pass(1);
  await late;
  t.equal(time.waiting, 0);

  const third = keys.begin(asked);
  await keys.end('n', answer);
  t.strictSame(await third, answer, 'one that is in time gets the answer of the first');
  t.equal(time.waiting, 0, 'and leaves no timer');
});

t.test('first ones that fail do not give the others new time', async (t) => {
  const time = new ManualTime();
  const keys = await IdempotencyKeys.open(join(t.testdir(), 'k'), time, time, silentLogger);
  t.teardown(() => keys.close());
  await keys.begin(asked);
  const [second, third] = [keys.begin(asked), keys.begin(asked)];
  time.pass(limits.idempotencyWaitMs / 2);
  await keys.end('n', undefined);
  t.equal(await second, undefined, 'the second one tries it');
  const late = t.rejects(third, { code: 'BUSY' });
  time.pass(limits.idempotencyWaitMs / 2);
  await late;
});
