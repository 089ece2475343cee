/** Schedules of snapshots. */
import Type, { type Static } from 'typebox';
import { limits } from '../../base/limits.ts';
import { closed, labels, nameText, nullable, ref, timestamp, word } from './common.ts';

const count = (description: string) =>
  Type.Optional(Type.Integer({ minimum: 0, maximum: limits.scheduleKeepMax, description }));

const keepFields = {
  last: count('The last so many.'),
  hourly: count('The newest of each of the last so many hours that have one.'),
  daily: count('The same for days.'),
  weekly: count('For weeks, which begin on Monday.'),
  monthly: count('For months.'),
  yearly: count('For years.'),
  expireMs: Type.Optional(
    Type.Integer({ minimum: 60_000, description: 'None older than this is kept.' }),
  ),
};

const every = Type.String({
  minLength: 1,
  maxLength: 256,
  description: 'A calendar expression of systemd ("*-*-* 02:00") or a cron line ("0 2 * * *").',
});
const volumes = nullable(Type.String({ minLength: 1, maxLength: 1100 }), {
  description: 'A path, or a pattern: * within a part of it, ** across parts.',
});
const label = nullable(labels, { description: 'Only volumes with all these labels.' });
const timeZone = nullable(Type.String({ minLength: 1, maxLength: 80 }), {
  description: 'IANA name; null: that of the expression or of the host.',
});

export const ScheduleCreate = Type.Object(
  {
    name: nameText('Name; the snapshots are called NAME-<time in UTC>.'),
    volumes: Type.Optional(volumes),
    label: Type.Optional(label),
    every,
    timeZone: Type.Optional(timeZone),
    keep: Type.Object(keepFields, closed),
  },
  closed,
);
export type ScheduleCreate = Static<typeof ScheduleCreate>;

export const Schedule = Type.Object(
  {
    name: Type.String(),
    volumes,
    label,
    every,
    timeZone,
    keep: Type.Object(keepFields),
    paused: Type.Boolean(),
    createdAt: timestamp('When it was made.'),
    nextDue: nullable(Type.String(), { description: 'Null while paused, or when none comes.' }),
    lastDue: nullable(Type.String(), { description: 'The last due time that was worked off.' }),
    lastRun: nullable(
      Type.Object({
        startedAt: Type.String(),
        endedAt: Type.String(),
        taken: Type.Integer(),
        deleted: Type.Integer(),
        failed: Type.Integer(),
        error: nullable(Type.String()),
      }),
    ),
    state: word(['waiting', 'running', 'paused'], 'What it does now.'),
  },
  { $id: 'Schedule', description: 'Snapshots taken at times, and how long they stay.' },
);
export type Schedule = Static<typeof Schedule>;

export const ScheduleList = Type.Object(
  {
    schedules: Type.Array(ref(Schedule)),
    unreadable: Type.Optional(
      Type.Array(Type.Object({ name: Type.String(), reason: Type.String() }), {
        description: 'Schedules that do not run because their document cannot be read.',
      }),
    ),
  },
  { $id: 'ScheduleList' },
);

export const SchedulePreview = Type.Object(
  {
    runs: Type.Array(
      Type.Object({
        at: Type.String(),
        takes: Type.Integer({ description: 'Snapshots.' }),
        deletes: Type.Array(Type.String(), { description: 'PATH@NAME, oldest first.' }),
      }),
    ),
    volumes: Type.Array(Type.String(), { description: 'Volumes that it is about now.' }),
  },
  { $id: 'SchedulePreview' },
);
export type SchedulePreview = Static<typeof SchedulePreview>;
