/** Cards: no two VMs have the same MAC address, whatever happens at the same time. */
import t from 'tap';
import type { NetworkDocument } from '../../src/agent/networks.ts';
import { type GuestFields, macOf, nicsOf } from '../../src/agent/vm-guest-fields.ts';
import { Nics, wantedAgain } from '../../src/agent/vm-nics.ts';

const id = (number: number): string =>
  `00000000-0000-4000-8000-${number.toString(16).padStart(12, '0')}`;

t.test('a document without cards is one of release 0.1.0', async (t) => {
  const card = { name: 'card0', mac: macOf(id(1)), kind: 'user' as const };
  t.strictSame(nicsOf({ id: id(1), name: 'a', network: 'user' }), [card]);
  t.strictSame(nicsOf({ id: id(1), name: 'a', network: 'none' }), []);
  t.strictSame(
    nicsOf({ id: id(1), name: 'a', network: 'user', nics: [] }),
    [],
    'the newer field counts',
  );
  t.equal(macOf('6f1c2b1e-52c3-4b6e-9a5d-0d2a4c8b7e10'), '52:54:00:b7:82:93');
});

const lan: NetworkDocument = {
  format: 1,
  name: 'lan',
  bridge: 'br0',
  subnet: '10.0.0.0/24',
  prefix: 24,
  first: '10.0.0.1',
  last: '10.0.0.4',
  gateway: '10.0.0.2',
  nameservers: ['10.0.0.2'],
  labels: {},
  createdAt: '2026-01-01T00:00:00.000Z',
};

/** A pool over documents that a test changes. */
function pool(options: { before?: () => Promise<void>; unreadable?: string[] } = {}): {
  documents: GuestFields[];
  nics: Nics;
} {
  const documents: GuestFields[] = [];
  const nics = new Nics({
    leases: async () => {
      const seen = [...documents];
      await options.before?.();
      return { documents: seen, unreadable: options.unreadable ?? [] };
    },
    networks: { document: async () => lan, gatewaysOn: async () => ['10.0.0.2'] },
  });
  return { documents, nics };
}

t.test('a MAC address is of the VM, locally administered, and of nobody else', async (t) => {
  const { documents, nics } = pool();
  const first = await nics.claim(id(1), [{ kind: 'user' }, { kind: 'bridge', bridge: 'br0' }]);
  const macs = first.nics.map(({ mac }) => mac);
  t.equal(new Set(macs).size, 2);
  for (const mac of macs) t.equal(Number.parseInt(mac.slice(0, 2), 16) & 3, 2);
  t.strictSame(
    (await pool().nics.claim(id(1), [{ kind: 'user' }])).nics,
    [first.nics[0]],
    'it follows from the VM',
  );
  // A VM that has the address which this one would get.
  documents.push({
    id: id(7),
    name: 'g',
    nics: [{ name: 'card0', mac: macOf(id(2)), kind: 'user' }],
  });
  const second = await nics.claim(id(2), [{ kind: 'user' }]);
  t.not(second.nics[0]?.mac, macOf(id(2)));
});

const wanted = [{ kind: 'network', network: 'lan' }] as const;

t.test('a claim that is released while another reads the documents is still seen', async (t) => {
  const begun = Promise.withResolvers<void>();
  const reading = Promise.withResolvers<void>();
  let reads = 0;
  const { documents, nics } = pool({
    before: async () => {
      reads += 1;
      if (reads < 2) return;
      begun.resolve();
      await reading.promise;
    },
  });
  const first = await nics.claim(id(1), wanted);
  const second = nics.claim(id(1), wanted);
  await begun.promise;
  // The second one has read the documents, and the first one's is stored only now.
  documents.push({ id: id(1), name: 'a', nics: first.nics });
  first.release();
  reading.resolve();
  const [a] = first.nics;
  const [b] = (await second).nics;
  t.not(b?.mac, a?.mac);
  t.strictSame([a?.address, b?.address], ['10.0.0.1', '10.0.0.3'], 'the gateway is left out');
});

t.test('of two claims at once the second sees the first', async (t) => {
  const { nics } = pool({ before: () => new Promise((wake) => setImmediate(wake)) });
  const claims = await Promise.all([nics.claim(id(1), wanted), nics.claim(id(1), wanted)]);
  const [a, b] = claims.map((claim) => claim.nics[0]);
  t.not(b?.mac, a?.mac);
  t.not(b?.address, a?.address);
});

t.test(
  'addresses: in order, as asked for, none twice on a bridge, none when all are gone',
  async (t) => {
    const { documents, nics } = pool();
    const take = async (address?: string): Promise<string | undefined> => {
      const claim = await nics.claim(id(documents.length + 1), [
        { kind: 'network', network: 'lan', ...(address === undefined ? {} : { address }) },
      ]);
      documents.push({
        id: id(documents.length + 1),
        name: `vm${documents.length}`,
        nics: claim.nics,
      });
      claim.release();
      return claim.nics[0]?.address;
    };
    t.equal(await take('10.0.0.3'), '10.0.0.3');
    t.equal(await take(), '10.0.0.1');
    t.equal(await take('10.0.0.77'), '10.0.0.77', 'outside of the range, inside of the subnet');
    await t.rejects(take('10.0.0.3'), { code: 'IN_USE' });
    await t.rejects(take('10.0.0.2'), { code: 'IN_USE' }, 'the gateway');
    for (const bad of ['10.0.0.0', '10.0.0.255', '10.0.1.1', '10.0.0', '10.0.0.01', 'x', ''])
      await t.rejects(take(bad), { code: 'INVALID_ARGUMENT' }, JSON.stringify(bad));
    t.equal(await take(), '10.0.0.4');
    await t.rejects(take(), { code: 'POOL_EXHAUSTED' });
    documents.shift();
    t.equal(await take(), '10.0.0.3', 'what no document names is free');
  },
);

t.test('N7 no address is leased while a VM cannot be read, which may have it', async (t) => {
  const { nics } = pool({ unreadable: ['lost'] });
  await t.rejects(nics.claim(id(1), [{ kind: 'network', network: 'lan' }]), {
    code: 'NOT_ALLOWED',
    message: /lost/,
  });
  t.equal((await nics.claim(id(1), [{ kind: 'user' }])).nics.length, 1);
});

t.test('a card takes the fields of its kind only', async (t) => {
  const { nics } = pool();
  for (const card of [
    { kind: 'bridge' },
    { kind: 'network' },
    { kind: 'user', bridge: 'br0' },
    { kind: 'bridge', bridge: 'br0', address: '10.0.0.3' },
  ] as const)
    await t.rejects(nics.claim(id(1), [card]), { code: 'INVALID_ARGUMENT' }, JSON.stringify(card));
  await t.rejects(nics.claim(id(1), Array(9).fill({ kind: 'user' })), { code: 'TOO_LARGE' });
});

t.test('a clone asks for the same places again', async (t) => {
  t.strictSame(
    wantedAgain([
      { name: 'card0', mac: macOf('a'), kind: 'user' },
      { name: 'card1', mac: macOf('b'), kind: 'bridge', bridge: 'br0' },
      {
        name: 'card2',
        mac: macOf('c'),
        kind: 'bridge',
        bridge: 'br1',
        network: 'lan',
        address: '10.0.0.5',
      },
    ]),
    [{ kind: 'user' }, { kind: 'bridge', bridge: 'br0' }, { kind: 'network', network: 'lan' }],
  );
});
