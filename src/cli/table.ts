/** Tables without lines: columns two spaces apart, numbers to the right. Loaded only when a table is drawn. */
import { styleText } from 'node:util';
import CliTable from 'cli-table3';
import type { Column } from './column.ts';
import { printable } from './text.ts';

const noBorders = {
  top: '',
  'top-mid': '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-mid': '',
  'bottom-left': '',
  'bottom-right': '',
  left: '',
  'left-mid': '',
  mid: '',
  'mid-mid': '',
  right: '',
  'right-mid': '',
  middle: '  ',
};

/** Words that an eye should find; each stands for itself in the first part of a cell (`active,attached`). */
const tints: Readonly<Record<string, 'green' | 'red' | 'yellow'>> = {
  ...{ ok: 'green', running: 'green', succeeded: 'green', ready: 'green', active: 'green' },
  ...{ fail: 'red', failed: 'red', crashed: 'red', unreadable: 'red', error: 'red' },
  ...{ warn: 'yellow', warning: 'yellow', degraded: 'yellow', paused: 'yellow' },
  ...{ 'io-error': 'red', recovering: 'yellow', cancelled: 'yellow', held: 'red' },
};
const tinted = new Set(['state', 'phase', 'status', 'result', 'health', 'severity']);

/** `colored`: the terminal that the table goes to; undefined for plain text. */
export function drawTable<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  headers: boolean,
  colored?: NodeJS.WritableStream,
): string {
  const cell = (title: string, text: string): string => {
    const tint = tints[text.split(',')[0] ?? ''];
    if (colored === undefined || tint === undefined || !tinted.has(title)) return printable(text);
    return styleText(tint, printable(text), { stream: colored });
  };
  const head = (title: string): string =>
    colored === undefined
      ? title.toUpperCase()
      : styleText('bold', title.toUpperCase(), { stream: colored });
  const table = new CliTable({
    chars: noBorders,
    style: { 'padding-left': 0, 'padding-right': 0, head: [], border: [] },
    colAligns: columns.map(({ right }) => (right === true ? 'right' : 'left')),
    ...(headers ? { head: columns.map(({ title }) => head(title)) } : {}),
  });
  for (const row of rows) table.push(columns.map(({ title, value }) => cell(title, value(row))));
  const text = table.toString();
  if (text === '') return '';
  return `${text
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n')}\n`;
}
