/**
 * Networks: a bridge of the host with addresses to lease to VMs; documents in the store.
 *
 * Invariants
 * - a lease is a field of a VM's document (vm-guest-fields.ts) and nothing else: a network does not count its leases, so a
 *   crash can neither leak nor double one;
 * - a network that a VM uses, or is just about to use, is not deleted;
 * - N7: a document that cannot be read is listed with its error, and neither leased from nor deleted.
 */
import Type, { type Static } from 'typebox';
import type { Network, NetworkCreate } from '../api/index.ts';
import { type Clock, checkName, DvceError } from '../base/index.ts';
import type { DataProcess } from './data-process.ts';
import { formatAddress, parseAddress, rangeOf } from './ipv4.ts';
import { StoredDocuments } from './stored-documents.ts';
import { type GuestFields, nicsOf } from './vm-guest-fields.ts';

const NetworkDocument = Type.Object({
  format: Type.Literal(1),
  name: Type.String(),
  bridge: Type.String(),
  prefix: Type.Integer(),
  subnet: Type.String(),
  first: Type.String(),
  last: Type.String(),
  gateway: Type.Optional(Type.String()),
  nameservers: Type.Array(Type.String()),
  labels: Type.Record(Type.String(), Type.String()),
  createdAt: Type.String(),
});
export type NetworkDocument = Static<typeof NetworkDocument>;

/** What the VMs say: who leases what. `unreadable` are the names of VMs whose documents cannot be read. */
export interface Leases {
  readonly documents: readonly GuestFields[];
  readonly unreadable: readonly string[];
}

export interface NetworksOptions {
  readonly blockd: DataProcess;
  readonly clock: Clock;
  readonly leases: () => Promise<Leases>;
  /** Runs a task while nobody claims an address; the task is told the networks that claims still hold. */
  readonly betweenClaims: <T>(task: (held: ReadonlySet<string>) => Promise<T>) => Promise<T>;
}

export class Networks {
  readonly #options: NetworksOptions;
  readonly #documents: StoredDocuments<typeof NetworkDocument>;

  constructor(options: NetworksOptions) {
    this.#options = options;
    const { blockd } = options;
    this.#documents = new StoredDocuments({ blockd, kind: 'networks', schema: NetworkDocument });
  }

  async list(): Promise<Network[]> {
    const leases = await this.#options.leases();
    const entries = await this.#documents.list();
    return entries.flatMap((entry) => ('error' in entry ? [] : [view(entry.value, leases)]));
  }

  /** Networks whose documents cannot be read, and why. */
  async unreadable(): Promise<{ name: string; reason: string }[]> {
    const entries = await this.#documents.list();
    return entries.flatMap((entry) =>
      'error' in entry ? [{ name: entry.name, reason: entry.error.message }] : [],
    );
  }

  async get(name: string): Promise<Network> {
    return view(await this.document(name), await this.#options.leases());
  }

  async document(name: string): Promise<NetworkDocument> {
    return (await this.#entry(name)).value;
  }

  /** All networks on a bridge: addresses are unique on it, whichever network they come from. */
  async gatewaysOn(bridge: string): Promise<string[]> {
    const entries = await this.#documents.list();
    return entries.flatMap((entry) =>
      'value' in entry && entry.value.bridge === bridge && entry.value.gateway !== undefined
        ? [entry.value.gateway]
        : [],
    );
  }

  async create(request: NetworkCreate): Promise<Network> {
    const name = checkName(request.name);
    const { subnet, first, last } = rangeOf(request);
    const document: NetworkDocument = {
      format: 1,
      name,
      bridge: request.bridge,
      subnet: request.subnet,
      prefix: subnet.prefix,
      first: formatAddress(first),
      last: formatAddress(last),
      ...(request.gateway === undefined ? {} : { gateway: request.gateway }),
      nameservers: request.nameservers ?? [],
      labels: request.labels ?? {},
      createdAt: new Date(this.#options.clock.wallMs()).toISOString(),
    };
    if ((await this.#documents.read(name)) !== undefined)
      throw new DvceError('ALREADY_EXISTS', { kind: 'network', name });
    await this.#documents.create(name, document);
    return view(document, await this.#options.leases());
  }

  async delete(name: string): Promise<void> {
    const { betweenClaims, leases } = this.#options;
    await betweenClaims(async (held) => {
      const { version } = await this.#entry(name);
      const { documents, unreadable } = await leases();
      const users = documents.filter((document) =>
        nicsOf(document).some(({ network }) => network === name),
      );
      const names = users.map((user) => user.name);
      if (names.length > 0 || held.has(name))
        throw new DvceError('IN_USE', {
          kind: 'network',
          name,
          reason:
            names.length > 0
              ? `VMs have cards in it: ${names.slice(0, 10).join(', ')}`
              : 'a VM is just being made in it',
          advice: 'Delete those VMs, or their cards, first.',
        });
      refuseUnreadable('deleting a network', unreadable);
      await this.#documents.remove(name, version);
    });
  }

  async #entry(name: string): Promise<{ version: number; value: NetworkDocument }> {
    const entry = await this.#documents.read(checkName(name));
    if (entry === undefined) throw new DvceError('NOT_FOUND', { kind: 'network', name });
    if ('error' in entry) throw entry.error;
    return entry;
  }
}

/** N7: a VM that cannot be read may hold any address. */
export function refuseUnreadable(what: string, unreadable: readonly string[]): void {
  const [name] = unreadable;
  if (name === undefined) return;
  throw new DvceError('NOT_ALLOWED', {
    what,
    reason: `the document of VM ${name} cannot be read, so what it leases is not known`,
    advice: `See: dvce vm show ${name}`,
  });
}

function view(document: NetworkDocument, { documents }: Leases): Network {
  const { name, bridge, subnet, first, last, nameservers, labels, createdAt } = document;
  const leases = documents.flatMap((vm) =>
    nicsOf(vm).flatMap((nic) =>
      nic.network === name && nic.address !== undefined
        ? [{ address: nic.address, vm: vm.name, card: nic.name, mac: nic.mac }]
        : [],
    ),
  );
  const number = (text: string): number => parseAddress(text) ?? 0;
  const { gateway = null } = document;
  const from = number(first);
  const to = number(last);
  const hasGateway = gateway !== null && number(gateway) >= from && number(gateway) <= to;
  return {
    name,
    bridge,
    subnet,
    first,
    last,
    gateway,
    nameservers,
    addresses: to - from + 1 - (hasGateway ? 1 : 0),
    leases: leases.sort((a, b) => number(a.address) - number(b.address)),
    labels,
    createdAt,
  };
}
