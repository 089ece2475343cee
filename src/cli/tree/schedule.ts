import type { NounSpec } from '../spec.ts';
import * as option from './options.ts';

const name = { name: '<name>', text: 'name of the schedule', names: '/v1/schedules' } as const;
const load = () => import('../commands/schedule.ts');

export const schedule: NounSpec = {
  name: 'schedule',
  summary: 'snapshots at times, and how long they stay',
  commands: [
    {
      name: 'create',
      summary: 'take snapshots at times, and keep some of them',
      details:
        'The snapshots are called NAME-<due time in UTC>. What is missed while nothing runs is made up for once. Only snapshots of the schedule are deleted, never protected ones or those that an operator took.',
      arguments: [{ name: '<name>', text: 'name of the new schedule' }],
      options: [
        { flags: '--volumes <pattern>', text: "a path or pattern: '/prod/*', '/prod/**'" },
        { ...option.label, text: 'only volumes with this label; may be repeated' },
        {
          flags: '--every <expression>',
          text: "systemd calendar ('*-*-* 02:00', 'Mon..Fri 22:30', 'hourly') or cron ('0 2 * * *')",
          required: true,
        },
        { flags: '--time-zone <name>', text: 'e.g. Europe/Berlin (that of the host)' },
        { flags: '--keep <count>', text: 'keep the last so many', kind: 'count' },
        { flags: '--keep-last <count>', text: 'the same as --keep', kind: 'count' },
        { flags: '--keep-hourly <count>', text: 'the newest of so many hours', kind: 'count' },
        { flags: '--keep-daily <count>', text: 'the newest of so many days', kind: 'count' },
        { flags: '--keep-weekly <count>', text: 'the newest of so many weeks', kind: 'count' },
        { flags: '--keep-monthly <count>', text: 'the newest of so many months', kind: 'count' },
        { flags: '--keep-yearly <count>', text: 'the newest of so many years', kind: 'count' },
        { flags: '--expire <duration>', text: 'keep none longer, e.g. 14d', kind: 'duration' },
        option.ifNotExists,
      ],
      examples: [
        "dvce schedule create nightly --volumes '/prod/**' --every '*-*-* 02:00' --keep 7",
        "dvce schedule create gold --label tier=gold --every '0 */4 * * *' --keep-hourly 12 --keep-daily 14 --time-zone Europe/Berlin",
        'dvce schedule create short --volumes /prod/db --every hourly --expire 14d --if-not-exists',
      ],
      run: async () => (await load()).create,
    },
    {
      name: 'list',
      summary: 'list schedules',
      examples: ['dvce schedule list', 'dvce schedule list -o json', 'dvce schedule list -o name'],
      run: async () => (await load()).list,
    },
    {
      name: 'show',
      summary: 'show one schedule and its last run',
      arguments: [name],
      examples: [
        'dvce schedule show nightly',
        'dvce schedule show nightly -o json',
        'dvce schedule show gold -o yaml',
      ],
      run: async () => (await load()).show,
    },
    {
      name: 'preview',
      summary: 'show the next due times and what each run would delete',
      arguments: [name],
      options: [{ flags: '--count <count>', text: 'so many runs (5)', kind: 'count' }],
      examples: [
        'dvce schedule preview nightly',
        'dvce schedule preview nightly --count 10',
        'dvce schedule preview gold -o json',
      ],
      run: async () => (await load()).preview,
    },
    {
      name: 'run',
      summary: 'run a schedule now, beside its due times',
      arguments: [name],
      options: [option.noWait, option.timeout],
      examples: [
        'dvce schedule run nightly',
        'dvce schedule run nightly --timeout 5m',
        'dvce op wait "$(dvce schedule run gold --no-wait)"',
      ],
      run: async () => (await load()).run,
    },
    {
      name: 'pause',
      summary: 'let a schedule rest',
      arguments: [name],
      examples: [
        'dvce schedule pause nightly',
        'dvce schedule pause nightly -o json',
        'dvce schedule pause gold',
      ],
      run: async () => (await load()).pause,
    },
    {
      name: 'resume',
      summary: 'let a schedule go on; what was due meanwhile is not made up for',
      arguments: [name],
      examples: [
        'dvce schedule resume nightly',
        'dvce schedule resume nightly -o json',
        'dvce schedule resume gold',
      ],
      run: async () => (await load()).resume,
    },
    {
      name: 'delete',
      summary: 'delete a schedule; its snapshots stay',
      arguments: [name],
      options: [option.ifExists, option.yes],
      examples: [
        'dvce schedule delete short --yes',
        'dvce schedule delete short --yes --if-exists',
        'dvce schedule delete gold --dry-run --yes',
      ],
      run: async () => (await load()).remove,
    },
  ],
};
