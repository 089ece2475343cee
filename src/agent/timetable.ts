/** When a schedule is due: a cron line or a calendar expression of systemd, in a time zone. */
import { Cron } from 'croner';
import { DvceError, hostZone, limits, Zone } from '../base/index.ts';
import { nextElapse, parseCalendar } from './calendar.ts';

export interface Timetable {
  readonly zone: Zone;
  /** The first due time after this moment, or null. */
  next(afterMs: number): number | null;
}

/** Five or six fields without a colon, or a nickname. */
const isCron = (text: string): boolean => {
  const words = text.trim().split(/\s+/);
  return /^@[a-z]+$/i.test(text.trim()) || (words.length >= 5 && !text.includes(':'));
};

/**
 * @param zoneName null: that of this host, or what the expression says itself
 * @throws INVALID_ARGUMENT
 */
export function parseTimetable(text: string, zoneName: string | null): Timetable {
  if (isCron(text)) return cronTable(text.trim(), new Zone(zoneName ?? hostZone()));
  const calendar = parseCalendar(text);
  if (calendar.zone !== null && zoneName !== null && calendar.zone !== zoneName)
    throw new DvceError('INVALID_ARGUMENT', {
      what: `the calendar expression ${JSON.stringify(text)}`,
      reason: `it says ${calendar.zone}, the schedule ${zoneName}`,
      advice: 'Give the time zone in one place.',
    });
  const zone = new Zone(calendar.zone ?? zoneName ?? hostZone());
  return { zone, next: (afterMs) => nextElapse(calendar, zone, afterMs) };
}

function cronTable(text: string, zone: Zone): Timetable {
  let cron: Cron;
  try {
    if (text.length > 256) throw new Error('it is too long');
    cron = new Cron(text, { timezone: zone.name, paused: true, mode: '5-or-6-parts' });
  } catch (error) {
    throw new DvceError(
      'INVALID_ARGUMENT',
      {
        what: `the cron expression ${JSON.stringify(text.slice(0, 256))}`,
        reason: error instanceof Error ? error.message : String(error),
        advice: 'For example "0 2 * * *": minute, hour, day of the month, month, day of the week.',
      },
      error,
    );
  }
  return {
    zone,
    next: (afterMs) => cron.nextRun(new Date(afterMs))?.getTime() ?? null,
  };
}

/**
 * The last due time in (afterMs, nowMs], or null: what was missed is made up for once. Looks back in steps that double, so that a
 * year without power costs a few dozen questions and not one a minute.
 */
export function latestDue(table: Timetable, afterMs: number, nowMs: number): number | null {
  for (let back = 1000; ; back *= 2) {
    const from = Math.max(afterMs, nowMs - back);
    let found: number | null = null;
    let next = table.next(from);
    for (let count = 0; next !== null && next <= nowMs; count += 1) {
      found = next;
      if (count >= limits.scheduleLooksMax) return found;
      next = table.next(next);
    }
    if (found !== null || from === afterMs) return found;
  }
}

/** The next due times. */
export function upcoming(table: Timetable, afterMs: number, count: number): number[] {
  const found: number[] = [];
  let next = table.next(afterMs);
  while (next !== null && found.length < count) {
    found.push(next);
    next = table.next(next);
  }
  return found;
}
