/**
 * What a command is: its words, arguments, options and examples as plain values. Everything that needs the whole command
 * tree (parsing, help, completion, the reference page, the tests that run the examples) walks these values; the code of a
 * command is imported only when it runs, which keeps the start short.
 */
import type { Context } from './context.ts';

/** How the text of an option becomes a value; `size` gives bytes, `duration` milliseconds, `words` splits at commas. */
export type ValueKind = 'text' | 'size' | 'duration' | 'count' | 'labels' | 'texts' | 'words';

/** What the agent is asked for when the shell completes a word; a URL path of the API lists anything else by its names. */
export type NameKind =
  | 'volume'
  | 'snapshot'
  | 'source'
  | 'image'
  | 'vm'
  | 'operation'
  | 'file'
  | `/v1/${string}`;

export interface OptionSpec {
  /** As commander writes it: `--size <size>`, `-y, --yes`. */
  readonly flags: string;
  readonly text: string;
  readonly kind?: ValueKind;
  readonly required?: boolean;
  readonly choices?: readonly string[];
  readonly names?: NameKind;
}

export interface ArgumentSpec {
  /** `<path>`, or `[path]` when it may be left out. */
  readonly name: string;
  readonly text: string;
  readonly names?: NameKind;
  readonly choices?: readonly string[];
}

export type Run = (context: Context, given: Given) => Promise<void>;

/**
 * What a command does, which decides the options that it gets without naming them (generic.ts): `read` looks, `mutation`
 * changes something, `operation` changes something and takes its time, `local` has nothing to do with the objects of a host.
 */
export type CommandKind = 'read' | 'mutation' | 'operation' | 'local';

export interface CommandSpec {
  readonly name: string;
  readonly summary: string;
  /** When not given: `operation` with an option --no-wait, `read` by the usual words (list, show, ...), else `mutation`. */
  readonly kind?: CommandKind;
  /** More than the summary, one sentence or two. */
  readonly details?: string;
  readonly arguments?: readonly ArgumentSpec[];
  readonly options?: readonly OptionSpec[];
  /** Two to five; a test runs them as they stand. */
  readonly examples: readonly string[];
  readonly run: () => Promise<Run>;
  readonly hidden?: boolean;
  /** Options that are not known here are handed on as they are. */
  readonly passThrough?: boolean;
}

export interface NounSpec {
  readonly name: string;
  readonly summary: string;
  readonly commands: readonly CommandSpec[];
}

/** The arguments and options that a command got, with their types checked at the point of use. */
export class Given {
  readonly #arguments: ReadonlyMap<string, string>;
  readonly #rest: readonly string[];
  readonly #options: Readonly<Record<string, unknown>>;

  constructor(
    names: readonly string[],
    values: readonly unknown[],
    options: Record<string, unknown>,
  ) {
    const pairs = names.flatMap((name, at): [string, string][] => {
      const value = values[at];
      return typeof value === 'string' ? [[name, value]] : [];
    });
    this.#arguments = new Map(pairs);
    this.#rest = values.flatMap((value) => (Array.isArray(value) ? (value as string[]) : []));
    this.#options = options;
  }

  /** A required argument. */
  argument(name: string): string {
    const value = this.#arguments.get(name);
    if (value === undefined) throw new TypeError(`the command has no argument ${name}`);
    return value;
  }
  optionalArgument(name: string): string | undefined {
    return this.#arguments.get(name);
  }
  /** What a last argument with `...` took. */
  rest(): readonly string[] {
    return this.#rest;
  }
  /** All options, with others on top: for a command that is another one in other words. */
  options(more: Readonly<Record<string, unknown>>): Record<string, unknown> {
    return { ...this.#options, ...more };
  }
  flag(name: string): boolean {
    return this.#options[name] === true;
  }
  /** A switch with `--no-`: undefined when neither was given. */
  choice(name: string): boolean | undefined {
    const value = this.#options[name];
    return typeof value === 'boolean' ? value : undefined;
  }
  text(name: string): string | undefined {
    const value = this.#options[name];
    return typeof value === 'string' ? value : undefined;
  }
  number(name: string): number | undefined {
    const value = this.#options[name];
    return typeof value === 'number' ? value : undefined;
  }
  texts(name: string): readonly string[] {
    const value = this.#options[name];
    return Array.isArray(value) ? value.filter((item) => typeof item === 'string') : [];
  }
  labels(name: string): Readonly<Record<string, string>> | undefined {
    const value = this.#options[name];
    return typeof value === 'object' && value !== null && !Array.isArray(value)
      ? (value as Record<string, string>)
      : undefined;
  }
}
