/** What is taken out of texts, and what is left alone. */
import fc from 'fast-check';
import t from 'tap';
import { maskSecrets, withoutSecrets } from '../../src/base/index.ts';

t.test('secrets of every kind go, what is around them stays', async (t) => {
  const cases: readonly (readonly [string, string])[] = [
    ['get https://joe:hunter2@host/x.img now', 'get https://***@host/x.img now'],
    ['nbd://u:p@@ss@host:10809/e', 'nbd://***@host:10809/e'],
    ['https://joe:a/b@host/x', 'https://***@host/x'],
    ['/srv/https:/joe:a/b@host/x', '/srv/https:/***@host/x'],
    ['https://host/x?X-Amz-Signature=abc&y=1', 'https://host/x?X-Amz-Signature=***&y=1'],
    ['GET /v1/x?token=abcdef', 'GET /v1/x?token=***'],
    ['authorization: Bearer abcdefghijkl', 'authorization: Bearer ***'],
    [
      'the token dvce_a1B2c3D4e5F6_0123456789abcdefABCDEF is wrong',
      'the token dvce_a1B2c3D4e5F6_*** is wrong',
    ],
    ['{"vncPassword":"pw\\"x","name":"web1"}', '{"vncPassword":"***","name":"web1"}'],
    ['{"userData":"#cloud-config\\nusers: []"}', '{"userData":"***"}'],
    [
      'x -----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY----- y',
      'x -----BEGIN RSA PRIVATE KEY----- *** y',
    ],
    ['-----BEGIN PRIVATE KEY-----\\nabc', '-----BEGIN PRIVATE KEY----- ***'],
  ];
  for (const [given, wanted] of cases) t.equal(maskSecrets(given), wanted);
});

t.test('ordinary texts are left alone', async (t) => {
  for (const text of [
    'https://host/debian.qcow2',
    'mail joe@example.org, see https://host/x',
    '{"key":"logs/a/seg/1","volume":"/prod/db","tokens":3}',
    'the snapshot /prod/db@before',
    'volume:/db@before',
    '{"path":"/prod/db@s1","url":"/v1/volumes/prod%2Fdb"}',
  ])
    t.equal(maskSecrets(text), text);
});

t.test('a password in a URL never comes through, wherever it stands', async (t) => {
  const password = fc
    .stringMatching(/^[A-Za-z0-9!$%^&*()_+=@/-]{4,20}$/)
    .map((text) => `MARK${text}MARK`);
  fc.assert(
    fc.property(password, fc.string({ maxLength: 20 }), (secret, around) => {
      const masked = maskSecrets(`${around} https://joe:${secret}@host/x ${around}`);
      return !masked.includes(secret);
    }),
  );
  t.pass('held');
});

t.test('objects lose what is named like a secret, whatever it is', async (t) => {
  t.strictSame(
    withoutSecrets({
      name: 'web1',
      vnc: { password: ['a'], port: 5900, passwordSet: true },
      cloudInit: { userData: '#cloud-config', sshKeys: ['ssh-ed25519 AAAA joe'] },
      tokens: [{ id: 'x', hash: 'abc' }],
      source: 'https://u:p@h/x',
      token: null,
    }),
    {
      name: 'web1',
      vnc: { password: '***', port: 5900, passwordSet: true },
      cloudInit: { userData: '***', sshKeys: ['ssh-ed25519 AAAA joe'] },
      tokens: [{ id: 'x', hash: '***' }],
      source: 'https://***@h/x',
      token: null,
    },
  );
});
