/**
 * Cards for new VMs: a MAC address that no other VM has, and an address of its network that nobody on the bridge has.
 *
 * Invariants
 * - the documents of the VMs are the only record: what none of them names is free, so a crash leaks nothing;
 * - between the choice and the document that names it a choice is held in memory, so that two VMs made at once differ. The
 *   agent is the only process that makes VMs (it holds the lock of the data directory);
 * - N7: while the document of a VM cannot be read, no address is leased, since that VM may have it.
 */
import type { NicRequest } from '../api/index.ts';
import { DvceError, limits } from '../base/index.ts';
import { addressIn, formatAddress, parseAddress, parseSubnet } from './ipv4.ts';
import { type Leases, type NetworkDocument, type Networks, refuseUnreadable } from './networks.ts';
import { macOf, type NicDocument, nicsOf } from './vm-guest-fields.ts';

export interface NicsOptions {
  readonly leases: () => Promise<Leases>;
  readonly networks: Pick<Networks, 'document' | 'gatewaysOn'>;
}

/** Cards that belong to nobody else until `release`; call it when the document is stored, or given up. */
export interface NicClaim {
  readonly nics: NicDocument[];
  release(): void;
}

const macTries = 1000;
const macKey = (mac: string): string => `mac ${mac}`;
const addressKey = (bridge: string, address: string): string => `address ${bridge} ${address}`;

/** What a card has that no other may have, and the network that must stay while it is held. */
function keysOf({ mac, bridge, address, network }: NicDocument): string[] {
  return [
    macKey(mac),
    ...(bridge === undefined || address === undefined ? [] : [addressKey(bridge, address)]),
    ...(network === undefined ? [] : [`network ${network} ${mac}`]),
  ];
}

export class Nics {
  readonly #options: NicsOptions;
  readonly #held = new Set<string>();
  /** Claims run one after another. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: NicsOptions) {
    this.#options = options;
  }

  /**
   * Cards for a VM that is about to be made, cloned, or given more.
   * @param firstCard number of the first of them: 0 for a new VM
   */
  claim(vmId: string, wanted: readonly NicRequest[], firstCard = 0): Promise<NicClaim> {
    return this.#inTurn(() => this.#claim(vmId, wanted, firstCard));
  }

  /**
   * Cards that a VM had once, MAC and address included.
   * @throws IN_USE when another VM has one of the two now, NOT_FOUND when a network of theirs is gone
   */
  reclaim(vmId: string, nics: readonly NicDocument[]): Promise<NicClaim> {
    return this.#inTurn(() => this.#reclaim(vmId, nics));
  }

  async #reclaim(vmId: string, nics: readonly NicDocument[]): Promise<NicClaim> {
    const { documents, unreadable } = await this.#options.leases();
    if (nics.some(({ address }) => address !== undefined))
      refuseUnreadable('leasing an address', unreadable);
    for (const { network } of nics)
      if (network !== undefined) await this.#options.networks.document(network);
    const others = documents.filter(({ id }) => id !== vmId);
    for (const nic of nics) this.#refuseTaken(nic, others);
    const mine = nics.flatMap(keysOf);
    for (const key of mine) this.#held.add(key);
    return { nics: [...nics], release: () => mine.forEach((key) => void this.#held.delete(key)) };
  }

  #refuseTaken(nic: NicDocument, others: Leases['documents']): void {
    const keys = keysOf(nic);
    const owner = others.find((other) =>
      nicsOf(other).some((card) => keysOf(card).some((key) => keys.includes(key))),
    );
    if (owner === undefined && !keys.some((key) => this.#held.has(key))) return;
    throw new DvceError('IN_USE', {
      kind: 'address',
      name: nic.address ?? nic.mac,
      reason: owner === undefined ? 'a VM that is being made has it' : `VM ${owner.name} has it`,
      advice: 'Take it from there: dvce vm detach-nic',
    });
  }

  /** Runs while nobody claims; the task is told the networks that are held. */
  betweenClaims<T>(task: (held: ReadonlySet<string>) => Promise<T>): Promise<T> {
    return this.#inTurn(() => {
      const held = [...this.#held].filter((key) => key.startsWith('network '));
      return task(new Set(held.map((key) => key.split(' ')[1] ?? '')));
    });
  }

  #inTurn<T>(task: () => Promise<T>): Promise<T> {
    const mine = this.#turn.then(task);
    this.#turn = mine.catch(() => {}); // the caller has it
    return mine;
  }

