/**
 * The settings that hold, each with its origin: flag > environment variable > file > default.
 *
 * Invariants
 * - every problem is found at once, and any of them refuses the whole configuration: nothing runs with half of it;
 * - an unknown section or key is a problem and names the nearest known one;
 * - nothing here is a secret; `..._file` names one.
 */
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { DvceError } from '../base/errors.ts';
import { nearest } from '../base/nearest.ts';
import {
  type SettingName,
  type SettingSpec,
  settingList,
  settings,
  variableOf,
} from './settings.ts';
import {
  configurationFiles,
  defaultConfigurationPath,
  type Entry,
  type Problem,
  readSource,
} from './source.ts';
import { readValue, type SettingValue, writeValue } from './values.ts';

export type OriginKind = 'default' | 'file' | 'environment' | 'flag';

export interface Origin {
  readonly kind: OriginKind;
  /** `FILE:LINE:COLUMN`, the variable, the flag; empty for a default. */
  readonly where: string;
}

export interface Setting {
  readonly name: SettingName;
  readonly spec: SettingSpec;
  /** undefined: it has none, see `spec.otherwise`. */
  readonly value: SettingValue | undefined;
  readonly origin: Origin;
}

export interface ConfigurationSources {
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** The file; DVCE_CONFIG, else /etc/dvce/dvce.yaml. */
  readonly path?: string | undefined;
  /** What command line options said, by the name of the setting. */
  readonly flags?: Readonly<Partial<Record<SettingName, { flag: string; value: unknown }>>>;
}

export class Configuration {
  readonly #settings: ReadonlyMap<string, Setting>;
  /** Files that were read, in order. */
  readonly files: readonly string[];

  constructor(found: ReadonlyMap<string, Setting>, files: readonly string[]) {
    this.#settings = found;
    this.files = files;
  }

