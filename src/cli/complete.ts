/**
 * `dvce __complete WORDS`: what may stand in the place of the last word, one a line. Called by the completion scripts;
 * never prints an error: a shell that completes must stay quiet.
 */
import type { ApiClient } from '../api/index.ts';
import type { MakeContext } from './context.ts';
import { optionsOf } from './generic.ts';
import type { ArgumentSpec, CommandSpec, NameKind, OptionSpec } from './spec.ts';
import { globalOptions, nouns, singles } from './tree/index.ts';

export async function complete(words: readonly string[], makeContext: MakeContext): Promise<void> {
  const current = words.at(-1) ?? '';
  const before = words.slice(0, -1);
  const dataDir = valueAfter(before, '--data-dir');
  const context = await makeContext(dataDir === undefined ? {} : { dataDir });
  const found = await candidates(before, current, () => context.api);
  for (const word of found) if (word.startsWith(current)) context.output.line(word);
}

function valueAfter(words: readonly string[], flag: string): string | undefined {
  const at = words.indexOf(flag);
  return at < 0 ? undefined : words[at + 1];
}

/** Candidates for the word after `before`; exported for the tests. */
export async function candidates(
  before: readonly string[],
  current: string,
  api: () => ApiClient,
): Promise<readonly string[]> {
  const options = (command: CommandSpec | undefined): readonly OptionSpec[] => [
    ...(command === undefined ? [] : optionsOf(command)),
    ...globalOptions,
  ];
  const plain = positional(before, options(commandOf(before)));
  const command = commandOf(plain);
  const last = options(command).find((one) => longFlags(one).includes(before.at(-1) ?? ''));
  if (last !== undefined && takesValue(last))
    return last.choices ?? names(last.names, current, api);
  if (current.startsWith('-')) return [...options(command).flatMap(longFlags), '--help'];
  if (command === undefined) return wordsBelow(plain);
  const used = plain.length - (nouns.some(({ name }) => name === plain[0]) ? 2 : 1);
  const argument: ArgumentSpec | undefined = command.arguments?.[used];
  if (argument === undefined) return [];
  return argument.choices ?? names(argument.names, current, api);
}

const longFlags = ({ flags }: OptionSpec): string[] =>
  flags.split(/[ ,]+/).filter((word) => word.startsWith('-'));
const takesValue = ({ flags }: OptionSpec): boolean => flags.includes('<');

/** The words that are neither an option nor its value. */
function positional(words: readonly string[], options: readonly OptionSpec[]): readonly string[] {
  const plain: string[] = [];
  for (let at = 0; at < words.length; at += 1) {
    const word = words[at] ?? '';
    if (!word.startsWith('-')) plain.push(word);
    else if (options.some((one) => longFlags(one).includes(word) && takesValue(one))) at += 1;
  }
  return plain;
}

function commandOf(words: readonly string[]): CommandSpec | undefined {
  const plain = words.filter((word) => !word.startsWith('-'));
  const noun = nouns.find(({ name }) => name === plain[0]);
  return noun === undefined
    ? singles.find(({ name }) => name === plain[0])
    : noun.commands.find(({ name }) => name === plain[1]);
}

function wordsBelow(plain: readonly string[]): readonly string[] {
  const shown = singles.filter(({ hidden }) => hidden !== true);
  if (plain.length === 0) return [...nouns, ...shown].map(({ name }) => name);
  const noun = nouns.find(({ name }) => name === plain[0]);
  return plain.length === 1 ? (noun?.commands.map(({ name }) => name) ?? []) : [];
}

/** Names from the agent; none when it does not answer. */
async function names(
  kind: NameKind | undefined,
  current: string,
  api: () => ApiClient,
): Promise<readonly string[]> {
  try {
    return await ask(kind, current, api);
  } catch {
    // No agent, no names: the shell goes on without.
    return [];
  }
}

async function ask(
  kind: NameKind | undefined,
  current: string,
  api: () => ApiClient,
): Promise<readonly string[]> {
  switch (kind) {
    case 'volume':
      return (await api().volumes.list()).map(({ path }) => path);
    case 'snapshot':
    case 'source': {
      const at = current.indexOf('@');
      const volumes = (await api().volumes.list()).map(({ path }) => path);
      if (at < 0) return kind === 'source' ? volumes : volumes.map((path) => `${path}@`);
      const path = current.slice(0, at);
      return (await api().snapshots.list(path)).map(({ name }) => `${path}@${name}`);
    }
    case 'image':
      return (await api().images.list()).map(({ name }) => name);
    case 'vm':
      return (await api().vms.list()).map(({ name }) => name);
    case 'operation':
      return (await api().operations.list()).map(({ id }) => id);
    default:
      return kind?.startsWith('/v1/') === true ? namesAt(kind, api()) : [];
  }
}

/** A list of the API is an object with one array; its entries go by name, path or id. */
async function namesAt(url: string, api: ApiClient): Promise<readonly string[]> {
  const { body } = await api.http.request('GET', url);
  const list = Object.values(Object(body) as Record<string, unknown>).find(Array.isArray);
  return ((list ?? []) as Readonly<Record<string, unknown>>[]).flatMap((one) => {
    const name = one['name'] ?? one['path'] ?? one['id'];
    return typeof name === 'string' ? [name] : [];
  });
}