  async #claim(vmId: string, wanted: readonly NicRequest[], firstCard: number): Promise<NicClaim> {
    if (firstCard + wanted.length > limits.vmNicsMax)
      throw new DvceError('TOO_LARGE', {
        what: 'the list of cards',
        reason: `a VM has at most ${limits.vmNicsMax}`,
        advice: 'Use fewer.',
      });
    // A claim that is released while the documents are read may be in neither of the two.
    const taken = new Set(this.#held);
    const leases = await this.#options.leases();
    for (const nic of leases.documents.flatMap(nicsOf))
      for (const key of keysOf(nic)) taken.add(key);
    const mine: string[] = [];
    const nics: NicDocument[] = [];
    for (const [index, request] of wanted.entries()) {
      const name = `card${firstCard + index}`;
      const nic = await this.#card(request, name, freeMac(vmId, name, taken), leases, taken);
      nics.push(nic);
      mine.push(...keysOf(nic));
      for (const key of mine) taken.add(key);
    }
    for (const key of mine) this.#held.add(key);
    return { nics, release: () => mine.forEach((key) => void this.#held.delete(key)) };
  }

  async #card(
    request: NicRequest,
    name: string,
    mac: string,
    { unreadable }: Leases,
    taken: ReadonlySet<string>,
  ): Promise<NicDocument> {
    checkRequest(request, name);
    const { kind, bridge, network } = request;
    if (kind === 'user') return { name, mac, kind };
    if (kind === 'bridge') return { name, mac, kind, ...(bridge === undefined ? {} : { bridge }) };
    refuseUnreadable('leasing an address', unreadable);
    const document = await this.#options.networks.document(network ?? '');
    const gateways = await this.#options.networks.gatewaysOn(document.bridge);
    const { prefix, gateway, nameservers } = document;
    return {
      name,
      mac,
      kind: 'bridge',
      bridge: document.bridge,
      network: document.name,
      address: chooseAddress(document, request.address, new Set(gateways), taken),
      prefix,
      ...(gateway === undefined ? {} : { gateway }),
      nameservers,
    };
  }
}

function freeMac(vmId: string, name: string, taken: ReadonlySet<string>): string {
  for (let attempt = 0; attempt < macTries; attempt += 1) {
    // The first card of a VM has had this address since release 0.1.0.
    const isFirst = attempt === 0 && name === 'card0';
    const mac = macOf(isFirst ? vmId : `${vmId}/${name}/${attempt}`);
    if (!taken.has(macKey(mac))) return mac;
  }
  throw new DvceError('POOL_EXHAUSTED', {
    what: 'the pool of MAC addresses',
    reason: `${macTries} tries found only addresses in use`,
    advice: 'Delete VMs that are not needed.',
  });
}

/** The fields of a request that belong to its kind, and no others. */
function checkRequest(request: NicRequest, name: string): void {
  const needs = { user: [], bridge: ['bridge'], network: ['network'] } as const;
  const takes = { user: [], bridge: ['bridge'], network: ['network', 'address'] } as const;
  const given = Object.entries(request)
    .filter(([field, value]) => field !== 'kind' && value !== undefined)
    .map(([field]) => field);
  const { kind } = request;
  const missing = needs[kind].find((field) => !given.includes(field));
  const foreign = given.find((field) => !(takes[kind] as readonly string[]).includes(field));
  if (missing === undefined && foreign === undefined) return;
  throw new DvceError('INVALID_ARGUMENT', {
    what: `the card ${name}`,
    reason:
      missing === undefined
        ? `one of kind ${kind} takes no ${foreign}`
        : `one of kind ${kind} needs the field ${missing}`,
    advice: 'For example --net bridge=br0, or --net network=lan.',
  });
}

function chooseAddress(
  network: NetworkDocument,
  wanted: string | undefined,
  gateways: ReadonlySet<string>,
  taken: ReadonlySet<string>,
): string {
  const { name, bridge, first, last } = network;
  const isFree = (address: string): boolean =>
    !gateways.has(address) && !taken.has(addressKey(bridge, address));
  if (wanted !== undefined) {
    addressIn(parseSubnet(network.subnet), wanted, 'the address');
    if (isFree(wanted)) return wanted;
    throw new DvceError('IN_USE', {
      kind: 'address',
      name: wanted,
      reason: gateways.has(wanted) ? 'it is that of a gateway' : 'another VM has it',
      advice: `See: dvce network show ${name}`,
    });
  }
  const end = parseAddress(last) ?? 0;
  for (let at = parseAddress(first) ?? 1; at <= end; at += 1) {
    const address = formatAddress(at);
    if (isFree(address)) return address;
  }
  throw new DvceError('POOL_EXHAUSTED', {
    what: `the network ${name}`,
    reason: `all addresses from ${first} to ${last} are leased`,
    advice: `See who has them: dvce network show ${name}`,
  });
}

/** What a card was asked for with, for a clone of its VM: the same place, another MAC and another address. */
export function wantedAgain(nics: readonly NicDocument[]): NicRequest[] {
  return nics.map(({ kind, bridge, network }) => {
    if (network !== undefined) return { kind: 'network', network };
    return bridge === undefined ? { kind } : { kind, bridge };
  });
}
