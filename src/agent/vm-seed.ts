/**
 * What cloud-init in a guest is told (NoCloud): three texts, made from the VM document at each start, for a disk with the
 * label `cidata`. meta-data and network-config are JSON, which is YAML; user data goes through as it was given.
 *
 * The instance id is the VM's own: it stays over restarts, resizes and rollbacks, so that cloud-init runs once, and a clone,
 * which is another VM, has another, so that it runs again.
 */
import type { CloudInitRequest } from '../api/index.ts';
import { DvceError, limits } from '../base/index.ts';
import type { VmSeed } from '../vm/index.ts';
import { type GuestFields, nicsOf } from './vm-guest-fields.ts';

export const instanceIdOf = (document: GuestFields): string => `dvce-${document.id}`;

/** A name of a VM may have characters that a name of a host has not. */
export function hostnameOf({ name, cloudInit }: GuestFields): string {
  if (cloudInit?.hostname !== undefined) return cloudInit.hostname;
  return name.replace(/[^A-Za-z0-9.-]/g, '-').replace(/[.-]+$/, '') || 'guest';
}

/** undefined when the guest needs no seed: nothing was given and no card has an address that it must be told. */
export function seedOf(document: GuestFields): VmSeed | undefined {
  const { cloudInit } = document;
  const isAddressed = nicsOf(document).some(({ address }) => address !== undefined);
  if (cloudInit === undefined && !isAddressed) return undefined;
  return {
    metaData: json({
      'instance-id': instanceIdOf(document),
      'local-hostname': hostnameOf(document),
      ...(cloudInit?.sshKeys === undefined ? {} : { 'public-keys': cloudInit.sshKeys }),
    }),
    userData: cloudInit?.userData ?? '#cloud-config\n{}\n',
    networkConfig: cloudInit?.networkConfig ?? networkConfig(document),
  };
}

/**
 * Version 2: every card by its MAC, with its address from its network, or by DHCP. Cards are named here, because what a guest
 * without netplan writes (Debian: /etc/network/interfaces) goes by names.
 */
function networkConfig(document: GuestFields): string {
  const ethernets = nicsOf(document).map((nic, at) => {
    const { mac, address, prefix, gateway, nameservers = [] } = nic;
    const name = `eth${at}`;
    const card = { match: { macaddress: mac }, 'set-name': name };
    if (address === undefined) return [name, { ...card, dhcp4: true }];
    return [
      name,
      {
        ...card,
        dhcp4: false,
        addresses: [`${address}/${prefix}`],
        // Not `routes`: for those a Debian with ifupdown calls a program that it need not have.
        ...(gateway === undefined ? {} : { gateway4: gateway }),
        // An empty list is an error there, and cloud-init then skips the whole card.
        ...(nameservers.length === 0 ? {} : { nameservers: { addresses: nameservers } }),
      },
    ];
  });
  return json({ version: 2, ethernets: Object.fromEntries(ethernets) });
}

const json = (value: object): string => `${JSON.stringify(value, null, 2)}\n`;

const invalid = (what: string, reason: string, advice: string): DvceError =>
  new DvceError('INVALID_ARGUMENT', { what, reason, advice });

/** @throws INVALID_ARGUMENT; no message repeats user data */
export function checkCloudInit(request: CloudInitRequest): void {
  if (request.hostname !== undefined) checkHostname(request.hostname);
  for (const [at, key] of (request.sshKeys ?? []).entries()) checkSshKey(key, at);
  if (request.userData !== undefined) checkUserData(request.userData);
  if (request.networkConfig !== undefined)
    checkText('the network configuration', request.networkConfig);
}

function checkHostname(text: string): void {
  const isValid = text
    .split('.')
    .every((part) => /^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$/.test(part));
  if (!isValid)
    throw invalid(
      `the host name ${JSON.stringify(text)}`,
      'its parts are letters, digits and "-", at most 63 of them, with no "-" at an end',
      'For example web1.example.org.',
    );
}

const keyTypes = [
  'ssh-(?:rsa|ed25519|dss)',
  'ecdsa-sha2-nistp(?:256|384|521)',
  'sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\\.com',
].join('|');
const keyPattern = new RegExp(`^(${keyTypes}) ([A-Za-z0-9+/]+={0,2})(?: [^\\p{Cc}]*)?$`, 'u');

/** The type in front of a key is said again inside of it. */
function checkSshKey(text: string, at: number): void {
  const what = `ssh key ${at + 1}`;
  if (/PRIVATE KEY/.test(text))
    throw invalid(what, 'it is a private key', 'Give the public one: the file that ends in .pub.');
  const [, type = '', encoded = ''] = keyPattern.exec(text) ?? [];
  const body = Buffer.from(encoded, 'base64');
  const length = body.byteLength < 4 ? 0 : body.readUInt32BE(0);
  if (type === '' || body.subarray(4, 4 + length).toString('latin1') !== type)
    throw invalid(
      what,
      'it is no public key of OpenSSH',
      'A line such as: ssh-ed25519 AAAAC3... name',
    );
}

function checkText(what: string, text: string): void {
  if (Buffer.byteLength(text) > limits.cloudInitBytesMax)
    throw new DvceError('TOO_LARGE', {
      what,
      reason: `at most ${limits.cloudInitBytesMax} bytes`,
      advice: 'Let the guest fetch the rest itself (#include).',
    });
  if (text.includes('\0')) throw invalid(what, 'it is no text', 'Give a text file.');
  if (text.trim() === '') throw invalid(what, 'it is empty', 'Leave it out.');
}

/** cloud-init ignores what starts with none of these, and says so only in a log inside of the guest. */
function checkUserData(text: string): void {
  checkText('the user data', text);
  if (!/^(?:#|Content-Type:|MIME-Version:)/i.test(text))
    throw invalid(
      'the user data',
      'its first line is none that cloud-init knows',
      'Begin it with #cloud-config, #!/bin/sh, #include, or a MIME header.',
    );
}
