/**
 * Standard output carries data, standard error everything else. Every list, object and outcome of every command is written
 * here, so that the formats, `--columns`, `--sort` and `--filter` mean the same everywhere: tables are for people (IEC units,
 * local words), JSON and YAML are the objects of the API as they came, CSV has the columns with raw values.
 */
import type { Column } from './column.ts';
import { printable, usageError } from './text.ts';

export { describeError, usageError } from './text.ts';

export const formats = ['table', 'json', 'yaml', 'csv', 'name', 'wide'] as const;
export type Format = (typeof formats)[number];

export interface OutputOptions {
  readonly format: Format;
  readonly headers: boolean;
  readonly quiet: boolean;
  readonly verbose?: boolean;
  /** Colour where the stream is a terminal; NO_COLOR is honoured by itself. */
  readonly color?: boolean;
  readonly columns?: readonly string[];
  readonly sort?: readonly string[];
  readonly filter?: readonly string[];
  /** Writes YAML; loaded only with `-o yaml`. */
  readonly toYaml?: (value: unknown) => string;
}

/** The facts of one object: title and text. */
export type Facts = readonly (readonly [string, string])[];

export class Output {
  readonly options: OutputOptions;
  readonly #data: NodeJS.WritableStream;
  readonly #notes: NodeJS.WriteStream;

  constructor(data: NodeJS.WritableStream, notes: NodeJS.WriteStream, options: OutputOptions) {
    this.#data = data;
    this.#notes = notes;
    this.options = options;
  }

  /** The object itself is wanted, not a picture of it: JSON or YAML. */
  get json(): boolean {
    return this.options.format === 'json' || this.options.format === 'yaml';
  }
  /** Names alone are wanted. */
  get names(): boolean {
    return this.options.format === 'name' || (this.options.quiet && !this.json);
  }
  /** Whether progress may be drawn over itself. */
  get live(): boolean {
    return this.#notes.isTTY === true && !this.options.quiet;
  }
  /** Columns of the terminal that notes go to. */
  get width(): number {
    return this.#notes.columns ?? 80;
  }

  /** Text as it is. */
  raw(text: string): void {
    this.#data.write(text);
  }
  /** Bytes as they are. */
  bytes(bytes: Uint8Array): void {
    this.#data.write(bytes);
  }
  line(text: string): void {
    this.#data.write(`${text}\n`);
  }
  object(value: unknown): void {
    const { format, toYaml } = this.options;
    if (format === 'yaml' && toYaml !== undefined) this.raw(toYaml(value));
    else this.line(JSON.stringify(value, null, 2));
  }

  /** A list: JSON array, table, or with `--quiet` the names alone. */
  async list<Row>(
    all: readonly Row[],
    name: (row: Row) => string,
    columns: readonly Column<Row>[],
  ): Promise<void> {
    const rows = await this.#select(all, columns);
    if (this.json) return this.object(rows);
    if (this.names) {
      for (const row of rows) this.line(name(row));
      return;
    }
    const chosen = await this.#columns(rows, columns);
    await this.#table(rows, chosen);
  }

  /** One object: JSON, or its facts line by line. */
  show(value: unknown, facts: Facts): void {
    this.#refuse(['sort', 'filter'], 'what is shown is no list');
    if (this.json) {
      this.object(value);
      return;
    }
    const name = nameOf(value);
    if (this.options.format === 'name' && name !== undefined) {
      this.line(name);
      return;
    }
    const chosen = this.#facts(this.options.format === 'csv' ? scalars(value) : facts);
    if (this.options.format === 'csv') {
      this.#record(chosen);
      return;
    }
    const width = Math.max(...chosen.map(([title]) => title.length));
    for (const [title, text] of chosen)
      this.line(`${title.padEnd(width)}  ${printable(text)}`.trimEnd());
  }

