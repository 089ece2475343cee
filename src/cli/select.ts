/**
 * What `--columns`, `--sort` and `--filter` mean, for every list the same. A key is the title of a column (spaces as dashes)
 * or a field of the API object (`createdAt`, `labels.team`, `open.mappedBytes`), in that order. Loaded only when used.
 */

import { nearest } from '../base/nearest.ts';
import { parseDuration, parseSize } from '../base/units.ts';
import type { Column } from './column.ts';
import { duration, forPrograms, orDash, size, time, yesNo } from './format.ts';
import { usageError } from './text.ts';

const slug = (text: string): string => text.toLowerCase().replaceAll(' ', '-');

/** A value of an API object as text, by the project's naming: `...Bytes`, `...Ms`, `...At`. */
function textOf(name: string, value: unknown): string {
  if (value === null || value === undefined) return orDash(null);
  if (typeof value === 'number' && name.endsWith('Bytes')) return size(value);
  if (typeof value === 'number' && name.endsWith('Ms')) return duration(value);
  if (typeof value === 'string' && name.endsWith('At')) return time(value);
  if (typeof value === 'boolean') return yesNo(value);
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

/** The value at `labels.team`; a key may hold dots itself, so the longest name is tried first. */
function at(value: unknown, key: string): unknown {
  if (typeof value !== 'object' || value === null) return undefined;
  const fields = value as Readonly<Record<string, unknown>>;
  if (Object.hasOwn(fields, key)) return fields[key];
  const dot = key.indexOf('.');
  return dot < 0 || !Object.hasOwn(fields, key.slice(0, dot))
    ? undefined
    : at(fields[key.slice(0, dot)], key.slice(dot + 1));
}

/** A field of the API object as a column. */
export function fieldColumn<Row>(key: string): Column<Row> {
  const last = key.slice(key.lastIndexOf('.') + 1);
  return {
    title: key,
    value: (row) => textOf(last, at(row, key)),
    right: /(Bytes|Ms)$/.test(last),
  };
}

const fieldsOf = (rows: readonly unknown[]): string[] => [
  ...new Set(
    rows.flatMap((row) => (typeof row === 'object' && row !== null ? Object.keys(row) : [])),
  ),
];

/** The column of a key. @throws INVALID_ARGUMENT with the nearest key */
function columnOf<Row>(
  option: string,
  key: string,
  columns: readonly Column<Row>[],
  rows: readonly Row[],
): Column<Row> {
  const titled = columns.find(({ title }) => slug(title) === slug(key));
  if (titled !== undefined) return titled;
  const fields = fieldsOf(rows);
  // An object without the label has no such field, and no rows have no fields: neither is an error of typing.
  if (rows.length === 0 || fields.includes(key.split('.')[0] ?? '')) return fieldColumn(key);
  const known = [...new Set([...columns.map(({ title }) => slug(title)), ...fields])];
  const meant = nearest(key, known);
  throw usageError(
    `${option} ${JSON.stringify(key)}`,
    'there is no such column or field',
    `${meant === undefined ? '' : `Did you mean ${meant}? `}Known here: ${known.join(', ')}.`,
  );
}

export function chooseColumns<Row>(
  keys: readonly string[],
  columns: readonly Column<Row>[],
  rows: readonly Row[],
): readonly Column<Row>[] {
  return keys.map((key) => columnOf('--columns', key, columns, rows));
}

/** Names that mean the same for `-o wide`: `sizeBytes` and the column `size`. */
const plainName = (name: string): string =>
  name
    .replace(/(Bytes|At|Ms)$/, '')
    .replaceAll(/[ -]/g, '')
    .toLowerCase();

/** `-o wide`: the columns, and behind them every plain field of the objects that no column shows. */
export function widen<Row>(
  columns: readonly Column<Row>[],
  rows: readonly Row[],
): readonly Column<Row>[] {
  const shown = new Set(columns.map(({ title }) => plainName(title)));
  const more = fieldsOf(rows).filter(
    (key) =>
      !shown.has(plainName(key)) &&
      rows.every((row) => at(row, key) === null || typeof at(row, key) !== 'object'),
  );
  return [...columns, ...more.map((key) => fieldColumn<Row>(key))];
}

/** Texts that are numbers compare as numbers. */
function compare(a: string, b: string): number {
  const [x, y] = [Number(a), Number(b)];
  if (a !== '' && b !== '' && !Number.isNaN(x) && !Number.isNaN(y)) return x - y;
  if (a === b) return 0;
  return a < b ? -1 : 1;
}

/** `size`, `-size` or `size:desc`; several keys with commas, the first one counts most. */
export function sortRows<Row>(
  keys: readonly string[],
  rows: readonly Row[],
  columns: readonly Column<Row>[],
): readonly Row[] {
  const orders = keys.map((text) => {
    const falling = text.startsWith('-') || text.endsWith(':desc');
    const key = text.replace(/^-/, '').replace(/:(asc|desc)$/, '');
    const { value } = columnOf('--sort', key, columns, rows);
    return { value: (row: Row) => forPrograms(() => value(row)), sign: falling ? -1 : 1 };
  });
  return rows.toSorted((a, b) => {
    for (const { value, sign } of orders) {
      const order = compare(value(a), value(b)) * sign;
      if (order !== 0) return order;
    }
    return 0;
  });
}

const comparisons: Readonly<Record<string, (order: number) => boolean>> = {
  '=': (order) => order === 0,
  '!=': (order) => order !== 0,
  '<': (order) => order < 0,
  '<=': (order) => order <= 0,
  '>': (order) => order > 0,
  '>=': (order) => order >= 0,
};

/** A filter's value may be `1GiB` or `30s` where the column holds bytes or milliseconds. */
function readings(text: string): readonly string[] {
  const found = [text];
  for (const parse of [parseSize, parseDuration]) {
    try {
      found.push(String(parse(text)));
    } catch {
      // Not a size, not a duration: a plain word.
    }
  }
  return found;
}

type Test = (text: string, shown: string) => boolean;

function testOf(filter: string, operator: string, wanted: string): Test {
  if (operator === '~' || operator === '!~') {
    const pattern = patternOf(filter, wanted);
    return (text, shown) => (pattern.test(text) || pattern.test(shown)) === (operator === '~');
  }
  const values = readings(wanted);
  const fits = comparisons[operator] ?? (() => false);
  if (operator === '=' || operator === '!=')
    return (text, shown) =>
      [...values.map((value) => compare(text, value)), compare(shown, wanted)].some(
        (order) => order === 0,
      ) ===
      (operator === '=');
  const last = values.at(-1) ?? wanted;
  // An object that has no such value is neither larger nor smaller.
  return (text) => text !== '' && fits(compare(text, last));
}

function patternOf(filter: string, text: string): RegExp {
  try {
    return new RegExp(text, 'u');
  } catch (error) {
    throw usageError(
      `--filter ${JSON.stringify(filter)}`,
      error instanceof Error ? error.message : String(error),
      'Behind ~ stands a regular expression.',
      error,
    );
  }
}

/** `KEY=VALUE`, `!=`, `<`, `<=`, `>`, `>=`, or `~` and `!~` with a regular expression; all filters must hold. */
export function filterRows<Row>(
  filters: readonly string[],
  rows: readonly Row[],
  columns: readonly Column<Row>[],
): readonly Row[] {
  const tests = filters.map((filter) => {
    const match = /^([\w./ -]+?)(!=|<=|>=|!~|=|<|>|~)(.*)$/su.exec(filter);
    if (match === null)
      throw usageError(
        `--filter ${JSON.stringify(filter)}`,
        'it is not KEY=VALUE',
        'For example state=active, size>=1GiB, labels.team=shop or name~^web.',
      );
    const [, key = '', operator = '', wanted = ''] = match;
    const { value } = columnOf('--filter', key, columns, rows);
    const test = testOf(filter, operator, wanted);
    return (row: Row) =>
      test(
        forPrograms(() => value(row)),
        value(row),
      );
  });
  return rows.filter((row) => tests.every((test) => test(row)));
}
