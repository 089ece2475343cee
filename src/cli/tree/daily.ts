/** Shortcuts for what is done every day. */
import type { CommandSpec } from '../spec.ts';
import * as option from './options.ts';
import { vm } from './vm.ts';

/** The options of `vm create` that are not decided by the words of `launch`. */
const createOptions = (vm.commands.find(({ name }) => name === 'create')?.options ?? []).filter(
  ({ flags }) => !/--(image|start|if-not-exists)\b(?!-)/.test(flags),
);

export const daily: readonly CommandSpec[] = [
  {
    name: 'launch',
    kind: 'operation',
    summary: 'make a VM from an image and start it',
    details: 'The same as: dvce vm create NAME --image IMAGE --start, with all its options.',
    arguments: [
      { name: '<image>', text: 'image to clone the first disk from', names: 'image' },
      { name: '<name>', text: 'name of the new VM' },
    ],
    options: [...createOptions, option.ifNotExists],
    examples: [
      'dvce launch debian web5 --memory 256MiB',
      'dvce launch debian web6 --cpus 2 --user-data app1.yaml --dry-run',
      'dvce launch debian web5 --if-not-exists --timeout 2m',
    ],
    run: async () => (await import('../commands/daily.ts')).launch,
  },
  {
    name: 'list',
    kind: 'read',
    summary: 'list VMs; the same as: dvce vm list',
    examples: [
      'dvce list',
      'dvce list --sort -memory --columns name,phase,memory',
      'dvce list --filter phase=running -o name',
    ],
    run: async () => (await import('../commands/vm.ts')).list,
  },
  {
    name: 'top',
    kind: 'read',
    summary: 'watch what VMs and volumes are doing: CPU, memory, I/O',
    details:
      'On a terminal the tables are drawn again every --interval until q or Ctrl-C; elsewhere, and with --once, they are printed once. Rates are over one interval.',
    options: [
      { flags: '--once', text: 'print once and end' },
      { flags: '--interval <duration>', text: 'time between two looks (2s)', kind: 'duration' },
      { flags: '--volumes', text: 'only volumes' },
      { flags: '--vms', text: 'only VMs' },
    ],
    examples: [
      'dvce top',
      'dvce top --once --volumes --sort -written',
      'dvce top --once --interval 500ms -o json',
    ],
    run: async () => (await import('../commands/top.ts')).top,
  },
  {
    name: 'event',
    kind: 'read',
    summary: 'print what changes on this host as it happens',
    details:
      'One line each, with -o json one JSON object each. Goes on after an interruption where it stopped; when too much was missed it says so and goes on from now.',
    options: [
      { flags: '--types <list>', text: 'only these, e.g. vm.*,operation.ended' },
      {
        flags: '--since <number>',
        text: 'begin behind the event of this number; 0: with all that are kept',
      },
      { flags: '--limit <count>', text: 'end after so many', kind: 'count' },
      { flags: '--timeout <duration>', text: 'end after this time', kind: 'duration' },
    ],
    examples: [
      'dvce event',
      "dvce event --types 'vm.*,operation.ended' --timeout 1s",
      'dvce event --since 0 --limit 3 -o json',
    ],
    run: async () => (await import('../commands/event.ts')).event,
  },
];
