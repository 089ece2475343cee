/** Tokens: what they grant, how they end, what is kept of them. */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import {
  type Grant,
  type Identity,
  may,
  mayEverywhere,
  pathOfUrl,
  roleOn,
} from '../../src/agent/access.ts';
import { Tokens } from '../../src/agent/tokens.ts';
import {
  limits,
  nodeFileSystem,
  silentLogger,
  systemClock,
  systemRandom,
} from '../../src/base/index.ts';

function place(t: Test) {
  const directory = mkdtempSync('/tmp/dvce-tok-');
  const path = `${directory}/tokens.json`;
  let offsetMs = 0;
  const clock = {
    wallMs: () => systemClock.wallMs() + offsetMs,
    monotonicMs: () => systemClock.monotonicMs() + offsetMs,
  };
  const wait = (ms: number): void => {
    offsetMs += ms;
  };
  const all: Tokens[] = [];
  t.teardown(async () => {
    for (const one of all) await one.close();
    rmSync(directory, { recursive: true, force: true });
  });
  const open = async () => {
    const tokens = await Tokens.open({
      path,
      files: nodeFileSystem,
      clock,
      random: systemRandom,
      logger: silentLogger,
    });
    all.push(tokens);
    return tokens;
  };
  return { path, open, wait };
}

const grants: readonly Grant[] = [{ role: 'operator', path: '/prod' }];
const bearer = (secret: string): string => `Bearer ${secret}`;

t.test('the secret is shown once, and only its hash is kept, in a file of its owner', async (t) => {
  const { path, open } = place(t);
  const tokens = await open();
  const { secret, token } = await tokens.create({ name: 'ci', grants });
  t.match(secret, /^dvce_[A-Za-z0-9]{12}_[A-Za-z0-9_-]{43}$/);
  t.notMatch(JSON.stringify([token, tokens.list()]), secret.slice(20));
  const text = readFileSync(path, 'utf8');
  t.notOk(text.includes(secret.split('_').at(-1) ?? ''));
  t.equal(statSync(path).mode & 0o777, 0o600);
  const again = await open();
  t.match(again.identify(bearer(secret), '::1'), { name: 'token:ci', remote: true, grants });
  await again.close();
});

t.test('wrong, cut, expired and revoked tokens all get the same answer', async (t) => {
  const { open, wait } = place(t);
  const tokens = await open();
  const { secret } = await tokens.create({ name: 'ci', grants, expiresMs: 60_000 });
  const other = await tokens.create({ name: 'other', grants });
  const identity = tokens.identify(bearer(secret), 'a');
  const swapped = `${secret.slice(0, 18)}${other.secret.slice(18)}`;
  const last = secret.endsWith('A') ? 'B' : 'A';
  for (const [at, bad] of [
    undefined,
    '',
    'Bearer',
    secret,
    `Basic ${secret}`,
    bearer(secret.slice(0, -1)),
    bearer(`${secret}x`),
    bearer(`${secret.slice(0, -2)}${last}x`),
    bearer(swapped),
    bearer(`dvce_aaaaaaaaaaaa_${'a'.repeat(43)}`),
  ].entries())
    t.throws(() => tokens.identify(bad, `host${at}`), { code: 'UNAUTHENTICATED' }, String(bad));
  t.ok(tokens.isValid(identity));
  wait(60_001);
  t.throws(() => tokens.identify(bearer(secret), 'b'), { code: 'UNAUTHENTICATED' });
  t.notOk(tokens.isValid(identity), 'also for connections that are open');
  t.equal(tokens.get('ci').expired, true);
  t.ok(tokens.identify(bearer(other.secret), 'b'));
  await tokens.revoke('other');
  t.throws(() => tokens.identify(bearer(other.secret), 'b'), { code: 'UNAUTHENTICATED' });
  await t.rejects(tokens.revoke('other'), { code: 'NOT_FOUND' });
  t.strictSame(
    (await open()).list().map(({ name }) => name),
    ['ci'],
    'revoked for good',
  );
});

