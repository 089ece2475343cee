/** Read and write the value of one setting. */
import { DvceError } from '../base/errors.ts';
import { formatDuration, formatSize, parseDuration, parseSize } from '../base/units.ts';
import type { SettingSpec } from './settings.ts';

export type SettingValue = string | number | boolean;

const charactersMax = 4096;

const wrong = (reason: string): DvceError =>
  new DvceError('INVALID_ARGUMENT', { what: 'the value', reason, advice: '' });

function textOf(value: unknown, example: string): string {
  if (typeof value !== 'string')
    throw wrong(`it is ${kindOf(value)}, not a text such as ${example}`);
  if (value === '') throw wrong('it is empty');
  if (value.length > charactersMax) throw wrong(`it has more than ${charactersMax} characters`);
  if (/\p{Cc}/u.test(value)) throw wrong('it has control characters');
  return value;
}

function kindOf(value: unknown): string {
  if (value === null) return 'empty';
  if (Array.isArray(value)) return 'a list';
  return typeof value === 'object' ? 'a group of keys' : `a ${typeof value}`;
}

function pathOf(value: unknown): string {
  const text = textOf(value, '/var/lib/dvce');
  if (!text.startsWith('/')) throw wrong('it is not an absolute path');
  if (text.split('/').includes('..')) throw wrong('".." is not allowed in it');
  return text;
}

function numberOf(value: unknown): number {
  const number = typeof value === 'string' && /^-?\d{1,15}$/.test(value) ? Number(value) : value;
  if (typeof number !== 'number' || !Number.isSafeInteger(number))
    throw wrong(`it is ${kindOf(value)}, not a whole number`);
  return number;
}

function switchOf(value: unknown): boolean {
  if (value === true || value === 'true' || value === 'yes' || value === '1') return true;
  if (value === false || value === 'false' || value === 'no' || value === '0') return false;
  throw wrong(`it is ${kindOf(value)}, not true or false`);
}

function addressOf(value: unknown): string {
  const text = textOf(value, '0.0.0.0:10809');
  const port = /^(?:\[[0-9a-fA-F:.]+\]|[^:[\]\s]+):(\d{1,5})$/.exec(text)?.[1];
  if (port === undefined || Number(port) > 65_535)
    throw wrong('it is not HOST:PORT, for example 0.0.0.0:10809 or [::]:10809');
  return text;
}

function unitOf(value: unknown, example: string, parse: (text: string) => number): number {
  const text = textOf(value, example);
  try {
    return parse(text);
  } catch (error) {
    throw error instanceof DvceError ? wrong(String(error.context['reason'])) : error;
  }
}

function bounded(
  value: number,
  { min, max }: SettingSpec,
  write: (value: number) => string,
): number {
  if (min !== undefined && value < min) throw wrong(`it is less than ${write(min)}`);
  if (max !== undefined && value > max) throw wrong(`it is more than ${write(max)}`);
  return value;
}

/** @throws INVALID_ARGUMENT whose `reason` says what would be right */
export function readValue(spec: SettingSpec, value: unknown): SettingValue {
  switch (spec.kind) {
    case 'path':
      return pathOf(value);
    case 'secret-file':
    case 'text':
      return textOf(value, spec.kind === 'text' ? 'name' : '/etc/dvce/secret');
    case 'size':
      return bounded(unitOf(value, '"64MiB"', parseSize), spec, formatSize);
    case 'duration':
      return bounded(unitOf(value, '"30s"', parseDuration), spec, formatDuration);
    case 'count':
      return bounded(numberOf(value), spec, String);
    case 'switch':
      return switchOf(value);
    case 'address':
      return addressOf(value);
    case 'choice': {
      const text = textOf(value, spec.choices?.[0] ?? 'word');
      if (spec.choices?.includes(text) !== true)
        throw wrong(`it is none of ${spec.choices?.join(', ')}`);
      return text;
    }
    default:
      throw new DvceError('INTERNAL', { reason: `unknown kind ${spec.kind satisfies never}` });
  }
}

/** As it would stand in the file. */
export function writeValue(spec: SettingSpec, value: SettingValue): string {
  if (spec.kind === 'size' && typeof value === 'number') return formatSize(value);
  if (spec.kind === 'duration' && typeof value === 'number') return formatDuration(value);
  return String(value);
}
