/** Errors on the wire: `application/problem+json` (RFC 9457), made from the error table and turned back into it. */
import { DvceError, type ErrorContext, errorTable } from '../base/errors.ts';
import { maskSecrets } from '../base/redact.ts';
import type { Problem } from './types.ts';

export const problemType = 'application/problem+json';

/** The title of a code: `NO_SPACE` becomes `no space`. */
const titleOf = (code: string): string => code.toLowerCase().replaceAll('_', ' ');

export function toProblem(error: DvceError): Problem {
  return {
    type: `urn:dvce:error:${error.code}`,
    title: titleOf(error.code),
    status: error.httpStatus,
    detail: maskSecrets(error.message),
    code: error.code,
    advice: error.advice,
    retryable: error.retryable,
    context: Object.fromEntries(
      Object.entries(error.context).map(([name, value]) => [
        name,
        typeof value === 'string' ? maskSecrets(value) : value,
      ]),
    ),
  };
}

const isErrorCode = (code: string): code is keyof typeof errorTable =>
  Object.hasOwn(errorTable, code);

/**
 * An error of the table out of a problem. A code that this program does not know (a newer agent) becomes PROTOCOL and
 * keeps the text.
 */
export function fromProblem(problem: Problem): DvceError {
  if (isErrorCode(problem.code))
    return new DvceError(problem.code, problem.context as ErrorContext);
  return new DvceError('PROTOCOL', {
    peer: 'the agent',
    reason: `${problem.code}: ${problem.detail}`,
  });
}

export function isProblem(value: unknown): value is Problem {
  if (typeof value !== 'object' || value === null) return false;
  const { code, detail, context } = value as Partial<Record<string, unknown>>;
  return (
    typeof code === 'string' &&
    typeof detail === 'string' &&
    typeof context === 'object' &&
    context !== null
  );
}
