/** What a VM has beside processors, memory and disks: network cards. Spread into the schemas of VMs (vm.ts). */
import Type, { type Static } from 'typebox';
import { limits } from '../../base/limits.ts';
import { closed, nameText, nullable, word } from './common.ts';

/** Of an interface of Linux: 15 characters. */
export const bridgeText = Type.String({
  pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$',
  description: 'A bridge of the host, e.g. br0.',
});

/** A card as it is asked for. */
const NicRequest = Type.Object(
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

export const guestView = {
  nics: Type.Array(Nic),
};

export const guestRequest = {
  nics: Type.Optional(
    Type.Array(NicRequest, {
      maxItems: limits.vmNicsMax,
      description: 'Network cards; one of kind `user` when not given.',
    }),
  ),
};
