/**
 * Calendar expressions of systemd (systemd.time(7)): `Mon..Fri *-*-* 02:00`, `*-*~01 04:00:00 UTC`, `hourly`.
 *
 *   [weekdays] [[year-]month-day | [year-]month~day] [hour:minute[:second]] [UTC | zone]
 *
 * Each part is `*`, a value, a range `a..b`, with a step `/n`, or several with commas; `~` counts days from the end of the
 * month. A date without a time means midnight, a time without a date every day. Years go to 2199.
 *
 * Not taken: fractions of seconds and `@` times. What systemd does at clock changes is done here too: a time that is left out
 * is skipped, one that comes twice counts once (base/zone.ts).
 */
import { DvceError, type WallTime, Zone } from '../base/index.ts';

/** Values that fit, ascending; `fromEnd`: days counted from the end of the month, 1 is the last. */
interface Part {
  readonly values: readonly number[];
  readonly fromEnd: boolean;
}

export interface Calendar {
  /** Sunday is 0; empty: any. */
  readonly weekdays: ReadonlySet<number>;
  readonly years: readonly number[];
  readonly months: readonly number[];
  readonly days: Part;
  readonly hours: readonly number[];
  readonly minutes: readonly number[];
  readonly seconds: readonly number[];
  /** Of the expression itself. */
  readonly zone: string | null;
}

const shorthands: Readonly<Record<string, string>> = {
  minutely: '*-*-* *:*:00',
  hourly: '*-*-* *:00:00',
  daily: '*-*-* 00:00:00',
  monthly: '*-*-01 00:00:00',
  weekly: 'Mon *-*-* 00:00:00',
  yearly: '*-01-01 00:00:00',
  annually: '*-01-01 00:00:00',
  quarterly: '*-01,04,07,10-01 00:00:00',
  semiannually: '*-01,07-01 00:00:00',
  biannually: '*-01,07-01 00:00:00',
  'bi-annually': '*-01,07-01 00:00:00',
  'semi-annually': '*-01,07-01 00:00:00',
};

const weekdayNames = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];
const longNames = ['sunday', 'monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday'];
const charactersMax = 256;
const [yearMin, yearMax] = [1970, 2199];

const invalid = (text: string, reason: string): DvceError =>
  new DvceError('INVALID_ARGUMENT', {
    what: `the calendar expression ${JSON.stringify(text.slice(0, charactersMax))}`,
    reason,
    advice: `For example "*-*-* 02:00", "Mon..Fri 22:30", "hourly"; see: man systemd.time`,
  });

/** @throws INVALID_ARGUMENT that names what is wrong */
export function parseCalendar(text: string): Calendar {
  if (text.length > charactersMax) throw invalid(text, `it is longer than ${charactersMax}`);
  const words = text.trim().split(/\s+/);
  const [first = ''] = words;
  if (first === '') throw invalid(text, 'it is empty');
  const whole = shorthands[first.toLowerCase()];
  const rest = whole === undefined ? words : [...whole.split(' '), ...words.slice(1)];
  return readParts(text, rest);
}

function readParts(text: string, words: readonly string[]): Calendar {
  const left = [...words];
  const take = (fits: (word: string) => boolean): string | undefined =>
    left[0] !== undefined && fits(left[0]) ? left.shift() : undefined;
  const weekdays = take((word) => /^[A-Za-z]{3,}([,.-]|$)/.test(word) && isWeekday(word));
  const date = take((word) => !word.includes(':') && /^[\d*][\d*,./~-]*$/.test(word));
  const time = take((word) => word.includes(':'));
  const zone = left.shift() ?? null;
  if (left.length > 0) throw invalid(text, `${JSON.stringify(left[0])} is too much`);
  if (weekdays === undefined && date === undefined && time === undefined)
    throw invalid(text, 'it is neither a weekday, a date nor a time');
  if (zone !== null && !/^[A-Za-z][A-Za-z0-9_+/-]*$/.test(zone))
    throw invalid(text, `${JSON.stringify(zone)} is neither a date, a time nor a time zone`);
  if (zone !== null) new Zone(zone);
  return {
    weekdays: weekdays === undefined ? new Set() : readWeekdays(text, weekdays),
    ...readDate(text, date ?? '*-*-*'),
    ...readTime(text, time ?? '00:00:00'),
    zone,
  };
}

const weekdayOf = (name: string): number => {
  const lower = name.toLowerCase();
  const short = weekdayNames.indexOf(lower);
  return short >= 0 ? short : longNames.indexOf(lower);
};

const isWeekday = (word: string): boolean => weekdayOf(/^[A-Za-z]+/.exec(word)?.[0] ?? '') >= 0;

function readWeekdays(text: string, word: string): Set<number> {
  const found = new Set<number>();
  for (const part of word.replace(/,$/, '').split(',')) {
    const [from = '', to, ...more] = part.split(/\.\.|-/);
    const [start, end] = [weekdayOf(from), weekdayOf(to ?? from)];
    if (start < 0 || end < 0 || more.length > 0)
      throw invalid(text, `${JSON.stringify(part)} is no weekday and no range of them`);
    // A week begins on Monday: Sat..Sun is a range, Sun..Mon is not.
    const [a, b] = [(start + 6) % 7, (end + 6) % 7];
    if (a > b) throw invalid(text, `the range ${JSON.stringify(part)} goes backwards`);
    for (let day = a; day <= b; day += 1) found.add((day + 1) % 7);
  }
  return found;
}

