/**
 * The names that a store accepts. Keys come from documents and segments, so a damaged or hostile one must not lead out of
 * the store: every part is checked before it becomes a path.
 *
 * Two suffixes belong to the stores themselves: `.fenced` marks a scope that was taken away, `.tmp` an unfinished upload.
 */
import { DvceError, limits } from '../base/index.ts';

/** 255 bytes is what file systems take; the difference is left for the suffixes below. */
const partPattern = /^[A-Za-z0-9._@-]{1,200}$/;
export const fencedSuffix = '.fenced';
export const temporarySuffix = '.tmp';

/** Check a key or a prefix. @throws INVALID_ARGUMENT */
export function checkKey(key: string): string {
  const error = keyError(key);
  if (error !== null) throw error;
  return key;
}

/** What is wrong with a key or a prefix; null: nothing. */
export function keyError(key: string): DvceError | null {
  const refuse = (reason: string): DvceError =>
    new DvceError('INVALID_ARGUMENT', {
      what: `the store key ${JSON.stringify(key.slice(0, 80))}`,
      reason,
      advice: 'Keys are made by dvce alone; run: dvce volume check',
    });
  if (key.length > limits.storeKeyBytesMax)
    return refuse(`it has more than ${limits.storeKeyBytesMax} characters`);
  for (const part of key.split('/')) {
    if (part === '.' || part === '..') return refuse(`"${part}" is not allowed as a part`);
    if (!partPattern.test(part)) return refuse(`the part ${JSON.stringify(part)} is not allowed`);
    if (part.endsWith(temporarySuffix)) return refuse(`the suffix ${temporarySuffix} is reserved`);
  }
  return null;
}

/** Check the name of a scope; its fenced form is no scope. */
export function checkScope(scope: string): string {
  checkKey(scope);
  if (scope.endsWith(fencedSuffix))
    throw new DvceError('INVALID_ARGUMENT', {
      what: `the scope ${scope}`,
      reason: `the suffix ${fencedSuffix} is reserved`,
      advice: 'Name the scope as it was created.',
    });
  return scope;
}

export const parentOf = (key: string): string => key.slice(0, Math.max(0, key.lastIndexOf('/')));
export const nameOf = (key: string): string => key.slice(key.lastIndexOf('/') + 1);

/** Sort by code units: the order of keys in every listing. */
export const byCodeUnits = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** The part of a directory's names that `list` answers with. `names` must be sorted. */
export function pageOf(
  prefix: string,
  names: readonly string[],
  after: string | undefined,
  limit: number,
): string[] {
  const keys = names.map((name) => (prefix === '' ? name : `${prefix}/${name}`));
  const first = after === undefined ? 0 : keys.findIndex((key) => key > after);
  return first < 0 ? [] : keys.slice(first, first + limit);
}

/** Names that are no keys: unfinished uploads, and the marker with its unfinished forms. */
export const isOwnName = (prefix: string, name: string): boolean =>
  name.endsWith(temporarySuffix) || (prefix === '' && nameOf(name) === 'dvce-store.json');