t.test(
  'an address that keeps failing is told to wait; a right token is not locked out',
  async (t) => {
    const { open, wait } = place(t);
    const tokens = await open();
    const { secret } = await tokens.create({ name: 'ci', grants });
    const fail = () => tokens.identify('Bearer x', '10.0.0.1');
    for (let n = 0; n < limits.loginFailuresMax; n += 1)
      t.throws(fail, { code: 'UNAUTHENTICATED' });
    t.throws(fail, { code: 'BUSY', httpStatus: 429 });
    t.throws(() => tokens.identify('Bearer x', '10.0.0.2'), { code: 'UNAUTHENTICATED' });
    t.ok(tokens.identify(bearer(secret), '10.0.0.1'));
    wait(limits.loginWindowMs + 1);
    t.throws(fail, { code: 'UNAUTHENTICATED' });
  },
);

t.test('what is asked for is checked', async (t) => {
  const { open } = place(t);
  const tokens = await open();
  await tokens.create({ name: 'a', grants });
  await t.rejects(tokens.create({ name: 'a', grants }), { code: 'ALREADY_EXISTS' });
  await t.rejects(tokens.create({ name: 'a/b', grants }), { code: 'INVALID_NAME' });
  for (const path of ['/prod/../etc', '', '//', '/a b', 'x/%2e%2e'])
    await t.rejects(
      tokens.create({ name: 'b', grants: [{ role: 'viewer', path }] }),
      { code: 'INVALID_NAME' },
      path,
    );
  await t.rejects(tokens.create({ name: 'b', grants: [...grants, ...grants] }), {
    code: 'INVALID_ARGUMENT',
  });
});

t.test(
  'a damaged file is not taken for an empty one: revocations must not be forgotten',
  async (t) => {
    const { path, open } = place(t);
    for (const text of ['', '{', '[]', '{"format":2,"tokens":[]}']) {
      writeFileSync(path, text);
      await t.rejects(open(), { code: 'DOCUMENT_DAMAGED' }, text);
    }
  },
);

const of = (...list: readonly [Grant['role'], string][]): Identity => ({
  name: 'token:x',
  remote: true,
  grants: list.map(([role, path]) => ({ role, path })),
});

t.test(
  'the longest grant that covers a path decides; where none does, nothing is allowed',
  async (t) => {
    const identity = of(['viewer', '/'], ['operator', '/prod'], ['viewer', '/prod/secret']);
    t.equal(roleOn(identity, '/other'), 'viewer');
    t.equal(roleOn(identity, '/prod'), 'operator');
    t.equal(roleOn(identity, '/prod/db'), 'operator');
    t.equal(roleOn(identity, '/production'), 'viewer', 'whole parts are compared');
    t.equal(roleOn(identity, '/prod/secret/x'), 'viewer');
    t.equal(roleOn(of(['admin', '/prod']), '/'), undefined);
    t.notOk(may(of(), { role: 'viewer', path: '/' }));
    t.notOk(mayEverywhere(of(['admin', '/'], ['viewer', '/x']), 'operator'));
    t.ok(mayEverywhere(of(['admin', '/']), 'operator'));
  },
);

t.test('a URL is taken apart only when it is decoded and checked', async (t) => {
  t.equal(pathOfUrl('/v1/volumes/prod%2Fdb/snapshots/a'), '/prod/db');
  t.equal(pathOfUrl('/v1/vms/web1/start?x=/prod'), '/vms/web1');
  t.equal(pathOfUrl('/v1/status'), '/');
  for (const bad of [
    '/v1/volumes/prod%2F..%2Fetc',
    '/v1/volumes/prod%252Fdb',
    '/v1/volumes/%2e%2e',
    '/v1/volumes/prod%2F%2Fdb',
    '/v1/volumes/%ff',
    '/v1/vms/..',
    '/v1/vms/a%2Fb',
    '/v1/vms/%00',
  ])
    t.throws(() => pathOfUrl(bad), { code: 'INVALID_NAME' }, bad);
});
