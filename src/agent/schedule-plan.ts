/**
 * What a run of a schedule does, worked out from documents alone: which volumes it is about, what its snapshots are called,
 * which of them it may delete.
 *
 * A snapshot belongs to a schedule only if both its name (`NAME-20261121T020000Z`) and its label `schedule` say so, and it is
 * not protected. What an operator took, renamed or protected is never deleted.
 */
import { asVolumePath, DvceError, type Zone } from '../base/index.ts';
import type { SnapshotInfo, VolumeInfo } from '../blockd/index.ts';
import { type Candidate, prune, type Retention } from './retention.ts';

/** Label of the snapshots of a schedule. */
export const scheduleLabel = 'schedule';

export interface Chosen {
  readonly volumes: string | null;
  readonly label: Readonly<Record<string, string>> | null;
}

/** `20261121T020000Z`. */
const timeText = (ms: number): string => new Date(ms).toISOString().replace(/[-:]|\.\d+/g, '');

export const snapshotName = (schedule: string, dueMs: number): string =>
  `${schedule}-${timeText(dueMs)}`;

/** The due time in the name of a schedule's snapshot, or undefined for any other name. */
export function dueOf(schedule: string, name: string): number | undefined {
  const rest = name.startsWith(`${schedule}-`) ? name.slice(schedule.length + 1) : '';
  const match = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(rest);
  if (match === null) return undefined;
  const [, year, month, day, hour, minute, second] = match;
  const ms = Date.parse(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`);
  return Number.isNaN(ms) ? undefined : ms;
}

/** @throws INVALID_ARGUMENT for what is no pattern of paths */
export function patternOf(text: string): RegExp {
  // What stands for the wildcards must be a good path: nothing else is left to be wrong.
  asVolumePath(text.replaceAll('**', 'x').replaceAll('*', 'x').replaceAll('?', 'x'));
  const parts = text.split('/').filter((part) => part !== '');
  const source = parts.map((part) =>
    part === '**'
      ? '.+'
      : part
          .replace(/[.+^${}()|[\]\\]/g, '\\$&')
          .replaceAll('**', '*')
          .replaceAll('*', '[^/]*')
          .replaceAll('?', '[^/]'),
  );
  return new RegExp(`^/${source.join('/')}$`);
}

/** @throws INVALID_ARGUMENT when it says nothing */
export function checkChosen({ volumes, label }: Chosen): void {
  if (volumes !== null) patternOf(volumes);
  if (volumes === null && (label === null || Object.keys(label).length === 0))
    throw new DvceError('INVALID_ARGUMENT', {
      what: 'the schedule',
      reason: 'it does not say of which volumes',
      advice: "Give --volumes '/prod/**' or --label key=value.",
    });
}

export function chosen({ volumes, label }: Chosen, all: readonly VolumeInfo[]): VolumeInfo[] {
  const pattern = volumes === null ? undefined : patternOf(volumes);
  const wanted = Object.entries(label ?? {});
  return all.filter(
    (volume) =>
      volume.kind === 'volume' &&
      pattern?.test(volume.path) !== false &&
      wanted.every(([key, value]) => volume.labels[key] === value),
  );
}

/** Snapshots of the schedule, those that may be deleted. */
export function candidates(schedule: string, snapshots: readonly SnapshotInfo[]): Candidate[] {
  return snapshots.flatMap(({ name, labels, protected: isProtected }) => {
    const atMs = dueOf(schedule, name);
    const isOurs = atMs !== undefined && labels[scheduleLabel] === schedule;
    return isOurs && !isProtected ? [{ name, atMs }] : [];
  });
}

/** Names to delete after the run of `nowMs`. */
export const outlived = (
  schedule: string,
  snapshots: readonly SnapshotInfo[],
  keep: Retention,
  zone: Zone,
  nowMs: number,
): string[] => prune(candidates(schedule, snapshots), keep, zone, nowMs);
