/** Options of `vm create` for what a guest has beside processors, memory and disks. */
import type { OptionSpec } from '../spec.ts';

export const guestOptions: readonly OptionSpec[] = [
  {
    flags: '--user-data <file>',
    text: 'user data for cloud-init in the guest: #cloud-config or a script',
    names: 'file',
  },
  {
    flags: '--ssh-key <file|key>',
    text: 'a public key, or a file with some, for the first user of the guest; may be repeated',
    kind: 'texts',
    names: 'file',
  },
  { flags: '--hostname <name>', text: 'host name that cloud-init gives the guest (its own name)' },
  {
    flags: '--network-config <file>',
    text: 'network configuration for cloud-init instead of the one made from the cards',
    names: 'file',
  },
  { flags: '--vnc', text: 'a graphical display; dvce vm vnc says where' },
  {
    flags: '--cpu-min <cpus>',
    text: 'processors held for it when the host is busy, e.g. 0.5; a start that cannot get them is refused',
  },
  { flags: '--cpu-max <cpus>', text: 'never more than this, e.g. 1.5' },
  {
    flags: '--cpu-weight <number>',
    text: 'share when all want more: 1 to 10000 (100)',
    kind: 'count',
  },
  {
    flags: '--memory-min <size>',
    text: 'memory of the host that is never taken from it; a start that cannot get it is refused',
    kind: 'size',
  },
  {
    flags: '--memory-max <size>',
    text: 'memory that it and its hypervisor never exceed',
    kind: 'size',
  },
  { flags: '--io-max <size>', text: 'bytes per second of all its disks, e.g. 50MiB', kind: 'size' },
  { flags: '--iops-max <count>', text: 'requests per second of all its disks', kind: 'count' },
];
