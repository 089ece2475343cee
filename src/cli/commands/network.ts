/** `dvce network ...` */
import type { NetworkCreate } from '../../api/index.ts';
import { confirm, unlessExists, unlessMissing } from '../confirm.ts';
import { labels, orDash, time } from '../format.ts';
import { usageError } from '../output.ts';
import type { Given, Run } from '../spec.ts';

/** `FIRST-LAST`. */
function rangeOf(text: string | undefined): { first?: string; last?: string } {
  if (text === undefined) return {};
  const [first = '', last = '', ...rest] = text.split('-').map((part) => part.trim());
  if (first === '' || last === '' || rest.length > 0)
    throw usageError(
      `the range ${JSON.stringify(text)}`,
      'it is not FIRST-LAST',
      'For example 10.0.0.100-10.0.0.200.',
    );
  return { first, last };
}

function request(given: Given): NetworkCreate {
  const gateway = given.text('gateway');
  const marks = given.labels('label');
  const nameservers = [...given.texts('nameserver')];
  return {
    name: given.argument('name'),
    bridge: given.text('bridge') ?? '',
    subnet: given.text('subnet') ?? '',
    ...rangeOf(given.text('range')),
    ...(gateway === undefined ? {} : { gateway }),
    ...(nameservers.length === 0 ? {} : { nameservers }),
    ...(marks === undefined ? {} : { labels: { ...marks } }),
  };
}

export const create: Run = async (context, given) => {
  const { api, output } = context;
  const body = request(given);
  const network = await unlessExists(
    context,
    given,
    () => api.networks.create(body),
    () => api.networks.get(body.name),
  );
  output.changed(
    network,
    network.name,
    `Network ${network.name} on ${network.bridge}: ${network.addresses} addresses from ${network.first} to ${network.last}.`,
  );
};

export const list: Run = async ({ api, output }) => {
  await output.list(await api.networks.list(), ({ name }) => name, [
    { title: 'name', value: ({ name }) => name },
    { title: 'bridge', value: ({ bridge }) => bridge },
    { title: 'subnet', value: ({ subnet }) => subnet },
    { title: 'leased', value: (one) => `${one.leases.length} of ${one.addresses}`, right: true },
    { title: 'labels', value: (one) => labels(one.labels) },
  ]);
};

export const show: Run = async ({ api, output }, given) => {
  const network = await api.networks.get(given.argument('name'));
  output.show(network, [
    ['name', network.name],
    ['bridge', network.bridge],
    ['subnet', network.subnet],
    ['range', `${network.first} to ${network.last}`],
    ['gateway', orDash(network.gateway)],
    ['name servers', orDash(network.nameservers.join(', '))],
    ['leased', `${network.leases.length} of ${network.addresses}`],
    ...network.leases.map(({ address, vm, card, mac }): readonly [string, string] => [
      address,
      `${vm} ${card}, ${mac}`,
    ]),
    ['labels', labels(network.labels)],
    ['created', time(network.createdAt)],
  ]);
};

export const remove: Run = async (context, given) => {
  const { api, output } = context;
  const name = given.argument('name');
  await unlessMissing(context, given, async () => {
    await confirm(context, given, `deleting network ${name}`, name);
    await api.networks.delete(name);
    output.note(`Network ${name} deleted.`);
  });
};
