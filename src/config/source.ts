/**
 * The configuration files as positions and raw values: `dvce.yaml`, then `conf.d/*.yaml` beside it in the order of their names.
 * The YAML parser is loaded only when one of them says anything.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Document, LineCounter, Pair } from 'yaml';
import { systemCode } from '../base/errors.ts';
import { limits } from '../base/limits.ts';

export const defaultConfigurationPath = '/etc/dvce/dvce.yaml';

/** Something that is wrong, and where. */
export interface Problem {
  /** `FILE:LINE:COLUMN`, or the name of an environment variable. */
  readonly where: string;
  readonly reason: string;
  readonly advice: string;
}

/** One key of a file: its value, or the keys below it. */
export interface Entry {
  readonly key: string;
  readonly where: string;
  readonly value: unknown;
  /** undefined: a value. */
  readonly below: readonly Entry[] | undefined;
}

export interface SourceFile {
  readonly path: string;
  readonly entries: readonly Entry[];
}

/** The files that exist, in the order in which they count: the last one wins. */
export function configurationFiles(path: string): readonly string[] {
  const folder = join(dirname(path), 'conf.d');
  const more = namesIn(folder)
    .filter((name) => name.endsWith('.yaml') && !name.startsWith('.'))
    .sort()
    .slice(0, limits.configurationFilesMax);
  return [path, ...more.map((name) => join(folder, name))].filter(exists);
}

function namesIn(folder: string): readonly string[] {
  try {
    return readdirSync(folder);
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR') return [];
    throw error;
  }
}

function exists(path: string): boolean {
  try {
    return statSync(path).isFile();
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR') return false;
    throw error;
  }
}

/** Comments and empty lines alone: the file as it is shipped. */
const saysNothing = (text: string): boolean => !/^[ \t]*[^\s#]/m.test(text);

/** Read one file; what cannot be read is added to `problems`. */
export async function readSource(path: string, problems: Problem[]): Promise<SourceFile> {
  const nothing = { path, entries: [] };
  const fail = (where: string, reason: string, advice: string): SourceFile => {
    problems.push({ where, reason, advice });
    return nothing;
  };
  if (statSync(path).size > limits.configurationBytesMax)
    return fail(
      path,
      `it has more than ${limits.configurationBytesMax} bytes`,
      'Is it the right file?',
    );
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if (systemCode(error) !== 'EACCES') throw error;
    return fail(path, 'this user may not read it', 'Its group should be that of the API socket.');
  }
  if (saysNothing(text)) return nothing;
  const yaml = await import('yaml');
  const lines = new yaml.LineCounter();
  const document = yaml.parseDocument(text, { lineCounter: lines, prettyErrors: false });
  for (const { pos, message } of document.errors)
    problems.push({
      where: at(path, lines, pos[0]),
      reason: message.split('\n')[0] ?? message,
      advice: 'It must be YAML, for example: log: { level: debug }',
    });
  if (document.errors.length > 0) return nothing;
  const { contents } = document;
  if (contents === null) return nothing;
  if (!yaml.isMap(contents))
    return fail(
      at(path, lines, 0),
      'it is no group of sections',
      'For example: log: { level: debug }',
    );
  const entry = (pair: Pair): Entry => {
    const { key, value } = pair;
    const place = yaml.isNode(key) ? (key.range?.[0] ?? 0) : 0;
    return {
      key: yaml.isScalar(key) ? String(key.value) : '',
      where: at(path, lines, place),
      value: plainValue(document, value),
      below: yaml.isMap(value) ? value.items.map(entry) : undefined,
    };
  };
  return { path, entries: contents.items.map(entry) };
}

function plainValue(document: Document, node: unknown): unknown {
  if (typeof node !== 'object' || node === null || !('toJS' in node)) return null;
  return (node as { toJS(document: Document): unknown }).toJS(document);
}

function at(path: string, lines: LineCounter, offset: number): string {
  const { line, col } = lines.linePos(offset);
  return `${path}:${line}:${col}`;
}
