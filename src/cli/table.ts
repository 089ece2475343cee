/** Tables without lines: columns two spaces apart, numbers to the right. Loaded only when a table is drawn. */
import CliTable from 'cli-table3';
import type { Column } from './column.ts';

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

export function drawTable<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  headers: boolean,
): string {
  const table = new CliTable({
    chars: noBorders,
    style: { 'padding-left': 0, 'padding-right': 0, head: [], border: [] },
    colAligns: columns.map(({ right }) => (right === true ? 'right' : 'left')),
    ...(headers ? { head: columns.map(({ title }) => title.toUpperCase()) } : {}),
  });
  for (const row of rows) table.push(columns.map(({ value }) => value(row)));
  const text = table.toString();
  if (text === '') return '';
  return `${text
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n')}\n`;
}