function readDate(text: string, word: string): Pick<Calendar, 'years' | 'months' | 'days'> {
  const fromEnd = word.includes('~');
  const parts = word.split(/[-~]/);
  if (fromEnd && word.lastIndexOf('-') > word.indexOf('~'))
    throw invalid(text, '"~" stands between month and day');
  const [day, month, year = '*', ...more] = parts.toReversed();
  if (day === undefined || month === undefined || more.length > 0)
    throw invalid(text, `${JSON.stringify(word)} is no date such as *-*-01`);
  return {
    years: readPart(text, year, yearMin, yearMax, 'year'),
    months: readPart(text, month, 1, 12, 'month'),
    days: { values: readPart(text, day, 1, 31, 'day'), fromEnd },
  };
}

function readTime(text: string, word: string): Pick<Calendar, 'hours' | 'minutes' | 'seconds'> {
  const [hour = '', minute = '', second = '00', ...more] = word.split(':');
  if (more.length > 0) throw invalid(text, `${JSON.stringify(word)} is no time such as 02:30`);
  if (/\d\.\d/.test(second.replaceAll('..', '')))
    throw invalid(text, 'fractions of seconds are not taken');
  return {
    hours: readPart(text, hour, 0, 23, 'hour'),
    minutes: readPart(text, minute, 0, 59, 'minute'),
    seconds: readPart(text, second, 0, 59, 'second'),
  };
}

function readPart(
  text: string,
  word: string,
  least: number,
  most: number,
  name: string,
): readonly number[] {
  const found = new Set<number>();
  for (const item of word.split(',')) {
    const range = readItem(item, least, most);
    if (range === undefined) throw invalid(text, `${JSON.stringify(item)} is no ${name}`);
    const { from, to, step } = range;
    if (step === 0) throw invalid(text, `the step of ${JSON.stringify(item)} is 0`);
    if (from < least || to > most || to < from)
      throw invalid(text, `${JSON.stringify(item)} is no ${name} from ${least} to ${most}`);
    for (let value = from; value <= to; value += step) found.add(value);
  }
  return [...found].sort((a, b) => a - b);
}

/** `*`, `5`, `1..5`, each with `/2` behind it; a value with a step goes on to the end. */
function readItem(
  item: string,
  least: number,
  most: number,
): { from: number; to: number; step: number } | undefined {
  const match = /^(?:(\*)|(\d{1,4})(?:\.\.(\d{1,4}))?)(?:\/(\d{1,4}))?$/.exec(item);
  if (match === null) return undefined;
  const [, any, start, end, step] = match;
  const from = any === undefined ? Number(start) : least;
  const isOpen = any !== undefined || step !== undefined;
  const last = isOpen ? most : from;
  return { from, to: end === undefined ? last : Number(end), step: Number(step ?? 1) };
}

/** The first time that fits after `afterMs`, or null when there is none until 2199. */
export function nextElapse(calendar: Calendar, zone: Zone, afterMs: number): number | null {
  // The first whole second after it; what the clock shows there is where the search begins.
  const start = zone.wallTime(Math.floor(afterMs / 1000) * 1000 + 1000);
  for (const day of daysFrom(calendar, start)) {
    const isFirst = day.year === start.year && day.month === start.month && day.day === start.day;
    for (const time of timesOf(calendar, isFirst ? start : midnight)) {
      const ms = zone.moment({ ...day, ...time });
      // A clock that was put back shows a time that is over once more.
      if (ms !== undefined && ms > afterMs) return ms;
    }
  }
  return null;
}

const midnight = { hour: 0, minute: 0, second: 0 };
type Day = Pick<WallTime, 'year' | 'month' | 'day'>;
type Time = Pick<WallTime, 'hour' | 'minute' | 'second'>;

function* daysFrom(calendar: Calendar, start: Day): Generator<Day> {
  const first = start.year * 12 + start.month;
  for (const year of calendar.years.filter((one) => one >= start.year))
    for (const month of calendar.months.filter((one) => year * 12 + one >= first)) {
      const isFirst = year * 12 + month === first;
      for (const day of daysIn(calendar, year, month))
        if (!isFirst || day >= start.day) yield { year, month, day };
    }
}

function daysIn({ days, weekdays }: Calendar, year: number, month: number): number[] {
  const last = new Date(Date.UTC(year, month, 0)).getUTCDate();
  const chosen = days.fromEnd ? days.values.map((value) => last + 1 - value) : [...days.values];
  return chosen
    .filter((day) => day >= 1 && day <= last)
    .filter(
      (day) =>
        weekdays.size === 0 || weekdays.has(new Date(Date.UTC(year, month - 1, day)).getUTCDay()),
    )
    .sort((a, b) => a - b);
}

function* timesOf({ hours, minutes, seconds }: Calendar, from: Time): Generator<Time> {
  const [firstMinute, first] = [from.hour * 60 + from.minute, secondOfDay(from)];
  for (const hour of hours.filter((one) => one >= from.hour))
    for (const minute of minutes.filter((one) => hour * 60 + one >= firstMinute))
      for (const second of seconds)
        if (secondOfDay({ hour, minute, second }) >= first) yield { hour, minute, second };
}

const secondOfDay = ({ hour, minute, second }: Time): number => (hour * 60 + minute) * 60 + second;
