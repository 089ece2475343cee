/** `dvce token ...`, `dvce audit ...`, `dvce context ...` */
import { type FileHandle, open, readFile, stat } from 'node:fs/promises';
import type { Token, TokenCreate, TokenSecret } from '../../api/index.ts';
import { parseFingerprint, parseRemoteUrl } from '../../api/index.ts';
import { DvceError, systemCode } from '../../base/errors.ts';
import { checkName } from '../../base/ids.ts';
import { confirm } from '../confirm.ts';
import { contextsPath, readContexts, writeContexts } from '../contexts.ts';
import { orDash, time } from '../format.ts';
import { type Output, usageError } from '../output.ts';
import type { Given, Run } from '../spec.ts';

type Grant = TokenCreate['grants'][number];

const grantsText = ({ grants }: Token): string =>
  grants.map(({ role, path }) => `${role}:${path}`).join(' ');

const stateOf = ({ expired }: Token): string => (expired ? 'expired' : 'valid');

export const listTokens: Run = async ({ api, output }) => {
  await output.list(await api.tokens.list(), ({ name }) => name, [
    { title: 'name', value: ({ name }) => name },
    { title: 'grants', value: grantsText },
    { title: 'state', value: stateOf },
    { title: 'expires', value: ({ expiresAt }) => time(expiresAt) },
    { title: 'last used', value: ({ lastUsedAt }) => time(lastUsedAt) },
  ]);
};

export const showToken: Run = async ({ api, output }, given) => {
  const token = await api.tokens.get(given.argument('name'));
  output.show(token, [
    ['name', token.name],
    ['grants', grantsText(token)],
    ['state', stateOf(token)],
    ['made', time(token.createdAt)],
    ['expires', time(token.expiresAt)],
    ['last used', time(token.lastUsedAt)],
  ]);
};

const isRole = (word: string): word is Grant['role'] =>
  word === 'viewer' || word === 'operator' || word === 'admin';

/** `--role operator --path /prod`, and any number of `--grant viewer:/`. */
function grantsOf(given: Given): Grant[] {
  const role = given.text('role');
  const path = given.text('path');
  if (role === undefined && path !== undefined)
    throw usageError('--path', 'it needs a role', 'Give --role as well.');
  const first = role === undefined ? [] : [`${role}:${path ?? '/'}`];
  const grants = [...first, ...given.texts('grant')].map((text): Grant => {
    const at = text.indexOf(':');
    const word = text.slice(0, Math.max(0, at));
    if (!isRole(word) || at === text.length - 1)
      throw usageError(
        `the grant ${JSON.stringify(text)}`,
        'it is not ROLE:PATH',
        'Roles are viewer, operator and admin; for example operator:/prod.',
      );
    return { role: word, path: text.slice(at + 1) };
  });
  if (grants.length === 0)
    throw usageError('the token', 'it grants nothing', 'Give --role, or --grant ROLE:PATH.');
  return grants;
}

export const createToken: Run = async ({ api, output }, given) => {
  const path = given.text('out');
  const expiresMs = given.number('expires');
  const request = {
    name: given.text('name') ?? '',
    grants: grantsOf(given),
    ...(expiresMs === undefined ? {} : { expiresMs }),
  };
  // Before the token is made: a secret that cannot be kept would be lost.
  const file = path === undefined ? undefined : await newFile(path);
  try {
    const made = await api.tokens.create(request);
    noteDoor(output, made, path);
    if (file === undefined) {
      output.changed(made, made.secret, made.secret);
      output.note(
        `This is shown only once. Token ${made.token.name} expires ${time(made.token.expiresAt)}.`,
      );
      return;
    }
    await file.writeFile(`${made.secret}\n`);
    await file.datasync();
    output.changed(made.token, made.token.name, `Token ${made.token.name} is in ${path}.`);
  } catch (error) {
    if (path !== undefined) await removeEmpty(path);
    throw error;
  } finally {
    await file?.close();
  }
};

async function newFile(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'wx', 0o600);
  } catch (error) {
    if (systemCode(error) === 'EEXIST')
      throw usageError('--out', `the file ${path} exists already`, 'Choose another name.', error);
    throw error;
  }
}

