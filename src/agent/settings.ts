/**
 * The settings of the running agent: as read at its start, and again at SIGHUP or `dvce config reload`.
 *
 * Invariants: a reload takes over only settings that are marked for it, all or none: with any mistake in a file it is refused and
 * what held goes on. The others keep the value of the start and are named.
 */
import type { Logger } from '../base/index.ts';
import {
  type Configuration,
  type ConfigurationSources,
  loadConfiguration,
  type Setting,
  type SettingName,
} from '../config/index.ts';

export interface Reload {
  readonly applied: readonly string[];
  readonly waiting: readonly string[];
}

type Value = Setting['value'];

export class Settings {
  readonly #sources: ConfigurationSources;
  readonly #logger: Logger;
  readonly #listeners: (() => void)[] = [];
  readonly #started: Configuration;
  #read: Configuration;

  constructor(started: Configuration, sources: ConfigurationSources, logger: Logger) {
    this.#started = started;
    this.#read = started;
    this.#sources = sources;
    this.#logger = logger;
  }

  /** What holds now. */
  get(name: SettingName): Setting {
    const source = this.#started.setting(name).spec.reload === true ? this.#read : this.#started;
    return source.setting(name);
  }
  get all(): readonly Setting[] {
    return this.#started.all.map(({ name }) => this.get(name));
  }
  text(name: SettingName): string | undefined {
    const { value } = this.get(name);
    return typeof value === 'string' ? value : undefined;
  }
  number(name: SettingName): number | undefined {
    const { value } = this.get(name);
    return typeof value === 'number' ? value : undefined;
  }

  /** Called after each reload that changed something. */
  onChange(listener: () => void): void {
    this.#listeners.push(listener);
  }

  /** What a reload would take over; changes nothing. @throws INVALID_CONFIG */
  async compare(): Promise<Reload> {
    return this.#difference(await loadConfiguration(this.#sources));
  }

  /** @throws INVALID_CONFIG, and everything stays as it was */
  async reload(): Promise<Reload> {
    const next = await loadConfiguration(this.#sources);
    const difference = this.#difference(next);
    this.#read = next;
    this.#logger.info({ ...difference }, 'the configuration was read again');
    if (difference.applied.length > 0) for (const listener of this.#listeners) listener();
    return difference;
  }

  #difference(next: Configuration): Reload {
    const changed = next.all.filter(({ name, value }) => value !== this.#holds(name));
    const names = (reload: boolean): string[] =>
      changed.filter(({ spec }) => (spec.reload === true) === reload).map(({ name }) => name);
    return { applied: names(true), waiting: names(false) };
  }

  #holds(name: SettingName): Value {
    return this.get(name).value;
  }
}
