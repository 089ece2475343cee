import type { NounSpec } from '../spec.ts';
import { guestOptions } from './guest.ts';
import * as option from './options.ts';
import { lifeOptions, vmLife } from './vm-life.ts';
import { vmSnapshots } from './vm-snapshot.ts';

const name = { name: '<name>', text: 'name of the VM', names: 'vm' } as const;
const load = () => import('../commands/vm.ts');

export const vm: NounSpec = {
  name: 'vm',
  summary: 'virtual machines on this host',
  commands: [
    {
      name: 'create',
      summary: 'define a VM',
      details:
        'With --image its first disk is a clone of the image, /vms/NAME/disk0. --disk PATH takes an existing volume, --disk PATH,SIZE makes one. Disks made here are deleted with the VM.',
      arguments: [{ name: '[name]', text: 'name of the new VM' }],
      options: [
        {
          flags: '-f, --file <path>',
          text: 'read the VM from a YAML file, - for standard input; other options come on top',
          names: 'file',
        },
        { flags: '--image <name>', text: 'image to clone the first disk from', names: 'image' },
        { flags: '--image-size <size>', text: 'a larger size for that disk', kind: 'size' },
        {
          flags: '-d, --disk <path[,size]>',
          text: 'a disk; may be repeated',
          kind: 'texts',
          names: 'volume',
        },
        { flags: '--cpus <count>', text: 'virtual CPUs (1)', kind: 'count' },
        { flags: '--memory <size>', text: 'memory (512MiB)', kind: 'size' },
        {
          flags: '--net <kind>',
          text: 'a network card: user (outgoing by NAT; the default), bridge=NAME, network=NAME[,ADDRESS], or none; may be repeated',
          kind: 'texts',
        },
        { flags: '--network <kind>', text: 'older form of --net', choices: ['user', 'none'] },
        { flags: '--firmware <kind>', text: 'firmware', choices: ['bios', 'uefi'] },
        { flags: '--machine <kind>', text: 'machine type', choices: ['q35', 'pc'] },
        {
          flags: '--ready-pattern <regex>',
          text: 'text on the serial console that means the guest is ready',
        },
        ...guestOptions,
        ...lifeOptions,
        option.label,
        { flags: '--start', text: 'start it right away' },
        option.ifNotExists,
      ],
      examples: [
        'dvce vm create web1 --image debian --memory 256MiB',
        'dvce vm create db1 --image debian --cpus 2 --memory 512MiB --disk /vms/db1/files,1GiB',
        "dvce vm create web2 --disk /prod/web --ready-pattern 'login:'",
        'dvce vm create app1 --image debian --user-data app1.yaml --ssh-key keys.pub --hostname app1.example.org',
        'dvce vm create screen1 --image debian --memory 256MiB --vnc --net none',
        'dvce vm create web1 --image debian --if-not-exists',
        "printf 'image: debian\\nmemoryBytes: 64MiB\\nnics: []\\n' | dvce vm create file1 --file -",
        'dvce vm show file1 -o yaml | dvce vm create file2 --file - --dry-run',
      ],
      run: async () => (await load()).create,
    },
    {
      name: 'list',
      summary: 'list VMs',
      examples: [
        'dvce vm list',
        'dvce vm list --filter phase=running -o name',
        'dvce vm list -o json',
      ],
      run: async () => (await load()).list,
    },
    {
      name: 'show',
      summary: 'show one VM: phase, readiness and why, disks',
      arguments: [name],
      examples: ['dvce vm show web1', 'dvce vm show web1 -o yaml', 'dvce vm show web1 -o json'],
      run: async () => (await load()).show,
    },
    {
      name: 'start',
      summary: 'start a VM',
      details: 'Returns when the guest runs; --ready waits until it is ready.',
      arguments: [name],
      options: [
        { flags: '--ready', text: 'wait until the guest is ready' },
        option.noWait,
        option.timeout,
      ],
      examples: [
        'dvce vm start web1 --dry-run',
        'dvce vm start web1 --timeout 2m',
        'dvce vm start web1 --ready',
      ],
      run: async () => (await load()).start,
    },
    {
      name: 'stop',
      summary: 'shut a VM down: power button first, then hard',
      arguments: [name],
      options: [
        {
          flags: '--timeout <duration>',
          text: 'time for the guest to shut down (60s)',
          kind: 'duration',
        },
        { flags: '--force', text: 'end it hard at once' },
        option.noWait,
      ],
      examples: [
        'dvce vm stop web1',
        'dvce vm stop web1 --timeout 5s',
        'dvce vm stop web1 --force',
      ],
      run: async () => (await load()).stop,
    },
    ...vmLife,
    ...vmSnapshots,
    {
      name: 'vnc',
      summary: 'print address and password of the graphical display of a running VM',
      details:
        'Only a VM made with --vnc has one. It listens on the loopback address of its host; from elsewhere, use a tunnel such as ssh -L. Each start makes a new password.',
      arguments: [name],
      examples: [
        'dvce vm vnc screen1',
        'dvce vm vnc screen1 -o json',
        'dvce vm vnc screen1 -o yaml',
      ],
      run: async () => (await load()).vnc,
    },
    {
      name: 'log',
      summary: "print the log of a VM's serial console",
      arguments: [name],
      options: [{ flags: '--tail <count>', text: 'only the last lines', kind: 'count' }],
      examples: [
        'dvce vm log web1',
        'dvce vm log web1 --tail 20',
        'dvce vm log web1 --tail 1000 | grep -i linux',
      ],
      run: async () => (await load()).log,
    },
    {
      name: 'delete',
      summary: 'delete a VM and the disks made with it',
      details: 'Refused while it runs. Volumes that existed before are never deleted.',
      arguments: [name],
      options: [
        { flags: '--keep-disks', text: 'leave all its volumes' },
        option.dryRun,
        option.ifExists,
        option.yes,
      ],
      examples: [
        'dvce vm delete db1 --dry-run',
        'dvce vm delete db1 --keep-disks --yes',
        'dvce vm delete db1 --yes --if-exists',
      ],
      run: async () => (await load()).remove,
    },
  ],
};
