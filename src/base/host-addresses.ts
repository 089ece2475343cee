/**
 * Hosts that are this one: its loopback and link-local addresses, behind which services listen that trust whoever reaches them.
 * What is not allowed to ask those may not reach them by a name or a redirect either.
 */
import { lookup } from 'node:dns';
import { BlockList, isIP, type LookupFunction } from 'node:net';
import { DvceError } from './errors.ts';

const ours = new BlockList();
ours.addSubnet('0.0.0.0', 8, 'ipv4');
ours.addSubnet('127.0.0.0', 8, 'ipv4');
ours.addSubnet('169.254.0.0', 16, 'ipv4');
ours.addAddress('::', 'ipv6');
ours.addAddress('::1', 'ipv6');
ours.addSubnet('fe80::', 10, 'ipv6');

/** @param address also an IPv4 address within an IPv6 one */
export const isAddressOfThisHost = (address: string): boolean =>
  ours.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4');

/** @param host as an address of the web names it: a name, an IPv4 address in any notation, an IPv6 address in brackets */
export function isHostThis(host: string): boolean {
  let name: string;
  try {
    // All of 127.1, 0x7f.1 and 2130706433 become 127.0.0.1 (URL Standard, section 3.5).
    name = new URL(`http://${host}/`).hostname.replace(/^\[(.*)\]$/, '$1').replace(/\.$/, '');
  } catch {
    return true; // nobody knows what a resolver would make of it
  }
  return isIP(name) === 0 ? /(^|\.)localhost$/.test(name) : isAddressOfThisHost(name);
}

export const leadsHere = (host: string): DvceError =>
  new DvceError('DOWNLOAD_FAILED', {
    what: host,
    reason: 'it leads back to this host, which it did not say',
    advice: 'Give the address of this host itself; only an admin may.',
  });

/** Like `dns.lookup`, and an error where a name leads to this host. */
export const lookupElsewhere: LookupFunction = (name, options, callback) => {
  lookup(name, { ...options, all: true }, (error, found) => {
    if (error !== null) return callback(error, '');
    const [first] = found;
    if (first === undefined || found.some(({ address }) => isAddressOfThisHost(address)))
      return callback(leadsHere(name), '');
    if (options.all === true) callback(null, found);
    else callback(null, first.address, first.family);
  });
};
