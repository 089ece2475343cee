import type { NounSpec } from '../spec.ts';
import * as option from './options.ts';

const name = { name: '<name>', text: 'name of the network', names: '/v1/networks' } as const;
const load = () => import('../commands/network.ts');

export const network: NounSpec = {
  name: 'network',
  summary: 'bridges of the host with addresses for VMs',
  commands: [
    {
      name: 'create',
      summary: 'define a network',
      details:
        'A VM made with --net network=NAME gets a card on the bridge and an address of the range, which cloud-init in the guest is told. The bridge is made by the operator.',
      arguments: [{ name: '<name>', text: 'name of the new network' }],
      options: [
        { flags: '--bridge <name>', text: 'bridge of the host', required: true },
        { flags: '--subnet <address/prefix>', text: 'its IPv4 subnet', required: true },
        { flags: '--range <first-last>', text: 'addresses to lease (the whole subnet)' },
        { flags: '--gateway <address>', text: 'default route of its VMs; never leased' },
        { flags: '--nameserver <address>', text: 'a name server; may be repeated', kind: 'texts' },
        option.label,
        option.ifNotExists,
      ],
      examples: [
        'dvce network create lan --bridge br0 --subnet 10.0.0.0/24 --gateway 10.0.0.1 --range 10.0.0.100-10.0.0.200',
        'dvce network create lab --bridge br1 --subnet 192.168.7.0/28 --nameserver 192.168.7.1',
        'dvce network create lan --bridge br0 --subnet 10.0.0.0/24 --if-not-exists',
      ],
      run: async () => (await load()).create,
    },
    {
      name: 'list',
      summary: 'list networks',
      examples: ['dvce network list', 'dvce network list -o json', 'dvce network list -o name'],
      run: async () => (await load()).list,
    },
    {
      name: 'show',
      summary: 'show one network and its leases',
      arguments: [name],
      examples: ['dvce network show lan', 'dvce network show lan -o json', 'dvce network show lab'],
      run: async () => (await load()).show,
    },
    {
      name: 'delete',
      summary: 'delete a network',
      details: 'Refused while a VM has a card in it. The bridge stays.',
      arguments: [name],
      options: [option.ifExists, option.yes],
      examples: [
        'dvce network delete lab --yes',
        'dvce network delete lan --yes --if-exists',
        'dvce network delete lan --yes --if-exists --quiet',
      ],
      run: async () => (await load()).remove,
    },
  ],
};