function noteDoor(output: Output, { door }: TokenSecret, path = 'FILE'): void {
  if (door === null) {
    output.note(
      'This agent listens to no network yet; set api.listen, or: dvce up --api-listen HOST:PORT',
    );
    return;
  }
  const port = door.listen.slice(door.listen.lastIndexOf(':'));
  output.note(
    `Elsewhere: dvce context add NAME --url https://HOST${port} --token-file ${path} --fingerprint ${door.fingerprint}`,
  );
}

async function removeEmpty(path: string): Promise<void> {
  const { rm } = await import('node:fs/promises');
  if ((await stat(path)).size === 0) await rm(path);
}

export const revokeToken: Run = async (context, given) => {
  const { api, output } = context;
  const name = given.argument('name');
  const known = await api.tokens.get(name);
  await confirm(context, given, `the end of token ${name}`, name);
  await api.tokens.revoke(name);
  output.changed(known, name, `Token ${name} is revoked.`);
};

export const listAudit: Run = async ({ api, output }) => {
  await output.list(await api.audit(), ({ id }) => id, [
    { title: 'at', value: ({ at }) => time(at) },
    { title: 'requestor', value: ({ requestor }) => requestor },
    { title: 'from', value: ({ from }) => orDash(from) },
    { title: 'method', value: ({ method }) => method },
    { title: 'path', value: ({ path }) => path },
    { title: 'status', value: ({ status }) => String(status) },
    { title: 'operation', value: ({ operation }) => orDash(operation) },
  ]);
};

/** A file of one line: the token. */
async function readToken(path: string): Promise<string> {
  const text = (await readFile(path, 'utf8')).trim();
  if (!/^dvce_[A-Za-z0-9]{12}_[A-Za-z0-9_-]{43}$/.test(text))
    throw usageError(`the file ${path}`, 'it does not hold a token', 'See: dvce token create');
  return text;
}

export const addContext: Run = async ({ output, environment }, given) => {
  const name = checkName(given.argument('name'));
  const url = given.text('url') ?? '';
  parseRemoteUrl(url);
  const authoritiesFile = given.text('caFile');
  const fingerprint = given.text('fingerprint');
  const added = {
    name,
    url: url.replace(/\/$/, ''),
    token: await readToken(given.text('tokenFile') ?? ''),
    ...(authoritiesFile === undefined
      ? {}
      : { authorities: await readFile(authoritiesFile, 'utf8') }),
    ...(fingerprint === undefined ? {} : { fingerprint: parseFingerprint(fingerprint) }),
  };
  const path = contextsPath(environment);
  const known = await readContexts(path);
  if (known.some((one) => one.name === name) && !given.flag('replace'))
    throw new DvceError('ALREADY_EXISTS', { kind: 'context', name });
  await writeContexts(path, [...known.filter((one) => one.name !== name), added]);
  output.changed(
    { name, url: added.url },
    name,
    `Context ${name} is ${added.url}; use it with: dvce --context ${name} status`,
  );
};

export const listContexts: Run = async ({ output, environment }) => {
  // Tokens stay in their file.
  const shown = (await readContexts(contextsPath(environment))).map(
    ({ name, url, fingerprint, authorities }) => ({
      name,
      url,
      trust: fingerprint ?? (authorities === undefined ? 'usual authorities' : 'own authorities'),
    }),
  );
  await output.list(shown, ({ name }) => name, [
    { title: 'name', value: ({ name }) => name },
    { title: 'url', value: ({ url }) => url },
    { title: 'trust', value: ({ trust }) => trust },
  ]);
};

export const removeContext: Run = async ({ output, environment }, given) => {
  const name = given.argument('name');
  const path = contextsPath(environment);
  const known = await readContexts(path);
  const left = known.filter((one) => one.name !== name);
  if (left.length === known.length) throw new DvceError('NOT_FOUND', { kind: 'context', name });
  await writeContexts(path, left);
  output.changed({ name }, name, `Context ${name} is forgotten; its token is not revoked.`);
};
