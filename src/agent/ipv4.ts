/** IPv4 addresses as numbers, and what an operator writes as a network, checked. */
import type { NetworkCreate } from '../api/index.ts';
import { DvceError } from '../base/index.ts';

export function parseAddress(text: string): number | undefined {
  const parts = text.split('.');
  if (parts.length !== 4) return undefined;
  let value = 0;
  for (const part of parts) {
    // No leading zeros: some programs read them as octal.
    if (!/^(0|[1-9]\d{0,2})$/.test(part) || Number(part) > 255) return undefined;
    value = value * 256 + Number(part);
  }
  return value;
}

export const formatAddress = (value: number): string =>
  [24, 16, 8, 0].map((shift) => Math.floor(value / 2 ** shift) % 256).join('.');

export interface Subnet {
  /** The address of the network itself. */
  readonly base: number;
  readonly prefix: number;
  /** The first and last addresses that a host may have. */
  readonly first: number;
  readonly last: number;
}

const prefixMin = 8;
/** A smaller one has no room for a gateway and a guest. */
const prefixMax = 30;

const invalid = (what: string, reason: string, advice: string): DvceError =>
  new DvceError('INVALID_ARGUMENT', { what, reason, advice });

export function parseSubnet(text: string): Subnet {
  const [address = '', digits = '', ...rest] = text.split('/');
  const base = parseAddress(address);
  const prefix = /^\d{1,2}$/.test(digits) ? Number(digits) : Number.NaN;
  const what = `the subnet ${JSON.stringify(text)}`;
  const example = 'For example 10.0.0.0/24.';
  if (base === undefined || rest.length > 0 || Number.isNaN(prefix))
    throw invalid(what, 'it is not ADDRESS/PREFIX', example);
  if (prefix < prefixMin || prefix > prefixMax)
    throw invalid(what, `its prefix is not between ${prefixMin} and ${prefixMax}`, example);
  const size = 2 ** (32 - prefix);
  const start = base - (base % size);
  if (start !== base)
    throw invalid(
      what,
      'it is an address in the subnet, not the subnet',
      `Give ${formatAddress(start)}/${prefix}.`,
    );
  return { base, prefix, first: base + 1, last: base + size - 2 };
}

/** An address that a host of the subnet may have. */
export function addressIn(subnet: Subnet, text: string, what: string): number {
  const value = parseAddress(text);
  if (value === undefined)
    throw invalid(`${what} ${JSON.stringify(text)}`, 'it is no IPv4 address', 'As in 10.0.0.10.');
  if (value < subnet.first || value > subnet.last)
    throw invalid(
      `${what} ${text}`,
      `no host of ${formatAddress(subnet.base)}/${subnet.prefix} has it`,
      `Give one from ${formatAddress(subnet.first)} to ${formatAddress(subnet.last)}.`,
    );
  return value;
}

/** The range that a network leases from. @throws INVALID_ARGUMENT */
export function rangeOf(request: NetworkCreate): { subnet: Subnet; first: number; last: number } {
  const subnet = parseSubnet(request.subnet);
  const { first, last, gateway, nameservers = [] } = request;
  if (gateway !== undefined) addressIn(subnet, gateway, 'the gateway');
  for (const server of nameservers)
    if (parseAddress(server) === undefined)
      throw invalid(`the name server ${server}`, 'it is no IPv4 address', 'As in 10.0.0.1.');
  const from = first === undefined ? subnet.first : addressIn(subnet, first, 'the first address');
  const to = last === undefined ? subnet.last : addressIn(subnet, last, 'the last address');
  if (from > to)
    throw invalid(
      `the range ${first}-${last}`,
      'it ends before it begins',
      'Give FIRST-LAST, for example 10.0.0.100-10.0.0.200.',
    );
  return { subnet, first: from, last: to };
}
