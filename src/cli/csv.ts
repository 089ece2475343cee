/** Comma-separated values by RFC 4180: CRLF, quotes where they are needed, doubled inside. Loaded only when used. */
import type { Column } from './column.ts';
import { forPrograms } from './format.ts';

function field(text: string): string {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const record = (fields: readonly string[]): string => `${fields.map(field).join(',')}\r\n`;

/** A dash is how people are told that there is nothing. */
const bare = (text: string): string => (text === '-' ? '' : text);

export function writeCsv<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  headers: boolean,
): string {
  const lines = rows.map((row) =>
    record(columns.map(({ value }) => bare(forPrograms(() => value(row))))),
  );
  return [...(headers ? [record(columns.map(({ title }) => title))] : []), ...lines].join('');
}
