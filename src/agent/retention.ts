/**
 * Which snapshots of a schedule stay. Pure: times in, decisions out.
 *
 * A snapshot stays while a rule keeps it: one of the last N, or the newest of its day, week or month among the last N days,
 * weeks or months that have one (in the schedule's time zone). `expireMs` ends it all the same. Without any keep rule all stay
 * until they expire. The newest one always stays.
 */
import type { Zone } from '../base/index.ts';

export interface Retention {
  readonly last?: number;
  readonly hourly?: number;
  readonly daily?: number;
  readonly weekly?: number;
  readonly monthly?: number;
  readonly yearly?: number;
  readonly expireMs?: number;
}

export interface Candidate {
  readonly name: string;
  readonly atMs: number;
}

type Period = 'hourly' | 'daily' | 'weekly' | 'monthly' | 'yearly';
const periods: readonly Period[] = ['hourly', 'daily', 'weekly', 'monthly', 'yearly'];

/** Names to delete, oldest first. */
export function prune(
  all: readonly Candidate[],
  keep: Retention,
  zone: Zone,
  nowMs: number,
): string[] {
  const newestFirst = [...all].sort((a, b) => b.atMs - a.atMs || (a.name < b.name ? 1 : -1));
  const kept = new Set<string>();
  for (const { name } of newestFirst.slice(0, keep.last ?? 0)) kept.add(name);
  for (const period of periods)
    for (const name of newestOf(newestFirst, period, keep[period] ?? 0, zone)) kept.add(name);
  const hasRule = keep.last !== undefined || periods.some((period) => keep[period] !== undefined);
  const isOver = (atMs: number): boolean =>
    keep.expireMs !== undefined && nowMs - atMs > keep.expireMs;
  return newestFirst
    .slice(1)
    .filter(({ name, atMs }) => isOver(atMs) || (hasRule && !kept.has(name)))
    .map(({ name }) => name)
    .reverse();
}

function newestOf(
  newestFirst: readonly Candidate[],
  period: Period,
  count: number,
  zone: Zone,
): string[] {
  const newest = new Map<string, string>();
  for (const { name, atMs } of newestFirst) {
    if (newest.size >= count && !newest.has(bucketOf(atMs, period, zone))) break;
    const bucket = bucketOf(atMs, period, zone);
    if (!newest.has(bucket)) newest.set(bucket, name);
  }
  return count === 0 ? [] : [...newest.values()];
}

function bucketOf(atMs: number, period: Period, zone: Zone): string {
  const { year, month, day, hour } = zone.wallTime(atMs);
  if (period === 'yearly') return `${year}`;
  if (period === 'monthly') return `${year}-${month}`;
  if (period === 'daily') return `${year}-${month}-${day}`;
  if (period === 'hourly') return `${year}-${month}-${day} ${hour}`;
  // Weeks begin on Monday; 1970-01-05 was one.
  return `week ${Math.floor((Date.UTC(year, month - 1, day) / 86_400_000 - 4) / 7)}`;
}
