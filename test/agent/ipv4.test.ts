/** What an operator may write as a network. */
import t from 'tap';
import { formatAddress, parseAddress, parseSubnet, rangeOf } from '../../src/agent/ipv4.ts';

t.test('addresses', async (t) => {
  for (const text of ['0.0.0.0', '10.1.2.3', '255.255.255.255'])
    t.equal(formatAddress(parseAddress(text) ?? -1), text);
  for (const text of [
    '',
    '1.2.3',
    '1.2.3.4.5',
    '256.0.0.1',
    '01.2.3.4',
    '1.2.3.-4',
    ' 1.2.3.4',
    '1e1.2.3.4',
  ])
    t.equal(parseAddress(text), undefined, JSON.stringify(text));
});

t.test('subnets', async (t) => {
  t.match(parseSubnet('10.0.0.0/24'), { prefix: 24 });
  t.throws(() => parseSubnet('10.0.0.5/24'), {
    code: 'INVALID_ARGUMENT',
    advice: 'Give 10.0.0.0/24.',
  });
  for (const text of [
    '10.0.0.0',
    '10.0.0.0/',
    '10.0.0.0/31',
    '10.0.0.0/7',
    '10.0.0.0/24/1',
    'x/24',
    '10.0.0.0/-1',
    '',
  ])
    t.throws(() => parseSubnet(text), { code: 'INVALID_ARGUMENT' }, JSON.stringify(text));
});

t.test('ranges lie in their subnet, in order', async (t) => {
  const network = { name: 'lan', bridge: 'br0', subnet: '10.0.0.0/24' };
  const whole = rangeOf(network);
  t.strictSame([whole.first, whole.last].map(formatAddress), ['10.0.0.1', '10.0.0.254']);
  for (const change of [
    { first: '10.0.1.1' },
    { last: '10.0.0.255' },
    { first: '10.0.0.0' },
    { first: '10.0.0.9', last: '10.0.0.8' },
    { gateway: '10.0.1.1' },
    { nameservers: ['300.1.1.1'] },
  ])
    t.throws(
      () => rangeOf({ ...network, ...change }),
      { code: 'INVALID_ARGUMENT' },
      JSON.stringify(change),
    );
});
