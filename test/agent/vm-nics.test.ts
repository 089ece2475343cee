/** Cards: no two VMs have the same MAC address, whatever happens at the same time. */
import t from 'tap';
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

t.test('a MAC address is of the VM, locally administered, and of nobody else', async (t) => {
  const documents: GuestFields[] = [];
  const nics = new Nics({ documents: async () => documents });
  const first = await nics.claim(id(1), [{ kind: 'user' }, { kind: 'bridge', bridge: 'br0' }]);
  const macs = first.nics.map(({ mac }) => mac);
  t.equal(new Set(macs).size, 2);
  for (const mac of macs) t.equal(Number.parseInt(mac.slice(0, 2), 16) & 3, 2);
  t.strictSame(
    (await new Nics({ documents: async () => [] }).claim(id(1), [{ kind: 'user' }])).nics,
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

t.test('two claims at once differ, also when one is released while the other reads', async (t) => {
  const documents: GuestFields[] = [];
  const reading = Promise.withResolvers<void>();
  let reads = 0;
  const nics = new Nics({
    documents: async () => {
      const seen = [...documents];
      reads += 1;
      if (reads === 2) await reading.promise;
      return seen;
    },
  });
  const first = await nics.claim(id(1), [{ kind: 'user' }]);
  const second = nics.claim(id(1), [{ kind: 'user' }]);
  // The first one's document is stored after the second one has read the documents.
  documents.push({ id: id(1), name: 'a', nics: first.nics });
  first.release();
  reading.resolve();
  t.not((await second).nics[0]?.mac, first.nics[0]?.mac);
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
