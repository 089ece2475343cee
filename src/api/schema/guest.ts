/**
 * What a VM has beside processors, memory and disks: network cards, what it is told at its first start, a display, and its
 * share of the host. Spread into the schemas of VMs (vm.ts).
 */
import Type, { type Static } from 'typebox';
import { limits } from '../../base/limits.ts';
import { closed, nameText, nullable, sizeBytes, word } from './common.ts';

/** Of an interface of Linux: 15 characters. */
export const bridgeText = Type.String({
  pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$',
  description: 'A bridge of the host, e.g. br0.',
});

/** A card as it is asked for. */
export const NicRequest = Type.Object(
  {
    kind: word(
      ['user', 'bridge', 'network'],
      '`user`: outgoing by NAT; `bridge`: a port of that bridge; `network`: a port of the bridge of that network, with an address of its range.',
    ),
    bridge: Type.Optional(bridgeText),
    network: Type.Optional(nameText('Name of the network.')),
    address: Type.Optional(
      Type.String({ maxLength: 15, description: 'This address of the network; else a free one.' }),
    ),
  },
  closed,
);
export type NicRequest = Static<typeof NicRequest>;

/** A card as it is. */
const Nic = Type.Object({
  name: Type.String({ description: 'card0, card1, ... in the order given.' }),
  mac: Type.String(),
  kind: word(['user', 'bridge'], '`user`: outgoing by NAT; `bridge`: a port of a bridge.'),
  bridge: nullable(Type.String(), { description: 'The bridge, or null.' }),
  network: nullable(Type.String(), { description: 'The network it belongs to, or null.' }),
  address: nullable(Type.String(), { description: 'Its address from that network, or null.' }),
});
export type Nic = Static<typeof Nic>;

const text = (description: string) =>
  Type.String({ minLength: 1, maxLength: limits.cloudInitBytesMax, description });

/** What cloud-init in the guest is given on a disk with the label `cidata` (NoCloud). */
const CloudInitRequest = Type.Object(
  {
    hostname: Type.Optional(
      Type.String({ minLength: 1, maxLength: 253, description: 'The name of the VM when absent.' }),
    ),
    sshKeys: Type.Optional(
      Type.Array(Type.String({ minLength: 1, maxLength: limits.sshKeyBytesMax }), {
        maxItems: limits.sshKeysMax,
        description: 'Public keys for the first user of the guest.',
      }),
    ),
    userData: Type.Optional(
      text('User data as it is: #cloud-config, a script, ...; never shown again.'),
    ),
    networkConfig: Type.Optional(
      text('Network configuration of cloud-init instead of the one made from the cards.'),
    ),
  },
  closed,
);
export type CloudInitRequest = Static<typeof CloudInitRequest>;

/** What is told of it again: of user data, which may hold secrets, only that it is there. */
const CloudInit = Type.Object({
  instanceId: Type.String({ description: 'A new one makes cloud-init run again.' }),
  hostname: Type.String(),
  sshKeys: Type.Array(Type.String()),
  userDataBytes: sizeBytes('Length of the user data; its content is never shown.'),
  networkConfig: word(
    ['given', 'made'],
    '`given` with the VM, or `made` from the cards at each start.',
  ),
});

const percentOfCpu = (description: string) =>
  Type.Integer({ minimum: 1, maximum: limits.vmCpusMax * 100, description });
const percentText = 'Hundredths of one processor of the host: 150 is one and a half.';

/** Its share of the host. What is not given is not limited, and nothing is held for it. */
export const VmResources = Type.Object(
  {
    cpuMinPercent: Type.Optional(percentOfCpu(`Held for it when the host is busy. ${percentText}`)),
    cpuMaxPercent: Type.Optional(percentOfCpu(`It never gets more. ${percentText}`)),
    cpuWeight: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: 10_000,
        description: 'Share among those who want more than there is; 100 is usual.',
      }),
    ),
    memoryMinBytes: Type.Optional(sizeBytes('Memory of the host that is never taken from it.')),
    memoryMaxBytes: Type.Optional(
      sizeBytes('Memory of the host that its process never exceeds; more than memoryBytes.'),
    ),
    ioMaxBytesPerSecond: Type.Optional(
      Type.Integer({
        minimum: limits.vmIoBytesPerSecondMin,
        maximum: Number.MAX_SAFE_INTEGER,
        description: 'Reads and writes of all its disks together.',
      }),
    ),
    ioMaxRequestsPerSecond: Type.Optional(
      Type.Integer({ minimum: 10, maximum: 10_000_000, description: 'The same in requests.' }),
    ),
  },
  closed,
);
export type VmResources = Static<typeof VmResources>;

export const guestView = {
  nics: Type.Array(Nic),
  cloudInit: nullable(CloudInit, { description: 'What cloud-init in the guest is told, or null.' }),
  vnc: Type.Boolean({ description: 'Whether it has a graphical display.' }),
  resources: VmResources,
};

export const guestRequest = {
  nics: Type.Optional(
    Type.Array(NicRequest, {
      maxItems: limits.vmNicsMax,
      description: 'Network cards; one of kind `user` when not given.',
    }),
  ),
  cloudInit: Type.Optional(CloudInitRequest),
  vnc: Type.Optional(
    Type.Boolean({ description: 'A graphical display, by VNC on the loopback address.' }),
  ),
  resources: Type.Optional(VmResources),
};

/** How to reach the display of a running VM. */
export const VmVnc = Type.Object(
  {
    host: Type.String(),
    port: Type.Integer(),
    password: Type.String({ description: 'Of this run; the next start makes another.' }),
  },
  { $id: 'VmVnc', description: 'The graphical display of a running VM.' },
);
export type VmVnc = Static<typeof VmVnc>;
