/**
 * Agents of other hosts by name: `~/.config/dvce/contexts.json`, of mode 0600 because tokens are in it.
 *
 * The file is replaced whole. One that others may read is refused rather than used: its tokens must be taken for known.
 */
import { chmod, mkdir, open, readFile, rename, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Remote } from '../api/index.ts';
import { DvceError, systemCode } from '../base/errors.ts';

export interface NamedContext extends Remote {
  readonly name: string;
}

const contextsMax = 100;
const nonEmpty = (text: string | undefined): string | undefined => (text === '' ? undefined : text);

export function contextsPath(environment: NodeJS.ProcessEnv): string {
  const home = nonEmpty(environment['XDG_CONFIG_HOME']) ?? join(homedir(), '.config');
  return join(home, 'dvce', 'contexts.json');
}

export async function readContexts(path: string): Promise<readonly NamedContext[]> {
  let text: string;
  try {
    const { mode } = await stat(path);
    if ((mode & 0o077) !== 0)
      throw new DvceError('NOT_ALLOWED', {
        what: `using ${path}`,
        reason: 'others than its owner may read it, and it holds tokens',
        advice: `Revoke its tokens if they may be known, and run: chmod 600 ${path}`,
      });
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  }
  return parse(text, path);
}

function parse(text: string, path: string): readonly NamedContext[] {
  try {
    const { contexts } = JSON.parse(text) as { contexts: unknown };
    if (Array.isArray(contexts) && contexts.every(isContext)) return contexts;
  } catch {
    // Not JSON: told below, as everything that is not what was written here.
  }
  throw new DvceError('DOCUMENT_DAMAGED', { name: path, reason: 'it is not a list of contexts' });
}

function isContext(value: unknown): value is NamedContext {
  if (typeof value !== 'object' || value === null) return false;
  const { name, url, token, authorities, fingerprint } = value as Record<string, unknown>;
  const isText = (one: unknown): boolean => typeof one === 'string';
  const mayBe = (one: unknown): boolean => one === undefined || isText(one);
  return [name, url, token].every(isText) && [authorities, fingerprint].every(mayBe);
}

export async function writeContexts(
  path: string,
  contexts: readonly NamedContext[],
): Promise<void> {
  if (contexts.length > contextsMax)
    throw new DvceError('TOO_LARGE', {
      what: 'the list of contexts',
      reason: `it has at most ${contextsMax}`,
      advice: 'Remove those that are not needed: dvce context list',
    });
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const file = await open(`${path}.new`, 'w', 0o600);
  try {
    await file.chmod(0o600);
    await file.writeFile(`${JSON.stringify({ format: 1, contexts }, null, 2)}\n`);
    await file.datasync();
  } finally {
    await file.close();
  }
  await rename(`${path}.new`, path);
  await chmod(path, 0o600);
}

/** The agent that `--context` or DVCE_CONTEXT names; undefined: that of this host. */
export async function contextOf(
  given: unknown,
  environment: NodeJS.ProcessEnv,
): Promise<NamedContext | undefined> {
  const name = typeof given === 'string' ? given : nonEmpty(environment['DVCE_CONTEXT']);
  if (name === undefined) return undefined;
  const found = (await readContexts(contextsPath(environment))).find((one) => one.name === name);
  if (found === undefined) throw new DvceError('NOT_FOUND', { kind: 'context', name });
  return found;
}
