/** Which snapshots stay. */
import fc from 'fast-check';
import t from 'tap';
import { type Candidate, prune } from '../../src/agent/retention.ts';
import { Zone } from '../../src/base/index.ts';

const utc = new Zone('UTC');
const hourMs = 3_600_000;
const dayMs = 24 * hourMs;
const start = Date.parse('2026-01-01T02:00:00Z');
const nightly = (days: number): Candidate[] =>
  Array.from({ length: days }, (_, day) => ({ name: `d${day}`, atMs: start + day * dayMs }));
const left = (all: readonly Candidate[], gone: readonly string[]): string[] =>
  all.map(({ name }) => name).filter((name) => !gone.includes(name));

t.test('rules', async (t) => {
  const all = nightly(60);
  const nowMs = start + 60 * dayMs;
  t.strictSame(left(all, prune(all, { last: 3 }, utc, nowMs)), ['d57', 'd58', 'd59']);
  // 60 days from Thursday 1 January: Sundays are day 3, 10, ... 59; months end at day 30 and 58.
  t.strictSame(left(all, prune(all, { daily: 2, weekly: 3, monthly: 3 }, utc, nowMs)), [
    'd30',
    'd45',
    'd52',
    'd58',
    'd59',
  ]);
  t.strictSame(left(all, prune(all, { expireMs: 2 * dayMs }, utc, nowMs)), ['d58', 'd59']);
  t.strictSame(
    left(all, prune(all, { last: 50, expireMs: 2 * dayMs }, utc, nowMs)),
    ['d58', 'd59'],
    'expiry ends what a rule would keep',
  );
  t.strictSame(
    left(all, prune(all, { expireMs: dayMs }, utc, nowMs + 1000 * dayMs)),
    ['d59'],
    'the newest stays',
  );
  t.strictSame(prune(all, {}, utc, nowMs), [], 'no rule: all stay');
  t.strictSame(prune([], { last: 1 }, utc, nowMs), []);
});

t.test('several a day: the newest of each day in the zone of the schedule', async (t) => {
  const all = Array.from({ length: 48 }, (_, hour) => ({
    name: `h${hour}`,
    atMs: start + hour * hourMs,
  }));
  // Hour 0 is 02:00 UTC, 03:00 in Berlin: the day there ends two hours... at 23:00 UTC, hour 20 is its last.
  const berlin = new Zone('Europe/Berlin');
  t.strictSame(left(all, prune(all, { daily: 3 }, berlin, start + 2 * dayMs)), [
    'h20',
    'h44',
    'h47',
  ]);
});

t.test(
  'pruning again changes nothing, and going on day by day keeps what the rules say',
  async (t) => {
    const rule = fc.record(
      {
        last: fc.nat({ max: 5 }),
        daily: fc.nat({ max: 5 }),
        weekly: fc.nat({ max: 4 }),
        monthly: fc.nat({ max: 3 }),
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(rule, fc.integer({ min: 1, max: 90 }), (keep, days) => {
        let all: Candidate[] = [];
        for (const [day, one] of nightly(days).entries()) {
          all = [...all, one];
          const nowMs = start + day * dayMs;
          const gone = prune(all, keep, utc, nowMs);
          if (gone.includes(one.name)) return false;
          all = all.filter(({ name }) => !gone.includes(name));
          if (prune(all, keep, utc, nowMs).length > 0) return false;
        }
        const hasRule = Object.keys(keep).length > 0;
        return (
          !hasRule || all.length >= Math.min(days, Math.max(1, keep.last ?? 0, keep.daily ?? 0))
        );
      }),
      { numRuns: 60, seed: 4 },
    );
    t.pass();
  },
);
