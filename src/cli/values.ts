/** How the texts of the command line become values. */
import { DvceError } from '../base/errors.ts';
import { parseDuration, parseSize } from '../base/units.ts';
import { usageError } from './output.ts';
import type { ValueKind } from './spec.ts';

function parseCount(text: string): number {
  if (!/^\d{1,9}$/.test(text))
    throw usageError(
      `the number ${JSON.stringify(text)}`,
      'it is no whole number',
      'For example 10.',
    );
  return Number(text);
}

function parseLabel(text: string, previous: unknown): Record<string, string> {
  const at = text.indexOf('=');
  if (at <= 0)
    throw usageError(
      `the label ${JSON.stringify(text)}`,
      'it is not KEY=VALUE',
      'For example --label team=shop.',
    );
  const labels = typeof previous === 'object' && previous !== null ? previous : {};
  return { ...labels, [text.slice(0, at)]: text.slice(at + 1) };
}

/** The parser of an option, as commander calls it: the text and the value so far. */
export function parserOf(kind: ValueKind): (text: string, previous: unknown) => unknown {
  switch (kind) {
    case 'text':
      return (text) => text;
    case 'size':
      return (text) => parseSize(text);
    case 'duration':
      return (text) => parseDuration(text);
    case 'count':
      return (text) => parseCount(text);
    case 'labels':
      return parseLabel;
    case 'words':
      return (text) =>
        text
          .split(',')
          .map((word) => word.trim())
          .filter((word) => word !== '');
    case 'texts':
      return (text, previous) => [...(Array.isArray(previous) ? previous : []), text];
    default:
      throw new DvceError('INTERNAL', { reason: `unknown kind of value ${kind satisfies never}` });
  }
}
