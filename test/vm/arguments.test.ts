/** The command line of QEMU: whatever a name contains, it stays a name. */
import t from 'tap';
import { type DvceError, limits, MiB } from '../../src/base/index.ts';
import { buildArguments, controlArgument, guestPaths } from '../../src/vm/arguments.ts';
import type { VmDefinition, VmDisk } from '../../src/vm/index.ts';
import { tapName } from '../../src/vm/taps.ts';

const disk: VmDisk = {
  name: 'disk0',
  socketPath: '/run/v.sock',
  exportName: '/vms/a/disk0?attach=1',
  readOnly: false,
  blockBytes: 512,
  bootOrder: 1,
};
const vm: VmDefinition = {
  id: '6f1c2b1e-52c3-4b6e-9a5d-0d2a4c8b7e10',
  name: 'guest',
  cpus: 2,
  memoryBytes: 256 * MiB,
  machine: 'q35',
  firmware: 'bios',
  nics: [{ name: 'card0', mac: '52:54:00:00:00:01', kind: 'user' }],
  readyPattern: null,
  disks: [disk],
};
const paths = guestPaths('/run/dvce/vm', '/var/log/dvce/vm', vm.id);

const build = (change: Partial<VmDefinition> = {}): string[] =>
  buildArguments({ ...vm, ...change }, 'tcg', paths);

/** Values of an option, in order. */
const values = (args: readonly string[], option: string): string[] =>
  args.flatMap((text, at) => (args[at - 1] === option ? [text] : []));

const objects = (args: readonly string[], option: string): Record<string, unknown>[] =>
  values(args, option).map((text) => JSON.parse(text) as Record<string, unknown>);

t.test(
  'a disk waits for its server and stops the guest rather than show it an error',
  async (t) => {
    const args = build();
    t.match(objects(args, '-blockdev'), [
      {
        driver: 'nbd',
        server: { type: 'unix', path: '/run/v.sock' },
        export: '/vms/a/disk0?attach=1',
        'reconnect-delay': 600,
        discard: 'unmap',
        'detect-zeroes': 'off',
        'read-only': false,
      },
    ]);
    const device = objects(args, '-device').find(({ driver }) => driver === 'virtio-blk-pci');
    t.match(device, { rerror: 'stop', werror: 'stop', logical_block_size: 512, bootindex: 1 });
    t.ok(args.includes('-nodefaults') && args.includes('-no-user-config'));
  },
);

t.test('disks keep their order, a disk without boot order is never tried', async (t) => {
  const second: VmDisk = {
    ...disk,
    name: 'disk1',
    readOnly: true,
    blockBytes: 4096,
    bootOrder: null,
  };
  const args = build({ disks: [disk, second] });
  const devices = objects(args, '-device').filter(({ driver }) => driver === 'virtio-blk-pci');
  t.match(devices, [
    { drive: 'disk0', serial: 'disk0' },
    { drive: 'disk1', serial: 'disk1', logical_block_size: 4096 },
  ]);
  t.notOk('bootindex' in (devices[1] ?? {}));
  t.match(objects(args, '-blockdev'), [{ 'read-only': false }, { 'read-only': true }]);
  t.same(values(args, '-boot'), ['menu=off,strict=on']);
});

t.test('hostile names stay inside of their own value', async (t) => {
  const hostile = 'x,y",file=/etc/passwd\n-device$(id)`;{"driver":"file"}';
  const args = build({
    name: hostile,
    disks: [{ ...disk, exportName: hostile, socketPath: '/t,a=b"' }],
  });
  t.same(args.length, build().length, 'no argument more');
  t.same(values(args, '-name'), [`guest=${hostile.replaceAll(',', ',,')}`]);
  const [block] = objects(args, '-blockdev');
  t.equal(block?.['export'], hostile);
  t.same(block?.['server'], { type: 'unix', path: '/t,a=b"' });
});

t.test('paths with commas are escaped', async (t) => {
  const odd = guestPaths('/run/a,server=off', '/log,b', vm.id);
  const args = buildArguments(vm, 'kvm', odd);
  for (const text of values(args, '-chardev')) t.match(text, 'path=/run/a,,server=off/');
  t.ok(args.some((text) => text.includes(`logfile=/log,,b/${vm.id}/console.log,logappend=on`)));
  t.ok(args.includes(controlArgument(odd)));
});

t.test('cards: NAT by the hypervisor, or a tap device that somebody else has made', async (t) => {
  const mac = '52:54:00:01:02:03';
  const args = build({
    nics: [
      { name: 'card0', mac, kind: 'user' },
      { name: 'card1', mac: '52:54:00:01:02:04', kind: 'bridge', bridge: 'br0' },
    ],
  });
  const cards = objects(args, '-device').filter(({ driver }) => driver === 'virtio-net-pci');
  t.match(cards, [
    { id: 'card0', netdev: 'net-card0', mac },
    { id: 'card1', netdev: 'net-card1', mac: '52:54:00:01:02:04' },
  ]);
  t.strictSame(objects(args, '-netdev'), [
    { type: 'user', id: 'net-card0' },
    {
      type: 'tap',
      id: 'net-card1',
      ifname: tapName(vm.id, 'card1'),
      script: 'no',
      downscript: 'no',
    },
  ]);
  t.match(tapName(vm.id, 'card1'), /^dv[0-9a-f]{12}$/);
  t.not(tapName(vm.id, 'card1'), tapName(vm.id, 'card0'));
  t.same(values(build({ nics: [] }), '-netdev'), []);
});

t.test('what is not possible is refused before anything starts', async (t) => {
  const refused: [string, Partial<VmDefinition>, DvceError['code']][] = [
    ['machine with options', { machine: 'q35,usb=on' }, 'INVALID_ARGUMENT'],
    ['machine microvm', { machine: 'microvm' }, 'INVALID_ARGUMENT'],
    ['uefi', { firmware: 'uefi' }, 'UNSUPPORTED'],
    ['no processor', { cpus: 0 }, 'INVALID_ARGUMENT'],
    ['half a processor', { cpus: 1.5 }, 'INVALID_ARGUMENT'],
    ['too many processors', { cpus: limits.vmCpusMax + 1 }, 'INVALID_ARGUMENT'],
    ['little memory', { memoryBytes: 1 * MiB }, 'INVALID_ARGUMENT'],
    ['odd memory', { memoryBytes: 256 * MiB + 1 }, 'INVALID_ARGUMENT'],
    ['many disks', { disks: Array(limits.vmDisksMax + 1).fill(disk) }, 'INVALID_ARGUMENT'],
    ['zero byte', { name: 'a\0b' }, 'INVALID_ARGUMENT'],
    ['long socket', { disks: [{ ...disk, socketPath: `/${'x'.repeat(107)}` }] }, 'PATH_TOO_LONG'],
  ];
  for (const [what, change, code] of refused) t.throws(() => build(change), { code }, what);
  const far = guestPaths(`/run/${'x'.repeat(80)}`, '/log', vm.id);
  t.throws(() => buildArguments(vm, 'tcg', far), { code: 'PATH_TOO_LONG' });
  t.doesNotThrow(() => build({ machine: 'pc-q35-7.2' }));
});