  get all(): readonly Setting[] {
    return [...this.#settings.values()];
  }
  setting(name: SettingName): Setting {
    const found = this.#settings.get(name);
    if (found === undefined) throw new DvceError('INTERNAL', { reason: `no setting ${name}` });
    return found;
  }
  text(name: SettingName): string | undefined {
    const { value } = this.setting(name);
    return typeof value === 'string' ? value : undefined;
  }
  number(name: SettingName): number | undefined {
    const { value } = this.setting(name);
    return typeof value === 'number' ? value : undefined;
  }
  flag(name: SettingName): boolean {
    return this.setting(name).value === true;
  }
}

/** Read everything; problems are told, not thrown. */
export async function readConfiguration(
  sources: ConfigurationSources,
): Promise<{ configuration: Configuration; problems: readonly Problem[] }> {
  const { environment, flags = {} } = sources;
  const path = sources.path ?? nonEmpty(environment['DVCE_CONFIG']) ?? defaultConfigurationPath;
  const problems: Problem[] = [];
  const found = new Map<string, Setting>(
    settingList.map((spec) => [
      spec.name,
      {
        name: spec.name,
        spec,
        value: spec.default === undefined ? undefined : readValue(spec, spec.default),
        origin: { kind: 'default', where: '' },
      },
    ]),
  );
  const take = (name: string, raw: unknown, origin: Origin): void => {
    const before = found.get(name);
    if (before === undefined) return;
    try {
      found.set(name, { ...before, value: readValue(before.spec, raw), origin });
    } catch (error) {
      if (!(error instanceof DvceError)) throw error;
      problems.push({
        where: origin.where,
        reason: `${name} is not valid: ${error.context['reason']}`,
        advice: adviceFor(before.spec),
      });
    }
  };
  const files = configurationFiles(path);
  if (sources.path === undefined && environment['DVCE_CONFIG'] && !files.includes(path))
    problems.push({ where: path, reason: 'it does not exist', advice: 'DVCE_CONFIG names it.' });
  for (const file of files)
    for (const section of (await readSource(file, problems)).entries)
      takeSection(section, problems, take);
  const written = found.get('data.dir')?.value;
  takeEnvironment(environment, take);
  for (const [name, given] of Object.entries(flags))
    if (given !== undefined) take(name, given.value, { kind: 'flag', where: given.flag });
  forgetLocal(found, written, sources);
  return { configuration: new Configuration(found, files), problems };
}

/** What the file says about its own data directory (addresses, sockets, store) is not about another one. */
function forgetLocal(
  found: Map<string, Setting>,
  written: SettingValue | undefined,
  sources: ConfigurationSources,
): void {
  const named = found.get('data.dir')?.value;
  const own = written ?? usualDirectory(sources.environment);
  if (named === undefined || named === own) return;
  for (const [name, setting] of found)
    if (setting.spec.local === true && setting.origin.kind === 'file')
      found.set(name, { ...setting, value: undefined, origin: { kind: 'default', where: '' } });
}

/** @throws INVALID_CONFIG with all problems */
export async function loadConfiguration(sources: ConfigurationSources): Promise<Configuration> {
  const { configuration, problems } = await readConfiguration(sources);
  const [first, ...others] = problems;
  if (first === undefined) return configuration;
  throw new DvceError('INVALID_CONFIG', {
    where: first.where,
    reason: first.reason,
    advice: [
      first.advice,
      ...others.map(({ where, reason }) => `${where}: ${reason}`),
      'Check it with: dvce config check',
    ]
      .filter((line) => line !== '')
      .join('\n  '),
  });
}

/** Where the agent keeps its things. */
export const dataDirectoryOf = (
  configuration: Configuration,
  environment: ConfigurationSources['environment'],
): string => configuration.text('data.dir') ?? usualDirectory(environment);

function usualDirectory(environment: ConfigurationSources['environment']): string {
  if (process.getuid?.() === 0) return '/var/lib/dvce';
  return join(nonEmpty(environment['XDG_STATE_HOME']) ?? join(homedir(), '.local/state'), 'dvce');
}

/** The file of a secret: an absolute path, or the name of a credential that systemd hands in. @throws INVALID_CONFIG */
export function secretFile(
  configuration: Configuration,
  name: SettingName,
  environment: ConfigurationSources['environment'],
): string | undefined {
  const path = configuration.text(name);
  if (path === undefined || path.startsWith('/')) return path;
  const directory = nonEmpty(environment['CREDENTIALS_DIRECTORY']);
  if (directory !== undefined && !path.includes('/')) return join(directory, path);
  const { where, kind } = configuration.setting(name).origin;
  throw new DvceError('INVALID_CONFIG', {
    where: where === '' ? kind : where,
    reason: `${name} is ${JSON.stringify(path)}, neither an absolute path nor a credential that systemd handed in`,
    advice: `Give a path, or LoadCredential=${path}:FILE in the unit.`,
  });
}

const nonEmpty = (text: string | undefined): string | undefined =>
  text === undefined || text === '' ? undefined : text;

type Take = (name: string, raw: unknown, origin: Origin) => void;

const didYouMean = (word: string, known: readonly string[]): string => {
  const meant = nearest(word, known);
  return `${meant === undefined ? '' : `Did you mean ${meant}? `}Known: ${known.join(', ')}.`;
};

function takeSection(section: Entry, problems: Problem[], take: Take): void {
  const sections = Object.keys(settings);
  if (!sections.includes(section.key)) {
    const reason = `the section ${JSON.stringify(section.key)} is not known`;
    problems.push({ where: section.where, reason, advice: didYouMean(section.key, sections) });
    return;
  }
  // A section whose keys are all comments.
  if (section.value === null) return;
  if (section.below === undefined) {
    const reason = `${section.key} is a section, not a value`;
    problems.push({
      where: section.where,
      reason,
      advice: `For example ${section.key}: { key: value }`,
    });
    return;
  }
  const keys = Object.keys(settings[section.key as keyof typeof settings]);
  for (const { key, where, value } of section.below) {
    if (keys.includes(key)) take(`${section.key}.${key}`, value, { kind: 'file', where });
    else {
      const reason = `the key ${JSON.stringify(key)} is not known in ${section.key}`;
      problems.push({ where, reason, advice: didYouMean(key, keys) });
    }
  }
}

function takeEnvironment(environment: ConfigurationSources['environment'], take: Take): void {
  for (const { name, alias, kind } of settingList)
    for (const variable of [...(alias === undefined ? [] : [alias]), variableOf(name)]) {
      const text = nonEmpty(environment[variable]);
      if (text === undefined) continue;
      // Somebody's shell has a working directory; a file has none.
      const value = kind === 'path' ? resolve(text) : text;
      take(name, value, { kind: 'environment', where: variable });
    }
}

/** Variables that look like settings and are none: a typing error that would else pass silently. */
export function strayVariables(
  environment: ConfigurationSources['environment'],
): readonly Problem[] {
  const known = settingList.map(({ name }) => variableOf(name));
  const aliases = settingList.flatMap(({ alias }) => (alias === undefined ? [] : [alias]));
  const prefixes = Object.keys(settings).map((section) => `DVCE_${section.toUpperCase()}_`);
  return Object.keys(environment)
    .filter((name) => prefixes.some((prefix) => name.startsWith(prefix)))
    .filter((name) => !known.includes(name) && !aliases.includes(name))
    .map((name) => ({
      where: name,
      reason: 'the environment variable is no setting',
      advice: didYouMean(name, known),
    }));
}

function adviceFor(spec: SettingSpec): string {
  if (spec.choices !== undefined) return `One of ${spec.choices.join(', ')}.`;
  return spec.default === undefined
    ? ''
    : `For example ${writeValue(spec, readValue(spec, spec.default))}.`;
}
