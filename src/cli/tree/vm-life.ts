/** What is done to a VM that exists. */
import type { CommandSpec } from '../spec.ts';
import * as option from './options.ts';

const name = { name: '<name>', text: 'name of the VM', names: 'vm' } as const;
const load = () => import('../commands/vm-life.ts');

/** Options of `create` and `update` for what happens without anybody's doing. */
export const lifeOptions = [
  option.protect,
  { flags: '--autostart', text: 'start it when the host has started' },
  {
    flags: '--start-order <number>',
    text: 'lower numbers start first and stop last (0)',
    kind: 'count',
  },
  {
    flags: '--on-crash <policy>',
    text: 'restart: up to 3 times in 24 hours, then hold; hold: not at all',
    choices: ['restart', 'hold'],
  },
  {
    flags: '--cpu-model <name>',
    text: 'processor: all that the host has, or a baseline that is the same everywhere',
    choices: ['host', 'x86-64-v2', 'x86-64-v3'],
  },
] as const;

export const vmLife: readonly CommandSpec[] = [
  {
    name: 'pause',
    summary: 'stop the processors of a running VM',
    details: 'It keeps its memory and its disks, and goes on with "vm resume".',
    arguments: [name],
    examples: ['dvce vm pause web1', 'dvce vm pause web1 -o json', 'dvce vm pause web1 --dry-run'],
    run: async () => (await load()).pause,
  },
  {
    name: 'resume',
    summary: 'let a paused VM go on',
    arguments: [name],
    examples: [
      'dvce vm resume web1',
      'dvce vm resume web1 -o json',
      'dvce vm resume web1 --dry-run',
    ],
    run: async () => (await load()).resume,
  },
  {
    name: 'reset',
    summary: 'restart a VM without asking its guest',
    details: 'Like the reset button: what the guest has not written is lost.',
    arguments: [name],
    examples: ['dvce vm reset web1 --dry-run', 'dvce vm reset web1', 'dvce vm reset web1 -o json'],
    run: async () => (await load()).reset,
  },
  {
    name: 'reboot',
    summary: 'restart a VM: its guest is asked first, then it is reset',
    details:
      'The guest agent is asked, without one the power button is pressed. --timeout is the time of the guest.',
    arguments: [name],
    options: [
      {
        flags: '--timeout <duration>',
        text: 'time for the guest to restart by itself (60s)',
        kind: 'duration',
      },
      option.noWait,
    ],
    examples: [
      'dvce vm reboot web1',
      'dvce vm reboot web1 --timeout 2m --dry-run',
      'dvce op wait "$(dvce vm reboot web1 --no-wait)"',
    ],
    run: async () => (await load()).reboot,
  },
  {
    name: 'wait',
    summary: 'wait until a VM is running, ready or stopped, or its guest agent or address is there',
    details: 'Ends with status 9 when the time is over.',
    arguments: [name],
    options: [
      {
        flags: '--for <condition>',
        text: 'what to wait for (ready)',
        choices: ['running', 'ready', 'agent', 'ip', 'stopped'],
      },
      { flags: '--timeout <duration>', text: 'wait at most this long (5m)', kind: 'duration' },
    ],
    examples: [
      'dvce vm wait web1',
      'dvce vm wait web1 --for agent --timeout 2m',
      'dvce vm wait web1 --for running -o json',
    ],
    run: async () => (await load()).wait,
  },
  {
    name: 'update',
    summary: 'change labels, protection, and what happens at a crash or a start of the host',
    details: 'Labels that are given replace all that it has.',
    arguments: [name],
    options: [
      ...lifeOptions,
      option.noProtect,
      { flags: '--no-autostart', text: 'do not start it with the host' },
      option.label,
    ],
    examples: [
      'dvce vm update web1 --protect',
      'dvce vm update web1 --no-protect --label team=shop',
      'dvce vm update web1 --autostart --start-order 10 --on-crash restart',
    ],
    run: async () => (await load()).update,
  },
  {
    name: 'resize',
    summary: 'change processors and memory',
    details:
      'A running guest can be given more processors (up to 8, or what it was started with) and less memory, and back what was taken from it. For anything else stop it, or pass --at-next-start.',
    arguments: [name],
    options: [
      { flags: '--cpus <count>', text: 'virtual CPUs', kind: 'count' },
      { flags: '--memory <size>', text: 'memory', kind: 'size' },
      { flags: '--at-next-start', text: 'leave a running guest as it is until then' },
      option.noWait,
      option.timeout,
    ],
    examples: [
      'dvce vm resize web1 --cpus 2',
      'dvce vm resize web1 --memory 512MiB --at-next-start',
      'dvce vm resize web1 --cpus 4 --dry-run',
    ],
    run: async () => (await load()).resize,
  },
  {
    name: 'attach-disk',
    summary: 'give a VM another disk, also while it runs',
    details: 'PATH is an existing volume; with --size a new one is made, which goes with the VM.',
    arguments: [name, { name: '<path>', text: 'volume', names: 'volume' }],
    options: [
      { flags: '--size <size>', text: 'make a new volume of this size', kind: 'size' },
      { flags: '--read-only', text: 'the guest cannot write to it' },
      option.noWait,
      option.timeout,
    ],
    examples: [
      'dvce vm attach-disk web1 /vms/web1/more --size 64MiB',
      'dvce vm attach-disk web1 /prod/logs --read-only',
      'dvce vm attach-disk web1 /prod/more --size 1GiB --dry-run',
    ],
    run: async () => (await load()).attachDisk,
  },
  {
    name: 'detach-disk',
    summary: 'take a disk out of a VM; the volume stays',
    details:
      'DISK is its name in the VM (disk1) or the path of its volume. A guest that runs must let it go, which takes a system that has booted.',
    arguments: [name, { name: '<disk>', text: 'name of the disk, or path of the volume' }],
    options: [option.noWait, option.timeout],
    examples: [
      'dvce vm detach-disk web1 disk1 --dry-run',
      'dvce vm detach-disk web1 /vms/web1/more',
      'dvce vm detach-disk web1 /prod/logs --timeout 1m',
    ],
    run: async () => (await load()).detachDisk,
  },
  {
    name: 'attach-nic',
    summary: 'give a VM another network card, also while it runs',
    arguments: [name, { name: '<kind>', text: 'user, bridge=NAME, or network=NAME[,ADDRESS]' }],
    options: [option.noWait, option.timeout],
    examples: [
      'dvce vm attach-nic web1 user',
      'dvce vm attach-nic web1 bridge=br0 --dry-run',
      'dvce vm attach-nic web1 network=lan,10.0.0.17 --dry-run',
    ],
    run: async () => (await load()).attachNic,
  },
  {
    name: 'detach-nic',
    summary: 'take a network card out of a VM',
    arguments: [name, { name: '<card>', text: 'name of the card: card0' }],
    options: [option.noWait, option.timeout],
    examples: [
      'dvce vm detach-nic web1 card1 --dry-run',
      'dvce vm detach-nic web1 card1',
      'dvce vm detach-nic web1 card0 --timeout 1m',
    ],
    run: async () => (await load()).detachNic,
  },
  {
    name: 'clone',
    summary: 'make a VM like another one, with clones of its disks',
    details:
      'All disks are cloned as they are at one instant; a guest may run meanwhile, and its clone finds its disks as after a power cut. Id, MAC addresses and leases are new.',
    arguments: [name, { name: '<new>', text: 'name of the new VM' }],
    options: [option.label, option.noWait, option.timeout],
    examples: [
      'dvce vm clone web1 web9',
      'dvce vm clone web1 web8 --label team=shop',
      'dvce vm clone web1 web7 --dry-run',
    ],
    run: async () => (await load()).clone,
  },
];
