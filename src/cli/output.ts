/**
 * Standard output carries data, standard error everything else. Tables are for people (IEC units, local words), JSON is
 * the object of the API as it came, sizes in raw bytes.
 */
import { DvceError } from '../base/errors.ts';
import type { Column } from './column.ts';

export interface OutputOptions {
  readonly format: 'table' | 'json';
  readonly headers: boolean;
  readonly quiet: boolean;
}

export class Output {
  readonly options: OutputOptions;
  readonly #data: NodeJS.WritableStream;
  readonly #notes: NodeJS.WriteStream;

  constructor(data: NodeJS.WritableStream, notes: NodeJS.WriteStream, options: OutputOptions) {
    this.#data = data;
    this.#notes = notes;
    this.options = options;
  }

  get json(): boolean {
    return this.options.format === 'json';
  }
  /** Whether progress may be drawn over itself. */
  get live(): boolean {
    return this.#notes.isTTY === true && !this.options.quiet;
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
    this.line(JSON.stringify(value, null, 2));
  }

  /** A list: JSON array, table, or with `--quiet` the names alone. */
  async list<Row>(
    rows: readonly Row[],
    name: (row: Row) => string,
    columns: readonly Column<Row>[],
  ): Promise<void> {
    if (this.json) return this.object(rows);
    if (this.options.quiet) {
      for (const row of rows) this.line(name(row));
      return;
    }
    const { drawTable } = await import('./table.ts');
    this.raw(drawTable(rows, columns, this.options.headers));
  }

  /** One object: JSON, or its facts line by line. */
  show(value: unknown, facts: readonly (readonly [string, string])[]): void {
    if (this.json) {
      this.object(value);
      return;
    }
    const width = Math.max(...facts.map(([title]) => title.length));
    for (const [title, text] of facts) this.line(`${title.padEnd(width)}  ${text}`.trimEnd());
  }

  /** The outcome of a change: the object as JSON, or a sentence; with `--quiet` the name alone. */
  changed(value: unknown, name: string, sentence: string): void {
    if (this.json) this.object(value);
    else if (this.options.quiet) this.line(name);
    else this.line(sentence);
  }

  /** For people only; never data. */
  note(text: string): void {
    if (!this.options.quiet) this.#notes.write(`${text}\n`);
  }
  /** A line that the next one replaces; only where `live`. */
  progress(text: string): void {
    this.#notes.write(`\r\x1b[2K${text}`);
  }
  /** Shown whatever the options say. */
  error(text: string): void {
    this.#notes.write(`${text}\n`);
  }
}

/** Two lines: what failed, and what to do next. */
export function describeError(error: DvceError): string {
  const advice = error.advice.trim();
  return `error: ${error.message}${advice === '' ? '' : `\n  ${advice}`}`;
}

/** An error of the command line itself. */
export const usageError = (
  what: string,
  reason: string,
  advice: string,
  cause?: unknown,
): DvceError => new DvceError('INVALID_ARGUMENT', { what, reason, advice }, cause);
