/** How facts are written for people, and the same facts for programs. */
import { formatDuration, formatSize } from '../base/units.ts';

let plain = false;

/** What `task` writes is for a program: sizes in bytes, durations in milliseconds, times as they came, nothing for "none". */
export function forPrograms<T>(task: () => T): T {
  const before = plain;
  plain = true;
  try {
    return task();
  } finally {
    plain = before;
  }
}

const nothing = (): string => (plain ? '' : '-');

export const size = (bytes: number | null): string => {
  if (bytes === null) return nothing();
  return plain ? `${bytes}` : formatSize(bytes);
};
export const duration = (ms: number | null): string => {
  if (ms === null) return nothing();
  return plain ? `${ms}` : formatDuration(ms);
};
export const yesNo = (value: boolean): string => {
  if (plain) return `${value}`;
  return value ? 'yes' : 'no';
};
export const orDash = (text: string | number | null | undefined): string =>
  text === null || text === undefined || text === '' ? nothing() : String(text);
/** Time to the second, in UTC as it came. */
export const time = (text: string | null): string => {
  if (text === null) return nothing();
  return plain ? text : text.replace('T', ' ').replace(/\.\d+Z?$|Z$/, '');
};
export const labels = (all: Readonly<Record<string, string>>): string =>
  orDash(
    Object.entries(all)
      .map(([key, value]) => `${key}=${value}`)
      .join(','),
  );
