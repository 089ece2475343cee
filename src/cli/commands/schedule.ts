/** `dvce schedule ...` */
import type { Schedule, ScheduleCreate } from '../../api/index.ts';
import { formatDuration } from '../../base/units.ts';
import { confirm, unlessExists, unlessMissing } from '../confirm.ts';
import { follow } from '../follow.ts';
import { labels, orDash, time } from '../format.ts';
import { usageError } from '../output.ts';
import type { Given, Run } from '../spec.ts';

const periods = ['hourly', 'daily', 'weekly', 'monthly', 'yearly'] as const;

function keepOf(given: Given): ScheduleCreate['keep'] {
  const keep: ScheduleCreate['keep'] = {};
  const last = given.number('keepLast') ?? given.number('keep');
  if (last !== undefined) keep.last = last;
  for (const period of periods) {
    const count = given.number(`keep${period.slice(0, 1).toUpperCase()}${period.slice(1)}`);
    if (count !== undefined) keep[period] = count;
  }
  const expireMs = given.number('expire');
  if (expireMs !== undefined) keep.expireMs = expireMs;
  return keep;
}

const keepText = ({ expireMs, ...counts }: Schedule['keep']): string =>
  [
    ...Object.entries(counts).map(([rule, count]) => `${count} ${rule}`),
    ...(expireMs === undefined ? [] : [`none over ${formatDuration(expireMs)}`]),
  ].join(', ');

const ofText = ({ volumes, label }: Schedule): string =>
  [volumes ?? '', label === null ? '' : labels(label)].filter((part) => part !== '').join(' ');

const whenText = ({ every, timeZone }: Schedule): string =>
  timeZone === null ? every : `${every} (${timeZone})`;

const timeOrDash = (text: string | null): string => (text === null ? '-' : time(text));

function runText({ lastRun }: Schedule): string {
  if (lastRun === null) return '-';
  const { startedAt, taken, deleted, failed, error } = lastRun;
  const counts = `${taken} taken, ${deleted} deleted, ${failed} failed`;
  return `${time(startedAt)}: ${counts}${error === null ? '' : `: ${error}`}`;
}

export const create: Run = async (context, given) => {
  const { api, output } = context;
  const name = given.argument('name');
  const volumes = given.text('volumes');
  const label = given.labels('label');
  const timeZone = given.text('timeZone');
  if (given.number('keep') !== undefined && given.number('keepLast') !== undefined)
    throw usageError('the command', '--keep and --keep-last are the same', 'Give one of them.');
  const body: ScheduleCreate = {
    name,
    every: given.text('every') ?? '',
    ...(volumes === undefined ? {} : { volumes }),
    ...(label === undefined ? {} : { label: { ...label } }),
    ...(timeZone === undefined ? {} : { timeZone }),
    keep: keepOf(given),
  };
  const made = await unlessExists(
    context,
    given,
    () => api.schedules.create(body),
    () => api.schedules.get(name),
  );
  output.changed(made, name, `Schedule ${name}: due ${timeOrDash(made.nextDue)}.`);
};

export const list: Run = async ({ api, output }) => {
  const { schedules, unreadable = [] } = await api.schedules.list();
  await output.list(schedules, ({ name }) => name, [
    { title: 'name', value: ({ name }) => name },
    { title: 'of', value: ofText },
    { title: 'every', value: whenText },
    { title: 'keeps', value: ({ keep }) => keepText(keep) },
    { title: 'next', value: ({ nextDue }) => timeOrDash(nextDue) },
    { title: 'state', value: ({ state }) => state },
    { title: 'last run', value: runText },
  ]);
  for (const { name, reason } of unreadable)
    output.note(`Schedule ${name} does not run: ${reason}`);
};

export const show: Run = async ({ api, output }, given) => {
  const schedule = await api.schedules.get(given.argument('name'));
  output.show(schedule, [
    ['name', schedule.name],
    ['volumes', orDash(schedule.volumes)],
    ['labels', schedule.label === null ? '-' : labels(schedule.label)],
    ['every', schedule.every],
    ['time zone', schedule.timeZone ?? 'of the host'],
    ['keeps', keepText(schedule.keep)],
    ['state', schedule.state],
    ['next', timeOrDash(schedule.nextDue)],
    ['last due', timeOrDash(schedule.lastDue)],
    ['last run', runText(schedule)],
    ['created', time(schedule.createdAt)],
  ]);
};

export const preview: Run = async ({ api, output }, given) => {
  const found = await api.schedules.preview(given.argument('name'), given.number('count'));
  if (output.json) return output.object(found);
  await output.list(found.runs, ({ at }) => at, [
    { title: 'at', value: ({ at }) => time(at) },
    { title: 'takes', value: ({ takes }) => `${takes}`, right: true },
    { title: 'deletes', value: ({ deletes }) => orDash(deletes.join(' ')) },
  ]);
  output.note(`Of ${found.volumes.length} volumes.`);
};

export const run: Run = async (context, given) => {
  const name = given.argument('name');
  const operation = await follow(context, given, await context.api.schedules.run(name), {
    cancelOnInterrupt: true,
  });
  if (operation === undefined) return;
  const { taken, deleted } = operation.result as { taken: number; deleted: number };
  context.output.changed(
    operation.result,
    name,
    `Schedule ${name}: ${taken} snapshots taken, ${deleted} deleted.`,
  );
};

export const pause: Run = async ({ api, output }, given) => {
  const schedule = await api.schedules.pause(given.argument('name'));
  output.changed(schedule, schedule.name, `Schedule ${schedule.name} rests.`);
};

export const resume: Run = async ({ api, output }, given) => {
  const schedule = await api.schedules.resume(given.argument('name'));
  const { name, nextDue } = schedule;
  output.changed(schedule, name, `Schedule ${name}: due ${timeOrDash(nextDue)}.`);
};

export const remove: Run = async (context, given) => {
  const { api, output } = context;
  const name = given.argument('name');
  await unlessMissing(context, given, async () => {
    await confirm(context, given, `deleting schedule ${name}`, name);
    await api.schedules.delete(name);
    output.note(`Schedule ${name} deleted; its snapshots stay.`);
  });
};