  /** The outcome of a change: the object as JSON, or a sentence; with `--quiet` the name alone. */
  changed(value: unknown, name: string, sentence: string): void {
    if (this.json) this.object(value);
    else if (this.names) this.line(name);
    else if (this.options.format === 'csv') this.#record(scalars(value));
    else this.line(sentence);
  }

  /** For people only; never data. */
  note(text: string): void {
    if (!this.options.quiet) this.#notes.write(`${printable(text, true)}\n`);
  }
  /** With `--verbose` only. */
  detail(text: string): void {
    if (this.options.verbose === true) this.note(text);
  }
  /** A line that the next one replaces; only where `live`. */
  progress(text: string): void {
    this.#notes.write(`\r\x1b[2K${text}`);
  }
  /** Shown whatever the options say. */
  error(text: string): void {
    this.#notes.write(`${text}\n`);
  }

  /** The table of `rows` with these columns, as `-o` wants it. */
  async #table<Row>(rows: readonly Row[], columns: readonly Column<Row>[]): Promise<void> {
    const { headers, format } = this.options;
    if (format === 'csv') {
      const { writeCsv } = await import('./csv.ts');
      this.raw(writeCsv(rows, columns, headers));
      return;
    }
    const { drawTable } = await import('./table.ts');
    this.raw(drawTable(rows, columns, headers, this.#color(this.#data)));
  }

  #color(stream: NodeJS.WritableStream): NodeJS.WritableStream | undefined {
    const terminal = 'isTTY' in stream && stream.isTTY === true;
    return terminal && this.options.color !== false ? stream : undefined;
  }

  async #select<Row>(
    rows: readonly Row[],
    columns: readonly Column<Row>[],
  ): Promise<readonly Row[]> {
    const { filter = [], sort = [] } = this.options;
    if (filter.length === 0 && sort.length === 0) return rows;
    const { filterRows, sortRows } = await import('./select.ts');
    return sortRows(sort, filterRows(filter, rows, columns), columns);
  }

  async #columns<Row>(
    rows: readonly Row[],
    columns: readonly Column<Row>[],
  ): Promise<readonly Column<Row>[]> {
    const { columns: keys = [], format } = this.options;
    if (keys.length > 0) return (await import('./select.ts')).chooseColumns(keys, columns, rows);
    if (format === 'wide') return (await import('./select.ts')).widen(columns, rows);
    return columns.filter(({ wide }) => wide !== true);
  }

  #facts(facts: Facts): Facts {
    const keys = this.options.columns ?? [];
    if (keys.length === 0) return facts;
    const chosen = facts.filter(([title]) => keys.includes(title.replaceAll(' ', '-')));
    if (chosen.length > 0) return chosen;
    throw usageError(
      `--columns ${keys.join(',')}`,
      'there are no such lines',
      `Known here: ${facts.map(([title]) => title.replaceAll(' ', '-')).join(', ')}.`,
    );
  }

  /** One record of CSV with its header. */
  #record(facts: Facts): void {
    const quote = (text: string): string =>
      /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    const record = (texts: readonly string[]): string => `${texts.map(quote).join(',')}\r\n`;
    const header = this.options.headers ? record(facts.map(([title]) => title)) : '';
    this.raw(header + record(facts.map(([, text]) => (text === '-' ? '' : text))));
  }

  #refuse(names: readonly ('sort' | 'filter')[], reason: string): void {
    for (const name of names)
      if ((this.options[name] ?? []).length > 0)
        throw usageError(`--${name}`, reason, 'Leave it out.');
  }
}

function nameOf(value: unknown): string | undefined {
  const { path, volume, name, id } = Object(value) as Readonly<Record<string, unknown>>;
  if (typeof volume === 'string' && typeof name === 'string') return `${volume}@${name}`;
  return [path, name, id].find((text) => typeof text === 'string');
}

const scalars = (value: unknown): Facts =>
  Object.entries(Object(value) as Readonly<Record<string, unknown>>).flatMap(
    ([key, one]): [string, string][] =>
      typeof one === 'object' && one !== null ? [] : [[key, one === null ? '' : String(one)]],
  );
