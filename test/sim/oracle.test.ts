/**
 * The simulation tests itself: a device that is right passes, one with a single defect is caught, a failing run is the same on
 * the same seed and gets shorter by shrinking.
 */
import t from 'tap';
import { operationsOf, simulate } from './harness.ts';
import { defects, logDevice } from './log-device.ts';
import { Oracle, stamp } from './oracle.ts';
import { explain } from './shrink.ts';

const operationsPerRun = 60;

t.test('J1 a device that keeps its promises passes', async (t) => {
  const counts = new Map<string, number>();
  for (let seed = 1; seed <= 40; seed += 1) {
    const maker = logDevice();
    const result = await simulate(maker, seed, operationsOf(maker, seed, operationsPerRun));
    if (result.problem !== undefined) t.fail(`seed ${seed}: ${result.problem}`);
    for (const [what, count] of result.counts) counts.set(what, (counts.get(what) ?? 0) + count);
  }
  for (const what of ['power loss', 'kill', 'something unpromised was under way', 'op read'])
    t.ok((counts.get(what) ?? 0) > 10, `${what}: ${counts.get(what)}`);
});

for (const defect of defects)
  t.test(`the oracle catches: ${defect}`, async (t) => {
    const maker = logDevice(defect);
    for (let seed = 1; seed <= 60; seed += 1) {
      const operations = operationsOf(maker, seed, operationsPerRun);
      const { problem } = await simulate(maker, seed, operations);
      if (problem === undefined) continue;
      t.equal((await simulate(maker, seed, operations)).problem, problem, 'the same again');
      t.comment(`seed ${seed}: ${problem}`);
      return;
    }
    t.fail('not caught in 60 seeds');
  });

t.test('a failing run is shrunk to a few operations', async (t) => {
  const maker = logDevice('flush without fdatasync');
  for (let seed = 1; seed <= 60; seed += 1) {
    const operations = operationsOf(maker, seed, operationsPerRun);
    if ((await simulate(maker, seed, operations)).problem === undefined) continue;
    const text = await explain(maker, seed, operations);
    t.match(text, /^seed \d+ .*promised/);
    const count = text.split('\n').length - 3;
    t.ok(count <= 6, `${count} operations are left:\n${text}`);
    return;
  }
  t.fail('nothing failed');
});

t.test('the oracle by hand', async (t) => {
  const oracle = new Oracle(32);
  const [a, b, c] = [oracle.send(0, 8, 1), oracle.send(4, 8, 2), oracle.send(0, 2, 3)];
  const content = (...writes: [number, number, number][]): Int32Array => {
    const found = new Int32Array(32);
    for (const [first, count, value] of writes) found.fill(value, first, first + count);
    return found;
  };
  const lost = oracle.afterPowerLoss();
  t.equal(oracle.check(content(), lost), undefined, 'nothing was promised');
  t.equal(oracle.check(content([0, 8, 1]), lost), undefined);
  t.equal(
    oracle.check(content([0, 8, 1], [4, 4, 2]), lost),
    undefined,
    'half of a long write, at a block',
  );
  t.match(oracle.check(content([0, 8, 1], [8, 4, 2]), lost), /no prefix/, 'its other half alone');
  t.match(oracle.check(content([0, 8, 1], [4, 3, 2]), lost), /no prefix/, 'a torn block');
  t.match(oracle.check(content([4, 8, 2]), lost), /no prefix/, 'the second without the first');
  t.match(oracle.check(content([0, 2, 3]), lost), /no prefix/, 'the third alone');
  t.match(oracle.check(content([20, 1, 1]), lost), /no prefix/, 'a sector that nobody wrote');
  oracle.acknowledge(a);
  oracle.acknowledge(b);
  const promise = oracle.flushSent();
  oracle.acknowledge(c);
  oracle.flushAcknowledged(promise);
  const two = content([0, 8, 1], [4, 8, 2]);
  t.equal(oracle.check(two, oracle.afterPowerLoss()), undefined);
  t.match(
    oracle.check(two, oracle.afterKill()),
    /that of 3 pieces, 4 to 4 of 4/,
    'kill -9 keeps what was acknowledged',
  );
  t.match(oracle.check(content([0, 8, 1]), oracle.afterPowerLoss()), /1 pieces, 3 to 4/);
  const torn = stamp(0, 1, 7);
  stamp(0, 1, 8).copy(torn, 256, 0, 256);
  t.same(
    [...oracle.decode(Buffer.concat([stamp(0, 1, 7), stamp(5, 1, 7), torn, Buffer.alloc(512)]))],
    [7, -1, -1, 0],
  );
});
