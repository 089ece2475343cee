/** Texts for the terminal: errors, and words that came from elsewhere. */
import { styleText } from 'node:util';
import { DvceError } from '../base/errors.ts';

/** Names come from elsewhere: nothing that they hold may command the terminal. */
export const printable = (text: string, lines = false): string =>
  text.replace(/\p{Cc}/gu, (character) =>
    lines && /[\n\r]/.test(character)
      ? character
      : `\\x${(character.codePointAt(0) ?? 0).toString(16).padStart(2, '0')}`,
  );

/** Two lines: what failed, and what to do next. `stream`: the terminal that takes colour. */
export function describeError(error: DvceError, stream?: NodeJS.WritableStream): string {
  const advice = error.advice.trim();
  const word = stream === undefined ? 'error:' : styleText('red', 'error:', { stream });
  return `${word} ${printable(error.message, true)}${advice === '' ? '' : `\n  ${printable(advice, true)}`}`;
}

/** An error of the command line itself. */
export const usageError = (
  what: string,
  reason: string,
  advice: string,
  cause?: unknown,
): DvceError => new DvceError('INVALID_ARGUMENT', { what, reason, advice }, cause);
