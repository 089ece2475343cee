/** Calendar expressions against systemd's own program where it is installed, and by fixed examples everywhere. */
import { spawnSync } from 'node:child_process';
import t from 'tap';
import { parseCalendar } from '../../src/agent/calendar.ts';
import { latestDue, parseTimetable, upcoming } from '../../src/agent/timetable.ts';
import { seededRandom } from '../../src/base/index.ts';

const iso = (ms: number): string => new Date(ms).toISOString().replace('.000Z', 'Z');
const next = (text: string, zone: string, after: string, count = 3): string[] =>
  upcoming(parseTimetable(text, zone), Date.parse(after), count).map(iso);

t.test(
  'clocks that change: what is left out is skipped, what comes twice counts once',
  async (t) => {
    t.strictSame(next('*-*-* 02:30', 'Europe/Berlin', '2026-03-28T12:00:00Z', 2), [
      '2026-03-30T00:30:00Z',
      '2026-03-31T00:30:00Z',
    ]);
    t.strictSame(next('*-*-* 02:30', 'Europe/Berlin', '2026-10-24T12:00:00Z', 2), [
      '2026-10-25T00:30:00Z',
      '2026-10-26T01:30:00Z',
    ]);
    t.strictSame(next('hourly', 'Europe/Berlin', '2026-10-24T23:30:00Z', 3), [
      '2026-10-25T00:00:00Z',
      '2026-10-25T02:00:00Z',
      '2026-10-25T03:00:00Z',
    ]);
    t.strictSame(next('0 2 * * *', 'Europe/Berlin', '2026-10-24T12:00:00Z', 2), [
      '2026-10-25T00:00:00Z',
      '2026-10-26T01:00:00Z',
    ]);
  },
);

t.test('what is no expression is refused with its reason', async (t) => {
  for (const text of [
    '',
    ' ',
    'x',
    'Foo *-*-* 02:00',
    '*-13-*',
    '*-*-32',
    '25:00',
    '02:60',
    '*-*-* 02:00:00.5',
    '*-*-* 02:00 Nowhere/Town',
    '*-*-* 02:00 UTC more',
    'Fri..Mon 02:00',
    '*-*-5..2',
    '*:0/0',
    '2200-01-01',
    '*-*-*-* 02:00',
    '*~*-1',
    '@1234',
    '-1:00',
    '1e3:00',
    'a'.repeat(1000),
  ])
    t.throws(() => parseCalendar(text), { code: 'INVALID_ARGUMENT' }, JSON.stringify(text));
  for (const text of ['61 * * * *', '* * * * * * *', '@often', 'a b c d e', '0 0 32 * *'])
    t.throws(() => parseTimetable(text, 'UTC'), { code: 'INVALID_ARGUMENT' }, JSON.stringify(text));
  t.throws(() => parseTimetable('daily', 'Mars/Base'), { code: 'INVALID_ARGUMENT' });
  t.throws(() => parseTimetable('*-*-* 01:00 UTC', 'Europe/Berlin'), { code: 'INVALID_ARGUMENT' });
  t.strictSame(next('*-02-30', 'UTC', '2026-01-01T00:00:00Z'), [], 'a day that never comes');
});

t.test('what was missed is found once, however long ago', async (t) => {
  const daily = parseTimetable('*-*-* 02:00', 'UTC');
  const at = (text: string): number => Date.parse(text);
  const due = (after: string, now: string): string | null => {
    const found = latestDue(daily, at(after), at(now));
    return found === null ? null : iso(found);
  };
  t.equal(due('2026-01-01T03:00:00Z', '2026-11-21T12:00:00Z'), '2026-11-21T02:00:00Z');
  t.equal(due('2026-11-21T01:59:59Z', '2026-11-21T02:00:00Z'), '2026-11-21T02:00:00Z');
  t.equal(due('2026-11-21T02:00:00Z', '2026-11-22T01:59:59Z'), null);
  t.equal(due('2026-11-21T02:00:00Z', '2026-11-20T00:00:00Z'), null, 'a clock that was put back');
  const minutely = parseTimetable('* * * * *', 'UTC');
  t.equal(
    iso(latestDue(minutely, at('2001-01-01T00:00:00Z'), at('2026-11-21T12:00:30Z')) ?? 0),
    '2026-11-21T12:00:00Z',
  );
});

/** What systemd says, in UTC. */
function systemd(text: string, zone: string, base: string, count: number): string[] | undefined {
  const run = spawnSync(
    'systemd-analyze',
    ['calendar', `--iterations=${count}`, `--base-time=${base}`, text],
    { env: { PATH: process.env['PATH'], TZ: zone, LC_ALL: 'C' }, encoding: 'utf8' },
  );
  if (run.status !== 0) return undefined;
  return [...run.stdout.matchAll(/in UTC\): \w+ (\d+-\d+-\d+) (\d+:\d+:\d+) UTC/g)].map(
    ([, day, time]) => `${day}T${time}Z`,
  );
}

const hasSystemd = spawnSync('systemd-analyze', ['--version']).status === 0;

t.test(
  'the same as systemd-analyze',
  { skip: !hasSystemd && 'systemd-analyze is missing' },
  async (t) => {
    const zones = ['Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe', 'Asia/Kolkata'];
    const fixed = [
      'minutely',
      'hourly',
      'daily',
      'weekly',
      'monthly',
      'quarterly',
      'semiannually',
      'yearly',
      'Mon..Fri 22:30',
      'Sat,Sun 10:00:30',
      'Sat *-*-1..7 18:00',
      '*-*~01 04:00',
      '*-02~03 12:00',
      '*-*-* 02:30',
      '*:0/15',
      '*:5/20:10',
      '1..5:30/10',
      '2026,2028-02-29',
      '05-08',
      '05-08 05:40',
      '*-*-1/2 00:00',
      'Wed 17:48',
      '*-*-01,15 06:00,18:00',
      'Thursday..Saturday 23:59:59',
      '*-10..12-25/3 01..03:00/30',
    ];
    const random = seededRandom(7);
    const pick = <T>(items: readonly T[]): T => items[random.below(items.length)] as T;
    const part = (most: number, least = 0): string => {
      const value = least + random.below(most - least + 1);
      return pick([
        '*',
        `${value}`,
        `${value}`,
        `${least}/${1 + random.below(9)}`,
        `${least}..${value}`,
      ]);
    };
    const made = Array.from(
      { length: 25 },
      () =>
        `${pick(['', 'Mon ', 'Tue..Thu ', 'Sun,Sat '])}*-${part(12, 1)}-${part(28, 1)} ${part(23)}:${part(59)}:${pick(['00', part(59)])}`,
    );
    const bases = [
      '2026-03-07 12:00:00',
      '2026-03-28 12:00:00',
      '2026-10-24 12:00:00',
      '2026-10-31 20:00:00',
    ];
    let compared = 0;
    for (const [index, text] of [...fixed, ...made].entries()) {
      const zone = zones[index % zones.length] as string;
      const base = bases[(index >> 2) % bases.length] as string;
      const expected = systemd(text, zone, `${base} UTC`, 5);
      if (expected === undefined || expected.length === 0) continue;
      compared += 1;
      t.strictSame(
        next(text, zone, `${base.replace(' ', 'T')}Z`, 5),
        expected,
        `${text} in ${zone}`,
      );
    }
    t.ok(compared >= 40, `${compared} compared`);
  },
);
