/** Networks: a bridge of the host with addresses to lease to VMs. */
import Type, { type Static } from 'typebox';
import { closed, labels, nameText, nullable, ref, timestamp } from './common.ts';
import { bridgeText } from './guest.ts';

const address = (description: string) =>
  Type.String({ pattern: '^[0-9]{1,3}([.][0-9]{1,3}){3}$', description });

export const Network = Type.Object(
  {
    name: Type.String(),
    bridge: bridgeText,
    subnet: Type.String({ description: 'For example 10.0.0.0/24.' }),
    first: Type.String({ description: 'First address of the range that is leased from.' }),
    last: Type.String({ description: 'Last address of the range.' }),
    gateway: nullable(Type.String(), { description: 'Default route of its VMs, or null.' }),
    nameservers: Type.Array(Type.String()),
    addresses: Type.Integer({ description: 'Addresses that the range can lease.' }),
    leases: Type.Array(
      Type.Object({
        address: Type.String(),
        vm: Type.String(),
        card: Type.String(),
        mac: Type.String(),
      }),
      { description: 'Addresses in use, in order. A lease lasts as long as its VM has the card.' },
    ),
    labels,
    createdAt: timestamp('When it was made.'),
  },
  { $id: 'Network', description: 'A bridge of the host with addresses to lease to VMs.' },
);
export type Network = Static<typeof Network>;

export const NetworkList = Type.Object(
  { networks: Type.Array(ref(Network)) },
  { $id: 'NetworkList' },
);

export const NetworkCreate = Type.Object(
  {
    name: nameText('Name of the network.'),
    bridge: bridgeText,
    subnet: Type.String({ maxLength: 18, description: 'IPv4, e.g. 10.0.0.0/24.' }),
    first: Type.Optional(address('First address to lease; the first of the subnet when absent.')),
    last: Type.Optional(address('Last address to lease; the last of the subnet when absent.')),
    gateway: Type.Optional(address('Default route of its VMs; never leased.')),
    nameservers: Type.Optional(Type.Array(address('A name server.'), { maxItems: 3 })),
    labels: Type.Optional(labels),
  },
  closed,
);
export type NetworkCreate = Static<typeof NetworkCreate>;
