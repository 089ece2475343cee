/** What cloud-init is told, and what it is not asked to swallow. */
import t from 'tap';
import type { GuestFields } from '../../src/agent/vm-guest-fields.ts';
import { guestViewOf } from '../../src/agent/vm-guest-view.ts';
import { checkCloudInit, hostnameOf, seedOf } from '../../src/agent/vm-seed.ts';
import { limits } from '../../src/base/index.ts';

const document: GuestFields = {
  id: '6f1c2b1e-52c3-4b6e-9a5d-0d2a4c8b7e10',
  name: 'web_1',
  nics: [
    { name: 'card0', mac: '52:54:00:00:00:01', kind: 'user' },
    {
      name: 'card1',
      mac: '52:54:00:00:00:02',
      kind: 'bridge',
      bridge: 'br0',
      network: 'lan',
      address: '10.0.0.5',
      prefix: 24,
      gateway: '10.0.0.1',
      nameservers: ['10.0.0.1'],
    },
  ],
};
const key =
  'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGuVZ1h2wJmJxW2J8m8FqXfR2i0vJ2d3i5Uo1m3gYy2b someone@example';

t.test(
  'a guest with an address, or with something to be told, has a seed; others have none',
  async (t) => {
    const seed = seedOf(document);
    t.strictSame(JSON.parse(seed?.metaData ?? ''), {
      'instance-id': `dvce-${document.id}`,
      'local-hostname': 'web-1',
    });
    t.match(seed?.userData, /^#cloud-config\n/);
    t.strictSame(JSON.parse(seed?.networkConfig ?? ''), {
      version: 2,
      ethernets: {
        eth0: { match: { macaddress: '52:54:00:00:00:01' }, 'set-name': 'eth0', dhcp4: true },
        eth1: {
          match: { macaddress: '52:54:00:00:00:02' },
          'set-name': 'eth1',
          dhcp4: false,
          addresses: ['10.0.0.5/24'],
          gateway4: '10.0.0.1',
          nameservers: { addresses: ['10.0.0.1'] },
        },
      },
    });
    const [, addressed] = document.nics ?? [];
    if (addressed === undefined) throw new Error('the document has two cards');
    const unnamed = seedOf({ ...document, nics: [{ ...addressed, nameservers: [] }] });
    t.notMatch(unnamed?.networkConfig, 'nameservers', 'an empty list is left out');
    t.equal(seedOf({ ...document, nics: [] }), undefined);
    const given = seedOf({
      ...document,
      nics: [],
      cloudInit: {
        hostname: 'h',
        sshKeys: [key],
        userData: '#!/bin/sh\n',
        networkConfig: 'x: 1\n',
      },
    });
    t.match(JSON.parse(given?.metaData ?? ''), { 'local-hostname': 'h', 'public-keys': [key] });
    t.equal(given?.userData, '#!/bin/sh\n');
    t.equal(given?.networkConfig, 'x: 1\n');
  },
);

t.test('a clone is another instance, a restart the same', async (t) => {
  const id = (one: GuestFields): unknown => JSON.parse(seedOf(one)?.metaData ?? '')['instance-id'];
  t.equal(id(document), id({ ...document, name: 'renamed' }));
  t.not(id(document), id({ ...document, id: '6f1c2b1e-52c3-4b6e-9a5d-0d2a4c8b7e11' }));
});

t.test('user data is never shown again', async (t) => {
  const view = guestViewOf({
    ...document,
    cloudInit: { userData: '#cloud-config\npassword: hush\n' },
  });
  t.notMatch(JSON.stringify(view), /hush/);
  t.equal(view.cloudInit?.userDataBytes, 29);
});

t.test('names of hosts', async (t) => {
  t.equal(hostnameOf({ ...document, name: 'a.b-' }), 'a.b');
  t.equal(hostnameOf({ ...document, name: '___' }), '---'.replace(/-+$/, '') || 'guest');
  for (const hostname of ['a', 'web1.example.org', 'A-1']) checkCloudInit({ hostname });
  for (const hostname of ['-a', 'a-', 'a..b', 'a_b', 'a b', 'a\n', '.', 'a'.repeat(64)])
    t.throws(
      () => checkCloudInit({ hostname }),
      { code: 'INVALID_ARGUMENT' },
      JSON.stringify(hostname),
    );
});

t.test('keys, user data: refused here rather than ignored in the guest', async (t) => {
  checkCloudInit({ sshKeys: [key] });
  for (const bad of [
    'ssh-ed25519',
    'ssh-ed25519 AAAA',
    key.replace('ssh-ed25519', 'ssh-rsa'),
    `${key}\ncommand="x" ${key}`,
    '-----BEGIN OPENSSH PRIVATE KEY-----',
    `${key}\u0007`,
  ])
    t.throws(
      () => checkCloudInit({ sshKeys: [bad] }),
      { code: 'INVALID_ARGUMENT' },
      bad.slice(0, 30),
    );
  for (const userData of ['#cloud-config\n{}', '#!/bin/sh\n', 'Content-Type: multipart/mixed\n\n'])
    checkCloudInit({ userData });
  for (const userData of ['password: hush', '  \n', '#cloud-config\0hush'])
    t.throws(
      () => checkCloudInit({ userData }),
      { code: 'INVALID_ARGUMENT', message: /^((?!hush).)*$/ },
      'the message does not repeat it',
    );
  t.throws(() => checkCloudInit({ userData: `#${'é'.repeat(limits.cloudInitBytesMax / 2)}` }), {
    code: 'TOO_LARGE',
  });
});
