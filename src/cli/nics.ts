/** `--net KIND` as cards. */
import type { NicRequest } from '../api/index.ts';
import { usageError } from './output.ts';

/** One card for each word; `none` stands alone. @returns undefined when the option was not given */
export function nicsOf(texts: readonly string[]): NicRequest[] | undefined {
  if (texts.length === 0) return undefined;
  if (texts.includes('none')) {
    if (texts.length === 1) return [];
    throw usageError('the option --net', 'none stands beside other cards', 'Leave out none.');
  }
  return texts.map(nicOf);
}

function nicOf(text: string): NicRequest {
  if (text === 'user') return { kind: 'user' };
  const [kind = '', ...rest] = text.split('=');
  const value = rest.join('=');
  if (kind === 'bridge' && value !== '') return { kind, bridge: value };
  if (kind === 'network' && value !== '') {
    const [network = '', address] = value.split(',', 2);
    return address === undefined ? { kind, network } : { kind, network, address };
  }
  throw usageError(
    `the card ${JSON.stringify(text)}`,
    'it is none of the kinds of cards',
    'Give user, bridge=NAME, network=NAME, network=NAME,ADDRESS or none.',
  );
}
